"""Prompt transfer: the probe of one prompt on the activations of another, as they are and mean-shifted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from graticule.hooks.artifact import json_ready, library_versions
from graticule.hooks.calls import came, renamed
from graticule.hooks.doors import FINDINGS, door
from graticule.hooks.messages import UnknownNameError, bar
from graticule.hooks.points import layer_text, name_of
from graticule.hooks.result import captured_as
from graticule.hooks.rows import PointKey
from graticule.hooks.same_model import check_one_model
from graticule.hooks.saved import SavedResult
from graticule.probes.core.findings import Findings
from graticule.probes.core.resample import cluster_sums, interval, resampled_r2
from graticule.probes.plots.primitives import heat_trace, new_figure
from graticule.probes.plots.style import INK, SURFACE, short_labels, style
from graticule.probes.scores.metrics import mean, mean_r2, spearman

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_CAPTION_RAW = "Test R² of each prompt's probe on each prompt's activations, as they are"
_CAPTION_SHIFTED = "The same after a shift of the mean"
_CAPTION_CELLS = "Every probe on every prompt's activations, test rows"


@dataclass(frozen=True)
class Transfer(SavedResult):
    """The result of `transfer`."""

    KIND: ClassVar[str] = "transfer"

    model: str
    table: str
    target_names: tuple[str, ...]
    """One name per target."""
    point: str
    """The hook point, one for all prompts."""
    prompts: tuple[str, ...]
    """In the order of rows and columns."""
    cells: pd.DataFrame
    """One row per pair: `probe` and `activations` (prompt names), `r2`, `low`, `high`, `spearman` with the
    activations as they are; `shifted_r2`, `shifted_low`, `shifted_high`, `shifted_spearman` after the shift.
    Test rows, means over targets; 95% intervals from one bootstrap over clusters."""
    provenance: Mapping[str, Any]
    """Model, table, point, settings and versions."""

    @property
    def title(self) -> str:
        """Model, table and point."""
        return f"{self.model} on {self.table}: probes across {len(self.prompts)} prompts"

    def matrix(self, score: str = "r2") -> pd.DataFrame:
        """A column of `cells` as probe × activations."""
        square = self.cells.pivot_table(index="probe", columns="activations", values=score, sort=False)
        return square.loc[list(self.prompts), list(self.prompts)]

    def average(self, score: str = "r2") -> tuple[float, float]:
        """Mean of `score` over probes on their own prompt and over those on others."""
        own = self.cells["probe"] == self.cells["activations"]
        return float(self.cells.loc[own, score].mean()), float(self.cells.loc[~own, score].mean())

    def summary(self) -> str:
        """Own prompt against others, raw, shifted, and as the paper averages them."""
        own, raw = self.average("r2")
        _, shifted = self.average("shifted_r2")
        rho, rho_raw = self.average("spearman")
        _, rho_shifted = self.average("shifted_spearman")
        worst = self.cells.iloc[int(self.cells["r2"].to_numpy().argmin())]
        return "\n".join(
            [
                f"probes keep R² {raw:z.3f} of {own:z.3f} under other prompts, {shifted:z.3f} with the mean "
                "shifted",
                f"at {layer_text(self.point)}, {len(self.prompts)} prompts, test rows; means over probes",
                f"raw and shifted averaged, as the paper has it: R² {own:z.3f} → {(raw + shifted) / 2:z.3f}, "
                f"Spearman {rho:z.3f} → {(rho_raw + rho_shifted) / 2:z.3f}",
                f"worst: the probe of {worst['probe']} on {worst['activations']}, R² {worst['r2']:z.3f}, "
                f"shifted {worst['shifted_r2']:z.3f}",
            ]
        )

    def figures(self) -> dict[str, Figure]:
        """Heat-maps, raw and shifted."""
        return {
            _CAPTION_RAW: transfer_figure(self.matrix("r2")),
            _CAPTION_SHIFTED: transfer_figure(self.matrix("shifted_r2")),
        }

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every pair."""
        names = {"r2": "R²", "shifted_r2": "R², shifted", "shifted_low": "shifted, low"}
        names |= {"shifted_high": "shifted, high", "shifted_spearman": "spearman, shifted"}
        return {_CAPTION_CELLS: self.cells.rename(columns=names)}


