"""Random features: of the text (Altmeyer et al. 2024, 2402.03962), and few directions of the activations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.hooks.imports import load
from graticule.probes.controls.lines import Line, line, not_applicable
from graticule.probes.controls.scoring import Pair, average
from graticule.probes.controls.setting import Setting

KS = (2, 10, 50, 100)
"""Dimensions kept in the matched-k curves, where the activations are wider than that."""
SHOWN_KS = (10, 100)
"""Those of them that have a line in the table."""
TEXT_ASKS = "what an untrained projection of the text gives, as wide as the activations"
KINDS = {
    "principal components": "how few directions of largest variance hold it",
    "random directions": "how much any few directions hold: random ones, isotropic",
    "random whitened directions": "likewise, every direction of the activations equally likely",
}
_HASHED = 1 << 14


def hashed_ngrams(texts: list[str]) -> Any:
    """Counts of word 1-2 grams and char_wb 2-5 grams in hashed columns, each part of a row of length 1."""
    load("scipy.sparse")
    import scipy.sparse as sp

    load("sklearn.feature_extraction.text")
    from sklearn.feature_extraction.text import HashingVectorizer

    shared: dict[str, Any] = {"n_features": _HASHED, "dtype": np.float32, "norm": "l2"}
    words = HashingVectorizer(ngram_range=(1, 2), **shared)
    letters = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 5), **shared)
    return sp.csr_matrix(sp.hstack([words.fit_transform(texts), letters.fit_transform(texts)]))


def text_lines(setting: Setting) -> list[Line]:
    """Ridge on random features of the text: its n-grams projected, and those through a random ReLU layer."""
    names = ("random projection of the text", "random ReLU features of the text")
    texts = setting.texts
    if texts is None:
        return [not_applicable("control", name, TEXT_ASKS, "there are no texts") for name in names]
    grams, width, problem = hashed_ngrams(texts), setting.x_train.shape[1], setting.material.problem
    pairs: dict[str, Pair] = {"probe": (setting.y_test, setting.probe.test)}
    for draw in range(setting.seeds):
        rng = setting.rng(3, draw)
        projected = _project(grams, width, rng)
        # a layer of twice the variance keeps the scale; the bias makes the kink fall anywhere
        layer = rng.normal(size=(width, width)) * np.sqrt(2 / width)
        bent = np.maximum(projected @ layer + rng.normal(size=width), 0.0)
        for name, features in zip(names, (projected, bent), strict=True):
            fitted = setting.fit(setting.y_train, features[problem.train], features[problem.test])
            pairs[f"{name} {draw}"] = setting.y_test, fitted.test
    found = setting.scores(pairs)
    lines: list[Line] = []
    for name in names:
        draws = [found[f"{name} {draw}"] for draw in range(setting.seeds)]
        note = f"{width} features of hashed word and letter n-grams"
        rows, by_seed = len(problem.test), [d.value for d in draws]
        lines.append(
            line("control", name, TEXT_ASKS, average(draws), found["probe"], rows, by_seed=by_seed, note=note)
        )
    return lines


def _project(grams: Any, width: int, rng: np.random.Generator) -> Float[np.ndarray, "row width"]:
    matrix = rng.standard_normal((2 * _HASHED, width), np.float32)
    projected = np.asarray(grams @ matrix, np.float64)
    return projected / projected.std()


def dimension_lines(setting: Setting) -> tuple[list[Line], pd.DataFrame]:
    """Ridge on k directions of the activations, and the whole curve: `k`, `kind`, `seed`, `r2`.

    All fits choose their own strength. The curve's last point is the probe itself: all directions, in
    whatever basis, are one ridge.
    """
    width = setting.x_train.shape[1]
    ks = [k for k in KS if k < width]
    mean = setting.x_train.mean(axis=0)
    centred = setting.x_train - mean
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    # directions that hold next to no variance stay out of the whitened draw: they hold rounding alone
    kept = values > 1e-10 * values[0]
    whiten = vectors[:, kept] / np.sqrt(values[kept])
    other = setting.x_test - mean
    pairs: dict[str, Pair] = {"probe": (setting.y_test, setting.probe.test)}
    plan: list[tuple[int, str, int]] = []
    for k in ks:
        plan += [(k, "principal components", 0)]
        plan += [(k, kind, draw) for kind in list(KINDS)[1:] for draw in range(setting.seeds)]
    for k, kind, draw in plan:
        if kind == "principal components":
            basis = vectors[:, :k]
        elif kind == "random directions":
            basis = setting.rng(4, draw).normal(size=(width, width))[:, :k]  # nested: fewer are the first
        else:
            basis = whiten @ setting.rng(5, draw).normal(size=(int(kept.sum()), width))[:, :k]
        fitted = setting.fit(setting.y_train, centred @ basis, other @ basis)
        pairs[f"{k} {kind} {draw}"] = setting.y_test, fitted.test
    found = setting.scores(pairs)
    curve = [
        {"k": k, "kind": kind, "seed": draw, "r2": found[f"{k} {kind} {draw}"].value}
        for k, kind, draw in plan
    ]
    curve += [{"k": width, "kind": kind, "seed": 0, "r2": found["probe"].value} for kind in KINDS]
    lines: list[Line] = []
    for kind, asks in KINDS.items():
        for k in [k for k in SHOWN_KS if k in ks]:
            count = 1 if kind == "principal components" else setting.seeds
            draws = [found[f"{k} {kind} {draw}"] for draw in range(count)]
            by_seed = [d.value for d in draws]
            note = f"{k} of {width} dimensions"
            name, rows = f"{k} {kind}", len(setting.y_test)
            args = ("dimensions", name, asks, average(draws), found["probe"], rows)
            lines.append(line(*args, by_seed=by_seed, note=note))
    return lines, pd.DataFrame(curve)
