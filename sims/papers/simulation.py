"""What simulations give: mean cosines with standard errors, losses and floors, curves, heat-maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from graticule.hooks.saved import SavedResult
from graticule.sims.papers.tables import JIANG, Check
from graticule.sims.truth.steering import VIEWS

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

TITLES = {
    "1": "Table 1: complete contexts and concept sets, SGD",
    "2": "Table 2: complete contexts and concept sets, Adam",
    "3": "Table 3: incomplete contexts",
    "4": "Table 4: incomplete contexts and concept sets",
    "figure2": "Figure 2: unembeddings of three concepts",
    "figure5": "Figure 5: loss and cosines during training",
    "figure6": "Figure 6: smaller dimensions",
    "orthogonality": "Figure 7a: cosines across concepts",
    "scales": "Dimension × initial scale × optimiser",
}
"""Reproduction → what it shows."""
BY = {"sgd": "SGD", "adam": "Adam", "population": "the exact gradient"}
"""Optimiser → what it is called."""
WITHIN = 0.02
"""Difference from the paper's number up to which ours is called the same."""

_UNFINISHED = 0.1  # nats above the floor, where tables as wide as the concepts could come down to it


def unfinished(settings: pd.DataFrame) -> pd.DataFrame:
    """Those of `Simulation.settings` that ended far above a floor that they could have come to."""
    could = (settings["dim"] >= settings["concepts"]) & (settings["weight_decay"] == 0)
    return settings[could & (settings["gap"] > _UNFINISHED)]


