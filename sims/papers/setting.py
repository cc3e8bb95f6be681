"""One row of a table: a law of worlds, what is shown of them, and how the tables are trained."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from graticule.hooks.calls import renamed_fields
from graticule.hooks.limits import LimitError, Range, check_limits
from graticule.sims.contexts import Contexts
from graticule.sims.training.settings import Optimizer, Training
from graticule.sims.world import World
from graticule.sims.worlds import RestrictedWorld

_WHOLE = Range(1)
Graph = Literal["random", "dense", "chain", "forest", "independent"]


@renamed_fields(kept="vector_share")
@dataclass(frozen=True)
class Setting:
    """What a simulation fixes; worlds, contexts, tables and samples differ from run to run."""

    concepts: int = 7
    """m, binary concepts."""
    dim: int | None = None
    """Width k of the tables; None is m."""
    optimizer: Optimizer = "sgd"
    """SGD (learning rate .1), Adam (.001), or descent on the exact population gradient: the quickest, but a
    run in ten or so stays on a plateau that noise gets out of (`Simulation.settings["behind"]`)."""
    steps: int = 200_000
    """Updates, at most."""
    lr: float | None = None
    """Learning rate; None is the paper's, and 2^m / 8 for the population gradient, whose rows move by
    p(d) ~ 2^−m; at most 128, as few masks make the likeliest contexts likelier (512 diverges at m = 12)."""
    scale: float = 1.0
    """Factor on the initial weights U(±1/√rows)."""
    weight_decay: float = 0.0
    """L2 penalty."""
    masks: int | None = None
    """Draw so many masks and train on those alone (incomplete contexts); None: every mask."""
    vector_share: float | None = field(default=None, metadata={"saved_as": "kept"})
    """Train on a random share of the concept vectors alone (incomplete 𝒞̂); None: all."""
    graph: Graph = "random"
    """Law of the graph."""
    edge_probability: float = 0.5
    """Of a random graph."""
    tolerance: float | None = None
    """Stop once every run is so close to its entropy floor, in nats."""
    given: World | None = None
    """A world of one's own, the same in every run; None: one per run, by the law of the graph."""

    @classmethod
    def on(cls, world: World, **settings: Any) -> Setting:
        """A setting on a world of one's own: `Setting.on(world, steps=2000)`."""
        return cls(concepts=world.m, given=world, **settings)

    def __post_init__(self) -> None:
        """Raises:
        ValueError: For another graph or optimiser, or numbers out of range.
        """
        if self.graph not in get_args(Graph):
            raise ValueError(f"graph={self.graph!r}: one of {', '.join(get_args(Graph))}")
        check_limits(concepts=self.concepts, steps=self.steps, edge_probability=self.edge_probability)
        for name, value in {"dim": self.dim, "masks": self.masks}.items():
            if value is not None and not _WHOLE.takes(value):
                raise LimitError(name, value, _WHOLE.words)
        if self.vector_share is not None and not 0 < self.vector_share <= 1:
            raise ValueError(f"vector_share={self.vector_share}: a share above 0 and up to 1")
        if self.given is not None:
            self._check_given(self.given)
        Training(optimizer=self.optimizer, lr=self.lr, scale=self.scale, weight_decay=self.weight_decay)

    def _check_given(self, world: World) -> None:
        """Raises:
        ValueError: For another number of concepts, or a law of graphs beside a world.
        """
        if self.concepts != world.m:
            raise ValueError(f"concepts={self.concepts} for a world of {world.m}: leave concepts out")
        if (self.graph, self.edge_probability) != ("random", 0.5):
            raise ValueError(f"graph={self.graph!r} for a world that has its own: leave the graph out")

    def described(self) -> dict[str, Any]:
        """The setting in JSON's own types: what a request or a fingerprint holds."""
        plain = {
            f.metadata.get("saved_as", f.name): getattr(self, f.name)
            for f in fields(self)
            if f.name != "given"
        }
        return plain if self.given is None else {**plain, "given": self.given.described()}

    @property
    def width(self) -> int:
        """k."""
        return self.concepts if self.dim is None else self.dim

    @property
    def rate(self) -> float:
        """The learning rate in force."""
        if self.lr is None and self.optimizer == "population":
            return min(2.0**self.concepts / 8, 128.0)
        return Training(optimizer=self.optimizer, lr=self.lr).rate

    @property
    def name(self) -> str:
        """What tells it from others, for tables and legends."""
        parts = [f"m={self.concepts}"]
        parts += [] if self.given is None else [f"world {_digest(self.given)}"]
        if self.width != self.concepts:
            parts.append(f"k={self.width}")
        parts += [] if self.masks is None else [f"{self.masks} masks"]
        parts += [] if self.vector_share is None else [f"{self.vector_share:.0%} of 𝒞"]
        parts += [] if self.graph == "random" else [self.graph]
        parts += [] if self.optimizer == "sgd" else [self.optimizer]
        parts += [] if self.scale == 1 else [f"scale {self.scale:g}"]
        parts += [] if self.weight_decay == 0 else [f"decay {self.weight_decay:g}"]
        return ", ".join(parts)

    def contexts(self, seed: int) -> Contexts:
        """The world and contexts of one run."""
        world = self.world(seed)
        if self.vector_share is not None:
            world = RestrictedWorld.drawn(world, self.vector_share, seed)
        return Contexts.complete(world) if self.masks is None else Contexts.drawn(world, self.masks, seed)

    def training(self, seeds: tuple[int, ...], scales: tuple[float, ...], points: int) -> Training:
        """How the runs train, with `points` points on the curves."""
        return Training(
            dim=self.width,
            optimizer=self.optimizer,
            steps=self.steps,
            lr=self.rate,
            scale=scales,
            weight_decay=self.weight_decay,
            tolerance=self.tolerance,
            seed=seeds,
            log_every=max(1, self.steps // points),
        )

    def by(self, optimizer: Optimizer) -> Setting:
        """The same under another optimiser; on the population gradient the updates are as many as make the
        same learning rate × updates (`training_words` says how many)."""
        if optimizer == self.optimizer:
            return self
        other = replace(self, optimizer=optimizer, lr=None)
        if optimizer == "population":
            sgd = Training(optimizer="sgd").rate
            other = replace(other, steps=max(1, round(self.steps * sgd / other.rate)))
        return other

    def asked(self, steps: int | None, optimizer: Optimizer | None) -> Setting:
        """The same with `steps`, under `optimizer` (see `by`), where they are given."""
        changed = self if steps is None else replace(self, steps=steps)
        return changed if optimizer is None else changed.by(optimizer)

    @property
    def training_words(self) -> str:
        """How many updates there are, at most; on the exact gradient, how many of SGD's they stand for."""
        updates = f"{self.steps:,} update{'' if self.steps == 1 else 's'}"
        if self.optimizer != "population":
            return updates
        sgd = Training(optimizer="sgd").rate
        return (
            f"{updates} on the exact gradient at learning rate {self.rate:g}, as much learning rate × "
            f"updates as {round(self.steps * self.rate / sgd):,} of SGD at {sgd:g}"
        )

    def world(self, seed: int) -> World:
        """The world of one run, all its concept vectors kept."""
        if self.given is not None:
            return self.given
        m = self.concepts
        if self.graph == "random":
            return World.random(m, self.edge_probability, seed=seed)
        return {
            "dense": World.dense,
            "chain": World.chain,
            "forest": World.forest,
            "independent": World.independent,
        }[self.graph](m, seed=seed)


def _digest(world: World) -> str:
    """A few characters that tell a world from others."""
    return hashlib.sha256(json.dumps(world.described()).encode()).hexdigest()[:6]
