"""True atoms of latent-DAG worlds found by our training beside SAELens's plain one, over several seeds.

    python benchmarks/recovery.py --seeds 5 --json recovery.json

Three worlds: a sparse one (64 concepts in 16 dimensions, each on at most 5% of the rows), the paper's dense
one (7 concepts in 7 dimensions, every value on a quarter of the rows), and the rows that a learner of the
dense world writes. Four dictionaries, one latent an atom: ours and SAELens's TopK, and our paper-SAE with
resampling beside SAELens's `standard`. Everything but the penalty is fixed beforehand; k is the mean number
of atoms a row, and each kind of penalised SAE takes of `--penalties` the one whose L0 on the first seed's
rows comes nearest to it. World, initial weights and batches differ from seed to seed.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from _timing import parser, show, write

from graticule import Activations
from graticule.saes.features.recovery import recovery
from graticule.saes.features.truth import Truth, dense_truth, learned_truth, sparse_truth
from graticule.saes.training.train import train
from graticule.sims.contexts import Contexts
from graticule.sims.learners import lookup_model
from graticule.sims.training.lookup import train_tables
from graticule.sims.training.settings import Training
from graticule.sims.truth.rows import lookup_rows
from graticule.sims.world import World

Trained = Callable[[Truth, Any, int, float], Any]
COLUMNS = ["cosine", "found", "mcc", "f1", "l0", "dead", "explained_variance"]


def main() -> None:
    """Train, compare, print, write."""
    options = parser(__doc__, repeats=1)
    options.add_argument("--seeds", type=int, default=5)
    options.add_argument("--worlds", nargs="+", default=[*WORLDS], choices=[*WORLDS])
    options.add_argument("--rows", type=int, default=20_000)
    options.add_argument("--steps", type=int, default=4000)
    options.add_argument("--batch", type=int, default=256)
    options.add_argument("--lr", type=float, default=1e-3)
    options.add_argument("--penalties", type=float, nargs="+", default=[0.03, 0.1, 0.3, 1.0])
    args = options.parse_args()
    warnings.filterwarnings("ignore", module="sae_lens")
    lines: list[pd.DataFrame] = []
    chosen: dict[str, float] = {}
    for name in args.worlds:
        make = WORLDS[name]
        for seed in range(args.seeds):
            truth = make(args.rows, seed)
            saes: dict[str, Any] = {}
            for kind, fit in KINDS.items():
                key = f"{name}, {kind}"
                if "TopK" in kind:
                    chosen[key] = max(1, round(float(truth.fires.sum(axis=1).mean())))
                elif key not in chosen:
                    chosen[key] = nearest(fit, truth, args)
                saes[kind] = fit(truth, args, seed, chosen[key])
            found = recovery(saes, truth, seed=seed)
            lines.append(found.dictionaries.assign(world=name, seed=seed))
            print(found.summary(), flush=True)
    arms = pd.concat(lines, ignore_index=True)
    mean = arms.groupby(["world", "arm"], sort=False)[COLUMNS].mean()
    error = arms.groupby(["world", "arm"], sort=False)[COLUMNS].sem()
    told = [
        {"world": world, "dictionary": arm}
        | {c: f"{mean.loc[(world, arm), c]:.3f} ± {error.loc[(world, arm), c]:.3f}" for c in COLUMNS}
        for world, arm in mean.index
    ]
    show(told, f"{args.seeds} seeds, {args.steps} steps of {args.batch} rows; mean ± standard error")
    print("penalty or k:", chosen)
    write(args, {"chosen": chosen, "arms": arms.to_dict("records")})


def sparse(n: int, seed: int) -> Truth:
    """Atoms that are rarely there."""
    return sparse_truth(n=n, seed=seed)


def dense(n: int, seed: int) -> Truth:
    """The paper's world, atoms written linearly."""
    return dense_truth(Contexts.complete(World.random(7, seed=seed)), n=n, seed=seed)


