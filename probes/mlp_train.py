"""The training loop of many small MLPs at once: one batch of products a step, one AdamW a group.

A *group* is one input (a hook point), one set of training rows and one seed; its *members* differ in weight
decay only. All members of a group see the same rows in the same order from the same initial weights, so their
first layers lie side by side in one matrix `[width, member · hidden]`, and their second layers in the blocks
of a matrix `[member · hidden, member · target]` that is zero elsewhere. Groups are a batch dimension on top.
Gradients are written out: the net has two layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.optim.adamw import adamw

BETAS = (0.9, 0.999)
EPS = 1e-8


@dataclass(frozen=True)
class Group:
    """What one group of members reads; tensors are on the device that trains."""

    x: Float[Tensor, "row width"]
    """Inputs in the dtype of the products."""
    y: Float[Tensor, "row target"]
    """Standardised targets, float32."""
    train: Int[np.ndarray, " train"]
    """Rows that gradients are taken on."""
    validation: Int[np.ndarray, " validation"]
    """Rows that stop the training and choose the decay."""
    seed: int
    """Of the initial weights and of the order of rows."""


@dataclass(frozen=True)
class Shape:
    """Sizes of the members of a group."""

    width: int
    members: int
    hidden: int
    targets: int

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Numbers in the first weights and biases and the second weights and biases, as they lie in a row."""
        wide, out = self.members * self.hidden, self.members * self.targets
        return self.width * wide, wide, wide * out, out

    def views(
        self, flat: Float[Tensor, "group number"]
    ) -> tuple[
        Float[Tensor, "group width wide"],
        Float[Tensor, "group 1 wide"],
        Float[Tensor, "group wide out"],
        Float[Tensor, "group 1 out"],
    ]:
        """The four matrices of every group, as views of its row of numbers."""
        wide, out, n = self.members * self.hidden, self.members * self.targets, len(flat)
        w1, b1, w2, b2 = flat.split(self.sizes, dim=1)
        return w1.view(n, self.width, wide), b1[:, None], w2.view(n, wide, out), b2[:, None]

    def owners(self) -> Int[np.ndarray, " number"]:
        """Whose every number is; −1 for the zeros between the blocks of the second layer."""
        first = np.repeat(np.arange(self.members), self.hidden)
        last = np.repeat(np.arange(self.members), self.targets)
        blocks = np.where(first[:, None] == last, last, -1)
        return np.concatenate([np.tile(first, self.width), first, blocks.ravel(), last])

    def initial(self, seed: int) -> Float[Tensor, " number"]:
        """One draw, as `torch.nn.Linear` draws (uniform within ±1/√inputs), the same for every member."""
        made = torch.Generator().manual_seed(seed)

        def draw(fan_in: int, *shape: int) -> Tensor:
            return (torch.rand(*shape, generator=made) * 2 - 1) / fan_in**0.5

        w1, b1 = draw(self.width, self.width, self.hidden), draw(self.width, self.hidden)
        w2, b2 = draw(self.hidden, self.hidden, self.targets), draw(self.hidden, self.targets)
        blocks = torch.block_diag(*[w2] * self.members)
        parts = (w1.repeat(1, self.members), b1.repeat(self.members), blocks, b2.repeat(self.members))
        return torch.cat([part.flatten() for part in parts])


@dataclass(frozen=True)
class Trained:
    """What came of some groups."""

    best: Float[Tensor, "group number"]
    """Every member's weights after its best epoch, float32."""
    losses: Float[np.ndarray, "group member epoch"]
    """Validation loss after each epoch; NaN once a member has stopped."""


def train_groups(
    groups: list[Group],
    shape: Shape,
    decays: Float[np.ndarray, " member"],
    *,
    learning_rate: float,
    batch: int,
    epochs: int,
    patience: int,
) -> Trained:
    """Train all members of all groups; groups must share width, targets and dtype.

    A member stops after `patience` epochs without a lower validation loss; what it weighs then is what it
    weighed at its lowest. A group leaves the batch when its last member has stopped. What a group gives does
    not depend on the groups beside it (up to rounding).
    """
    state = _State.start(groups, shape, decays, learning_rate)
    losses = np.full((len(groups), shape.members, epochs), np.nan)
    best = state.theta.clone()
    lowest = np.full((len(groups), shape.members), np.inf)
    waited = np.zeros((len(groups), shape.members), dtype=np.int64)
    running = np.arange(len(groups))
    orders = [np.random.default_rng(group.seed) for group in groups]
    for epoch in range(epochs):
        state.epoch([groups[g] for g in running], [orders[g] for g in running], batch)
        for at, g in enumerate(running):
            alive = waited[g] < patience
            loss = state.loss(at, groups[g])
            losses[g, alive, epoch] = loss[alive]
            better = alive & (loss < lowest[g])
            lowest[g, better] = loss[better]
            waited[g] = np.where(better, 0, waited[g] + alive)
            best[g] = torch.where(state.belongs(better), state.theta[at], best[g])
        keep = np.asarray((waited[running] < patience).any(axis=1))
        if not keep.any():
            break
        if not keep.all():
            running = running[keep]
            state.keep(keep)
    return Trained(best, losses)


