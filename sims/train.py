"""The two lookup tables trained by next-token prediction, many runs as one batch of plain tensors.

Jiang et al. section 5: a context's row f(d) and a token's row g(c), logits f(d)ᵀg(c), softmax over all
tokens, cross-entropy; SGD with learning rate .1 and batches of 100, or Adam with .001. What the paper leaves
open (initial scale, steps, the law of masks) are settings here, with defaults that reproduce its figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from graticule.hooks.limits import check_limits
from graticule.sims.contexts import Contexts
from graticule.sims.training.sampling import ExactLoss, Pairs
from graticule.sims.training.updates import KINDS, diverged

Optimizer = Literal["sgd", "adam", "population"]
Watch = Callable[[int, Tensor, Tensor], Any]
"""Called as `watch(step, f, g)` with `[run, context, dim]` and `[run, token, dim]`."""

_QUIET = 2000  # updates that are over before a bar is worth drawing


@dataclass(frozen=True)
class Training:
    """How the tables are trained."""

    dim: int | tuple[int, ...] | None = None
    """Width k of both tables, or one a run; None is the number of concepts, as in the paper."""
    optimizer: Optimizer = "sgd"
    """Sampled batches under SGD or Adam, or SGD on the exact gradient over all contexts and tokens."""
    steps: int = 200_000
    """Updates, at most."""
    lr: float | None = None
    """Learning rate; None is .1 for SGD, .001 for Adam, 1 for the population gradient."""
    batch: int = 100
    """Samples an update and run."""
    scale: float | tuple[float, ...] = 1.0
    """Factor on the initial weights U(±1/√n), n being a table's rows (`torch.nn.Linear` on one-hot inputs),
    or one a run."""
    weight_decay: float = 0.0
    """L2 penalty on both tables, as in `torch.optim.SGD`."""
    tolerance: float | None = None
    """Stop once every run's exact loss is within so many nats of its floor (looked at every `log_every`
    updates); None trains for all `steps`."""
    seed: int | tuple[int, ...] = 0
    """Run r draws its tables and samples from seed + r, or one a run."""
    log_every: int = 1000
    """Updates between points of the curves."""

    def __post_init__(self) -> None:
        """**Raises** `ValueError` for another optimiser, or numbers out of range."""
        if self.optimizer not in KINDS:
            raise ValueError(f"optimizer={self.optimizer!r}: one of {', '.join(KINDS)}")
        check_limits(steps=self.steps, batch=self.batch, log_every=self.log_every, lr=self.lr)
        rate = 1.0 if self.lr is None else self.lr
        if not (0 < rate < math.inf and 0 <= self.weight_decay < math.inf):
            raise ValueError(f"lr={self.lr}, weight_decay={self.weight_decay}: finite, above 0 and 0 or more")
        widths = self.dim if isinstance(self.dim, tuple) else (self.dim,)
        scales = self.scale if isinstance(self.scale, tuple) else (self.scale,)
        if any(w is not None and w < 1 for w in widths) or not all(0 <= s < math.inf for s in scales):
            raise ValueError(f"dim={self.dim}: 1 or more; scale={self.scale}: finite and 0 or more")

    def seeds(self, runs: int) -> list[int]:
        """The seed of each run."""
        return [self.seed + r for r in range(runs)] if isinstance(self.seed, int) else list(self.seed)

    @property
    def rate(self) -> float:
        """The learning rate in force."""
        return {"sgd": 0.1, "adam": 0.001, "population": 1.0}[self.optimizer] if self.lr is None else self.lr


@dataclass(frozen=True, eq=False)
class Learned:
    """Trained tables of every run, and how they came about."""

    contexts: tuple[Contexts, ...]
    """The world and contexts of each run."""
    f: Float[Tensor, "run context dim"]
    """Embeddings: a row a context (rows beyond a run's own contexts are never trained). Columns beyond a
    run's own width are 0."""
    g: Float[Tensor, "run token dim"]
    """Unembeddings: a row a token; 0 for tokens outside the concept set."""
    steps: Int[np.ndarray, " log"]
    """Updates done at each point of the curves."""
    loss: Float[np.ndarray, "log run"]
    """Exact expected loss in nats at each point; it cannot fall below `floor`."""
    floor: Float[np.ndarray, " run"]
    """Entropy floor of each run."""
    settings: Training
    """How they were trained."""
    watched: tuple[Any, ...] = ()
    """What `watch` gave back at each point of the curves."""


def train(
    contexts: Sequence[Contexts],
    settings: Training | None = None,
    *,
    watch: Watch | None = None,
    progress: bool | None = None,
) -> Learned:
    """Train a pair of tables a run, all runs in one batch, on the CPU.

    `contexts` holds one entry a run; the runs' worlds have the same values and concept sets of one size.
    `watch(step, f, g)` is called at every point of the curves, and what it returns is kept. Runs of different
    widths train as zero-padded columns, which no gradient touches; the same settings give the same bits on
    the same number of threads.

    **Raises** `ValueError` for no run, worlds of different shapes, or another number of scales or widths than
    runs; `FloatingPointError` where training diverges.
    """
    settings = settings or Training()
    if not contexts or len({c.world.values for c in contexts}) != 1:
        raise ValueError("train needs one run or more, all with the same number of values a concept")
    pairs = [Pairs(c) for c in contexts]
    if len({len(p.tokens) for p in pairs}) != 1:
        raise ValueError(f"concept sets of {[len(p.tokens) for p in pairs]} tokens; runs need one size")
    f, gt = initial(pairs, settings)
    exact, updates = [ExactLoss(p) for p in pairs], KINDS[settings.optimizer](pairs, settings, f, gt)
    floor = np.array([c.entropy_floor for c in contexts])
    logged: list[int] = []
    losses: list[list[float]] = []
    watched: list[Any] = []
    quiet = not (settings.steps > _QUIET if progress is None else progress)
    points = [*range(0, settings.steps, settings.log_every), settings.steps]
    with tqdm(total=settings.steps, desc="training", unit="step", disable=quiet, leave=False) as bar:
        for start, stop in zip(points, [*points[1:], settings.steps], strict=True):
            logged.append(start)
            losses.append([loss(f[r], gt[r].T) for r, loss in enumerate(exact)])
            gap = np.array(losses[-1]) - floor
            if not np.isfinite(gap).all():
                raise diverged(settings)
            bar.set_postfix(loss=f"{np.mean(losses[-1]):.4f}", gap=f"{gap.mean():.4f}", refresh=False)
            if watch is not None:
                watched.append(watch(start, f, spread(pairs, gt)))
            if settings.tolerance is not None and gap.max() < settings.tolerance:
                break
            updates.run(stop - start)
            bar.update(stop - start)
    g = spread(pairs, gt)
    return Learned(tuple(contexts), f, g, np.array(logged), np.array(losses), floor, settings, tuple(watched))


def initial(
    pairs: Sequence[Pairs], settings: Training
) -> tuple[Float[Tensor, "run context dim"], Float[Tensor, "run dim token"]]:
    """The tables before training, the unembeddings transposed; each run from its own seed, so that the same
    run alone or among others starts alike.

    **Raises** `ValueError` for another number of scales or widths than runs.
    """
    runs, m = len(pairs), pairs[0].contexts.world.m
    widths = _one_a_run(m if settings.dim is None else settings.dim, runs, "dim")
    scales = _one_a_run(settings.scale, runs, "scale")
    seeds = _one_a_run(tuple(settings.seeds(runs)), runs, "seed")
    tokens = len(pairs[0].tokens)
    f = torch.zeros(runs, max(p.contexts.n for p in pairs), max(widths))
    g = torch.zeros(runs, tokens, max(widths))
    for run, (held, width, scale) in enumerate(zip(pairs, widths, scales, strict=True)):
        generator = torch.Generator().manual_seed(seeds[run])
        for table, rows in ((f, held.contexts.n), (g, tokens)):
            drawn = torch.empty(rows, width).uniform_(-1, 1, generator=generator)
            table[run, :rows, :width] = drawn.mul_(scale / rows**0.5)
    return f, g.transpose(1, 2).contiguous()


def spread(pairs: Sequence[Pairs], gt: Float[Tensor, "run dim token"]) -> Float[Tensor, "run all dim"]:
    """Unembeddings with a row for every token of the world."""
    every = pairs[0].contexts.world.n_vectors
    g = gt.transpose(1, 2).contiguous()
    if every == g.shape[1]:
        return g
    out = torch.zeros(len(g), every, g.shape[2])
    for run, held in enumerate(pairs):
        out[run, torch.from_numpy(held.tokens)] = g[run]
    return out


def _one_a_run(value: Any, runs: int, name: str) -> list[Any]:
    found = list(value) if isinstance(value, tuple) else [value] * runs
    if len(found) != runs:
        raise ValueError(
            f"{name}={value!r} holds {len(found)} values for {runs} runs; give one, or one a run"
        )
    return found
