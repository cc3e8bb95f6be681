"""The probes of a language model pointed at one learner: what they read, and what random labels give them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from tqdm.auto import tqdm

from graticule.certificate.learners import Subject, noisy_reader
from graticule.probes.beyond.pca import components, pca_ridges
from graticule.probes.core.findings import Findings
from graticule.probes.core.fit import Predictions, Problem, fit_points
from graticule.probes.core.inputs import problem_of
from graticule.probes.core.judge import judge_predictions
from graticule.probes.core.resample import wilson
from graticule.probes.core.sweep import sweep
from graticule.probes.core.verdict import STRUCTURE, JudgeSettings
from graticule.probes.linear.logistic import held_out, logistic_cv
from graticule.probes.linear.ridge import cosines
from graticule.probes.linear.ridge_cv import ridge_cv
from graticule.probes.mlp import MLPJob, MLPSettings, fit_mlps
from graticule.probes.scores.metrics import r2
from graticule.probes.surface.baselines import Baselines, text_digest
from graticule.probes.tables.groups import group_folds
from graticule.probes.tables.table import Table

UNTRAINED = "twin_untrained"
"""The name of the only baseline: the learner before its training."""
MLP = MLPSettings(hidden=128, decays=(0.01, 0.1), batch=128, epochs=200, patience=30, learning_rate=1e-2)
"""A few thousand rows need more passes and longer steps than a language model's tens of thousands."""
FOLDS = 3
_SHORT = 20  # epochs of an MLP on labels that mean nothing: it overfits sooner than that


def readings(
    subject: Subject, pairs: Sequence[tuple[int, int]], points: Sequence[str] | None = None
) -> dict[str, pd.DataFrame]:
    """What the probes say of one learner: ridge at every point; logistic, MLP and PCA probes at `points`, by
    default at all.

    Returns:
        `concepts`, one row per point and concept; `parities`, per point and pair; `components`, per point and
        number of principal components; `verdicts`, of the sweep over all points and of each block's end.
    """
    chosen = tuple(subject.points if points is None else points)
    findings = sweep_subject(subject)
    parts = [(p, _concepts(subject, findings, p)) for p in subject.points]
    networks = mlp_predictions(subject, pairs, chosen)
    m = subject.rows.world.m
    truth = subject.posteriors[subject.test]
    lines: list[pd.DataFrame] = []
    curves: list[pd.DataFrame] = []
    for point, part in parts:
        if point in chosen:
            part["logistic_r2"] = r2(truth, logistic_probabilities(subject, point))
            part["mlp_r2"] = r2(truth, networks[point][:, :m])
            curve = principal(subject, point)
            part["pca_r2"] = curve.loc[curve["k"] == curve["k"].max(), "probe"].iloc[0]
            curves.append(curve)
        else:
            part[["logistic_r2", "mlp_r2", "pca_r2"]] = np.nan
        lines.append(part)
    verdicts = [_verdict(findings, chosen=True)]
    ends = [p for p in subject.points if p.endswith("resid_post") and p != findings.chosen_point]
    verdicts += [_verdict(sweep_subject(subject, (end,)), chosen=False) for end in ends]
    tables = {
        "concepts": pd.concat(lines),
        "parities": pd.concat([_parities(subject, pairs, p, networks[p][:, m:]) for p in chosen]),
        "components": pd.concat(curves),
        "verdicts": pd.DataFrame(verdicts),
    }
    return {name: _marked(table, subject) for name, table in tables.items()}


def _verdict(findings: Findings, chosen: bool) -> dict[str, Any]:
    judged = findings.verdict
    figures = {
        "words": judged.label,
        **{name: getattr(judged, name) for name in ("score", "surface", "gain")},
    }
    low, high = judged.ci95
    return {
        "point": findings.chosen_point,
        "chosen": chosen,
        "words": judged.label,
        **figures,
        "low": low,
        "high": high,
    }


def _marked(table: pd.DataFrame, subject: Subject) -> pd.DataFrame:
    """A table with the learner and its condition in front."""
    out = table.reset_index(drop=True)
    for name in ("masks", "width", "level", "condition", "learner"):
        out.insert(0, name, getattr(subject, name))
    return out


