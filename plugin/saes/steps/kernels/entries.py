"""The entries of a batch's activations that are not zero, and the products that need only those.

With k of d_sae entries a row, decoding and every gradient after it cost k/d_sae of the dense product. All of
them are sums of a few rows of a matrix, which `torch.nn.functional.embedding_bag` does at memory speed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag


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
        """Any number of entries a row; `rows` ascending."""
        return cls(rows, columns, values, _offsets(rows, batch))

    def between(self, first: int, last: int) -> tuple[Entries, Tensor]:
        """The entries of latents `first` to `last` (exclusive), and which of these entries they are."""
        kept = ((self.columns >= first) & (self.columns < last)).nonzero().squeeze(1)
        rows = self.rows[kept]
        columns, values = self.columns[kept], self.values[kept]
        return Entries(rows, columns, values, _offsets(rows, len(self.offsets))), kept

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
