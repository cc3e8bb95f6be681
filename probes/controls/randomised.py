"""Controls that put chance in one place of the recipe: the target, the features, or the network's weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from graticule.hooks.capture import capture
from graticule.hooks.capture_spec import CaptureSpec
from graticule.hooks.imports import load
from graticule.hooks.names import inside
from graticule.hooks.protocols import HookedModel
from graticule.hooks.same_model import check_model
from graticule.probes.controls.inputs import ControlInputs, Line, Question
from graticule.probes.core.fit import Predictions, with_and_without
from graticule.probes.core.resample import Pair, Sampled, average, effective_clusters
from graticule.probes.surface.baselines import Baselines, text_digest
from graticule.probes.surface.fitted import fit_baselines
from graticule.probes.surface.joint import JOINT
from graticule.probes.surface.twin import make_twin
from graticule.probes.tables.groups import link_clusters

_log = logging.getLogger(__name__)

TOKEN_ASKS = "how much of the score a random target fixed per last token would reach too"
ENTITY_ASKS = "how much a random target per text could be fitted on training rows"
HELD_OUT_ASKS = "the same target on test rows: 0 by construction, every text being new"
TEXT_ASKS = "what an untrained projection of the text gives, as wide as the activations"
TWIN_ASKS = "what an untrained network of the same weights' statistics gives"
PLACE_ASKS = "what such a twin adds to the other baselines: must be nothing"
KS = (2, 10, 50, 100)
"""Dimensions in the matched-k curves, where the activations are wider than that."""
TABLE_KS = (10, 100)
"""Those of them that have a line in the table."""
KINDS = {
    "principal components": "how few directions of largest variance hold it",
    "random directions": "how much any few directions hold: random ones, isotropic",
    "random whitened directions": "likewise, every direction of the activations equally likely",
}
_TRIES = 20
_HASHED = 1 << 14


# Random targets (control tasks, Hewitt & Liang 2019, 1909.03368) --------------------------------------
def token_keys(inputs: ControlInputs) -> tuple[Int[np.ndarray, " row"] | None, str]:
    """A code per row for the token that the activation was read at, and what the code is of.

    The last word of the text stands in where activations come without tokens, or were all read at the same
    one (a prompt that ends in a period). None where neither tells rows apart; the text then says why.
    """
    rows = inputs.swept.activations.rows
    if "token" in rows and bool((rows["token"] >= 0).all()) and rows["token"].nunique() > 1:
        return pd.factorize(rows["token"])[0].astype(np.int64), "last token"
    if inputs.texts is None:
        return None, "activations.rows has no token column and there are no texts"
    words = pd.Series([(text.lower().split() or [""])[-1] for text in inputs.texts])
    if words.nunique() < 2:
        return None, "all rows end in the same token and the same word"
    return pd.factorize(words)[0].astype(np.int64), "last word"


def control_target(
    codes: Int[np.ndarray, " row"],
    is_test: Bool[np.ndarray, " row"],
    y_train: Float[np.ndarray, "train target"],
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "row target"], Bool[np.ndarray, " row"]]:
    """A random target that is a function of `codes`, and the rows for which it is known.

    Every code of a training row is given the target of another training row, all of them different ones
    (whole rows of targets, so that latitude and longitude stay together): the values are those of the real
    target. Rows with codes that no training row has are not known; their values are 0.

    Raises:
        ValueError: If no draw varies over the training rows.
    """
    trained, place = np.unique(codes[~is_test], return_inverse=True)
    position = np.minimum(np.searchsorted(trained, codes), len(trained) - 1)
    in_training = trained[position] == codes
    for _ in range(_TRIES):
        values = y_train[rng.permutation(len(y_train))[: len(trained)]]
        if (np.ptp(values[place], axis=0) > 0).any():
            return np.where(in_training[:, None], values[position], 0.0), in_training
    raise ValueError(f"{_TRIES} draws of a control target for {len(trained)} codes did not vary")


def token_lines(inputs: ControlInputs) -> list[Line]:
    """The control task keyed on the last token, scored on test rows whose token training rows have too.

    Selectivity is the line's difference: the probe on these rows minus the control. Resampled are sets of
    rows that share a cluster or a key, as both are dependent in the control task.
    """
    codes, key = token_keys(inputs)
    name = "control task, " + (key if codes is not None else "last token")
    question = Question("control", name, TOKEN_ASKS)
    if codes is None:
        return [question.not_applicable(key)]
    problem = inputs.swept.problem
    scored = np.isin(codes[problem.test], codes[problem.train])
    count = int(scored.sum())
    coverage = f"{count:,} of {len(scored):,} test rows have a {key} that training rows have"
    if count < 2:
        return [question.not_applicable(coverage)]
    pairs: dict[str, Pair] = {"probe": (inputs.y_test[scored], inputs.probe.test[scored])}
    for draw in range(inputs.seeds):
        try:
            target, _ = control_target(codes, problem.is_test, inputs.y_train, inputs.rng(1, draw))
        except ValueError as error:
            return [question.not_applicable(str(error))]
        fitted = inputs.fit(target[problem.train])
        pairs[str(draw)] = target[problem.test][scored], fitted.test[scored]
    dependent = [pd.Series(inputs.clusters_test[scored]), pd.Series(codes[problem.test][scored])]
    linked = link_clusters(dependent, count)
    scores = inputs.scores(pairs, linked)
    effective = effective_clusters(np.bincount(linked))
    kinds = len(np.unique(codes[problem.train]))
    note = f"{coverage}; {kinds:,} kinds in training rows; {effective:.0f} effective clusters"
    draws = [scores[str(draw)] for draw in range(inputs.seeds)]
    return [question.line(draws, scores["probe"], count, note=note)]


def entity_lines(inputs: ControlInputs) -> list[Line]:
    """The control task keyed on the text: what memorising training rows gives, beside the probe's own fit."""
    problem, texts = inputs.swept.problem, inputs.texts
    keys = pd.Series(problem.source) if texts is None else pd.Series(texts)
    codes = pd.factorize(keys)[0].astype(np.int64)
    alpha = inputs.findings.probe.alpha
    new = ~np.isin(codes[problem.test], codes[problem.train])
    train: dict[str, Pair] = {"probe": (inputs.y_train, inputs.fit(inputs.y_train, alpha=alpha).train)}
    test: dict[str, Pair] = {"probe": (inputs.y_test[new], inputs.probe.test[new])}
    strengths: list[float] = []
    for draw in range(inputs.seeds):
        # drawn for the test texts as well: a text of both parts has one target, a new one has its own
        y, rng = problem.y, inputs.rng(2, draw)
        target = y[rng.permutation(len(y))][codes]
        try:
            same, own = inputs.fit(target[problem.train], alpha=alpha), inputs.fit(target[problem.train])
        except ValueError as error:
            return [Question("train fit", "control task, text", ENTITY_ASKS).not_applicable(str(error))]
        train[f"same {draw}"] = target[problem.train], same.train
        train[f"own {draw}"] = target[problem.train], own.train
        test[f"own {draw}"] = target[problem.test][new], own.test[new]
        strengths.append(own.alpha)

    def line(question: Question, scores: Mapping[str, Sampled], kind: str, rows: int, note: str) -> Line:
        draws = [scores[f"{kind} {draw}"] for draw in range(inputs.seeds)]
        return question.line(draws, scores["probe"], rows, note=note)

    in_sample, name = inputs.scores(train, inputs.clusters_train), "control task, text"
    lines = [
        line(
            Question("train fit", f"{name} (in sample, {strength})", ENTITY_ASKS),
            in_sample,
            kind,
            len(problem.train),
            f"R² on training rows, at {at}; the probe in sample too",
        )
        for kind, strength, at in (
            ("same", "the probe's strength", f"the probe's strength {alpha:.3g}"),
            ("own", "its own strength", f"strengths from {min(strengths):.3g}"),
        )
    ]
    if new.sum() >= 2:
        held_out = inputs.scores(test, inputs.clusters_test[new])
        note = "" if new.all() else f"{int((~new).sum()):,} test rows with a text of training rows set aside"
        question = Question("check", f"{name} (held out)", HELD_OUT_ASKS)
        lines.append(line(question, held_out, "own", int(new.sum()), note))
    return lines


