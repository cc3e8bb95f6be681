"""The learners that a certificate is made on: trained once, with their sampled rows and their whole truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil, factorial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from graticule.hooks.activations import Activations
from graticule.hooks.artifact import ArtifactError
from graticule.hooks.kinds import set_aside
from graticule.sims.contexts import Contexts
from graticule.sims.learners import load_lookup, lookup_model, save_lookup
from graticule.sims.sequence import SequenceTokens, load_sequence, save_sequence
from graticule.sims.training.lookup import train_tables
from graticule.sims.training.sequence import train_sequence
from graticule.sims.training.settings import SequenceShape, SequenceTraining, Training
from graticule.sims.truth.optimal import LinearReader, optimal_reader, parity
from graticule.sims.truth.rows import TrueRows, lookup_rows, sequence_rows
from graticule.sims.world import World

LOOKUP_POINTS = ("blocks.0.hook_resid_post",)
"""The lookup learner's one block writes nothing: every point of the stream holds the same embedding."""
TOLD = slice(1, None)
"""Positions of a text at which something is known. After the start token nothing is: one activation in every
text, as at a language model's BOS. As a cluster of a seventh of all rows it would decide the ridge's
strength, which leaving out clusters then makes so large that read directions turn (.97 instead of .996)."""
TEXTS = 8192
"""Texts from which the sequence learner's truth is computed, about."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained learner as a user has it, and as only the world's maker knows it."""

    learner: str
    """`lookup` or `sequence`."""
    condition: str
    """What is varied: `dimension`, `noise` or `masks`."""
    level: float
    """By how much: width over concepts, noise over signal, or the number of masks."""
    width: int
    """Of the activations."""
    masks: int
    """Masks that the learner was trained on."""
    rows: TrueRows
    """A sample, with noise where the condition has it: all that instruments see."""
    untrained: TrueRows
    """The same rows in the learner before training."""
    every: TrueRows
    """Every context with its probability, without noise."""
    noise: Mapping[str, float]
    """Point → standard deviation of the noise in every coordinate; 0 where there is none."""
    seed: int = 0
    """Of the split and everything drawn."""

    @property
    def name(self) -> str:
        """For people and for folders."""
        return f"{self.learner}-{self.condition}-{self.level:g}"

    @property
    def points(self) -> tuple[str, ...]:
        """Hook points, in the order in which the learner passes them."""
        return tuple(self.rows.activations.points)

    @cached_property
    def test(self) -> Bool[np.ndarray, " row"]:
        """Rows of the contexts that are tested on: no context is on both sides."""
        return self.rows.test_rows(seed=self.seed)

    @cached_property
    def posteriors(self) -> Float[np.ndarray, "row m"]:
        """P(C_i = 1 | known) of the sampled rows: what every probe is to predict."""
        return self.rows.targets()[1]

    @property
    def clusters(self) -> Int[np.ndarray, " row"]:
        """The context of every sampled row."""
        return self.rows.contexts

    def values(self, point: str) -> Float[np.ndarray, "row width"]:
        """The sampled activations of a point."""
        return self.rows.activations[point].double().numpy()

    def parities(self, pairs: Sequence[tuple[int, int]]) -> Float[np.ndarray, "row pair"]:
        """P(C_i ≠ C_j | known) of the sampled rows."""
        return np.stack([parity(self.rows.world, self.rows.concept_values, pair) for pair in pairs], axis=1)

    def true_parities(self, pairs: Sequence[tuple[int, int]]) -> Float[np.ndarray, "row pair"]:
        """The same of every context."""
        return np.stack([parity(self.every.world, self.every.concept_values, pair) for pair in pairs], axis=1)

    def reader(self, point: str, targets: Float[np.ndarray, "row target"] | None = None) -> LinearReader:
        """The best linear reader there is, by default of all posteriors, noise and all."""
        wanted = self.every.targets()[1] if targets is None else targets
        x = self.every.activations[point].double().numpy()
        if not self.noise[point]:
            return optimal_reader(x, wanted, self.every.weights)
        return noisy_reader(x, wanted, self.every.weights, self.noise[point])

    def covariance(self, point: str) -> Float[np.ndarray, "width width"]:
        """Of the activations over all contexts, the noise's own added."""
        p = self.every.weights
        x = self.every.activations[point].double().numpy()
        x = (x - p @ x) * np.sqrt(p)[:, None]
        return x.T @ x + self.noise[point] ** 2 * np.eye(x.shape[1])

    def with_noise(self, level: float) -> Subject:
        """Independent normal noise in every coordinate, its standard deviation `level` times the mean one of
        a point's coordinates; in the untrained learner likewise."""
        noise = {p: level * float(np.sqrt(np.trace(self.covariance(p)) / self.width)) for p in self.points}
        rng = np.random.default_rng([self.seed, 3])
        rows = _noisy(self.rows, noise, rng)
        untrained = {p: level * _spread(self.untrained, p) for p in self.points}
        other = _noisy(self.untrained, untrained, rng)
        # the truth of contexts stays what it is
        return replace(self, condition="noise", level=level, rows=rows, untrained=other, noise=noise)


