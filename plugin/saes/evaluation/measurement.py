"""An SAE on a model's contexts: what `evaluate` and `examine` look at, and the rows that count.

The contexts are the first of a corpus, made as the SAE's metadata says; the SAE is checked, and scaled as its
cfg asks. Special tokens do not count, nor rows far longer than the others where the SAE's training left them
out.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from graticule.hooks.activations import Activations
from graticule.hooks.artifact import library_versions
from graticule.hooks.calls import Kind
from graticule.hooks.coders import Found, SparseCoder, describe, find_sae, metadata
from graticule.hooks.coders import hook_name as home_of
from graticule.hooks.identity import is_of, model_identity
from graticule.hooks.latents import Latents, encode
from graticule.hooks.limits import LIMITS
from graticule.hooks.model_view import ModelView, official_name
from graticule.hooks.points import resolve
from graticule.hooks.protocols import HookedModel, device_of
from graticule.hooks.running.session import undisturbed
from graticule.hooks.streams.base import NormLimit
from graticule.hooks.streams.contexts import contexts, special_ids
from graticule.hooks.streams.corpora import Corpus
from graticule.saes.evaluation.losses import HalfRun, Route, Whole, make_route

_log = logging.getLogger(__name__)

_TOKENS = 1024  # a batch
_MOST_ROWS = 4096
LONGEST = Kind(
    "a multiple of the median norm above 1, 'trained' or None",
    lambda value: value == "trained" or LIMITS["max_norm"].takes(value),
    lambda value: "max_norm=10",  # noqa: ARG005
).or_none()
"""What `max_norm` may be where there is an SAE already."""


# The SAE -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Coder:
    """An SAE applied to rows of one hook point."""

    sae: SparseCoder
    """The SAE, its input scale folded in."""
    point: str
    """The hook point it reads."""
    width: int
    """Of the hook point, heads flattened."""
    scale: float | None = None
    """What was folded in (`expected_average_only_in`); None where there was nothing to fold."""

    @property
    def d_in(self) -> int:
        """Width of what the SAE reads: of one head where it reads one."""
        return int(self.sae.cfg.d_in)

    @property
    def d_sae(self) -> int:
        """Latents."""
        return int(self.sae.cfg.d_sae)

    @property
    def part(self) -> slice:
        """Which of the point's entries the SAE reads and writes."""
        if self.width == self.d_in:
            return slice(None)
        head = int(metadata(self.sae, "hook_head_index") or 0)
        return slice(head * self.d_in, (head + 1) * self.d_in)

    def encode(self, rows: Float[Tensor, "row width"]) -> Latents:
        """Latents of rows of the point."""
        acts = Activations({self.point: rows}, pd.DataFrame(index=range(len(rows))))
        return encode(acts, self.sae, self.point, batch=_MOST_ROWS, progress=False)

    def __call__(self, rows: Float[Tensor, "row width"]) -> tuple[Latents, Float[Tensor, "row d_in"]]:
        """Latents and reconstructions (float32, on the CPU) of rows of the point."""
        latents = self.encode(rows)
        return latents, torch.from_numpy(latents.reconstruction(np.arange(len(rows)))).float()


def _make_coder(sae: SparseCoder, point: str, rows: Float[Tensor, "row width"], scale: float | None) -> Coder:
    """The SAE on a hook point, of whose activations `rows` are the first; the user's SAE is not touched.

    Where the cfg still says `expected_average_only_in` and no `scale` is given, it is √d_in over the mean
    norm of `rows`, as SAELens's `ActivationScaler` estimates it.
    """
    width, d_in = int(rows.shape[1]), int(sae.cfg.d_in)
    if width != d_in and (metadata(sae, "hook_head_index") is None or width % d_in):
        raise ValueError(
            f"{point} has width {width}, the SAE has d_in {d_in}: was it trained on another model or point?"
        )
    kind = str(getattr(sae.cfg, "normalize_activations", "none"))
    if kind == "covariance_whitening":
        raise ValueError(
            "this SAE reads whitened activations and the whitening is not in its weights: fold it in first "
            "(sae.fold_activation_whitening), as SAELens does at the end of training"
        )
    if scale is None and kind == "expected_average_only_in":
        read = rows[:, Coder(sae, point, width).part]
        scale = d_in**0.5 / float(read.float().norm(dim=1).mean())
        _log.warning(
            "normalize_activations is 'expected_average_only_in' and the scale is not in the weights; "
            "scale %.4g is estimated from %d rows (say scale= to give it)",
            scale,
            len(rows),
        )
    heads = getattr(sae.cfg, "reshape_activations", "none") == "hook_z"
    if scale is None and not heads:
        return Coder(sae, point, width)
    own: Any = copy.deepcopy(sae)
    if heads:
        own.turn_off_forward_pass_hook_z_reshaping()  # rows are flat here
    if scale is not None:
        own.fold_activation_norm_scaling_factor(scale)
    return Coder(own, point, width, scale)


