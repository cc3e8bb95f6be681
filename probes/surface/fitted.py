"""Baselines beside activations: captured alike, fitted to a target, and the targets shuffled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Int

from graticule.hooks.capture_spec import CaptureSpec
from graticule.hooks.messages import brief
from graticule.hooks.rows import Rows
from graticule.hooks.same_model import check_one_model
from graticule.probes.core.bits import bits_gained, class_test_scores, saved_bits
from graticule.probes.core.fit import PointFit, Predictions, Problem, chosen, fit_points, stack
from graticule.probes.core.inputs import SweepInputs
from graticule.probes.core.intervals import mean_of, mean_r2_estimate
from graticule.probes.core.resample import cluster_sums
from graticule.probes.core.verdict import JudgeSettings
from graticule.probes.scores.metrics import mean_r2, score
from graticule.probes.surface.baselines import Baselines
from graticule.probes.surface.confounds import CONFOUNDS, fit_confounds
from graticule.probes.surface.joint import JOINT, fit_joint, joint_rows
from graticule.probes.surface.serving import features_of, served_by
from graticule.probes.surface.strings import StringReader, fit_strings
from graticule.probes.surface.token_readers import fit_tokens
from graticule.probes.tables.table import Table
from graticule.probes.tables.tokens import TokenTable


def fit_baselines(
    baselines: Baselines,
    activations: Rows,
    table: Table,
    problem: Problem,
    settings: JudgeSettings,
    progress: bool | None,
) -> tuple[dict[str, Predictions], dict[str, dict[str, Any]]]:
    """Predictions of every baseline, and its line in the findings."""
    predictions: dict[str, Predictions] = {}
    lines: dict[str, dict[str, Any]] = {}
    y_test = problem.y[problem.test]
    reader = None
    if baselines.strings and table.strings is not None:
        reader = StringReader.of(table, problem, baselines.tokens)
        predictions, lines = fit_strings(reader, progress)
        if isinstance(table, TokenTable):
            for have, more in zip((predictions, lines), fit_tokens(reader, table, progress), strict=True):
                have |= more
    if table.confounds:
        predictions[CONFOUNDS], lines[CONFOUNDS] = fit_confounds(table.confounds, problem)
    features = features_of(baselines, activations, problem)
    for name, (feature, rows) in features.items():
        fits = fit_points(feature, problem, rows, alphas=settings.alphas, desc=name, progress=progress)
        best = chosen(with_bits(fits, problem, settings))
        predictions[name] = best.predictions
        lines[name] = {"validation": best.validation, "alpha": best.fit.alpha, "point": best.point}
    points = {name: lines[name]["point"] for name in features}
    if (joint := joint_rows(features, points, table, problem, reader)) is not None:
        predictions[JOINT], lines[JOINT] = fit_joint(joint, problem, settings)
    for name, line in lines.items():
        line["test"] = score(y_test, predictions[name].test, table)
        if settings.score == "bits":
            line["test"] |= class_test_scores(problem, predictions[name])
            line["validation_bits"] = bits_gained(problem.y[problem.train], predictions[name].out_of_fold)
    alone = {name: one for name, one in predictions.items() if name != JOINT}  # which holds all of them
    each = _stacked_r2(alone, problem)
    for name, line in lines.items():
        without = {other: one for other, one in alone.items() if other != name}
        line["without"] = each if name == JOINT else _stacked_r2(without, problem)
        line["adds"] = (_stacked_r2(predictions, problem) if name == JOINT else each) - line["without"]
    return predictions, lines


def _stacked_r2(predictions: Mapping[str, Predictions], problem: Problem) -> float:
    """Test R² of the stack of some members of the surface."""
    fit = stack({name: one.out_of_fold for name, one in predictions.items()}, problem.y[problem.train])
    tests = {name: one.test for name, one in predictions.items()}
    return mean_r2(problem.y[problem.test], fit.predict(tests, len(problem.test)))


def with_bits(fits: Sequence[PointFit], problem: Problem, settings: JudgeSettings) -> list[PointFit]:
    """The fits, with their out-of-fold bits where classes are judged by them."""
    if settings.score != "bits":
        return list(fits)
    y = problem.y[problem.train]
    return [replace(fit, bits=bits_gained(y, fit.fit.out_of_fold)) for fit in fits]


def fit_shuffled(inputs: SweepInputs, best: PointFit) -> dict[str, Any]:
    """The chosen layer against targets dealt anew, cluster by cluster: must score about 0.

    `ci95` is of the test R², or of the bits, by the verdict's own interval over clusters.
    """
    problem, settings = inputs.problem, inputs.settings
    y = problem.y[dealt_rows(problem, np.random.default_rng(settings.seed))]
    dealt = Problem(problem.source, y, problem.is_test, problem.clusters, problem.names)
    point = inputs.activations.select(points=best.point)
    fit = fit_points(point, dealt, alphas=settings.alphas, progress=False)[0]
    test = score(y[problem.test], fit.test, inputs.table)
    line = {"validation": fit.validation, "alpha": fit.fit.alpha, "point": best.point, "test": test}
    if settings.score == "bits":
        saved = saved_bits(dealt, fit.predictions)
        test |= class_test_scores(dealt, fit.predictions)
        line["validation_bits"] = bits_gained(y[problem.train], fit.fit.out_of_fold)
        return {**line, "ci95": mean_of(saved, problem.clusters[problem.test]).ci95}
    sums = cluster_sums(y[problem.test], {"shuffled": fit.test}, problem.clusters[problem.test])
    return {**line, "ci95": mean_r2_estimate(sums, "shuffled").ci95}


def dealt_rows(problem: Problem, rng: np.random.Generator) -> Int[np.ndarray, " row"]:
    """Whose target each row is dealt: within each part of the split, clusters whole as far as sizes allow.

    So rows that depend on each other still do when the targets say nothing. Where clusters straddle the split
    the rows of both parts are dealt together.

    Args:
        problem: Split and clusters.
        rng: What deals.

    Returns:
        A permutation of the rows.
    """
    clusters, out = problem.clusters, np.arange(len(problem.y))
    parts = [problem.train, problem.test]
    if len(np.intersect1d(clusters[problem.train], clusters[problem.test])):
        parts = [out.copy()]
    for part in parts:
        labels, codes = np.unique(clusters[part], return_inverse=True)
        if len(labels) == len(part):
            out[part] = rng.permutation(part)
            continue
        one, other = (rng.permutation(len(labels))[codes.reshape(-1)] for _ in range(2))
        within = rng.random(len(part))  # what stands first in every cluster may be of one class
        out[part[np.argsort(one, kind="stable")]] = part[np.lexsort((within, other))]
    return out


ANY_PROMPT = "any_prompt"
"""In the provenance of baselines of the entity alone, which stand against any prompt: `prompts` says it."""


class PairError(ValueError):
    """Baselines that were captured otherwise than the activations that they are given with."""


def check_pair(baselines: Baselines, activations: Rows) -> bool:
    """Refuse baselines of another model, prompt, position or layers than the activations.

    Args:
        baselines: What stands against the probe.
        activations: What is probed.

    Returns:
        Whether the activations say of no model: that the baselines are of it is then taken on trust.

    Raises:
        OtherModelError: They are of another model.
        PairError: They were captured otherwise.
    """
    ours = activations.provenance
    of, model = baselines.provenance.get("model") or {}, ours.get("model") or {}
    check_one_model(
        "sweep", ("the activations are", ours), ("the baselines", baselines.provenance),
        "capture both of one model, baselines(model, table)",
    )  # fmt: skip
    for name, feature in baselines.features.items():
        if (name == "block_0" or name in baselines.twins) and not baselines.provenance.get(ANY_PROMPT):
            _check_reading(name, feature, activations)
    for name in baselines.twins:
        if lacking := [point for point in activations.points if point not in baselines.features[name]]:
            raise PairError(
                f"sweep: {name} of the baselines lacks {lacking[0]}, which the activations hold: give both "
                "the same points= and layers=, or activations.select(points=…)"
            )
    return bool(of.get("digest")) and not model.get("digest")


def _check_reading(name: str, feature: Rows, activations: Rows) -> None:
    """Raises:
    PairError: For another prompt, special tokens or other positions.
    """
    theirs, ours = (CaptureSpec.from_json(rows.provenance) for rows in (feature, activations))
    if None not in (theirs.prompt, ours.prompt) and theirs.prompt != ours.prompt:
        raise _other(name, "prompt", theirs.prompt, ours.prompt)
    if None not in (theirs.framed, ours.framed) and theirs.framed != ours.framed:
        raise PairError(
            f"sweep: {name} of the baselines was captured with{'' if theirs.framed else 'out'} special "
            f"tokens, the activations with{'' if ours.framed else 'out'}: give both one prepend_bos="
        )
    places = (theirs.positions, ours.positions)
    if None in places or theirs.positions == ours.positions:
        return
    means = "entity_mean" in places  # of several tokens, whatever place it is put at
    if means or not _same_places(feature, activations):
        raise _other(name, "pos", *places)


def _same_places(feature: Rows, activations: Rows) -> bool:
    """Whether rows that were asked for in other words are of the same tokens."""
    theirs, ours = feature.rows, activations.rows
    if "position" not in theirs or "position" not in ours:
        return False
    serving = served_by(feature, activations)
    return np.array_equal(theirs["position"].to_numpy()[serving], ours["position"].to_numpy())


def _other(name: str, what: str, theirs: Any, ours: Any) -> PairError:
    return PairError(
        f"sweep: {name} of the baselines was captured with {what}={brief(theirs)}, the activations with "
        f"{what}={brief(ours)}: give both one, baselines(model, table, {what}={brief(ours)})"
    )
