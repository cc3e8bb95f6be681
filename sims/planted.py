"""Activations with a concept planted in them: the smallest world whose truth is known.

A target is a part that can be read off the text plus a part that only the activations hold. The text is a
list of made-up words, each with a fixed contribution; the untrained twin's activations know the words and
nothing else. So every quantity that a sweep reports has a true value to be compared with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from graticule.hooks.activations import Activations
from graticule.probes.surface.baselines import Baselines, text_digest
from graticule.probes.tables.table import Table


@dataclass(frozen=True)
class Planted:
    """A planted world."""

    activations: Activations
    """One point per layer; the hidden part is written at full strength from the middle layer on."""
    table: Table
    """Texts, target, split and clusters."""
    baselines: Baselines
    """The word embeddings and a twin that know the words only."""
    write: Float[np.ndarray, "width target"]
    """How one standard deviation of each target's hidden part is written, from the middle layer on."""
    surface_share: float
    """Share of the target's variance that can be read off the text: the surface's R² at best."""


def planted(
    n_rows: int = 2000,
    width: int = 32,
    n_layers: int = 4,
    surface: float = 0.5,
    hidden: float = 0.3,
    noise: float = 0.1,
    n_targets: int = 1,
    n_words: int = 60,
    seed: int = 0,
) -> Planted:
    """Make a world whose target has `surface`, `hidden` and unreadable variance adding up to 1.

    The target is `√surface · words + √hidden · hidden + √rest · unreadable`, all of unit variance.
    Activations hold the words in random directions, the hidden part in one direction per target (from the
    middle layer on), and Gaussian noise of standard deviation `noise`.

    Raises:
        ValueError: Where the shares are negative or exceed 1.
    """
    if min(surface, hidden) < 0 or surface + hidden > 1:
        raise ValueError(f"surface={surface} and hidden={hidden}: shares of the variance, together at most 1")
    rng = np.random.default_rng(seed)
    words = np.array([f"{a}{b}" for a in ("ba", "ke", "mi", "lo", "du", "ra") for b in "bcdfghjklm"])[
        :n_words
    ]
    picked = rng.integers(0, n_words, (n_rows, 2))
    texts = [f"{words[a]} {words[b]} {i}" for i, (a, b) in enumerate(picked)]
    value = rng.normal(size=(n_words, n_targets))
    from_text = value[picked].sum(1)
    from_text = (from_text - from_text.mean(0)) / from_text.std(0)
    not_in_text = rng.normal(size=(n_rows, n_targets))
    unreadable = rng.normal(size=(n_rows, n_targets))
    y = np.sqrt(surface) * from_text + np.sqrt(hidden) * not_in_text
    y = y + np.sqrt(1 - surface - hidden) * unreadable

    embedding = rng.normal(size=(n_words, width))
    words_seen = embedding[picked].sum(1)
    write = rng.normal(size=(width, n_targets)) / np.sqrt(width) * 4
    tensors: dict[str, torch.Tensor] = {}
    untrained: dict[str, torch.Tensor] = {}
    for layer in range(n_layers):
        strength = 1.0 if layer >= n_layers // 2 else 0.0
        mixing = rng.normal(size=(width, width)) / np.sqrt(width)
        x = words_seen @ mixing + strength * not_in_text @ write.T + noise * rng.normal(size=(n_rows, width))
        name = f"blocks.{layer}.hook_resid_post"
        tensors[name] = torch.from_numpy(x.astype(np.float32))
        blind = words_seen @ rng.normal(size=(width, width)) / np.sqrt(width)
        untrained[name] = torch.from_numpy((blind + noise * rng.normal(size=blind.shape)).astype(np.float32))

    columns = {f"target_{t}" if n_targets > 1 else "target": y[:, t] for t in range(n_targets)}
    frame = pd.DataFrame({"text": texts, **columns, "is_test": rng.random(n_rows) < 0.25})
    table = Table(frame, text="text", target=list(columns), split="is_test", name="planted")
    features = {
        "mean_embedding": Activations.from_tensors({"hook_embed": words_seen.astype(np.float32) / 2}),
        "twin_0": Activations.from_tensors(untrained),
    }
    return Planted(
        Activations.from_tensors(tensors, provenance={"captured_by": "graticule.sims.planted", "seed": seed}),
        table,
        Baselines(text_digest(table), features, True, {"captured_by": "graticule.sims.planted"}),
        write,
        surface,
    )
