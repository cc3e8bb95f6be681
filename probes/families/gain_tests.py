"""One finding's test of a gain above 0, cluster by cluster, so that many findings can be tested together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from graticule.probes.compare import gain_p, saved_baselines
from graticule.probes.core.assembly import GAINED
from graticule.probes.core.bits import row_gains
from graticule.probes.core.crossfit import widening_of
from graticule.probes.core.findings import Findings
from graticule.probes.core.fit import with_and_without
from graticule.probes.core.intervals import mean_of
from graticule.probes.core.resample import cluster_sums
from graticule.probes.scores.significance import share_reaching

_ROUNDING = 1e-10
_AT_ONCE = 1 << 22  # statistics


@dataclass(frozen=True)
class GainTest:
    """What the clusters of test rows add to a gain, one by one, and how likely so much is by luck."""

    parts: Float[np.ndarray, " cluster"]
    """Each cluster's part of the gain; they add up to it, and have mean 0 where there is none."""
    p: float
    """One-sided, that the gain of these fitted predictors on fresh clusters is not above 0."""
    rows: str = ""
    """Which test rows they are: tests of the same rows are resampled together."""
    widening: float = 1.0
    """By what the gain varies more than its parts show, where folds that share rows were tested."""

    @classmethod
    def of_parts(cls, parts: Float[np.ndarray, " cluster"], rows: str = "") -> GainTest:
        """The test of clusters that are alike in size: Student's t of their parts."""
        return cls(parts, float(mean_of(parts, np.arange(len(parts))).p(two_sided=False)), rows)

    @property
    def gain(self) -> float:
        """What the probe adds to the surface on the test rows."""
        return float(self.parts.sum())

    @property
    def t(self) -> float:
        """The gain in its own standard errors."""
        total, squares = self.parts.sum(keepdims=True), np.square(self.parts).sum(keepdims=True)
        return float(studentised(total, squares, len(self.parts))[0]) / self.widening


def studentised(
    total: Float[np.ndarray, ...], squares: Float[np.ndarray, ...], n: int
) -> Float[np.ndarray, ...]:
    """Sums of `n` numbers in their standard errors, from the sums and the sums of squares.

    0 where all numbers are 0; NaN for fewer than two numbers.
    """
    if n < 2:
        return np.full(total.shape, np.nan)
    spread = (squares - np.square(total) / n) * n / (n - 1)
    varied = spread > 1e-24 * np.maximum(squares, np.finfo(np.float64).tiny)
    ratio = total / np.sqrt(np.where(varied, spread, 1.0))
    return np.where(varied, ratio, np.where(total == 0, 0.0, np.copysign(np.inf, total) + 0 * total))


def findings_test(findings: Findings) -> GainTest:
    """The test of the gain at the chosen point; no activations are needed.

    Of each target the squared errors that the probe saves, over the target's own sum of squares; their mean
    over the targets that vary is the gain; or of classes the bits that it saves. p is that of the verdict's
    interval.

    Args:
        findings: Of a sweep, loaded ones too.

    Returns:
        The test, with the test rows that it is of.

    Raises:
        ValueError: For findings that were saved before they held the baselines' predictions.
    """
    dealing = findings.verdict.dealing
    widening = 1.0 if dealing is None else widening_of(dealing.folds)
    return GainTest(_parts(findings), gain_p(findings), rows_of(findings), widening)


