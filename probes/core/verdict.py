"""What the probe adds to everything that could be read off the string: the verdict."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from graticule.hooks.calls import renamed, renamed_fields
from graticule.hooks.limits import check_limits, check_several
from graticule.hooks.messages import TellsNames
from graticule.probes.core.fit import Predictions, Problem, with_and_without
from graticule.probes.core.resample import cluster_sums, effective_clusters, interval, resampled_r2
from graticule.probes.scores.metrics import mean, mean_r2, number_text, r2, with_interval
from graticule.probes.scores.significance import score_difference

STRUCTURE = "structure beyond the baselines"
NO_BETTER = "no better than the baselines"
NOT_DECIDED = "not decided"
MISSING = "not decided: model baselines missing"
NO_BETTER_THAN_MEAN = (
    "not decided: that baselines and probe together are better than the training mean is not shown"
)
HARDLY_VARIES = "not decided: the target hardly varies over the test rows"
MIN_APART = 3
"""Clusters of test rows that must differ from the most frequent value: with fewer, one resample in twenty or
more holds that value alone."""
MIN_EFFECTIVE_CLUSTERS = 30
STILL = 1e-2
"""Predictions that vary by less than this share of the target's standard deviation are a constant."""
AT_MEAN = "the probe's best fit is the training mean"


@renamed_fields(draws="n_bootstrap")
@dataclass(frozen=True)
class JudgeSettings:
    """What `sweep` was asked to judge by."""

    alphas: tuple[float, ...] | None = None
    """Ridge strengths asked for; None is the default grid."""
    min_gain: float = 0.01
    """The smallest gain called structure."""
    n_bootstrap: int = field(default=2000, metadata={"saved_as": "draws"})
    """Of the bootstrap."""
    seed: int = 0
    """Of the bootstrap and of the shuffled targets."""

    def __post_init__(self) -> None:
        """Raises `LimitError` for a setting out of its range."""
        check_several("alphas", "alpha", self.alphas)
        check_limits(min_gain=self.min_gain, n_bootstrap=self.n_bootstrap, seed=self.seed)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> JudgeSettings:
        """Settings out of JSON, where a tuple is a list."""
        alphas = saved["alphas"]
        return cls(
            None if alphas is None else tuple(float(a) for a in alphas),
            float(saved["min_gain"]),
            int(saved["draws"]),
            int(saved["seed"]),
        )


@renamed_fields(words="label")
@dataclass(frozen=True)
class Verdict(TellsNames):
    """Whether the probe holds structure that the baselines do not, in numbers and in words."""

    metric: str
    """``r2``: mean over the targets; on indicator columns of categories it is the Brier skill."""
    score: float
    """The probe alone on test rows."""
    surface: float
    """The stack of all baselines on test rows."""
    gain: float
    """Test score of the stack with the probe added, minus ``surface``."""
    ci95: tuple[float, float]
    """Of the gain: paired bootstrap over clusters of test rows with the fits fixed."""
    gain_by_target: dict[str, float]
    """The gain of each target; NaN where it is constant over the test rows."""
    margin: float
    """The probe's score minus that of the best single baseline."""
    margin_ci95: tuple[float, float]
    """Of the margin, from the same resamples."""
    strongest_baseline: str | None
    """Picked by its out-of-fold score on training rows; None without baselines (then the training mean)."""
    min_gain: float
    """The smallest gain called structure."""
    clusters: int
    """Clusters of dependent rows among the test rows."""
    effective_clusters: float
    """(Σn)²/Σn² of their sizes."""
    label: str = field(metadata={"saved_as": "words"})
    """The verdict."""
    model_baselines: bool
    """Whether a baseline that reads the model (embedding, block 0, twin) was among them."""
    warnings: tuple[str, ...] = ()
    """What to keep in mind."""

    def summary(self) -> str:
        """A few lines for a terminal."""
        low, high = self.ci95
        few = f"{self.clusters} cluster{'' if self.clusters == 1 else 's'} of test rows"
        gain = f"{self.gain:+.3f} R², 95% interval {low:+.3f} to {high:+.3f}"
        if np.isnan([self.gain, low, high]).any():
            gain = with_interval(self.gain, self.ci95, few)
        margin = with_interval(self.margin, self.margin_ci95, few)
        against = self.strongest_baseline or "the training mean"
        surface = "stacked baselines'" if self.strongest_baseline else "training mean's (no baseline)"
        lines = [
            f"{self.label}: gain {gain}",
            f"over the {surface} {number_text(self.surface)}; structure needs a gain of {self.min_gain:g} "
            "and an interval above 0",
            f"probe alone {number_text(self.score)}, {margin} against {against}",
            f"{few} (effective {self.effective_clusters:.0f})",
            *(f"warning: {warning}" for warning in self.warnings),
        ]
        return "\n".join(lines)


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
    judged = verdict(
        problem.y[problem.train],
        problem.y[problem.test],
        predictions,
        baselines,
        test_clusters=problem.clusters[problem.test],
        target_names=problem.names,
        model_baselines=model_baselines,
        min_gain=settings.min_gain,
        n_bootstrap=settings.n_bootstrap,
        seed=settings.seed,
    )[0]
    if width is None or judged.label != NO_BETTER or least_seen(problem, width) < judged.min_gain:
        return judged
    if mean_r2(problem.y[problem.train], predictions.out_of_fold) > 0 and not still(predictions, problem):
        return judged
    return replace(judged, label=f"{NOT_DECIDED}: {AT_MEAN}")


