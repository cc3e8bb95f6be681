"""`examine(model, sae, corpus)`: the first features of an SAE, as they look."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from graticule.hooks.coders import find_sae, metadata
from graticule.hooks.doors import MODEL, SAE, door
from graticule.hooks.identity import model_identity
from graticule.hooks.limits import check_indices
from graticule.hooks.protocols import HookedModel
from graticule.hooks.running.session import undisturbed
from graticule.hooks.streams.norms import NormLimit
from graticule.saes.evaluation.arms import Whole, to_device
from graticule.saes.evaluation.coder import Coder, make_coder, point_of
from graticule.saes.evaluation.longest import LONGEST, norm_limit, rows_within
from graticule.saes.evaluation.sample import Sample, first_rows, provenance, take_sample, tell_if_foreign
from graticule.saes.features.effects import effect_table, logit_effects, residual_directions
from graticule.saes.features.examples import TopExamples, example_table
from graticule.saes.features.result import SaeFeatures

_log = logging.getLogger(__name__)

_QUIET = 4000


@door(model=MODEL, sae=SAE, max_norm=LONGEST)
def examine(
    model: HookedModel,
    sae: Any,
    corpus: Any,
    *,
    n: int = 50,
    latents: Sequence[int] | None = None,
    n_tokens: int = 20_000,
    n_examples: int = 20,
    n_effects: int = 10,
    hook_name: str | None = None,
    column: str | None = None,
    context_size: int | None = None,
    prepend_bos: bool | None = None,
    exclude_special: bool | Sequence[int] = True,
    max_norm: float | int | Literal["trained"] | None = "trained",
    scale: float | None = None,
    progress: bool | None = None,
) -> SaeFeatures:
    """Where some features fire most and which tokens they make likelier; nothing is picked for its looks.

    **Arguments:** as in `evaluate`, and

    - `n`: the first so many latents that fire on the sample.
    - `latents`: these latents instead, in this order, whether they fire or not.
    - `n_examples`: examples kept a feature, at most one a context.
    - `n_effects`: tokens kept a feature that it raises, and as many that it lowers.

    **Raises** `IndexError` for a latent that the SAE does not have, `LimitError` for one named twice, and
    what `evaluate` raises.
    """
    found = find_sae(sae)
    point = point_of(model, found, hook_name)
    identity = model_identity(model)
    tell_if_foreign(model, identity, found.sae, point)
    sample = take_sample(
        model,
        found.sae,
        corpus,
        n_tokens,
        column=column,
        context_size=context_size,
        prepend_bos=prepend_bos,
        exclude_special=exclude_special,
    )
    with undisturbed(model):
        tokens, route = to_device(model, sample.tokens), Whole(model, point)
        first, limit = first_rows(route, tokens, sample), norm_limit(found.sae, max_norm)
        coder = make_coder(found.sae, point, first[~limit.beyond(point, first)], scale)
        wanted = (
            None
            if latents is None
            else np.array(check_indices("latents", latents, coder.d_sae, "this SAE"), np.int64)
        )
        best = TopExamples(n_examples)
        fired, total, top = _look(route, coder, tokens, sample, limit, wanted, n, best, progress)
        chosen = np.flatnonzero(fired)[:n] if wanted is None else wanted
        head = metadata(coder.sae, "hook_head_index")
        directions = residual_directions(model, coder.sae, point, chosen.tolist(), head)
        effects = None if directions is None else logit_effects(model, directions)
    tokenizer: Any = getattr(model, "tokenizer", None)
    told = provenance(identity, coder, sample)
    n_rows = int(sample.kept.sum())
    if effects is None:
        _log.info("no logit effects: %s does not write to the residual stream, or there is no W_U", point)
        effects = torch.zeros(0, 1)
    table = effect_table(effects, chosen.tolist()[: len(effects)], tokenizer, n_effects)
    return SaeFeatures(
        name=found.name,
        model=str(told["model"]["name"]),
        hook_name=point,
        d_sae=coder.d_sae,
        n_tokens=n_rows,
        features=pd.DataFrame(
            {
                "latent": chosen,
                "density": fired[chosen] / max(n_rows, 1),
                "maximum": [float(np.max(top.of(i)[0], initial=0.0)) for i in chosen.tolist()],
                "mean": total[chosen] / np.maximum(fired[chosen], 1),
            }
        ),
        examples=example_table(top, chosen.tolist(), sample.tokens, tokenizer, sample.excluded),
        effects=table,
        provenance=told,
    )


def _look(
    route: Whole,
    coder: Coder,
    tokens: torch.Tensor,
    sample: Sample,
    limit: NormLimit,
    wanted: np.ndarray | None,
    n: int,
    top: TopExamples,
    progress: bool | None,
) -> tuple[np.ndarray, np.ndarray, TopExamples]:
    """Rows on which each latent fires, the sum of its activations, and examples of those wanted."""
    fired, total = np.zeros(coder.d_sae, np.int64), np.zeros(coder.d_sae)
    quiet = not (progress if progress is not None else tokens.numel() > _QUIET)
    number = np.arange(sample.tokens.size).reshape(sample.tokens.shape)
    with tqdm(total=len(tokens), desc="looking at features", unit="context", disable=quiet) as bar:
        for batch in sample.batches():
            rows = rows_within(route.read(tokens[batch]).flat, batch, sample, limit, coder.point)
            values = coder.encode(rows).values
            place = number[batch][sample.kept[batch]]
            fired += np.bincount(values.indices, minlength=coder.d_sae)
            total += np.bincount(values.indices, values.data, minlength=coder.d_sae)
            # one that fires for the first time has no earlier examples, one that drops out never comes back
            first = np.flatnonzero(fired)[:n] if wanted is None else wanted
            top.add(values, first, place // sample.tokens.shape[1], place)
            bar.update(batch.stop - batch.start)
    return fired, total, top
