"""What would have been seen, and what it would take to see more: words that agree with the verdict."""

from __future__ import annotations

import numpy as np
import pandas as pd

from graticule.probes.core.labels import AT_MEAN, BETTER_BY_LITTLE, NO_BETTER, NOT_DECIDED, STRUCTURE
from graticule.probes.core.power import SEEN
from graticule.probes.core.undecided import too_few
from graticule.probes.core.verdict import Verdict
from graticule.probes.scores.metrics import count_of, signed

_HERE = "with these rows, at this layer"
_PLAIN_GAIN = 0.05  # of the target's variance: what most would call something


def limit_words(limit: float, tried: float | None, at_most: bool = False, *, unit: str = "") -> str:
    """What would have been seen 80% of the time, as the end of a sentence.

    Args:
        limit: the gain, NaN where no hidden part was seen so often.
        tried: the largest hidden part tried, as a share of the target's variance; None if it is not known.
        at_most: the limit is an upper bound.
        unit: of the limit, after its figure.

    Returns:
        Words that hold whatever the limit is: a gain of 0 or less is none that can be seen.
    """
    if limit != limit:
        upto = "" if tried is None else f" (up to {tried:g} of the target's variance)"
        return f"no hidden part of those tried{upto} would have been seen 80% of the time"
    if limit <= 0:
        return (
            "no smallest gain can be given: hidden parts that were seen 80% of the time have a mean gain "
            "that is not above 0"
        )
    return f"{limit:z.3f}{unit}{' or less' if at_most else ''} would have been seen 80% of the time"


def detection(verdict: Verdict, limit: float | None, tried: float | None, few: str) -> list[str]:
    """The smallest detectable gain, once `calibrate` has measured it, and what an undecided gain would take.

    Args:
        verdict: under which the lines stand.
        limit: the smallest detectable gain, in the verdict's unit; NaN where none tried was, None where none
            was tried.
        tried: the largest gain tried.
        few: `2 test rows`.

    Returns:
        Lines that take nothing back that the verdict says.
    """
    if verdict.dealing is not None and limit is not None:
        unit = " bits" if verdict.metric == "bits" else ""
        measured = [f"on the one held-out part, of {few}, {limit_words(limit, tried, unit=unit)}"]
    else:
        measured = _measured(verdict, limit, tried, few)
    return [*measured, *_needed(verdict)]


def _measured(verdict: Verdict, limit: float | None, tried: float | None, few: str) -> list[str]:
    if limit is None:
        return []
    unit = " bits" if verdict.metric == "bits" else ""
    gain, high = f"gain {signed(verdict.gain, few)}{unit}", verdict.ci95[1]
    words = limit_words(limit, tried, unit=unit)
    if (
        verdict.metric == "bits" and len(verdict.gain_by_target) > 1
    ):  # bits of all classes are of more entropy
        return [f"{_HERE}, of one class against the rest, {words}"]
    if verdict.label.startswith(STRUCTURE):
        if limit != limit:
            upto = "" if tried is None else f", up to {tried:g} of the target's variance,"
            return [
                f"{gain} was seen, though calibration says that the hidden parts it tried{upto} would each "
                f"have been missed more than 20% of the time {_HERE}"
            ]
        if verdict.gain < limit:
            return [
                f"{gain} was seen; {_HERE}, it takes {limit:z.3f}{unit} to be seen {SEEN:.0%} of the time: "
                "one as small is missed more often"
            ]
    unseen = limit != limit or limit >= verdict.min_gain
    if (
        verdict.label in (NO_BETTER, BETTER_BY_LITTLE)
        and unseen
        and high == high
        and not verdict.adds_nothing
    ):
        return [
            f"{gain}, and by its interval not above {high:z.3f}{unit} for this probe; what so few rows did "
            f"not let it learn is left open: {_HERE}, {words}"
        ]
    return [f"{gain}; {_HERE}, {words}"]


def _needed(verdict: Verdict) -> list[str]:
    """How many test rows an undecided gain would take, where more rows are what is wanting."""
    needs, rows = verdict.rows_needed, verdict.rows
    if needs is None or rows is None or not open_by_rows(verdict):
        return []
    least, seen = max(verdict.min_gain, 1e-4), needs.gain(float(rows))
    here = "none" if seen != seen else f"one of {seen:.2g}"
    more = "" if least >= _PLAIN_GAIN else f", about {_round(needs.rows(_PLAIN_GAIN))} one of {_PLAIN_GAIN:g}"
    of = "test rows" if verdict.dealing is None else "rows"
    unit = " bits" if verdict.metric == "bits" else ""
    return [
        f"what it would take: about {_round(needs.rows(least))} {of} like these would show a gain of "
        f"{least:.3g}{unit} {SEEN:.0%} of the time{more}; these {count_of(rows, 'row')} would show {here}"
    ]


def open_by_rows(verdict: Verdict) -> bool:
    """Whether a verdict is open for want of test rows, so that more of them would decide it.

    Args:
        verdict: in R² or in bits.

    Returns:
        False as well for what leaves it open whatever the number of rows.
    """
    if verdict.rows is None or verdict.by_rank is not None:
        return False
    if verdict.label in (NOT_DECIDED, f"{NOT_DECIDED}: {AT_MEAN}"):
        return True
    few = too_few(verdict.rows, verdict.effective_clusters)
    return few is not None and verdict.label.startswith(NOT_DECIDED)


def power_curve(verdict: Verdict) -> pd.DataFrame | None:
    """How often a few gains would be seen, by test rows, where more of them would decide.

    Args:
        verdict: in R² or in bits.

    Returns:
        One line a pair of `gain` and `rows`, with the `power`; None where rows are not what is wanting.
    """
    needs, rows = verdict.rows_needed, verdict.rows
    if needs is None or rows is None or not open_by_rows(verdict):
        return None
    gains = sorted({max(verdict.min_gain, 1e-4), _PLAIN_GAIN, 4 * _PLAIN_GAIN})
    most = max(2.0 * rows, float(needs.rows(gains[0], 0.9)))
    across = np.unique(np.geomspace(max(4.0, rows / 4), most, 40).astype(np.int64))
    return needs.curve(gains, across.tolist())


def _round(rows: int) -> str:
    """Two digits, since more would be luck."""
    return f"{float(f'{rows:.1e}'):,.0f}"