@renamed(point="hook_name", draws="n_bootstrap")
@door()
def transfer(
    findings_by_prompt: Mapping[str, Findings],
    *,
    hook_name: PointKey | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
    progress: bool | None = None,
) -> Transfer:
    """Apply the probe of every prompt to the activations of every prompt.

    Gurnee & Tegmark, section 3.3 and appendix: raw, and on `a − (ā − b̄)`, activations of prompt a moved by
    the difference of the two prompts' means over *training* rows, for the probe of prompt b. What the raw
    scores lose and the shifted ones keep is an offset of the prompt, not another direction.

    Args:
        findings_by_prompt: findings of the same rows (`prompts(…).findings`), with their inputs.
        hook_name: one hook point for all; by default the one with the best mean validation score over the
            prompts, which training rows alone decide.
        n_bootstrap: How often the clusters are resampled for the intervals.
        seed: The seed of the resamples.
        progress: whether a bar is drawn; by default where it takes long.

    Returns:
        Every probe's scores on every prompt's activations.

    Raises:
        ValueError: Fewer than two prompts, findings of other rows or targets, or loaded without activations.
        KeyError: A prompt was not probed at `hook_name`.
    """
    if not isinstance(findings_by_prompt, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(
            f"transfer: findings_by_prompt is {came(findings_by_prompt)}; expected a mapping of prompts to "
            "findings: prompts(model, table).findings"
        )
    for name, one in findings_by_prompt.items():
        if not FINDINGS.fits(one):
            raise TypeError(
                f"transfer: prompt {name!r} is {came(one)}; expected findings: {FINDINGS.write(one)}"
            )
    if len(findings_by_prompt) < 2:
        saved = (
            ""
            if findings_by_prompt
            else (
                ": findings are not saved with Prompts; the prompts(model, table, out=FOLDER) that made them "
                "takes them up again from FOLDER/PROMPT"
            )
        )
        raise ValueError(
            f"transfer needs findings of two prompts or more, got {len(findings_by_prompt)}{saved}"
        )
    names = tuple(findings_by_prompt)
    first = findings_by_prompt[names[0]]
    _check_alike(findings_by_prompt)
    hook_name = name_of(hook_name) if hook_name is not None else _best_point(findings_by_prompt)
    for name, findings in findings_by_prompt.items():
        if hook_name not in findings.probes:
            raise UnknownNameError(
                f"{hook_name!r} was not probed under prompt {name!r}: {', '.join(findings.probes)}"
            )
    problem = first.inputs.problem
    means = {
        name: findings.inputs.rows(hook_name, problem.train).mean(axis=0)
        for name, findings in findings_by_prompt.items()
    }
    predictions: dict[_Cell, np.ndarray] = {}
    with bar(len(names), "transfer", "prompt", progress) as advance:
        for a, findings in findings_by_prompt.items():
            rows = findings.inputs.rows(hook_name, problem.test)
            for b in names:
                probe = findings_by_prompt[b].probes[hook_name]
                raw = probe.predict(rows)
                predictions["raw", b, a] = raw
                predictions["shifted", b, a] = raw - (means[a] - means[b]) @ probe.coef
            advance.update()
    cells = _cells(
        names, predictions, problem.y[problem.test], problem.clusters[problem.test], n_bootstrap, seed
    )
    return Transfer(
        model=first.model,
        table=first.table,
        target_names=first.target_names,
        point=hook_name,
        prompts=names,
        cells=cells,
        provenance=json_ready(
            {
                "model": first.inputs.activations.provenance.get("model", {}),
                "table": first.provenance.get("table", {}),
                "captured": {
                    n: captured_as(f.provenance).get("captured") for n, f in findings_by_prompt.items()
                },
                "point": hook_name,
                "draws": n_bootstrap,
                "seed": seed,
                "versions": library_versions(),
            }
        ),
    )


_Cell = tuple[str, str, str]
"""`raw` or `shifted`, the prompt of the probe, the prompt of the activations."""


def _cells(
    names: tuple[str, ...],
    predictions: Mapping[_Cell, np.ndarray],
    y: np.ndarray,
    clusters: np.ndarray,
    n_bootstrap: int,
    seed: int,
) -> pd.DataFrame:
    sums = cluster_sums(y, {f"{how} {b}\0{a}": pred for (how, b, a), pred in predictions.items()}, clusters)
    samples = dict(zip(predictions, resampled_r2(sums, n_bootstrap, seed).T, strict=True))
    rows: list[dict[str, Any]] = []
    for b, a in product(names, names):
        row: dict[str, Any] = {"probe": b, "activations": a}
        for how, prefix in (("raw", ""), ("shifted", "shifted_")):
            cell = (how, b, a)
            low, high = interval(samples[cell])
            row |= {
                f"{prefix}r2": mean_r2(y, predictions[cell]),
                f"{prefix}low": low,
                f"{prefix}high": high,
                f"{prefix}spearman": mean(spearman(y, predictions[cell])),
            }
        rows.append(row)
    return pd.DataFrame(rows)


def _best_point(findings_by_prompt: Mapping[str, Findings]) -> str:
    scores = pd.DataFrame(
        {
            name: {s["point"]: s["validation"] for s in findings.layer_scores}
            for name, findings in findings_by_prompt.items()
        }
    ).dropna()
    if scores.empty:
        raise ValueError("the prompts have no hook point in common: probe them at the same points")
    return str(scores.mean(axis=1).idxmax())


def _check_alike(findings_by_prompt: Mapping[str, Findings]) -> None:
    """Raise `ValueError` unless all findings are of the same model, rows, split and targets."""
    first_name, first_findings = next(iter(findings_by_prompt.items()))
    first, first_provenance = first_findings.inputs.problem, first_findings.inputs.activations.provenance
    for name, findings in findings_by_prompt.items():
        provenance = findings.inputs.activations.provenance
        check_one_model(
            "transfer", (f"prompt {first_name!r} is", first_provenance), (repr(name), provenance),
            "give findings of one model",
        )  # fmt: skip
    for name, findings in findings_by_prompt.items():
        problem = findings.inputs.problem
        if problem.names != first.names:
            raise ValueError(f"prompt {name!r} has targets {problem.names}, {first_name!r} {first.names}")
        for part in ("source", "is_test", "y"):
            if not np.array_equal(getattr(problem, part), getattr(first, part)):
                raise ValueError(
                    f"prompts {first_name!r} and {name!r} were probed on other rows ({part} differs): "
                    "make them with one call of prompts(model, table)"
                )


# The figure ------------------------------------------------------------------------------------------
def transfer_figure(scores: pd.DataFrame) -> Figure:
    """Heat-map of scores, a row per probe and a column per prompt of the activations; numbers in the cells.

    Scores below 0 share the colour of 0.
    """
    values = scores.to_numpy(np.float64)
    most = max(float(np.nanmax(values)), 0.05)
    fig = new_figure(
        heat_trace(
            values, short_labels(scores.columns), short_labels(scores.index), [[0, "#f4f6f8"], [1, SURFACE]],
            (0, most), "probe of %{y}<br>activations of %{x}<br>R² %{z:.3f}<extra></extra>", bar="R²",
            colorbar_outlinewidth=0,
        )
    )  # fmt: skip
    cells = [
        {
            "x": j,
            "y": i,
            "text": f"{value:z.3f}",
            "showarrow": False,
            "font": {"size": 12, "color": "white" if value > 0.55 * most else INK},
        }
        for (i, j), value in np.ndenumerate(values)
    ]
    cell: dict[str, Any] = {"showgrid": False, "ticks": ""}
    return style(
        fig, height=130 + 52 * len(scores), note="On the diagonal each probe reads its own prompt.",
        annotations=cells, x={"title_text": "activations of", "side": "bottom", **cell},
        y={"title_text": "probe of", "autorange": "reversed", **cell},
    )  # fmt: skip
