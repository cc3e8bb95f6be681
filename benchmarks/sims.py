"""Table 1 of Jiang et al. at seven concepts, ten runs: batched, against a plain torch loop, run after run.

    python benchmarks/sims.py --steps 200000 --repeats 1 --json sims.json

The reference is what a reader of section 5 would write: two parameters, `cross_entropy`, `backward` and
`torch.optim.SGD`, one world after the other. It draws its samples in blocks from the same worlds, which is
kinder to it than drawing them batch by batch. Both make `--steps` updates of all runs (the paper's protocol
takes some 200,000; time is proportional to updates), on samples of their own: cosines agree within noise, and
both losses are told above the same entropy floor. The population gradient then trains until the median run's
unembedding and embedding cosines are those of the batched runs' (the median, because now and then a run stays
where only noise gets it out: how many are there by then is told); its time includes the looks.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch
from _timing import measure, medians, parser, show, write

from graticule.sims.papers.setting import Setting
from graticule.sims.papers.simulate import behind
from graticule.sims.training.lookup import Learned, train_tables
from graticule.sims.training.sampling import ExactLoss, Pairs
from graticule.sims.truth.steering import VIEWS, watch_cosines

BLOCK = 256
LOOKS = 50


def plain_torch(setting: Setting, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One run: embeddings and unembeddings after training."""
    contexts, m = setting.contexts(seed), setting.concepts
    torch.manual_seed(seed)
    f = torch.nn.Parameter(torch.empty(contexts.n, m).uniform_(-1, 1) / contexts.n**0.5)
    g = torch.nn.Parameter(torch.empty(2**m, m).uniform_(-1, 1) / 2 ** (m / 2))
    optimizer = torch.optim.SGD([f, g], lr=setting.rate)
    rng = np.random.default_rng(seed)
    for step in range(setting.steps):
        if step % BLOCK == 0:
            drawn = contexts.sample(BLOCK * 100, rng)
            ids, tokens = (torch.from_numpy(part).view(BLOCK, 100) for part in drawn)
        loss = torch.nn.functional.cross_entropy(f[ids[step % BLOCK]] @ g.T, tokens[step % BLOCK])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return f.detach(), g.detach()


def batched(setting: Setting, runs: int, points: int = 1) -> Learned:
    """All runs at once."""
    contexts = [setting.contexts(seed) for seed in range(runs)]
    training = setting.training(tuple(range(runs)), (1.0,) * runs, points)
    return train_tables(contexts, training, watch=watch_cosines(contexts), progress=False)


def population(setting: Setting, runs: int, wanted: np.ndarray) -> tuple[float, int, np.ndarray, np.ndarray]:
    """Seconds and updates until the median cosines are as `wanted`; then those of all runs, and which of them
    stayed behind."""
    contexts = [setting.contexts(seed) for seed in range(runs)]
    watch = watch_cosines(contexts)
    start = time.perf_counter()

    class Reached(Exception):
        """The cosines are there."""

    last: list[tuple[int, np.ndarray, torch.Tensor, torch.Tensor]] = []

    def look(step: int, f: torch.Tensor, g: torch.Tensor) -> None:
        last[:] = [(step, watch(step, f, g), f, g)]
        if (np.median(last[0][1], axis=0) >= wanted)[:2].all():
            raise Reached

    try:
        longer = replace(setting, steps=2 * setting.steps)
        training = longer.training(tuple(range(runs)), (1.0,) * runs, LOOKS)
        train_tables(contexts, training, watch=look, progress=False)
    except Reached:
        pass
    seconds = time.perf_counter() - start
    step, cosines, f, g = last[0]
    losses = [ExactLoss(Pairs(c))(f[r], g[r]) for r, c in enumerate(contexts)]
    return seconds, step, cosines, behind(np.array(losses) - [c.entropy_floor for c in contexts])


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, repeats=1)
    options.add_argument("--concepts", type=int, default=7)
    options.add_argument("--runs", type=int, default=10)
    options.add_argument("--steps", type=int, default=10_000)
    options.add_argument("--plain-runs", type=int, help="runs of the plain loop, projected to all")
    options.add_argument("--threads", type=int, default=1, help="of torch, for all (default: 1)")
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    setting = Setting(args.concepts, steps=args.steps)
    did = min(args.plain_runs or args.runs, args.runs)
    found: dict[str, object] = {}

    def one_by_one() -> None:
        found["plain"] = [plain_torch(setting, seed) for seed in range(did)]

    def together() -> None:
        found["batched"] = batched(setting, args.runs)

    seconds = medians(measure({"plain": one_by_one, "batched": together}, args.repeats, warm_up=False))
    seconds["plain"] *= args.runs / did
    learned: Learned = found["batched"]  # type: ignore[assignment]
    contexts = learned.contexts
    tables: list[tuple[torch.Tensor, torch.Tensor]] = found["plain"]  # type: ignore[assignment]
    f, g = (torch.stack([pair[k] for pair in tables]) for k in (0, 1))
    cosines = {
        "plain torch, run after run": watch_cosines(contexts[:did])(0, f, g),
        "batched": learned.watched[-1],
    }
    took = {"plain torch, run after run": seconds["plain"], "batched": seconds["batched"]}
    exact = setting.by("population")
    wanted = np.median(cosines["batched"], axis=0)
    exact_seconds, updates, reached, left = population(exact, args.runs, wanted)
    rows = [
        {
            "route": name,
            "updates": args.steps,
            "seconds": took[name],
            "× plain": seconds["plain"] / took[name],
            **{view: f"{c[:, k].mean():.4f} ± {_error(c[:, k]):.4f}" for k, view in enumerate(VIEWS)},
        }
        for name, c in cosines.items()
    ]
    rows.append(
        {
            "route": "population gradient, median run",
            "updates": updates,
            "seconds": exact_seconds,
            "× plain": seconds["plain"] / exact_seconds,
            **{view: f"{np.median(reached[:, k]):.4f}" for k, view in enumerate(VIEWS)},
        }
    )
    show(rows, f"m = {args.concepts}, {args.runs} runs, {args.threads} thread; the plain loop did {did} runs")
    gap = float((learned.loss[-1] - learned.floor).mean())
    ratio = seconds["plain"] / seconds["batched"]
    print(f"\nbatched loss {gap:.4f} nats above the floor; ratio {ratio:.1f} (required: 8)")
    print(f"population gradient: {left.sum()} of {args.runs} runs far behind, at {reached[left, 0].round(3)}")
    figures = {"routes": rows, "ratio": ratio, "gap": gap, "behind": int(left.sum())}
    write(args, {"figures": figures})


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else float("nan")


if __name__ == "__main__":
    main()
