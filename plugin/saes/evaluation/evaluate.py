"""`evaluate(model, sae, corpus)`: reconstruction, loss, and the state of the dictionary, in one pass."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from graticule.hooks.artifact import read_tensors, write_json
from graticule.hooks.coders import Found, architecture
from graticule.hooks.doors import MODEL, SAE, door
from graticule.hooks.locks import only_here
from graticule.hooks.messages import bar, visible
from graticule.hooks.names import user_path
from graticule.hooks.protocols import HookedModel
from graticule.hooks.streams.base import LARGE_SHARE, MAX_NORM
from graticule.saes.evaluation.losses import HalfRun, LossSums
from graticule.saes.evaluation.measurement import LONGEST, Coder, Measurement, measuring
from graticule.saes.evaluation.reconstruction import RowSums
from graticule.saes.evaluation.result import SaeEvaluation
from graticule.saes.features.dictionary import dictionary

_log = logging.getLogger(__name__)


@door(model=MODEL, sae=SAE, max_norm=LONGEST)
def evaluate(
    model: HookedModel,
    sae: Any,
    corpus: Any,
    *,
    n_tokens: int = 20_000,
    n_activation_tokens: int | None = None,
    hook_name: str | None = None,
    column: str | None = None,
    context_size: int | None = None,
    prepend_bos: bool | None = None,
    exclude_special: bool | Sequence[int] = True,
    max_norm: float | int | Literal["trained"] | None = "trained",
    scale: float | None = None,
    losses: bool = True,
    seed: int = 0,
    progress: bool | None = None,
) -> SaeEvaluation:
    """How good an SAE is: its reconstruction, what the model loses by it, and the state of its dictionary.

    Any SAELens SAE that reconstructs what it reads, still in training or not, on any model with hooks. The
    layers below the hook point are run once; a `HookedTransformer` goes on from there with the activations
    as they are, the reconstruction, zeros and the mean at once.

    Args:
        model: any model with hooks.
        sae: a SAELens SAE, its folder, a run, or a run's folder.
        corpus: what `Corpus.read` takes: files, `datasets`, texts, token rows. Texts become contexts as
            SAELens makes them, of the size and with the BOS that the SAE's metadata names, unless given here.
        n_tokens: tokens on which losses and divergences are taken (whole contexts, special tokens included).
        n_activation_tokens: tokens on which everything else is measured, where that is to be more: the lowest
            density that can be seen is one over this number.
        hook_name: the hook point, where the SAE's metadata names none.
        column: the corpus's column of texts.
        context_size: tokens per context.
        prepend_bos: whether a context begins with BOS.
        exclude_special: leaves out BOS, EOS, PAD, SEP and the decoder's start, or the ids given.
        max_norm: leaves out rows whose norm is over so many times the median of the first ones (attention
            sinks), as training does; by default as the SAE's metadata says, for SAEs of other tools none.
        scale: what activations are multiplied with, for an SAE in training under `expected_average_only_in`
            whose scale is not folded in yet; estimated from the first rows by default.
        losses: False leaves the model's losses out (a good deal faster).
        seed: The seed of intervals and of random directions.
        progress: whether a bar is drawn; by default where it takes a while.

    Raises:
        ValueError: for a corpus without a whole context or with tokens that the model has no output for (with
            losses), another width, a transcoder.
        PointError: for a hook point that the model does not have.
    """
    if n_tokens < 1 or (n_activation_tokens is not None and n_activation_tokens < n_tokens):
        raise ValueError(
            f"n_tokens={n_tokens}, n_activation_tokens={n_activation_tokens}: "
            "the second is at least the first"
        )
    with measuring(
        model,
        sae,
        corpus,
        n_tokens,
        n_activation_tokens,
        hook_name=hook_name,
        max_norm=max_norm,
        scale=scale,
        goes_on=True,
        losses=losses,
        column=column,
        context_size=context_size,
        prepend_bos=prepend_bos,
        exclude_special=exclude_special,
    ) as m:
        total = len(m.tokens) + (m.sample.n_loss if losses else 0)
        with bar(total, visible(f"evaluating at {m.point}"), "context", progress) as progress_bar:
            rows, runs = _measure(m, losses, progress_bar)
            sums = _lose(m, runs, rows.mean, progress_bar) if losses else None
    reconstruction = replace(rows.reconstruction(), left_out=m.limit.words)
    if reconstruction.large.share >= LARGE_SHARE:
        _log.warning(
            "%s: %s: explained variance is about those rows; max_norm=%g leaves them out",
            m.point,
            reconstruction.large.words,
            MAX_NORM,
        )
    state, table = dictionary(m.coder.sae, rows.fired, rows.n_rows, training_density(m.source), seed)
    positions = rows.by_position()
    if sums is not None:
        for name, values in sums.by_position().items():
            positions[name] = values[positions["position"].to_numpy()]
    return SaeEvaluation(
        name=m.source.name,
        model=str(m.identity["name"]),
        hook_name=m.point,
        architecture=architecture(m.source.sae),
        d_in=m.coder.d_in,
        d_sae=m.coder.d_sae,
        reconstruction=reconstruction,
        losses=None if sums is None else sums.losses(seed),
        dictionary=state,
        latents=table,
        positions=positions,
        provenance={
            **m.provenance(),
            "n_loss_contexts": m.sample.n_loss if losses else 0,
            "route": type(m.route).__name__,
            "seed": seed,
        },
    )


def training_density(source: Found) -> Float[np.ndarray, " d_sae"] | None:
    """How often each latent fired in training, as the run's `sparsity.safetensors` has it (log₁₀ there)."""
    if source.run is None:
        return None
    path = source.run / "sae" / "sparsity.safetensors"
    if not path.is_file():
        return None
    log = read_tensors(path).get("sparsity")
    if log is None or log.numel() != int(source.sae.cfg.d_sae):
        return None
    share = 10.0 ** log.double().numpy()
    return np.where(share <= 1.1e-10, 0.0, share)  # SAELens adds 1e-10 before the logarithm


