"""`LatentFindings`: what latents hold of a target, beside the dense probe and what the SAE loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from graticule.hooks.calls import old_name, renamed
from graticule.hooks.messages import UnknownNameError
from graticule.hooks.result import Part, headed
from graticule.hooks.saved import SavedResult
from graticule.probes.core.inputs import Predicted
from graticule.probes.core.verdict import STRUCTURE, score_unit
from graticule.probes.scores.metrics import count_of, number_text, signed, with_interval
from graticule.probes.scores.significance import benjamini_hochberg

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

DENSE, LATENTS, ALL = "dense probe", "latents", "all latents"
RECONSTRUCTION, ERROR = "reconstruction", "error term"
COORDINATES, RANDOM, UNTRAINED = "coordinates", "random latents", "untrained latents"
NOT_OF_THE_SAE = "in the activations, but in an untrained SAE of this size as well"
"""Of latents that add to the surface, though no more than as many of an SAE that knows nothing would."""
_TOP = {
    "target": "target",
    "latent": "latent",
    "train_r2": "train R²",
    "test_r2": "test R²",
    "test_spearman": "test Spearman",
    "test_auroc": "test AUROC",
    "frequency": "active on",
    "p_bh_test": "p (BH)",
    "cos_read": "cosine, read",
    "p_bh_read": "p (BH), read",
    "cos_write": "cosine, write",
    "p_bh_write": "p (BH), write",
}
_SAES = {
    "sae": "SAE",
    "point": "hook point",
    "architecture": "architecture",
    "d_sae": "latents",
    "l0": "active a row (L0)",
    "alive": "latents ever active",
    "explained_variance": "variance explained (test rows)",
}
_PREDICTORS = {
    "sae": "SAE",
    "arm": "predictor",
    "k": "k",
    "validation": "validation R²",
    "score": "test R²",
    "gain": "gain",
    "low": "from",
    "high": "to",
    "words": "verdict",
    "p": "p, untrained SAEs",
}


@dataclass(frozen=True)
class LatentFindings(SavedResult):
    """The result of `graticule.latents`."""

    KIND: ClassVar[str] = "latents"

    model: str
    """The model's name."""
    table: str
    """The table's name."""
    kind: str
    """`numeric`, `binary` or `categorical`."""
    target_names: tuple[str, ...]
    """One name per target."""
    units: tuple[str | None, ...]
    """One unit per target."""
    ks: tuple[int, ...]
    """How many latents were tried."""
    chosen_sae: str
    """The SAE whose largest k has the best out-of-fold R² (of classes, of 0 and 1) on training rows."""
    saes: pd.DataFrame
    """One row per SAE: `sae`, `point`, `layer`, `architecture`, `d_sae`, `l0`, `alive` (share of latents
    active on any row), `explained_variance` (on test rows)."""
    predictors: pd.DataFrame = field(metadata={"saved_as": "arms"})
    """One row per SAE and predictor: `sae`, `arm` (the predictor), `k` (at most: see `selected`),
    `validation`, `score`, `gain`, `low`, `high`, `words`, and of latents `p` (one-sided: as good as untrained
    SAEs). Of random latents and untrained SAEs these are the mean over draws, `low` and `high` the range."""
    top: pd.DataFrame
    """The latents that go with each target best on training rows, scored on test rows: see `top_latents`."""
    selected: pd.DataFrame
    """One row per SAE and step of the forward selection on all training rows: `sae`, `order`, `latent`."""
    cosines: pd.DataFrame
    """Decoder cosines of every latent to both directions of every target: see `decoder_cosines`."""
    levels: pd.DataFrame
    """`sae`, `target`, `direction`, `level`: the |cos| that the largest of as many random decoders stays
    below with probability .95."""
    scatter: pd.DataFrame
    """Test rows of each target's best latent: `sae`, `target`, `latent`, `source`, `activation`, `value`."""
    predictions: Float[np.ndarray, "predictor test target"]
    """Test predictions of every row of `predictors` (the first draw of random latents), in target units."""
    y: Float[np.ndarray, "test target"]
    """Targets of the test rows."""
    source: Int[np.ndarray, " test"]
    """The table row of each test row."""
    clusters: Int[np.ndarray, " test"]
    """Dependent rows share one."""
    provenance: Mapping[str, Any]
    """Model, table, SAEs, settings and versions."""

    @property
    def title(self) -> str:
        """Model, table and SAEs."""
        names = self.saes["sae"]
        saes = names.iloc[0] if len(names) == 1 else f"{len(names)} SAEs"
        return f"Latents of {saes} on {self.model}, {self.table}"

    @property
    def unit(self) -> str:
        """What scores and gains are in, that of the findings' verdict: `R²`, or `bits`."""
        return score_unit(self.provenance.get("judged_in", "r2"))

    def predictor(self, name: str, k: int | None = None, sae: str | None = None) -> Mapping[str, Any]:
        """One row of `predictors`; of the chosen SAE unless another is named.

        Raises:
            KeyError: There is no such predictor; those there are are named.
        """
        return dict(self.predictors.iloc[self._row(name, k, sae)])

    @property
    def arms(self) -> pd.DataFrame:
        """The old name of `predictors`."""
        old_name("LatentFindings.arms", "predictors")
        return self.predictors

    def arm(self, arm: str, k: int | None = None, sae: str | None = None) -> Mapping[str, Any]:
        """The old name of `predictor`."""
        old_name("LatentFindings.arm", "predictor")
        return self.predictor(arm, k, sae)

    @renamed(arm="name")
    def at(self, name: str, k: int | None = None, sae: str | None = None) -> Predicted:
        """The test predictions of one predictor, for `compare`.

        Raises:
            KeyError: As `predictor` does.
        """
        row = self._row(name, k, sae)
        return Predicted(
            name=f"{'' if k is None else f'{k} '}{name}, {sae or self.chosen_sae}",
            target_names=self.target_names,
            units=self.units,
            source=self.source,
            clusters=self.clusters,
            y=self.y,
            predictions=self.predictions[row],
        )

    def _row(self, name: str, k: int | None, sae: str | None) -> int:
        sae, table = sae or self.chosen_sae, self.predictors
        wanted = (table["sae"] == sae) & (table["arm"] == name)
        rows = np.flatnonzero(wanted & (table["k"].isna() if k is None else table["k"] == k))
        if not len(rows):
            pairs = table[["arm", "k"]].drop_duplicates().itertuples(index=False)
            names = [f"{a}{'' if pd.isna(n) else f' (k={int(n)})'}" for a, n in pairs]
            raise UnknownNameError(f"no arm {name!r} with k={k} of SAE {sae!r}; there are {names}")
        return int(rows[0])

    def _of_chosen(self, table: pd.DataFrame, target: str | None = None) -> pd.DataFrame:
        """The rows of a table that are about the chosen SAE, and about a target if one is named."""
        rows = table[table["sae"] == self.chosen_sae]
        return rows if target is None else rows[rows["target"] == target]

    def summary(self) -> str:
        """What the most latents give against the dense probe, then what the SAE keeps and loses."""
        largest = self._headline()
        few, dense = self.predictor(LATENTS, largest), self.predictor(DENSE)
        sae = self._of_chosen(self.saes).iloc[0]
        there = min(largest, len(self._of_chosen(self.selected)))
        fewer = f" ({largest} were asked for, and no other adds anything)" if there < largest else ""
        among = f"; chosen among {len(self.saes)} SAEs on training rows" if len(self.saes) > 1 else ""
        rest = [(name, self.predictor(name)) for name in (ALL, RECONSTRUCTION, ERROR)]
        why = count_of(len(self.y), "test row")
        lines = [
            f"{few['words']}: {_count(there)} of {self.chosen_sae}{fewer} {_gain(few, why, self.unit)}; "
            f"the dense probe {_gain(dense, why, self.unit)}",
            f"at {sae['point']}: {int(sae['d_sae']):,} latents, {sae['l0']:.1f} active a row, "
            f"{sae['explained_variance']:z.3f} of the variance reconstructed{among}",
            "; ".join(f"{name} {_gain(row, why, self.unit)}, {row['words']}" for name, row in rest),
        ]
        present = set(self.predictors["arm"])
        for k in self.ks:
            chosen, other, random = (self.predictor(a, k) for a in (LATENTS, COORDINATES, RANDOM))
            beside = f"as many coordinates {number_text(other['score'])}, random latents "
            beside += number_text(random["score"]) + (self._untrained(k) if UNTRAINED in present else "")
            lines.append(
                f"{_count(k)}: {self.unit} {number_text(chosen['score'])}, gain "
                f"{signed(chosen['gain'], why)}, {chosen['words']} ({beside})"
            )
        lines += self._counted()
        best = [line for target in self.target_names for line in self._best(target)]
        return "\n".join(
            lines + (best if len(best) <= 6 else [*best[:5], f"… and {len(best) - 5} targets more"])
        )

    def _headline(self) -> int:
        """The most latents that are structure of the SAE's own; the most there are where none is."""
        rows = self._of_chosen(self.predictors)
        own = rows[(rows["arm"] == LATENTS) & (rows["words"] == STRUCTURE)]["k"]
        return int(own.max()) if len(own) else max(self.ks)

    def _untrained(self, k: int) -> str:
        """What as many latents of untrained SAEs give."""
        row, chosen = self.predictor(UNTRAINED, k), self.predictor(LATENTS, k)
        return f", of untrained SAEs {number_text(row['score'])}, p {chosen['p']:.2g}"

    def _counted(self) -> list[str]:
        """How many comparisons with untrained SAEs there are, and how many stand with all of them counted."""
        rows = self.predictors[self.predictors["arm"] == LATENTS]
        p = rows["p"].dropna().to_numpy(np.float64) if "p" in rows else np.zeros(0)
        if len(p) < 2:
            return []
        stands = int((benjamini_hochberg(p) <= 0.05).sum())
        return [
            f"{stands} of {len(p)} comparisons with untrained SAEs stand with all of them counted "
            "(Benjamini-Hochberg, .05)"
        ]

    def _best(self, target: str) -> list[str]:
        """The latent that goes with a target best, if one was listed."""
        top = self._of_chosen(self.top, target)
        if top.empty:
            return []
        best, level = top.iloc[0], self._of_chosen(self.levels, target).set_index("direction")["level"]
        return [
            f"{target}: latent {int(best['latent'])}, test Spearman {best['test_spearman']:+z.3f}; "
            f"decoder cosine {best['cos_read']:+z.2f} to read (the largest of random decoders "
            f"{level['read']:z.2f}), {best['cos_write']:+z.2f} to write ({level['write']:z.2f})"
        ]

    def figures(self) -> dict[str, Figure]:
        """Gains, scores by k, the best latent against the target, decoder cosines against chance."""
        from graticule.probes.plots.latents import arms_figure, cosine_figure, count_figure, latent_figure

        out = {
            "What each predictor adds to the surface on test rows": arms_figure(self.predictors, self.unit),
            f"Test {self.unit} by the number of latents": count_figure(
                self._of_chosen(self.predictors), self.unit
            ),
        }
        for target, unit in list(zip(self.target_names, self.units, strict=True))[:4]:
            if len(rows := self._of_chosen(self.scatter, target)):
                caption = f"The latent that goes with {target} best on training rows, on test rows"
                out[caption] = latent_figure(rows, target, unit)
        for target in self.target_names[:2]:
            if len(rows := self._of_chosen(self.cosines, target)):
                caption = f"Decoder cosines with the directions of {target}, and where chance ends"
                out[caption] = cosine_figure(rows, self._of_chosen(self.levels, target))
        return out

    def tables(self) -> dict[str, pd.DataFrame]:
        """The predictors, the top latents of the chosen SAE, and the SAEs."""
        predictors = self.predictors.assign(k=self.predictors["k"].astype("Int64"))
        top = self._of_chosen(self.top)
        several = predictors["sae"].nunique() > 1
        headings = {k: v for k, v in _PREDICTORS.items() if k in predictors and (several or k != "sae")}
        in_unit = {"score": f"test {self.unit}"} if self.unit != "R²" else {}
        top_headings = {k: v for k, v in _TOP.items() if k in top}
        return {
            "Every predictor against the same surface": headed(predictors, headings | in_unit),
            "Latents chosen on training rows, scored on test rows": headed(top, top_headings),
            "The SAEs": headed(self.saes, _SAES),
        }

    def layout(self, figures: Sequence[str], tables: Sequence[str]) -> list[Part]:
        """Gain and its table first, then single latents."""
        return self.figure_then_table(figures, tables)


def _count(k: int) -> str:
    return "1 latent" if k == 1 else f"{k} latents"


def _gain(line: Mapping[str, Any], why: str, unit: str) -> str:
    gain = with_interval(line["gain"], (line["low"], line["high"]), why)
    return f"gain {gain} ({unit} {number_text(line['score'])})"
