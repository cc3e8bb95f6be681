"""`neurons`: which single neurons carry a target, and whether the neuron basis is special in it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from graticule.hooks.artifact import library_versions
from graticule.hooks.doors import FINDINGS, MODEL, door
from graticule.hooks.identity import model_identity
from graticule.hooks.points import LayerSpec, resolve_layers
from graticule.hooks.positions import Pos
from graticule.hooks.protocols import HookedModel
from graticule.probes.applicable import NotApplicable
from graticule.probes.attribution.weights import mlp_weights
from graticule.probes.findings import Findings
from graticule.probes.neurons.captured import capture_neurons, largest_levels
from graticule.probes.neurons.correlations import LayerSearch, best_over_layers, search_layer
from graticule.probes.neurons.cosines import cosines
from graticule.probes.neurons.draws import haar
from graticule.probes.neurons.result import Neurons
from graticule.probes.neurons.scored import best_neurons, scatter_rows, search_of, top_weights, with_p_max

_AROUND = 2  # layers either side of the chosen one

_OF_THE_MOMENT = ("versions", "captured_at", "seconds")


@door(model=MODEL, findings=FINDINGS)
def neurons(
    model: HookedModel,
    findings: Findings,
    *,
    layers: LayerSpec | None = None,
    top: int = 50,
    rotations: int = 999,
    permutations: int = 100,
    rows: int | None = 8000,
    block: str | None = None,
    directions: Literal["layer", "chosen"] = "layer",
    fold_norm: bool = False,
    pos: Pos | None = None,
    prompt: str | None = None,
    seed: int = 0,
    store: Path | str | None = None,
    progress: bool | None = None,
) -> Neurons:
    """Search the MLP neurons for the findings' targets (Gurnee & Tegmark 2023, section 5).

    **Activations** (`mlp.hook_post`): neurons are ranked by |Pearson correlation| with each target on
    training rows and scored on test rows. Nearly any neuron beats a permuted target, so the question is
    whether the *basis* is special: the whole search is repeated on random rotations of each layer's basis,
    the best rotated neuron of all layers chosen and scored likewise. Pearson, because that is what a rotation
    leaves computable from one Gram matrix; Spearman, the paper's number, is given for the neurons chosen,
    overall and by block.

    **Weights**: cosines of input, gate and output weights with the probe's read and write directions, in
    every layer searched, against vectors drawn with the covariance of that layer's own weights.

    **Arguments:**

    - `layers`: the chosen layer and two on either side by default; `"all"`, or any layers.
    - `top`: neurons a target kept in the tables.
    - `rotations`, `permutations`: of the nulls.
    - `rows`: at most so many table rows, whole clusters drawn with `seed`; None is all.
    - `block`: the table's block within which correlations are given; the first of words by default.
    - `directions`: `"layer"` compares weights with the probe of the stream they read from or write into,
      `"chosen"` with the chosen point's probe in every layer.
    - `fold_norm`: take the gains of the norms around the MLP into the weights; the paper does not.
    - `pos`, `prompt`: as the findings were captured, unless given.
    - `store`: a folder for the captured activations, which resumes.

    **Raises** `ValueError` without material, without texts, or for a model whose MLP weights are not found;
    `KeyError` for an unknown block.
    """
    if directions not in ("layer", "chosen"):
        raise ValueError(f"directions={directions!r}: expected 'layer' or 'chosen'")
    chosen = _layers(model, findings, layers)
    for layer in chosen:
        mlp_weights(model, layer)  # before anything is run
    held = capture_neurons(model, findings, chosen, rows, seed, pos, prompt, store, progress)
    names = findings.target_names
    weights = cosines(
        model,
        findings.probes,
        chosen,
        names,
        always=findings.chosen_point if directions == "chosen" else None,
        fold_norm=fold_norm,
        seed=seed,
        progress=progress,
    )
    searches: list[LayerSearch] = []
    widths = {held.activations.widths[point] for point in held.activations.points}
    shared = {width: haar(width, np.random.default_rng(seed)) for width in sorted(widths)}
    for layer in tqdm(chosen, desc="neurons", unit="layer", disable=not progress, leave=False):
        values = held.layer(layer)
        searches.append(
            search_layer(
                layer,
                values[held.train],
                values[held.test],
                held.y[held.train],
                held.y[held.test],
                rotations=rotations,
                permutations=permutations,
                seed=seed,
                vectors=shared[values.shape[1]],
            )
        )
    levels = largest_levels(findings, held, block)
    tables = [best_neurons(held, searches, weights, levels, t, name, top) for t, name in enumerate(names)]
    best = pd.concat(tables, ignore_index=True)
    rotated = best_over_layers(searches)
    return Neurons(
        model=findings.model,
        table=findings.table,
        point=findings.chosen_point,
        layers=tuple(chosen),
        target_names=names,
        units=findings.units,
        searches=tuple(search_of(best, searches, rotated[:, t], t, name) for t, name in enumerate(names)),
        best=with_p_max(best, rotated, names),
        weights=top_weights(weights, names, top),
        histogram=weights.histogram,
        rotated=rotated,
        scatter=scatter_rows(findings, held, best, names, levels.block, seed),
        n_neurons=sum(len(s.train) for s in searches),
        n_train=len(held.train),
        n_test=len(held.test),
        block=levels.block,
        provenance={
            "model": model_identity(model),
            "table": dict(findings.provenance.get("table", {})),
            "activations": {k: v for k, v in held.activations.provenance.items() if k not in _OF_THE_MOMENT},
            "rotations": rotations,
            "permutations": permutations,
            "rows": rows,
            "directions": directions,
            "fold_norm": fold_norm,
            "seed": seed,
            "versions": library_versions(),
        },
    )


def _layers(model: HookedModel, findings: Findings, layers: LayerSpec | None) -> list[int]:
    count = int(model.cfg.n_layers)
    if layers is not None:
        return sorted(resolve_layers(count, layers))
    middle = findings.chosen_layer
    if middle is None:
        raise NotApplicable(f"{findings.chosen_point} lies outside the blocks: pass layers=")
    return list(range(max(0, middle - _AROUND), min(count, middle + _AROUND + 1)))
