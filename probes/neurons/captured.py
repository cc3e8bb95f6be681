"""Neurons' activations on a findings' table, captured anew and aligned with its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from graticule.hooks.capture import capture
from graticule.hooks.messages import UnknownNameError
from graticule.hooks.positions import Pos
from graticule.hooks.protocols import HookedModel
from graticule.hooks.rows import Rows
from graticule.probes.applicable import NotApplicable
from graticule.probes.attribution.again import asked, drawn, table_rows
from graticule.probes.estimators.ridge_rows import as_rows
from graticule.probes.findings import Findings

_LEVELS = 8
_LEVEL_ROWS = 20


@dataclass(frozen=True)
class Captured:
    """Captured neurons, aligned with the table."""

    activations: Rows
    """Points `blocks.L.mlp.hook_post`."""
    source: Int[np.ndarray, " row"]
    """The table row of every captured row."""
    y: Float[np.ndarray, "row target"]
    """Targets."""
    train: Int[np.ndarray, " train"]
    """Training rows."""
    test: Int[np.ndarray, " test"]
    """Test rows."""

    def layer(self, layer: int) -> Float[np.ndarray, "row neuron"]:
        """All rows of a layer in float64."""
        rows = as_rows(self.activations[f"blocks.{layer}.mlp.hook_post"])
        return rows.gather(np.arange(rows.shape[0]))


def capture_neurons(
    model: HookedModel,
    findings: Findings,
    layers: Sequence[int],
    rows: int | None,
    seed: int,
    pos: Pos | None,
    prompt: str | None,
    store: Path | str | None,
    progress: bool | None,
) -> Captured:
    """Run the model on the findings' table as they were captured, reading the neurons of `layers`.

    **Raises** `ValueError` without material or texts, and as `capture` does.
    """
    table, known, how = findings.material.table, table_rows(findings), asked(findings, prompt, pos)
    if table.texts is None:
        raise NotApplicable(f"{table.name} has no texts to run the model on")
    index = drawn(np.sort(np.concatenate([known.train, known.test])), known.clusters, rows, seed)
    settings: dict[str, Any] = {
        "points": [f"blocks.{layer}.mlp.hook_post" for layer in layers],
        "pos": how.pos,
        "prompt": how.prompt,
        "prepend_bos": how.prepend_bos,
        "include_bos": how.include_bos,
        "progress": progress,
    }
    texts = [table.texts[i] for i in index]
    held: Rows = (
        capture(model, texts, **settings) if store is None else capture(model, texts, store=store, **settings)
    )
    source = index[held.rows["source"].to_numpy()]
    is_test = known.is_test[source]
    return Captured(held, source, known.y[source], np.flatnonzero(~is_test), np.flatnonzero(is_test))


@dataclass(frozen=True)
class Levels:
    """Groups of test rows to correlate within."""

    block: str | None
    """The table's block; None where it has none."""
    rows: Mapping[str, Int[np.ndarray, " some"]]
    """Level → indices into the test rows."""


def largest_levels(findings: Findings, held: Captured, block: str | None) -> Levels:
    """The largest levels of a block among the test rows."""
    blocks = findings.material.table.blocks
    if block is not None and block not in blocks:
        raise UnknownNameError(f"no block {block!r}; the table has {', '.join(blocks) or 'none'}")
    if block is None:
        words = [b for b, v in blocks.items() if not pd.api.types.is_numeric_dtype(v)]
        few = sorted(words, key=lambda b: blocks[b].nunique())
        block = few[0] if few else next(iter(blocks), None)
    if block is None:
        return Levels(None, {})
    values = blocks[block].to_numpy()[held.source[held.test]]
    counts = pd.Series(values).value_counts()
    kept = [level for level, n in counts.items() if n >= _LEVEL_ROWS][:_LEVELS]
    return Levels(block, {str(level): np.flatnonzero(values == level) for level in kept})
