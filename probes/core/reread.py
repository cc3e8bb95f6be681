"""Findings read from disk, put together again with what they were made from, which must read the same."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Int, Shaped

from graticule.hooks.artifact import json_ready
from graticule.hooks.capture_spec import CaptureSpec
from graticule.hooks.names import inside
from graticule.hooks.places import Place
from graticule.hooks.rows import Rows
from graticule.hooks.same_model import check_one_model
from graticule.probes.core.fit import PointRows, Problem, fit_points
from graticule.probes.core.gates import Gates
from graticule.probes.core.inputs import OF_ROWS, SweepInputs, problem_of, table_of
from graticule.probes.core.verdict import JudgeSettings
from graticule.probes.linear.ridge import RidgeProbe
from graticule.probes.scores.metrics import mean_r2
from graticule.probes.surface.baselines import Baselines, text_digest
from graticule.probes.surface.confounds import CONFOUNDS
from graticule.probes.surface.joint import JOINT
from graticule.probes.surface.serving import features_of
from graticule.probes.surface.strings import STRINGS, TFIDF
from graticule.probes.surface.token_readers import TOKENS
from graticule.probes.tables.groups import dense_codes
from graticule.probes.tables.table import Table

if TYPE_CHECKING:
    from graticule.probes.core.findings import Findings
    from graticule.probes.core.inputs import Target


def as_of_today(values: Mapping[str, Any], path: Place, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of findings as they are today, in an order that files do not keep.

    Args:
        values: as they were read.
        path: the folder.
        manifest: its `findings.json`.

    Returns:
        All fields; what earlier versions wrote otherwise or left out is made good.

    Raises:
        ValueError: predictions are there for a point without a probe.
    """
    probes, limit = values["probes"], values["limit_of_detection"]
    for point in manifest["points"]:  # 0.1 did not list them among the folder's files
        if point not in probes:
            probes[point] = RidgeProbe.load(inside(path / "probes", point))
    beside, by_point = values.get("baseline_predictions", {}), values.get("point_predictions", {})
    if others := by_point.keys() - set(manifest["points"]):
        raise ValueError(f"{min(others)} has predictions and no probe")
    if not manifest.get("calibrated", False):
        limit = None
    elif limit is None:  # no gain tried was found often enough
        limit = float("nan")
    return {
        **values,
        # numbers once were names of columns
        "target_names": tuple(str(n) if isinstance(n, int) else n for n in values["target_names"]),
        "limit_of_detection": limit,
        "probes": {point: probes[point] for point in manifest["points"]},
        "baseline_predictions": {name: beside[name] for name in manifest["baselines"] if name in beside},
        "point_predictions": {point: by_point[point] for point in manifest["points"] if point in by_point},
    }


def check_findings(findings: Findings) -> None:
    """Check that the parts of findings fit together.

    Raises:
        ValueError: They do not; or whatever else the part that does not fit raises.
    """
    if findings.chosen_point not in findings.probes:
        raise ValueError(f"the point chosen, {findings.chosen_point!r}, has no probe")
    if bare := set(findings.probes) - {str(line["point"]) for line in findings.layer_scores}:
        raise ValueError(f"{min(bare)} has a probe and no scores")
    findings.summary()  # what cannot be said does not fit together, whichever part it is
    findings.tables()
    findings.to_json()
    problem = findings.problem
    shapes = problem.y[problem.train].shape, problem.y[problem.test].shape
    for point, one in findings.point_predictions.items():
        if (one.out_of_fold.shape, one.test.shape) != shapes:
            raise ValueError(f"the predictions at {point} are of other rows than predictions.parquet")
    if len(problem.source) != len(findings.predictions):
        raise ValueError(
            f"{len(problem.source)} rows of the table for {len(findings.predictions)} lines of predictions"
        )


def target_values(predictions: pd.DataFrame, names: tuple[str, ...], kind: str) -> np.ndarray:
    """The `true`, `pred` or `surface` values of every row, a target a column."""
    columns = predictions[[f"{kind}_{name}" for name in names]]
    return np.ascontiguousarray(columns.to_numpy(np.float64))


