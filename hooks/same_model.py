"""Whether two things are of one model: by its identity, and by its answer to a few tokens."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from graticule.hooks.identity import hooked_points, is_earlier, is_of, model_identity
from graticule.hooks.model_view import ModelView
from graticule.hooks.protocols import HookedModel, device_of
from graticule.hooks.running.session import undisturbed

_log = logging.getLogger(__name__)


class OtherModelError(ValueError):
    """Something that was made of one model, put together with another."""


def check_model(what: str, made: Mapping[str, Any], model: HookedModel) -> None:
    """Refuse a model that something was not made of.

    Args:
        what: What was made, for the message: `erase: these findings`.
        made: What its provenance says of its activations; nothing is checked where it names no weights.
        model: The model given with it.

    Raises:
        OtherModelError: Weights, settings, tokenizer or hooks are others, whatever their shapes.
    """
    theirs: Mapping[str, Any] = made.get("model") or {}
    if theirs.get("digest") is None:
        return
    ours = model_identity(model)
    if theirs.get("class") == ours["class"] and is_earlier(theirs["digest"]):
        other = None if is_of(theirs, model, ours) else _WEIGHTS
    else:
        crossed = theirs.get("class") != ours["class"]
        ids = (made.get("answer") or {}).get("ids") if crossed else None
        other = model_difference(made, {"model": ours, "answer": answer_of(model, ids) if ids else {}})
    if other:
        raise OtherModelError(
            f"{what} are of {named(theirs)}, the model given is {named(ours)}: {other}; give the same one"
        )


def check_one_model(call: str, one: tuple[str, Mapping[str, Any]], other: tuple[str, Mapping[str, Any]],
                    write: str) -> None:  # fmt: skip
    """Refuse two things that were made of two models.

    Args:
        call: What puts them together, for the message.
        one: Words for the first, up to `of`, and its provenance; nothing is checked where it names no model.
        other: The same of the second.
        write: What to do instead.

    Raises:
        OtherModelError: Weights, settings, tokenizer or hooks are others.
    """
    differing = model_difference(one[1], other[1])
    if differing:
        descriptions = [f"{words} of {named(made['model'])}" for words, made in (one, other)]
        raise OtherModelError(f"{call}: {descriptions[0]}, {descriptions[1]}: {differing}; {write}")


_WEIGHTS = "weights or settings differ"


def model_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """What differs between the models of which two things were made, by their provenance.

    Weights have other names in a `TransformerBridge` than in a `HookedTransformer`, and an earlier version's
    digest is another: sizes and the logits of a few tokens are compared then, and the log says so. So it does
    of hooks: they are known by their places alone.

    Args:
        one: A provenance, with its `model` and its `answer`.
        other: Another one.

    Returns:
        What differs, in words; None where nothing does, or one of them names no weights.
    """
    ours: Mapping[str, Any] = one.get("model") or {}
    theirs: Mapping[str, Any] = other.get("model") or {}
    if not ours.get("digest") or not theirs.get("digest"):
        return None
    return _weights(one, other, ours, theirs) or _hooks(ours, theirs) or _tokenizers(ours, theirs)


def _weights(
    one: Mapping[str, Any], other: Mapping[str, Any], ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> str | None:
    if ours.get("class") == theirs.get("class") and is_earlier(ours["digest"]) == is_earlier(
        theirs["digest"]
    ):
        same = all(ours.get(key) == theirs.get(key) for key in ("digest", "config"))
        return None if same else _WEIGHTS
    if any(ours.get(size) != theirs.get(size) for size in ("n_layers", "d_model")):
        return "sizes differ"
    asked = [(made.get("answer") or {}).get("ids") for made in (one, other)]
    if asked[0] and asked[0] == asked[1]:
        if differ_by(one["answer"], other["answer"], [ours["dtype"], theirs["dtype"]]) is not None:
            return f"the logits of {len(asked[0])} tokens differ"
        on_trust = f"beyond the logits of {len(asked[0])} tokens, which agree, "
    else:
        on_trust = ""
    _log.warning(
        "%s as %s and %s as %s: their weights cannot be compared, %sthat they are one model is on trust",
        ours.get("name"), ours.get("class"), theirs.get("name"), theirs.get("class"), on_trust,
    )  # fmt: skip
    return None


def _hooks(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    places = [sorted(identity.get("hooks") or ()) for identity in (ours, theirs)]
    if places[0] != places[1]:
        descriptions = [f"hooks of the user's own at {', '.join(p[:3])}" if p else "none" for p in places]
        return f"hooks differ, {descriptions[0]} and {descriptions[1]} (model.reset_hooks() removes them)"
    if places[0]:
        _log.warning("hooks of the user's own at %s, in both: that they do the same is on trust",
                     ", ".join(places[0][:3]))  # fmt: skip
    return None


def _tokenizers(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    digests = [identity.get("tokenizer") for identity in (ours, theirs)]
    differing = all(digests) and digests[0] != digests[1]
    return "tokenizers differ, which make other ids of texts" if differing else None


def named(identity: Mapping[str, Any]) -> str:
    """A model in a sentence: its name, and what tells it from others of that name."""
    size = f"{identity.get('n_layers')} layers of {identity.get('d_model')}"
    of = f"weights {identity.get('digest')} of a {identity.get('class')}"
    return f"{identity.get('name')} ({size}, {identity.get('dtype')}, {of})"


TOLERANCE = {
    torch.float32: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}
"""Largest accepted difference between two logits, as a share of the largest logit: far above what another
order of the same sums gives (1e-5, .04 in bfloat16), far below what a misread weight does."""
_TOKENS = 8
NO_ANSWER = "_graticule_no_answer"
"""An attribute of models that are not asked: twins, which are compared with none."""


def answer_of(model: HookedModel, ids: Sequence[int] | None = None) -> dict[str, Any]:
    """Logits of a few varied tokens, less their mean, for provenance.

    Args:
        model: The model; one with hooks of the user's own is not run, for they would see the pass, nor is a
            twin.
        ids: The tokens; by default from the upper half of the ids, where few are special.

    Returns:
        `ids` and a logit of another of them at each position, as `logits`; empty where a model gives none.
    """
    if getattr(model, NO_ANSWER, False):
        return {}
    view = ModelView(model)
    vocabulary = view.d_vocab
    if hooked_points(model) or vocabulary is None or (ids is not None and max(ids) >= vocabulary):
        return {}
    half = vocabulary // 2
    length = min(_TOKENS, view.n_ctx or _TOKENS)
    asked = list(ids) if ids else [half + (7919 * i) % (vocabulary - half) for i in range(length)]
    with undisturbed(model):
        try:
            out = model(torch.tensor([asked]).to(device_of(model)), return_type="logits")
        except (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError):
            return {}  # an encoder without a head
    logits = getattr(out, "logits", out)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 3 or logits.shape[-1] <= max(asked):
        return {}
    asked_logits = logits[0].float().cpu()[:, asked]
    asked_logits = asked_logits - asked_logits.mean(dim=1, keepdim=True)
    values = [float(f"{asked_logits[i, (i + 1) % len(asked)]:.7g}") for i in range(len(asked))]
    return {"ids": asked, "logits": values}


def differ_by(one: Mapping[str, Any], other: Mapping[str, Any], dtypes: Sequence[str]) -> float | None:
    """By how much two answers differ, where that is more than rounding.

    Args:
        one: An answer.
        other: Another one, of the same tokens.
        dtypes: Those of the two models.

    Returns:
        The largest difference as a share of the largest logit; None where they agree.
    """
    ours, theirs = torch.tensor(one["logits"]), torch.tensor(other["logits"])
    share = float((ours - theirs).abs().max() / ours.abs().max().clamp(min=1e-12))
    accepted = max(TOLERANCE.get(getattr(torch, dtype, torch.float32), 1e-4) for dtype in dtypes)
    return None if share <= accepted else share
