"""What a model answers on a few fixed tokens: all that two classes of one model have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from graticule.hooks.identity import hooked_points
from graticule.hooks.protocols import HookedModel, device_of
from graticule.hooks.running.session import undisturbed
from graticule.hooks.values import vocabulary_of

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
    vocabulary = vocabulary_of(model)
    if hooked_points(model) or vocabulary is None or (ids is not None and max(ids) >= vocabulary):
        return {}
    half = vocabulary // 2
    length = min(_TOKENS, int(getattr(model.cfg, "n_ctx", 0) or 0) or _TOKENS)
    asked = list(ids) if ids else [half + (7919 * i) % (vocabulary - half) for i in range(length)]
    with undisturbed(model):
        try:
            out = model(torch.tensor([asked]).to(device_of(model)), return_type="logits")
        except (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError):
            return {}  # an encoder without a head
    logits = getattr(out, "logits", out)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 3 or logits.shape[-1] <= max(asked):
        return {}
    told = logits[0].float().cpu()[:, asked]
    told = told - told.mean(dim=1, keepdim=True)
    values = [float(f"{told[i, (i + 1) % len(asked)]:.7g}") for i in range(len(asked))]
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