def saved_problem(findings: Findings) -> Problem:
    """Targets, split and clusters as `predictions` has them."""
    rows, places = findings.predictions, findings.table_rows
    return Problem(
        rows["source"].to_numpy(np.int64) if places is None else places,
        target_values(rows, findings.target_names, "true"),
        (rows["split"] == "test").to_numpy(),
        rows["cluster"].to_numpy(np.int64),
        findings.target_names,
    )


def supposed_settings(findings: Findings) -> JudgeSettings:
    """How findings that were saved without their settings were judged: a warned guess."""
    guess = JudgeSettings(
        min_gain=findings.verdict.min_gain, seed=int(findings.provenance.get("seed", JudgeSettings.seed))
    )
    warnings.warn(
        f"these findings of {findings.table!r} were saved without their settings: what is judged again takes "
        f"n_bootstrap={guess.n_bootstrap}, seed={guess.seed} and the default strengths; run the sweep "
        "again, or say with_inputs(…, settings=JudgeSettings(…))",
        stacklevel=3,
    )
    return guess


def score_alike(one: Findings, other: Findings) -> bool:
    """Whether the probes score alike at every point, but for another processor's rounding."""
    scores = (np.array([float(s["test"].get("r2", np.nan)) for s in f.layer_scores]) for f in (one, other))
    return np.allclose(*scores, atol=_TOLERANCE, rtol=_TOLERANCE, equal_nan=True)


def sweep_inputs_of(
    findings: Findings,
    activations: Rows,
    target: Target,
    baselines: Baselines | None,
    split: str | Shaped[np.ndarray, " row"] | None = None,
    cluster: str | Shaped[np.ndarray, " row"] | None = None,
) -> SweepInputs:
    """What `findings` were made from, its rows aligned as their own predictions say they were.

    Args:
        findings: read from disk.
        activations: what was swept.
        target: as `sweep` was given it.
        baselines: as `sweep` was given them.
        split: as `sweep` was given it.
        cluster: as `sweep` was given it.

    Returns:
        The very inputs of the sweep.

    Raises:
        ValueError: if rows, targets, split, clusters, baselines or points are others.
    """
    table, numbered, here, _ = table_of(activations, target, split, cluster)
    if findings.table == OF_ROWS:
        here = np.arange(activations.n_rows)
    else:
        activations = numbered
    saved = findings.provenance.get("table", {}).get("digest")
    if saved is not None and saved != table.digest:
        raise ValueError(f"these findings are of another table than {table.name!r}: the digests differ")
    if lacking := [point for point in findings.probes if point not in activations]:
        raise ValueError(f"the activations lack {', '.join(lacking[:3])}, which these findings are of")
    if baselines is None:
        baselines = Baselines(text_digest(table), {}, table.strings is not None)
    else:
        baselines.check(table)
    _check_baselines(findings, baselines, table)
    problem = problem_of(activations, table, _source(findings, here, table))
    _check_problem(findings, problem)
    # numbered as they were: resamples are drawn by number
    problem = replace(problem, clusters=findings.predictions["cluster"].to_numpy(np.int64))
    check_read_again(findings, activations, problem)
    check_fitted_again(findings, baselines, activations, problem)
    return SweepInputs(
        activations,
        table,
        baselines,
        problem,
        findings.baseline_predictions,
        findings.judged_by,
        findings.gates or Gates(),
    )


def _source(findings: Findings, here: Int[np.ndarray, " row"], table: Table) -> Int[np.ndarray, " row"]:
    """The table row of every activation row, `here`, which must be what it was in the findings."""
    recorded = findings.predictions["source"].to_numpy(np.int64)
    if len(recorded) != len(here):
        raise ValueError(
            f"these findings are of {len(recorded)} activation rows, these activations hold {len(here)}"
        )
    place = pd.Series(np.arange(len(table)), index=table.source_rows).reindex(recorded)
    source = place.fillna(-1).to_numpy(np.int64)
    if len(others := np.flatnonzero(source != here)):
        row = others[0]
        raise ValueError(
            f"the activations are in another order than these findings: row {row} was of table row "
            f"{source[row]}, here it is of {here[row]}; give those that were swept"
        )
    return source


