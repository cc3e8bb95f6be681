"""Does a loaded model compute what its Hugging Face original computes?"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

TOLERANCE = {
    torch.float32: 1e-3,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}
"""Largest accepted difference between two logits, as a share of the largest logit: far above what another
order of the same sums gives (1e-5, .04 in bfloat16), far below what a misread weight does."""


class DisagreementError(ValueError):
    """A loaded model's logits are not those of its Hugging Face original."""


def probe_tokens(d_vocab: int) -> Int[Tensor, "1 pos"]:
    """A short, fixed token sequence from the upper half of the ids: special tokens mostly live low."""
    half = d_vocab // 2
    return torch.tensor([[half + (7919 * i) % (d_vocab - half) for i in range(12)]])


@torch.no_grad()
def logits_of(model: Any, tokens: Int[Tensor, "1 pos"]) -> Float[Tensor, "pos d_vocab"]:
    """The logits of a Hugging Face or TransformerLens model in float32, on the CPU."""
    device = next(model.parameters()).device
    out = model(tokens.to(device))
    return getattr(out, "logits", out)[0].float().cpu()


def check_agreement(
    got: Float[Tensor, "pos d_vocab"],
    expected: Float[Tensor, "pos d_vocab"],
    dtype: torch.dtype,
    what: str,
) -> float:
    """The largest difference between two sets of logits, as a share of the largest expected one.

    **Raises** `DisagreementError` if it is above the tolerance for `dtype`, and `ValueError` if the expected
    logits are not finite.
    """
    if not bool(expected.isfinite().all()):
        raise ValueError(
            f"{what}: the Hugging Face model's own logits are not finite in {dtype}; "
            "load it in bfloat16 or float32"
        )
    width = min(got.shape[-1], expected.shape[-1])  # some converters pad or cut the vocabulary
    largest = float((got[:, :width] - expected[:, :width]).abs().max())
    share = largest / max(float(expected.abs().max()), 1e-12)
    if not share <= TOLERANCE[dtype]:  # also true of NaN
        raise DisagreementError(
            f"{what} disagrees with the Hugging Face model: largest difference between logits {largest:.3g}, "
            f"{share:.2g} of the largest logit (accepted in {dtype}: {TOLERANCE[dtype]:.0e})"
        )
    return share
