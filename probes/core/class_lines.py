"""Which class is which, and what the probe is worth as a classifier, in a line or two."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from graticule.probes.scores.metrics import number_text
from graticule.probes.tables.units import RANK

if TYPE_CHECKING:
    from graticule.probes.core.class_scores import ClassScores
    from graticule.probes.core.findings import Findings

IN_R2 = "R² is of 0 and 1 here; the findings' own verdict is in bits"
"""Of what is not measured in bits."""
_FEW = 10
"""Whole numbers that may have been meant as classes."""


def reading(findings: Findings) -> list[str]:
    """What the target was taken for, where it could be something else, and how often classes are right."""
    if findings.kind != "numeric" and findings.class_scores is not None:
        return [_meaning(findings), *_scores(findings, findings.class_scores)]
    if findings.kind != "numeric":
        return [f"{_meaning(findings)}; {_of_predictions(findings)}"]
    few: list[str] = []
    for name, unit in zip(findings.target_names, findings.units, strict=True):
        values = np.sort(findings.predictions[f"true_{name}"].unique())
        if unit == RANK:
            few.append(
                f"{name}: {len(values):,} values in order, as ranks among the training rows (kind='ordinal')"
            )
        elif 2 < len(values) <= _FEW and (values == values.round()).all():
            few.append(
                f"{name}: {len(values)} whole numbers, {values[0]:g} to {values[-1]:g}, are taken as numbers "
                "and judged by R²; kind='ordinal' judges their ranks, kind='categorical' classes, in bits"
            )
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


def _meaning(findings: Findings) -> str:
    """Which class is 1, and how to choose another; or how many classes there are."""
    of = "R² is of 0 and 1" if findings.verdict.metric == "r2" else "bits are of calibrated probabilities"
    if findings.kind == "categorical":
        column = findings.target_names[0].removesuffix(f"={findings.classes[0]}")
        each = " for each" if findings.verdict.metric == "r2" else ", all classes in one"
        return f"{column}: {len(findings.target_names)} classes, {of}{each}"
    no, yes = class_names(findings)
    name = findings.target_names[0]
    if findings.classes == ("0", "1"):
        as_read = "" if findings.verdict.metric == "r2" else "; kind='numeric' judges them as numbers, by R²"
        return f"{name}: 0 and 1 are no and yes, {of}{as_read}"
    return f"{name}: 1 is {yes!r}, 0 is {no!r} (positive={no!r} turns it round), {of}"


def _scores(findings: Findings, scores: ClassScores) -> list[str]:
    """The classifier's scores on test rows."""
    names = class_names(findings)
    rows = findings.predictions[findings.predictions["split"] == "train"]
    most = names[int(np.bincount(class_columns(rows, findings, "true"), minlength=len(names)).argmax())]
    of = names[1] if findings.kind == "binary" else most
    area, right = (
        _with_ends(scores.auroc, scores.auroc_ci95),
        _with_ends(scores.accuracy, scores.accuracy_ci95),
    )
    dealt = findings.verdict.dealing is not None
    of_rows = "all rows" if dealt else "test rows"
    in_training = "" if dealt else f", of training rows {scores.training_prevalence:.1%}"
    beside = f" (stacked baselines {scores.surface_auroc:z.3f}, with the probe {scores.full_auroc:z.3f})"
    return [
        f"{scores.prevalence:.1%} of {of_rows} are {of!r}{in_training}",
        f"on {of_rows} the probe alone: AUROC {area}{beside if scores.auroc == scores.auroc else ''}, "
        f"accuracy {right}, balanced accuracy {scores.balanced_accuracy:z.3f}, Brier skill "
        f"{number_text(scores.brier_skill)}; always {most!r}, the most frequent in training, is right in "
        f"{scores.always:z.3f}",
    ]


def _of_predictions(findings: Findings) -> str:
    """The same of findings without them, by what their predictions say."""
    if findings.kind == "binary":
        scores = next(s["test"] for s in findings.layer_scores if s["point"] == findings.chosen_point)
        nothing = float("nan")
        area, right = (number_text(scores.get(name) or nothing) for name in ("auroc", "accuracy"))
        return f"on test rows AUROC {area}, accuracy {right}"
    rows = findings.predictions
    in_test = (rows["split"] == "test").to_numpy()
    true, pred = (class_columns(rows, findings, side) for side in ("true", "pred"))
    most = int(np.bincount(true[~in_test], minlength=1).argmax())
    name = class_names(findings)[most]
    true, pred = true[in_test], pred[in_test]
    balanced = float(np.mean([(pred[true == k] == k).mean() for k in np.unique(true)]))
    return (
        f"on test rows accuracy {np.mean(pred == true):z.3f}, balanced accuracy {balanced:z.3f}; always "
        f"saying {name!r}, the most frequent in training, gives {np.mean(true == most):z.3f} and "
        f"{1 / len(np.unique(true)):z.3f}"
    )


def _with_ends(value: float, ends: tuple[float, float]) -> str:
    if np.isnan([value, *ends]).any():
        return number_text(value)
    return f"{value:z.3f} [{ends[0]:z.3f}, {ends[1]:z.3f}]"