class _State:
    """Weights and moments of the groups that are still running, a row of numbers each."""

    def __init__(self, shape: Shape, theta: Tensor, owners: Tensor, shrink: Tensor, rate: float, low: bool):
        self.shape, self.theta, self.rate, self.low = shape, theta, rate, low
        self._owners, self._shrink = owners, shrink
        self._gradient = torch.zeros_like(theta)
        self._moments = (torch.zeros_like(theta), torch.zeros_like(theta))
        self._steps = [torch.zeros((), device=theta.device) for _ in theta]
        n1, n2, n3, _ = shape.sizes
        self._between = (owners[n1 + n2 : n1 + n2 + n3] < 0).view(shape.members * shape.hidden, -1)

    @classmethod
    def start(cls, groups: list[Group], shape: Shape, decays: np.ndarray, rate: float) -> _State:
        device = groups[0].x.device
        theta = torch.stack([shape.initial(group.seed) for group in groups]).to(device)
        owners = shape.owners()
        shrink = np.where(owners < 0, 1.0, 1.0 - rate * decays[owners])
        shrunk = torch.from_numpy(shrink.astype(np.float32)).to(device)
        low = groups[0].x.dtype != torch.float32
        return cls(shape, theta, torch.from_numpy(owners).to(device), shrunk, rate, low)

    def belongs(self, members: Bool[np.ndarray, " member"]) -> Bool[Tensor, " number"]:
        """Which numbers are those members'."""
        chosen = torch.from_numpy(np.append(members, False)).to(self._owners.device)
        return chosen[self._owners]

    def keep(self, stays: Bool[np.ndarray, " group"]) -> None:
        """Go on with some of the groups."""
        index = torch.from_numpy(np.flatnonzero(stays)).to(self.theta.device)
        self.theta, self._gradient = self.theta[index], self._gradient[index]
        first, second = self._moments
        self._moments = (first[index], second[index])
        self._steps = [step for step, k in zip(self._steps, stays, strict=True) if k]

    def epoch(self, groups: list[Group], orders: list[np.random.Generator], batch: int) -> None:
        """One pass over every group's training rows, in its own order."""
        rows = [order.permutation(group.train) for group, order in zip(groups, orders, strict=True)]
        for start in range(0, max(map(len, rows)), batch):
            parts = [index[start : start + batch] for index in rows]
            # groups of as many rows as each other go together: nothing is padded, nothing is weighed
            for size in sorted({len(part) for part in parts} - {0}):
                at = [g for g, part in enumerate(parts) if len(part) == size]
                self._step(at, groups, [parts[g] for g in at])

    def _step(self, at: list[int], groups: list[Group], parts: list[np.ndarray]) -> None:
        device = self.theta.device
        index = [torch.from_numpy(part).to(device) for part in parts]
        x = _stack([groups[g].x.index_select(0, i) for g, i in zip(at, index, strict=True)])
        y = _stack([groups[g].y.index_select(0, i) for g, i in zip(at, index, strict=True)])
        whole = len(at) == len(self.theta)
        gradient = self._gradient if whole else self._gradient[at]
        self._backward(self.theta if whole else self.theta[at], x, y, gradient)
        if not whole:
            self._gradient[at] = gradient
        first, second = self._moments
        for g in at:
            self.theta[g].mul_(self._shrink)
        adamw(
            [self.theta[g] for g in at],
            [self._gradient[g] for g in at],
            [first[g] for g in at],
            [second[g] for g in at],
            [],
            [self._steps[g] for g in at],
            fused=True,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=self.rate,
            weight_decay=0.0,  # done above, one decay per member
            eps=EPS,
            maximize=False,
        )

    def _backward(self, theta: Tensor, x: Tensor, y: Tensor, gradient: Tensor) -> None:
        """The gradient of every member's mean squared error, written into `gradient`."""
        w1, b1, w2, b2 = self.shape.views(theta.to(x.dtype))
        h = torch.baddbmm(b1, x, w1).relu_()
        error = torch.baddbmm(b2, h, w2).float()
        error.view(*y.shape[:2], self.shape.members, -1).sub_(y[:, :, None])
        error.mul_(2.0 / (y.shape[1] * y.shape[2]))
        low = error.to(x.dtype)
        back = torch.bmm(low, w2.transpose(1, 2))
        back = torch.ops.aten.threshold_backward(back, h, 0)
        g1, c1, g2, c2 = self.shape.views(gradient)
        if self.low:
            g1.copy_(torch.bmm(x.transpose(1, 2), back))
        else:
            torch.bmm(x.transpose(1, 2), back, out=g1)
        g2.copy_(torch.bmm(h.transpose(1, 2), low)).masked_fill_(self._between, 0.0)
        c1.copy_(back.sum(dim=1, keepdim=True))
        c2.copy_(error.sum(dim=1, keepdim=True))

    def loss(self, at: int, group: Group) -> Float[np.ndarray, " member"]:
        """Mean squared error of a group's members on its validation rows."""
        index = torch.from_numpy(group.validation).to(self.theta.device)
        predicted = forward(self.shape, self.theta[at], group.x.index_select(0, index))
        errors = (predicted - group.y[index][:, None]).square()
        loss = errors.double().mean(dim=(0, 2)).cpu().numpy()
        return np.where(np.isfinite(loss), loss, np.inf)  # a member that diverged never improves


def _stack(parts: list[Tensor]) -> Tensor:
    return parts[0][None] if len(parts) == 1 else torch.stack(parts)


def forward(
    shape: Shape, theta: Float[Tensor, " number"], x: Float[Tensor, "row width"]
) -> Float[Tensor, "row member target"]:
    """What the members of one group say, products in the dtype of `x`, in chunks of rows."""
    w1, b1, w2, b2 = (part[0] for part in shape.views(theta[None].to(x.dtype)))
    out = [torch.addmm(b2, torch.addmm(b1, rows, w1).relu_(), w2).float() for rows in x.split(4096)]
    return torch.cat(out).view(len(x), shape.members, shape.targets)
