"""The entries of a batch's activations that count: chosen without sorting all, and what is computed on them.

Selection: a row's entries are laid in groups; its k largest entries lie in the k groups with the largest
maxima, because those maxima are themselves k entries, none smaller than the k-th largest. One pass over all
entries finds the maxima; everything after it works on a small part. The answer is `torch.topk`'s, up to exact
ties.

Products: with k of d_sae entries a row, decoding and every gradient after it cost k/d_sae of the dense
product. All are sums of a few rows of a matrix, which `torch.nn.functional.embedding_bag` does at memory
speed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

_SAMPLE = 65_536  # group maxima from which a batch's threshold is guessed


# Products -------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Entries:
    """Some entries of a `[batch, d_sae]` matrix, in order of their rows."""

    rows: Int[Tensor, " entry"]
    """Row of each entry, ascending."""
    columns: Int[Tensor, " entry"]
    """Latent of each entry."""
    values: Float[Tensor, " entry"]
    """What stands there."""
    offsets: Int[Tensor, " batch"]
    """Number of entries before each row."""

    @classmethod
    def of_rows(cls, values: Float[Tensor, "batch k"], columns: Int[Tensor, "batch k"]) -> Entries:
        """The same number of entries in every row."""
        batch, k = values.shape
        offsets = torch.arange(0, batch * k, k, device=values.device)
        rows = torch.arange(batch, device=values.device).repeat_interleave(k)
        return cls(rows, columns.flatten(), values.flatten(), offsets)

    @classmethod
    def of_batch(
        cls,
        rows: Int[Tensor, " entry"],
        columns: Int[Tensor, " entry"],
        values: Float[Tensor, " entry"],
        batch: int,
    ) -> Entries:
        """Any number of entries per row; `rows` ascending."""
        return cls(rows, columns, values, _offsets(rows, batch))

    def between(self, first: int, last: int) -> tuple[Entries, Tensor]:
        """The entries of latents `first` to `last` (exclusive), and which of these entries they are."""
        chosen = ((self.columns >= first) & (self.columns < last)).nonzero().squeeze(1)
        part = Entries.of_batch(
            self.rows[chosen], self.columns[chosen], self.values[chosen], len(self.offsets)
        )
        return part, chosen

    def decode(self, W_dec: Float[Tensor, "d_sae d_in"]) -> Decoded:
        """Activations times decoder."""
        with torch.enable_grad():
            weights = self.values.detach().clone().requires_grad_()
            bags = embedding_bag(
                self.columns, W_dec.detach(), self.offsets, mode="sum", per_sample_weights=weights
            )
        return Decoded(bags, weights)

    def by_column(self, d_sae: int) -> ByColumn:
        """The same entries in order of their latents."""
        columns, order = self.columns.sort(stable=True)
        return ByColumn(order, self.rows[order], _offsets(columns, d_sae))

    def sums(self, values: Float[Tensor, " entry"], d_sae: int) -> Float[Tensor, " d_sae"]:
        """Sum over the batch of `values`, for each latent."""
        return values.new_zeros(d_sae).index_add_(0, self.columns, values)


@dataclass(frozen=True)
class Decoded:
    """A sum of decoder rows for each row of the batch, and the way back to the entries."""

    bags: Float[Tensor, "batch d_in"]
    """The sums, with their graph."""
    weights: Float[Tensor, " entry"]
    """The entries' values, the graph's leaf."""

    @property
    def out(self) -> Float[Tensor, "batch d_in"]:
        """The sums alone."""
        return self.bags.detach()

    def products(self, pull: Float[Tensor, "batch d_in"]) -> Float[Tensor, " entry"]:
        """`pull @ W_dec.T` at the entries, once: the gradient by each entry's value.

        Taken from `embedding_bag`'s own backward, which multiplies in place: gathering the decoder's rows
        would write `[entry, d_in]`.
        """
        return torch.autograd.grad(self.bags, self.weights, pull)[0]


@dataclass(frozen=True)
class ByColumn:
    """The order of entries by latent, for sums over the batch."""

    order: Int[Tensor, " entry"]
    """Places of the entries, latent by latent."""
    rows: Int[Tensor, " entry"]
    """Their rows."""
    offsets: Int[Tensor, " d_sae"]
    """Number of entries before each latent."""

    def outer(
        self, values: Float[Tensor, " entry"], right: Float[Tensor, "batch d_in"]
    ) -> Float[Tensor, "d_sae d_in"]:
        """`values.T @ right` for a matrix with these `values` at the entries: a weight's gradient."""
        weights = values[self.order]
        return embedding_bag(self.rows, right, self.offsets, mode="sum", per_sample_weights=weights)

    def outer_between(
        self, values: Tensor, right: Float[Tensor, "batch d_in"], first: int, last: int
    ) -> Float[Tensor, "part d_in"]:
        """Rows `first` to `last` (exclusive) of `outer`."""
        ends = torch.cat([self.offsets, self.offsets.new_tensor([len(self.rows)])])
        start, stop = int(ends[first]), int(ends[last])
        return embedding_bag(
            self.rows[start:stop],
            right,
            self.offsets[first:last] - start,
            mode="sum",
            per_sample_weights=values[self.order[start:stop]],
        )


def _offsets(sorted_index: Tensor, length: int) -> Tensor:
    return torch.searchsorted(sorted_index, torch.arange(length, device=sorted_index.device))


# Selection ------------------------------------------------------------------------------------------
def top_of_rows(
    scores: Float[Tensor, "batch d_sae"], k: int
) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
    """Values and columns of the `k` largest entries of each row, in no particular order.

    Raises:
        RuntimeError: from torch, where `k` exceeds `d_sae`.
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
    """Entries per group: the divisor of `d_sae` nearest to 0.7 sqrt(d_sae / k).

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
