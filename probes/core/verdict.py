"""What the probe adds to everything that could be read off the string: the verdict."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from graticule.hooks.calls import renamed, renamed_fields
from graticule.hooks.limits import check_limits, check_several
from graticule.hooks.messages import TellsNames
from graticule.probes.core.by_rank import RankGain, rank_gain
from graticule.probes.core.dealing import Dealing
from graticule.probes.core.fit import Predictions, check_predictions, with_and_without
from graticule.probes.core.intervals import mean_r2_estimate
from graticule.probes.core.labels import (
    AT_MEAN,
    HARDLY_VARIES,
    MISSING,
    NO_BETTER_THAN_BEST,
    NO_BETTER_THAN_MEAN,
    NOT_DECIDED,
    STRUCTURE,
    label_of,
    of_null,
    standing,
)
from graticule.probes.core.labels import BETTER_BY_LITTLE as BETTER_BY_LITTLE
from graticule.probes.core.labels import NO_BETTER as NO_BETTER
from graticule.probes.core.power import RowsNeeded, bits_variance, design_effect
from graticule.probes.core.resample import cluster_sums, effective_clusters
from graticule.probes.core.selection import unselected_gain
from graticule.probes.core.undecided import MIN_APART, RULED, clusters_apart, largest_share
from graticule.probes.scores.metrics import mean, mean_r2, number_text, r2, with_interval
from graticule.probes.scores.significance import score_difference

Score = Literal["r2", "bits"]
"""What a gain is measured in."""
R2_GAIN = 0.01
"""The smallest gain of R² called structure, where nothing else is asked."""
MIN_EFFECTIVE_CLUSTERS = 30
SAME = 1e-4
"""A gain that with its error is below this is of stacks that say the same: what iterations leave."""
_WIDE = "the interval is as wide as so few make it"
_LITTLE = 0.1  # of what there is to say: where the baselines leave less, little could show
_MUCH = 0.8  # of the gain: what is corrected by less than the rest is not worth a line


@renamed_fields(draws="n_bootstrap")
@dataclass(frozen=True)
class JudgeSettings:
    """What `sweep` was asked to judge by."""

    alphas: tuple[float, ...] | None = None
    """Ridge strengths asked for; None is the default grid."""
    min_gain: float | None = None
    """The smallest gain called structure; None is `R2_GAIN`, or in bits a hundredth of the entropy of the
    labels."""
    n_bootstrap: int = field(default=2000, metadata={"saved_as": "draws"})
    """Of the bootstrap."""
    seed: int = 0
    """Of the bootstrap and of the shuffled targets."""
    score: Score = "r2"
    """What the gain is measured in: `r2`, or for classes `bits` a row."""
    crossfit: bool | None = None
    """Whether every row is tested; None is where the split was drawn and its test part is small."""

    def __post_init__(self) -> None:
        """Raises `LimitError` for a setting out of its range."""
        check_several("alphas", "alpha", self.alphas)
        check_limits(n_bootstrap=self.n_bootstrap, seed=self.seed)
        if self.min_gain is not None:
            check_limits(min_gain=self.min_gain)
        if self.score not in get_args(Score):
            raise ValueError(f"score={self.score!r}: expected 'bits' (of classes) or 'r2'")

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> JudgeSettings:
        """Settings out of JSON, where a tuple is a list."""
        alphas, least = saved["alphas"], saved["min_gain"]
        return cls(
            None if alphas is None else tuple(float(a) for a in alphas),
            None if least is None else float(least),
            int(saved["draws"]),
            int(saved["seed"]),
            saved.get("score", "r2"),  # which was all there was
            saved.get("crossfit", False),  # likewise
        )


@renamed_fields(words="label")
@dataclass(frozen=True)
class Verdict(TellsNames):
    """Whether the probe holds structure that the baselines do not, in numbers and in words."""

    metric: str
    """``r2``: mean over the targets; on indicator columns of categories it is the Brier skill. ``bits``: bits
    a row of classes that calibrated probabilities save, against the shares of the training rows."""
    score: float
    """The probe alone on test rows."""
    surface: float
    """The stack of all baselines on test rows."""
    gain: float
    """Test score of the stack with the probe added, minus ``surface``."""
    ci95: tuple[float, float]
    """Of the gain, over clusters of test rows with the fits fixed: leaving one out at a time, Student's t."""
    gain_by_target: dict[str, float]
    """The gain of each target; NaN where it is constant over the test rows."""
    margin: float
    """The probe's score minus that of the best single baseline."""
    margin_ci95: tuple[float, float]
    """Of the margin, likewise."""
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
    entropy: float | None = None
    """Bits a row that the classes' training shares alone spend on the tested rows, which scores are counted
    from; None in R²."""
    se: float | None = None
    """Standard error of the gain; this and all below is None in what 0.1 saved."""
    df: float | None = None
    """Degrees of freedom of `se`."""
    rows: int | None = None
    """Test rows."""
    design: float | None = None
    """Design effect: of how many dependent test rows one independent one would say as much."""
    largest_share: float | None = None
    """Share of the target's squares that the largest 1% of test rows hold, where they can be told."""
    by_rank: RankGain | None = None
    """The gain in ranks, where a few rows rule the squares."""
    unselected_gain: float | None = None
    """Of a gain called structure: its median-unbiased estimate, had it not been picked for passing."""
    dealing: Dealing | None = None
    """Of a cross-fitted verdict, whose every row was tested; None for one test part."""

    def __post_init__(self) -> None:
        """Undefined ends of an interval are one object, so that equal verdicts are equal."""
        for name in ("ci95", "margin_ci95"):
            ends = tuple(np.nan if end != end else end for end in getattr(self, name))
            object.__setattr__(self, name, ends)

    @property
    def left(self) -> float:
        """What the baselines leave: 1 − surface, or entropy − surface in bits."""
        return (1.0 if self.entropy is None else self.entropy) - self.surface

    @property
    def adds_nothing(self) -> bool:
        """Whether the stacks with and without the probe say the same of every row, to rounding: what varies
        so little has no interval."""
        return self.se is not None and abs(self.gain) + 2 * self.se < SAME

    def gain_text(self, few: str) -> str:
        """`+0.123 [+0.100, +0.150]`, or why there is no interval.

        Args:
            few: What there is too little of, `2 test rows`.

        Returns:
            Words without a NaN.
        """
        if self.adds_nothing:
            return "+0.000, the same on every row: without an interval"
        return with_interval(self.gain, self.ci95, few)

    @property
    def saturated(self) -> bool:
        """Whether the baselines leave less than could be called structure, so that none could show."""
        return self.left < self.min_gain and self.label != STRUCTURE

    @property
    def gain_of_rest(self) -> float:
        """gain / left, the share of what the baselines leave. NaN where they leave nothing, or less."""
        return self.gain / self.left if self.left > 0 and self.gain <= self.left else float("nan")

    @property
    def rows_needed(self) -> RowsNeeded | None:
        """What it would take to see a gain; None for what 0.1 saved, without scores, and in bits where the
        probe adds nothing."""
        if self.rows is None or self.design is None or self.surface != self.surface:
            return None
        per = self.rows / self.effective_clusters
        if self.metric == "r2":
            return RowsNeeded(self.surface, per, self.design)
        if self.se is None or self.entropy is None or self.adds_nothing:
            return None
        seen = self.se**2 * self.rows / self.design
        left = max(self.entropy - self.surface, 1e-6)
        per_bit, noise = bits_variance(seen, self.gain)
        return RowsNeeded(1 - left, per, self.design, self.rows * noise, per_bit)

    @property
    def unit(self) -> str:
        """What the scores are in: `R²`, or `bits`."""
        return score_unit(self.metric)

    def summary(self) -> str:
        """A few lines for a terminal; where `saturated`, the second says so."""
        low, high = self.ci95
        of = "test rows" if self.dealing is None else "rows"
        few = f"{self.clusters} cluster{'' if self.clusters == 1 else 's'} of {of}"
        unit = "R²" if self.entropy is None else "bits a row"
        gain = f"{self.gain:+z.3f} {unit}, 95% interval {low:+z.3f} to {high:+z.3f}"
        if self.adds_nothing:
            gain = f"+0.000 {unit}: the probe adds nothing to any row, and no interval can be had from that"
        elif np.isnan([self.gain, low, high]).any():
            gain = with_interval(self.gain, self.ci95, few)
        margin = with_interval(self.margin, self.margin_ci95, few)
        against = self.strongest_baseline or "the training mean"
        surface = "stacked baselines'" if self.strongest_baseline else "training mean's (no baseline)"
        layers = "" if self.dealing is None else f" ({self.dealing.by_fold})"
        whose = "the probe's " if of_null(self.label) else ""
        by_shares = "(what the classes' training shares alone spend)"
        spent = "" if self.entropy is None else f" of {self.entropy:z.3f} bits a row {by_shares}"
        rest, wide = self.gain_of_rest, f": {_WIDE}" if self.adds_nothing else ""
        of_rest = (
            f" (the gain is {rest:.1%} of what they leave)" if rest > 0 and not self.adds_nothing else ""
        )
        lines = [
            f"{self.label}: {whose}gain {gain}{layers}",
            *self._saturated(),
            f"over the {surface} {number_text(self.surface)}{spent}, with "
            f"the probe {number_text(self.surface + self.gain)}{of_rest}; structure needs a gain of "
            f"{self._needed()} and an interval above 0",
            f"probe alone {number_text(self.score)} {self.unit}, {margin} against {against}",
            f"{few} (effective {self.effective_clusters:.0f})",
            *([] if self.dealing is None else self.dealing.lines()),
            *self._beside(few),
            *(f"warning: {one.removesuffix(wide)}" for one in self.warnings),
        ]
        return "\n".join(lines)

    def _saturated(self) -> list[str]:
        whole = 1.0 if self.entropy is None else self.entropy
        if self.label == NO_BETTER and self.min_gain <= self.left < _LITTLE * whole:
            return [
                f"the baselines leave {number_text(self.left)} of {number_text(whole)} {self.unit}: that "
                "nothing is read beyond them is little evidence that the model lacks the concept"
            ]
        if not self.saturated:
            return []
        return [
            f"the baselines leave {number_text(max(self.left, 0.0))} {self.unit}, less than a gain that "
            "counts: nothing beyond them could show here, and this is no evidence that the model lacks the "
            "concept; next: hold out words or groups (cluster=), take harder texts, or read the confounders"
        ]

    def _beside(self, few: str) -> list[str]:
        """What stands beside the gain where it needs it: a rank score, an estimate without selection."""
        lines: list[str] = []
        if self.by_rank is not None and self.largest_share is not None:
            added = with_interval(self.by_rank.gain, self.by_rank.ci95, few)
            lines.append(
                f"the largest 1% of test rows hold {self.largest_share:.0%} of the squares; in ranks among "
                f"the training rows the gain is {added} over {number_text(self.by_rank.surface)}"
            )
        if self.unselected_gain is not None and self.unselected_gain < _MUCH * self.gain:
            lines.append(
                f"a gain that only just passes is mostly too large: without that selection about "
                f"{self.unselected_gain:+z.3f} (median-unbiased; the interval leaves the selection out)"
            )
        return lines

    def _needed(self) -> str:
        return f"{self.min_gain:g}" if self.entropy is None else f"{self.min_gain:.2g} bits"


