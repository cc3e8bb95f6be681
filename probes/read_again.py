"""Whether activations and baselines are those of saved findings: the saved probes must read the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from graticule.hooks.artifact import json_ready
from graticule.hooks.rows import Rows
from graticule.hooks.same_model import check_one_model
from graticule.probes.layers import PointRows, Problem, fit_points
from graticule.probes.scores.metrics import mean_r2
from graticule.probes.surface.baselines import Baselines
from graticule.probes.surface.fitted import served_by

if TYPE_CHECKING:
    from graticule.probes.findings import Findings

_TOLERANCE = 1e-3
"""Of the target's standard deviation, and of R²: what another processor's rounding may move a reading by."""
_ASKED = ("prompt", "pos", "prepend_bos", "include_bos", "twin", "seed")


def check_read_again(findings: Findings, activations: Rows, problem: Problem) -> None:
    """Read the test rows with the saved probes once more.

    Args:
        findings: Read from disk.
        activations: Given as those that were swept.
        problem: Their rows, aligned with the findings' predictions.

    Raises:
        OtherModelError: They are of another model than the findings'.
        ValueError: Some probe reads something else of them, naming the first row that differs at the chosen
            point.
    """
    swept: Mapping[str, Any] = findings.provenance.get("activations") or {}
    check_one_model(
        "with_material", ("these findings are", swept), ("the activations", activations.provenance),
        "give those that were swept",
    )  # fmt: skip
    test = problem.test
    scale = np.maximum(problem.y.std(axis=0), 1e-12)
    saved = findings.predictions[[f"pred_{n}" for n in findings.target_names]].to_numpy(np.float64)[test]
    for scores in findings.layer_scores:
        point = scores["point"]
        now = findings.probes[point].predict(PointRows(activations, point, test).gather(np.arange(len(test))))
        if point == findings.chosen_point and (off := (np.abs(now - saved) / scale > _TOLERANCE)).any():
            row, target = np.argwhere(off)[0]
            raise ValueError(
                f"with_material: at {point} the probe reads {now[row, target]:.6g} "
                f"{findings.target_names[target]} of activation row {test[row]}, these findings say "
                f"{saved[row, target]:.6g}: give the activations that were swept"
            )
        then, again = scores["test"].get("r2"), mean_r2(problem.y[test], now)
        if then is not None and abs(again - float(then)) > _TOLERANCE:
            raise ValueError(
                f"with_material: at {point} the probe's test R² is {again:.4f} on these activations, these "
                f"findings say {float(then):.4f}: give the activations that were swept"
            )


def check_same_capture(saved: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Compare how two sets of baselines were captured.

    Args:
        saved: The provenance of those that findings were judged against.
        given: The provenance of those that are given as the same.

    Raises:
        OtherModelError: They are of another model.
        ValueError: They were captured otherwise: another prompt, position, twin or seed.
    """
    of, model = saved.get("model") or {}, given.get("model") or {}
    check_one_model(
        "with_material",
        ("these findings were judged against baselines", saved), ("given are those", given),
        "give the baselines that `sweep` was given",
    )  # fmt: skip
    if not of or not model:
        return
    for what in _ASKED:
        then, now = json_ready(saved.get(what)), json_ready(given.get(what))
        if then != now:
            raise ValueError(
                f"with_material: these findings were judged against baselines of {what}={then!r}, given are "
                f"those of {what}={now!r}: give the baselines that `sweep` was given"
            )


def check_fitted_again(findings: Findings, baselines: Baselines, activations: Rows, problem: Problem) -> None:
    """Fit the baselines once more whose provenance does not say what they were captured from.

    Args:
        findings: Read from disk.
        baselines: Given as those that they were judged against.
        activations: Those that were swept.
        problem: Their rows, aligned with the findings' predictions.

    Raises:
        ValueError: Such a baseline predicts something else than the saved one did.
    """
    both = [findings.provenance.get("baselines") or {}, baselines.provenance]
    for name, feature in baselines.features.items():
        line = findings.baselines.get(name)
        if line is None or all(_digest(made) for made in (*both, feature.provenance)):
            continue
        if line["point"] not in feature.points:
            raise ValueError(
                f"with_material: the baseline {name} lacks {line['point']}, at which these findings read it: "
                "give the baselines that `sweep` was given"
            )
        rows = served_by(feature, activations, problem.source)
        one = feature.select(points=line["point"])
        fit = fit_points(one, problem, rows, alphas=[line["alpha"]], progress=False)[0]
        scale = np.maximum(problem.y.std(axis=0), 1e-12)
        saved = findings.rivals.get(name)
        other = saved is not None and bool((np.abs(fit.test - saved.test) / scale > _TOLERANCE).any())
        then, again = line["test"].get("r2"), mean_r2(problem.y[problem.test], fit.test)
        if other or (then is not None and abs(again - float(then)) > _TOLERANCE):
            raise ValueError(
                f"with_material: the baseline {name}, fitted again, predicts otherwise than that of these "
                f"findings (test R² {again:.4f}): give the baselines that `sweep` was given"
            )


def _digest(made: Mapping[str, Any]) -> str | None:
    return (made.get("model") or {}).get("digest")