def _measure(m: Measurement, losses: bool, bar: Any) -> tuple[RowSums, list[HalfRun]]:
    """Sums over all rows, and the contexts whose losses are wanted, as far as they were run."""
    rows = RowSums(m.coder.d_in, m.coder.d_sae, m.tokens.shape[1])
    runs: list[HalfRun] = []
    for batch, run, x in m.batches(bar):
        latents, reconstructed = m.coder(x)
        position = np.nonzero(m.sample.counted[batch])[1]
        rows.add(x[:, m.coder.part].float(), reconstructed, latents, position)
        if losses and batch.start < m.sample.n_loss:
            runs.append(run)
    return rows, runs


def _lose(m: Measurement, runs: list[HalfRun], mean: Tensor, bar: Any) -> LossSums:
    """Losses of every context run, whose activations are let go one after the other."""
    sums, start = LossSums(), 0
    while runs:
        run = runs.pop(0)
        counted = torch.from_numpy(m.sample.counted[start : start + len(run.tokens)])
        sums.add(m.route.scores(run, _conditions(run, m.coder, counted, mean)), counted)
        start += len(run.tokens)
        bar.update(len(run.tokens))
    return sums


def _conditions(run: HalfRun, coder: Coder, counted: Tensor, mean: Float[Tensor, " d_in"]) -> list[Tensor]:
    """The activations as they are, reconstructed, zero, and at their mean (`CONDITIONS`), in the same shape.

    Reconstruction and mean replace the rows that are `counted`, as SAELens leaves special tokens alone; zeros
    replace all rows, as SAELens's do. An SAE on one head replaces that head.
    """
    flat = run.flat
    where = counted.to(flat.device)
    _, reconstructed = coder(flat[where])
    conditions = [run.activations]
    for replaced, rows in ((where, reconstructed), (torch.ones_like(where), None), (where, mean[None])):
        version = flat.clone()
        version[..., coder.part][replaced] = (
            0.0 if rows is None else rows.to(flat.device, flat.dtype).expand(int(replaced.sum()), -1)
        )
        conditions.append(version.reshape(run.activations.shape))
    return conditions


def write_evaluation(result: SaeEvaluation, run: Path | str) -> Path:
    """Write `RUN/evaluation/` and `RUN/evaluation.json` (the figures by name); returns the latter."""
    folder = user_path(run)
    with only_here(folder, "evaluating into"):
        result.save(folder / "evaluation", overwrite=True)
        write_json(folder / "evaluation.json", result.figures_by_name())
    return folder / "evaluation.json"
