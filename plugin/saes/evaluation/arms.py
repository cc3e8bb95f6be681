"""A model run to one hook point, and on from there with other activations in its place.

The layers below the point are run once for all versions. A `HookedTransformer` goes on from the next block
(`start_at_layer`); any other model with hooks is run again for every version. Losses and divergences are
taken a few rows at a time, because a row of logits can be a megabyte.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from graticule.hooks.points import layer_of
from graticule.hooks.protocols import HookedModel, device_of
from graticule.hooks.running.forward import Forward

_log = logging.getLogger(__name__)

_CELLS = 1 << 25  # logits of one version held at once: 128 MiB in float32


@dataclass(frozen=True)
class Held:
    """Contexts that were run as far as the hook point."""

    tokens: Int[Tensor, "context pos"]
    """Token ids."""
    found: Tensor
    """Activations at the point, `[context, pos, …]`, in the model's dtype."""
    below: Tensor | None
    """The residual stream to go on from, where that is not `found` itself."""

    @property
    def flat(self) -> Tensor:
        """`[context, pos, width]`: heads one after another."""
        return self.found.reshape(*self.found.shape[:2], -1)


@dataclass(frozen=True)
class Scores:
    """What each version of the activations does to the model's predictions."""

    ce: Float[Tensor, "version context pos"]
    """Cross-entropy of the next token, nats; NaN at the last position."""
    kl: Float[Tensor, "version context pos"]
    """KL divergence of the first version's predictions from each version's, nats."""


@runtime_checkable
class Route(Protocol):
    """A way to run a model with activations replaced."""

    def read(self, tokens: Int[Tensor, "context pos"]) -> Held:
        """Run as far as the point."""
        ...

    def scores(self, held: Held, versions: Sequence[Tensor]) -> Scores:
        """Go on with each version of the activations (shaped as `held.found`); the first is the reference."""
        ...


def make_route(model: HookedModel, point: str, tokens: Int[Tensor, "context pos"]) -> Route:
    """The fastest way that gives this model's own logits, compared on the first tokens of `tokens`."""
    whole = Whole(model, point)
    forward: Any = getattr(model, "forward", model)
    names = set(inspect.signature(forward).parameters)
    if not {"start_at_layer", "stop_at_layer"} <= names or layer_of(point) is None:
        return whole
    some = tokens[:2, :8]
    try:
        layered = Layered(model, point)
        held = layered.read(some)
        finals = layered.finals(held, [held.found])
        got = layered.logits(finals[0].flatten(0, 1))
    except (
        NotImplementedError,
        TypeError,
        AttributeError,
        RuntimeError,
        ValueError,
        AssertionError,
    ) as error:  # whatever a model that cannot start at a layer raises: the whole pass always works
        _log.info("every version is a whole forward pass: this model cannot go on from a layer (%s)", error)
        return whole
    plain = whole.logits(some, None)
    half = got.dtype != torch.float32 or any(p.dtype != torch.float32 for p in model.parameters())
    if got.shape == plain.shape and (got - plain).norm() <= (5e-2 if half else 1e-4) * plain.norm():
        return layered
    _log.info("every version is a whole forward pass: going on from a layer gives other logits")
    return whole


