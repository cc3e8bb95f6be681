"""Does a loaded model compute what its Hugging Face original computes?

Asked on a short sequence, and once more past every length in the config at which something sets in (a window
of attention, another rotary table), as far as that costs no more than seconds.
"""

import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from graticule.hooks.running.forward import config_of, rope_borders, windows
from graticule.hooks.same_model import TOLERANCE

logger = logging.getLogger(__name__)

_SHORT = 12
_LAST = 16
"""Positions at the end of a longer sequence whose logits are compared: they see all that sets in."""
_OPERATIONS = 1e12
"""Floating-point operations that one longer pass may take: seconds to tens of seconds on a CPU."""
_SCORES = 2**27
"""Attention scores that one layer of it may hold."""


class DisagreementError(ValueError):
    """A loaded model's logits are not those of its Hugging Face original."""


def probe_tokens(d_vocab: int, length: int = _SHORT) -> Int[Tensor, "1 pos"]:
    """A fixed token sequence from the upper half of the ids: special tokens mostly live low."""
    half = d_vocab // 2
    return torch.tensor([[half + (7919 * i) % (d_vocab - half) for i in range(length)]])


@torch.no_grad()
def model_logits(
    model: Any, tokens: Int[Tensor, "1 pos"], last: int | None = None
) -> Float[Tensor, "last d_vocab"]:
    """The logits of a Hugging Face or TransformerLens model in float32, on the CPU; with `last`, of so many
    positions at the end, and no others are computed."""
    device = next(model.parameters()).device
    with _last_alone(model, last):
        out = model(tokens.to(device))
    logits = getattr(out, "logits", out)[0]
    return logits[-last if last else 0 :].float().cpu()


@contextmanager
def _last_alone(model: Any, last: int | None) -> Generator[None]:
    """Hand the unembedding no more than the last positions: logits of a long sequence fill gigabytes."""
    own = getattr(model, "get_output_embeddings", None)
    unembedding: Any = own() if own is not None else getattr(model, "unembed", None)
    if last is None or not isinstance(unembedding, torch.nn.Module):
        yield
        return

    def cut(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][:, -last:], *args[1:]) if args else args

    handle = unembedding.register_forward_pre_hook(cut)
    try:
        yield
    finally:
        handle.remove()


@dataclass(frozen=True)
class Reference:
    """What a Hugging Face model gives for some sequences, one short, others past what sets in with length."""

    tokens: tuple[Int[Tensor, "1 _"], ...]
    """The sequences, the shortest first."""
    logits: tuple[Float[Tensor, "_ _"], ...]
    """Of the first sequence at every position, of the others at the last ones."""
    unseen: Mapping[str, int]
    """Settings that set in at a length too long to be run."""

    @classmethod
    def of(cls, hf: Any) -> "Reference":
        """Run the Hugging Face model `hf`."""
        config = config_of(hf)
        vocabulary = int(hf.config.get_text_config().vocab_size)
        lengths, unseen = _lengths(config, _affordable(hf, config))
        tokens = tuple(probe_tokens(vocabulary, n) for n in (_SHORT, *lengths))
        logits = tuple(model_logits(hf, t, None if i == 0 else _LAST) for i, t in enumerate(tokens))
        return cls(tokens, logits, unseen)

    def check(self, model: Any, dtype: torch.dtype, what: str) -> float:
        """The largest difference between `model` and the original, as a share of the largest logit.

        What sets in within the model's context but could not be run is told in a warning.

        Raises:
            DisagreementError: as `check_agreement` does.
        """
        n_ctx = int(getattr(model.cfg, "n_ctx", 0) or 0) or 2**62
        shares: list[float] = []
        for i, (tokens, expected) in enumerate(zip(self.tokens, self.logits, strict=True)):
            if i and tokens.shape[1] > n_ctx:
                continue
            got = model_logits(model, tokens, None if i == 0 else _LAST)
            over = what if i == 0 else f"{what}, on {tokens.shape[1]} tokens,"
            shares.append(check_agreement(got, expected, dtype, over))
        unseen = {name: n for name, n in self.unseen.items() if n < n_ctx}
        if unseen:
            logger.warning(
                "%s: compared with the Hugging Face model on %d tokens; what sets in beyond %s was not seen: "
                "longer texts are unverified",
                what,
                max(t.shape[1] for t in self.tokens),
                ", ".join(f"{name}={n}" for name, n in unseen.items()),
            )
        return max(shares)


