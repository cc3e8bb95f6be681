"""The two lookup tables trained by next-token prediction, many runs as one batch of plain tensors.

Jiang et al. section 5: a context's row f(d) and a token's row g(c), logits f(d)ᵀg(c), softmax over all
tokens, cross-entropy; SGD with learning rate .1 and batches of 100, or Adam with .001. What the paper leaves
open (initial scale, steps, the law of masks) are settings here, with defaults that reproduce its figures.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from graticule.sims.contexts import Contexts

_log = logging.getLogger(__name__)

_BLOCK = 256  # updates whose samples are drawn at once: fixed, so that the draws depend on the seed alone
_SAFE = 60.0  # exp of a logit below it is far from float32's largest number
_CHECK = 64  # steps between looks at the largest logit


@dataclass(frozen=True)
class Training:
    """How the tables are trained."""

    dim: int | None = None
    """Width k of both tables; None is the number of concepts, as in the paper."""
    optimizer: Literal["sgd", "adam", "population"] = "sgd"
    """Sampled batches under SGD or Adam, or SGD on the exact gradient over all contexts and tokens."""
    steps: int = 200_000
    """Updates."""
    lr: float | None = None
    """Learning rate; None is .1 for SGD, .001 for Adam, 1 for the population gradient."""
    batch: int = 100
    """Samples an update and run."""
    scale: float = 1.0
    """Factor on the initial weights U(±1/√n), n being a table's rows: `torch.nn.Linear` on one-hot inputs."""
    weight_decay: float = 0.0
    """L2 penalty on both tables, as in `torch.optim.SGD`."""
    seed: int = 0
    """Run r draws its tables and samples from seed + r."""
    log_every: int = 1000
    """Updates between points of the curves."""

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
    """Embeddings: a row a context (rows beyond a run's own contexts are never trained)."""
    g: Float[Tensor, "run token dim"]
    """Unembeddings: a row a token."""
    steps: Int[np.ndarray, " log"]
    """Updates done at each point of the curves."""
    loss: Float[np.ndarray, "log run"]
    """Exact expected loss in nats at each point; it cannot fall below `floor`."""
    floor: Float[np.ndarray, " run"]
    """Entropy floor of each run."""
    settings: Training
    """How they were trained."""


def train(
    contexts: Sequence[Contexts],
    settings: Training | None = None,
    *,
    watch: Callable[[int, Tensor, Tensor], None] | None = None,
    progress: bool | None = None,
) -> Learned:
    """Train a pair of tables a run, all runs in one batch, on the CPU.

    `contexts` holds one entry a run; the runs' worlds have the same values. `watch(step, f, g)` is called at
    every point of the curves. The same settings give the same bits on the same number of threads.

    **Raises** `ValueError` for no run or worlds of different shapes.
    """
    settings = settings or Training()
    if not contexts or len({c.world.values for c in contexts}) != 1:
        raise ValueError("train needs one run or more, all with the same number of values a concept")
    f, g = _initial(contexts, settings)
    expected = [_Expected(c) for c in contexts]
    step = {"sgd": _Sampled, "adam": _Adam, "population": _Population}[settings.optimizer](
        contexts, settings, f, g
    )
    logged = [*range(0, settings.steps, settings.log_every), settings.steps]
    losses: list[list[float]] = []
    with tqdm(total=settings.steps, desc="training", unit="step", disable=progress is False) as bar:
        for start, stop in zip(logged, [*logged[1:], settings.steps], strict=True):
            losses.append([e.loss(f[r], g[r]) for r, e in enumerate(expected)])
            bar.set_postfix(loss=f"{np.mean(losses[-1]):.4f}", refresh=False)
            if watch is not None:
                watch(start, f, g)
            step.run(stop - start)
            bar.update(stop - start)
    floors = np.array([c.entropy_floor for c in contexts])
    return Learned(tuple(contexts), f, g, np.array(logged), np.array(losses), floors, settings)