# Going on from a layer ---------------------------------------------------------------------------------
class Layered:
    """For models with `start_at_layer`, `ln_final` and `unembed.W_U`."""

    def __init__(self, model: HookedModel, point: str) -> None:
        self.model, self.point = model, point
        self._owner: Any = model
        layer = layer_of(point)
        assert layer is not None
        after = point.endswith("hook_resid_post")
        self._hooked = not after and not point.endswith("hook_resid_pre")
        self._start = layer + 1 if after else layer
        self._below = f"blocks.{layer}.hook_resid_pre"
        points = [self._below, point] if self._hooked else [point]
        self._forward = Forward(model, points)

    def read(self, tokens: Int[Tensor, "context pos"]) -> Held:
        """Run as far as the point."""
        seen: dict[str, Tensor] = {}
        self._forward(tokens, lambda name, value: seen.__setitem__(name, value.detach().clone()))
        return Held(tokens, seen[self.point], seen.get(self._below) if self._hooked else None)

    def finals(self, held: Held, versions: Sequence[Tensor]) -> Float[Tensor, "version context pos d_model"]:
        """What the unembedding reads, for each version."""
        joined = torch.cat(list(versions))
        if held.below is None:
            residual = self._run(joined)
        else:
            below = held.below.expand(len(versions), *held.below.shape).flatten(0, 1)
            with self.model.hooks(fwd_hooks=[(self.point, _put(joined))]):
                residual = self._run(below)
        if self._owner.cfg.normalization_type is not None:
            residual = self._owner.ln_final(residual)
        return residual.unflatten(0, (len(versions), -1))

    def _run(self, residual: Tensor) -> Tensor:
        n_layers = int(self.model.cfg.n_layers)
        return self.model(residual, start_at_layer=self._start, stop_at_layer=n_layers)

    def logits(self, final: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
        """Logits in float32; the weight is read as it lies, where the model's own module may copy it."""
        unembed = self._owner.unembed
        out = (final @ unembed.W_U).float()
        if unembed.b_U is not None:
            out += unembed.b_U
        cap = getattr(self._owner.cfg, "output_logits_soft_cap", None)
        return cap * torch.tanh(out / cap) if cap is not None and cap > 0 else out

    def scores(self, held: Held, versions: Sequence[Tensor]) -> Scores:
        """Go on with each version of the activations; the first is the reference."""
        finals = self.finals(held, versions).flatten(1, 2)
        table = _Table(len(versions), held.tokens)
        for rows in table.chunks(int(self._owner.unembed.W_U.shape[1])):
            reference = _Reference(self.logits(finals[0, rows]))
            table.note(0, rows, reference.log, reference)
            for v in range(1, len(versions)):
                table.note(v, rows, _log_softmax(self.logits(finals[v, rows])), reference)
        return table.scores()


# Running the whole model for each version --------------------------------------------------------------
class Whole:
    """For any model with hooks that returns logits."""

    def __init__(self, model: HookedModel, point: str) -> None:
        self.model, self.point = model, point
        self._forward = Forward(model, [point])

    def read(self, tokens: Int[Tensor, "context pos"]) -> Held:
        """Run as far as the point."""
        seen: dict[str, Tensor] = {}
        self._forward(tokens, lambda name, value: seen.__setitem__(name, value.detach().clone()))
        return Held(tokens, seen[self.point], None)

    def logits(self, tokens: Tensor, version: Tensor | None) -> Float[Tensor, "row vocab"]:
        """Logits of whole contexts, one row a token, with the activations replaced."""
        hooks = [] if version is None else [(self.point, _put(version))]
        with self.model.hooks(fwd_hooks=hooks):
            out = self.model(tokens, return_type="logits")
        return out.float().flatten(0, 1)

    def scores(self, held: Held, versions: Sequence[Tensor]) -> Scores:
        """Run with each version of the activations; the first is the reference."""
        table = _Table(len(versions), held.tokens)
        width = held.tokens.shape[1]
        for contexts in self._contexts(held, versions[0]):
            rows = slice(contexts.start * width, contexts.stop * width)
            tokens = held.tokens[contexts]
            reference = _Reference(self.logits(tokens, versions[0][contexts]))
            table.note(0, rows, reference.log, reference)
            for v in range(1, len(versions)):
                table.note(v, rows, _log_softmax(self.logits(tokens, versions[v][contexts])), reference)
        return table.scores()

    def _contexts(self, held: Held, version: Tensor) -> Iterator[slice]:
        """As many contexts at once as their logits allow."""
        step = max(1, _CELLS // (n_outputs(self.model) * held.tokens.shape[1]))
        for start in range(0, len(version), step):
            yield slice(start, min(start + step, len(version)))


def _put(version: Tensor) -> Any:
    def fn(tensor: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
        return version.to(tensor.device, tensor.dtype)

    return fn


# Scores ------------------------------------------------------------------------------------------------
def _log_softmax(logits: Tensor) -> Tensor:
    return logits.sub_(logits.logsumexp(dim=-1, keepdim=True))


class _Reference:
    """Log-probabilities that others are compared with."""

    def __init__(self, logits: Tensor) -> None:
        self.log = _log_softmax(logits)
        self.p = self.log.exp()
        self.entropy = torch.linalg.vecdot(self.p, self.log)

    def divergence(self, log: Tensor) -> Tensor:
        return self.entropy - torch.linalg.vecdot(self.p, log)


class _Table:
    """Cross-entropies and divergences of all versions, filled a few rows at a time."""

    def __init__(self, versions: int, tokens: Tensor) -> None:
        self._shape = (versions, *tokens.shape)
        self._targets = torch.cat([tokens[:, 1:], torch.zeros_like(tokens[:, :1])], dim=1).flatten()
        self._ce = torch.full((versions, tokens.numel()), torch.nan)
        self._kl = torch.full((versions, tokens.numel()), torch.nan)

    def chunks(self, vocab: int) -> Iterator[slice]:
        step = max(1, _CELLS // vocab)
        for start in range(0, self._ce.shape[1], step):
            yield slice(start, min(start + step, self._ce.shape[1]))

    def note(self, version: int, rows: slice, log: Tensor, reference: _Reference) -> None:
        self._ce[version, rows] = -log.gather(1, self._targets[rows, None])[:, 0].cpu()
        self._kl[version, rows] = 0.0 if version == 0 else reference.divergence(log).cpu()

    def scores(self) -> Scores:
        ce = self._ce.reshape(self._shape)
        ce[..., -1] = torch.nan
        return Scores(ce, self._kl.reshape(self._shape))


def n_outputs(model: HookedModel) -> int:
    """Tokens that a model can predict; by default as many as it reads."""
    return int(getattr(model.cfg, "d_vocab_out", 0) or model.cfg.d_vocab)


def to_device(model: HookedModel, tokens: Any) -> Int[Tensor, "context pos"]:
    """Token rows where the model is."""
    return torch.as_tensor(tokens, dtype=torch.int64).to(device_of(model))