def _lengths(config: Mapping[str, Any], affordable: int) -> tuple[list[int], dict[str, int]]:
    """Lengths to run: past every rotary border, and past the largest window that can be run; and what cannot.

    A window acts on every position beyond it, so that one sequence past the largest shows the smaller ones.
    """
    context = int(config.get("max_position_embeddings") or 0) or 2**62
    ropes = rope_borders(config)
    borders = {f"the rotary table's {n}": n for n in ropes.borders}
    if ropes.apart_beyond is not None:
        borders["max_position_embeddings"] = ropes.apart_beyond
    past = {name: min(n + max(8, n // 4), context) for name, n in (borders | windows(config)).items()}
    reached = {name: n for name, n in (borders | windows(config)).items() if n < context}
    seen = {name for name in reached if past[name] <= affordable}
    lengths = {past[name] for name in seen if name in borders}
    lengths |= {max((past[name] for name in seen), default=0)} - {0}
    return sorted(lengths), {name: n for name, n in reached.items() if name not in seen}


def _affordable(hf: Any, config: Mapping[str, Any]) -> int:
    """Tokens that a pass may have."""
    embedding = hf.get_input_embeddings()
    entries = sum(p.numel() for p in hf.parameters()) - sum(p.numel() for p in embedding.parameters())
    heads = int(config.get("num_attention_heads") or config.get("n_head") or 1)
    return min(int(_OPERATIONS / (2 * max(1, entries))), int((_SCORES / heads) ** 0.5))


def check_agreement(
    got: Float[Tensor, "pos d_vocab"],
    expected: Float[Tensor, "pos d_vocab"],
    dtype: torch.dtype,
    what: str,
) -> float:
    """The largest difference between two sets of logits, as a share of the largest expected one.

    Raises:
        DisagreementError: if it is above the tolerance for `dtype`.
        ValueError: if the expected logits are not finite.
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


def check_rotary(model: Any, hf: Any, what: str) -> None:
    """Whether a HookedTransformer turns queries and keys by the angles of its Hugging Face original.

    A short sequence does not tell: frequencies that differ in their slow half turn apart far from the start.

    Args:
        model: A HookedTransformer; its blocks hold a table of sines where it has rotary embeddings.
        hf: The original; one that keeps its frequencies elsewhere than in an `inv_freq` is not compared.
        what: What was loaded, for messages.

    Raises:
        DisagreementError: A block's frequencies are none of the original's.
    """
    theirs = [
        buffer.detach().float().cpu().sort().values
        for name, buffer in hf.named_buffers()
        if name.endswith("inv_freq") and not name.endswith("original_inv_freq")
    ]
    for block in model.blocks:
        sines = getattr(block.attn, "rotary_sin", None)
        if sines is None or not theirs:
            continue
        # at the second token, whatever the size of the table; every angle turns a pair
        angles = torch.atan2(sines[1].detach().float(), block.attn.rotary_cos[1].detach().float())
        ours = angles.cpu().sort().values[::2]
        alike = [t for t in theirs if t.shape == ours.shape and torch.allclose(t, ours, rtol=1e-2, atol=1e-7)]
        if not alike:
            expected = " or ".join(f"{float(t[0]):.3g}" for t in theirs)
            raise DisagreementError(
                f"{what} turns its rotary embeddings otherwise than the Hugging Face model: slowest "
                f"frequency {float(ours[0]):.3g}, expected {expected}"
            )
