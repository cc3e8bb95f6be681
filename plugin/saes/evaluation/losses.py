"""What the model loses when other activations take the place of a hook point's: the SAE's reconstruction,
zeros, the mean.

The layers below the point are run once for all conditions. A `HookedTransformer` goes on from the next block;
any other model with hooks is run again for every condition. Losses and divergences are taken a few rows at a
time, because a row of logits can be a megabyte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from graticule.hooks.model_view import Edit, Restart, at_border
from graticule.hooks.points import layer_of
from graticule.hooks.protocols import HookedModel
from graticule.hooks.running.forward import Forward
from graticule.hooks.values import finite

CONDITIONS = ("clean", "sae", "zero", "mean")
"""Versions of the activations, in the order of `Losses`."""
_IN_WORDS = {
    "clean": "the model as it is",
    "sae": "the model with the SAE's reconstruction",
    "zero": "the model with zeros",
    "mean": "the model with the mean activation",
}
_HINT = "run the model in float32, or leave losses out (losses=False)"
_CELLS = 1 << 25  # logits of one condition in memory at once: 128 MiB in float32
_N_BOOTSTRAP = 1000


# The model with other activations ----------------------------------------------------------------------
@dataclass(frozen=True)
class HalfRun:
    """Contexts that were run as far as the hook point."""

    tokens: Int[Tensor, "context pos"]
    """Token ids."""
    activations: Tensor
    """Activations at the point, `[context, pos, …]`, in the model's dtype."""
    below: Tensor | None
    """The residual stream to go on from, where that is not `activations` itself."""

    @property
    def flat(self) -> Tensor:
        """`[context, pos, width]`: heads one after another."""
        return rearrange(self.activations, "context pos ... -> context pos (...)")


@dataclass(frozen=True)
class Scores:
    """What each condition does to the model's predictions."""

    ce: Float[Tensor, "condition context pos"]
    """Cross-entropy of the next token, nats; NaN at the last position."""
    kl: Float[Tensor, "condition context pos"]
    """KL divergence of the first condition's predictions from each one's, nats."""


@runtime_checkable
class Route(Protocol):
    """A way to run a model with activations replaced."""

    def read(self, tokens: Int[Tensor, "context pos"]) -> HalfRun:
        """Run as far as the point."""
        ...

    def scores(self, run: HalfRun, conditions: Sequence[Tensor]) -> Scores:
        """Go on with each condition's activations (shaped as `run.activations`); the first is the
        reference."""
        ...


def make_route(model: HookedModel, point: str, tokens: Int[Tensor, "context pos"]) -> Route:
    """The fastest way that gives this model's own logits, compared on the first tokens of `tokens`."""
    whole = Whole(model, point)
    if layer_of(point) is None:
        return whole
    layered, some = Layered(model, point), tokens[:2, :8]

    def trial() -> tuple[Tensor, Tensor]:
        run = layered.read(some)
        finals = layered.finals(run, [run.activations])
        logits = layered.logits(rearrange(finals, "1 context pos d_model -> (context pos) d_model"))
        return logits, whole.logits(some, None)

    return layered if layered.restart.agrees(trial) else whole


class Layered:
    """Going on from a layer, for models that can."""

    def __init__(self, model: HookedModel, point: str) -> None:
        self.point, self.restart = point, Restart(model, point)
        self._below = f"blocks.{layer_of(point)}.hook_resid_pre"
        self._forward = Forward(model, [point] if at_border(point) else [self._below, point])

    def read(self, tokens: Int[Tensor, "context pos"]) -> HalfRun:
        """Run as far as the point."""
        read = _activations(self._forward, tokens)
        return HalfRun(tokens, read[self.point], None if at_border(self.point) else read[self._below])

    def finals(
        self, run: HalfRun, conditions: Sequence[Tensor]
    ) -> Float[Tensor, "condition context pos d_model"]:
        """What the unembedding reads, for each condition."""
        joined = torch.cat(list(conditions))
        below = joined
        if run.below is not None:
            below = repeat(run.below, "context ... -> (condition context) ...", condition=len(conditions))
        read = self.restart.view.final(self.restart.onward(below, _put(joined)))
        return rearrange(read, "(condition context) ... -> condition context ...", condition=len(conditions))

    def logits(self, final: Float[Tensor, "row d_model"]) -> Float[Tensor, "row vocab"]:
        """Logits in float32."""
        return self.restart.view.logits(final)

    def scores(self, run: HalfRun, conditions: Sequence[Tensor]) -> Scores:
        """Go on with each condition's activations; the first is the reference."""
        finals = rearrange(
            self.finals(run, conditions), "condition context pos ... -> condition (context pos) ..."
        )
        chunks = _slices(finals.shape[1], self.restart.view.d_vocab_out)
        logits = ((rows, lambda i, rows=rows: self.logits(finals[i, rows])) for rows in chunks)
        return _scores(run.tokens, len(conditions), logits)


