"""The verdict in bits on many targets of two classes at once: that of `bits_verdict` on each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

from graticule.probes.calibration.components import Chosen
from graticule.probes.calibration.judging import BitSums, Judged
from graticule.probes.core.bits import SHARE_OF_ENTROPY, bits_gained, bits_label
from graticule.probes.core.intervals import mean_of
from graticule.probes.core.labels import NO_BETTER_THAN_BEST, STRUCTURE
from graticule.probes.core.logit_stack import entropy_bits, logit_stack, row_bits, shares
from graticule.probes.scores.significance import score_difference


def classes_of(y: Float[np.ndarray, "target row"]) -> Float[np.ndarray, "target row"]:
    """0 and 1 for the smaller and the larger of the two values that every target takes."""
    middle = (y.min(axis=1, keepdims=True) + y.max(axis=1, keepdims=True)) / 2
    return (y > middle).astype(np.float64)


def logit_stacks(
    y: Float[np.ndarray, "target train"],
    baselines: Mapping[str, Chosen],
    probe: Chosen | None,
) -> dict[str, Float[np.ndarray, "target test"]]:
    """Probabilities of the larger value on test rows, by the stacks `surface` and `full`, and by the
    strongest baseline, `best`.

    Args:
        y: Targets of training rows, each of two values.
        baselines: What the stack `surface` is made of.
        probe: What `full` has as well; None leaves that out.

    Returns:
        Test probabilities of every target.
    """
    stacked = {"surface": dict(baselines)}
    if probe is not None:
        stacked["full"] = {**baselines, "probe": probe}
    classes = classes_of(y)
    out: dict[str, np.ndarray] = {}
    for name, members in stacked.items():
        rows = len(next(iter(members.values())).test[0])
        out[name] = np.empty((len(y), rows))
        for t, own in enumerate(classes):
            fit = logit_stack({key: one.train[t][:, None] for key, one in members.items()}, own[:, None])
            tests = {key: one.test[t][:, None] for key, one in members.items()}
            out[name][t] = fit.probabilities(tests, rows)[:, 0]
    if probe is not None:
        out["best"] = np.stack([_strongest(own[:, None], baselines, t) for t, own in enumerate(classes)])
    return out


def _strongest(
    y: Float[np.ndarray, "train 1"], baselines: Mapping[str, Chosen], t: int
) -> Float[np.ndarray, " test"]:
    """Probabilities by the baseline with the fewest bits a row on training rows, as `class_odds` has them."""
    best = max(baselines.values(), key=lambda one: bits_gained(y, one.train[t][:, None]))
    stack = logit_stack({"best": best.train[t][:, None]}, y)
    return stack.probabilities({"best": best.test[t][:, None]})[:, 0]


def judge_bits(
    y: Float[np.ndarray, "target train"],
    y_test: Float[np.ndarray, "target test"],
    stacked: Mapping[str, Float[np.ndarray, "target test"]],
    clusters: Int[np.ndarray, " test"],
    *,
    min_gain: float | None,
    model_baselines: bool,
) -> Judged:
    """Gains in bits a row, their intervals and labels, all targets at once.

    Args:
        y: Targets of training rows, each of two values.
        y_test: Targets of the test rows.
        stacked: What `surface`, `full` and `best` of `logit_stacks` say of them.
        clusters: of the test rows.
        min_gain: the smallest gain called structure; None is a hundredth of the entropy of the training rows.
        model_baselines: whether a baseline reads the model.

    Returns:
        A verdict a target.
    """
    before, classes = classes_of(y), classes_of(y_test)
    spent = {name: np.empty(classes.shape) for name in ("surface", "full", "best", "nothing")}
    for t, own in enumerate(classes):
        usual = np.full((len(own), 1), float(shares(before[t][:, None])[0]))
        for name in ("surface", "full", "best"):
            spent[name][t] = row_bits(own[:, None], stacked[name][t][:, None])
        spent["nothing"][t] = row_bits(own[:, None], usual)
    gained = score_difference(spent["surface"], spent["full"])
    added, over, over_best = (
        mean_of(rows.T, clusters)
        for rows in (gained, spent["nothing"] - spent["full"], spent["best"] - spent["full"])
    )

    def label(t: int) -> str:
        least = SHARE_OF_ENTROPY * entropy_bits(before[t][:, None]) if min_gain is None else min_gain
        words = bits_label(
            (float(added.value[t]), (float(added.low[t]), float(added.high[t]))),
            (float(over.value[t]), float(over.low[t])),
            classes[t][:, None],
            clusters,
            least,
            model_baselines,
            ("the target",),
        )
        beaten = over_best.value[t] >= least and over_best.low[t] > 0
        return words if beaten or words != STRUCTURE else NO_BETTER_THAN_BEST

    labels = tuple(label(t) for t in range(len(classes)))
    surface = (spent["nothing"] - spent["surface"]).mean(axis=1)
    sums = BitSums.of(gained, clusters)
    return Judged(surface, added.value, added.low, added.high, labels, sums)


def known_bits(
    y: Float[np.ndarray, "target test"],
    surface: Float[np.ndarray, "target test"],
    hidden: Float[np.ndarray, "target test"],
) -> Float[np.ndarray, " target"]:
    """Bits a row that a hidden part would add, were it known, by logistic regression beside the surface.

    Args:
        y: Targets of test rows, each of two values.
        surface: Probabilities by the stacked baselines.
        hidden: The hidden part.

    Returns:
        One gain a target.
    """
    out = np.empty(len(y))
    for t, own in enumerate(classes_of(y)):
        odds, column = np.log(surface[t] / (1 - surface[t]))[:, None], own[:, None]
        alone, both = {"surface": odds}, {"surface": odds, "hidden": hidden[t][:, None]}
        one, other = (
            row_bits(column, logit_stack(given, column, 1e-3).probabilities(given)).mean()
            for given in (alone, both)
        )
        out[t] = one - other if np.ptp(hidden[t]) > 0 else 0.0
    return out
