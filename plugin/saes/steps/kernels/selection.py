"""The largest entries of each row, or of a whole batch, without sorting all of them.

A row's entries are laid in groups; its k largest entries lie in the k groups with the largest maxima, because
those maxima are themselves k entries, none smaller than the k-th largest. One pass over all entries finds the
maxima; everything after it works on a small part. The answer is `torch.topk`'s, up to exact ties.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

_SAMPLE = 65_536  # group maxima from which a batch's threshold is guessed


def top_of_rows(
    scores: Float[Tensor, "batch d_sae"], k: int
) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
    """Values and columns of the `k` largest entries of each row, in no particular order.

    **Raises** `RuntimeError`, from torch, where `k` exceeds `d_sae`.
    """
    batch, d_sae = scores.shape
    size = group_size(d_sae, k)
    if size == 1:
        return scores.topk(k, sorted=False)
    width = d_sae // size
    best = scores.view(batch, size, width).amax(1)
    groups = _wide(best).topk(k, sorted=False).indices
    columns = (groups[:, None] + _starts(size, width, scores)[:, None]).flatten(1)
    values, places = _wide(scores.gather(1, columns)).topk(k, sorted=False)
    return values.to(scores.dtype), columns.gather(1, places)


def top_of_batch(
    scores: Float[Tensor, "batch d_sae"], count: int
) -> tuple[Int[Tensor, " count"], Int[Tensor, " count"], Float[Tensor, " count"]]:
    """Rows, columns and values of the `count` largest entries of the whole batch, rows ascending."""
    batch, d_sae = scores.shape
    size = group_size(d_sae, max(1, math.ceil(count / batch)))
    if size == 1:
        chosen = _wide(scores.flatten()).topk(count, sorted=False).indices.sort().values
        return chosen // d_sae, chosen % d_sae, scores.flatten()[chosen]
    width = d_sae // size
    best = scores.view(batch, size, width).amax(1)
    floor = _floor(_wide(best.flatten()), count).to(scores.dtype)
    rows, groups = (~(best < floor)).nonzero(as_tuple=True)  # NaN passes, to be seen in the loss
    columns = groups[:, None] + _starts(size, width, scores)
    at = (rows[:, None] * d_sae + columns).flatten()
    at = at[~(scores.flatten()[at] < floor)]
    values = scores.flatten()[at]
    chosen = _wide(values).topk(count, sorted=False).indices.sort().values
    at = at[chosen]
    return at // d_sae, at % d_sae, values[chosen]


def group_size(d_sae: int, k: int) -> int:
    """Entries a group: the divisor of `d_sae` nearest to 0.7 sqrt(d_sae / k).

    At the root both selections go through the same number of entries, but those of the second are gathered.
    """
    best = 0.7 * math.sqrt(d_sae / k)
    sizes = [g for g in range(2, 65) if d_sae % g == 0 and d_sae // g >= 2 * k]
    return min(sizes, key=lambda g: abs(math.log(g / best)), default=1) if best > 2 else 1


def _floor(maxima: Tensor, count: int) -> Tensor:
    """A value that at least `count` of the `maxima` reach, and not many more."""
    stride = max(1, len(maxima) // _SAMPLE) | 1  # odd, so that it walks through all columns
    if stride > 1:
        sample = maxima[::stride]
        share = count / len(maxima)
        rank = math.ceil(len(sample) * share + 4 * math.sqrt(len(sample) * share * (1 - share)) + 1)
        if rank < len(sample):
            floor = sample.kthvalue(len(sample) - rank + 1).values
            if int((~(maxima < floor)).sum()) >= count:
                return floor
    return maxima.kthvalue(len(maxima) - count + 1).values


def _starts(size: int, width: int, like: Tensor) -> Tensor:
    """Where each group's entries lie after its first: groups are strided, so that maxima vectorise."""
    return torch.arange(size, device=like.device) * width


def _wide(x: Tensor) -> Tensor:
    """Half precision as float32: torch's selection is written for it."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