# Random features (Altmeyer et al. 2024, 2402.03962) ---------------------------------------------------
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


def text_lines(inputs: ControlInputs) -> list[Line]:
    """Ridge on random features of the text: its n-grams projected, and those through a random ReLU layer."""
    names = ("random projection of the text", "random ReLU features of the text")
    questions = {name: Question("control", name, TEXT_ASKS) for name in names}
    if inputs.texts is None:
        return [question.not_applicable("there are no texts") for question in questions.values()]
    grams, width, problem = hashed_ngrams(inputs.texts), inputs.x_train.shape[1], inputs.swept.problem
    pairs: dict[str, Pair] = {"probe": (inputs.y_test, inputs.probe.test)}
    for draw in range(inputs.seeds):
        rng = inputs.rng(3, draw)
        projected = np.asarray(grams @ rng.standard_normal((2 * _HASHED, width), np.float32), np.float64)
        projected = projected / projected.std()
        # a layer of twice the variance keeps the scale; the bias makes the kink fall anywhere
        layer = rng.normal(size=(width, width)) * np.sqrt(2 / width)
        bent = np.maximum(projected @ layer + rng.normal(size=width), 0.0)
        for name, features in zip(names, (projected, bent), strict=True):
            fitted = inputs.fit(inputs.y_train, features[problem.train], features[problem.test])
            pairs[f"{name} {draw}"] = inputs.y_test, fitted.test
    scores = inputs.scores(pairs)
    note = f"{width} features of hashed word and letter n-grams"
    lines: list[Line] = []
    for name, question in questions.items():
        draws = [scores[f"{name} {draw}"] for draw in range(inputs.seeds)]
        lines.append(question.line(draws, scores["probe"], len(problem.test), note=note))
    return lines


