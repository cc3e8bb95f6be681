"""The two lookup tables trained by next-token prediction, many runs as one batch of plain tensors.

Jiang et al. section 5: a context's row f(d) and a token's row g(c), logits f(d)ᵀg(c), softmax over all
tokens, cross-entropy; SGD with learning rate .1 and batches of 100, or Adam with .001. What the paper leaves
open (initial scale, steps, the law of masks) are settings here, with defaults that reproduce its figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from graticule.sims.contexts import Contexts
from graticule.sims.training.sampling import ExactLoss, Pairs, Sampler
from graticule.sims.training.settings import Optimizer, Training

Watch = Callable[[int, Tensor, Tensor], Any]
"""Called as `watch(step, f, g)` with `[run, context, dim]` and `[run, token, dim]`."""

_QUIET = 2000  # updates that are over before a bar is worth drawing
_BOUND = 30.0  # exp of a logit of 88 is float32's largest number
_DENSE = 1 << 27  # cells of p(d, c) held as they are: 512 MiB
_TOGETHER = 1 << 18  # cells of the runs that are updated at once: what caches hold
_CHECK = 64  # steps between looks at the largest logit


@dataclass(frozen=True, eq=False)
class Learned:
    """Trained tables of every run, and how they came about."""

    contexts: tuple[Contexts, ...]
    """The world and contexts of each run."""
    f: Float[Tensor, "run context dim"]
    """Embeddings: one row per context (rows beyond a run's own contexts are never trained). Columns beyond a
    run's own width are 0."""
    g: Float[Tensor, "run token dim"]
    """Unembeddings: one row per token; 0 for tokens outside the concept set."""
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


def train_tables(
    contexts: Sequence[Contexts],
    settings: Training | None = None,
    *,
    watch: Watch | None = None,
    progress: bool | None = None,
) -> Learned:
    """Train a pair of tables a run, all runs in one batch, on the CPU.

    `contexts` holds one entry per run; the runs' worlds have the same values and concept sets of one size.
    `watch(step, f, g)` is called at every point of the curves, and what it returns is kept. Runs of different
    widths train as zero-padded columns, which no gradient touches; the same settings give the same bits on
    the same number of threads.

    Raises:
        ValueError: For no run, worlds of different shapes, or another number of scales or widths than runs.
        FloatingPointError: Where training diverges.
    """
    settings = settings or Training()
    if not contexts or len({c.world.values for c in contexts}) != 1:
        raise ValueError("train_tables needs one run or more, all with the same number of values a concept")
    pairs = [Pairs(c) for c in contexts]
    if len({len(p.tokens) for p in pairs}) != 1:
        raise ValueError(f"concept sets of {[len(p.tokens) for p in pairs]} tokens; runs need one size")
    f, gt = initial(pairs, settings)
    exact, updates = [ExactLoss(p) for p in pairs], _UPDATES[settings.optimizer](pairs, settings, f, gt)
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
                raise _diverged(settings)
            bar.set_postfix(loss=f"{np.mean(losses[-1]):z.4f}", gap=f"{gap.mean():z.4f}", refresh=False)
            if watch is not None:
                watched.append(watch(start, f, _of_all_tokens(pairs, gt)))
            if settings.tolerance is not None and gap.max() < settings.tolerance:
                break
            updates.run(stop - start)
            bar.update(stop - start)
    g = _of_all_tokens(pairs, gt)
    return Learned(tuple(contexts), f, g, np.array(logged), np.array(losses), floor, settings, tuple(watched))


def initial(
    pairs: Sequence[Pairs], settings: Training
) -> tuple[Float[Tensor, "run context dim"], Float[Tensor, "run dim token"]]:
    """The tables before training, the unembeddings transposed; each run from its own seed, so that the same
    run alone or among others starts alike.

    Raises:
        ValueError: For another number of scales or widths than runs.
    """
    runs, m = len(pairs), pairs[0].contexts.world.m
    widths = _one_a_run(m if settings.dim is None else settings.dim, runs, "dim")
    scales = _one_a_run(settings.scale, runs, "scale")
    seeds = _one_a_run(tuple(settings.seeds(runs)), runs, "seed")
    tokens = len(pairs[0].tokens)
    f = torch.zeros(runs, max(p.contexts.n for p in pairs), max(widths))
    g = torch.zeros(runs, tokens, max(widths))
    for run, (own, width, scale) in enumerate(zip(pairs, widths, scales, strict=True)):
        generator = torch.Generator().manual_seed(seeds[run])
        for table, rows in ((f, own.contexts.n), (g, tokens)):
            drawn = torch.empty(rows, width).uniform_(-1, 1, generator=generator)
            table[run, :rows, :width] = drawn.mul_(scale / rows**0.5)
    return f, g.transpose(1, 2).contiguous()


def _of_all_tokens(
    pairs: Sequence[Pairs], gt: Float[Tensor, "run dim token"]
) -> Float[Tensor, "run all dim"]:
    """Unembeddings with a row for every token of the world."""
    every = pairs[0].contexts.world.n_vectors
    g = gt.transpose(1, 2).contiguous()
    if every == g.shape[1]:
        return g
    out = torch.zeros(len(g), every, g.shape[2])
    for run, own in enumerate(pairs):
        out[run, torch.from_numpy(own.tokens)] = g[run]
    return out


def _one_a_run(value: Any, runs: int, name: str) -> list[Any]:
    values = list(value) if isinstance(value, tuple) else [value] * runs
    if len(values) != runs:
        raise ValueError(
            f"{name}={value!r} holds {len(values)} values for {runs} runs; give one, or one per run"
        )
    return values


# Updates of all runs at once: the gradients of the softmax written out, no autograd; the unembeddings are
# `[run, dim, token]`, in which order the batched products are fastest ---------------------------------
def _exponentials(logits: Tensor, bounded: bool) -> Tensor:
    """exp of logits in place, up to a factor a row: the rows' maxima are looked for only where they may be
    large."""
    return logits.exp_() if bounded else logits.sub_(logits.amax(dim=-1, keepdim=True)).exp_()


def _are_bounded(logits: Tensor, settings: Training) -> bool:
    """Whether logits are so small that their exp is safe for some more updates.

    Raises:
        FloatingPointError: If they are not finite.
    """
    largest = float(logits.abs().max())
    if not largest < float("inf"):
        raise _diverged(settings)
    return largest < _BOUND


def _diverged(settings: Training) -> FloatingPointError:
    return FloatingPointError(
        f"training diverged under {settings.optimizer} at a learning rate of {settings.rate:g}; lower lr"
    )


class _Sampled:
    """SGD on sampled batches."""

    def __init__(self, pairs: Sequence[Pairs], settings: Training, f: Tensor, gt: Tensor) -> None:
        self.f, self.gt, self.settings = f, gt, settings
        self._draw = Sampler(pairs, settings.batch, settings.seeds(len(pairs)))
        runs, rows, self.width = f.shape
        size, tokens = max(1, _TOGETHER // (settings.batch * gt.shape[2])), gt.shape[2]
        self._groups = [slice(k, k + size) for k in range(0, runs, size)]
        self._gt = [gt[part] for part in self._groups]
        self._flat = f.view(runs * rows, self.width)
        self._row0 = (torch.arange(runs) * rows)[:, None]
        place = torch.arange(runs)[:, None] % size * settings.batch + torch.arange(settings.batch)
        self._out0 = place * tokens
        self._errors = torch.empty(min(size, runs), settings.batch, tokens)
        self._bounded, self._done = [True] * len(self._groups), 0

    def run(self, steps: int) -> None:
        """Make so many updates."""
        while steps > 0:
            ids, tokens = self._draw(steps)
            rows, places = (ids + self._row0).flatten(1), tokens + self._out0
            for row, place in zip(rows.unbind(), places.unbind(), strict=True):
                self._step(row, place)
            steps -= len(rows)

    def _step(self, rows: Tensor, places: Tensor) -> None:
        """One update: Z (p̂ − onehot) is as good as p̂ − onehot, and 1 / Z multiplies the narrow side."""
        f = self._flat.index_select(0, rows).view(*self._out0.shape, self.width)
        df = torch.empty_like(f)
        for k, part in enumerate(self._groups):
            mine, gt = f[part], self._gt[k]
            errors = self._errors[: len(mine)]
            torch.bmm(mine, gt, out=errors)
            if self._done % _CHECK == 0:
                self._bounded[k] = _are_bounded(errors, self.settings)
            z = _exponentials(errors, self._bounded[k]).sum(dim=-1, keepdim=True)
            errors.view(-1).index_add_(0, places[part].flatten(), z.view(-1), alpha=-1)
            torch.bmm(errors, gt.transpose(1, 2), out=df[part]).div_(z)
            self.unembeddings(k, mine.div_(z), errors)
        self._done += 1
        self.embeddings(rows, df.view(-1, self.width))

    def unembeddings(self, k: int, f_over_z: Tensor, errors: Tensor) -> None:
        """Take in the gradient f_over_zᵀ errors of one group of runs."""
        rate = self.settings.rate
        if self.settings.weight_decay:
            self._gt[k].mul_(1 - rate * self.settings.weight_decay)
        self._gt[k].baddbmm_(f_over_z.transpose(1, 2), errors, alpha=-rate / self.settings.batch)

    def embeddings(self, rows: Tensor, df: Tensor) -> None:
        """Take in the gradient of the rows met, of all runs."""
        rate = self.settings.rate
        if self.settings.weight_decay:
            self.f.mul_(1 - rate * self.settings.weight_decay)
        self._flat.index_add_(0, rows, df, alpha=-rate / self.settings.batch)


class _Adam(_Sampled):
    """Adam (Kingma & Ba, without decoupled decay) on the same gradients; rows without samples have zero."""

    def __init__(self, pairs: Sequence[Pairs], settings: Training, f: Tensor, gt: Tensor) -> None:
        super().__init__(pairs, settings, f, gt)
        self._df, self._dg = torch.zeros_like(f), torch.zeros_like(gt)
        f.grad, gt.grad = self._df, self._dg
        self._adam = torch.optim.Adam(
            [f, gt], lr=settings.rate, weight_decay=settings.weight_decay, fused=True
        )

    def unembeddings(self, k: int, f_over_z: Tensor, errors: Tensor) -> None:
        """Take in the gradient f_over_zᵀ errors of one group of runs."""
        mine = self._dg[self._groups[k]]
        torch.bmm(f_over_z.transpose(1, 2), errors, out=mine).mul_(1 / self.settings.batch)

    def embeddings(self, rows: Tensor, df: Tensor) -> None:
        """Take in the gradient of the rows met, of all runs, and make the update."""
        self._df.zero_()
        self._df.view(-1, self.width).index_add_(0, rows, df, alpha=1 / self.settings.batch)
        self._adam.step()


class _Population:
    """Gradient descent on the exact expected loss over all contexts and tokens: no sampling noise."""

    def __init__(self, pairs: Sequence[Pairs], settings: Training, f: Tensor, gt: Tensor) -> None:
        self.f, self.gt, self.settings = f, gt, settings
        rows, cells = f.shape[1], f.shape[1] * gt.shape[2]
        met = np.stack([np.pad(p.met, (0, rows - len(p.met))) for p in pairs])
        self._met = torch.from_numpy(met).float()[:, :, None]
        dense = cells * len(pairs) <= _DENSE
        size = max(1, _TOGETHER // cells) if dense else 1
        self._groups = [slice(k, k + size) for k in range(0, len(pairs), size)]
        made = [p.matrix(torch.float32, rows) for p in pairs]
        # sparse matrices are slower, and added run by run
        self._joint = (
            [torch.stack([j.to_dense() for j in made[part]]) for part in self._groups] if dense else made
        )
        self._done, self._bounded = 0, [True] * len(self._groups)

    def run(self, steps: int) -> None:
        """Make so many updates: group by group, whose p(d, c) then stays in caches."""
        for k in range(len(self._groups)):
            for step in range(self._done, self._done + steps):
                self._step(k, step)
        self._done += steps

    def _step(self, k: int, step: int) -> None:
        part, joint, rate = self._groups[k], self._joint[k], self.settings.rate
        f, gt = self.f[part], self.gt[part]
        errors = torch.bmm(f, gt)
        if step % _CHECK == 0:
            self._bounded[k] = _are_bounded(errors, self.settings)
        z = _exponentials(errors, self._bounded[k]).sum(dim=-1, keepdim=True)
        errors.mul_(self._met[part] / z)
        (errors[0] if joint.is_sparse else errors).sub_(joint)
        df, dgt = torch.bmm(errors, gt.transpose(1, 2)), torch.bmm(f.transpose(1, 2), errors)
        if self.settings.weight_decay:
            keep = 1 - rate * self.settings.weight_decay
            f.mul_(keep)
            gt.mul_(keep)
        f.sub_(df, alpha=rate)
        gt.sub_(dgt, alpha=rate)


_UPDATES: dict[Optimizer, type[_Sampled] | type[_Population]] = {
    "sgd": _Sampled,
    "adam": _Adam,
    "population": _Population,
}
