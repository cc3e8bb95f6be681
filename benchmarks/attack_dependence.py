"""Rows that depend on each other undeclared, and absurd cells: `python benchmarks/attack_dependence.py`.

Worlds of which the truth is known, each through the whole `sweep`. There is nothing to find in

- *synonyms*: sets of rows with nearly the same activations and the same target, which is luck; texts and
  embeddings have nothing in common; some rows fall into the training and some into the test part;
- *clusters*: rows share the part ρ of the variance of activations and target, which is luck;
- *series*: activations and target follow the table's order, each by itself.

Rows are independent, and the part `share` of the target is linear in the activations, in

- *independent*: where the words must be those of the same gain and interval without any check of neighbours.

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


def swept(
    rows: Rows, rng: np.random.Generator, n_bootstrap: int, is_test: np.ndarray | None = None
) -> Findings:
    """A quarter of the rows is the test part."""
    x, y, beside = rows
    if is_test is None:
        is_test = rng.permutation(len(y)) < len(y) // 4
    table = Table.from_arrays(y, is_test=is_test)
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
            judged = swept(make(rng, **given), rng, args.n_bootstrap).verdict
            by_interval = judged.ci95[0] > 0 and judged.gain >= judged.min_gain
            counts["structure"] += judged.label == STRUCTURE
            counts["by interval"] += by_interval
            counts["left open by neighbours"] += any(why in judged.label for why in NEIGHBOURS)
        line: dict[str, Any] = {"world": name, "trials": args.trials}
        line |= {what: rate(count, args.trials) for what, count in counts.items()}
        yield {**line, "seconds": round(time.perf_counter() - began)}


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
            judged = swept(rows, rng, args.n_bootstrap, is_test).verdict
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
            judged = swept((rng.normal(size=(n, 8)), y, rng.normal(size=(n, 4))), rng, 50).verdict
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
    options.add_argument("--only", choices=("dependence", "cells"), help="one of the two")
    options.add_argument("--match", default="", help="only worlds with these letters in their names")
    args = options.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    for name, lines_of in (("dependence", dependence), ("cells", cells)):
        if args.only in (None, name):
            figures[name] = []
            for line in lines_of(args):
                figures[name].append(line)
                show([line])
            show(figures[name], name)
    write(args, figures)


if __name__ == "__main__":
    main()