def noisy_reader(
    activations: Float[np.ndarray, "row width"],
    targets: Float[np.ndarray, "row target"],
    weights: Float[np.ndarray, " row"],
    sd: float,
) -> LinearReader:
    """The best linear reader when independent noise of standard deviation `sd` is added to every coordinate:
    the noise adds sd² to the covariance's diagonal, and nothing to what activations and targets share."""
    p = weights / weights.sum()
    x_mean, y_mean = p @ activations, p @ targets
    x, y = activations - x_mean, targets - y_mean
    shared = (x * p[:, None]).T @ y
    coef = np.linalg.solve((x * p[:, None]).T @ x + sd**2 * np.eye(x.shape[1]), shared)
    total = p @ y**2
    r2 = np.divide((coef * shared).sum(axis=0), total, out=np.full(len(total), np.nan), where=total > 0)
    among = np.linalg.pinv((y * p[:, None]).T @ y, rcond=1e-10, hermitian=True)
    return LinearReader(coef, shared @ among, y_mean - x_mean @ coef, r2)


def least_linear(every: TrueRows, count: int) -> tuple[tuple[int, int], ...]:
    """The pairs of concepts whose parity is furthest from any linear function of all concepts' posteriors,
    by the world alone."""
    m = every.world.m
    pairs = [(i, j) for i in range(m) for j in range(i + 1, m)]
    odd = np.stack([parity(every.world, every.concept_values, pair) for pair in pairs], axis=1)
    linear = optimal_reader(every.targets()[1], odd, every.weights).r2
    return tuple(pairs[k] for k in np.argsort(linear, kind="stable")[:count])


def _spread(rows: TrueRows, point: str) -> float:
    return float(rows.activations[point].double().var(dim=0).mean().sqrt())


def _noisy(rows: TrueRows, noise: Mapping[str, float], rng: np.random.Generator) -> TrueRows:
    clean = rows.activations
    noisy = {
        point: values + torch.from_numpy(rng.normal(0, noise[point], tuple(values.shape))).to(values.dtype)
        for point, values in clean.items()
    }
    return replace(rows, activations=Activations(noisy, clean.rows, clean.provenance))


