"""The cross-fitted verdict on small tables: coverage, false structure, power beside one held-out part.

    python benchmarks/attack_crossfit.py --trials 200 --json crossfit.json

Worlds of numbers and of yes/no: what the surface shows, a hidden part (a share of the target's variance or of
its latent), two layers of which the later one holds it. The interval must cover the *own* gain: what the very
fits of the folds add on 2,000 fresh rows. `null` is a world whose activations know the surface less well than
the baselines do; there *structure* must be rare. One split is the verdict on a fifth of the rows.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from _timing import parser, show, write

from graticule import Activations, Table, sweep
from graticule.probes.core.crossfit import CrossFit, one_fold
from graticule.probes.core.fit import Problem
from graticule.probes.core.inputs import SweepInputs
from graticule.probes.core.labels import STRUCTURE, label_of
from graticule.probes.core.resample import wilson
from graticule.probes.surface.baselines import Baselines, text_digest
from graticule.probes.tables.groups import group_folds

FRESH = 2000
POINTS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")


def world(rows: int, hidden: float, binary: bool, rng: np.random.Generator) -> SweepInputs:
    """`rows` rows and fresh ones behind them, the fresh ones never learned from."""
    n = rows + FRESH
    seen, concept = rng.normal(size=(n, 6)), rng.normal(size=(n, 4))
    along, aside = rng.normal(size=6), rng.normal(size=4)
    latent = np.sqrt(0.4) * seen @ (along / np.linalg.norm(along))
    latent = latent + np.sqrt(hidden) * concept @ (aside / np.linalg.norm(aside))
    latent = latent + np.sqrt(0.6 - hidden) * rng.normal(size=n)
    mix, more = rng.normal(size=(6, 24)), 0.7 * rng.normal(size=(4, 24))
    early = seen @ mix + 0.5 * rng.normal(size=(n, 24))
    late = seen @ mix + concept @ more + rng.normal(size=(n, 24))
    target = np.where(latent > 0, "yes", "no") if binary else latent
    test = np.arange(n) >= rows - rows // 5
    table = Table(pd.DataFrame({"target": target, "test": test}), target="target", split="test", name="world")
    tensors = {k: torch.from_numpy(x.astype(np.float32)) for k, x in zip(POINTS, (early, late), strict=True)}
    embedding = np.concatenate([seen, rng.normal(size=(n, 10))], axis=1).astype(np.float32)
    features = {"mean_embedding": Activations.from_tensors({"hook_embed": embedding})}
    beside = Baselines(text_digest(table), features, False)
    return sweep(Activations.from_tensors(tensors), table, baselines=beside, progress=False).inputs


def part_of(problem: Problem, rows: np.ndarray) -> Problem:
    """Some rows of a problem, in this order."""
    columns = (problem.source, problem.y, problem.is_test, problem.clusters)
    return Problem(*(column[rows] for column in columns), problem.names)


def trial(rows: int, hidden: float, binary: bool, seed: int) -> dict[str, float]:
    """One world: the gain, its interval, the own gain, both verdicts."""
    rng = np.random.default_rng([seed, rows, round(100 * hidden), binary])
    inputs = world(rows, hidden, binary, rng)
    whole, metric = inputs.problem, inputs.settings.score
    own: list[float] = []
    out = {name: np.empty((2, rows, 1)) for name in ("surface", "full", "probe", "mean")}
    fresh = part_of(whole, np.arange(rows, rows + FRESH))
    for repeat in range(2):
        fold = group_folds(whole.clusters[:rows], 5, 7919 * seed + repeat)
        for k in range(5):
            is_test = np.concatenate([fold == k, np.ones(FRESH, bool)])
            _, predicted = one_fold(inputs, replace(whole, is_test=is_test))
            mine = int((fold == k).sum())
            for name, values in predicted.items():
                out[name][repeat, fold == k] = values[:mine]
            there = CrossFit({n: v[mine:][None] for n, v in predicted.items()}, (), 5, metric)
            own.append(float(there.score(fresh, "full", "surface").value))
    first = part_of(whole, np.arange(rows))
    made = CrossFit(out, (), 5, metric)
    gain, over = made.score(first, "full", "surface"), made.score(first, "full", "mean")
    least = inputs.min_gain
    label = label_of(float(gain.value), gain.ci95, least, True)
    held = np.concatenate([first.is_test, np.ones(FRESH, bool)])
    _, predicted = one_fold(inputs, replace(whole, is_test=held))
    part = int(first.is_test.sum())
    tested = part_of(first, first.test)
    split = CrossFit({n: v[:part][None] for n, v in predicted.items()}, (), 10**9, metric)
    one = split.score(tested, "full", "surface")
    one = replace(one, se=one.se / split.widening)
    return {
        "own": float(np.mean(own)),
        "gain": float(gain.value),
        "covered": float(gain.ci95[0] <= np.mean(own) <= gain.ci95[1]),
        "structure": float(label == STRUCTURE and over.ci95[0] > 0),
        "one_split": float(label_of(float(one.value), one.ci95, least, True) == STRUCTURE),
    }


def main() -> None:
    """Draw worlds, count, print, write."""
    options = parser(__doc__, repeats=1)
    options.add_argument("--trials", type=int, default=200)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--rows", type=int, nargs="+", default=[80, 200, 400])
    options.add_argument("--hidden", type=float, nargs="+", default=[0.0, 0.1, 0.2])
    args = options.parse_args()
    lines = []
    for binary in (False, True):
        for rows in args.rows:
            for hidden in args.hidden:
                drawn = pd.DataFrame([trial(rows, hidden, binary, args.seed + i) for i in range(args.trials)])
                covered = wilson(int(drawn["covered"].sum()), len(drawn))
                lines.append(
                    {"target": "yes/no" if binary else "numbers", "rows": rows, "hidden": hidden,
                     "own gain": drawn["own"].mean(), "gain": drawn["gain"].mean(),
                     "coverage": drawn["covered"].mean(), "low": covered[0], "high": covered[1],
                     "structure": drawn["structure"].mean(), "one split": drawn["one_split"].mean()}
                )  # fmt: skip
    show(lines, f"{args.trials} worlds each, 5 folds dealt twice, seed {args.seed}")
    write(args, {"trials": args.trials, "seed": args.seed, "rows": lines})


if __name__ == "__main__":
    main()
