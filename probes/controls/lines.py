"""A line of the controls table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import pandas as pd

from graticule.probes.controls.scoring import Sampled

Group = Literal[
    "reference", "control", "train fit", "dimensions", "within blocks", "oracle", "subset", "check"
]
"""What a line is: the probe and its surface; a control on test rows; a fit to training rows; the probe on a
part of the activations; scores inside blocks; what a known block gives; part of the rows; a null check."""

NAN = float("nan")


@dataclass(frozen=True)
class Line:
    """What one control reaches, and the probe beside it on the same rows."""

    group: Group
    """Kind of line."""
    control: str
    """Its name."""
    asks: str
    """What it holds fixed, or the question it puts."""
    metric: str = "R²"
    """`R²`, `gain` (R² of the surface, of surface and probe, and their difference) or `r`."""
    score: float = NAN
    """What the control reaches; the mean over seeds. NaN where the control does not apply."""
    low: float = NAN
    """Lower end of its 95% interval, over clusters of rows."""
    high: float = NAN
    """Upper end."""
    probe: float = NAN
    """The probe on the same rows by the same metric."""
    difference: float = NAN
    """`probe` − `score`."""
    difference_low: float = NAN
    """Lower end of its paired 95% interval."""
    difference_high: float = NAN
    """Upper end."""
    rows: int = 0
    """Rows scored."""
    seeds: int = 1
    """Random draws that the score is the mean of."""
    seed_low: float = NAN
    """The lowest score of a seed."""
    seed_high: float = NAN
    """The highest."""
    note: str = ""
    """Coverage, strengths, or why the control does not apply."""


def line(
    group: Group,
    control: str,
    asks: str,
    score: Sampled,
    probe: Sampled | None,
    rows: int,
    *,
    metric: str = "R²",
    by_seed: Sequence[float] = (),
    note: str = "",
) -> Line:
    """A line with its intervals; `by_seed` are the scores whose mean `score` is."""
    low, high = score.ci95
    beside = NAN, NAN, (NAN, NAN)
    if probe is not None:
        difference = probe - score
        beside = probe.value, difference.value, difference.ci95
    return Line(
        group=group,
        control=control,
        asks=asks,
        metric=metric,
        score=score.value,
        low=low,
        high=high,
        probe=beside[0],
        difference=beside[1],
        difference_low=beside[2][0],
        difference_high=beside[2][1],
        rows=rows,
        seeds=max(1, len(by_seed)),
        seed_low=min(by_seed, default=NAN),
        seed_high=max(by_seed, default=NAN),
        note=note,
    )


def not_applicable(group: Group, control: str, asks: str, why: str) -> Line:
    """A line that says why there is none."""
    return Line(group, control, asks, note=f"not applicable: {why}")


def as_frame(lines: Sequence[Line]) -> pd.DataFrame:
    """The lines as a DataFrame with a column a field."""
    return pd.DataFrame([asdict(one) for one in lines]).astype({"rows": np.int64, "seeds": np.int64})
