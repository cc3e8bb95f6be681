"""The verdict on classes: what the probe adds to the baselines in bits a row, by calibrated probabilities."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from graticule.probes.core.fit import Predictions, Problem, check_predictions
from graticule.probes.core.intervals import mean_of
from graticule.probes.core.labels import (
    HARDLY_VARIES,
    MISSING,
    NO_BETTER_THAN_BEST,
    NO_BETTER_THAN_MEAN,
    STRUCTURE,
    label_of,
    standing,
)
from graticule.probes.core.logit_stack import PENALTY, entropy_bits, logit_stack, row_bits, shares
from graticule.probes.core.power import design_of_means
from graticule.probes.core.resample import effective_clusters
from graticule.probes.core.selection import unselected_gain
from graticule.probes.core.undecided import MIN_APART
from graticule.probes.core.verdict import Verdict, few_effective
from graticule.probes.scores.metrics import accuracy
from graticule.probes.scores.significance import score_difference

SHARE_OF_ENTROPY = 0.01
"""The smallest gain called structure, as a share of the labels' entropy: of the training rows, or of all rows
where all are tested."""
_PROBE = "probe"


@dataclass(frozen=True)
class ClassOdds:
    """What stacks say of the test rows, each a calibrated probability of class 1 or of every class."""

    surface: Float[np.ndarray, "test column"]
    """The stack of all baselines."""
    full: Float[np.ndarray, "test column"]
    """The stack of these and the probe."""
    probe: Float[np.ndarray, "test column"]
    """The probe alone."""
    probe_train: Float[np.ndarray, "train column"]
    """The probe alone, of training rows by its out-of-fold scores."""
    best: Float[np.ndarray, "test column"]
    """The strongest baseline alone; without baselines the training shares."""
    shares: Float[np.ndarray, "test column"]
    """The training shares, on every row."""
    strongest: str | None
    """The baseline with the fewest bits a row on training rows, out of fold."""


def class_odds(
    problem: Problem,
    predictions: Predictions,
    baselines: Mapping[str, Predictions],
    penalty: float = PENALTY,
) -> ClassOdds:
    """Probabilities of the test rows, all maps to them fitted on out-of-fold scores of training rows.

    Args:
        problem: Classes and split.
        predictions: The probe's scores.
        baselines: Theirs.
        penalty: of the stacks, as `logit_stack` takes it.

    Returns:
        What each stack says.
    """
    y = problem.y[problem.train]
    everything = {**baselines, _PROBE: predictions}
    folds = {name: p.out_of_fold for name, p in everything.items()}
    tests = {name: p.test for name, p in everything.items()}

    def of(*names: str) -> Float[np.ndarray, "test column"]:
        stack = logit_stack({name: folds[name] for name in names}, y, penalty)
        return stack.probabilities(tests, len(problem.test))

    gained = {name: bits_gained(y, folds[name]) for name in baselines}
    strongest = max(gained, key=lambda name: gained[name], default=None)
    return ClassOdds(
        of(*baselines),
        of(*everything),
        of(_PROBE),
        logit_stack({_PROBE: folds[_PROBE]}, y, penalty).probabilities(folds),
        of() if strongest is None else of(strongest),
        np.tile(shares(y), (len(problem.test), 1)),
        strongest,
    )


def row_gains(
    problem: Problem, predictions: Predictions, baselines: Mapping[str, Predictions]
) -> Float[np.ndarray, " test"]:
    """Bits that the probe adds to the stack of baselines on every test row; exactly 0 but for rounding."""
    odds, y = class_odds(problem, predictions, baselines), problem.y[problem.test]
    return score_difference(row_bits(y, odds.surface), row_bits(y, odds.full))


def bits_gained(y: Float[np.ndarray, "row column"], out_of_fold: Float[np.ndarray, "row column"]) -> float:
    """Bits a row that out-of-fold scores of training rows save, against their classes' shares."""
    stack = logit_stack({_PROBE: out_of_fold}, y)
    spent = row_bits(y, stack.probabilities({_PROBE: out_of_fold})).mean()
    return float(row_bits(y, np.tile(shares(y), (len(y), 1))).mean() - spent)


def class_test_scores(problem: Problem, predictions: Predictions) -> dict[str, float]:
    """Test scores of calibrated scores: `bits` saved, `log_loss` (nats) and `accuracy`."""
    saved, p = saved_bits(problem, predictions), calibrated(problem, predictions)
    y = problem.y[problem.test]
    nats = float(np.log(2) * row_bits(y, p).mean())
    return {"bits": float(saved.mean()), "log_loss": nats, "accuracy": accuracy(y, p)}


def calibrated(problem: Problem, predictions: Predictions) -> Float[np.ndarray, "test column"]:
    """Probabilities of test rows from scores, by a map fitted on out-of-fold scores of training rows."""
    stack = logit_stack({_PROBE: predictions.out_of_fold}, problem.y[problem.train])
    return stack.probabilities({_PROBE: predictions.test})


def saved_bits(problem: Problem, predictions: Predictions) -> Float[np.ndarray, " test"]:
    """Bits that calibrated scores save on every test row, against the training shares."""
    y, y_test = problem.y[problem.train], problem.y[problem.test]
    nothing = row_bits(y_test, np.tile(shares(y), (len(y_test), 1)))
    return nothing - row_bits(y_test, calibrated(problem, predictions))


