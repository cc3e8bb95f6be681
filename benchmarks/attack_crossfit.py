"""Small tables, every row tested: coverage, false structure, power beside one test part and beside 0.1.

    python benchmarks/attack_crossfit.py coverage --trials 200
    python benchmarks/attack_crossfit.py power --trials 200
    python benchmarks/attack_crossfit.py rows --trials 100

Worlds of numbers and of yes/no: what the surface shows, a hidden part (a share of the target's variance or of
its latent), two layers of which the later one holds it. `coverage`: the interval must cover the *own* gain,
what the very fits of the folds add on 2,000 fresh rows; without a hidden part the activations know the
surface less well than the baselines do, and *structure* must be rare. `power`: what `sweep` does by itself
beside the verdict of 0.1 (R², percentile bootstrap of clusters, one test part, the layer of the best probe),
each at its own words and at thresholds by which 5% of its null worlds pass. `rows`: of how many rows a
verdict on few says that they would show a gain, beside how often worlds of so many rows show it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from _timing import parser, show, write

from graticule import Activations, Findings, Table, sweep
from graticule.probes.compare import gain_estimate
from graticule.probes.core.crossfit import CrossFit, one_fold
from graticule.probes.core.fit import Problem, with_and_without
from graticule.probes.core.inputs import SweepInputs, problem_of
from graticule.probes.core.labels import STRUCTURE
from graticule.probes.core.resample import cluster_sums, interval, resampled_r2, wilson
from graticule.probes.core.verdict import JudgeSettings
from graticule.probes.surface.baselines import Baselines, text_digest
from graticule.probes.tables.groups import group_folds

FRESH = 2000
POINTS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
World = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def world(rows: int, hidden: float, binary: bool, rng: np.random.Generator) -> World:
    """Target, both layers and the embedding of `rows` rows."""
    seen, concept = rng.normal(size=(rows, 6)), rng.normal(size=(rows, 4))
    along, aside = (v / np.linalg.norm(v) for v in (rng.normal(size=6), rng.normal(size=4)))
    latent = np.sqrt(0.4) * seen @ along + np.sqrt(hidden) * concept @ aside
    latent = latent + np.sqrt(0.6 - hidden) * rng.normal(size=rows)
    mix, more = rng.normal(size=(6, 24)), 0.7 * rng.normal(size=(4, 24))
    early = seen @ mix + 0.5 * rng.normal(size=(rows, 24))
    late = seen @ mix + concept @ more + rng.normal(size=(rows, 24))
    embedding = np.concatenate([seen, rng.normal(size=(rows, 10))], axis=1)
    return np.where(latent > 0, "yes", "no") if binary else latent, early, late, embedding


def made_of(one: World, test: np.ndarray | None = None) -> tuple[Activations, Table, Baselines]:
    """What a sweep takes; without `test` graticule draws the split."""
    target, early, late, embedding = one
    frame = pd.DataFrame({"target": target})
    if test is not None:
        frame["test"] = test
    table = Table(frame, target="target", split=None if test is None else "test", name="world")
    tensors = {k: torch.from_numpy(x.astype(np.float32)) for k, x in zip(POINTS, (early, late), strict=True)}
    features = {"mean_embedding": Activations.from_tensors({"hook_embed": embedding.astype(np.float32)})}
    return Activations.from_tensors(tensors), table, Baselines(text_digest(table), features, False)


def swept(one: World, **options: object) -> Findings:
    """A sweep of a world."""
    activations, table, beside = made_of(one)
    return sweep(activations, table, baselines=beside, progress=False, **options)


def rng_of(*numbers: float) -> np.random.Generator:
    """Of these settings."""
    return np.random.default_rng([round(100 * number) for number in numbers])


# Coverage -----------------------------------------------------------------------------------------------
def own_gain(one: World, rows: int, seed: int) -> float:
    """What the fits of the folds add on the rows behind the first ones, mean over folds."""
    test = np.arange(len(one[0])) >= rows
    activations, table, beside = made_of(one, test)
    metric = "r2" if table.kind == "numeric" else "bits"
    whole = problem_of(activations, table)
    inputs = SweepInputs(activations, table, beside, whole, {}, JudgeSettings(score=metric))
    fresh = part_of(whole, whole.test)
    gains: list[float] = []
    for repeat in range(2):
        fold = group_folds(whole.clusters[:rows], 5, 7919 * seed + repeat)
        for k in range(5):
            is_test = np.concatenate([fold == k, np.ones(FRESH, bool)])
            predicted = one_fold(inputs, replace(whole, is_test=is_test)).predicted
            mine = int((fold == k).sum())
            there = CrossFit({n: v[mine:][None] for n, v in predicted.items()}, (), 5, metric)
            gains.append(float(there.score(fresh, "full", "surface").value))
    return float(np.mean(gains))


def part_of(problem: Problem, rows: np.ndarray) -> Problem:
    """Some rows of a problem, in this order."""
    columns = (problem.source, problem.y, problem.is_test, problem.clusters)
    return Problem(*(column[rows] for column in columns), problem.names)


def coverage_trial(rows: int, hidden: float, binary: bool, seed: int) -> dict[str, float]:
    """One world: the gain, whether its interval holds the own gain, and both verdicts."""
    one = world(rows + FRESH, hidden, binary, rng_of(seed, rows, hidden, binary, 1))
    own = own_gain(one, rows, seed)
    found = swept(tuple(part[:rows] for part in one), seed=seed, crossfit=True)  # type: ignore[arg-type]
    judged, split = found.verdict, found.verdict_of_split
    return {
        "own": own,
        "gain": judged.gain,
        "covered": float(judged.ci95[0] <= own <= judged.ci95[1]),
        "structure": float(judged.label == STRUCTURE),
        "one_split": float(split.label == STRUCTURE),
    }


def coverage(trials: int, seed: int, sizes: list[int]) -> list[dict[str, object]]:
    """A line a kind of target, rows and hidden part."""
    lines: list[dict[str, object]] = []
    for binary in (False, True):
        for rows in sizes:
            for hidden in (0.0, 0.15):
                drawn = pd.DataFrame([coverage_trial(rows, hidden, binary, seed + i) for i in range(trials)])
                low, high = wilson(int(drawn["covered"].sum()), trials)
                lines.append(
                    {"target": "yes/no" if binary else "numbers", "rows": rows, "hidden": hidden,
                     "own gain": drawn["own"].mean(), "gain": drawn["gain"].mean(),
                     "coverage": drawn["covered"].mean(), "low": low, "high": high,
                     "structure": drawn["structure"].mean(), "one split": drawn["one_split"].mean()}
                )  # fmt: skip
                show(lines[-1:])
    return lines


# Power --------------------------------------------------------------------------------------------------
def of_01(one: World, n_bootstrap: int = 1000) -> tuple[bool, float]:
    """Whether 0.1 says structure, and the share of its resamples that lie at 0 or below."""
    found = swept(one, score="r2", crossfit=False)
    problem = found.problem
    best = max(found.layer_scores, key=lambda line: line["validation"])["point"]
    y = problem.y[problem.test]
    stacks = with_and_without(
        found.baseline_predictions, found.point_predictions[best], problem.y[problem.train]
    )
    sums = cluster_sums(
        y, dict(zip(("surface", "full"), stacks, strict=True)), problem.clusters[problem.test]
    )
    drawn = resampled_r2(sums, n_bootstrap, 0)
    samples = drawn[:, 1] - drawn[:, 0]
    squares = [float(np.square(y - stack).sum()) for stack in stacks]
    gain = (squares[0] - squares[1]) / float(np.square(y - y.mean()).sum())
    low, p = interval(samples)[0], float((samples <= 0).mean())
    return low > 0 and gain >= 0.01, p if gain >= 0.01 else 1.0


def of_now(one: World, seed: int) -> tuple[bool, float]:
    """Whether a sweep says structure, and the p-value of its gain."""
    found = swept(one, seed=seed)
    judged = found.verdict
    p = float(gain_estimate(found).p(two_sided=False))
    return judged.label == STRUCTURE, p if judged.gain >= judged.min_gain else 1.0


def power(trials: int, seed: int, sizes: list[int]) -> list[dict[str, object]]:
    """A line a kind of target and rows: rates of both at their own words, and of both at 5% of the nulls."""
    hidden = {100: 0.25, 300: 0.12, 1000: 0.05, 10000: 0.02}
    lines: list[dict[str, object]] = []
    for binary in (False, True):
        for rows in sizes:
            p: dict[tuple[str, bool], np.ndarray] = {}
            said: dict[tuple[str, bool], float] = {}
            part = hidden[rows] * (1.5 if binary else 1.0)
            for real in (False, True):
                both = []
                for i in range(trials):
                    one = world(rows, part * real, binary, rng_of(seed + i, rows, part * real, binary, 2))
                    both.append((of_01(one), of_now(one, i)))
                for name, k in (("old", 0), ("new", 1)):
                    said[name, real] = float(np.mean([pair[k][0] for pair in both]))
                    p[name, real] = np.array([pair[k][1] for pair in both])
            line: dict[str, object] = {
                "target": "yes/no" if binary else "numbers", "rows": rows, "hidden": part
            }  # fmt: skip
            for name in ("old", "new"):
                line |= {f"{name} false": said[name, False], f"{name} power": said[name, True]}
            for name in ("old", "new"):
                level = float(np.quantile(p[name, False], 0.05))
                line[f"{name} at 5%"] = float((p[name, True] <= min(level, 0.999)).mean())
            lines.append(line)
            show(lines[-1:])
    return lines


# Rows needed --------------------------------------------------------------------------------------------
def needed(trials: int, seed: int) -> list[dict[str, object]]:
    """What verdicts on 150 rows say that it takes, beside worlds of as many rows."""
    lines: list[dict[str, object]] = []
    for binary in (False, True):
        for rows, hidden in ((300, 0.15), (600, 0.08)):
            part = hidden * (1.5 if binary else 1.0)
            judged = [
                swept(world(rows, part, binary, rng_of(seed + i, rows, part, binary, 3)), seed=i).verdict
                for i in range(trials)
            ]
            gain = float(np.mean([one.gain for one in judged]))
            seen = float(np.mean([one.ci95[0] > 0 for one in judged]))
            pilots = [
                swept(world(150, part, binary, rng_of(seed + i, 150, part, binary, 4)), seed=i).verdict
                for i in range(20)
            ]
            share = float(np.clip(seen, 0.05, 0.95))
            told = [one.rows_needed.rows(gain, share) for one in pilots if one.rows_needed is not None]
            lines.append(
                {"target": "yes/no" if binary else "numbers", "rows": rows, "hidden": part, "gain": gain,
                 "seen": seen, "told, median": float(np.median(told)),
                 "told / rows": float(np.median(told)) / rows,
                 "of 20 within 1.5": float(np.mean([1 / 1.5 <= t / rows <= 1.5 for t in told]))}
            )  # fmt: skip
            show(lines[-1:])
    return lines


def main() -> None:
    """Draw worlds, count, print, write."""
    options = parser(__doc__, repeats=1)
    options.add_argument("what", choices=("coverage", "power", "rows"))
    options.add_argument("--trials", type=int, default=200)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--rows", type=int, nargs="+")
    args = options.parse_args()
    if args.what == "coverage":
        lines = coverage(args.trials, args.seed, args.rows or [60, 150, 400])
    elif args.what == "power":
        lines = power(args.trials, args.seed, args.rows or [100, 300, 1000, 10000])
    else:
        lines = needed(args.trials, args.seed)
    show(lines, f"{args.what}: {args.trials} worlds each, seed {args.seed}")
    write(args, {"trials": args.trials, "seed": args.seed, "rows": lines})


if __name__ == "__main__":
    main()