def score_unit(metric: str) -> str:
    """`R²`, or `bits`."""
    return "bits" if metric == "bits" else "R²"


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
    whole stack beats the training mean, too: else nothing is decided. Nor where it does not beat the
    strongest baseline alone as well, which a stack of few rows may be worse than. Nor is it where
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
    check_predictions(y_train, y_test, everything, test_clusters, target_names)
    surface, full = with_and_without(baselines, probe, y_train)
    scores = {name: mean_r2(y_train, p.out_of_fold) for name, p in baselines.items()}
    strongest = max(scores, key=lambda name: _rank(scores[name]), default=None)
    best = surface if strongest is None else baselines[strongest].test

    constant = np.tile(y_train.mean(axis=0), (len(y_test), 1))
    compared = {"surface": surface, "full": full, "probe": probe.test, "best": best, "mean": constant}
    sums = cluster_sums(y_test, compared, test_clusters)
    added = mean_r2_estimate(sums, "full", "surface")
    point = {name: r2(y_test, pred) for name, pred in compared.items()}
    by_target = score_difference(point["full"], point["surface"])
    gain, ci95 = mean(by_target), added.ci95
    beside_model = any(name in model_baselines for name in baselines)
    effective = effective_clusters(sums.n)
    label = label_of(gain, ci95, min_gain, beside_model)
    over_mean = mean(score_difference(point["full"], point["mean"]))
    lower = mean_r2_estimate(sums, "full", "mean").ci95[0]
    if label == STRUCTURE and not (over_mean >= min_gain and lower > 0):
        label = NO_BETTER_THAN_MEAN
    over_best = mean_r2_estimate(sums, "full", "best")
    if label == STRUCTURE and not (float(over_best.value) >= min_gain and over_best.low > 0):
        label = NO_BETTER_THAN_BEST
    shares = largest_share(y_test)
    if label != MISSING:
        label = standing(label, len(y_test), effective, shares, mean(point["surface"]), target_names)
    if label != MISSING and not np.ptp(probe.test, axis=0).any():
        label = f"{NOT_DECIDED}: {AT_MEAN}"
    rare = {
        name: n
        for name, n in clusters_apart(y_test, test_clusters, target_names).items()
        if 0 < n < MIN_APART
    }
    if label != MISSING and effective >= MIN_APART and len(rare) == np.isfinite(by_target).sum() > 0:
        label = HARDLY_VARIES
    share = float(shares.max(initial=0.0))
    se, df = float(added.se), float(added.df)
    result = Verdict(
        metric="r2",
        score=mean(point["probe"]),
        surface=mean(point["surface"]),
        gain=gain,
        ci95=ci95,
        gain_by_target={name: float(g) for name, g in zip(target_names, by_target, strict=True)},
        margin=mean(score_difference(point["probe"], point["best"])),
        margin_ci95=mean_r2_estimate(sums, "probe", "best").ci95,
        strongest_baseline=strongest,
        min_gain=min_gain,
        clusters=len(sums.n),
        effective_clusters=effective,
        label=label,
        model_baselines=beside_model,
        warnings=_warnings(effective, by_target, target_names, rare),
        se=None if np.isnan(se) else se,
        df=df,
        rows=len(y_test),
        design=design_effect(y_test - surface, full - surface, test_clusters),
        largest_share=share if share > 0 else None,
        by_rank=rank_gain(y_train, y_test, probe, baselines, test_clusters) if share > RULED else None,
        unselected_gain=unselected_gain(gain, se, df, min_gain) if label == STRUCTURE else None,
    )
    return result, surface


