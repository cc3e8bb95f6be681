"""The contexts that an SAE is looked at on: the first of a corpus, made as the SAE's metadata says."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from graticule.hooks.artifact import library_versions
from graticule.hooks.coders import SparseCoder, hook_name, metadata
from graticule.hooks.identity import is_of
from graticule.hooks.protocols import HookedModel
from graticule.hooks.streams.contexts import contexts, special_ids
from graticule.hooks.streams.corpora import Corpus
from graticule.hooks.values import vocabulary_of
from graticule.saes.evaluation.arms import Route, n_outputs
from graticule.saes.evaluation.coder import Coder

_log = logging.getLogger(__name__)

_TOKENS = 1024  # a batch


@dataclass(frozen=True)
class Sample:
    """The contexts that an evaluation reads."""

    tokens: Int[np.ndarray, "context pos"]
    """Token ids."""
    kept: Bool[np.ndarray, "context pos"]
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
) -> Sample:
    """The first contexts of a corpus, of the size and with the BOS that the SAE's metadata names.

    **Raises** `ValueError` for a corpus without a whole context.
    """
    read = Corpus.read(corpus, column)
    bos = prepend_bos if prepend_bos is not None else metadata(sae, "prepend_bos")
    size = context_size
    if size is None and not read.tokenised and (told := metadata(sae, "context_size")) is not None:
        size = min(int(told), int(getattr(model.cfg, "n_ctx", 0) or told))
    how: dict[str, Any] = {"context_size": size, "prepend_bos": bos}
    first = contexts(model, read, 1, **how)
    if not len(first):
        raise ValueError(
            f"{read.name} does not fill one context{'' if size is None else f' of {size} tokens'}"
        )
    width = int(first.shape[1])
    wanted = -(-max(n_tokens, n_activation_tokens or 0) // width)
    rows = contexts(model, read, wanted, **how)
    special = special_ids(exclude_special, getattr(model, "tokenizer", None), vocabulary_of(model))
    kept = ~np.isin(rows, np.array(special, np.int64))
    return Sample(rows, kept, min(len(rows), -(-n_tokens // width)), special, read.identity())


def check_predictable(model: HookedModel, sample: Sample) -> None:
    """**Raises** `ValueError` for contexts without a prediction that counts, and for tokens that a model
    reads but cannot predict, as a small output vocabulary makes them: there is no loss of them."""
    if not sample.kept[: sample.n_loss, :-1].any():
        raise ValueError(
            f"no loss can be taken on contexts of {sample.tokens.shape[1]} tokens: special tokens do not "
            "count, and nothing follows the last; write a larger context_size=, or losses=False"
        )
    outputs, following = n_outputs(model), sample.tokens[: sample.n_loss, 1:]
    if following.size and outputs <= (largest := int(following.max())):
        raise ValueError(
            f"token {largest} cannot be predicted, the model has {outputs} outputs: these contexts have no "
            "loss; losses=False measures everything else"
        )


def first_rows(route: Route, tokens: Int[Tensor, "context pos"], sample: Sample) -> Tensor:
    """Rows `[row, width]` of the first batch, from which a width is read and a missing scale estimated."""
    batch = next(sample.batches())
    flat = route.read(tokens[batch]).flat
    rows = flat[torch.from_numpy(sample.kept[batch]).to(flat.device)]
    return rows if len(rows) else flat.flatten(0, 1)


def tell_if_foreign(model: HookedModel, identity: Mapping[str, Any], sae: SparseCoder, point: str) -> None:
    """Warn where the SAE's metadata names another model or hook point than it is measured on.

    Args:
        model: the model that the SAE is measured on.
        identity: the model's identity.
        sae: the SAE.
        point: the hook point it is measured at.
    """
    made = metadata(sae, "graticule")
    trained: Mapping[str, Any] = (made.get("model") or {}) if isinstance(made, Mapping) else {}
    name = metadata(sae, "model_name")
    if trained.get("dtype") == identity["dtype"] and trained.get("digest"):
        same = is_of(trained, model, identity)
        words = "other weights or settings" if name == identity["name"] else f"{name}"
    else:
        same = name is None or _official(str(name)) == _official(str(identity["name"]))
        words = str(name)
    if not same:
        _log.warning(
            "the SAE was trained on %s, and is measured on %s: are they the same model?",
            words,
            identity["name"],
        )
    if (home := hook_name(sae)) is not None and home != point:
        _log.warning("the SAE was trained at %s, and is measured at %s", home, point)


def _official(name: str) -> str:
    """A model's name as TransformerLens has it, without the owner: `gpt2-small` and `openai/gpt2` are one."""
    from transformer_lens.loading_from_pretrained import get_official_model_name

    with suppress(ValueError):
        name = str(get_official_model_name(name))
    return name.rstrip("/").rpartition("/")[2].lower()


def provenance(model: Mapping[str, Any], coder: Coder, sample: Sample) -> dict[str, Any]:
    """What a result was taken from: SAE, model (its identity), contexts, versions."""
    return {
        "sae": coder.describe(),
        "model": dict(model),
        "corpus": sample.corpus,
        "n_contexts": len(sample.tokens),
        "context_size": int(sample.tokens.shape[1]),
        "excluded_tokens": list(sample.excluded),
        "versions": library_versions(),
    }