class Whole:
    """Running the whole model for each condition, for any model with hooks that returns logits."""

    def __init__(self, model: HookedModel, point: str) -> None:
        self.point, self._runs = point, Restart(model, point)
        self._forward = Forward(model, [point])

    def read(self, tokens: Int[Tensor, "context pos"]) -> HalfRun:
        """Run as far as the point."""
        return HalfRun(tokens, _activations(self._forward, tokens)[self.point], None)

    def logits(self, tokens: Tensor, activations: Tensor | None) -> Float[Tensor, "row vocab"]:
        """Logits of whole contexts, one row a token, with the activations replaced."""
        out = self._runs.whole(tokens, None if activations is None else _put(activations))
        return rearrange(out.float(), "context pos vocab -> (context pos) vocab")

    def scores(self, run: HalfRun, conditions: Sequence[Tensor]) -> Scores:
        """Run with each condition's activations; the first is the reference."""
        return _scores(run.tokens, len(conditions), self._logits(run.tokens, conditions))

    def _logits(
        self, tokens: Tensor, conditions: Sequence[Tensor]
    ) -> Iterator[tuple[slice, Callable[[int], Tensor]]]:
        width = tokens.shape[1]
        for some in _slices(len(tokens), self._runs.view.d_vocab_out * width):
            rows = slice(some.start * width, some.stop * width)
            yield rows, lambda i, some=some: self.logits(tokens[some], conditions[i][some])


def _activations(forward: Forward, tokens: Tensor) -> dict[str, Tensor]:
    read: dict[str, Tensor] = {}
    forward(tokens, lambda name, value: read.__setitem__(name, value.detach().clone()))
    return read


def _put(activations: Tensor) -> Edit:
    return lambda tensor: activations.to(tensor.device, tensor.dtype)


def _slices(n: int, cells: int) -> Iterator[slice]:
    """As many of `n` at once as their logits allow, each of so many cells."""
    step = max(1, _CELLS // cells)
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def _scores(
    tokens: Tensor, n_conditions: int, chunks: Iterable[tuple[slice, Callable[[int], Tensor]]]
) -> Scores:
    """Cross-entropies and divergences, filled a few rows at a time from each condition's logits of them."""
    following = torch.cat([tokens[:, 1:], torch.zeros_like(tokens[:, :1])], dim=1).flatten()
    ce, kl = torch.full((2, n_conditions, tokens.numel()), torch.nan)
    for rows, logits in chunks:
        reference = _log_softmax(logits(0))
        p = reference.exp()
        entropy = torch.linalg.vecdot(p, reference)
        for i in range(n_conditions):
            log = reference if i == 0 else _log_softmax(logits(i))
            ce[i, rows] = -log.gather(1, following[rows, None])[:, 0].cpu()
            kl[i, rows] = 0.0 if i == 0 else (entropy - torch.linalg.vecdot(p, log)).cpu()
    ce, kl = (values.unflatten(1, tokens.shape) for values in (ce, kl))
    ce[..., -1] = torch.nan
    return Scores(ce, kl)


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.sub_(logits.logsumexp(dim=-1, keepdim=True))


# Losses ------------------------------------------------------------------------------------------------
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


class LossSums:
    """Losses by context and by position, filled a batch at a time."""

    def __init__(self) -> None:
        self._ce: list[Tensor] = []
        self._kl: list[Tensor] = []

    def add(self, scores: Scores, counted: Bool[Tensor, "context pos"]) -> None:
        """Scores of some contexts; tokens that are not `counted` do not, as predictions from them.

        Raises:
            NonFiniteError: where a loss or divergence that counts is no number, naming the version.
        """
        counted = counted.cpu()
        predicts = counted.clone()
        predicts[:, -1] = False  # nothing follows the last token
        for condition, ce, kl in zip(CONDITIONS, scores.ce, scores.kl, strict=True):
            for measure, values, there in (("loss", ce, predicts), ("divergence", kl, counted)):
                finite(f"{measure} of {_IN_WORDS[condition]}", values, hint=_HINT, counted=there)
        self._ce.append(scores.ce.double().masked_fill(~counted, torch.nan))
        self._kl.append(scores.kl.double().masked_fill(~counted, torch.nan))

    def losses(self, seed: int = 0) -> Losses:
        """Means over tokens, and intervals over contexts."""
        ce, kl = torch.cat(self._ce, dim=1), torch.cat(self._kl, dim=1)
        sums = ce.nansum(dim=2).numpy()  # [condition, context]
        counts = (~ce[0].isnan()).sum(dim=1).numpy()
        whole = sums.sum(axis=1) / max(counts.sum(), 1)
        picked = np.random.default_rng(seed).integers(0, sums.shape[1], (_N_BOOTSTRAP, sums.shape[1]))
        resampled = np.stack(
            [row[picked].sum(axis=1) for row in sums]
        )  # sums serve: counts cancel in the ratio
        divergence = kl.nanmean(dim=(1, 2)).tolist()
        return Losses(
            int(counts.sum()),
            *(float(x) for x in whole),
            recovered_zero=_recovered(whole[2], whole[1], whole[0]),
            recovered_zero_ci95=_interval(resampled[2], resampled[1], resampled[0]),
            recovered_mean=_recovered(whole[3], whole[1], whole[0]),
            recovered_mean_ci95=_interval(resampled[3], resampled[1], resampled[0]),
            kl=divergence[1],
            kl_zero=divergence[2],
            kl_mean=divergence[3],
        )

    def by_position(self) -> dict[str, Float[np.ndarray, " pos"]]:
        """`ce_clean`, `ce_sae`, `ce_zero`, `ce_mean` and `kl` by position; NaN where no token counts."""
        ce, kl = torch.cat(self._ce, dim=1), torch.cat(self._kl, dim=1)
        means = ce.nanmean(dim=1).numpy()
        return {f"ce_{name}": means[i] for i, name in enumerate(CONDITIONS)} | {
            "kl": kl[1].nanmean(dim=0).numpy()
        }


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
