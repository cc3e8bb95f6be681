"""What the model loses when the SAE's reconstruction takes the activations' place, beside zero and the
mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from graticule.hooks.values import finite
from graticule.saes.evaluation.arms import Held, Scores
from graticule.saes.evaluation.coder import Coder

ARMS = ("clean", "sae", "zero", "mean")
"""Versions of the activations, in the order of `Losses`."""
_IN_WORDS = {
    "clean": "the model as it is",
    "sae": "the model with the SAE's reconstruction",
    "zero": "the model with zeros",
    "mean": "the model with the mean activation",
}
_HINT = "run the model in float32, or leave losses out (losses=False)"
_DRAWS = 1000


@dataclass(frozen=True)
class Losses:
    """Cross-entropies of the next token (nats, mean over tokens) and what is recovered of them."""

    n_tokens: int
    """Predictions that are averaged over."""
    clean: float
    """The model's own: SAELens's `ce_loss_without_sae`."""
    sae: float
    """With the reconstruction in place of the activations: SAELens's `ce_loss_with_sae`."""
    zero: float
    """With zeros at every token, special ones included: SAELens's `ce_loss_with_ablation`."""
    mean: float
    """With the sample's mean activation in every row that the SAE would have replaced."""
    recovered_zero: float
    """(zero − sae) / (zero − clean): SAELens's `ce_loss_score`, the paper's share of loss recovered.
    Flattering, as zeros wreck a model; NaN where they do not (zero ≤ clean): there is no loss to recover."""
    recovered_zero_ci95: tuple[float, float]
    """Percentile interval over contexts drawn with replacement; NaN where zeros often cost nothing."""
    recovered_mean: float
    """(mean − sae) / (mean − clean): the sterner one; NaN where mean ≤ clean."""
    recovered_mean_ci95: tuple[float, float]
    """Percentile interval over contexts drawn with replacement."""
    kl: float
    """KL(clean ‖ sae) of next-token predictions, nats: SAELens's `kl_div_with_sae`."""
    kl_zero: float
    """KL(clean ‖ zero): SAELens's `kl_div_with_ablation`."""
    kl_mean: float
    """KL(clean ‖ mean)."""


def versions(
    held: Held, coder: Coder, kept: Bool[Tensor, "context pos"], mean: Float[Tensor, " d_in"]
) -> list[Tensor]:
    """The activations as they are, reconstructed, zero, and at their mean (`ARMS`), shaped as found.

    Reconstruction and mean replace the rows that are `kept`, as SAELens leaves special tokens alone; zeros
    replace all rows, as SAELens's do. An SAE on one head replaces that head.
    """
    found = held.found
    flat = held.flat
    where = kept.to(found.device)
    _, made = coder(flat[where])
    out = [found]
    for replaced, rows in ((where, made), (torch.ones_like(where), None), (where, mean[None])):
        version = flat.clone()
        part = version[..., coder.part]
        part[replaced] = (
            0.0 if rows is None else rows.to(flat.device, flat.dtype).expand(int(replaced.sum()), -1)
        )
        out.append(version.reshape(found.shape))
    return out


class LossSums:
    """Losses by context and by position, filled a batch at a time."""

    def __init__(self) -> None:
        self._ce: list[Tensor] = []
        self._kl: list[Tensor] = []

    def add(self, scores: Scores, kept: Bool[Tensor, "context pos"]) -> None:
        """Scores of some contexts; tokens that are not `kept` do not count, as predictions from them.

        Raises:
            NonFiniteError: where a loss or divergence that counts is no number, naming the version.
        """
        kept = kept.cpu()
        predicts = kept.clone()
        predicts[:, -1] = False  # nothing follows the last token
        for arm, ce, kl in zip(ARMS, scores.ce, scores.kl, strict=True):
            for measure, values, counted in (("loss", ce, predicts), ("divergence", kl, kept)):
                finite(f"{measure} of {_IN_WORDS[arm]}", values, hint=_HINT, counted=counted)
        self._ce.append(scores.ce.double().masked_fill(~kept, torch.nan))
        self._kl.append(scores.kl.double().masked_fill(~kept, torch.nan))

    def losses(self, seed: int = 0) -> Losses:
        """Means over tokens, and intervals over contexts."""
        ce, kl = torch.cat(self._ce, dim=1), torch.cat(self._kl, dim=1)
        sums = ce.nansum(dim=2).numpy()  # [version, context]
        counts = (~ce[0].isnan()).sum(dim=1).numpy()
        whole = sums.sum(axis=1) / max(counts.sum(), 1)
        picked = np.random.default_rng(seed).integers(0, sums.shape[1], (_DRAWS, sums.shape[1]))
        drawn = np.stack([row[picked].sum(axis=1) for row in sums])  # sums serve: counts cancel in the ratio
        divergence = kl.nanmean(dim=(1, 2)).tolist()
        return Losses(
            int(counts.sum()),
            *(float(x) for x in whole),
            recovered_zero=_recovered(whole[2], whole[1], whole[0]),
            recovered_zero_ci95=_interval(drawn[2], drawn[1], drawn[0]),
            recovered_mean=_recovered(whole[3], whole[1], whole[0]),
            recovered_mean_ci95=_interval(drawn[3], drawn[1], drawn[0]),
            kl=divergence[1],
            kl_zero=divergence[2],
            kl_mean=divergence[3],
        )

    def by_position(self) -> dict[str, Float[np.ndarray, " pos"]]:
        """`ce_clean`, `ce_sae`, `ce_zero`, `ce_mean` and `kl` by position; NaN where no token counts."""
        ce, kl = torch.cat(self._ce, dim=1), torch.cat(self._kl, dim=1)
        means = ce.nanmean(dim=1).numpy()
        return {f"ce_{arm}": means[i] for i, arm in enumerate(ARMS)} | {"kl": kl[1].nanmean(dim=0).numpy()}


def _recovered(ablated: float, sae: float, clean: float) -> float:
    """NaN where the ablation costs the model nothing: there is no loss to recover."""
    return float((ablated - sae) / (ablated - clean)) if ablated > clean else float("nan")


def _interval(ablated: np.ndarray, sae: np.ndarray, clean: np.ndarray) -> tuple[float, float]:
    """NaN where the ablation costs nothing in over 2.5% of the draws: the share has no bounds."""
    gap = ablated - clean
    if not len(gap) or (gap <= 0).mean() > 0.025:
        return float("nan"), float("nan")
    low, high = np.quantile((ablated - sae)[gap > 0] / gap[gap > 0], [0.025, 0.975])
    return float(low), float(high)
