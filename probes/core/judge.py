"""One door to the verdict, in R² or in bits: of ridge, MLP, classes, latents, a twin."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from graticule.probes.core.bits import bits_verdict, row_gains, saved_bits
from graticule.probes.core.fit import Predictions, Problem, with_and_without
from graticule.probes.core.idle import least_seen, still
from graticule.probes.core.labels import AT_MEAN, NO_BETTER, NOT_DECIDED
from graticule.probes.core.verdict import R2_GAIN, JudgeSettings, Verdict, verdict
from graticule.probes.scores.metrics import mean_r2


def judge_predictions(
    problem: Problem,
    predictions: Predictions,
    baselines: Mapping[str, Predictions],
    settings: JudgeSettings,
    *,
    model_baselines: Collection[str],
    width: int | None = None,
) -> Verdict:
    """The verdict on whatever predicts out of fold and on test rows: ridge, MLP, classes, latents, a twin.

    Args:
        problem: Targets, split and clusters.
        predictions: What is judged.
        baselines: What it stands against.
        settings: By which it is judged.
        model_baselines: Names of the baselines that read the model.
        width: Columns that the predictor could choose from: where so many would not be seen in so few rows,
            a predictor that is still the training mean decides nothing. None leaves that out.

    Returns:
        The verdict.

    Raises:
        ValueError: Shapes do not fit, a value is not finite, or a setting is out of its range.
    """
    if settings.score == "bits":
        judged = bits_verdict(
            problem, predictions, baselines, model_baselines=model_baselines, min_gain=settings.min_gain
        )
    else:
        judged = verdict(
            problem.y[problem.train],
            problem.y[problem.test],
            predictions,
            baselines,
            test_clusters=problem.clusters[problem.test],
            target_names=problem.names,
            model_baselines=model_baselines,
            min_gain=R2_GAIN if settings.min_gain is None else settings.min_gain,
            n_bootstrap=settings.n_bootstrap,
            seed=settings.seed,
        )[0]
    if width is None or judged.label != NO_BETTER:
        return judged
    if mean_r2(problem.y[problem.train], predictions.out_of_fold) > 0 and not still(predictions, problem):
        return judged
    return at_mean(judged, least_seen(problem, width, judged.metric))


def score_and_gain(
    problem: Problem, predictions: Predictions, baselines: Mapping[str, Predictions], settings: JudgeSettings
) -> tuple[float, float]:
    """The verdict's score and gain alone, without intervals: for what is drawn many times.

    Args:
        problem: Targets, split and clusters.
        predictions: What is judged.
        baselines: What it stands against.
        settings: By which it is judged.

    Returns:
        Score of the predictions and gain, on test rows.
    """
    if settings.score == "bits":
        gained = row_gains(problem, predictions, baselines)
        return float(saved_bits(problem, predictions).mean()), float(gained.mean())
    y_train, y_test = problem.y[problem.train], problem.y[problem.test]
    surface, full = with_and_without(baselines, predictions, y_train)
    return mean_r2(y_test, predictions.test), mean_r2(y_test, full) - mean_r2(y_test, surface)


def at_mean(judged: Verdict, least: float) -> Verdict:
    """The verdict on a predictor that is the training mean, without an interval where it adds nothing.

    Args:
        judged: by gain and interval.
        least: of `least_seen`.

    Returns:
        Not decided, unless so small a part would have been seen.
    """
    if judged.adds_nothing:
        judged = replace(judged, ci95=(float("nan"), float("nan")))
    return replace(judged, label=f"{NOT_DECIDED}: {AT_MEAN}") if least >= judged.min_gain else judged
