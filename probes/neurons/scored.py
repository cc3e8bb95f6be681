"""The tables of a neuron search: chosen on training rows, scored on test rows, with raw and adjusted p."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.probes.findings import Findings
from graticule.probes.neurons.captured import Captured, Levels
from graticule.probes.neurons.correlations import LayerSearch, spearman_by_level
from graticule.probes.neurons.cosines import Cosines
from graticule.probes.neurons.draws import exceeded
from graticule.probes.neurons.result import Search
from graticule.probes.scores.multiplicity import benjamini_hochberg

_DRAWN = 2000  # test rows kept for the scatter


def best_neurons(
    held: Captured,
    searches: Sequence[LayerSearch],
    weights: Cosines,
    levels: Levels,
    target: int,
    name: str,
    top: int,
) -> pd.DataFrame:
    """The neurons chosen on training rows for one target, best first, scored on test rows."""
    flat = pd.DataFrame(
        {
            "layer": np.concatenate([np.full(len(s.train), s.layer) for s in searches]),
            "neuron": np.concatenate([np.arange(len(s.train)) for s in searches]),
            "r_train": np.concatenate([s.train[:, target] for s in searches]),
            "r_test": np.concatenate([s.test[:, target] for s in searches]),
            "p": np.concatenate([s.p[:, target] for s in searches]),
        }
    )
    flat["p_bh"] = benjamini_hochberg(flat["p"].to_numpy(np.float64))
    order = np.argsort(-flat["r_train"].abs().to_numpy(), kind="stable")[:top]
    best = flat.iloc[order].reset_index(drop=True)
    best.insert(0, "target", name)
    spearman: list[pd.DataFrame] = []
    for layer, part in best.groupby("layer"):
        values = held.layer(int(layer))[:, part["neuron"].to_numpy()]  # pyright: ignore[reportArgumentType]
        y = held.y[:, target]
        found = spearman_by_level(values[held.test], y[held.test], levels.rows)
        on_train = spearman_by_level(values[held.train], y[held.train], {})
        found.insert(0, "spearman_train", on_train["spearman"].to_numpy())
        spearman.append(found.set_axis(part.index))
    best = best.join(pd.concat(spearman).rename(columns={"spearman": "spearman_test"}))
    own = weights.table[weights.table["target"] == name]
    for weight in ("in", "gate", "out"):
        for direction in ("read", "write"):
            cosine = own[(own["weight"] == weight) & (own["direction"] == direction)]
            if len(cosine):
                column = cosine.set_index(["layer", "neuron"])["cosine"]
                keys = pd.MultiIndex.from_frame(best[["layer", "neuron"]])
                best[f"cos_{weight}_{direction}"] = column.reindex(keys).to_numpy()
    return best


def with_p_max(
    best: pd.DataFrame, rotated: Float[np.ndarray, "rotation target"], names: Sequence[str]
) -> pd.DataFrame:
    """`p_max`: how often the best neuron of a rotated basis reaches a neuron's score on test rows."""
    out = best.copy()
    p = np.full(len(out), np.nan)
    for t, name in enumerate(names):
        own = (out["target"] == name).to_numpy()
        size = out.loc[own, "r_test"].abs().to_numpy(np.float64)
        p[own] = exceeded(np.sort(rotated[:, t]).astype(np.float32), size)
    out.insert(int(out.columns.get_loc("p_bh")) + 1, "p_max", p)  # pyright: ignore[reportArgumentType]
    return out


def search_of(
    best: pd.DataFrame,
    searches: Sequence[LayerSearch],
    rotated: Float[np.ndarray, " rotation"],
    target: int,
    name: str,
) -> Search:
    """The best neuron of one target, beside the search on rotated bases and on permuted targets."""
    line = best[best["target"] == name].iloc[0]
    permuted = np.max([s.permuted[:, target] for s in searches], axis=0)
    limit = float(np.quantile(permuted, 0.95)) if len(permuted) else float("nan")
    train = np.concatenate([np.abs(s.train[:, target]) for s in searches])
    score = np.abs(np.array([line["r_test"]], np.float64))
    return Search(
        target=name,
        layer=int(line["layer"]),
        neuron=int(line["neuron"]),
        r_train=float(line["r_train"]),
        r_test=float(line["r_test"]),
        spearman_test=float(line["spearman_test"]),
        rotated_median=float(np.median(rotated)),
        rotated_95=float(np.quantile(rotated, 0.95)),
        p=float(exceeded(np.sort(rotated).astype(np.float32), score)[0]),
        permuted_95=limit,
        beat_permuted=float((train > limit).mean()) if len(permuted) else float("nan"),
    )


def top_weights(weights: Cosines, names: Sequence[str], top: int) -> pd.DataFrame:
    """The weights with the largest cosines, `top` a target."""
    parts: list[pd.DataFrame] = []
    for name in names:
        own = weights.table[weights.table["target"] == name]
        order = np.argsort(-own["cosine"].abs().to_numpy(), kind="stable")[:top]
        parts.append(own.iloc[order])
    return pd.concat(parts, ignore_index=True)


def scatter_rows(
    findings: Findings,
    held: Captured,
    best: pd.DataFrame,
    names: Sequence[str],
    block: str | None,
    seed: int,
) -> pd.DataFrame:
    """The best neuron of every target on (a sample of) the test rows."""
    table = findings.material.table
    assert table.texts is not None
    rows = held.test
    if len(rows) > _DRAWN:
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[:_DRAWN])
    parts: list[pd.DataFrame] = []
    for t, name in enumerate(names):
        line = best[best["target"] == name].iloc[0]
        source = held.source[rows]
        part = pd.DataFrame(
            {
                "target": name,
                "text": [table.texts[i] for i in source],
                "true": held.y[rows, t],
                "activation": held.layer(int(line["layer"]))[rows, int(line["neuron"])],
            }
        )
        if block is not None:
            part["block"] = table.blocks[block].to_numpy()[source]
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
