"""Lines under a verdict: the gain that would have been seen, and what the target was read as."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from graticule.probes.core.verdict import STRUCTURE
from graticule.probes.scores.in_words import count_of, signed

if TYPE_CHECKING:
    from graticule.probes.core.findings import Findings

_FEW = 10
"""Whole numbers that may have been meant as classes."""
_HERE = "with these rows, at this layer"


def test_rows(findings: Findings) -> str:
    """`16 test rows`."""
    return count_of(int((findings.predictions["split"] == "test").sum()), "test row")


def limit_words(limit: float, tried: float | None, at_most: bool = False) -> str:
    """What would have been seen 80% of the time, as the end of a sentence.

    Args:
        limit: the gain, NaN where no hidden part was seen so often.
        tried: the largest hidden part tried, as a share of the target's variance; None if it is not known.
        at_most: the limit is an upper bound.

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
    return f"{limit:.3f}{' or less' if at_most else ''} would have been seen 80% of the time"


def part_of_table(findings: Findings) -> list[str]:
    """How many of the table's rows were used, where they were not all."""
    count, used = findings.provenance.get("table", {}).get("rows"), findings.predictions["source"].nunique()
    if count is None or used >= count:
        return []
    return [f"of {used} of the table's {count} rows alone: there are activations of no others"]


def detection(findings: Findings) -> list[str]:
    """The gain that would have been seen, once `calibrate` has measured it."""
    limit, tried = findings.limit_of_detection, findings.largest_gain_tried
    if limit is None:
        return []
    verdict = findings.verdict
    gain = f"gain {signed(verdict.gain, test_rows(findings))}"
    if limit != limit and findings.verdict.words.startswith(STRUCTURE):
        upto = "" if tried is None else f", up to {tried:g} of the target's variance,"
        return [
            f"{gain} was seen, though calibration says that the hidden parts it tried{upto} would each have "
            f"been missed more than 20% of the time {_HERE}"
        ]
    return [f"{gain}; {_HERE}, {limit_words(limit, tried)}"]


def reading(findings: Findings) -> list[str]:
    """What the target was taken for, where it could be something else, and how often classes are right."""
    if findings.kind == "binary":
        return [_yes_or_no(findings)]
    if findings.kind == "categorical":
        return [_of_classes(findings)]
    few: list[str] = []
    for name in findings.target_names:
        values = findings.predictions[f"true_{name}"].unique()
        if 2 < len(values) <= _FEW and (values == values.round()).all():
            few.append(f"{name} was read as {len(values)} whole numbers; classes need kind='categorical'")
    return few


def class_columns(rows: pd.DataFrame, findings: Findings, side: str) -> np.ndarray:
    """The class of every row of `predictions`, as a number: of two the second where it is above one half, of
    several the one with the largest value.

    Args:
        rows: lines of `findings.predictions`.
        findings: of classes.
        side: `true`, `pred` or `surface`.
    """
    values = rows[[f"{side}_{name}" for name in findings.target_names]].to_numpy(np.float64)
    if findings.kind == "binary":
        return (values[:, 0] > 0.5).astype(np.int64)
    return values.argmax(axis=1)


def class_names(findings: Findings) -> np.ndarray:
    """The classes' names in the order of `class_columns`."""
    names = findings.classes or (("no", "yes") if findings.kind == "binary" else findings.target_names)
    return np.asarray(names, dtype=object)


def _yes_or_no(findings: Findings) -> str:
    scores = next(s["test"] for s in findings.layer_scores if s["point"] == findings.chosen_point)
    auroc, right = (_figure(scores.get(name)) for name in ("auroc", "accuracy"))
    meaning = "R² is of 0 and 1"
    if findings.classes != ("0", "1"):
        meaning = f"1 is {findings.classes[1]!r}, 0 is {findings.classes[0]!r}, R² is of that number"
    return f"{findings.target_names[0]}: {meaning}; on test rows AUROC {auroc}, accuracy {right}"


def _of_classes(findings: Findings) -> str:
    rows = findings.predictions
    in_test = (rows["split"] == "test").to_numpy()
    true, pred = (class_columns(rows, findings, side) for side in ("true", "pred"))
    most = int(np.bincount(true[~in_test], minlength=1).argmax())
    name = class_names(findings)[most]
    true, pred = true[in_test], pred[in_test]
    balanced = float(np.mean([(pred[true == k] == k).mean() for k in np.unique(true)]))
    column = findings.target_names[0].removesuffix(f"={findings.classes[0]}")
    return (
        f"{column}: {len(findings.target_names)} classes, R² is of 0 and 1 for each; on test rows accuracy "
        f"{np.mean(pred == true):.3f}, balanced accuracy {balanced:.3f}; always saying {name!r}, the most "
        f"frequent in training, gives {np.mean(true == most):.3f} and {1 / len(np.unique(true)):.3f}"
    )


def _figure(value: float | None) -> str:
    return "undefined" if value is None or value != value else f"{value:.3f}"
