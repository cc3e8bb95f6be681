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
from tqdm.auto import tqdm

from graticule.hooks.artifact import read_tensors, write_json
from graticule.hooks.coders import architecture
from graticule.hooks.doors import MODEL, SAE, door
from graticule.hooks.identity import model_identity
from graticule.hooks.locks import only_here
from graticule.hooks.names import user_path
from graticule.hooks.protocols import HookedModel
from graticule.hooks.running.session import undisturbed
from graticule.hooks.sae_folders import Found, find_sae
from graticule.hooks.streams.norms import LARGE_SHARE, MAX_NORM, NormLimit
from graticule.hooks.visible import visible
from graticule.saes.evaluation.arms import Held, Route, make_route, to_device
from graticule.saes.evaluation.coder import Coder, make_coder, point_of
from graticule.saes.evaluation.dictionary import dictionary
from graticule.saes.evaluation.longest import LONGEST, norm_limit, rows_within
from graticule.saes.evaluation.losses import LossSums, versions
from graticule.saes.evaluation.result import SaeEvaluation
from graticule.saes.evaluation.rows import Reconstruction, RowSums
from graticule.saes.evaluation.sample import (
    Sample,
    check_predictable,
    first_rows,
    provenance,
    take_sample,
    tell_if_foreign,
)

_log = logging.getLogger(__name__)

_QUIET = 4000  # tokens that are over before a bar is worth drawing


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

    **Arguments:**

    - `sae`: a SAELens SAE, its folder, a run, or a run's folder.
    - `corpus`: what `Corpus.read` takes: files, `datasets`, texts, token rows. Texts become contexts as
      SAELens makes them, of the size and with the BOS that the SAE's metadata names, unless given here.
    - `n_tokens`: tokens on which losses and divergences are taken (whole contexts, special tokens included).
    - `n_activation_tokens`: tokens on which everything else is measured, where that is to be more: the lowest
      density that can be seen is one over this number.
    - `hook_name`: where the SAE's metadata names no point.
    - `exclude_special`: leaves out BOS, EOS, PAD, SEP and the decoder's start, or the ids given.
    - `max_norm`: leaves out rows whose norm is over so many times the median of the first ones (attention
      sinks), as training does; by default as the SAE's metadata says, for SAEs of other tools none.
    - `scale`: what activations are multiplied with, for an SAE in training under `expected_average_only_in`
      whose scale is not folded in yet; estimated from the first rows by default.
    - `losses`: False leaves the model's losses out (a good deal faster).

    **Raises** `ValueError` for a corpus without a whole context or with tokens that the model has no output
    for (with losses), another width, a transcoder; `PointError` for a hook point that the model does not
    have; what `find_sae` raises.
    """
    if n_tokens < 1 or (n_activation_tokens is not None and n_activation_tokens < n_tokens):
        raise ValueError(
            f"n_tokens={n_tokens}, n_activation_tokens={n_activation_tokens}: "
            "the second is at least the first"
        )
    found = find_sae(sae)
    point = point_of(model, found, hook_name)
    identity = model_identity(model)
    tell_if_foreign(model, identity, found.sae, point)
    sample = take_sample(
        model,
        found.sae,
        corpus,
        n_tokens,
        n_activation_tokens,
        column,
        context_size,
        prepend_bos,
        exclude_special,
    )
    if losses:
        check_predictable(model, sample)
    with undisturbed(model):
        tokens = to_device(model, sample.tokens)
        route = make_route(model, point, tokens)
        first = first_rows(route, tokens, sample)
        limit = norm_limit(found.sae, max_norm)
        first = first[~limit.beyond(point, first)]
        coder = make_coder(found.sae, point, first, scale)
        total = len(sample.tokens) + (sample.n_loss if losses else 0)
        quiet = not (progress if progress is not None else total * tokens.shape[1] > _QUIET)
        with tqdm(total=total, desc=visible(f"evaluating at {point}"), unit="context", disable=quiet) as bar:
            rows, held = _measure(route, coder, tokens, sample, bar, losses, limit)
            sums = _lose(route, coder, held, sample, rows.mean, bar) if losses else None
    told = provenance(identity, coder, sample)
    state, table = dictionary(coder.sae, rows.fired, rows.n_rows, training_density(found), seed)
    positions = rows.by_position()
    if sums is not None:
        for name, values in sums.by_position().items():
            positions[name] = values[positions["position"].to_numpy()]
    return SaeEvaluation(
        name=found.name,
        model=str(told["model"]["name"]),
        hook_name=point,
        architecture=architecture(found.sae),
        d_in=coder.d_in,
        d_sae=coder.d_sae,
        reconstruction=_told(replace(rows.reconstruction(), left_out=limit.words), point),
        losses=None if sums is None else sums.losses(seed),
        dictionary=state,
        latents=table,
        positions=positions,
        provenance={
            **told,
            "n_loss_contexts": sample.n_loss if losses else 0,
            "route": type(route).__name__,
            "seed": seed,
        },
    )


def training_density(found: Found) -> Float[np.ndarray, " d_sae"] | None:
    """How often each latent fired in training, as the run's `sparsity.safetensors` has it (log₁₀ there)."""
    if found.run is None:
        return None
    path: Path = found.run / "sae" / "sparsity.safetensors"
    if not path.is_file():
        return None
    held = read_tensors(path).get("sparsity")
    if held is None or held.numel() != int(found.sae.cfg.d_sae):
        return None
    share = 10.0 ** held.double().numpy()
    return np.where(share <= 1.1e-10, 0.0, share)  # SAELens adds 1e-10 before the logarithm


