"""Training the sequence learner: the completing token at every position, its exact posterior or a sample."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from graticule.sims.contexts import Contexts
from graticule.sims.sequence import SequenceTokens, sequence_model
from graticule.sims.training.settings import SequenceShape, SequenceTraining
from graticule.sims.world import World

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

_log = logging.getLogger(__name__)
_TABLE = 1 << 24  # posterior probabilities that are kept at most: nine concepts' 3⁹ contexts of 2⁹ tokens
_WATCHED = 512  # texts on which the curves are taken


@dataclass(frozen=True, eq=False)
class SequenceLearned:
    """A trained transformer, and how it came about."""

    model: HookedTransformer
    """Frozen, in evaluation mode."""
    contexts: Contexts
    """The world, and the law of contexts that its texts give (`Contexts.prefixes`)."""
    tokens: SequenceTokens
    """Its language."""
    steps: Int[np.ndarray, " log"]
    """Updates done at each point of the curves."""
    gap: Float[np.ndarray, "log pos"]
    """Loss above its floor in nats after every token, KL(p ‖ p̂) over fixed texts: never below 0."""
    floor: Float[np.ndarray, " pos"]
    """Entropy of the completing token when as many concepts are known, exactly."""
    settings: SequenceTraining
    """How it was trained."""

    @property
    def loss(self) -> Float[np.ndarray, " log"]:
        """Expected loss in nats at each point, mean over positions; it cannot fall below `floor.mean()`."""
        return (self.gap + self.floor).mean(axis=1)


def train_sequence(
    world: World,
    settings: SequenceTraining | None = None,
    hidden: tuple[int, ...] = (),
    *,
    watch: Callable[[int, HookedTransformer], None] | None = None,
    progress: bool | None = None,
) -> SequenceLearned:
    """Train a small transformer on texts that tell all concepts but the `hidden` ones, on the CPU.

    `watch(step, model)` is called at every point of the curves. The same settings give the same bits on the
    same number of threads.

    Raises:
        ValueError: For a world too large to enumerate, or hidden concepts that are none or all.
        FloatingPointError: Where training diverges.
    """
    settings = settings or SequenceTraining()
    if len(set(hidden)) >= world.m:
        raise ValueError(f"hidden={hidden}: texts tell one concept or more")
    contexts = Contexts.prefixes(world, hidden)
    tokens = SequenceTokens.of(contexts)
    beliefs = _Beliefs(contexts, tokens)
    model = sequence_model(tokens, settings.shape)
    _initialise(model, settings)
    run = _Run(model, tokens, beliefs, settings)
    logged = [*range(0, settings.steps, settings.log_every), settings.steps]
    gaps: list[np.ndarray] = []
    with tqdm(total=settings.steps, desc="training", unit="step", disable=progress is False) as bar:
        for start, stop in zip(logged, [*logged[1:], settings.steps], strict=True):
            gaps.append(run.gap())
            if not np.isfinite(gaps[-1]).all():
                raise FloatingPointError(f"training diverged at a learning rate of {settings.lr:g}; lower lr")
            bar.set_postfix(above_floor=f"{gaps[-1].mean():z.4f}", refresh=False)
            if watch is not None:
                watch(start, model)
            if gaps[-1].mean() < settings.enough:
                break
            run.train(start, stop)
            bar.update(stop - start)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    steps = np.array(logged[: len(gaps)])
    return SequenceLearned(model, contexts, tokens, steps, np.array(gaps), floors(contexts), settings)


def floors(contexts: Contexts) -> Float[np.ndarray, " pos"]:
    """Σ p(d) H(c | d) over the contexts in which 0, 1, 2 … concepts are known, in nats."""
    size = contexts.masks.sum(axis=1)
    parts = [size == n for n in range(int(size.max()) + 1)]
    weights = [contexts.chances[p] / contexts.chances[p].sum() for p in parts]
    return np.array(
        [
            Contexts(contexts.world, contexts.masks[p], w).entropy_floor
            for p, w in zip(parts, weights, strict=True)
        ]
    )


class _Beliefs:
    """p(c | known) of texts' positions, looked up in a table of all contexts where that is small enough."""

    def __init__(self, contexts: Contexts, tokens: SequenceTokens) -> None:
        world = contexts.world
        self.world, self.tokens = world, tokens
        n = int(np.prod([v + 1 for v in world.values]))
        self._tabulated = n * tokens.start <= _TABLE
        self._rows = torch.zeros(0)
        if self._tabulated:
            every = contexts.vectors[contexts.probabilities > 0]
            self._rows = torch.zeros(n, tokens.start)
            self._rows[torch.from_numpy(world.context_code(every))] = torch.from_numpy(
                world.conditional(every)
            ).float()

    def __call__(self, texts: Tensor) -> Float[Tensor, "text pos token"]:
        values = self.tokens.known(texts)
        if self._tabulated:
            return self._rows[torch.from_numpy(self.world.context_code(values))]
        contexts, rows = np.unique(values.reshape(-1, self.world.m), axis=0, return_inverse=True)
        chances = torch.from_numpy(self.world.conditional(contexts)).float()
        return chances[torch.from_numpy(rows.reshape(-1))].view(*texts.shape, -1)


