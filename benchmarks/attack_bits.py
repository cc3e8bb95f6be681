"""Yes/no labels judged in bits and by R²: how often luck is called structure, and how often a hidden part is.

    python benchmarks/attack_bits.py --trials 400 --seed 1

Every trial draws a world, fits ridges at a surface and at a probe and judges them by the package's own
verdict, once in bits and once by R². In worlds without a hidden part the probe's activations are those of the
surface turned round and many columns of luck, or luck alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from _timing import parser, show, write

from graticule.probes.core.bits import class_odds, row_gains
from graticule.probes.core.fit import Predictions, Problem, with_and_without
from graticule.probes.core.intervals import mean_of
from graticule.probes.core.judge import judge_predictions
from graticule.probes.core.logit_stack import row_bits
from graticule.probes.core.resample import wilson
from graticule.probes.core.verdict import STRUCTURE, JudgeSettings
from graticule.probes.linear.ridge_cv import ridge_cv
from graticule.probes.scores.metrics import auroc

WIDTH = 32
LOUD = 6.0
HIDDEN, NOISE = 0.27, 0.13
NULLS = [(n_test, share) for n_test in (40, 55, 100, 200) for share in (0.5, 0.1)]
REAL = [(220, 55, 0.5), (2000, 500, 0.02)]


CLASSES = [(4, 220, 55), (10, 400, 100), (30, 720, 180)]
"""Classes, training rows and test rows."""
APART = 1.2
OTHERS = 20_000
"""Rows on which the true gain of the fits is measured."""


@dataclass(frozen=True)
class World:
    """A problem, and what surface and probe say of it."""

    problem: Problem
    surface: Predictions
    probe: Predictions


def drawn(rng: np.random.Generator, n_train: int, n_test: int, share: float, hidden: bool) -> World:
    """One world; without a hidden part the probe knows what the surface knows, or nothing."""
    n = n_train + n_test
    u, v, noise = rng.normal(size=(3, n))
    score = u + HIDDEN * v + NOISE * noise
    y = (score > np.quantile(score, 1 - share)).astype(float)[:, None]
    turn = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0]
    surface = _spread(rng, u)
    beside = _spread(rng, v) if hidden else rng.normal(size=(n, WIDTH))
    own = surface @ turn if hidden or rng.random() < 0.5 else rng.normal(size=(n, WIDTH))
    rows = np.arange(n)
    problem = Problem(rows, y, rows >= n_train, rows, ("y",))
    return World(problem, _fitted(surface, problem), _fitted(np.concatenate([own, beside], axis=1), problem))


def drawn_classes(rng: np.random.Generator, classes: int, n_train: int, n_test: int, hidden: bool) -> World:
    """Classes with a middle each in the surface, and, where a part is hidden, others in the probe alone."""
    n = n_train + n_test
    rows, labels = np.arange(n), rng.permutation(np.arange(n) % classes)
    y = np.eye(classes)[labels]
    middles = APART * rng.normal(size=(2, classes, WIDTH)) / np.sqrt(2)
    surface = middles[0][labels] + 2 * rng.normal(size=(n, WIDTH))
    beside = 2 * rng.normal(size=(n, WIDTH)) + (0.5 * middles[1][labels] if hidden else 0)
    turn = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0]
    problem = Problem(rows, y, rows >= n_train, rows, tuple(f"c{k}" for k in range(classes)))
    own = np.concatenate([surface @ turn, beside], axis=1)
    return World(problem, _fitted(surface, problem), _fitted(own, problem))


def _spread(rng: np.random.Generator, part: np.ndarray) -> np.ndarray:
    """Activations that hold a part along one direction, in luck of a sixth of its size along each."""
    direction = rng.normal(size=WIDTH)
    return rng.normal(size=(len(part), WIDTH)) + LOUD * part[:, None] * direction / np.linalg.norm(direction)


def _fitted(x: np.ndarray, problem: Problem) -> Predictions:
    fit = ridge_cv(x[problem.train], problem.y[problem.train])
    return Predictions(fit.out_of_fold, fit.predict(x[problem.test]))


def judged(world: World) -> Iterator[tuple[str, bool, float]]:
    """Of each score: whether it is structure, and the gain in its own standard errors over test rows."""
    problem, beside = world.problem, {"block_0": world.surface}
    y = problem.y[problem.test]
    odds = class_odds(problem, world.probe, beside)
    surface, full = with_and_without(beside, world.probe, problem.y[problem.train])
    differences = {
        "bits": row_bits(y, odds.surface) - row_bits(y, odds.full),
        "r2": (np.square(y - surface) - np.square(y - full)).sum(axis=1),
    }
    for score, gained in differences.items():
        settings = JudgeSettings(score=score, n_bootstrap=1000)  # pyright: ignore[reportArgumentType]
        verdict = judge_predictions(problem, world.probe, beside, settings, model_baselines=("block_0",))
        error = gained.std(ddof=1) / np.sqrt(len(gained))
        yield score, verdict.label == STRUCTURE, float(gained.mean() / error) if error > 0 else 0.0
    yield "surface AUROC", True, float(auroc(y, odds.surface)[0])
    yield "full AUROC", True, float(auroc(y, odds.full)[0])


def trials(
    count: int, seed: list[int], draw: Callable[..., World] = drawn, **how: float | bool
) -> dict[str, np.ndarray]:
    """`bits`, `r2` (structure or not), and `bits t`, `r2 t` over worlds."""
    out: dict[str, list[float]] = {}
    for trial in range(count):
        world = draw(np.random.default_rng([*seed, trial]), **how)
        for score, structure, t in judged(world):
            out.setdefault(score, []).append(structure)
            out.setdefault(f"{score} t", []).append(t)
    return {name: np.asarray(values, float) for name, values in out.items()}


def rate(values: np.ndarray) -> str:
    """`0.02 [0.01, 0.04]`."""
    low, high = wilson(int(values.sum()), len(values))
    return f"{values.mean():.3f} [{low:.3f}, {high:.3f}]"


def false_rates(count: int, seed: int) -> list[dict[str, object]]:
    """Structure where nothing is hidden, a line a number of test rows and prevalence."""
    lines: list[dict[str, object]] = []
    for k, (n_test, share) in enumerate(NULLS):
        run = trials(count, [seed, 0, k], n_train=4 * n_test, n_test=n_test, share=share, hidden=False)
        lines.append(
            {"test rows": n_test, "class 1": share, "bits": rate(run["bits"]), "R²": rate(run["r2"])}
        )
        print(lines[-1], file=sys.stderr)
    return lines


def powers(count: int, seed: int) -> list[dict[str, object]]:
    """Structure where a part is hidden, and the same at a threshold of t that 2.5% of null worlds reach."""
    lines: list[dict[str, object]] = []
    for k, (n_train, n_test, share) in enumerate(REAL):
        null, real = (
            trials(count, [seed, part, k], n_train=n_train, n_test=n_test, share=share, hidden=part == 2)
            for part in (1, 2)
        )
        areas = (f"{np.nanmean(real[f'{name} AUROC t']):.3f}" for name in ("surface", "full"))
        for score, name in (("bits", "bits"), ("r2", "R²")):
            above = real[f"{score} t"] > np.quantile(null[f"{score} t"], 0.975)
            lines.append(
                {
                    "rows": n_train + n_test,
                    "class 1": share,
                    "AUROC": " → ".join(areas) if score == "bits" else "",
                    "score": name,
                    "false": rate(null[score]),
                    "found": rate(real[score]),
                    "found at equal false rate": rate(above),
                }
            )
            print(lines[-1], file=sys.stderr)
    return lines


def of_classes(count: int, seed: int) -> list[dict[str, object]]:
    """Several classes: structure where nothing is hidden, and where a part is."""
    lines: list[dict[str, object]] = []
    for k, (classes, n_train, n_test) in enumerate(CLASSES):
        of = {"classes": classes, "n_train": n_train, "n_test": n_test}
        null, real = (
            trials(count, [seed, 3 + hidden, k], drawn_classes, **of, hidden=bool(hidden))
            for hidden in (0, 1)
        )
        for score, name in (("bits", "bits"), ("r2", "mean R²")):
            head = {"classes": classes, "rows": n_train + n_test, "score": name}
            lines.append({**head, "false": rate(null[score]), "found": rate(real[score])})
            print(lines[-1], file=sys.stderr)
    return lines


def coverage(count: int, seed: int) -> list[dict[str, object]]:
    """How often the interval of the gain holds the gain of the same fits on other rows."""
    lines: list[dict[str, object]] = []
    settings = [(n_test, share, hidden) for n_test, share in NULLS for hidden in (False, True)]
    for k, (n_test, share, hidden) in enumerate(settings):
        holds: list[bool] = []
        for trial in range(count):
            rng = np.random.default_rng([seed, 6, k, trial])
            world = drawn(rng, 4 * n_test, n_test + OTHERS, share, hidden)
            gained = row_gains(world.problem, world.probe, {"block_0": world.surface})
            low, high = mean_of(gained[:n_test], np.arange(n_test)).ci95
            holds.append(low <= gained[n_test:].mean() <= high)
        head = {"test rows": n_test, "class 1": share, "hidden": hidden}
        lines.append({**head, "covered": rate(np.asarray(holds, float))})
        print(lines[-1], file=sys.stderr)
    return lines


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--trials", type=int, default=400, help="worlds a setting (default: %(default)s)")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--only", choices=("false", "power", "classes", "coverage"), help="one table alone")
    args = options.parse_args()
    tables = {
        "false": (false_rates, "Called structure, nothing hidden"),
        "power": (powers, "A hidden part"),
        "classes": (of_classes, "Several classes"),
        "coverage": (coverage, "The 95% interval of a gain in bits"),
    }
    figures: dict[str, list[dict[str, object]]] = {}
    for name, (measured, title) in tables.items():
        if args.only in (None, name):
            figures[name] = measured(args.trials, args.seed)
            show(figures[name], title)
    write(args, figures)


if __name__ == "__main__":
    main()