@dataclass(frozen=True)
class Simulation(SavedResult):
    """The result of `graticule.sims.papers.simulate` and `reproduce`."""

    KIND: ClassVar[str] = "sim"

    name: str
    """Which of the paper's tables or figures, one of `TITLES`; empty for a simulation of one's own."""
    settings: pd.DataFrame
    """One row per setting: `setting` and what it fixes, `runs`; `unembedding`, `embedding`, `mixed` (mean
    cosine within a concept) with `_se` over runs, `_self` with self-pairs counted, `_across` (mean over pairs
    of concepts) and `_across_abs` (of their size), `_causal` and `_whitened` under the learner's own products
    (`products_of`); `loss`, `floor`, `gap` and `gap_se` in nats; `behind`, how many runs stayed far above the
    others' loss; the gauge-free `log_odds`, `positive`, `first`, `effective`, `rank`; with nulls `shuffled`,
    `random`."""
    concepts: pd.DataFrame
    """One row per setting, run and concept: see `graticule.sims.truth.steering.concept_lines`."""
    curves: pd.DataFrame
    """One row per setting and point: `step`, `loss`, `floor`, `gap`, the three cosines, each with `_se`."""
    heat: pd.DataFrame
    """One row per setting, `view` and pair of concepts `i`, `j`: `mean` cosine and `se` over runs; the view
    `log_odds` holds nats."""
    edges: pd.DataFrame
    """`setting`, `parent`, `child`: the graph of each setting's first run."""
    points: pd.DataFrame
    """Figure 2's scatter: `setting`, `token`, `c1` …, `x`, `y`, `z`; else empty."""
    paper: pd.DataFrame
    """One row per number of the paper: `setting`, `what`, `ours`, `ours_se`, `paper`, `paper_se`,
    `difference`."""
    provenance: Mapping[str, Any]
    """Seed, runs, settings, versions."""

    @property
    def title(self) -> str:
        """What was simulated, and by which optimiser if not the stated one."""
        stated = "adam" if self.name == "2" else "sgd"
        used = set(self.settings["optimizer"])
        if self.name and (self.name == "scales" or used <= {stated}):
            return TITLES[self.name]
        if self.name:
            return f"{TITLES[self.name]}; here {', '.join(BY[str(o)] for o in sorted(used))}"
        return f"Lookup tables of latent concepts: {', '.join(self.settings['setting'].head(3))}"

    def summary(self) -> str:
        """How ours compares with the paper's, or how parallel the vectors are; then one line per setting."""
        lines, first = [self._verdict()], self.settings.head(20)
        width = max((len(str(s)) for s in first["setting"]), default=0)
        for _, line in first.iterrows():
            means = "  ".join(_plus_minus(line, view) for view in VIEWS)
            runs = f"{int(line['runs'])} runs"
            if line["behind"]:
                runs += f", {int(line['behind'])} far above the others' loss"
            lines.append(f"{line['setting']:<{width}}  {means}  {line['gap']:z.4f} nats  {runs}")
        for line in [] if self.name else unfinished(self.settings).to_dict("records"):
            lines.append(
                f"warning: {line['setting']} ended {line['gap']:z.2f} nats above its floor: its geometry is "
                "that of an unfinished training"
            )
        if self.name == "1" and self.settings["concepts"].between(4, 7).any():
            lines.append(table_1_band(self.settings).verdict)
        if len(self.settings) > len(first):
            lines.append(f"… and {len(self.settings) - len(first)} settings more")
        lines.append(
            "mean cosines within a concept ± standard errors over runs: unembedding, embedding, unembedding "
            f"with embedding; loss above its floor{self._exact()}"
        )
        return "\n".join(lines)

    def _verdict(self) -> str:
        if len(self.paper):
            compared = self.paper.dropna(subset=["difference"])
            near = int((compared["difference"].abs() <= WITHIN).sum())
            if not len(compared):
                return "none of the paper's numbers could be set beside ours: train for longer"
            worst = compared.iloc[int(compared["difference"].abs().to_numpy().argmax())]
            return (
                f"{near} of {len(compared)} numbers within {WITHIN} of the paper's; the farthest is "
                f"{worst['what']} at {worst['setting']}: {worst['ours']:z.3f}, paper {worst['paper']:z.3f}"
            )
        if self.name == "scales":
            return self._scales_verdict()
        low, high = self.settings["unembedding"].min(), self.settings["unembedding"].max()
        if pd.isna(low):
            return (
                "no concept has two steering vectors to compare: take more concepts, more of the concept "
                "set, or an initial scale above 0"
            )
        across = self.settings["unembedding_across_abs"].max()
        span = f"{low:z.3f}" if len(self.settings) == 1 else f"{low:z.3f} to {high:z.3f}"
        return (
            f"unembedding steering vectors of one concept have a mean cosine of {span}; of two concepts, a "
            f"mean |cosine| of {'' if len(self.settings) == 1 else 'at most '}{across:z.3f} in a run"
        )

    def _exact(self) -> str:
        """How many updates on the exact gradient were asked for, in those of SGD, which `steps` count."""
        rows = self.settings[self.settings["optimizer"] == "population"]
        if not len(rows):
            return ""
        sgd = (rows["steps"] * rows["lr"] / 0.1).round().astype(int)
        spans = [_span(values) for values in (rows["steps"], rows["lr"], sgd)]
        return (
            f"; {spans[0]} updates on the exact gradient, at learning rate {spans[1]}: as much learning rate "
            f"× updates as {spans[2]} of SGD at 0.1"
        )

    def _scales_verdict(self) -> str:
        """The unembedding cosine at d = m and at the most spare dimensions, by initial scale."""

        def ends(view: str) -> str:
            parts: list[str] = []
            for scale, part in self.settings.groupby("scale", sort=True):
                equal = part.loc[(part["ratio"] - 1).abs() < 1e-9, view].mean()
                most = part.loc[part["ratio"] == part["ratio"].max(), view].mean()
                parts.append(f"{equal:z.3f} to {most:z.3f} at initial scale × {scale:g}")
            return ", ".join(parts[::-1])

        return (
            f"from d = m to d = {self.settings['ratio'].max():g} m the unembedding cosine goes from "
            f"{ends('unembedding')}\nunder the product of the embeddings' covariance, which leaves out "
            f"what no context moves, from {ends('unembedding_whitened')}"
        )

    def figures(self) -> dict[str, Figure]:
        """The paper's numbers beside ours, the map, curves, heat-maps, the scatter, graphs."""
        from graticule.sims.papers import figures
        from graticule.sims.papers.curves import cosine_curve_figure, loss_curve_figure

        settings = self.settings
        out: dict[str, Figure] = {}
        if len(self.paper) and self.name not in ("orthogonality", "figure2", "figure5"):
            out["Mean cosine within a concept, ours beside the paper's"] = figures.paper_figure(self.paper)
        if len(self.points):
            title = "Unembeddings after training on some contexts and on all"
            out[title] = figures.tokens_figure(self.points)
        if self.name == "scales":
            title = "Unembedding cosine by dimension, initial scale and optimiser"
            out[title] = figures.scales_figure(settings)
            title = "The same under the product of the embeddings' covariance: without what no context moves"
            return {**out, title: figures.scales_figure(settings, "unembedding_whitened")}
        out["Loss during training"] = loss_curve_figure(self.curves)
        out["Cosines during training"] = cosine_curve_figure(self.curves, self._points_of_paper())
        for setting in settings["setting"].head(6):
            heat = self.heat[self.heat["setting"] == setting]
            title = f"Mean cosine of two concepts' steering vectors: {setting}"
            out[title] = figures.concept_cosines_figure(heat)
        first = settings["setting"].iloc[0]
        edges = self.edges.loc[self.edges["setting"] == first, ["parent", "child"]].to_numpy().astype(int)
        graph = figures.graph_figure(int(settings["concepts"].iloc[0]), edges)
        return {**out, f"Graph of the first run: {first}": graph}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Ours beside the paper's; settings; concepts."""
        out: dict[str, pd.DataFrame] = {}
        if len(self.paper):
            out["Ours beside the paper's"] = _readable(self.paper)
        means = [f"{v}{end}" for v in VIEWS for end in ("", "_se")]
        columns = ["setting", "runs", *means, "loss", "floor", "gap", "behind"]
        out["Mean cosines and losses"] = _readable(self.settings[columns])
        rest = [c for c in self.settings.columns if c.endswith(("_self", "_across", "_across_abs"))]
        rest += [c for c in ("shuffled", "random") if c in self.settings]
        gauge = ["log_odds", "positive", "first", "effective", "rank"]
        out["With self-pairs, across concepts, by chance"] = _readable(self.settings[["setting", *rest]])
        under = [f"{view}_{name}" for name in ("causal", "whitened") for view in VIEWS[:2]]
        own = ["setting", *(f"{name}{end}" for name in under for end in ("", "_se"))]
        out["Cosines under the learner's own causal and whitened products"] = _readable(self.settings[own])
        out["What no change of basis alters"] = _readable(self.settings[["setting", *gauge]])
        return out

    def _points_of_paper(self) -> pd.DataFrame:
        if self.name != "figure5":
            return pd.DataFrame({"step": [], "what": [], "paper": []})
        return self.paper.assign(step=self.paper["setting"].str.extract(r"(\d+)$")[0].astype(int))


