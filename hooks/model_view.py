"""A model's inside, known in one place: sizes, block borders, parts of a pass, restarts, norm, unembedding.

What TransformerLens calls a component, an argument or a setting is named here; what it calls the weights of a
block, in `weights` beside it; what it calls hook points, in `points`.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from graticule.hooks.points import layer_of
from graticule.hooks.protocols import HookedModel, device_of

_BORDERS = ("hook_resid_pre", "hook_resid_post")


def at_border(point: str) -> bool:
    """Whether a point is the residual stream between two blocks, where a run can start with other values."""
    return point.endswith(_BORDERS)


def start_of(point: str) -> int | None:
    """The block with which a run starts that has other values at `point`; None outside the blocks."""
    layer = layer_of(point)
    return None if layer is None else layer + int(point.endswith("hook_resid_post"))


def official_name(name: str) -> str | None:
    """The Hugging Face name of a model that TransformerLens knows; None of any other."""
    from transformer_lens.loading_from_pretrained import get_official_model_name

    try:
        return str(get_official_model_name(name))
    except ValueError:
        return None


class ModelView:
    """What can be asked of a TransformerLens model's inside: its sizes, and parts of its pass.

    A `HookedTransformer` or a `TransformerBridge`; of any other model with hooks as much as it has. Whether
    parts of a pass give the model's own logits only a comparison tells (`hooks.running.restart`).
    """

    def __init__(self, model: HookedModel) -> None:
        self.model = model
        self._owner: Any = model

    # Sizes and settings ------------------------------------------------------------------------------
    @property
    def n_layers(self) -> int:
        """Blocks."""
        return int(self._owner.cfg.n_layers)

    @property
    def n_ctx(self) -> int:
        """Tokens that a row may have; 0 where the model does not say."""
        return int(getattr(self._owner.cfg, "n_ctx", 0) or 0)

    @property
    def d_vocab(self) -> int | None:
        """How many ids the model has an embedding for; None where nobody knows."""
        table = self.embedding
        return int(getattr(self._owner.cfg, "d_vocab", 0) or 0) or None if table is None else len(table)

    @property
    def d_vocab_out(self) -> int:
        """Tokens that the model can predict; by default as many as it reads."""
        return int(getattr(self._owner.cfg, "d_vocab_out", 0) or self._owner.cfg.d_vocab)

    @property
    def prepends_bos(self) -> bool:
        """Whether texts begin with BOS where nothing else is said."""
        return bool(getattr(self._owner.cfg, "default_prepend_bos", True))

    @property
    def window(self) -> int | None:
        """Tokens that local attention sees back, of a model whose own settings have it."""
        cfg = getattr(self._owner, "cfg", None)
        size = getattr(cfg, "window_size", None) if getattr(cfg, "use_local_attn", False) else None
        return int(size) if size else None

    # Parts of a pass ---------------------------------------------------------------------------------
    @cached_property
    def _arguments(self) -> set[str]:
        return set(inspect.signature(getattr(self.model, "forward", self.model)).parameters)

    @property
    def takes_layers(self) -> bool:
        """Whether the forward pass can start and stop at a layer."""
        return {"start_at_layer", "stop_at_layer"} <= self._arguments

    @property
    def takes_key_values(self) -> bool:
        """Whether the forward pass can stop at a layer and takes TransformerLens's own key-value cache."""
        return {"stop_at_layer", "past_kv_cache"} <= self._arguments

    def run_to(self, tokens: Tensor, layer: int, **arguments: Any) -> Float[Tensor, "row pos d_model"]:
        """The residual stream that enters block `layer`."""
        return self.model(tokens, stop_at_layer=layer, **arguments).detach()

    def run_from(
        self, residual: Float[Tensor, "row pos d_model"], start: int, stop: int | None = None
    ) -> Float[Tensor, "row pos d_model"]:
        """The residual stream from block `start` on as it enters block `stop`, or leaves the last one."""
        stop = self.n_layers if stop is None else stop
        return self.model(residual, start_at_layer=start, stop_at_layer=stop)

    def empty_cache(self) -> Any:
        """A key-value cache for one row, with nothing in it."""
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

        return TransformerLensKeyValueCache.init_cache(self._owner.cfg, device_of(self.model), 1)

    @staticmethod
    def after_cache(cache: Any, tokens: Int[Tensor, "row pos"]) -> dict[str, Any]:
        """What the forward pass takes so that every row of `tokens` follows the one row in `cache`.

        An empty cache is filled by the pass; any other is left as it is.
        """
        entries, before = cache.entries, int(cache.entries[0].past_keys.shape[1])
        if before:
            entries = [copy.copy(e) for e in entries]
            for entry in entries:
                entry.past_keys = entry.past_keys.expand(len(tokens), -1, -1, -1)
                entry.past_values = entry.past_values.expand(len(tokens), -1, -1, -1)
            mask = torch.ones(len(tokens), before, dtype=torch.int64, device=tokens.device)
            cache = type(cache)(entries, mask)
            cache.freeze()
        return {"past_kv_cache": cache, "attention_mask": torch.ones_like(tokens)}

    # Embedding, final norm, unembedding --------------------------------------------------------------
    @property
    def embedding(self) -> Float[Tensor, "d_vocab d_model"] | None:
        """`W_E`; None where the model has no such table."""
        try:
            table = self._owner.W_E
        except (AttributeError, NotImplementedError):
            return None
        return table if isinstance(table, Tensor) and table.ndim == 2 else None

    @property
    def embed(self) -> Any:
        """The module that embeds ids; None where there is none."""
        return getattr(self._owner, "embed", None)

    @property
    def embeds_positions(self) -> bool:
        """Whether positions have embeddings of their own, which are added to those of ids."""
        return getattr(self._owner, "pos_embed", None) is not None

    @property
    def _final_norm(self) -> Any:
        norm = getattr(self._owner, "ln_final", None)
        return norm if callable(norm) else None

    def final(self, residual: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row pos d_model"]:
        """What the unembedding reads of the residual stream: after the final norm, where there is one."""
        plain = getattr(self._owner.cfg, "normalization_type", "") is None
        return residual if plain or self._final_norm is None else self._final_norm(residual)

    def final_gain(self) -> tuple[Float[np.ndarray, " d_model"], bool]:
        """The gain of the final norm (ones where it is folded or absent), and whether it subtracts the mean.

        Read off what the norm *does* to a row of mean 0 and one of equal entries, as models store gains in
        several conventions (w, 1 + w, folded).
        """
        width = int(self._owner.cfg.d_model)
        if self._final_norm is None:
            return np.ones(width), False
        signs = torch.where(torch.arange(width) % 2 == 0, 1.0, -1.0)
        if width % 2:
            signs[-3:] = torch.tensor([1.0, 1.0, -2.0])
        rows = torch.stack([signs, -signs, torch.ones(width), -torch.ones(width)])[:, None]
        with torch.no_grad():
            normed: Tensor = self._final_norm(rows.to(device_of(self.model), self._owner.W_U.dtype))
            out = normed.to("cpu", torch.float64)[:, 0].numpy()
        scaled = signs.double().numpy() / np.sqrt(float(signs.double().square().mean()))
        gain = (out[0] - out[1]) / 2 / scaled  # halves of differences: a bias drops out
        level = (out[2] - out[3]) / 2
        return gain, bool(np.abs(level).max() < 1e-2 * np.abs(gain).max())

    def unembedding(self) -> Float[Tensor, "d_model d_vocab"]:
        """`W_U`, detached.

        Raises:
            ValueError: if the model has none of that shape; its message ends a sentence that says who needs
                one.
        """
        weight: Any = getattr(self._owner, "W_U", None)
        width = int(self._owner.cfg.d_model)
        if not isinstance(weight, Tensor) or weight.ndim != 2 or weight.shape[0] != width:
            shape = tuple(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
            raise ValueError(f"model.W_U of [d_model, d_vocab] with d_model {width}; found {shape}")
        return weight.detach()

    def logits(
        self,
        final: Float[Tensor, "row d_model"],
        tokens: Sequence[int] | None = None,
        *,
        bias_in_float32: bool = True,
    ) -> Float[Tensor, "row token"]:
        """Logits in float32, soft-capped, of some tokens or of all.

        The weight is read as it lies, where the model's own module may copy it, and only in the columns asked
        for: the unembedding is most of a small model.

        Args:
            final: what `final` gives.
            tokens: ids of the columns wanted.
            bias_in_float32: False adds the bias in the weight's dtype.
        """
        unembed = self._owner.unembed
        weight, bias = unembed.W_U.detach(), unembed.b_U
        bias = None if bias is None else bias.detach()
        if tokens is not None:
            index = torch.tensor(list(tokens), device=final.device)
            weight, bias = weight[:, index], None if bias is None else bias[index]
        out = final.to(weight.dtype) @ weight
        if bias_in_float32:
            out = out.float()
        if bias is not None:
            out += bias
        out = out.float()
        cap = float(getattr(self._owner.cfg, "output_logits_soft_cap", None) or 0.0)
        return cap * torch.tanh(out / cap) if cap > 0 else out

    # Blocks ------------------------------------------------------------------------------------------
    @property
    def blocks(self) -> list[Any]:
        """The blocks' modules; none of a model that keeps them elsewhere."""
        return list(getattr(self._owner, "blocks", None) or ())


_log = logging.getLogger(__name__)

Edit = Callable[[Tensor], Tensor]
"""Activations at a point → those that stand there instead."""
Hooks = Sequence[tuple[str, Any]]
"""Hook names and functions, as `model.hooks` takes them."""

_REFUSALS = (NotImplementedError, TypeError, AttributeError, RuntimeError, ValueError, AssertionError)
"""Whatever a model that cannot start at a layer raises: the whole pass always works."""
_TOLERANCE, _HALF = 1e-4, 5e-2
"""Share of the whole pass's size by which a restart may miss it, and in 16 bits."""


class Restart:
    """Passes of one model with a point's activations edited: whole, or from the point's block on.

    Whether a restart gives what the whole pass gives is seen by comparing them (`agrees`).
    """

    def __init__(self, model: HookedModel, point: str) -> None:
        self.view, self.point = ModelView(model), point
        self.start = start_of(point)
        """The block that a restart begins with; None for a point outside the blocks, where there is none."""

    def whole(
        self, tokens: Int[Tensor, "row pos"], edit: Edit | None, hooks: Hooks = ()
    ) -> Float[Tensor, "row pos token"]:
        """The logits of a whole pass."""
        edited = [] if edit is None else [(self.point, lambda value, hook: edit(value))]  # noqa: ARG005
        with self.view.model.hooks(fwd_hooks=[*edited, *hooks]):
            return self.view.model(tokens, return_type="logits")

    def onward(
        self,
        residual: Float[Tensor, "row pos d_model"],
        edit: Edit,
        hooks: Hooks = (),
        stop: int | None = None,
    ) -> Float[Tensor, "row pos d_model"]:
        """The residual stream as it enters block `stop`, or leaves the last one.

        Args:
            residual: what enters block `start`.
            edit: of the activations at the point, which are the residual itself between two blocks.
            hooks: further ones.
            stop: a block.
        """
        assert self.start is not None
        if at_border(self.point):
            residual = edit(residual)
        else:
            hooks = [(self.point, lambda value, hook: edit(value)), *hooks]  # noqa: ARG005
        with self.view.model.hooks(fwd_hooks=list(hooks)):
            return self.view.run_from(residual, self.start, stop)

    def agrees(self, trial: Callable[[], tuple[Tensor, Tensor]]) -> bool:
        """Whether a restart gives what the whole pass gives; `trial` runs some rows restarted, then whole."""
        if self.start is None or not self.view.takes_layers:
            return False
        try:
            restarted, whole = trial()
        except _REFUSALS as error:
            _log.info("runs are whole: this model cannot go on from block %d (%s)", self.start, error)
            return False
        dtypes = {restarted.dtype, *(p.dtype for p in self.view.model.parameters())}
        share = _HALF if dtypes & {torch.float16, torch.bfloat16} else _TOLERANCE
        close = restarted.shape == whole.shape and bool(
            (restarted - whole).norm() <= share * whole.norm().clamp_min(1e-12)
        )
        if not close:
            _log.info("runs are whole: going on from block %d gives other values", self.start)
        return close
