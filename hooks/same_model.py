"""Whether two things are of one model, before they are put together."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

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
    alike = theirs.get("class") == ours["class"]
    if (not is_of(theirs, model, ours)) if alike else differ(theirs, ours):
        raise OtherModelError(
            f"{what} are of {named(theirs)}, the model given is {named(ours)}: give the same one"
        )


def differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two identities are certainly of two models.

    Weights have other names in a `TransformerBridge` than in a `HookedTransformer`, and an earlier version's
    digest is another: only sizes can be compared then, and the log says so.
    """
    if not one.get("digest") or not other.get("digest"):
        return False
    if one.get("class") == other.get("class") and is_earlier(one["digest"]) == is_earlier(other["digest"]):
        return any(one.get(key) != other.get(key) for key in ("digest", "config"))
    if any(one.get(size) != other.get(size) for size in ("n_layers", "d_model")):
        return True
    _log.warning(
        "%s as %s and %s as %s: their weights cannot be compared, that they are one model is on trust",
        one.get("name"), one.get("class"), other.get("name"), other.get("class"),
    )  # fmt: skip
    return False


def named(identity: Mapping[str, Any]) -> str:
    """A model in a sentence: its name, and what tells it from others of that name."""
    size = f"{identity.get('n_layers')} layers of {identity.get('d_model')}"
    return f"{identity.get('name')} ({size}, {identity.get('dtype')}, weights {identity.get('digest')})"