def bits_verdict(
    problem: Problem,
    predictions: Predictions,
    baselines: Mapping[str, Predictions],
    *,
    model_baselines: Collection[str],
    min_gain: float | None,
) -> Verdict:
    """The verdict on a target of two classes (one column of 0 and 1) or several (a column each).

    **gain** is the mean over test rows of log₂ p(class), stack with the probe, minus the same of the stack of
    baselines: bits a row. All predictors' scores become probabilities in logistic stacks (`logit_stack`)
    fitted on out-of-fold training scores. The interval is `mean_of` the rows' differences, over
    clusters. As with R², a gain counts only where the whole stack also beats the training shares and the
    strongest baseline alone, and not where fewer than ``MIN_APART`` clusters of test rows are of another
    class than the most frequent.

    Args:
        problem: Classes, split and clusters.
        predictions: What is judged: scores that rise with the class.
        baselines: What it stands against, likewise.
        model_baselines: Names of the baselines that read the model.
        min_gain: The smallest gain called structure, in bits; None is a hundredth of the entropy of the
            training labels.

    Returns:
        The verdict, its ``metric`` being ``bits``.

    Raises:
        ValueError: Shapes do not fit, or a value is not finite.
    """
    y, y_test, clusters = problem.y[problem.train], problem.y[problem.test], problem.clusters[problem.test]
    check_predictions(y, y_test, {**baselines, _PROBE: predictions}, clusters, problem.names)
    least = SHARE_OF_ENTROPY * entropy_bits(y) if min_gain is None else min_gain
    odds = class_odds(problem, predictions, baselines)
    spent = {name: row_bits(y_test, getattr(odds, name)) for name in ("surface", "full", "probe", "best")}
    nothing = row_bits(y_test, odds.shares)
    gained = score_difference(spent["surface"], spent["full"])
    over_shares = nothing - spent["full"]
    added = mean_of(gained, clusters)
    ci95, gain = added.ci95, float(gained.mean())
    beside_model = any(name in model_baselines for name in baselines)
    over = float(over_shares.mean()), mean_of(over_shares, clusters).ci95[0]
    label = bits_label((gain, ci95), over, y_test, clusters, least, beside_model, problem.names)
    over_best = spent["best"] - spent["full"]
    if label == STRUCTURE and not (over_best.mean() >= least and mean_of(over_best, clusters).low > 0):
        label = NO_BETTER_THAN_BEST
    apart = _apart(y_test, clusters)
    effective = effective_clusters(np.bincount(np.unique(clusters, return_inverse=True)[1]))
    se, df = float(added.se), float(added.df)
    margin = spent["best"] - spent["probe"]
    return Verdict(
        metric="bits",
        score=float((nothing - spent["probe"]).mean()),
        surface=float((nothing - spent["surface"]).mean()),
        gain=gain,
        ci95=ci95,
        gain_by_target=by_class(gained, y_test, problem.names),
        margin=float(margin.mean()),
        margin_ci95=mean_of(margin, clusters).ci95,
        strongest_baseline=odds.strongest,
        min_gain=least,
        clusters=len(np.unique(clusters)),
        effective_clusters=effective,
        label=label,
        model_baselines=beside_model,
        warnings=_warnings(effective, apart),
        entropy=float(nothing.mean()),
        se=None if np.isnan(se) else se,
        df=df,
        rows=len(y_test),
        design=design_of_means(gained, clusters),
        unselected_gain=unselected_gain(gain, se, df, least) if label == STRUCTURE else None,
    )


def bits_label(
    gain: tuple[float, tuple[float, float]],
    over: tuple[float, float],
    y: Float[np.ndarray, "test column"],
    clusters: Int[np.ndarray, " test"],
    min_gain: float,
    model_baselines: bool,
    names: Sequence[str],
) -> str:
    """The verdict in words, by gain and interval and by what leaves them without meaning.

    Args:
        gain: in bits, and its interval.
        over: what the whole stack saves against the training shares, and the lower end of its interval.
        y: Classes of the test rows.
        clusters: of them.
        min_gain: the smallest gain called structure.
        model_baselines: whether a baseline reads the model.
        names: of the classes.

    Returns:
        Words.
    """
    label = label_of(*gain, min_gain, model_baselines)
    if label == STRUCTURE and not (over[0] >= min_gain and over[1] > 0):
        label = NO_BETTER_THAN_MEAN
    if label == MISSING:
        return label
    effective = effective_clusters(np.bincount(np.unique(clusters, return_inverse=True)[1]))
    # classes are bounded: no few of them rule
    label = standing(label, len(y), effective, np.zeros(1), 0.0, names)
    return HARDLY_VARIES if effective >= MIN_APART and _apart(y, clusters) < MIN_APART else label


def by_class(
    gained: Float[np.ndarray, " row"], y: Float[np.ndarray, "row column"], names: tuple[str, ...]
) -> dict[str, float]:
    """Bits a row gained on the rows of each class; of two classes, on all rows.

    Args:
        gained: Bits of every row.
        y: Their classes.
        names: of the columns.

    Returns:
        A mean a class; NaN for one without rows.
    """
    if y.shape[1] == 1:
        return {names[0]: float(gained.mean())}
    counts = y.sum(axis=0)
    means = np.where(counts > 0, gained @ y / np.maximum(counts, 1), np.nan)
    return {name: float(value) for name, value in zip(names, means, strict=True)}


def _apart(y: Float[np.ndarray, "row column"], clusters: Int[np.ndarray, " row"]) -> int:
    """Clusters with a row of another class than the most frequent one."""
    taken = (y[:, 0] > 0.5).astype(np.int64) if y.shape[1] == 1 else y.argmax(axis=1)
    return len(np.unique(clusters[taken != np.bincount(taken).argmax()]))


def _warnings(effective: float, apart: int) -> tuple[str, ...]:
    warnings = [*few_effective(effective)]
    if apart < MIN_APART:
        warnings.append(
            f"fewer than {MIN_APART} clusters of test rows are of another class than the most frequent "
            f"({apart}): what its scores say is luck; more of them in the test part (split=) can decide"
        )
    return tuple(warnings)
