"""How learners are trained: the lookup tables, and the transformer that reads concepts one by one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from graticule.hooks.limits import check_limits

Optimizer = Literal["sgd", "adam", "population"]


@dataclass(frozen=True)
class Training:
    """How the tables are trained."""

    dim: int | tuple[int, ...] | None = None
    """Width k of both tables, or one per run; None is the number of concepts, as in the paper."""
    optimizer: Optimizer = "sgd"
    """Sampled batches under SGD or Adam, or SGD on the exact gradient over all contexts and tokens."""
    steps: int = 200_000
    """Updates, at most."""
    lr: float | None = None
    """Learning rate; None is .1 for SGD, .001 for Adam, 1 for the population gradient."""
    batch: int = 100
    """Samples per update and run."""
    scale: float | tuple[float, ...] = 1.0
    """Factor on the initial weights U(±1/√n), n being a table's rows (`torch.nn.Linear` on one-hot inputs),
    or one per run."""
    weight_decay: float = 0.0
    """L2 penalty on both tables, as in `torch.optim.SGD`."""
    tolerance: float | None = None
    """Stop once every run's exact loss is within so many nats of its floor (looked at every `log_every`
    updates); None trains for all `steps`."""
    seed: int | tuple[int, ...] = 0
    """Run r draws its tables and samples from seed + r, or one per run."""
    log_every: int = 1000
    """Updates between points of the curves."""

    def __post_init__(self) -> None:
        """Raises:
        ValueError: For another optimiser, or numbers out of range.
        """
        if self.optimizer not in get_args(Optimizer):
            raise ValueError(f"optimizer={self.optimizer!r}: one of {', '.join(get_args(Optimizer))}")
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


@dataclass(frozen=True)
class SequenceShape:
    """The transformer's size."""

    n_layers: int = 2
    """Blocks, 1 to 4 being plenty."""
    d_model: int = 32
    """Width of the residual stream."""
    n_heads: int = 4
    """Attention heads per block."""
    mlp_ratio: int = 4
    """Width of a block's hidden layer over `d_model`; 0 leaves the MLPs out."""
    normalization: Literal["LN"] | None = "LN"
    """Layer norm with gains and biases before every sublayer and the unembedding, or none."""

    def __post_init__(self) -> None:
        """Raises:
        ValueError: For sizes that make no transformer.
        """
        if min(self.n_layers, self.d_model, self.n_heads) < 1 or self.mlp_ratio < 0:
            raise ValueError(f"{self}: at least one block, head and dimension")
        if self.normalization not in ("LN", None):
            raise ValueError(f"normalization={self.normalization!r}: 'LN' or None")


@dataclass(frozen=True)
class SequenceTraining:
    """How the transformer is trained: Adam with a cosine schedule down to zero."""

    shape: SequenceShape = field(default_factory=SequenceShape)
    """The transformer."""
    steps: int = 2000
    """Updates."""
    lr: float = 3e-3
    """Highest learning rate, reached after a twentieth of the updates."""
    batch: int = 64
    """Texts per update."""
    scale: float = 1.0
    """Factor on the initial weights N(0, 1/fan-in)."""
    weight_decay: float = 0.0
    """Of AdamW, on all matrices."""
    targets: Literal["posterior", "sampled"] = "posterior"
    """Every position learns the exact p(c | known), or the token that completes its own text."""
    seed: int = 0
    """Of weights and texts."""
    log_every: int = 250
    """Updates between points of the curves."""
    enough: float = 0.0
    """Training ends once the loss is less than this above its floor (nats, mean over positions)."""

    def __post_init__(self) -> None:
        """Raises:
        ValueError: For other targets, or numbers out of range.
        """
        if self.targets not in ("posterior", "sampled"):
            raise ValueError(f"targets={self.targets!r}: 'posterior' or 'sampled'")
        if self.steps < 0 or min(self.batch, self.log_every) < 1:
            raise ValueError(
                f"steps={self.steps}, batch={self.batch}, log_every={self.log_every}: 1 or more, steps 0"
            )
        if not (0 < self.lr < math.inf and 0 <= self.weight_decay < math.inf and 0 <= self.scale < math.inf):
            raise ValueError(
                f"lr={self.lr}, weight_decay={self.weight_decay}, scale={self.scale}: finite, none below 0"
            )