def still(predictions: Predictions, problem: Problem) -> bool:
    """Whether predictions of test rows hardly vary, for any target: the fit is the training mean."""
    unit = problem.y[problem.train].std(axis=0)
    return bool((predictions.test.std(axis=0) < STILL * unit).all())


def least_seen(problem: Problem, width: int) -> float:
    """About the smallest share of the variance, spread over all directions, that leave-one-out would see.

    Among n rows and k directions the squared correlations with pure luck add up to k / n, give or take
    √(2k) / n: twice that stands out.
    """
    n = effective_clusters(np.bincount(problem.clusters[problem.train]))
    return 2 * float(np.sqrt(2 * min(width, n))) / n


@renamed(draws="n_bootstrap")
def verdict(
    y_train: Float[np.ndarray, "train target"],
    y_test: Float[np.ndarray, "test target"],
    probe: Predictions,
    baselines: Mapping[str, Predictions],
    *,
    test_clusters: Int[np.ndarray, " test"],
    target_names: Sequence[str],
    model_baselines: Collection[str],
    min_gain: float,
    n_bootstrap: int,
    seed: int,
) -> tuple[Verdict, Float[np.ndarray, "test target"]]:
    """The verdict, and the surface predictor's values on the test rows (for a table of predictions).

    **gain** is R²(stack of baselines and probe) − R²(stack of baselines) on test rows, both stacks fitted on
    out-of-fold training predictions. A gain over a surface that is worse than the mean counts only where the
    whole stack beats the training mean, too, in the same resamples: else nothing is decided. Nor is it where
    fewer than ``MIN_APART`` clusters of test rows have another value than the most frequent.
    **margin** is R²(probe) − R²(strongest baseline). R² is the metric for every kind of target, the mean over
    the columns of ``y``; for categories these are indicators, and R² is the Brier skill. ``model_baselines``
    names the baselines that read the model; if none of ``baselines`` is among them nothing is decided.

    Raises:
        ValueError: Where shapes do not fit, a value is not finite, or a setting is out of its range.
    """
    check_limits(min_gain=min_gain, n_bootstrap=n_bootstrap, seed=seed)
    everything = {**baselines, "probe": probe}
    if "probe" in baselines:
        raise ValueError("'probe' names the probe itself: call that baseline something else")
    _check(y_train, y_test, everything, test_clusters, target_names)
    surface, full = with_and_without(baselines, probe, y_train)
    scores = {name: mean_r2(y_train, p.out_of_fold) for name, p in baselines.items()}
    strongest = max(scores, key=lambda name: _rank(scores[name]), default=None)
    best = surface if strongest is None else baselines[strongest].test

    constant = np.tile(y_train.mean(axis=0), (len(y_test), 1))
    compared = {"surface": surface, "full": full, "probe": probe.test, "best": best, "mean": constant}
    sums = cluster_sums(y_test, compared, test_clusters)
    samples = resampled_r2(sums, n_bootstrap, seed)
    point = {name: r2(y_test, pred) for name, pred in compared.items()}
    by_target = score_difference(point["full"], point["surface"])
    gain, ci95 = mean(by_target), interval(score_difference(samples[:, 1], samples[:, 0]))
    beside_model = any(name in model_baselines for name in baselines)
    effective = effective_clusters(sums.n)
    label = label_of(gain, ci95, min_gain, beside_model)
    over_mean = mean(score_difference(point["full"], point["mean"]))
    lower = interval(score_difference(samples[:, 1], samples[:, 4]))[0]
    if label == STRUCTURE and not (over_mean >= min_gain and lower > 0):
        label = NO_BETTER_THAN_MEAN
    rare = {name: n for name, n in _apart(y_test, test_clusters, target_names).items() if 0 < n < MIN_APART}
    if label != MISSING and len(rare) == np.isfinite(by_target).sum() > 0:
        label = HARDLY_VARIES
    result = Verdict(
        metric="r2",
        score=mean(point["probe"]),
        surface=mean(point["surface"]),
        gain=gain,
        ci95=ci95,
        gain_by_target={name: float(g) for name, g in zip(target_names, by_target, strict=True)},
        margin=mean(score_difference(point["probe"], point["best"])),
        margin_ci95=interval(score_difference(samples[:, 2], samples[:, 3])),
        strongest_baseline=strongest,
        min_gain=min_gain,
        clusters=len(sums.n),
        effective_clusters=effective,
        label=label,
        model_baselines=beside_model,
        warnings=_warnings(effective, by_target, samples, target_names, rare),
    )
    return result, surface


