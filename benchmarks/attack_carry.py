"""Does a probe carry? Pairs of worlds that share a concept, or only what the surface shows too.

    python benchmarks/attack_carry.py --trials 200 --json carry.json

Every pair of worlds is two tables of rows from one model: what the surface knows, a concept that only the
activations hold, a source (of two), and noise. Required of `judge_on`, learned on the first and scored on the
second: *carries* in 95% where both tables' targets hold the concept, in 5% at most where

- `source`: the target follows the source in both tables, which the surface shows, and holds no concept;
- `turned`: it holds the source the other way round in the second;
- `other concept`: each table's target holds a concept of its own;
- `luck`: the second table's target is independent of everything.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from _timing import parser, show, write

from graticule import Activations, Table, sweep
from graticule.probes.core.findings import Findings
from graticule.probes.core.resample import wilson
from graticule.probes.generalisation.carried import CARRIES, judge_on
from graticule.probes.surface.baselines import Baselines, text_digest

WORLDS = ("concept", "source", "turned", "other concept", "luck")
POINTS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")


def table_findings(
    world: str, second: bool, rows: int, mixing: dict[str, np.ndarray], rng: np.random.Generator, binary: bool
) -> Findings:
    """A sweep of one table of the world."""
    words, concept, source = (rng.normal(size=(rows, k)) for k in (4, 2, 1))
    source = np.sign(source)
    along = concept[:, [1 if second and world == "other concept" else 0]]
    latent = 0.5 * words[:, :1] + 0.9 * rng.normal(size=(rows, 1))
    if world in ("concept", "other concept"):
        latent = latent + 0.8 * along
    elif world in ("source", "turned"):
        latent = latent + (-0.8 if second and world == "turned" else 0.8) * source
    if second and world == "luck":
        latent = rng.normal(size=(rows, 1))
    elif world == "luck":
        latent = latent + 0.8 * along
    seen = np.concatenate([words, source], axis=1)
    late = seen @ mixing["seen"] + concept @ mixing["concept"] + 0.3 * rng.normal(size=(rows, 24))
    early = seen @ mixing["early"] + 0.3 * rng.normal(size=(rows, 24))
    target = np.where(latent > 0, "yes", "no") if binary else latent
    frame = pd.DataFrame({"target": target[:, 0]})
    table = Table(frame, target="target", name="second" if second else "first", seed=int(rng.integers(2**31)))
    tensors = {
        name: torch.from_numpy(x.astype(np.float32)) for name, x in zip(POINTS, (early, late), strict=True)
    }
    beside = Activations.from_tensors(
        {"hook_embed": (seen + 0.05 * rng.normal(size=seen.shape)).astype(np.float32)}
    )
    features = {"mean_embedding": beside}
    return sweep(
        Activations.from_tensors(tensors),
        table,
        baselines=Baselines(text_digest(table), features, False),
        crossfit=False,
        progress=False,
    )


def main() -> None:
    """Draw pairs, count, print, write."""
    options = parser(__doc__, repeats=1)
    options.add_argument("--trials", type=int, default=200)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--rows", type=int, default=500)
    args = options.parse_args()
    lines = []
    for binary in (False, True):
        for world in WORLDS:
            labels = []
            for trial in range(args.trials):
                rng = np.random.default_rng([args.seed, trial, WORLDS.index(world), binary])
                widths = {"seen": 5, "concept": 2, "early": 5}
                mixing = {name: rng.normal(size=(k, 24)) for name, k in widths.items()}
                first, second = (
                    table_findings(world, s, args.rows, mixing, rng, binary) for s in (False, True)
                )
                labels.append(judge_on(first, second, progress=False).scored["label"].iloc[0])
            count = labels.count(CARRIES)
            low, high = wilson(count, len(labels))
            lines.append(
                {"target": "yes/no" if binary else "numbers", "world": world, "carries": count / len(labels),
                 "low": low, "high": high, "required": "≥ .95" if world == "concept" else "≤ .05"}
            )  # fmt: skip
            show(lines[-1:])
    show(lines, f"{args.trials} pairs of worlds each, {args.rows} rows a table, seed {args.seed}")
    write(args, {"trials": args.trials, "seed": args.seed, "rows": lines})


if __name__ == "__main__":
    main()
