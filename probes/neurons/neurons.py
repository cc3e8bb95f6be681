"""`neurons`: which single neurons carry a target, and whether the neuron basis is special in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from graticule.hooks.artifact import library_versions
from graticule.hooks.capture import capture
from graticule.hooks.capture_spec import CaptureSpec, Pos
from graticule.hooks.doors import FINDINGS, MODEL, door
from graticule.hooks.identity import model_identity
from graticule.hooks.messages import NotApplicable, UnknownNameError
from graticule.hooks.model_view import ModelView
from graticule.hooks.points import LayerSpec, resolve_layers
from graticule.hooks.protocols import HookedModel
from graticule.hooks.rows import Rows
from graticule.hooks.weights import mlp_weights
from graticule.probes.attribution.trace import TableRows
from graticule.probes.core.findings import Findings
from graticule.probes.core.replay import replay_spec
from graticule.probes.linear.rows import as_rows
from graticule.probes.neurons.cosines import DIRECTIONS, WEIGHTS, WeightCosines, weight_cosines
from graticule.probes.neurons.result import Neurons, Search, counted_together
from graticule.probes.neurons.rotations import (
    LayerSearch,
    best_over_layers,
    exceeded,
    haar,
    search_layer,
    spearman_by_level,
)
from graticule.probes.scores.significance import benjamini_hochberg

_AROUND = 2  # layers either side of the chosen one
_LEVELS = 8  # of a block, the largest
_LEVEL_ROWS = 20  # test rows that a level needs
_SCATTER_ROWS = 2000  # test rows drawn
_OF_THE_MOMENT = ("versions", "captured_at", "seconds")


@door(model=MODEL, findings=FINDINGS)
def neurons(
    findings: Findings,
    model: HookedModel,
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
    whether the *basis* is special: the whole search is repeated on random rotations of each layer's basis
    (of neurons in their own standard deviations), the best rotated neuron of all layers chosen and scored
    likewise; the p-values of several targets are adjusted (Benjamini-Hochberg). Pearson, because a rotation
    leaves it computable from one Gram matrix; Spearman, the paper's number, is given for the neurons chosen.

    **Weights**: cosines of input, gate and output weights with the probe's read and write directions, in
    every layer searched, against vectors drawn with the covariance of that layer's own weights.

    Args:
        findings: A sweep's findings, with their inputs.
        model: The model that was captured.
        layers: The chosen layer and two on either side by default; `"all"`, or any layers.
        top: Neurons per target that the tables list.
        rotations: Of each layer's basis.
        permutations: Of the targets, a sanity line.
        rows: At most so many table rows, whole clusters drawn with `seed`; None is all.
        block: The table's block within which correlations are given; the first of words by default.
        directions: `"layer"` compares weights with the probe of the stream they read from or write into,
            `"chosen"` with the chosen point's probe in every layer.
        fold_norm: Take the gains of the norms around the MLP into the weights; the paper does not.
        pos: As the findings were captured, unless given.
        prompt: As the findings were captured, unless given.
        seed: The seed of rows, rotations, permutations and random weights.
        store: A folder for the captured activations, which resumes.
        progress: Whether to show bars.

    Returns:
        The best neurons of every target, the search on rotated bases, and the cosines of weights.

    Raises:
        ValueError: Without inputs, without texts, or for a model whose MLP weights are not found.
        KeyError: For an unknown block.
    """
    if directions not in ("layer", "chosen"):
        raise ValueError(f"directions={directions!r}: expected 'layer' or 'chosen'")
    chosen = _layers(model, findings, layers)
    for layer in chosen:
        mlp_weights(model, layer)  # before anything is run
    table_rows, spec = TableRows.of(findings), replay_spec(findings, model, prompt, pos)
    captured = _capture(model, findings, table_rows, spec, chosen, rows, seed, store, progress)
    train, test = captured.train, captured.test
    names = findings.target_names
    weights = weight_cosines(
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
    widths = sorted(set(captured.activations.widths.values()))
    shared = {width: haar(width, np.random.default_rng(seed)) for width in widths}
    for layer in tqdm(chosen, desc="neurons", unit="layer", disable=not progress, leave=False):
        values = captured.layer(layer)
        searches.append(
            search_layer(
                layer,
                values[train],
                values[test],
                captured.y[train],
                captured.y[test],
                rotations=rotations,
                permutations=permutations,
                seed=seed,
                vectors=shared[values.shape[1]],
            )
        )
    block, levels = _largest_levels(findings, captured, block)
    rotated = best_over_layers(searches)
    scorer = _Scorer(captured, searches, weights, levels, rotated)
    best = [scorer.best(t, name, top) for t, name in enumerate(names)]
    return Neurons(
        model=findings.model,
        table=findings.table,
        point=findings.chosen_point,
        layers=tuple(chosen),
        target_names=names,
        units=findings.units,
        searches=counted_together([scorer.search(t, own.iloc[0]) for t, own in enumerate(best)]),
        best=pd.concat(best, ignore_index=True),
        weights=pd.concat([weights.of(name).head(top) for name in names], ignore_index=True),
        histogram=weights.histogram,
        rotated=rotated,
        scatter=_scatter(findings, captured, best, block, seed),
        n_neurons=sum(len(s.train) for s in searches),
        n_train=len(train),
        n_test=len(test),
        block=block,
        provenance={
            "model": model_identity(model),
            "table": dict(findings.provenance.get("table", {})),
            "activations": {
                k: v for k, v in captured.activations.provenance.items() if k not in _OF_THE_MOMENT
            },
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
    count = ModelView(model).n_layers
    if layers is not None:
        return sorted(resolve_layers(count, layers))
    middle = findings.chosen_layer
    if middle is None:
        raise NotApplicable(f"{findings.chosen_point} lies outside the blocks: pass layers=")
    return list(range(max(0, middle - _AROUND), min(count, middle + _AROUND + 1)))


# Activations of the findings' table ------------------------------------------------------------------
@dataclass(frozen=True)
class _Captured:
    """Neurons' activations, each row with its place in the table (`source`) and its targets."""

    activations: Rows
    source: Int[np.ndarray, " row"]
    y: Float[np.ndarray, "row target"]
    train: Int[np.ndarray, " train"]
    test: Int[np.ndarray, " test"]

    def layer(self, layer: int) -> Float[np.ndarray, "row neuron"]:
        """All rows of a layer in float64."""
        rows = as_rows(self.activations[_point(layer)])
        return rows.gather(np.arange(rows.shape[0]))


def _point(layer: int) -> str:
    return f"blocks.{layer}.mlp.hook_post"


def _capture(
    model: HookedModel,
    findings: Findings,
    rows: TableRows,
    spec: CaptureSpec,
    layers: Sequence[int],
    limit: int | None,
    seed: int,
    store: Path | str | None,
    progress: bool | None,
) -> _Captured:
    """Run the model on the findings' table as they were captured, reading the neurons of `layers`."""
    if rows.texts is None:
        raise NotApplicable(f"{findings.inputs.table.name} has no texts to run the model on")
    index = rows.draw(np.sort(np.concatenate([rows.train, rows.test])), limit, seed)
    texts, points = [rows.texts[i] for i in index], [_point(layer) for layer in layers]
    place: dict[str, Any] = {} if store is None else {"store": store}
    activations: Rows = capture(model, texts, **spec.arguments(points=points, progress=progress), **place)
    source = index[activations.rows["source"].to_numpy()]
    is_test = rows.is_test[source]
    return _Captured(activations, source, rows.y[source], np.flatnonzero(~is_test), np.flatnonzero(is_test))


def _largest_levels(
    findings: Findings, captured: _Captured, block: str | None
) -> tuple[str | None, dict[str, Int[np.ndarray, " some"]]]:
    """A block of the table, and level → indices into the test rows, of its largest levels."""
    blocks = findings.inputs.table.blocks
    if block is not None and block not in blocks:
        raise UnknownNameError(f"no block {block!r}; the table has {', '.join(blocks) or 'none'}")
    if block is None:
        of_words = [b for b, v in blocks.items() if not pd.api.types.is_numeric_dtype(v)]
        block = min(of_words, key=lambda b: blocks[b].nunique(), default=next(iter(blocks), None))
    if block is None:
        return None, {}
    values = blocks[block].to_numpy()[captured.source[captured.test]]
    counts = pd.Series(values).value_counts()
    large = [level for level, n in counts.items() if n >= _LEVEL_ROWS][:_LEVELS]
    return block, {str(level): np.flatnonzero(values == level) for level in large}


# Tables of the result --------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Scorer:
    """All that the chosen neurons are scored with."""

    captured: _Captured
    searches: Sequence[LayerSearch]
    weights: WeightCosines
    levels: Mapping[str, Int[np.ndarray, " some"]]
    rotated: Float[np.ndarray, "rotation target"]

    def best(self, target: int, name: str, top: int) -> pd.DataFrame:
        """The neurons chosen on training rows for one target, best first, scored on test rows."""
        every = pd.concat(
            [
                pd.DataFrame(
                    {
                        "target": name,
                        "layer": s.layer,
                        "neuron": np.arange(len(s.train)),
                        "r_train": s.train[:, target],
                        "r_test": s.test[:, target],
                        "p": s.p[:, target],
                    }
                )
                for s in self.searches
            ],
            ignore_index=True,
        )
        every["p_bh"] = benjamini_hochberg(every["p"].to_numpy(np.float64))
        best = every.sort_values("r_train", key=lambda r: -r.abs(), kind="stable").head(top)
        best = best.reset_index(drop=True)
        null = np.sort(self.rotated[:, target]).astype(np.float32)
        best["p_max"] = exceeded(null, best["r_test"].abs().to_numpy(np.float64))
        best = best.join(pd.concat([self._spearman(part, target) for _, part in best.groupby("layer")]))
        own, keys = self.weights.of(name), pd.MultiIndex.from_frame(best[["layer", "neuron"]])
        for weight, direction in product(WEIGHTS, DIRECTIONS):
            part = own[(own["weight"] == weight) & (own["direction"] == direction)]
            if len(part):
                cosine = part.set_index(["layer", "neuron"])["cosine"]
                best[f"cos_{weight}_{direction}"] = cosine.reindex(keys).to_numpy()
        return best

    def _spearman(self, part: pd.DataFrame, target: int) -> pd.DataFrame:
        """Spearman correlations of the chosen neurons of one layer, by the index of `part`."""
        captured = self.captured
        values = captured.layer(int(part["layer"].iloc[0]))[:, part["neuron"].to_numpy()]
        y = captured.y[:, target]
        on_train = spearman_by_level(values[captured.train], y[captured.train], {})
        on_test = spearman_by_level(values[captured.test], y[captured.test], self.levels)
        on_test = on_test.rename(columns={"spearman": "spearman_test"})
        on_test.insert(0, "spearman_train", on_train["spearman"])
        return on_test.set_axis(part.index)

    def search(self, target: int, line: pd.Series) -> Search:
        """The best neuron of one target, beside the search on rotated bases and on permuted targets."""
        rotated = self.rotated[:, target]
        permuted = np.max([s.permuted[:, target] for s in self.searches], axis=0)
        limit = float(np.quantile(permuted, 0.95))
        train = np.concatenate([np.abs(s.train[:, target]) for s in self.searches])
        return Search(
            target=str(line["target"]),
            layer=int(line["layer"]),
            neuron=int(line["neuron"]),
            r_train=float(line["r_train"]),
            r_test=float(line["r_test"]),
            spearman_test=float(line["spearman_test"]),
            rotated_median=float(np.median(rotated)),
            rotated_95=float(np.quantile(rotated, 0.95)),
            p=float(line["p_max"]),
            permuted_95=limit,
            beat_permuted=float((train > limit).mean()),
        )


def _scatter(
    findings: Findings, captured: _Captured, best: Sequence[pd.DataFrame], block: str | None, seed: int
) -> pd.DataFrame:
    """The best neuron of every target on (a sample of) the test rows."""
    table, rows = findings.inputs.table, captured.test
    assert table.texts is not None
    if len(rows) > _SCATTER_ROWS:
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[:_SCATTER_ROWS])
    source, parts = captured.source[rows], list[pd.DataFrame]()
    for t, own in enumerate(best):
        first = own.iloc[0]
        part = pd.DataFrame(
            {
                "target": first["target"],
                "text": [table.texts[i] for i in source],
                "true": captured.y[rows, t],
                "activation": captured.layer(int(first["layer"]))[rows, int(first["neuron"])],
            }
        )
        if block is not None:
            part["block"] = table.blocks[block].to_numpy()[source]
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