# Ridge -----------------------------------------------------------------------------------------------
def sweep_subject(subject: Subject, points: Sequence[str] | None = None) -> Findings:
    """`graticule.sweep` of all posteriors over all points or some, against the untrained learner."""
    rows, before = subject.rows.activations, subject.untrained.activations
    if points is not None:
        rows, before = rows.select(points=points), before.select(points=points)
    table = Table(rows.rows, target=subject.rows.targets()[0], name="contexts")
    surface = Baselines(text_digest(table), {UNTRAINED: before}, strings=False)
    return sweep(
        rows,
        subject.posteriors,
        baselines=surface,
        split=subject.test,
        cluster="context",
        n_bootstrap=1000,
        seed=subject.seed,
        progress=False,
    )


def _concepts(subject: Subject, findings: Findings, point: str) -> pd.DataFrame:
    """R² of the ridge and of the best linear reader; both directions against the truth."""
    probe, best = findings.probes[point], subject.reader(point)
    predicted = probe.predict(subject.values(point)[subject.test])
    truth = subject.every.write_directions(point)
    metric = subject.covariance(point)
    return pd.DataFrame(
        {
            "point": point,
            "concept": np.arange(subject.rows.world.m),
            "ridge_r2": r2(subject.posteriors[subject.test], predicted),
            "best_r2": best.r2,
            "untrained_r2": _untrained(subject, findings, point),
            "write_cosine": cosines(probe.write_direction, truth),
            "write_best": cosines(best.write, truth),
            "read_cosine": cosines(probe.read_direction, best.coef),
            "read_agreement": agreement(probe.read_direction, best.coef, metric),
        }
    )


def _untrained(subject: Subject, findings: Findings, point: str) -> np.ndarray:
    swept = findings.inputs
    problem = problem_of(subject.rows.activations, swept.table, swept.problem.source)
    before = subject.untrained.activations.select(points=point)
    (fit,) = fit_points(before, problem, progress=False)
    return r2(problem.y[problem.test], fit.test)


def agreement(
    read: Float[np.ndarray, "width target"],
    best: Float[np.ndarray, "width target"],
    covariance: Float[np.ndarray, "width width"],
) -> Float[np.ndarray, " target"]:
    """Cosine of two readers on the activations' own covariance: the correlation of what they read.

    Where activations fill fewer dimensions than there are, coefficients are settled only up to directions in
    which nothing varies, and the plain cosine says nothing."""
    shared = (read * (covariance @ best)).sum(axis=0)
    spread = (read * (covariance @ read)).sum(axis=0) * (best * (covariance @ best)).sum(axis=0)
    return np.divide(shared, np.sqrt(spread), out=np.full(len(shared), np.nan), where=spread > 0)


# The others ------------------------------------------------------------------------------------------
def logistic_probabilities(subject: Subject, point: str) -> Float[np.ndarray, "test m"]:
    """P(C_i = 1) of test rows by logistic probes that saw, as on a language model, labels alone: on every
    training row a value of the concept, drawn from its posterior."""
    rng = np.random.default_rng([subject.seed, 4])
    X, test = subject.values(point), subject.test
    labels = (rng.random(subject.posteriors.shape) < subject.posteriors).astype(np.float64)
    out = np.empty((int(test.sum()), labels.shape[1]))
    train = X[~test]
    for i, y in enumerate(labels[~test].T):
        fit = logistic_cv(train, y[:, None], subject.clusters[~test], seed=subject.seed, progress=False)
        out[:, i] = fit.predict(X[test])[:, 0]
    return out


def mlp_predictions(
    subject: Subject, pairs: Sequence[tuple[int, int]], points: Sequence[str]
) -> dict[str, Float[np.ndarray, "test target"]]:
    """Of an MLP a point that is to say all posteriors and parities of pairs at once."""
    y = np.concatenate([subject.posteriors, subject.parities(pairs)], axis=1)
    train = np.flatnonzero(~subject.test)
    jobs = [MLPJob(point, train, subject.seed) for point in points]
    activations = subject.rows.activations.__getitem__
    fits = fit_mlps(activations, y, subject.clusters, jobs, MLP, progress=False)
    return {fit.point: fit.predict(subject.values(fit.point)[subject.test]) for fit in fits}


