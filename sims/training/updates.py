"""Updates of the two tables, all runs at once: the gradients of the softmax written out, no autograd.

The unembeddings are held as `[run, dim, token]`, in which order the batched products are fastest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from graticule.sims.training.sampling import Pairs, Sampler

if TYPE_CHECKING:
    from graticule.sims.train import Training

_BOUND = 30.0  # exp of a logit of 88 is float32's largest number
_DENSE = 1 << 27  # cells of p(d, c) held as they are: 512 MiB
_TOGETHER = 1 << 18  # cells of the runs that are updated at once: what caches hold
_CHECK = 64  # steps between looks at the largest logit


def exponentials(logits: Tensor, bounded: bool) -> Tensor:
    """exp of logits in place, up to a factor a row: the rows' maxima are looked for only where they may be
    large."""
    return logits.exp_() if bounded else logits.sub_(logits.amax(dim=-1, keepdim=True)).exp_()


def are_bounded(logits: Tensor, settings: Training) -> bool:
    """Whether logits are so small that their exp is safe for some more updates.

    **Raises** `FloatingPointError` if they are not finite.
    """
    largest = float(logits.abs().max())
    if not largest < float("inf"):
        raise diverged(settings)
    return largest < _BOUND


def diverged(settings: Training) -> FloatingPointError:
    """What is raised of weights that are no longer finite."""
    return FloatingPointError(
        f"training diverged under {settings.optimizer} at a learning rate of {settings.rate:g}; lower lr"
    )


class Sampled:
    """SGD on sampled batches."""

    def __init__(
        self,
        pairs: Sequence[Pairs],
        settings: Training,
        f: Float[Tensor, "run context dim"],
        gt: Float[Tensor, "run dim token"],
    ) -> None:
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
                self._bounded[k] = are_bounded(errors, self.settings)
            z = exponentials(errors, self._bounded[k]).sum(dim=-1, keepdim=True)
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


class Adam(Sampled):
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


class Population:
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
            self._bounded[k] = are_bounded(errors, self.settings)
        z = exponentials(errors, self._bounded[k]).sum(dim=-1, keepdim=True)
        errors.mul_(self._met[part] / z)
        (errors[0] if joint.is_sparse else errors).sub_(joint)
        df, dgt = torch.bmm(errors, gt.transpose(1, 2)), torch.bmm(f.transpose(1, 2), errors)
        if self.settings.weight_decay:
            keep = 1 - rate * self.settings.weight_decay
            f.mul_(keep)
            gt.mul_(keep)
        f.sub_(df, alpha=rate)
        gt.sub_(dgt, alpha=rate)


KINDS: dict[str, type[Sampled] | type[Population]] = {
    "sgd": Sampled,
    "adam": Adam,
    "population": Population,
}
"""Optimiser → its updates."""