def sequence_logits(
    weights: Mapping[str, Tensor], shape: SequenceShape, texts: Int[Tensor, "text pos"]
) -> Float[Tensor, "text pos token"]:
    """The hooked model's logits from its own parameters in plain torch, in a third of the time or less."""
    width, heads = shape.d_model, shape.n_heads

    def norm(name: str, x: Tensor) -> Tensor:
        if shape.normalization is None:
            return x
        return F.layer_norm(x, (width,), weights[f"{name}.w"], weights[f"{name}.b"], 1e-5)

    length = texts.shape[1]
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    x = weights["embed.W_E"][texts] + weights["pos_embed.W_pos"][:length]
    for layer in range(shape.n_layers):
        at = f"blocks.{layer}"
        h = norm(f"{at}.ln1", x)
        qkv: list[Tensor] = []
        for part in "QKV":
            w, b = weights[f"{at}.attn.W_{part}"], weights[f"{at}.attn.b_{part}"]
            flat = torch.addmm(b.reshape(-1), h.reshape(-1, width), w.permute(1, 0, 2).reshape(width, -1))
            qkv.append(flat.view(*texts.shape, heads, -1).transpose(1, 2))
        q, k, v = qkv  # a few tokens long: quicker as it stands than as fused attention
        scores = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).masked_fill(future, -torch.inf)
        z = (torch.softmax(scores, dim=-1) @ v).transpose(1, 2).flatten(2)
        x = x + z @ weights[f"{at}.attn.W_O"].flatten(0, 1) + weights[f"{at}.attn.b_O"]
        if shape.mlp_ratio:
            h = norm(f"{at}.ln2", x)
            h = F.gelu(F.linear(h, weights[f"{at}.mlp.W_in"].T, weights[f"{at}.mlp.b_in"]))
            x = x + F.linear(h, weights[f"{at}.mlp.W_out"].T, weights[f"{at}.mlp.b_out"])
    return norm("ln_final", x) @ weights["unembed.W_U"] + weights["unembed.b_U"]


class _Run:
    """The model, its optimiser and its texts."""

    def __init__(
        self, model: HookedTransformer, tokens: SequenceTokens, beliefs: _Beliefs, settings: SequenceTraining
    ) -> None:
        self.tokens, self.beliefs, self.settings = tokens, beliefs, settings
        self._weights = dict(model.named_parameters())
        self._rng = np.random.default_rng([settings.seed, 1])
        self._watched, _ = tokens.draw(_WATCHED, np.random.default_rng([settings.seed, 2]))
        groups = _decayed(model, settings.weight_decay)
        self._optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.99), foreach=True)

    @torch.enable_grad()
    def train(self, start: int, stop: int) -> None:
        """Updates start … stop."""
        for step in range(start, stop):
            texts, completions = self.tokens.draw(self.settings.batch, self._rng)
            for group in self._optimizer.param_groups:
                group["lr"] = self._rate(step)
            log_p = torch.log_softmax(self._logits(texts), dim=-1)
            if self.settings.targets == "posterior":
                loss = -(self.beliefs(texts) * log_p).sum() / texts.numel()
            else:
                chosen = torch.from_numpy(completions)[:, None, None].expand(*texts.shape, 1)
                loss = -log_p.gather(-1, chosen).mean()
            self._optimizer.zero_grad()
            loss.backward()  # pyright: ignore[reportUnknownMemberType]
            self._optimizer.step()

    def gap(self) -> Float[np.ndarray, " pos"]:
        """KL(p ‖ p̂) after every token, mean over the watched texts."""
        total = np.zeros(self._watched.shape[1])
        for texts in self._watched.split(64):
            p = self.beliefs(texts).double()
            with torch.no_grad():
                log_p = torch.log_softmax(self._logits(texts).double(), dim=-1)
            total += (torch.xlogy(p, p) - p * log_p).sum(dim=(0, 2)).numpy()
        return total / len(self._watched)

    def _logits(self, texts: Tensor) -> Tensor:
        return sequence_logits(self._weights, self.settings.shape, texts)

    def _rate(self, step: int) -> float:
        warm = max(1, self.settings.steps // 20)
        if step < warm:
            return self.settings.lr * (step + 1) / warm
        done = (step - warm) / max(1, self.settings.steps - warm)
        return self.settings.lr * (1 + math.cos(math.pi * done)) / 2


def _decayed(model: HookedTransformer, decay: float) -> list[dict[str, Any]]:
    """Matrices with weight decay, biases and gains without."""
    named = list(model.named_parameters())
    return [
        {"params": [p for n, p in named if ".W_" in n], "weight_decay": decay},
        {"params": [p for n, p in named if ".W_" not in n], "weight_decay": 0.0},
    ]


def _initialise(model: HookedTransformer, settings: SequenceTraining) -> None:
    """N(0, scale²/fan-in) for every matrix (embeddings: over the width), gains 1, biases 0."""
    generator = torch.Generator().manual_seed(settings.seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            kind = name.rsplit(".", 1)[-1]
            if kind.startswith("W_"):
                fan = parameter.shape[-1] if kind in ("W_E", "W_pos") else parameter.shape[-2]
                parameter.normal_(0.0, settings.scale / fan**0.5, generator=generator)
            elif kind == "w":
                parameter.fill_(1.0)
