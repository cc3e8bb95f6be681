"""What the instruments said of worlds whose truth is known, and whether that is good enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from graticule.certificate.requirements import HIDDEN, Mark
from graticule.hooks.saved import SavedResult

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

SCOPE = (
    "It does not transfer to a language model by itself: calibrate(findings) on your own activations says "
    "what these instruments can see there."
)
USES = "uses"
"""The name of the part in which `causes` is asked what is used."""
_AXES = {
    "dimension": ("dimensions over concepts", True),
    "noise": ("noise over signal (standard deviations)", False),
    "masks": ("masks drawn for training, those alike merged", True),
}
_WORDS = {
    "dimension": "Dimensions (below 1: superposition)",
    "noise": "Noise added to the activations of the widest learner",
    "masks": "Incomplete contexts",
}


@dataclass(frozen=True)
class Part(SavedResult):
    """One condition's readings: what a certificate is resumed from."""

    KIND: ClassVar[str] = "certificate_part"

    name: str
    """Learner, condition and level."""
    concepts: pd.DataFrame
    """As in `Certificate`."""
    parities: pd.DataFrame
    """As in `Certificate`."""
    components: pd.DataFrame
    """As in `Certificate`."""
    verdicts: pd.DataFrame
    """As in `Certificate`."""
    nothing: pd.DataFrame
    """As in `Certificate`; empty where no random labels were tried."""
    provenance: Mapping[str, Any]
    """`fingerprint` of world and plan."""
    uses: pd.DataFrame = field(default_factory=pd.DataFrame)
    """As in `Certificate`; of the part of that name alone."""

    @property
    def title(self) -> str:
        """The condition."""
        return f"graticule: certificate, {self.name}"

    def summary(self) -> str:
        """Scores and directions at the last point, means over concepts; or what was called used."""
        if len(self.uses):
            rates = [f"{u['arm']} {u['used']} of {u['trials']}" for u in self.uses.to_dict("records")]
            return f"{self.name}: called used by causes: {', '.join(rates)}"
        at = self.concepts[self.concepts["point"] == self.concepts["point"].iloc[-1]].mean(numeric_only=True)
        odd = self.parities[self.parities["point"] == self.parities["point"].iloc[-1]]
        return (
            f"{self.name}: R² ridge {at['ridge_r2']:z.3f} (best linear {at['best_r2']:z.3f}, untrained "
            f"{at['untrained_r2']:z.3f}), logistic {at['logistic_r2']:z.3f}, MLP {at['mlp_r2']:z.3f}, PCA "
            f"{at['pca_r2']:z.3f}; cosines write {at['write_cosine']:z.3f}, read "
            f"{at['read_agreement']:z.3f}; "
            f"parity ridge {odd['ridge'].mean():z.2f}, MLP {odd['mlp'].mean():z.2f}"
        )

    def figures(self) -> dict[str, Figure]:
        """None: the certificate draws them."""
        return {}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every point and concept."""
        return {"Points and concepts": self.concepts}


@dataclass(frozen=True)
class Certificate(SavedResult):
    """The result of `graticule.certify`."""

    KIND: ClassVar[str] = "certificate"

    marks: tuple[Mark, ...]
    """Every requirement: required, found, passed or not."""
    world: str
    """The world in words."""
    covers: str
    """Learners and conditions in words."""
    concepts: pd.DataFrame
    """One row per learner, condition, level, point and concept: R² of the posterior on test contexts by
    `ridge`, `logistic`, `mlp` and `pca` probes (all components), by the ridge on the `untrained` learner, and
    by the `best` linear reader over all contexts; cosines of the ridge's directions, `write_cosine` with the
    mean steering vector, `write_best` of the best regression with it, `read_cosine` with the best reader's
    coefficients and `read_agreement` the same on the activations' own covariance."""
    parities: pd.DataFrame
    """R² of the parity of `pair`: `ridge`, `mlp`, and `best_linear` over all contexts."""
    components: pd.DataFrame
    """Mean R² of a ridge on the first `k` principal components, `probe`, and of the best reader of as many
    components of all contexts, `truth`."""
    verdicts: pd.DataFrame
    """Verdicts against the untrained learner, one row per condition and block: at the point that the sweep
    chose (`chosen`), and at the end of every other block by itself."""
    nothing: pd.DataFrame
    """One row per learner and instrument: random `labellings` of the contexts, how many were called
    `structure`, the `rate` with its interval `low` … `high`, how many had an interval `above_0`."""
    provenance: Mapping[str, Any]
    """Plan, seeds and versions."""
    uses: pd.DataFrame = field(default_factory=pd.DataFrame)
    """One row per `arm` of planted worlds, a decoy and what is used and hardly readable: `trials`, how many
    `causes` called `used`, the `rate` with its interval `low` … `high`, the rate of `or_correlated`, and
    `readable`, the mean correlation of reading and truth. Empty where it was not asked."""

    @property
    def passed(self) -> bool:
        """Whether every requirement is met."""
        return all(mark.passed for mark in self.marks)

    @property
    def title(self) -> str:
        """Certificate."""
        return "graticule: certificate"

    def summary(self) -> str:
        """Pass or fail, each requirement with its figure and bound, what is covered and what is not."""
        failed = [mark for mark in self.marks if not mark.passed]
        names = ", ".join(dict.fromkeys(mark.instrument for mark in failed))
        first = (
            f"PASS: {len(self.marks)} of {len(self.marks)} requirements met"
            if not failed
            else f"FAIL: {len(failed)} of {len(self.marks)} requirements not met ({names})"
        )
        return "\n".join(
            (
                first,
                *(mark.line() for mark in self.marks),
                f"covers: {self.world}; {self.covers}",
                "bounds hold where there are as many dimensions as concepts, all contexts and no noise; the "
                "other conditions are reported",
                SCOPE,
            )
        )

    def figures(self) -> dict[str, Figure]:
        """Points and concepts, dimensions, noise, masks, false positives, parity."""
        from graticule.certificate.figures import (
            directions_figure,
            levels_figure,
            nothing_figure,
            parity_figure,
            points_figure,
        )

        out: dict[str, Figure] = {}
        for learner, (_, widest) in zip(self._learners, self._widest(), strict=True):
            caption = f"R² of each concept's posterior on contexts not trained on: {learner} learner, widest"
            out[caption] = points_figure(widest)
        for learner, condition, last in self._conditions():
            axis, log = _AXES[condition]
            out[f"{_WORDS[condition]}: directions against the truth, {learner} learner"] = directions_figure(
                last, axis, log
            )
            out[f"{_WORDS[condition]}: what is read, {learner} learner"] = levels_figure(last, axis, log)
        out["Random labels of contexts called structure; dashed: the bound"] = nothing_figure(self.nothing)
        enough = (self.parities["condition"] == "dimension") & (self.parities["level"] >= 1)
        parities = self.parities[enough & self.parities["point"].str.contains("resid_p")]
        caption = f"Parity of two concepts; where the best linear R² is at most {HIDDEN:g}, only the MLP may"
        out[f"{caption} find it"] = parity_figure(parities)
        return out

    def tables(self) -> dict[str, pd.DataFrame]:
        """The marks, one table per condition, components, verdicts, random labels."""
        marks = pd.DataFrame(
            {
                "": ["pass" if m.passed else "FAIL" for m in self.marks],
                "instrument": [m.instrument for m in self.marks],
                "learner": [m.learner for m in self.marks],
                "what": [m.what for m in self.marks],
                "found": [round(m.value, 4) for m in self.marks],
                "required": [f"{'≥' if m.at_least else '≤'} {m.bound:g}" for m in self.marks],
                "where": [m.where for m in self.marks],
            }
        )
        out = {"Requirements, with the worst that was found (of the MLP on parities: the best point)": marks}
        for learner, condition, last in self._conditions():
            means = last.groupby("level").mean(numeric_only=True).drop(columns=["concept"]).reset_index()
            odd = self._odd(learner, condition, str(last["point"].iloc[0]))
            means = means.merge(odd, on="level", how="left")
            caption = f"{_WORDS[condition]}: {learner} learner, last point, means over concepts"
            out[caption] = means.round(4).rename(columns=lambda c: str(c).replace("_", " "))
        caption = "Verdicts against the untrained learner: at the chosen point, and at the other blocks' ends"
        out[caption] = _plain(self.verdicts)
        out["Random labels of contexts"] = _plain(self.nothing)
        if len(self.uses):
            out["Called used by causes, in planted worlds"] = _plain(self.uses)
        out["Principal components: mean R² of the probe and of the best reader of as many"] = _plain(
            self.components
        )
        out["Every point and concept"] = _plain(self.concepts)
        return out

    @property
    def _learners(self) -> list[str]:
        return [str(name) for name in self.concepts["learner"].drop_duplicates()]

    def _widest(self) -> list[tuple[float, pd.DataFrame]]:
        out: list[tuple[float, pd.DataFrame]] = []
        for learner in self._learners:
            rows = self.concepts[self.concepts["learner"] == learner]
            rows = rows[rows["condition"] == "dimension"]
            level = float(rows["level"].max())
            out.append((level, rows[rows["level"] == level]))
        return out

    def _odd(self, learner: str, condition: str, point: str) -> pd.DataFrame:
        """Parities at a point by level, means over pairs."""
        rows = self.parities[self.parities["learner"] == learner]
        rows = rows[(rows["condition"] == condition) & (rows["point"] == point)]
        means = rows.groupby("level")[["ridge", "mlp", "best_linear"]].mean()
        return means.add_prefix("parity_").reset_index()

    def _conditions(self) -> list[tuple[str, str, pd.DataFrame]]:
        """Learner, condition and the lines of its last point; noise starts from the learner without any."""
        out: list[tuple[str, str, pd.DataFrame]] = []
        for learner, (_, widest) in zip(self._learners, self._widest(), strict=True):
            rows = self.concepts[self.concepts["learner"] == learner]
            for condition in rows["condition"].drop_duplicates():
                part = rows[rows["condition"] == condition]
                if condition == "noise":
                    part = pd.concat([widest.assign(level=0.0), part])
                last = part["point"].iloc[-1]
                out.append((learner, str(condition), part[part["point"] == last]))
        return out


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    return table.round(4).rename(columns=lambda c: str(c).replace("_", " "))
