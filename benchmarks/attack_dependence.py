"""Rows that depend on each other undeclared, and absurd cells: `python benchmarks/attack_dependence.py`.

Worlds of which the truth is known, each through the whole `sweep`. There is nothing to find in

- *synonyms*: sets of rows with nearly the same activations and the same target, which is luck; texts and
  embeddings have nothing in common; some rows fall into the training and some into the test part;
- *clusters*: rows share the part ρ of the variance of activations and target, which is luck;
- *series*: activations and target follow the table's order, each by itself.

Rows are independent, and the part `share` of the target is linear in the activations, in

- *independent*: where the words must be those of the same gain and interval without any check of neighbours.

Shuffled (`--only shuffled`, the split that a sweep draws): rows of series and of documents in any order, most
with a class each; and honest classes, of several kinds or of one.

Cells: one cell of a world that holds a hidden part is absurd, in activations, a baseline or the target; the
verdict must be left open, and the row be named. Targets with heavy tails alone must raise no alarm.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from _timing import parser, rate, show, write

from graticule import Activations, Findings, Table, sweep
from graticule.probes.core.verdict import NOT_DECIDED, STRUCTURE
from graticule.probes.surface.baselines import Baselines, text_digest

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Activations, target, embedding."""
POINT = "blocks.0.hook_resid_post"


