"""Whether two things are of one model, before they are put together."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from graticule.hooks.answers import answer_of, differ_by
from graticule.hooks.identity import is_earlier, is_of, model_identity
from graticule.hooks.protocols import HookedModel

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
        OtherModelError: The weights or settings are others, whatever their shapes.
    """
    theirs: Mapping[str, Any] = made.get("model") or {}
    if theirs.get("digest") is None:
        return
    ours = model_identity(model)
    if theirs.get("class") == ours["class"]:
        other = not is_of(theirs, model, ours)
    else:
        ids = (made.get("answer") or {}).get("ids")
        other = differ(made, {"model": ours, "answer": answer_of(model, ids) if ids else {}})
    if other:
        raise OtherModelError(
            f"{what} are of {named(theirs)}, the model given is {named(ours)}: give the same one"
        )


def differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two things were made of two models, by the `model` and the `answer` of their provenance.

    Weights have other names in a `TransformerBridge` than in a `HookedTransformer`, and an earlier version's
    digest is another: sizes and the logits of a few tokens are compared then, and the log says so.
    """
    ours: Mapping[str, Any] = one.get("model") or {}
    theirs: Mapping[str, Any] = other.get("model") or {}
    if not ours.get("digest") or not theirs.get("digest"):
        return False
    if ours.get("class") == theirs.get("class") and is_earlier(ours["digest"]) == is_earlier(
        theirs["digest"]
    ):
        return any(ours.get(key) != theirs.get(key) for key in ("digest", "config"))
    if any(ours.get(size) != theirs.get(size) for size in ("n_layers", "d_model")):
        return True
    asked = [(made.get("answer") or {}).get("ids") for made in (one, other)]
    if asked[0] and asked[0] == asked[1]:
        if differ_by(one["answer"], other["answer"], [ours["dtype"], theirs["dtype"]]) is not None:
            return True
        on_trust = f"beyond the logits of {len(asked[0])} tokens, which agree, "
    else:
        on_trust = ""
    _log.warning(
        "%s as %s and %s as %s: their weights cannot be compared, %sthat they are one model is on trust",
        ours.get("name"), ours.get("class"), theirs.get("name"), theirs.get("class"), on_trust,
    )  # fmt: skip
    return False


def named(identity: Mapping[str, Any]) -> str:
    """A model in a sentence: its name, and what tells it from others of that name."""
    size = f"{identity.get('n_layers')} layers of {identity.get('d_model')}"
    of = f"weights {identity.get('digest')} of a {identity.get('class')}"
    return f"{identity.get('name')} ({size}, {identity.get('dtype')}, {of})"
