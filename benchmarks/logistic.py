"""Many yes-or-no concepts by batched logistic regression, against scikit-learn's one at a time.

    python benchmarks/logistic.py --rows 1000 --width 640 --concepts 1000 --theirs 6

Both try the same strengths on the same folds and choose by out-of-fold log-loss. scikit-learn's seconds are
those of `--theirs` concepts, times as many more as there are. Activations have the spectrum of a residual
stream:
variances fall as a power of the axis.
"""

from __future__ import annotations

import time
import warnings

import numpy as np
from _timing import parser, show, write
from sklearn.linear_model import LogisticRegressionCV

from graticule.probes.linear.logistic_many import logistic_many
from graticule.probes.linear.moments import Axes
from graticule.probes.linear.strengths import default_strengths
from graticule.probes.tables.groups import group_folds


def drawn(rows: int, width: int, concepts: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Activations, and concepts that are linear in them but for noise, of many prevalences."""
    rng = np.random.default_rng(seed)
    spread = (1 + np.arange(width)) ** -0.5
    x = (rng.normal(size=(rows, width)) * spread) @ np.linalg.qr(rng.normal(size=(width, width)))[0]
    score = x @ rng.normal(size=(width, concepts))
    score = score / score.std(axis=0) + rng.uniform(0.2, 2, concepts) * rng.normal(size=score.shape)
    share = rng.uniform(0.1, 0.6, concepts)
    cut = np.array([np.quantile(column, 1 - s) for column, s in zip(score.T, share, strict=True)])
    return x, (score > cut).astype(float)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=1000)
    options.add_argument("--width", type=int, default=640)
    options.add_argument("--concepts", type=int, default=1000)
    options.add_argument("--layers", type=int, default=18, help="what a layer takes is taken so often")
    options.add_argument("--ours", type=int, help="concepts fitted in one batch; by default all")
    options.add_argument("--theirs", type=int, default=6, help="concepts that scikit-learn fits, among those")
    options.add_argument("--seed", type=int, default=0)
    args = options.parse_args()
    x, y = drawn(args.rows, args.width, args.concepts, args.seed)
    clusters = np.arange(args.rows)
    grid = default_strengths(Axes.of(x).squares)
    fold = group_folds(clusters, 5, 0)
    splits = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(5)]
    start = time.process_time()
    batch = args.ours or args.concepts
    ours = logistic_many(x, y[:, :batch], clusters, grid, progress=False)
    seconds = (time.process_time() - start) * args.concepts / batch
    some = np.linspace(0, batch - 1, args.theirs).astype(int)
    away: list[int] = []
    start = time.process_time()
    for concept in some:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = LogisticRegressionCV(Cs=1 / grid[::-1], cv=splits, scoring="neg_log_loss").fit(
                x, y[:, concept]
            )
        at = int(np.abs(np.log(grid * np.ravel(theirs.C_)[0])).argmin())
        away.append(abs(at - int(ours.chosen[concept])))
    own = (time.process_time() - start) / len(some) * args.concepts
    line = {
        "concepts × layers": f"{args.concepts:,} × {args.layers}",
        "batched (s of CPU)": seconds * args.layers,
        "scikit-learn (s of CPU, projected)": own * args.layers,
        "ratio": own / seconds,
        "strengths apart, at most": max(away),
    }
    show([line], f"{args.rows:,} rows, width {args.width}")
    write(args, {"figures": line})


if __name__ == "__main__":
    main()