def _initial(contexts: Sequence[Contexts], settings: Training) -> tuple[Tensor, Tensor]:
    world = contexts[0].world
    width = settings.dim or world.m
    rows = max(c.n for c in contexts)
    tables: list[tuple[Tensor, Tensor]] = []
    for run, held in enumerate(contexts):
        # each run from its own seed: the same run alone or among others starts alike
        generator = torch.Generator().manual_seed(settings.seed + run)
        f, g = torch.zeros(rows, width), torch.empty(len(world.vectors), width)
        f[: held.n].uniform_(-1, 1, generator=generator).mul_(settings.scale / held.n**0.5)
        g.uniform_(-1, 1, generator=generator).mul_(settings.scale / len(world.vectors) ** 0.5)
        tables.append((f, g))
    return torch.stack([f for f, _ in tables]), torch.stack([g for _, g in tables])


class _Expected:
    """The exact expected loss −Σ p(d) Σ p(c|d) log p̂(c|d) of one run, in chunks of contexts."""

    def __init__(self, contexts: Contexts) -> None:
        self._contexts = contexts
        self._met = np.flatnonzero(contexts.probabilities)
        self._chunk = max(1, (1 << 22) // len(contexts.world.vectors))

    def parts(self) -> list[tuple[Tensor, Tensor]]:
        """Context ids, and p(d) p(c|d) of theirs `[context, token]`."""
        made: list[tuple[Tensor, Tensor]] = []
        for start in range(0, len(self._met), self._chunk):
            ids = self._met[start : start + self._chunk]
            joint = self._contexts.conditional(ids) * self._contexts.probabilities[ids, None]
            made.append((torch.from_numpy(ids), torch.from_numpy(joint)))
        return made

    def loss(self, f: Tensor, g: Tensor) -> float:
        total = 0.0
        for ids, joint in self.parts():
            logits = f[ids].double() @ g.double().T
            total -= float((joint * torch.log_softmax(logits, dim=-1)).sum())
        return total


class _Sampler:
    """Contexts and tokens of every run, drawn in blocks; each run from a generator of its own."""

    def __init__(self, contexts: Sequence[Contexts], settings: Training) -> None:
        self._contexts, self._batch = contexts, settings.batch
        self._rng = [np.random.default_rng([settings.seed + r, 1]) for r in range(len(contexts))]
        self._held, self._used = self._block(), 0

    def __call__(self, steps: int) -> tuple[Tensor, Tensor]:
        """The next updates' `[step, run, sample]` context ids and tokens: `steps` of them or fewer."""
        if self._used == _BLOCK:
            self._held, self._used = self._block(), 0
        part = slice(self._used, min(self._used + steps, _BLOCK))
        self._used = part.stop
        return self._held[0][part], self._held[1][part]

    def _block(self) -> tuple[Tensor, Tensor]:
        shape = (_BLOCK, self._batch)
        drawn = [c.sample(shape[0] * shape[1], r) for c, r in zip(self._contexts, self._rng, strict=True)]
        ids, tokens = (np.stack([d[k].reshape(shape) for d in drawn], axis=1) for k in (0, 1))
        return torch.from_numpy(ids), torch.from_numpy(tokens)


class _Sampled:
    """SGD on sampled batches: the gradient of the softmax written out, tables updated in place."""

    def __init__(self, contexts: Sequence[Contexts], settings: Training, f: Tensor, g: Tensor) -> None:
        self.f, self.g, self.settings = f, g, settings
        self._draw = _Sampler(contexts, settings)
        runs, rows, self.width = f.shape
        self.tokens = g.shape[1]
        self._flat = f.view(runs * rows, self.width)
        self._row0 = (torch.arange(runs) * rows)[:, None]
        self._out0 = (torch.arange(runs * settings.batch) * self.tokens).view(runs, settings.batch)
        self.errors = torch.empty(runs, settings.batch, self.tokens)
        self._minus = -torch.ones(runs * settings.batch)
        self._bounded, self._done = True, 0

    def run(self, steps: int) -> None:
        while steps > 0:
            ids, tokens = self._draw(steps)
            rows = (ids + self._row0).view(len(ids), -1)
            places = (tokens + self._out0).view(len(ids), -1)
            for i in range(len(ids)):
                self._step(rows[i], places[i])
            steps -= len(ids)

    def _step(self, rows: Tensor, places: Tensor) -> None:
        f = self._flat.index_select(0, rows).view(*self.errors.shape[:2], self.width)
        self._softmax_errors(f, places)
        self.update(rows, f, torch.bmm(self.errors, self.g))

    def _softmax_errors(self, f: Tensor, places: Tensor) -> None:
        """p̂ − onehot, in `errors`. Logits are small here, so the maximum is looked for now and then only."""
        torch.bmm(f, self.g.transpose(1, 2), out=self.errors)
        if self._done % _CHECK == 0:
            self._bounded = float(self.errors.abs().max()) < _SAFE / 2
        self._done += 1
        if self._bounded:
            self.errors.clamp_(max=_SAFE).exp_()
            self.errors.div_(self.errors.sum(dim=-1, keepdim=True))
        else:
            self.errors.copy_(torch.softmax(self.errors, dim=-1))
        self.errors.view(-1).index_add_(0, places, self._minus)

    def update(self, rows: Tensor, f: Tensor, df: Tensor) -> None:
        rate = self.settings.rate
        step = rate / self.settings.batch
        if self.settings.weight_decay:
            keep = 1 - rate * self.settings.weight_decay
            self.f.mul_(keep)
            self.g.mul_(keep)
        self.g.baddbmm_(self.errors.transpose(1, 2), f, alpha=-step)
        self._flat.index_put_((rows,), df.view(-1, self.width).mul_(-step), accumulate=True)


class _Adam(_Sampled):
    """Adam (Kingma & Ba, without decoupled decay) on the same gradients; rows without samples have zero."""

    def __init__(self, contexts: Sequence[Contexts], settings: Training, f: Tensor, g: Tensor) -> None:
        super().__init__(contexts, settings, f, g)
        f.requires_grad_(False)
        self._df, self._dg = torch.zeros_like(f), torch.zeros_like(g)
        for table, gradient in ((f, self._df), (g, self._dg)):
            table.grad = gradient
        self._adam = torch.optim.Adam(
            [f, g], lr=settings.rate, weight_decay=settings.weight_decay, fused=True
        )

    def update(self, rows: Tensor, f: Tensor, df: Tensor) -> None:
        per = 1 / self.settings.batch
        torch.bmm(self.errors.transpose(1, 2), f, out=self._dg).mul_(per)
        self._df.zero_()
        self._df.view(-1, self.width).index_put_((rows,), df.view(-1, self.width).mul_(per), accumulate=True)
        self._adam.step()


class _Population:
    """Gradient descent on the exact expected loss: no sampling noise."""

    def __init__(self, contexts: Sequence[Contexts], settings: Training, f: Tensor, g: Tensor) -> None:
        self.f, self.g, self.settings = f, g, settings
        self._parts = [[(i, j.float()) for i, j in _Expected(c).parts()] for c in contexts]

    def run(self, steps: int) -> None:
        rate, decay = self.settings.rate, self.settings.weight_decay
        for _ in range(steps):
            for r, parts in enumerate(self._parts):
                f, g = self.f[r], self.g[r]
                df, dg = decay * f, decay * g
                for ids, joint in parts:
                    rows = f[ids]
                    errors = torch.softmax(rows @ g.T, dim=-1) * joint.sum(dim=1, keepdim=True) - joint
                    df.index_add_(0, ids, errors @ g)
                    dg.addmm_(errors.T, rows)
                f.sub_(df, alpha=rate)
                g.sub_(dg, alpha=rate)
