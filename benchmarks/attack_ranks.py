"""Grades, counts and heavy tails judged as numbers and by ranks: `python benchmarks/attack_ranks.py`.

Worlds as in `attack_limit`: a latent variable that the baseline knows .4 of, and the activations a hidden
share more, or nothing more; the target is the variable put through by rank to values of one kind. Each is
swept twice, as numbers (R²) and with kind='ordinal'.
"""

import argparse
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from _timing import parser, rate, show, write

from graticule import Activations, Table, sweep
from graticule.probes.core.verdict import NOT_DECIDED, STRUCTURE, Verdict
from graticule.probes.surface.baselines import Baselines, text_digest

SURFACE, OWN, SHARE = 16, 16, 0.4
ROWS = 400
HIDDEN = (0.0, 0.15)
Draw = Callable[[np.random.Generator, int], np.ndarray]
TARGETS: dict[str, Draw] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "5 grades, uneven": lambda rng, n: rng.choice(5, n, p=[0.05, 0.1, 0.2, 0.45, 0.2]).astype(float),
    "counts, mean .7": lambda rng, n: rng.poisson(0.7, n).astype(float),
    "counts, overdispersed": lambda rng, n: rng.negative_binomial(0.5, 0.05, n).astype(float),
    "t, 2 degrees": lambda rng, n: rng.standard_t(2, n),
    "log-normal 1.5": lambda rng, n: np.exp(1.5 * rng.normal(size=n)),
}
"""All of this was fixed before any of it was run."""


def judged(rng: np.random.Generator, draw: Draw, hidden: float) -> dict[str, Verdict]:
    """The verdict as numbers and by ranks, on one world."""
    known, own = rng.normal(size=(ROWS, SURFACE)), rng.normal(size=(ROWS, OWN))
    latent = np.sqrt(SHARE) * known[:, 0] + np.sqrt(hidden) * own[:, 0]
    latent += np.sqrt(1 - SHARE - hidden) * rng.normal(size=ROWS)
    values = np.empty(ROWS)
    values[np.argsort(latent)] = np.sort(draw(rng, ROWS))
    frame = pd.DataFrame({"y": values, "is_test": rng.permutation(ROWS) < ROWS // 4})
    turn = np.linalg.qr(rng.normal(size=(SURFACE + OWN, SURFACE + OWN)))[0]
    rows = torch.from_numpy(np.concatenate([known, own], axis=1) @ turn)
    activations = Activations.from_tensors({"blocks.0.hook_resid_post": rows})
    embedding = Activations.from_tensors({"hook_embed": torch.from_numpy(known)})
    out: dict[str, Verdict] = {}
    for kind in ("numeric", "ordinal"):
        table = Table(frame, target="y", split="is_test", name="ranks", kind=kind)  # type: ignore[arg-type]
        beside = Baselines(text_digest(table), {"mean_embedding": embedding}, False)
        out[kind] = sweep(activations, table, baselines=beside, progress=False).verdict
    return out


def lines(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A line for each target and hidden share."""
    out: list[dict[str, Any]] = []
    for place, (name, draw) in enumerate(TARGETS.items()):
        for k, hidden in enumerate(HIDDEN):
            each = [
                judged(np.random.default_rng([args.seed, place, k, trial]), draw, hidden)
                for trial in range(args.trials)
            ]
            line: dict[str, Any] = {"target": name, "hidden": hidden}
            for kind, what in (("numeric", "numbers"), ("ordinal", "ranks")):
                labels = [one[kind].label for one in each]
                line[f"{what}: structure"] = rate(labels.count(STRUCTURE), len(labels))
                ruled = sum(label.startswith(f"{NOT_DECIDED}: the largest") for label in labels)
                line[f"{what}: ruled by few"] = ruled / len(labels)
            out.append(line)
            show([line])
    return out


def main() -> None:
    """Run it."""
    options = parser(__doc__)
    options.add_argument("--trials", type=int, default=200, help="worlds of each kind (default: %(default)s)")
    options.add_argument("--seed", type=int, default=1)
    args = options.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    found = lines(args)
    show(found, "Called structure, by R² of numbers and of ranks")
    write(args, {"ranks": found})


if __name__ == "__main__":
    main()
