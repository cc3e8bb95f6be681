"""Pass or fail: what is required of every instrument, and what was found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from graticule.probes.core.verdict import STRUCTURE

DIRECTION = 0.98
"""Least cosine of a direction with its truth, mean over concepts, at every point of the stream."""
CLOSE = 0.08
"""Largest distance of a probe's R² from that of the best linear reader, mean over concepts."""
LESS = 0.05
"""By how much the mean R² of a probe may fall behind the ridge's."""
DECOY, HARDLY = "decoy", "used, hardly readable"
"""What `causes` is asked of in planted worlds."""
PLANTED = "planted"
"""What stands for a learner where worlds are planted."""
FALSE = 0.05
"""Rate of random labellings called structure that is let pass: its interval must not lie above."""
RIGHT = 0.95
"""Rate of *used* that is required of directions that are used: its interval must not lie below."""
HIDDEN = 0.2
"""Best linear R² up to which a parity counts as not linear."""
FOUND = 0.5
"""Least R² of the MLP on such parities, mean over pairs."""


@dataclass(frozen=True)
class Mark:
    """One requirement and whether it is met."""

    instrument: str
    """`ridge`, `logistic`, `MLP`, `PCA` or `causes`."""
    learner: str
    """`lookup`, `sequence` or, of `causes`, `planted`."""
    what: str
    """What is required."""
    value: float
    """What was found: the worst of several points, but for the MLP on parities, which need to be present
    at one point only; NaN where nothing could be judged."""
    bound: float
    """What is asked for."""
    at_least: bool
    """Whether the value must be at least the bound, or at most."""
    where: str = ""
    """Where it was found."""

    @property
    def passed(self) -> bool:
        """NaN does not pass."""
        return bool(self.value >= self.bound) if self.at_least else bool(self.value <= self.bound)

    def line(self) -> str:
        """For a terminal."""
        sign = "≥" if self.at_least else "≤"
        where = f" ({self.where})" if self.where else ""
        return (
            f"{'pass' if self.passed else 'FAIL'}  {self.instrument}, {self.learner} learner: {self.what} "
            f"{self.value:z.3f}{where}, required {sign} {self.bound:g}"
        )


def marks_of(
    concepts: pd.DataFrame,
    parities: pd.DataFrame,
    verdicts: pd.DataFrame,
    nothing: pd.DataFrame,
    uses: pd.DataFrame | None = None,
) -> tuple[Mark, ...]:
    """All requirements. Directions and scores are required of learners with at least as many dimensions as
    concepts, trained on all contexts, without noise: the others are reported."""
    out: list[Mark] = []
    for learner in concepts["learner"].drop_duplicates():
        scores = _required_of(concepts, learner)
        out += _ridge(learner, scores, _required_of(verdicts, learner))
        out += _others(learner, scores)
        out += _odd(learner, _required_of(parities, learner))
        for line in nothing[nothing["learner"] == learner].to_dict("records"):
            count = f"{line['structure']} of {line['labellings']}"
            words = f"random labels called structure ({count}), lower end of the rate's 95% interval"
            out.append(Mark(str(line["instrument"]), learner, words, float(line["low"]), FALSE, False))
    return (*out, *(_use(line) for line in ([] if uses is None else uses.to_dict("records"))))


def _use(line: Mapping[Any, Any]) -> Mark:
    """Decoys must not be called used, and what is used must."""
    count = f"{line['used']} of {line['trials']}"
    if line["arm"] == DECOY:
        words = f"decoys called used ({count}), lower end of the rate's 95% interval"
        return Mark("causes", PLANTED, words, float(line["low"]), FALSE, False)
    words = f"what is {line['arm']} called used ({count}), upper end of the rate's 95% interval"
    return Mark("causes", PLANTED, words, float(line["high"]), RIGHT, True)