def _warn_if_foreign(model: HookedModel, identity: Mapping[str, Any], sae: SparseCoder, point: str) -> None:
    """Warn where the SAE's metadata names another model or hook point than it is measured on."""
    made = metadata(sae, "graticule")
    trained: Mapping[str, Any] = (made.get("model") or {}) if isinstance(made, Mapping) else {}
    name = metadata(sae, "model_name")
    if trained.get("dtype") == identity["dtype"] and trained.get("digest"):
        same = is_of(trained, model, identity)
        on = "other weights or settings" if name == identity["name"] else f"{name}"
    else:
        same = name is None or _official(str(name)) == _official(str(identity["name"]))
        on = str(name)
    if not same:
        _log.warning(
            "the SAE was trained on %s, and is measured on %s: are they the same model?", on, identity["name"]
        )
    if (home := home_of(sae)) is not None and home != point:
        _log.warning("the SAE was trained at %s, and is measured at %s", home, point)


def _official(name: str) -> str:
    """A model's name as TransformerLens has it, without the owner: `gpt2-small` and `openai/gpt2` are one."""
    return (official_name(name) or name).rstrip("/").rpartition("/")[2].lower()


# The contexts ------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class ContextSample:
    """The contexts that an SAE is looked at on."""

    tokens: Int[np.ndarray, "context pos"]
    """Token ids."""
    counted: Bool[np.ndarray, "context pos"]
    """Tokens whose rows count: no BOS, EOS, PAD or other excluded token."""
    n_loss: int
    """Contexts, from the first, on which losses are taken too."""
    excluded: tuple[int, ...]
    """Ids of the tokens left out."""
    corpus: dict[str, Any]
    """Where they come from."""

    def batches(self) -> Iterator[slice]:
        """Runs of contexts, those with losses apart from the rest."""
        step = max(1, _TOKENS // self.tokens.shape[1])
        for first, last in ((0, self.n_loss), (self.n_loss, len(self.tokens))):
            for start in range(first, last, step):
                yield slice(start, min(start + step, last))


def take_sample(
    model: HookedModel,
    sae: SparseCoder,
    corpus: Any,
    n_tokens: int,
    n_activation_tokens: int | None = None,
    column: str | None = None,
    context_size: int | None = None,
    prepend_bos: bool | None = None,
    exclude_special: bool | Sequence[int] = True,
) -> ContextSample:
    """The first contexts of a corpus, of the size and with the BOS that the SAE's metadata names.

    Raises:
        ValueError: for a corpus without a whole context.
    """
    read = Corpus.read(corpus, column)
    bos = prepend_bos if prepend_bos is not None else metadata(sae, "prepend_bos")
    size = context_size
    if size is None and not read.tokenised and (trained := metadata(sae, "context_size")) is not None:
        size = min(int(trained), ModelView(model).n_ctx or trained)
    how: dict[str, Any] = {"context_size": size, "prepend_bos": bos}
    first = contexts(model, read, 1, **how)
    if not len(first):
        raise ValueError(
            f"{read.name} does not fill one context{'' if size is None else f' of {size} tokens'}"
        )
    width = int(first.shape[1])
    rows = contexts(model, read, -(-max(n_tokens, n_activation_tokens or 0) // width), **how)
    special = special_ids(exclude_special, getattr(model, "tokenizer", None), ModelView(model).d_vocab)
    counted = ~np.isin(rows, np.array(special, np.int64))
    return ContextSample(rows, counted, min(len(rows), -(-n_tokens // width)), special, read.identity())


def _check_predictable(model: HookedModel, sample: ContextSample) -> None:
    """Refuse contexts without a prediction that counts, and tokens that a model reads but cannot predict, as
    a small output vocabulary makes them: there is no loss of them."""
    if not sample.counted[: sample.n_loss, :-1].any():
        raise ValueError(
            f"no loss can be taken on contexts of {sample.tokens.shape[1]} tokens: special tokens do not "
            "count, and nothing follows the last; write a larger context_size=, or losses=False"
        )
    outputs, following = ModelView(model).d_vocab_out, sample.tokens[: sample.n_loss, 1:]
    if following.size and outputs <= (largest := int(following.max())):
        raise ValueError(
            f"token {largest} cannot be predicted, the model has {outputs} outputs: these contexts have no "
            "loss; losses=False measures everything else"
        )


# Both --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Measurement:
    """An SAE on the contexts of one model."""

    source: Found
    """The SAE as it was given, and where it lies."""
    coder: Coder
    """The SAE as it is applied."""
    sample: ContextSample
    """The contexts."""
    route: Route
    """How the model is run to the hook point."""
    tokens: Int[Tensor, "context pos"]
    """Token ids where the model is."""
    limit: NormLimit
    """What row is too long."""
    identity: Mapping[str, Any]
    """The model's."""

    @property
    def point(self) -> str:
        """The hook point."""
        return self.coder.point

    def batches(self, bar: Any) -> Iterator[tuple[slice, HalfRun, Float[Tensor, "row width"]]]:
        """Contexts run as far as the point, and the rows of them that count; `bar` goes on after each."""
        for batch in self.sample.batches():
            run = self.route.read(self.tokens[batch])
            yield batch, run, self._rows_within(run.flat, batch)
            bar.update(batch.stop - batch.start)

    def _rows_within(self, flat: Tensor, batch: slice) -> Tensor:
        """The rows `[row, width]` that count; those beyond the limit are taken out of `sample.counted`."""
        counted = torch.from_numpy(self.sample.counted[batch]).to(flat.device)
        away = self.limit.beyond(self.point, flat[counted])
        self.limit.count(len(away), int(away.sum()))
        counted[counted.clone()] = ~away
        self.sample.counted[batch] = counted.cpu().numpy()
        return flat[counted]

    def provenance(self) -> dict[str, Any]:
        """What a result was taken from: SAE, model (its identity), contexts, versions."""
        return {
            "sae": {**describe(self.coder.sae), "scale": self.coder.scale},
            "model": dict(self.identity),
            "corpus": self.sample.corpus,
            "n_contexts": len(self.sample.tokens),
            "context_size": int(self.sample.tokens.shape[1]),
            "excluded_tokens": list(self.sample.excluded),
            "versions": library_versions(),
        }


@contextmanager
def measuring(
    model: HookedModel,
    sae: Any,
    corpus: Any,
    n_tokens: int,
    n_activation_tokens: int | None = None,
    *,
    hook_name: str | None,
    max_norm: float | int | Literal["trained"] | None,
    scale: float | None,
    goes_on: bool,
    losses: bool = False,
    **reading: Any,
) -> Generator[Measurement]:
    """An SAE on a model's contexts, the model undisturbed inside.

    Args:
        model: the model.
        sae: what `find_sae` takes.
        corpus: what `Corpus.read` takes.
        n_tokens: as in `take_sample`.
        n_activation_tokens: as in `take_sample`.
        hook_name: the point, where the SAE's metadata names none.
        max_norm: rows that are left out; for `"trained"` as in the SAE's training, as its metadata says.
        scale: what activations are multiplied with.
        goes_on: whether the model is run on from the point with other activations.
        losses: whether losses are taken; contexts that have none are refused.
        reading: further arguments of `take_sample`.

    Raises:
        ValueError: where nobody names a point, for contexts or an SAE that cannot be measured.
        PointError: where the model does not have the point.
    """
    source = find_sae(sae)
    name = hook_name or home_of(source.sae)
    if name is None:
        raise ValueError("this SAE's metadata names no hook_name: say which point it reads with hook_name=")
    point = resolve(model, name)[0]
    identity = model_identity(model)
    _warn_if_foreign(model, identity, source.sae, point)
    sample = take_sample(model, source.sae, corpus, n_tokens, n_activation_tokens, **reading)
    if losses:
        _check_predictable(model, sample)
    with undisturbed(model):
        tokens = torch.as_tensor(sample.tokens, dtype=torch.int64).to(device_of(model))
        route = make_route(model, point, tokens) if goes_on else Whole(model, point)
        batch = next(sample.batches())
        flat = route.read(tokens[batch]).flat
        first = flat[torch.from_numpy(sample.counted[batch]).to(flat.device)]
        first = first if len(first) else flat.flatten(0, 1)
        limit = _norm_limit(source.sae, max_norm)
        coder = _make_coder(source.sae, point, first[~limit.beyond(point, first)], scale)
        yield Measurement(source, coder, sample, route, tokens, limit, identity)


def _norm_limit(sae: SparseCoder, max_norm: float | int | Literal["trained"] | None) -> NormLimit:
    if max_norm != "trained":
        return NormLimit(max_norm)
    made = metadata(sae, "graticule")
    return NormLimit(made.get("max_norm") if isinstance(made, Mapping) else None)