def _check_problem(findings: Findings, problem: Problem) -> None:
    """Raises:
    ValueError: Unless targets, split and clusters are those of the findings.
    """
    rows = findings.predictions
    columns = [f"true_{name}" for name in findings.target_names]
    same = {
        "targets": np.array_equal(rows[columns].to_numpy(np.float64), problem.y),
        "split": np.array_equal((rows["split"] == "test").to_numpy(), problem.is_test),
        "clusters": np.array_equal(
            dense_codes(rows["cluster"].to_numpy(np.int64)), dense_codes(problem.clusters)
        ),
    }
    if others := [name for name, alike in same.items() if not alike]:
        raise ValueError(
            f"{' and '.join(others)} of these activations and this table are others than the findings': give "
            "what `sweep` was given"
        )


def _check_baselines(findings: Findings, baselines: Baselines, table: Table) -> None:
    """Raises:
    ValueError: Unless these are the baselines that the findings were judged against.
    """
    check_same_capture(findings.provenance.get("baselines") or {}, baselines.provenance)
    if not findings.baseline_predictions:  # saved before findings held their baselines' predictions
        return
    judged = set(findings.baseline_predictions) - {JOINT}  # made of the others
    # findings that were saved before there were others have TF-IDF alone
    strings = set[str]()
    if baselines.strings and table.strings is not None:
        strings = {TFIDF} | (judged & {*STRINGS, *TOKENS})
    given = {*strings, *baselines.features, *([CONFOUNDS] if table.confounds else [])}
    if given != judged:
        raise ValueError(
            f"these findings were judged against {', '.join(sorted(judged)) or 'no baselines'}, given are "
            f"{', '.join(sorted(given)) or 'none'}: give the baselines that `sweep` was given"
        )


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
        "with_inputs", ("these findings are", swept), ("the activations", activations.provenance),
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
                f"with_inputs: at {point} the probe reads {now[row, target]:.6g} "
                f"{findings.target_names[target]} of activation row {test[row]}, these findings say "
                f"{saved[row, target]:.6g}: give the activations that were swept"
            )
        then, again = scores["test"].get("r2"), mean_r2(problem.y[test], now)
        if then is not None and abs(again - float(then)) > _TOLERANCE:
            raise ValueError(
                f"with_inputs: at {point} the probe's test R² is {again:z.4f} on these activations, these "
                f"findings say {float(then):z.4f}: give the activations that were swept"
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
        "with_inputs",
        ("these findings were judged against baselines", saved), ("given are those", given),
        "give the baselines that `sweep` was given",
    )  # fmt: skip
    if not of or not model:
        return
    both = [{**made, **CaptureSpec.from_json(made).to_json()} for made in (saved, given)]
    for what in _ASKED:
        then, now = (json_ready(made.get(what)) for made in both)
        if then != now:
            raise ValueError(
                f"with_inputs: these findings were judged against baselines of {what}={then!r}, given are "
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
    served = features_of(baselines, activations, problem)
    for name, feature in baselines.features.items():
        line = findings.baselines.get(name)
        if line is None or all(_digest(made) for made in (*both, feature.provenance)):
            continue
        if line["point"] not in feature.points:
            raise ValueError(
                f"with_inputs: the baseline {name} lacks {line['point']}, at which these findings read it: "
                "give the baselines that `sweep` was given"
            )
        one, rows = served[name]
        fit = fit_points(
            one.select(points=line["point"]), problem, rows, alphas=[line["alpha"]], progress=False
        )[0]
        scale = np.maximum(problem.y.std(axis=0), 1e-12)
        saved = findings.baseline_predictions.get(name)
        other = saved is not None and bool((np.abs(fit.test - saved.test) / scale > _TOLERANCE).any())
        then, again = line["test"].get("r2"), mean_r2(problem.y[problem.test], fit.test)
        if other or (then is not None and abs(again - float(then)) > _TOLERANCE):
            raise ValueError(
                f"with_inputs: the baseline {name}, fitted again, predicts otherwise than that of these "
                f"findings (test R² {again:z.4f}): give the baselines that `sweep` was given"
            )


def _digest(made: Mapping[str, Any]) -> str | None:
    return (made.get("model") or {}).get("digest")