def dimension_lines(inputs: ControlInputs) -> tuple[list[Line], pd.DataFrame]:
    """Ridge on k directions of the activations, and the whole curve: `k`, `kind`, `seed`, `r2`.

    All fits choose their own strength. The curve's last point is the probe itself: all directions, in
    whatever basis, are one ridge.
    """
    width = inputs.x_train.shape[1]
    ks = [k for k in KS if k < width]
    mean = inputs.x_train.mean(axis=0)
    centred, other = inputs.x_train - mean, inputs.x_test - mean
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    # directions that hold next to no variance stay out of the whitened draw: they hold rounding alone
    varies = values > 1e-10 * values[0]
    whiten = vectors[:, varies] / np.sqrt(values[varies])
    seeds = {kind: 1 if kind == "principal components" else inputs.seeds for kind in KINDS}

    def basis(k: int, kind: str, draw: int) -> np.ndarray:
        if kind == "principal components":
            return vectors[:, :k]
        if kind == "random directions":
            return inputs.rng(4, draw).normal(size=(width, width))[:, :k]  # nested: fewer are the first
        return whiten @ inputs.rng(5, draw).normal(size=(whiten.shape[1], width))[:, :k]

    pairs: dict[str, Pair] = {"probe": (inputs.y_test, inputs.probe.test)}
    fits = [(k, kind, draw) for k in ks for kind in KINDS for draw in range(seeds[kind])]
    for k, kind, draw in fits:
        directions = basis(k, kind, draw)
        fitted = inputs.fit(inputs.y_train, centred @ directions, other @ directions)
        pairs[f"{k} {kind} {draw}"] = inputs.y_test, fitted.test
    scores = inputs.scores(pairs)
    curve = [
        {"k": k, "kind": kind, "seed": draw, "r2": scores[f"{k} {kind} {draw}"].value}
        for k, kind, draw in fits
    ]
    curve += [{"k": width, "kind": kind, "seed": 0, "r2": scores["probe"].value} for kind in KINDS]
    lines: list[Line] = []
    for kind, asks in KINDS.items():
        for k in [k for k in TABLE_KS if k in ks]:
            draws = [scores[f"{k} {kind} {draw}"] for draw in range(seeds[kind])]
            question, note = Question("dimensions", f"{k} {kind}", asks), f"{k} of {width} dimensions"
            lines.append(question.line(draws, scores["probe"], len(inputs.y_test), note=note))
    return lines, pd.DataFrame(curve)


