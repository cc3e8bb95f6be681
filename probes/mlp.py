"""MLP probes, one hidden layer: all points, decays and seeds fitted as one batched model.

The probe of Gurnee & Tegmark (2310.02207, table 2): width → 256 → ReLU → targets, mean squared error on
standardised targets, AdamW at 1e-3, weight decay chosen and training stopped on a tenth of the training rows.
Unlike their code this restores the weights of the best epoch, and validation rows are whole clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from tqdm.auto import tqdm

from graticule.hooks.values import device_named
from graticule.probes.linear.rows import StandardTargets, as_targets, check_finite_rows
from graticule.probes.mlp_train import Group, Shape, train_groups
from graticule.probes.tables.groups import dense_codes

DECAYS = (0.01, 0.03, 0.1, 0.3)
Rows = Callable[[str], Shaped[Tensor, "row width"]]
"""The activations at a point, all rows, in any real dtype."""


@dataclass(frozen=True)
class MLPSettings:
    """How MLP probes are trained."""

    hidden: int = 256
    """Width of the hidden layer."""
    decays: tuple[float, ...] = DECAYS
    """Weight decays that are tried; each is a member of the batch."""
    learning_rate: float = 1e-3
    """Of AdamW (betas .9 and .999), constant."""
    batch: int = 512
    """Rows a step."""
    epochs: int = 20
    """At most."""
    patience: int = 3
    """Epochs without a lower validation loss after which a member stops."""
    validation: float = 0.1
    """Share of the training rows that stop the training and choose the decay."""
    split_seed: int = 42
    """Which rows these are."""
    scale: Literal["point", "none"] = "point"
    """Inputs are centred; `point` also divides a point's by one number, the median standard deviation of its
    coordinates, so that a learning rate means the same at every layer (a few massive coordinates do not
    shrink the rest). `none` leaves the scale as it is, as the paper does."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the matrix products; weights and AdamW are float32 in either case."""

    def check(self) -> None:
        """Raises `ValueError` for settings that nothing can be trained with."""
        for name in ("hidden", "batch", "epochs", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1")
        if not self.decays or min(self.decays) < 0:
            raise ValueError(f"decays={self.decays}: one or more, none negative")
        if not 0 < self.validation < 1:
            raise ValueError(f"validation={self.validation}: a share of the training rows, between 0 and 1")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate={self.learning_rate}: above 0")
        for name, allowed in (("scale", ("point", "none")), ("dtype", ("float32", "bfloat16"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: one of {allowed}")


@dataclass(frozen=True)
class MLPJob:
    """One group of fits: a point, its training rows, and a seed; a member for each decay."""

    point: str
    """Where the activations come from."""
    rows: Int[np.ndarray, " train"]
    """Training rows; `validation` of them are held out, in whole clusters."""
    seed: int = 0
    """Of initial weights and order of rows; a batch of the same seed sees the same minibatches."""


@dataclass(frozen=True)
class MLPFit:
    """The fits of one job: a member for each decay, and the one chosen on validation rows."""

    point: str
    """Where it was fitted."""
    seed: int
    """Of initial weights and order."""
    decays: Float[np.ndarray, " decay"]
    """Weight decays."""
    chosen: int
    """The decay with the lowest validation loss."""
    validation: Float[np.ndarray, " decay"]
    """Validation R² at each member's best epoch, mean over targets."""
    losses: Float[np.ndarray, "decay epoch"]
    """Validation loss after each epoch (standardised targets); NaN once a member has stopped."""
    w1: Float[np.ndarray, "decay width hidden"]
    """First layer, on centred and scaled inputs."""
    b1: Float[np.ndarray, "decay hidden"]
    """Its biases."""
    w2: Float[np.ndarray, "decay hidden target"]
    """Second layer, to standardised targets."""
    b2: Float[np.ndarray, "decay target"]
    """Its biases."""
    x_mean: Float[np.ndarray, " width"]
    """Taken from the inputs: the mean of the training rows."""
    x_scale: float
    """What centred inputs are divided by."""
    y_mean: Float[np.ndarray, " target"]
    """Mean target of the training rows."""
    y_scale: Float[np.ndarray, " target"]
    """Standard deviation of the targets over the training rows."""

    @property
    def decay(self) -> float:
        """The chosen decay."""
        return float(self.decays[self.chosen])

    @property
    def score(self) -> float:
        """Validation R² at the chosen decay."""
        return float(self.validation[self.chosen])

    @property
    def epoch(self) -> int:
        """The chosen member's best epoch, from 1."""
        return int(np.nanargmin(self.losses[self.chosen])) + 1

    def predict(
        self, X: Shaped[np.ndarray, "row width"], member: int | None = None
    ) -> Float[np.ndarray, "row target"]:
        """Predictions in target units, by the chosen decay or another member; products in float32.

        Raises:
            ValueError: Activations of another width.
        """
        if X.shape[1] != self.w1.shape[1]:
            raise ValueError(f"X has width {X.shape[1]}, this MLP was fitted on width {self.w1.shape[1]}")
        at = self.chosen if member is None else member
        out = np.empty((len(X), self.w2.shape[2]))
        for start in range(0, len(X), 4096):
            rows = ((X[start : start + 4096] - self.x_mean) / self.x_scale).astype(np.float32)
            hidden = np.maximum(rows @ self.w1[at] + self.b1[at], 0)
            out[start : start + 4096] = hidden @ self.w2[at] + self.b2[at]
        return out * self.y_scale + self.y_mean


def validation_rows(
    rows: Int[np.ndarray, " train"], clusters: Int[np.ndarray, " row"], share: float, seed: int
) -> tuple[Int[np.ndarray, " fitted"], Int[np.ndarray, " validation"]]:
    """Training rows in two parts, the second about `share` of them, in whole clusters, both in order.

    Raises:
        ValueError: Either part would be empty.
    """
    codes = dense_codes(clusters[rows])
    order = np.random.default_rng(seed).permutation(int(codes.max(initial=-1)) + 1)
    sizes = np.cumsum(np.bincount(codes)[order])
    count = int(np.searchsorted(sizes, share * len(rows)) + 1)
    validating = np.isin(codes, order[:count])
    if validating.all() or not validating.any():
        raise ValueError(
            f"{len(rows)} training rows in {len(order)} clusters cannot give {share:g} to validation; "
            "an MLP needs at least two clusters of training rows"
        )
    return rows[~validating], rows[validating]


def fit_mlps(
    rows: Rows,
    y: Float[np.ndarray, "row target"],
    clusters: Int[np.ndarray, " row"],
    jobs: Sequence[MLPJob],
    settings: MLPSettings | None = None,
    *,
    names: Sequence[str] = (),
    device: torch.device | str = "cpu",
    at_once: int | None = None,
    progress: bool | None = None,
) -> list[MLPFit]:
    """Fit every job, in their order.

    Memory: each job that is training holds its rows once more, in the dtype of the products (39,585 × 640 in
    bfloat16: 51 MB).

    Args:
        rows: All activations at a point.
        y: Targets, row-aligned with them.
        clusters: Labels of rows that stay together.
        jobs: What is fitted.
        settings: How.
        names: Of the targets, for messages.
        device: Where it trains.
        at_once: How many jobs train together. On a GPU the default is all jobs of a width; on a CPU it is
            one (with its decays): a job's weights and moments then stay in the cache, and its products are
            large enough to fill the cores.
        progress: Whether a bar is drawn; by default where it takes long.

    Raises:
        ValueError: Settings that cannot be, activations that are not finite, a constant target, too few
            clusters.
    """
    settings = settings or MLPSettings()
    settings.check()
    where = device_named(device)
    step = at_once or (1 if where.type == "cpu" else len(jobs))
    quiet = not (progress if progress is not None else len(jobs) * len(y) > 40_000)
    done: list[MLPFit] = []
    with tqdm(total=len(jobs), desc="MLP probes", unit="fit", disable=quiet, leave=False) as bar:
        batch: list[_Ready] = []
        source = ("", torch.empty(0, 0))
        for job in jobs:
            if job.point != source[0]:
                source = (job.point, rows(job.point))
            ready = _prepare(job, source[1], y, clusters, settings, names, where)
            if batch and (len(batch) == step or batch[0].group.x.shape[1] != ready.group.x.shape[1]):
                done += _fit(batch, settings)
                bar.update(len(batch))
                batch = []
            batch.append(ready)
        if batch:
            done += _fit(batch, settings)
            bar.update(len(batch))
    return done


@dataclass(frozen=True)
class _Ready:
    """A job with its rows as the training loop wants them."""

    job: MLPJob
    group: Group
    x_mean: np.ndarray
    x_scale: float
    targets: StandardTargets
    spread: float
    """Variance of the standardised targets over the validation rows, mean over targets."""


def _prepare(
    job: MLPJob,
    X: Tensor,
    y: np.ndarray,
    clusters: np.ndarray,
    settings: MLPSettings,
    names: Sequence[str],
    device: torch.device,
) -> _Ready:
    fitted, validating = validation_rows(job.rows, clusters, settings.validation, settings.split_seed)
    targets = as_targets(y[job.rows], len(job.rows), names)
    standard = (y - targets.mean) / targets.scale
    x = X.detach().to(device=device, dtype=torch.float32, copy=True)
    if not bool(torch.isfinite(x.sum())):
        check_finite_rows(
            x[torch.from_numpy(job.rows).to(device)].double().cpu().numpy(), job.rows, job.point
        )
    mean, scale = _standardise(x, torch.from_numpy(fitted).to(device), settings.scale)
    on_device = torch.from_numpy(standard.astype(np.float32)).to(device)
    group = Group(x.to(getattr(torch, settings.dtype)), on_device, fitted, validating, job.seed)
    validation = standard[validating]
    spread = float(np.square(validation - validation.mean(axis=0)).mean())
    return _Ready(job, group, mean, scale, targets, spread)


def _standardise(x: Tensor, fitted: Tensor, how: str) -> tuple[np.ndarray, float]:
    """Centre `x` in place, twice so that no digits cancel, and divide it by its scale; returns both."""
    total = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
    for _ in range(2):
        mean = x[fitted].mean(dim=0)
        x -= mean
        total += mean
    scale = 1.0
    if how == "point":
        spread = x[fitted].square().mean(dim=0).sqrt()
        varied = spread[spread > 0]
        scale = float(varied.quantile(0.5)) if len(varied) else 1.0
        x /= scale
    return total.cpu().numpy(), scale


def _fit(ready: list[_Ready], settings: MLPSettings) -> list[MLPFit]:
    """Train some jobs together and put their members' weights apart."""
    first = ready[0].group
    decays = np.asarray(settings.decays, dtype=np.float64)
    shape = Shape(first.x.shape[1], len(decays), settings.hidden, first.y.shape[1])
    trained = train_groups(
        [r.group for r in ready],
        shape,
        decays,
        learning_rate=settings.learning_rate,
        batch=settings.batch,
        epochs=settings.epochs,
        patience=settings.patience,
    )
    return [
        _finished(r, shape, decays, theta, losses)
        for r, theta, losses in zip(ready, trained.best, trained.losses, strict=True)
    ]


def _finished(r: _Ready, shape: Shape, decays: np.ndarray, theta: Tensor, losses: np.ndarray) -> MLPFit:
    w1, b1, w2, b2 = (part[0].cpu().numpy() for part in shape.views(theta[None]))
    m = shape.members
    blocks = rearrange(w2, "(m hidden) (own target) -> m hidden own target", m=m, own=m)
    lowest = np.nanmin(losses, axis=1)
    return MLPFit(
        point=r.job.point,
        seed=r.job.seed,
        decays=decays,
        chosen=int(lowest.argmin()),
        validation=1.0 - lowest / r.spread if r.spread > 0 else np.full(m, np.nan),
        losses=losses,
        w1=np.ascontiguousarray(rearrange(w1, "width (m hidden) -> m width hidden", m=m)),
        b1=b1.reshape(m, -1).copy(),
        w2=np.stack([blocks[i, :, i] for i in range(m)]),
        b2=b2.reshape(m, -1).copy(),
        x_mean=r.x_mean,
        x_scale=r.x_scale,
        y_mean=r.targets.mean,
        y_scale=r.targets.scale,
    )