def principal(subject: Subject, point: str) -> pd.DataFrame:
    """Ridges on the first k principal components, and the best reader of the first k of all contexts."""
    X, test = subject.values(point), subject.test
    made = components(X[~test])
    most = made.vectors.shape[1]
    m = subject.rows.world.m
    ks = sorted({k for k in (1, 2, m // 2, m) if 0 < k < most} | {most})
    fits = pca_ridges(
        made.scores(X[~test]),
        subject.posteriors[~test],
        made.scores(X[test]),
        ks,
        clusters=subject.clusters[~test],
    )
    covariance = subject.covariance(point)
    axes = np.linalg.eigh(covariance)[1][:, ::-1]
    # the best reader that sees activations along a few axes alone
    sd = max(subject.noise[point], 1e-6 * float(np.sqrt(np.trace(covariance))))
    every, targets = subject.every.activations[point].double().numpy(), subject.every.targets()[1]
    best = [noisy_reader(every @ axes[:, : f.k], targets, subject.every.weights, sd) for f in fits]
    return pd.DataFrame(
        {
            "point": point,
            "k": [f.k for f in fits],
            "probe": [float(r2(subject.posteriors[test], f.test).mean()) for f in fits],
            "truth": [float(reader.r2.mean()) for reader in best],
        }
    )


# Present but not linear ------------------------------------------------------------------------------
def _parities(
    subject: Subject, pairs: Sequence[tuple[int, int]], point: str, network: np.ndarray
) -> pd.DataFrame:
    """What ridge and MLP read of parities, and what the best linear reader could."""
    y, test = subject.parities(pairs), subject.test
    X = subject.values(point)
    fit = ridge_cv(X[~test], y[~test], clusters=subject.clusters[~test], per_target=True)
    best = subject.reader(point, subject.true_parities(pairs))
    return pd.DataFrame(
        {
            "point": point,
            "pair": [f"{i}, {j}" for i, j in pairs],
            "ridge": r2(y[test], fit.predict(X[test])),
            "mlp": r2(y[test], network),
            "best_linear": best.r2,
        }
    )


# Random labels ---------------------------------------------------------------------------------------
def random_labels(subject: Subject, count: int) -> Float[np.ndarray, "row labelling"]:
    """Every context's label by the toss of a coin, `count` times: rows of one context share theirs.

    No labelling is constant over the training or over the test contexts."""
    rng = np.random.default_rng([subject.seed, 5])
    contexts, rows = np.unique(subject.rows.contexts, return_inverse=True)
    rows = rows.reshape(-1)
    test = np.isin(np.arange(len(contexts)), rows[subject.test])
    labellings: list[np.ndarray] = []
    while len(labellings) < count:
        tossed = rng.integers(0, 2, len(contexts)).astype(np.float64)
        if tossed[test].std() > 0 and tossed[~test].std() > 0:
            labellings.append(tossed)
    return np.stack(labellings, axis=1)[rows]


def found_in_nothing(
    subject: Subject, point: str, count: int, n_bootstrap: int = 300, progress: bool | None = None
) -> pd.DataFrame:
    """One row per instrument: of `count` random labellings, how many it called structure beyond the baseline,
    by the same verdict as on a language model (against the untrained learner's ridge on the same labels), and
    how many had an interval above 0."""
    y = random_labels(subject, count)
    test = subject.test
    baseline = _ridge(subject.untrained.activations[point].double().numpy(), y, subject)
    predictors: dict[str, Callable[[], Predictions]] = {
        "ridge": lambda: _ridge(subject.values(point), y, subject),
        "logistic": lambda: _logistic(subject.values(point), y, subject),
        "MLP": lambda: _mlp(point, y, subject),
        "PCA": lambda: _pca(subject.values(point), y, subject),
    }
    lines: list[dict[str, Any]] = []
    quiet = not (count > 50 if progress is None else progress)
    for name, predict in tqdm(
        predictors.items(), desc="random labels", unit="probe", disable=quiet, leave=False
    ):
        predictions = predict()
        judged = [
            judge_predictions(
                Problem(np.arange(len(y)), y[:, [k]], test, subject.clusters, ("label",)),
                predictions.part(targets=[k]),
                {"untrained": baseline.part(targets=[k])},
                JudgeSettings(n_bootstrap=n_bootstrap, seed=subject.seed),
                model_baselines=("untrained",),
            )
            for k in range(count)
        ]
        structure = sum(v.label == STRUCTURE for v in judged)
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
    jobs = [MLPJob(point, rows, subject.seed) for rows in parts]
    activations = subject.rows.activations.__getitem__
    fits = fit_mlps(activations, y, subject.clusters, jobs, settings, progress=False)
    X, folded = subject.values(point), np.empty((len(train), y.shape[1]))
    for f in range(FOLDS):
        folded[fold == f] = fits[f].predict(X[train[fold == f]])
    return Predictions(folded, fits[-1].predict(X[subject.test]))
