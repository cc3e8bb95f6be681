"""A stack that is worse than its best member, and the verdict: `python benchmarks/attack_stack.py`.

Seven baselines read the same part of a target (.4 of its variance) through more or less noise and width, as
string readers, embeddings and a twin do; the probe reads it as well as the best of them, and a hidden part
that none of them has. A stack of seven from few training rows may be worse than one of them: then a gain over
it is not yet one over the baselines. Asked: how often is the verdict *structure* where nothing is hidden, and
where something is, with the rule that baselines and probe together must beat the strongest baseline alone,
and without it; and how often is it structure although some baseline alone is better on the test rows than
the whole stack.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
from _timing import parser, rate, show, write

from graticule.probes.core.fit import Predictions
from graticule.probes.core.labels import NO_BETTER_THAN_BEST, STRUCTURE
from graticule.probes.core.verdict import Verdict, verdict
from graticule.probes.linear.ridge_cv import ridge_cv
from graticule.probes.scores.metrics import mean_r2

READERS = ((0.3, 16), (0.8, 16), (1.0, 64), (1.5, 64), (1.5, 200), (2.0, 200), (2.0, 200))
"""Noise and width of every baseline."""
SEEN = 0.4
ROWS = ((60, 40), (100, 40), (100, 200), (200, 60), (400, 200))
"""Training and test rows."""
HIDDEN = (0.0, 0.1, 0.3)


def judged(rng: np.random.Generator, rows: tuple[int, int], hidden: float) -> tuple[Verdict, float]:
    """The verdict on one world, and the best test R² of a baseline alone."""
    n = sum(rows)
    train, test = np.arange(rows[0]), np.arange(rows[0], n)
    base, own = rng.normal(size=(n, 10)), rng.normal(size=(n, 1))
    y = np.sqrt(SEEN / 3) * base[:, :3].sum(axis=1, keepdims=True) + np.sqrt(hidden) * own
    y = y + np.sqrt(1 - SEEN - hidden) * rng.normal(size=(n, 1))

    def read(columns: np.ndarray, noise: float, width: int) -> Predictions:
        mixing = rng.normal(size=(columns.shape[1], width)) / np.sqrt(columns.shape[1])
        x = columns @ mixing + noise * rng.normal(size=(n, width))
        fit = ridge_cv(x[train], y[train])
        return Predictions(fit.out_of_fold, fit.predict(x[test]))

    beside = {f"reader {i}": read(base, *how) for i, how in enumerate(READERS)}
    probe = read(np.concatenate([base, own], axis=1), *READERS[0])
    made, _ = verdict(
        y[train], y[test], probe, beside, test_clusters=np.arange(len(test)), target_names=["y"],
        model_baselines=list(beside), min_gain=0.01, n_bootstrap=20, seed=0,
    )  # fmt: skip
    return made, max(mean_r2(y[test], one.test) for one in beside.values())


def trials(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A line for every number of rows and hidden part."""
    for place, rows in enumerate(ROWS):
        for hidden in HIDDEN:
            counts = dict.fromkeys(("structure", "without the rule", "a baseline alone better", "then"), 0)
            for trial in range(args.trials):
                rng = np.random.default_rng([args.seed, place, int(100 * hidden), trial])
                made, alone = judged(rng, rows, hidden)
                worse = alone > made.surface + made.gain
                counts["structure"] += made.label == STRUCTURE
                counts["without the rule"] += made.label in (STRUCTURE, NO_BETTER_THAN_BEST)
                counts["a baseline alone better"] += worse and made.label in (STRUCTURE, NO_BETTER_THAN_BEST)
                counts["then"] += worse and made.label == STRUCTURE
            line = {"training, test rows": f"{rows[0]}, {rows[1]}", "hidden": hidden}
            yield {**line, **{what: rate(count, args.trials) for what, count in counts.items()}}


def main() -> None:
    """Run it."""
    options = parser(__doc__)
    options.add_argument("--trials", type=int, default=200)
    options.add_argument("--seed", type=int, default=0)
    args = options.parse_args()
    lines = list(trials(args))
    show(
        lines, "Structure, and structure that a baseline alone speaks against, without the rule and then with"
    )
    write(args, {"stack": lines})


if __name__ == "__main__":
    main()