def _measure(
    route: Route,
    coder: Coder,
    tokens: Tensor,
    sample: Sample,
    bar: Any,
    losses: bool,
    limit: NormLimit,
) -> tuple[RowSums, list[Held]]:
    """Sums over all rows; contexts whose losses are wanted are kept as far as they were run. Rows beyond
    `limit` are taken out of `sample.kept`."""
    rows = RowSums(coder.d_in, coder.d_sae, tokens.shape[1])
    held: list[Held] = []
    for batch in sample.batches():
        run = route.read(tokens[batch])
        x = rows_within(run.flat, batch, sample, limit, coder.point)
        latents, made = coder(x)
        position = np.broadcast_to(np.arange(tokens.shape[1]), sample.kept[batch].shape)[sample.kept[batch]]
        rows.add(x[:, coder.part].float(), made, latents, position)
        if losses and batch.start < sample.n_loss:
            held.append(run)
        bar.update(batch.stop - batch.start)
    return rows, held


def _told(found: Reconstruction, point: str) -> Reconstruction:
    """The same, after a warning where a few rows hold much of the variance."""
    if found.large.share >= LARGE_SHARE:
        _log.warning(
            "%s: %s: explained variance is about those rows; max_norm=%g leaves them out",
            point,
            found.large.words,
            MAX_NORM,
        )
    return found


def _lose(route: Route, coder: Coder, held: list[Held], sample: Sample, mean: Tensor, bar: Any) -> LossSums:
    sums, start = LossSums(), 0
    while held:
        run = held.pop(0)
        kept = torch.from_numpy(sample.kept[start : start + len(run.tokens)])
        sums.add(route.scores(run, versions(run, coder, kept, mean)), kept)
        start += len(run.tokens)
        bar.update(len(run.tokens))
    return sums


def write_evaluation(result: SaeEvaluation, run: Path | str) -> Path:
    """Write `RUN/evaluation/` and `RUN/evaluation.json` (the figures by name); returns the latter."""
    folder = user_path(run)
    with only_here(folder, "evaluating into"):
        result.save(folder / "evaluation", overwrite=True)
        write_json(folder / "evaluation.json", result.figures_by_name())
    return folder / "evaluation.json"