def _parts(findings: Findings) -> Float[np.ndarray, " cluster"]:
    """What each cluster of test rows, or of all rows of a cross-fitted gain, adds to it."""
    if findings.verdict.dealing is not None:
        rows = findings.predictions
        codes = np.unique(rows["cluster"], return_inverse=True)[1]
        return np.bincount(codes, rows[GAINED].to_numpy(np.float64))
    problem, baselines = findings.problem, saved_baselines(findings)
    train, test, predictions = problem.train, problem.test, findings.predictions_at()
    y = problem.y[test]
    if findings.verdict.metric == "bits":
        codes = np.unique(problem.clusters[test], return_inverse=True)[1]
        return np.bincount(codes, row_gains(problem, predictions, baselines) / len(y))
    surface, full = with_and_without(baselines, predictions, problem.y[train])
    sums = cluster_sums(y, {"surface": surface, "full": full}, problem.clusters[test])
    saved, total = sums.sse[0] - sums.sse[1], np.square(y - y.mean(axis=0)).sum(axis=0)
    varied = np.ptp(y, axis=0) > 0
    parts = (saved[:, varied] / total[varied]).mean(axis=1) if varied.any() else np.full(len(saved), np.nan)
    # 0 where the stack leaves the probe out
    return np.zeros_like(parts) if np.abs(parts).sum() <= _ROUNDING else parts


def rows_of(findings: Findings, every: bool = False) -> str:
    """A digest of the test rows, or of every row, and their clusters: the same where findings share them."""
    table = findings.predictions
    test = table if every or findings.verdict.dealing is not None else table[table["split"] == "test"]
    names = test["text"].astype(str) if "text" in test else test["source"].astype(str)
    clusters = np.unique(test["cluster"], return_inverse=True)[1]
    lines = (f"{name}\0{cluster}" for name, cluster in zip(names, clusters, strict=True))
    digest = hashlib.sha256("\n".join(lines).encode())
    digest.update(b"" if "text" in test else findings.table.encode())
    return digest.hexdigest()


# The largest of many -----------------------------------------------------------------------------------
def max_t(
    tests: Sequence[GainTest], n_bootstrap: int, seed: int, refused: Bool[np.ndarray, " test"] | None = None
) -> Float[np.ndarray, " test"]:
    """p-values adjusted for the largest of all tests: the chance of any false finding is below their level.

    The sign of every cluster's part is turned at random, the same signs for all tests of the same rows, which
    is what no gain would do to it; each statistic is studentised anew, and the largest of those not yet named
    is what a statistic must exceed (step-down; Romano & Wolf, Econometrica 2005).

    Args:
        tests: One of each finding. One that is undefined is no test.
        n_bootstrap: How often the signs are turned.
        seed: Of the signs.
        refused: Tests that cannot be named, whatever their statistic; they still count.

    Returns:
        One p-value each; NaN where the test is undefined.
    """
    observed = np.array([test.t for test in tests], np.float64)
    if refused is not None:
        observed[refused & ~np.isnan(observed)] = -np.inf
    defined = np.flatnonzero(~np.isnan(observed))
    order = defined[np.argsort(-observed[defined], kind="stable")]
    out = np.full(len(tests), np.nan)
    if not len(order):
        return out
    place = {int(index): n for n, index in enumerate(order)}
    groups: dict[str, list[int]] = {}
    for index in sorted(map(int, defined), key=lambda one: tests[one].rows):
        groups.setdefault(tests[index].rows, []).append(index)
    largest: list[np.ndarray] = []
    rngs = [np.random.default_rng([seed, number]) for number in range(len(groups))]
    step = max(1, _AT_ONCE // len(order))
    for start in range(0, n_bootstrap, step):
        count = min(step, n_bootstrap - start)
        turned = np.empty((count, len(order)))
        for rng, members in zip(rngs, groups.values(), strict=True):
            parts = np.stack([tests[index].parts for index in members], axis=1)
            signs = rng.integers(0, 2, (count, len(parts)), np.int8).astype(np.float64) * 2 - 1
            squares = np.broadcast_to(np.square(parts).sum(axis=0), (count, len(members)))
            turned[:, [place[i] for i in members]] = studentised(signs @ parts, squares, len(parts))
        largest.append(np.maximum.accumulate(turned[:, ::-1], axis=1)[:, ::-1])
    p = share_reaching(np.concatenate(largest), observed[order])
    out[order] = np.maximum.accumulate(p)
    return out