def table_1_band(settings: pd.DataFrame, least: float = 0.95) -> Check:
    """Whether steering vectors of one concept are parallel in every view, from four concepts on.

    `settings` is `Simulation.settings` of Table 1's protocol: complete contexts and concept sets, d = m.

    Raises:
        ValueError: If no line has from four to seven concepts.
    """
    lines = settings[settings["concepts"].between(4, 7)]
    if not len(lines):
        raise ValueError("no line of four to seven concepts: the band is about these")
    means = {
        f"{view}, m = {line['concepts']}": float(line[view])
        for line in lines.to_dict("records")
        for view in VIEWS
    }
    return Check(
        name="Table 1's band",
        statement="mean cosines within a concept in all three views are high from four concepts to seven",
        source=f"{JIANG}, Table 1",
        quantity="least mean cosine",
        measured=float(np.min(list(means.values()))),
        tolerance=least,
        relation="≥",
        details=means,
    )


def _span(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{low:,g}" if low == high else f"{low:,g} to {high:,g}"


def _plus_minus(line: pd.Series, view: str) -> str:
    mean, se = float(line[view]), float(line[f"{view}_se"])
    if mean != mean:
        return "no pairs     "
    return f"{mean:z.3f} ± {se:z.3f}" if se == se else f"{mean:z.3f}        "


def _readable(table: pd.DataFrame) -> pd.DataFrame:
    return table.round(4).rename(columns=lambda c: str(c).replace("_", " "))