# Untrained twins --------------------------------------------------------------------------------------
def twin_lines(
    inputs: ControlInputs, model: HookedModel | None, store: Path | None, progress: bool | None
) -> list[Line]:
    """The twins' scores, and what each adds to the other baselines in the probe's place.

    Twins beyond those of the findings' baselines are made from `model` and captured at two points, the
    probe's and the first twin's own best; the better one out of fold is taken.

    Raises:
        ValueError: If `model` is not the one that the baselines were captured from.
    """
    twins, note = _twins(inputs, model, store, progress)
    alone = Question("control", "untrained twin", TWIN_ASKS)
    in_place = Question("check", "untrained twin in the probe's place", PLACE_ASKS)
    if not twins:
        return [alone.not_applicable(note), in_place.not_applicable(note)]
    y, count = inputs.y_test, len(inputs.y_test)
    others = {
        n: p for n, p in inputs.swept.baseline_predictions.items() if n != JOINT and not n.startswith("twin_")
    }
    pairs: dict[str, Pair] = {"probe": (y, inputs.probe.test)}
    for name, twin in twins.items():
        base, full = with_and_without(others, twin, inputs.y_train)
        pairs |= {"base": (y, base), name: (y, twin.test), f"with {name}": (y, full)}
    scores = inputs.scores(pairs)
    added = [scores[f"with {name}"] for name in twins]
    gains = ", ".join(f"{with_twin.value - scores['base'].value:+z.4f}" for with_twin in added)
    gain_note = f"the gain of each seed: {gains}"
    return [
        alone.line([scores[name] for name in twins], scores["probe"], count, note=note),
        in_place.line(scores["base"], average(added), count, metric="gain", note=gain_note),
    ]


def _twins(
    inputs: ControlInputs, model: HookedModel | None, store: Path | None, progress: bool | None
) -> tuple[dict[str, Predictions], str]:
    """Predictions of every twin, and what to say about where they come from."""
    swept, table, baselines = inputs.swept, inputs.swept.table, inputs.findings.baselines
    twins = {n: p for n, p in swept.baseline_predictions.items() if n.startswith("twin_")}
    missing = range(len(twins), inputs.seeds)
    if not missing:
        return twins, "the twins of the baselines"
    made: dict[str, Any] = dict(swept.baselines.provenance)
    why = _why_not(inputs, model, made)
    if why:
        have = f"{len(twins)} of {inputs.seeds} seeds" if twins else "no twin among the baselines"
        return twins, f"{have}: {why}"
    assert model is not None and table.texts is not None
    points = list(dict.fromkeys([inputs.findings.chosen_point, *(baselines[n]["point"] for n in twins)]))
    dtype = swept.activations[points[0]].dtype
    settings = CaptureSpec.from_json(made).arguments(points=points, dtype=dtype, progress=progress)
    for i in missing:
        name, seed = f"twin_{i}", int(made.get("seed", 0)) + i
        twin = make_twin(model, seed, made.get("twin", "permuted"), keep=("unembed.",))
        if store:
            activations = capture(twin, table.texts, store=inside(store, name), **settings)
        else:
            activations = capture(twin, table.texts, **settings)
        del twin
        feature = Baselines(text_digest(table), {name: activations}, strings=False)
        fitted, _ = fit_baselines(feature, swept.activations, table, swept.problem, swept.settings, progress)
        twins[name] = fitted[name]
        _log.info("%s captured at %s", name, ", ".join(points))
    return twins, f"seeds {', '.join(map(str, missing))} captured here, at {', '.join(points)}"


def _why_not(inputs: ControlInputs, model: HookedModel | None, made: dict[str, Any]) -> str:
    """Why no further twins can be made; empty where they can."""
    if model is None:
        return "give controls(findings, model) to make more"
    if inputs.swept.table.texts is None:
        return "there are no texts to run a twin on"
    if "unembed" in inputs.findings.chosen_point:
        return "further twins are not made of points behind the unembedding"
    spec = CaptureSpec.from_json(made)
    if spec.positions is None or spec.prompt is None:
        return "the baselines do not say at which positions they were captured: use baselines(model, table)"
    try:
        spec.arguments()
    except ValueError:
        return f"positions {made['pos']} cannot be repeated here: use baselines(model, table, twins=…)"
    check_model("controls: the baselines of these findings", made, model)
    return ""