def learned(n: int, seed: int) -> Truth:
    """The paper's world, as a lookup learner writes it."""
    contexts = Contexts.complete(World.random(7, seed=seed))
    steps = Training(optimizer="population", lr=16.0, steps=3000, seed=seed)
    tables = train_tables([contexts], steps, progress=False)
    model = lookup_model(tables.f[0], tables.g[0])
    sample, every = (lookup_rows(model, contexts, n=count, seed=seed) for count in (n, None))
    return learned_truth(sample, every, next(iter(sample.activations)))


WORLDS: dict[str, Callable[[int, int], Truth]] = {"sparse": sparse, "dense": dense, "learned": learned}


def graticule(architecture: str) -> Trained:
    """Our training."""

    def fit(truth: Truth, args: Any, seed: int, setting: float) -> Any:
        rows = Activations({"rows": torch.from_numpy(truth.rows)}, pd.DataFrame(index=range(len(truth.rows))))
        config: dict[str, Any] = {"architecture": architecture, "d_sae": len(truth.atoms), "lr": args.lr}
        # the paper's penalty stands beside a mean over d_in, SAELens's beside a sum
        config |= {"k": int(setting)} if architecture == "topk" else {"l1_coefficient": setting / truth.d_in}
        with tempfile.TemporaryDirectory() as folder:
            run = train(
                rows,
                config=config,
                n_tokens=args.steps * args.batch,
                batch_size=args.batch,
                epochs=None,
                seed=seed,
                out=Path(folder) / "run",
                progress=False,
            )
            return run.sae()

    return fit


def saelens(architecture: str) -> Trained:
    """SAELens's trainer, with the same rate, schedule and rows."""

    def fit(truth: Truth, args: Any, seed: int, setting: float) -> Any:
        from sae_lens import SAETrainer
        from sae_lens.config import LoggingConfig, SAETrainerConfig
        from sae_lens.registry import get_sae_training_class

        cls, config = get_sae_training_class(architecture)
        given = {"k": int(setting)} if architecture == "topk" else {"l1_coefficient": setting}
        torch.manual_seed(seed)
        sae = cls(config(d_in=truth.d_in, d_sae=len(truth.atoms), **given))
        settings = SAETrainerConfig(
            total_training_samples=args.steps * args.batch,
            train_batch_size_samples=args.batch,
            lr=args.lr,
            lr_end=args.lr / 10,
            lr_warm_up_steps=min(1000, args.steps // 20),
            lr_decay_steps=args.steps // 5,
            dead_feature_window=min(1000, args.steps // 4),
            device="cpu",
            logger=LoggingConfig(log_to_wandb=False),
        )
        trainer: SAETrainer[Any, Any] = SAETrainer(settings, sae, batches(truth.rows, args.batch, seed))
        return trainer.fit()

    return fit


def batches(rows: np.ndarray, size: int, seed: int) -> Iterator[torch.Tensor]:
    """Shuffled epochs without end."""
    rng, held = np.random.default_rng(seed), torch.from_numpy(rows)
    while True:
        order = torch.from_numpy(rng.permutation(len(held)))
        yield from (held[part] for part in order.split(size) if len(part) == size)


KINDS: dict[str, Trained] = {
    "our TopK": graticule("topk"),
    "SAELens's TopK": saelens("topk"),
    "our paper-SAE": graticule("bricken"),
    "SAELens's standard": saelens("standard"),
}


def nearest(fit: Trained, truth: Truth, args: Any) -> float:
    """The penalty whose L0 comes nearest to the number of atoms a row."""
    wanted = float(truth.fires.sum(axis=1).mean())
    rows = torch.from_numpy(truth.rows)

    def miss(penalty: float) -> float:
        sae = fit(truth, args, 0, penalty)
        with torch.no_grad():
            l0 = float((sae.encode(rows) > 0).sum(1).float().mean())
        return abs(np.log((l0 + 1e-6) / wanted))

    return min(args.penalties, key=miss)


if __name__ == "__main__":
    main()