def label_of(gain: float, ci95: tuple[float, float], min_gain: float, model_baselines: bool) -> str:
    """The verdict in words, by the gain and its interval; what is undefined decides nothing."""
    if not model_baselines:
        return MISSING
    if np.isnan([gain, *ci95]).any():
        return NOT_DECIDED
    if ci95[0] > 0 and gain >= min_gain:
        return STRUCTURE
    return NO_BETTER if ci95[1] < min_gain else NOT_DECIDED


def _warnings(
    effective: float,
    by_target: np.ndarray,
    samples: np.ndarray,
    target_names: Sequence[str],
    rare: Mapping[str, int],
) -> tuple[str, ...]:
    warnings: list[str] = []
    if effective < MIN_EFFECTIVE_CLUSTERS:
        warnings.append(
            f"only {effective:.1f} effective clusters of test rows (fewer than {MIN_EFFECTIVE_CLUSTERS}): "
            "the interval is too narrow to lean on"
        )
    constant = [name for name, g in zip(target_names, by_target, strict=True) if np.isnan(g)]
    if constant:
        warnings.append(f"constant over the test rows, so left out of the mean: {', '.join(constant[:5])}")
    if rare:
        names = ", ".join(f"{name} ({count})" for name, count in list(rare.items())[:5])
        warnings.append(
            f"fewer than {MIN_APART} clusters of test rows differ from the most frequent value of {names}: "
            "what its scores say is luck; more of them in the test part (split=) can decide"
        )
    undefined = int(np.isnan(samples).any(axis=1).sum())
    if undefined:
        warnings.append(
            f"{undefined} of {len(samples)} resamples held one target value only and were left out"
        )
    return tuple(warnings)


def _apart(y: np.ndarray, clusters: np.ndarray, target_names: Sequence[str]) -> dict[str, int]:
    """Target → clusters of rows with another value than its most frequent one."""
    out: dict[str, int] = {}
    for name, column in zip(target_names, y.T, strict=True):
        values, counts = np.unique(column, return_counts=True)
        out[name] = len(np.unique(clusters[column != values[counts.argmax()]]))
    return out


def _check(
    y_train: np.ndarray,
    y_test: np.ndarray,
    predictions: Mapping[str, Predictions],
    test_clusters: np.ndarray,
    target_names: Sequence[str],
) -> None:
    if not len(y_test) == len(test_clusters):
        raise ValueError(f"{len(y_test)} test rows but {len(test_clusters)} cluster labels")
    if not y_train.shape[1] == y_test.shape[1] == len(target_names):
        raise ValueError(
            f"y has {y_train.shape[1]} (train) and {y_test.shape[1]} (test) columns for "
            f"{len(target_names)} target names"
        )
    for part, y in (("training", y_train), ("test", y_test)):
        if not np.isfinite(y).all():
            row, column = np.argwhere(~np.isfinite(y))[0]
            raise ValueError(
                f"the target {target_names[column]!r} of {part} row {row} is {y[row, column]}: drop such rows"
            )
    for name, pred in predictions.items():
        for part, y, values in (
            ("out-of-fold", y_train, pred.out_of_fold),
            ("test", y_test, pred.test),
        ):
            if values.shape != y.shape:
                raise ValueError(f"{part} predictions of {name!r} have shape {values.shape}, y has {y.shape}")
            if not np.isfinite(values).all():
                row = int(np.argwhere(~np.isfinite(values))[0][0])
                raise ValueError(f"{part} predictions of {name!r} are not finite at row {row}")


def _rank(score: float) -> float:
    return -np.inf if np.isnan(score) else score
