"""How often the layer choice leads to a false verdict: `python benchmarks/attack_choice.py`.

Worlds of which the truth is known, each through the whole `sweep`:

- *late*: the early half of the layers reads best what the baselines read too, the late half holds a part of
  the target that no baseline holds, and less of the rest. The right verdict is *structure*; a world counts as
  detectable where the same rows say so at a layer that is known to hold the part.
- *luck*: 40 layers of noise and a target that is luck. The right verdict is anything but *structure*.
- *surface*: 40 layers that are noisy copies of what the baselines read, each with noise of its own.

Each verdict is reached at the layer that the package chooses and at the one with the best probe (as 0.1 did).
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from _timing import parser, rate, show, write

from graticule import Activations, Findings, Table, sweep
from graticule.probes.core.verdict import NO_BETTER, STRUCTURE
from graticule.probes.surface.baselines import Baselines, text_digest


@dataclass(frozen=True)
class World:
    """What a sweep is given."""

    activations: Activations
    table: Table
    baselines: Baselines


def world(layers: list[np.ndarray], y: np.ndarray, beside: np.ndarray, rng: np.random.Generator) -> World:
    """A quarter of the rows is the test part."""
    is_test = rng.permutation(len(y)) < len(y) // 4
    table = Table.from_arrays(y, is_test=is_test)
    tensors = {f"blocks.{i}.hook_resid_post": torch.from_numpy(x).float() for i, x in enumerate(layers)}
    embedding = Activations.from_tensors({"hook_embed": torch.from_numpy(beside).float()})
    return World(
        Activations.from_tensors(tensors),
        table,
        Baselines(text_digest(table), {"mean_embedding": embedding}, False),
    )


def late(n: int, hidden: float, rng: np.random.Generator, count: int = 12, width: int = 32) -> World:
    """The hidden part has the share `hidden` of the target's variance, the surface .6."""
    words, own = rng.normal(size=(n, width)), rng.normal(size=n)
    y = np.sqrt(0.6) * words[:, 0] + np.sqrt(hidden) * own + np.sqrt(0.4 - hidden) * rng.normal(size=n)
    layers: list[np.ndarray] = []
    for layer in range(count):
        early = layer < count // 2
        x = words @ rng.normal(size=(width, width)) / np.sqrt(width)
        x += (0.05 if early else 1.0) * rng.normal(size=x.shape)
        layers.append(x if early else x + np.outer(own, rng.normal(size=width)))
    return world(layers, y, words, rng)


def luck(n: int, rng: np.random.Generator, count: int = 40, width: int = 32) -> World:
    """Nothing holds anything of the target."""
    layers = [rng.normal(size=(n, width)) for _ in range(count)]
    return world(layers, rng.normal(size=n), rng.normal(size=(n, width)), rng)


def surface(n: int, rng: np.random.Generator, count: int = 40, width: int = 32) -> World:
    """Every layer holds what the baseline holds, and noise."""
    words = rng.normal(size=(n, width))
    y = np.sqrt(0.6) * words[:, 0] + np.sqrt(0.4) * rng.normal(size=n)
    layers = [words + 0.5 * rng.normal(size=words.shape) for _ in range(count)]
    return world(layers, y, words, rng)


def judged(one: World, n_bootstrap: int, points: list[str] | None = None) -> Findings:
    """By the whole sweep, at all layers or some."""
    activations = one.activations if points is None else one.activations.select(points=points)
    return sweep(activations, one.table, baselines=one.baselines, n_bootstrap=n_bootstrap, progress=False)


SETTINGS: dict[str, dict[str, Any]] = {
    "late, 400 rows, hidden .05": {"make": late, "n": 400, "hidden": 0.05},
    "late, 1000 rows, hidden .02": {"make": late, "n": 1000, "hidden": 0.02},
    "late, 1000 rows, hidden .05": {"make": late, "n": 1000, "hidden": 0.05},
    "late, 1000 rows, hidden .10": {"make": late, "n": 1000, "hidden": 0.10},
    "late, 1000 rows, hidden .20": {"make": late, "n": 1000, "hidden": 0.20},
    "late, 2000 rows, hidden .10": {"make": late, "n": 2000, "hidden": 0.10},
    "luck, 200 rows, 40 layers": {"make": luck, "n": 200},
    "luck, 1000 rows, 40 layers": {"make": luck, "n": 1000},
    "surface, 200 rows, 40 layers": {"make": surface, "n": 200},
    "surface, 1000 rows, 40 layers": {"make": surface, "n": 1000},
}
"""Fixed before any of them was run."""


def trials(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A line for each setting."""
    for place, (name, setting) in enumerate(SETTINGS.items()):
        if args.match not in name:
            continue
        given = dict(setting)
        make, began = given.pop("make"), time.perf_counter()
        counts = dict.fromkeys(
            ("structure", "no better", "best probe's", "its no better", "a late layer's"), 0
        )
        for trial in range(args.trials):
            one = make(rng=np.random.default_rng([args.seed, place, trial]), **given)
            found = judged(one, args.n_bootstrap)
            probe = str(found.layers.loc[found.layers["validation"].idxmax(), "point"])
            same = probe == found.chosen_point
            before = found.verdict if same else judged(one, args.n_bootstrap, [probe]).verdict
            counts["structure"] += found.verdict.label == STRUCTURE
            counts["best probe's"] += before.label == STRUCTURE
            counts["no better"] += found.verdict.label == NO_BETTER
            counts["its no better"] += before.label == NO_BETTER
            if make is late:
                at = judged(one, args.n_bootstrap, ["blocks.9.hook_resid_post"]).verdict
                counts["a late layer's"] += at.label == STRUCTURE
        line: dict[str, Any] = {"world": name, "trials": args.trials}
        line |= {what: rate(count, args.trials) for what, count in counts.items()}
        if make is not late:
            line["a late layer's"] = "–"
        line["seconds"] = round(time.perf_counter() - began)
        yield line


def main() -> None:
    """Run it."""
    options = parser(__doc__)
    options.add_argument("--trials", type=int, default=200, help="worlds of each kind (default: %(default)s)")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--n-bootstrap", type=int, default=1000)
    options.add_argument("--match", default="", help="only worlds with these letters in their names")
    args = options.parse_args()
    torch.set_num_threads(1)
    lines: list[dict[str, Any]] = []
    for line in trials(args):
        lines.append(line)
        show([line])
    show(lines, "Verdicts at the layer that adds most, and at the best probe's")
    write(args, {"choice": lines})


if __name__ == "__main__":
    main()