@dataclass(frozen=True)
class Plan:
    """Which learners, how they are trained, and how many rows instruments see."""

    learners: tuple[str, ...] = ("lookup", "sequence")
    """Kinds of learner."""
    dimensions: tuple[float, ...] = (0.5, 0.75, 1.0, 2.0)
    """Widths over concepts, rounded up; below 1 concepts share dimensions (superposition)."""
    sequence_dimensions: tuple[float, ...] = (0.5, 0.75, 1.0, 2.0)
    """The same for the sequence learner."""
    noises: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)
    """Standard deviations of added noise, over the activations' own."""
    masks: tuple[int, ...] = (8, 16, 32)
    """Numbers of masks in training, for incomplete contexts (lookup learner)."""
    lookup: Training = field(default_factory=lambda: Training(optimizer="population", steps=12_000))
    """How lookup tables are trained; widths are the plan's."""
    sequence: SequenceTraining = field(default_factory=lambda: SequenceTraining(steps=1200, log_every=300))
    """How transformers are trained; widths are the plan's."""
    rows: int = 8000
    """Sampled activation rows, about."""
    labellings: int = 200
    """Random labellings of the contexts, for false positives."""
    pairs: int = 3
    """Pairs of concepts whose parity is looked for."""
    decoys: int = 200
    """Planted worlds of each kind in which `causes` is asked what is used; 0 leaves that out."""
    seed: int = 0
    """Of samples, splits and labels."""

    def width(self, m: int, dimension: float) -> int:
        """Dimensions for m concepts."""
        return ceil(round(dimension * m, 6))

    def check(self) -> None:
        """Refuse a plan that nothing can be certified by."""
        if not self.learners or not set(self.learners) <= {"lookup", "sequence"}:
            raise ValueError(f"learners={self.learners}: 'lookup', 'sequence' or both")
        for name in ("dimensions", "sequence_dimensions", "noises", "masks"):
            if any(v <= 0 for v in getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)}: above 0")
        if not self.dimensions or max(self.dimensions) < 1 or max(self.sequence_dimensions, default=0) < 1:
            raise ValueError("dimensions: at least one of 1 or more for each learner; bounds hold there")
        least = {"labellings": 1, "pairs": 1, "rows": 100, "decoys": 0}
        if low := [name for name, value in least.items() if getattr(self, name) < value]:
            raise ValueError(f"{low[0]}={getattr(self, low[0])}: at least {least[low[0]]}")