def few_effective(effective: float, of: str = "test rows") -> tuple[str, ...]:
    """A warning where clusters are few.

    Args:
        effective: Clusters.
        of: what they are of.

    Returns:
        One sentence, or none.
    """
    if effective >= MIN_EFFECTIVE_CLUSTERS:
        return ()
    return (
        f"only {effective:.1f} effective clusters of {of} (fewer than {MIN_EFFECTIVE_CLUSTERS}): {_WIDE}",
    )


def _warnings(
    effective: float,
    by_target: np.ndarray,
    target_names: Sequence[str],
    rare: Mapping[str, int],
) -> tuple[str, ...]:
    warnings = [*few_effective(effective)]
    constant = [name for name, g in zip(target_names, by_target, strict=True) if np.isnan(g)]
    if constant:
        warnings.append(f"constant over the test rows, so left out of the mean: {', '.join(constant[:5])}")
    if rare:
        names = ", ".join(f"{name} ({count})" for name, count in list(rare.items())[:5])
        warnings.append(
            f"fewer than {MIN_APART} clusters of test rows differ from the most frequent value of {names}: "
            "what its scores say is luck; more of them in the test part (split=) can decide"
        )
    return tuple(warnings)


def _rank(score: float) -> float:
    return -np.inf if np.isnan(score) else score
