"""The fast step of TopK, BatchTopK and Matryoshka BatchTopK autoencoders.

Only the encoder's product is dense. Where SAELens rescales activations by the decoder's norms, the norms go
into the encoder's weights before that product, and cancel everywhere else: an activation is multiplied by
its latent's norm for the selection and divided by it before the decoder, so neither the reconstruction nor
any gradient depends on them.

Dead latents explain what the living ones left over: AuxK (Gao et al. 2024, appendix A.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from jaxtyping import Float, Int, Shaped
from sae_lens import BatchTopKTrainingSAE, MatryoshkaBatchTopKTrainingSAE, TopKTrainingSAE
from torch import Tensor

from graticule.saes.steps.entries import ByColumn, Decoded, Entries, top_of_batch, top_of_rows
from graticule.saes.steps.step import StepOutput, Workspace, finished, set_decoder_bias_gradient


@dataclass(frozen=True)
class _Level:
    """The latents `first` to `last` (exclusive), which a nested loss adds at once."""

    first: int
    last: int
    chosen: Tensor
    """Which of all entries are theirs."""
    decoded: Decoded


@dataclass(frozen=True)
class _Gradient:
    """The loss's gradient by weights and encoder bias; the encoder's transposed, `[d_sae, d_in]`."""

    W_dec: Tensor
    W_enc: Tensor
    b_enc: Tensor


class SparseStep:
    """SAELens's training step for these three architectures, on the selected entries alone."""

    def __init__(
        self, sae: TopKTrainingSAE, dead_feature_window: int, compute_dtype: torch.dtype | None
    ) -> None:
        self.sae = sae
        self.window = dead_feature_window
        self.compute_dtype = compute_dtype or sae.dtype
        self.space = Workspace()

    @torch.no_grad()
    def __call__(
        self,
        x: Float[Tensor, "batch d_in"],
        n_forward_passes_since_fired: Shaped[Tensor, " d_sae"],
        coefficients: Mapping[str, float],  # noqa: ARG002 these architectures have none
    ) -> StepOutput:
        """As `Step` says."""
        sae = self.sae
        x = x.to(sae.dtype)
        centred = x - sae.b_dec if sae.cfg.apply_b_dec_to_input else x
        norms = sae.W_dec.norm(dim=-1) if sae.cfg.rescale_acts_by_decoder_norm else None
        scores = self._encode(centred, norms)
        entries, active = self._select(scores, norms)
        levels = self._levels(entries)
        outs: list[Tensor] = []
        for level in levels:  # a level's reconstruction is by its own latents and those before
            outs.append(level.decoded.out + (outs[-1] if outs else sae.b_dec))
        errors = [out - x for out in outs]
        losses, squared_error = self._errors(levels, errors)
        pulls = [error.mul_(2 / len(x)) for error in errors]  # the gradient of each level's squared error
        for i in range(len(pulls) - 2, -1, -1):
            pulls[i] += pulls[i + 1]  # a latent is in the reconstruction of its level and of all wider ones
        acts_grad = _acts_gradient(levels, pulls, active)
        by_column = entries.by_column(sae.cfg.d_sae)
        gradient = _Gradient(
            _decoder_gradient(levels, pulls, by_column, entries.values),
            by_column.outer(acts_grad, centred),
            entries.sums(acts_grad, sae.cfg.d_sae),
        )
        dead = n_forward_passes_since_fired > self.window
        aux_losses = self._revive(x, centred, scores, norms, outs, dead, gradient)
        if aux_losses:
            losses["auxiliary_reconstruction_loss"] = torch.stack(aux_losses).sum()
        self._set(gradient, pulls[0])
        fired = entries.sums(active.to(x.dtype), sae.cfg.d_sae)
        return finished(losses, fired, x, outs[-1], squared_error)

    def _set(self, gradient: _Gradient, pull: Tensor) -> None:
        sae = self.sae
        sae.W_dec.grad, sae.b_enc.grad = gradient.W_dec, gradient.b_enc
        space = self.space.take("W_enc", sae.W_enc.shape, gradient.W_enc)
        sae.W_enc.grad = _transposed(gradient.W_enc, space)
        set_decoder_bias_gradient(sae, pull, gradient.b_enc)

    def _encode(self, centred: Tensor, norms: Tensor | None) -> Tensor:
        W_enc, b_enc = self.sae.W_enc, self.sae.b_enc
        if norms is not None:
            scaled = self.space.take("scaled W_enc", W_enc.shape, norms)
            W_enc, b_enc = torch.mul(W_enc, norms, out=scaled), b_enc * norms
        x = centred.to(self.compute_dtype)
        out = self.space.take("scores", (len(x), self.sae.cfg.d_sae), x)
        return torch.addmm(b_enc.to(x.dtype), x, W_enc.to(x.dtype), out=out)

    def _select(self, scores: Tensor, norms: Tensor | None) -> tuple[Entries, Tensor]:
        """The selected entries, as the decoder weighs them, and which of them are positive."""
        sae = self.sae
        if isinstance(sae, BatchTopKTrainingSAE):
            rows, columns, values = top_of_batch(scores, int(sae.cfg.k * len(scores)))
            positive = (values > 0).nonzero().squeeze(1)
            rows, columns, values = rows[positive], columns[positive], values[positive].to(sae.dtype)
            sae.update_topk_threshold(values)
            entries = Entries.of_batch(rows, columns, values, len(scores))
        else:
            values, columns = top_of_rows(scores, sae.cfg.k)
            entries = Entries.of_rows(values.to(sae.dtype).relu(), columns)
        active = entries.values > 0
        if norms is None:
            return entries, active
        weights = entries.values / norms[entries.columns]
        return Entries(entries.rows, entries.columns, weights, entries.offsets), active

    def _levels(self, entries: Entries) -> list[_Level]:
        sae = self.sae
        if not isinstance(sae, MatryoshkaBatchTopKTrainingSAE):
            return [_Level(0, sae.cfg.d_sae, torch.empty(0), entries.decode(sae.W_dec))]
        widths = [0, *sae.cfg.matryoshka_widths]
        levels: list[_Level] = []
        for first, last in pairwise(widths):
            part, chosen = entries.between(first, last)
            levels.append(_Level(first, last, chosen, part.decode(sae.W_dec)))
        return levels

    def _errors(self, levels: Sequence[_Level], errors: Sequence[Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        squared = [torch.linalg.vector_norm(error).square() for error in errors]
        batch = len(errors[0])
        losses = {"mse_loss": squared[-1] / batch}
        losses["auxiliary_reconstruction_loss"] = torch.zeros_like(squared[-1])
        for level, error in zip(levels[:-1], squared[:-1], strict=True):
            losses[f"inner_mse_loss_{level.last}"] = error / batch
        return losses, squared[-1]

    def _revive(
        self,
        x: Tensor,
        centred: Tensor,
        scores: Tensor,
        norms: Tensor | None,
        outs: Sequence[Tensor],
        dead: Tensor,
        gradient: _Gradient,
    ) -> list[Tensor]:
        """The auxiliary loss of dead latents: of all against the whole residual, or level by level; adds its
        gradient."""
        sae = self.sae
        nested = isinstance(sae, MatryoshkaBatchTopKTrainingSAE) and sae.cfg.use_matryoshka_aux_loss
        widths = cast("Any", sae.cfg).matryoshka_widths if nested else [sae.cfg.d_sae]
        losses: list[Tensor] = []
        first = 0
        for last, out in zip(widths, outs if nested else outs[-1:], strict=True):
            latents = dead[first:last].nonzero().squeeze(1) + first
            first = last
            if len(latents):
                part = scores.index_select(1, latents).to(sae.dtype)
                norm = None if norms is None else norms[latents]
                weight = sae.cfg.aux_loss_coefficient
                residual, W_dec = x - out, sae.W_dec[latents]
                losses.append(_revive(residual, centred, part, norm, W_dec, latents, weight, gradient))
        return losses


def _acts_gradient(levels: Sequence[_Level], pulls: Sequence[Tensor], active: Tensor) -> Tensor:
    """The loss's gradient by each selected pre-activation; none passes where the ReLU is shut."""
    if len(levels) == 1:
        return levels[0].decoded.products(pulls[0]) * active
    out = torch.zeros(len(active), dtype=pulls[0].dtype, device=active.device)
    for level, pull in zip(levels, pulls, strict=True):
        out[level.chosen] = level.decoded.products(pull)
    return out * active


def _decoder_gradient(
    levels: Sequence[_Level], pulls: Sequence[Tensor], by_column: ByColumn, values: Tensor
) -> Tensor:
    if len(levels) == 1:
        return by_column.outer(values, pulls[0])
    return torch.cat(
        [
            by_column.outer_between(values, pull, level.first, level.last)
            for level, pull in zip(levels, pulls, strict=True)
        ]
    )


def _revive(
    residual: Float[Tensor, "batch d_in"],
    centred: Float[Tensor, "batch d_in"],
    scores: Float[Tensor, "batch dead"],
    norms: Float[Tensor, " dead"] | None,
    W_dec: Float[Tensor, "dead d_in"],
    latents: Int[Tensor, " dead"],
    coefficient: float,
    gradient: _Gradient,
) -> Tensor:
    """SAELens's `calculate_topk_aux_loss`, restricted to dead columns; its gradient is added to `gradient`.

    On each row the d_in/2 dead latents with the largest `scores` (pre-activations, times the decoder's
    `norms` where given) reconstruct the `residual`, which passes no gradient back. The products stay dense:
    of a few dead latents most are chosen.
    """
    batch, d_in = residual.shape
    half = d_in // 2
    weight = coefficient * min(len(latents) / half, 1.0) / batch
    acts = scores if norms is None else scores / norms
    mask = None
    if len(latents) > half:
        chosen = scores.topk(half, sorted=False).indices
        mask = torch.zeros_like(acts).scatter_(1, chosen, 1.0)
        acts = acts * mask
    error = acts @ W_dec - residual
    pull = (2 * weight) * error
    acts_grad = pull @ W_dec.t()
    if mask is not None:
        acts_grad *= mask
    gradient.W_dec.index_add_(0, latents, acts.t() @ pull)
    gradient.W_enc.index_add_(0, latents, acts_grad.t() @ centred)
    gradient.b_enc.index_add_(0, latents, acts_grad.sum(0))
    return weight * error.square().sum()


def _transposed(
    matrix: Float[Tensor, "d_sae d_in"], out: Float[Tensor, "d_in d_sae"]
) -> Float[Tensor, "d_in d_sae"]:
    """`matrix.T` written into `out`, block by block."""
    if matrix.device.type != "cpu":
        return out.copy_(matrix.t())
    rows = 128
    for i in range(0, len(matrix), rows):
        out[:, i : i + rows].copy_(matrix[i : i + rows].t())
    return out