class Learners:
    """Trained learners by kind and level, each made when it is first asked for."""

    def __init__(self, world: World, plan: Plan, folder: Path | None, progress: bool | None) -> None:
        self.world, self.plan, self._folder, self._progress = world, plan, folder, progress
        self._made: dict[str, Subject] = {}

    def subject(self, learner: str, condition: str, level: float) -> Subject:
        """A trained learner's rows and truth; `condition` is `dimension` or `masks`."""
        name = f"{learner}-{condition}-{level:g}"
        if name not in self._made:
            if learner == "lookup":
                self._train_lookups()
            else:
                self._made[name] = self._sequence(level)
        return self._made[name]

    # Lookup tables -----------------------------------------------------------------------------------
    def _lookups(self) -> list[tuple[str, float, Contexts, int]]:
        m, plan = self.world.m, self.plan
        complete = Contexts.complete(self.world)
        wide = [("dimension", d, complete, plan.width(m, d)) for d in plan.dimensions]
        few = [
            ("masks", float(n), _masks_for(self.world, n, plan.seed), plan.width(m, 1.0)) for n in plan.masks
        ]
        return [*wide, *few]

    def _train_lookups(self) -> None:
        """All of them as one batch: the tables are so small that many train in the time of one."""
        wanted = self._lookups()
        learned = [self._load("lookup", c, level) for c, level, _, _ in wanted]
        if any(one is None for one in learned):
            settings = replace(
                self.plan.lookup,
                dim=tuple(width for *_, width in wanted),
                seed=(self.plan.seed,) * len(wanted),
            )
            all_contexts = [contexts for _, _, contexts, _ in wanted]
            trained = train_tables(all_contexts, settings, progress=self._progress)
            start = train_tables(all_contexts, replace(settings, steps=0), progress=False)
            learned = []
            for run, (condition, level, contexts, width) in enumerate(wanted):
                sizes, models = (contexts.n, len(contexts.world.vectors)), list[Any]()
                for kind, result in (("trained", trained), ("untrained", start)):
                    f, g = (t[run, :n, :width] for t, n in zip((result.f, result.g), sizes, strict=True))
                    if self._folder is not None:
                        place = self._place("lookup", condition, level, kind)
                        save_lookup(place, contexts, f.clone(), g.clone(), overwrite=True)
                    models.append(lookup_model(f, g))
                learned.append((models[0], models[1], contexts))
        for (condition, level, _, width), models in zip(wanted, learned, strict=True):
            assert models is not None
            model, untrained, contexts = models
            n, seed = self.plan.rows, self.plan.seed + 1
            self._made[f"lookup-{condition}-{level:g}"] = self._subject(
                ("lookup", condition, level, width, len(contexts.masks)),
                lookup_rows(model, contexts, LOOKUP_POINTS, n, seed),
                lookup_rows(untrained, contexts, LOOKUP_POINTS, n, seed),
                lookup_rows(model, contexts, LOOKUP_POINTS),
            )

    def _subject(
        self, named: tuple[str, str, float, int, int], rows: TrueRows, untrained: TrueRows, every: TrueRows
    ) -> Subject:
        """A learner of (kind, condition, level, width, masks), without noise."""
        quiet = dict.fromkeys(rows.activations.points, 0.0)
        return Subject(*named, rows, untrained, every, quiet, self.plan.seed)

    # Transformers ------------------------------------------------------------------------------------
    def _sequence(self, dimension: float) -> Subject:
        width = self.plan.width(self.world.m, dimension)
        heads = next(h for h in (4, 2, 1) if width % h == 0)
        shape = replace(self.plan.sequence.shape, d_model=width, n_heads=heads)
        models = self._load("sequence", "dimension", dimension)
        if models is None:
            settings = replace(self.plan.sequence, shape=shape)
            learned = train_sequence(self.world, settings, progress=self._progress)
            before = train_sequence(self.world, replace(settings, steps=0), progress=False)
            models = (learned.model, before.model, learned.contexts)
            for kind, model in (("trained", learned.model), ("untrained", before.model)):
                if self._folder is not None:
                    place = self._place("sequence", "dimension", dimension, kind)
                    save_sequence(place, model, learned.contexts, shape, overwrite=True)
        model, untrained, contexts = models
        tokens, points = SequenceTokens.of(contexts), sequence_points(shape)
        n, seed = max(30, self.plan.rows // len(tokens.concepts)), self.plan.seed + 1
        return self._subject(
            ("sequence", "dimension", dimension, width, len(contexts.masks)),
            sequence_rows(model, tokens, points, n, seed, pos=TOLD),
            sequence_rows(untrained, tokens, points, n, seed, pos=TOLD),
            sequence_rows(model, tokens, points, orders=_orders(tokens), pos=TOLD),
        )

    # On disk -----------------------------------------------------------------------------------------
    def _place(self, learner: str, condition: str, level: float, kind: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{learner}-{condition}-{level:g}" / kind

    def _load(self, learner: str, condition: str, level: float) -> tuple[Any, Any, Contexts] | None:
        if self._folder is None:
            return None
        read = load_lookup if learner == "lookup" else load_sequence
        trained, before = (self._place(learner, condition, level, kind) for kind in ("trained", "untrained"))
        try:
            model, contexts = read(trained)
            untrained, _ = read(before)
        except ArtifactError:
            set_aside(trained)
            set_aside(before)
            return None
        return model, untrained, contexts


def _orders(tokens: SequenceTokens) -> int | None:
    """Orders of telling from which the truth is computed, all (None) or so many: every concept equally often
    at every position."""
    size = len(tokens.concepts)
    some = size * min(10, max(1, TEXTS // (size * 2**size)))
    return None if factorial(size) <= some else some


def sequence_points(shape: SequenceShape) -> tuple[str, ...]:
    """Every point of the residual stream and every sublayer's output, in order."""
    parts = ("hook_attn_out", "hook_resid_mid", "hook_mlp_out", "hook_resid_post")
    if not shape.mlp_ratio:
        parts = ("hook_attn_out", "hook_resid_post")
    blocks = [f"blocks.{layer}.{part}" for layer in range(shape.n_layers) for part in parts]
    return ("blocks.0.hook_resid_pre", *blocks)


def _masks_for(world: World, n: int, seed: int) -> Contexts:
    """`n` Bernoulli(½) masks, drawn again (with the next seed) where a concept is always or never shown:
    of such a one nothing could be read."""
    for tried in range(seed, seed + 1000):
        contexts = Contexts.drawn(world, n, tried)
        if contexts.masks.any(axis=0).all() and not contexts.masks.all(axis=0).any():
            return contexts
    raise ValueError(f"masks={n}: too few for every one of {world.m} concepts to be shown and hidden")