def _required_of(table: pd.DataFrame, learner: str) -> pd.DataFrame:
    enough = (table["condition"] == "dimension") & (table["level"] >= 1)
    return table[(table["learner"] == learner) & enough]


def _ridge(learner: str, concepts: pd.DataFrame, verdicts: pd.DataFrame) -> Iterable[Mark]:
    stream = concepts[concepts["point"].str.contains("resid_post")]
    by_point = _means(stream)
    write, at_write = _extreme(by_point["write_cosine"], worst="low")
    read, at_read = _extreme(by_point["read_agreement"], worst="low")
    far, at_far = _extreme((by_point["ridge_r2"] - by_point["best_r2"]).abs(), worst="high")
    yield Mark("ridge", learner, "R² away from the best linear reader's by", far, CLOSE, False, at_far)
    share = float((verdicts["words"] == STRUCTURE).mean()) if len(verdicts) else np.nan
    yield Mark("ridge", learner, "verdict 'structure' beyond the untrained learner, share", share, 1.0, True)
    yield Mark(
        "ridge", learner, "write direction against the truth, cosine", write, DIRECTION, True, at_write
    )
    words = "read direction against the best reader, cosine on the activations' covariance"
    yield Mark("ridge", learner, words, read, DIRECTION, True, at_read)


def _others(learner: str, concepts: pd.DataFrame) -> Iterable[Mark]:
    end = concepts[concepts["point"] == concepts["point"].iloc[-1]]
    by_point = _means(
        end[end[["logistic_r2", "mlp_r2", "pca_r2"]].notna().any(axis=1)]
    )  # where they were fitted
    for name, column in (("logistic", "logistic_r2"), ("MLP", "mlp_r2")):
        behind, where = _extreme(by_point["ridge_r2"] - by_point[column], worst="high")
        yield Mark(name, learner, "R² of the posterior behind the ridge's by", behind, LESS, False, where)
    far, where = _extreme((by_point["pca_r2"] - by_point["best_r2"]).abs(), worst="high")
    yield Mark("PCA", learner, "R² away from the best linear reader's by", far, CLOSE, False, where)


def _odd(learner: str, parities: pd.DataFrame) -> Iterable[Mark]:
    """Of points where no linear reader finds the parities: ridge must not, the MLP must at the best one."""
    by_point = _means(parities, ["ridge", "mlp", "best_linear"])
    hidden = by_point[~(by_point["best_linear"] > HIDDEN)]
    ridge, at_ridge = _extreme(hidden["ridge"], worst="high")
    network, at_network = _extreme(hidden["mlp"], worst="high")  # the best point, for what is present at all
    words = "parity of two concepts, where no linear reader has it: R²"
    yield Mark("ridge", learner, words, ridge, HIDDEN + LESS, False, at_ridge)
    yield Mark("MLP", learner, f"{words} at the best point", network, FOUND, True, at_network)


_NUMBERS = ("ridge_r2", "best_r2", "write_cosine", "read_agreement", "logistic_r2", "mlp_r2", "pca_r2")


def _means(table: pd.DataFrame, numbers: Sequence[str] = _NUMBERS) -> pd.DataFrame:
    """Means over concepts at every width and point; NaN where one of them is undefined."""
    return table.groupby(["level", "point"], sort=False)[list(numbers)].mean(skipna=False)


def _extreme(values: pd.Series[float], worst: str) -> tuple[float, str]:
    """The lowest or highest value and where it is, NaN before any number; NaN for nothing."""
    numbers = values.to_numpy(np.float64)
    if not len(numbers):
        return float("nan"), ""
    place = int(numbers.argmin() if worst == "low" else numbers.argmax())  # both take a NaN for the extreme
    level, point = values.index[place]
    return float(numbers[place]), f"d/m={level:g}, {short_point(str(point))}"


def short_point(point: str) -> str:
    """`blocks.1.hook_resid_post` as `1 resid_post`."""
    return point.replace("blocks.", "").replace(".hook_", " ")
