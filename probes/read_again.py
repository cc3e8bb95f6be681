"""Whether activations and baselines are those of saved findings: the saved probes must read the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from graticule.hooks.activations import Activations
from graticule.hooks.artifact import json_ready
from graticule.hooks.same_model import OtherModelError, differ, named
from graticule.hooks.store import Store
from graticule.probes.layers import PointRows, Problem
from graticule.probes.scores.metrics import mean_r2

if TYPE_CHECKING:
    from graticule.probes.findings import Findings

_TOLERANCE = 1e-3
"""Of the target's standard deviation, and of R²: what another processor's rounding may move a reading by."""
_ASKED = ("prompt", "pos", "prepend_bos", "include_bos", "twin", "seed")


def check_read_again(findings: Findings, activations: Activations | Store, problem: Problem) -> None:
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
    of = (findings.provenance.get("activations") or {}).get("model") or {}
    given: Mapping[str, Any] = activations.provenance.get("model") or {}
    if differ(findings.provenance.get("activations") or {}, activations.provenance):
        raise OtherModelError(
            f"with_material: these findings are of {named(of)}, the activations of {named(given)}: give "
            "those that were swept"
        )
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
    if differ(saved, given):
        raise OtherModelError(
            f"with_material: these findings were judged against baselines of {named(of)}, given are those of "
            f"{named(model)}: give the baselines that `sweep` was given"
        )
    if not of or not model:
        return
    for what in _ASKED:
        then, now = json_ready(saved.get(what)), json_ready(given.get(what))
        if then != now:
            raise ValueError(
                f"with_material: these findings were judged against baselines of {what}={then!r}, given are "
                f"those of {what}={now!r}: give the baselines that `sweep` was given"
            )