# Worlds ----------------------------------------------------------------------------------------------
def synonyms(rng: np.random.Generator, n: int, width: int, size: int, apart: float) -> Rows:
    """Sets of `size` rows whose activations differ by `apart` of a standard deviation."""
    of = np.repeat(np.arange(n // size), size)
    x = rng.normal(size=(n // size, width))[of] + apart * rng.normal(size=(len(of), width))
    return x, rng.normal(size=n // size)[of], rng.normal(size=(len(of), width))


def clusters(rng: np.random.Generator, n: int, width: int, size: int, rho: float) -> Rows:
    """Rows share a part of activations and target."""
    of = np.repeat(np.arange(n // size), size)

    def mixed(*shape: int) -> np.ndarray:
        common = rng.normal(size=(n // size, *shape))[of]
        return np.sqrt(rho) * common + np.sqrt(1 - rho) * rng.normal(size=(len(of), *shape))

    return mixed(width), mixed(), rng.normal(size=(len(of), width))


def serial(rng: np.random.Generator, n: int, width: int, rho: float) -> Rows:
    """Activations and target are series along the table's rows, of correlation ρ from one row to the next."""
    drawn = rng.normal(size=(n, width + 1))
    for row in range(1, n):
        drawn[row] = rho * drawn[row - 1] + np.sqrt(1 - rho**2) * drawn[row]
    return drawn[:, :-1], drawn[:, -1], rng.normal(size=(n, 8))


def in_order(rng: np.random.Generator, n: int, width: int, share: float) -> Rows:
    """Independent rows, sorted by their target."""
    x, y, beside = independent(rng, n, width, share)
    order = np.argsort(y)
    return x[order], y[order], beside


def independent(rng: np.random.Generator, n: int, width: int, share: float, decay: float = 0.0) -> Rows:
    """The spread of the activations falls as a power of the direction's number."""
    x = rng.normal(size=(n, width))
    y = np.sqrt(share) * x @ rng.normal(size=width) / np.sqrt(width) + np.sqrt(1 - share) * rng.normal(size=n)
    return x * np.arange(1, width + 1.0) ** -decay, y, rng.normal(size=(n, 8))


def quarter(rng: np.random.Generator, n: int) -> np.ndarray:
    """Test rows."""
    return rng.permutation(n) < n // 4


def swept(rows: Rows, n_bootstrap: int, is_test: np.ndarray | None = None) -> Findings:
    """By the split that is given, or that the table draws."""
    x, y, beside = rows
    table = Table.from_arrays(y) if is_test is None else Table.from_arrays(y, is_test=is_test)
    embedding = Activations.from_tensors({"hook_embed": torch.from_numpy(beside).double()})
    return sweep(
        Activations.from_tensors({POINT: torch.from_numpy(x).double()}),
        table,
        baselines=Baselines(text_digest(table), {"mean_embedding": embedding}, False),
        n_bootstrap=n_bootstrap,
        progress=False,
    )


DEPENDENT: dict[str, tuple[Callable[..., Rows], dict[str, Any]]] = {
    "synonyms, pairs, 600 x 64": (synonyms, {"n": 600, "width": 64, "size": 2, "apart": 0.1}),
    "synonyms, threes, 600 x 256": (synonyms, {"n": 600, "width": 256, "size": 3, "apart": 0.1}),
    "synonyms, fours, 2000 x 128, looser": (synonyms, {"n": 2000, "width": 128, "size": 4, "apart": 0.4}),
    "clusters of 10, rho .8, 600 x 16": (clusters, {"n": 600, "width": 16, "size": 10, "rho": 0.8}),
    "clusters of 10, rho .8, 600 x 64": (clusters, {"n": 600, "width": 64, "size": 10, "rho": 0.8}),
    "clusters of 20, rho .8, 1000 x 64": (clusters, {"n": 1000, "width": 64, "size": 20, "rho": 0.8}),
    "clusters of 5, rho .8, 1000 x 256": (clusters, {"n": 1000, "width": 256, "size": 5, "rho": 0.8}),
    "clusters of 10, rho .5, 1000 x 64": (clusters, {"n": 1000, "width": 64, "size": 10, "rho": 0.5}),
    "clusters of 40, rho .8, 1000 x 64": (clusters, {"n": 1000, "width": 64, "size": 40, "rho": 0.8}),
    "series, rho .95, 200 x 16": (serial, {"n": 200, "width": 16, "rho": 0.95}),
    "series, rho .98, 400 x 16": (serial, {"n": 400, "width": 16, "rho": 0.98}),
    "series, rho .99, 1000 x 64": (serial, {"n": 1000, "width": 64, "rho": 0.99}),
    "series, rho .8, 400 x 32": (serial, {"n": 400, "width": 32, "rho": 0.8}),
}
HONEST: dict[str, tuple[Callable[..., Rows], dict[str, Any]]] = {
    "independent, 200 x 8, share .3": (independent, {"n": 200, "width": 8, "share": 0.3}),
    "independent, 600 x 64, share .3": (independent, {"n": 600, "width": 64, "share": 0.3}),
    "independent, 300 x 512, share .9": (independent, {"n": 300, "width": 512, "share": 0.9}),
    "independent, 1000 x 64, share .1": (independent, {"n": 1000, "width": 64, "share": 0.1}),
    "independent, 1000 x 256, share .4, falling": (
        independent,
        {"n": 1000, "width": 256, "share": 0.4, "decay": 1.0},
    ),
    "independent, 100 x 16, share .6": (independent, {"n": 100, "width": 16, "share": 0.6}),
    "in order of the target, 300 x 32, share .4": (in_order, {"n": 300, "width": 32, "share": 0.4}),
}
"""Both fixed before any of them was run at full size."""
NEIGHBOURS = ("near neighbours", "next to each other in the table")


def dependence(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A line for each world: structure, structure by gain and interval, and what neighbours left open."""
    for place, (name, (make, given)) in enumerate({**DEPENDENT, **HONEST}.items()):
        if args.match not in name:
            continue
        began = time.perf_counter()
        counts = dict.fromkeys(("structure", "by interval", "left open by neighbours"), 0)
        for trial in range(args.trials):
            rng = np.random.default_rng([args.seed, place, trial])
            rows = make(rng, **given)
            judged = swept(rows, args.n_bootstrap, quarter(rng, len(rows[1]))).verdict
            by_interval = judged.ci95[0] > 0 and judged.gain >= judged.min_gain
            counts["structure"] += judged.label == STRUCTURE
            counts["by interval"] += by_interval
            counts["left open by neighbours"] += any(why in judged.label for why in NEIGHBOURS)
        line: dict[str, Any] = {"world": name, "trials": args.trials}
        line |= {what: rate(count, args.trials) for what, count in counts.items()}
        yield {**line, "seconds": round(time.perf_counter() - began)}


# Shuffled ---------------------------------------------------------------------------------------------
def in_any_order(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> Rows:
    """Rows permuted."""
    order = rng.permutation(len(y))
    return x[order], y[order], rng.normal(size=(len(y), 4))


def yes_or_no(y: np.ndarray) -> np.ndarray:
    """By the sign."""
    return np.where(y > 0, "yes", "no")


def shuffled_series(rng: np.random.Generator, n: int, width: int, rho: float, classes: bool = True) -> Rows:
    """Of `serial`, without the order."""
    x, y, _ = serial(rng, n, width, rho)
    return in_any_order(rng, x, yes_or_no(y) if classes else y)


def documents(rng: np.random.Generator, n: int, width: int, rho: float, size: int = 40) -> Rows:
    """Of `size` sentences each, and half of the documents have the one label, by luck."""
    of = np.repeat(np.arange(n // size), size)
    x = np.sqrt(rho) * rng.normal(size=(n // size, width))[of]
    x += np.sqrt(1 - rho) * rng.normal(size=(len(of), width))
    return in_any_order(rng, x, yes_or_no(rng.permutation(n // size)[of] - n // size / 2 + 0.5))


def kinds(rng: np.random.Generator, n: int, width: int, count: int, apart: float, loose: float) -> Rows:
    """Two classes at a distance, each of some kinds at distances of their own."""
    y, kind = rng.integers(0, 2, n), rng.integers(0, count, n)
    x = apart * rng.normal(size=(2, width))[y] + loose * rng.normal(size=(2, count, width))[y, kind]
    return in_any_order(rng, x / np.sqrt(width) + rng.normal(size=(n, width)), yes_or_no(y))


def read(rng: np.random.Generator, n: int, width: int, share: float = 0.5, gap: float = 1.81) -> Rows:
    """Two classes apart in one direction, by default at an AUROC of .9."""
    y = rng.random(n) < share
    way = rng.normal(size=width)
    x = rng.normal(size=(n, width)) + gap * np.outer(y, way / np.linalg.norm(way))
    return in_any_order(rng, x, yes_or_no(y))


SHUFFLED: dict[str, tuple[Callable[..., Rows], dict[str, Any]]] = {
    "luck: series, yes/no, rho .98, 400 x 64": (shuffled_series, {"n": 400, "width": 64, "rho": 0.98}),
    "luck: series, yes/no, rho .95, 300 x 32": (shuffled_series, {"n": 300, "width": 32, "rho": 0.95}),
    "luck: series, numbers, rho .95, 300 x 16": (
        shuffled_series,
        {"n": 300, "width": 16, "rho": 0.95, "classes": False},
    ),
    "luck: documents, rho .8, 1000 x 64": (documents, {"n": 1000, "width": 64, "rho": 0.8}),
    "luck: documents, rho .5, 1000 x 64": (documents, {"n": 1000, "width": 64, "rho": 0.5}),
    "luck: documents, rho .8, 400 x 64": (documents, {"n": 400, "width": 64, "rho": 0.8}),
    "luck: documents, rho .5, 400 x 64": (documents, {"n": 400, "width": 64, "rho": 0.5}),
    "honest: two classes of 3 kinds, 300 x 64": (
        kinds,
        {"n": 300, "width": 64, "count": 3, "apart": 3.0, "loose": 5.0},
    ),
    "honest: two classes of 5 kinds, 275 x 256": (
        kinds,
        {"n": 275, "width": 256, "count": 5, "apart": 4.0, "loose": 4.0},
    ),
    "honest: two classes of 2 kinds, 600 x 32": (
        kinds,
        {"n": 600, "width": 32, "count": 2, "apart": 3.0, "loose": 6.0},
    ),
    "honest: AUROC .9, 400 x 64": (read, {"n": 400, "width": 64}),
    "honest: AUROC .9, 400 x 256": (read, {"n": 400, "width": 256}),
    "honest: AUROC .95, one in ten, 500 x 32": (read, {"n": 500, "width": 32, "share": 0.1, "gap": 2.33}),
    "honest: numbers, 300 x 16, share .4": (independent, {"n": 300, "width": 16, "share": 0.4}),
    "honest: numbers, 300 x 256, share .9": (independent, {"n": 300, "width": 256, "share": 0.9}),
    "honest: numbers, 100 x 16, share .6": (independent, {"n": 100, "width": 16, "share": 0.6}),
}


def shuffled(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A line for each world, by the sweep's own split: structure, and what neighbours left open."""
    for place, (name, (make, given)) in enumerate(SHUFFLED.items()):
        if args.match not in name:
            continue
        labels = [
            swept(make(np.random.default_rng([args.seed, 300 + place, trial]), **given), 200).verdict.label
            for trial in range(args.trials)
        ]
        yield {
            "world": name,
            "trials": args.trials,
            "structure": rate(labels.count(STRUCTURE), args.trials),
            "left open by neighbours": rate(sum(NEIGHBOURS[0] in one for one in labels), args.trials),
        }


# Cells -----------------------------------------------------------------------------------------------
def with_cell(what: str, rng: np.random.Generator) -> tuple[Rows, int | None, np.ndarray]:
    """A world of 600 rows with a hidden part and one absurd cell; the row, and the split."""
    x, y, beside = independent(rng, 600, 32, 0.3)
    is_test = rng.permutation(600) < 150
    part = is_test if what.endswith("test") else ~is_test
    row = int(rng.choice(np.flatnonzero(part)))
    size = 10 ** rng.uniform(6, 12)
    if what.startswith("activations"):
        x[row, rng.integers(x.shape[1])] = size
    elif what.startswith("baseline"):
        beside[row, rng.integers(beside.shape[1])] = size
    elif what.startswith("target"):
        y[row] = {"target 1e3, training": 1e3, "target 1e8, test": 1e8}[what]
    return (x, y, beside), row, is_test


CELLS = (
    "activations, training",
    "activations, test",
    "baseline, training",
    "target 1e3, training",
    "target 1e8, test",
)
TAILS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "t, 3 degrees": lambda rng, n: rng.standard_t(3, n),
    "t, 2 degrees": lambda rng, n: rng.standard_t(2, n),
    "log-normal 1.5": lambda rng, n: np.exp(1.5 * rng.normal(size=n)),
    "counts, mean .1": lambda rng, n: rng.poisson(0.1, n).astype(float),
}


def cells(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A line for each kind of cell, and for each tail without one."""
    for place, what in enumerate(CELLS):
        left_open = named = 0
        for trial in range(args.trials):
            rng = np.random.default_rng([args.seed, 100 + place, trial])
            rows, row, is_test = with_cell(what, rng)
            judged = swept(rows, args.n_bootstrap, is_test).verdict
            left_open += judged.label.startswith(NOT_DECIDED)
            named += any(f"row {row} " in said for said in judged.warnings)
        yield {
            "cell": what,
            "trials": args.trials,
            "not decided": rate(left_open, args.trials),
            "row named": rate(named, args.trials),
        }
    for place, (what, draw) in enumerate(TAILS.items()):
        alarms = 0
        for trial in range(args.trials):
            rng = np.random.default_rng([args.seed, 200 + place, trial])
            n = (200, 2000)[trial % 2]
            y = draw(rng, n)
            made = (rng.normal(size=(n, 8)), y, rng.normal(size=(n, 4)))
            judged = swept(made, 50, quarter(rng, n)).verdict
            alarms += any("typing error" in said for said in judged.warnings)
        yield {
            "cell": f"none, {what}",
            "trials": args.trials,
            "not decided": "–",
            "row named": rate(alarms, args.trials),
        }


def main() -> None:
    """Run it."""
    options = parser(__doc__)
    options.add_argument("--trials", type=int, default=200, help="worlds of each kind (default: %(default)s)")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--n-bootstrap", type=int, default=1000)
    options.add_argument("--only", choices=("dependence", "shuffled", "cells"), help="one of these")
    options.add_argument("--match", default="", help="only worlds with these letters in their names")
    args = options.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    for name, lines_of in (("dependence", dependence), ("shuffled", shuffled), ("cells", cells)):
        if args.only in (None, name):
            figures[name] = []
            for line in lines_of(args):
                figures[name].append(line)
                show([line])
            show(figures[name], name)
    write(args, figures)


if __name__ == "__main__":
    main()
