"""Labels that mean nothing: how often each instrument finds something in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from tqdm.auto import tqdm

from graticule.certificate.instruments import MLP
from graticule.certificate.subjects import Subject
from graticule.probes.estimators.logistic import held_out
from graticule.probes.estimators.mlp import Job, fit_mlps
from graticule.probes.estimators.pca import components, pca_ridges
from graticule.probes.estimators.solvers import ridge_cv
from graticule.probes.scores.bootstrap import wilson
from graticule.probes.scores.verdict import STRUCTURE, Predictions, verdict
from graticule.probes.tables.groups import group_folds

FOLDS = 3
_SHORT = 20  # epochs of an MLP on labels that mean nothing: it overfits sooner than that


def random_labels(subject: Subject, count: int) -> Float[np.ndarray, "row labelling"]:
    """Every context's label by the toss of a coin, `count` times: rows of one context share theirs.

    No labelling is constant over the training or over the test contexts."""
    rng = np.random.default_rng([subject.seed, 5])
    contexts, rows = np.unique(subject.rows.contexts, return_inverse=True)
    rows = rows.reshape(-1)
    test = np.isin(np.arange(len(contexts)), rows[subject.test])
    kept: list[np.ndarray] = []
    while len(kept) < count:
        tossed = rng.integers(0, 2, len(contexts)).astype(np.float64)
        if tossed[test].std() > 0 and tossed[~test].std() > 0:
            kept.append(tossed)
    return np.stack(kept, axis=1)[rows]


def found_in_nothing(
    subject: Subject, point: str, count: int, draws: int = 300, progress: bool | None = None
) -> pd.DataFrame:
    """A line an instrument: of `count` random labellings, how many it called structure beyond the baseline,
    by the same verdict as on a language model (against the untrained learner's ridge on the same labels), and
    how many had an interval above 0."""
    y = random_labels(subject, count)
    test = subject.test
    rival = _ridge(subject.untrained.activations[point].double().numpy(), y, subject)
    told: dict[str, Callable[[], Predictions]] = {
        "ridge": lambda: _ridge(subject.values(point), y, subject),
        "logistic": lambda: _logistic(subject.values(point), y, subject),
        "MLP": lambda: _mlp(point, y, subject),
        "PCA": lambda: _pca(subject.values(point), y, subject),
    }
    lines: list[dict[str, Any]] = []
    quiet = not (count > 50 if progress is None else progress)
    for name, predict in tqdm(told.items(), desc="random labels", unit="probe", disable=quiet, leave=False):
        said = predict()
        judged = [
            verdict(
                y[~test][:, [k]],
                y[test][:, [k]],
                _one(said, k),
                {"untrained": _one(rival, k)},
                test_clusters=subject.clusters[test],
                target_names=("label",),
                model_baselines=("untrained",),
                draws=draws,
                seed=subject.seed,
            )[0]
            for k in range(count)
        ]
        structure = sum(v.words == STRUCTURE for v in judged)
        low, high = wilson(structure, count)
        lines.append(
            {
                "learner": subject.learner,
                "point": point,
                "instrument": name,
                "labellings": count,
                "structure": structure,
                "above_0": sum(v.ci95[0] > 0 for v in judged),
                "rate": structure / count,
                "low": low,
                "high": high,
                "mean_r2": float(np.mean([v.score for v in judged])),
            }
        )
    return pd.DataFrame(lines)


def _one(said: Predictions, k: int) -> Predictions:
    return Predictions(said.out_of_fold[:, [k]], said.test[:, [k]])


def _ridge(X: np.ndarray, y: np.ndarray, subject: Subject) -> Predictions:
    test = subject.test
    fit = ridge_cv(X[~test], y[~test], clusters=subject.clusters[~test], per_target=True)
    return Predictions(fit.out_of_fold, fit.predict(X[test]))


def _pca(X: np.ndarray, y: np.ndarray, subject: Subject) -> Predictions:
    """On as many components as there are concepts."""
    test = subject.test
    made = components(X[~test])
    k = min(subject.rows.world.m, made.vectors.shape[1])
    scores, clusters = made.scores(X[~test]), subject.clusters[~test]
    (fit,) = pca_ridges(scores, y[~test], made.scores(X[test]), [k], clusters=clusters)
    return Predictions(fit.fit.out_of_fold, fit.test)


def _logistic(X: np.ndarray, y: np.ndarray, subject: Subject) -> Predictions:
    """One labelling at a time, at a middling strength: a tenth of the activations' mean variance a row."""
    test = subject.test
    train, labels = X[~test], y[~test]
    strength = [0.1 * float(train.var(axis=0).mean()) * len(train)]
    fold = group_folds(subject.clusters[~test], FOLDS, subject.seed)
    folded, tested = np.empty_like(labels), np.empty((int(test.sum()), y.shape[1]))
    for k in range(y.shape[1]):
        one = labels[:, [k]]
        for f in range(FOLDS):
            out = fold == f
            folded[out, k] = held_out(train[~out], one[~out], train[out], strength)[0, :, 0]
        tested[:, k] = held_out(train, one, X[test], strength)[0, :, 0]
    return Predictions(folded, tested)


def _mlp(point: str, y: np.ndarray, subject: Subject) -> Predictions:
    """All labellings as targets of one network, crossed over folds of whole contexts."""
    train = np.flatnonzero(~subject.test)
    fold = group_folds(subject.clusters[train], FOLDS, subject.seed)
    parts = [*(train[fold != f] for f in range(FOLDS)), train]
    settings = replace(MLP, epochs=_SHORT, decays=MLP.decays[-1:])
    held = subject.rows.activations
    jobs = [Job(point, rows, subject.seed) for rows in parts]
    fits = fit_mlps(held.__getitem__, y, subject.clusters, jobs, settings, progress=False)
    X, folded = subject.values(point), np.empty((len(train), y.shape[1]))
    for f in range(FOLDS):
        folded[fold == f] = fits[f].predict(X[train[fold == f]])
    return Predictions(folded, fits[-1].predict(X[subject.test]))
