"""Erasers and the probes fitted after them: at every point on halves of the training rows, and at the layers
behind an eraser that was put into the model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from graticule.hooks.messages import bar
from graticule.hooks.points import layer_of
from graticule.hooks.protocols import HookedModel
from graticule.hooks.running.session import packed, undisturbed
from graticule.hooks.tokens import TokenRows
from graticule.probes.causes.alike import some_rows
from graticule.probes.causes.edited_runs import EditedRuns
from graticule.probes.core.findings import Findings
from graticule.probes.core.fit import Predictions
from graticule.probes.core.judge import judge_predictions
from graticule.probes.core.replay import other_token, replay_spec, row_tokens
from graticule.probes.core.verdict import JudgeSettings, Verdict
from graticule.probes.linear.leace import Covariance, Eraser, matched_erasers, whitened_frame
from graticule.probes.linear.moments import Moments
from graticule.probes.linear.ridge_cv import ridge_cv
from graticule.probes.scores.metrics import r2

_FOLDS = 5
_FACTORS = (0.1, 1.0, 10.0, 100.0, 1e3, 1e4)


# On fresh rows -----------------------------------------------------------------------------------------
class FreshProbes:
    """Training clusters in two halves: erasers are fitted on the first, probes on the second."""

    def __init__(self, findings: Findings, erased: list[int], seed: int) -> None:
        self.findings, self.inputs, self.erased, self.seed = findings, findings.inputs, erased, seed
        self.metric, self.min_gain = findings.verdict.metric, findings.inputs.min_gain
        problem = self.inputs.problem
        self.train, self.test = problem.train, problem.test
        self.y = problem.y[self.train]
        rng = np.random.default_rng(seed)
        labels, codes = np.unique(problem.clusters[self.train], return_inverse=True)
        half = np.zeros(len(labels), np.int64)
        half[rng.permutation(len(labels))[: len(labels) // 2]] = 1
        self.first, self.second = np.flatnonzero(half[codes] == 0), np.flatnonzero(half[codes] == 1)
        self.folds = rng.integers(0, _FOLDS, len(labels))[codes]

    @property
    def settings(self) -> JudgeSettings:
        """How gains are judged: as the findings', but by R² where some of several classes are erased."""
        every, inputs = len(self.findings.target_names), self.inputs
        judged_by = inputs.settings if len(self.erased) in (1, every) else inputs.in_r2.settings
        if self.findings.kind == "categorical" and len(self.erased) == 1:  # that class against the rest
            judged_by = replace(judged_by, min_gain=None)
        return replace(judged_by, seed=self.seed)

    def line(self, point: str) -> dict[str, Any]:
        """Everything about one point."""
        X = self.inputs.rows(point)
        train, test = X[self.train], X[self.test]
        alpha = self.findings.probes[point].alpha
        covariance = Covariance.of(train[self.first])
        fresh = Eraser.fit(train[self.first], self.y[self.first][:, self.erased], covariance=covariance)
        whole = Eraser.fit(train, self.y[:, self.erased])
        rng = np.random.default_rng([self.seed, 1])
        control = matched_erasers(covariance, whitened_frame(covariance, fresh), 1, rng)[0]
        coef, intercept = ridge_at(whole.apply(train), self.y, alpha)

        def erased_by(eraser: Eraser) -> Predictions:
            return self._probe(eraser.apply(train[self.second]), eraser.apply(test), alpha)

        judged = {"before": self._probe(train[self.second], test, alpha), "after": erased_by(fresh)}
        scored = {name: predictions.test for name, predictions in judged.items()}
        scored |= {"same": whole.apply(test) @ coef + intercept, "control": erased_by(control).test}
        line: dict[str, Any] = {
            "layer": layer_of(point),
            "point": point,
            "rank": whole.rank,
            "removed": whole.removed / float(train.var(axis=0).sum()),
        }
        truth = self.inputs.problem.y[self.test]
        for name, predicted in scored.items():
            scores = r2(truth, predicted)
            targets = self.findings.target_names
            line |= {f"{name}_{t}": float(v) for t, v in zip(targets, scores, strict=True)}
        for name, predictions in judged.items():
            gained = self._judge(predictions)
            line[f"gain_{name}"] = gained.gain
            line[f"gain_{name}_low"], line[f"gain_{name}_high"] = gained.ci95
            line[f"words_{name}"] = gained.label
            self.metric, self.min_gain = gained.metric, gained.min_gain
        return line

    def _probe(
        self, train: Float[np.ndarray, "half width"], test: Float[np.ndarray, "test width"], alpha: float
    ) -> Predictions:
        """A ridge on the second half of the training rows, applied to the test rows."""
        rows = self.second
        fit = refit(train, self.y[rows], self.folds[rows], alpha / 2)
        return Predictions(fit.out_of_fold, fit.predict(test))

    def _judge(self, predictions: Predictions) -> Verdict:
        """The gain over the surface of the erased targets, the stack fitted on the second half."""
        rows, columns = self.second, self.erased
        judged = judge_predictions(
            self.inputs.problem.part(rows, columns),
            predictions.part(targets=columns),
            {name: p.part(rows, columns) for name, p in self.inputs.baseline_predictions.items()},
            self.settings,
            model_baselines=self.inputs.model_baselines,
        )
        return self.inputs.gates.through(judged)


# Behind an eraser in the model -------------------------------------------------------------------------
def reprobe_later(
    model: HookedModel,
    findings: Findings,
    point: str,
    erased: list[int],
    *,
    rows: int,
    seed: int,
    progress: bool | None,
) -> pd.DataFrame:
    """Test R² of ridge probes at every later point, in the model as it is and with the concept erased.

    The eraser is fitted on all training rows at `point` and applied at the captured positions; probes are
    fitted on at most `rows` training rows and scored on at most a third as many test rows, the same ones with
    and without. Empty where no captured point lies later.

    Raises:
        ValueError: for activations whose rows are not single tokens of the table's texts.
    """
    inputs, names = findings.inputs, findings.target_names
    layer = layer_of(point)
    later = [p for p in findings.probes if (layer_of(p) or 0) > (-1 if layer is None else layer)]
    if not later:
        return pd.DataFrame(columns=["layer", "point"])
    problem = inputs.problem
    rng = np.random.default_rng(seed)
    train = some_rows(problem.train, rows, rng)
    chosen = np.concatenate([train, some_rows(problem.test, max(rows // 3, 2), rng)])
    eraser = Eraser.fit(inputs.rows(point, problem.train), problem.y[problem.train][:, erased])
    ids, position = captured_tokens(model, findings, chosen)
    with undisturbed(model), packed(model):
        edited = [np.array([p]) for p in position]
        runs = EditedRuns(model, ids, point, edited, position, later, logits=False)
        read = {"before": runs.run().later, "after": runs.run(eraser.edit).later}
    y, n = problem.y[chosen], len(train)
    lines: list[dict[str, Any]] = []
    with bar(len(later) * len(read), "probing later layers", "probe", progress) as done:
        for place in later:
            line: dict[str, Any] = {"layer": layer_of(place), "point": place}
            for when, activations in read.items():
                X = activations[place].to(torch.float64).numpy()
                probe = ridge_cv(X[:n], y[:n], clusters=problem.clusters[train], names=names)
                scores = r2(y[n:], probe.predict(X[n:]))
                line |= {f"{when}_{t}": float(v) for t, v in zip(names, scores, strict=True)}
                done.update()
            lines.append(line)
    return pd.DataFrame(lines)


def captured_tokens(
    model: HookedModel, findings: Findings, rows: Int[np.ndarray, " row"]
) -> tuple[TokenRows, Int[np.ndarray, " row"]]:
    """Tokens and position of some activation rows, as they were captured.

    Raises:
        ValueError: where they do not belong to texts of the table, or to other tokens than these.
    """
    inputs, frame = findings.inputs, findings.inputs.activations.rows
    if inputs.table.texts is None or "position" not in frame or "token" not in frame:
        raise ValueError("these activations do not say which token of which text they are: capture them anew")
    spec = replay_spec(findings, model)
    tokens = row_tokens(findings, model, spec, rows)
    if (reason := other_token(tokens, frame.iloc[rows], inputs.problem.source[rows])) is not None:
        raise ValueError(reason)
    position = frame["position"].to_numpy(np.int64)[rows]
    return tokens, position


# Ridge by whole folds ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Refit:
    """A ridge and its out-of-fold predictions."""

    coef: Float[np.ndarray, "width target"]
    """Target units per activation unit."""
    intercept: Float[np.ndarray, " target"]
    """Target units."""
    out_of_fold: Float[np.ndarray, "row target"]
    """Each row predicted by the fit without its fold."""

    def predict(self, X: Float[np.ndarray, "row width"]) -> Float[np.ndarray, "row target"]:
        """In target units."""
        return X @ self.coef + self.intercept


def refit(
    X: Float[np.ndarray, "row width"],
    y: Float[np.ndarray, "row target"],
    folds: Int[np.ndarray, " row"],
    alpha: float,
) -> Refit:
    """Ridge of `y` on `X`, its strength chosen by whole folds among a tenth to 10⁴ times `alpha`.

    Folds, not leave-one-out: where nothing is left to read, a leave-one-out prediction is the mean of the
    other rows, from which a stack would learn the row's own target. One factor per fold and strength.
    """
    scale, centre, n, y_sum = y.std(axis=0), X.mean(axis=0), len(y), y.sum(axis=0)
    rows = X - centre  # sums of centred rows keep their digits
    whole = _moments(rows, y)
    errors = np.zeros(len(_FACTORS))
    predicted = np.empty((len(_FACTORS), *y.shape))
    for label in np.unique(folds):
        out = folds == label
        rest = whole.without(_moments(rows[out], y[out]))
        n_rest, y_rest = n - int(out.sum()), y_sum - y[out].sum(axis=0)
        for k, factor in enumerate(_FACTORS):
            coef, intercept = _solve(rest, n_rest, y_rest, alpha * factor * (n_rest / n))
            predicted[k, out] = rows[out] @ coef + intercept
            errors[k] += float(np.square((predicted[k, out] - y[out]) / scale).sum())
    best = int(errors.argmin())
    coef, intercept = _solve(whole, n, y_sum, alpha * _FACTORS[best])
    return Refit(coef, intercept - centre @ coef, predicted[best])


def ridge_at(
    X: Float[np.ndarray, "row width"], y: Float[np.ndarray, "row target"], alpha: float
) -> tuple[Float[np.ndarray, "width target"], Float[np.ndarray, " target"]]:
    """Coefficients and intercept at one strength."""
    centre = X.mean(axis=0)
    coef, intercept = _solve(_moments(X - centre, y), len(y), y.sum(axis=0), alpha)
    return coef, intercept - centre @ coef


def _moments(X: np.ndarray, y: np.ndarray) -> Moments:
    moments = Moments.none(X.shape[1], y.shape[1])
    moments.add(X, y)
    return moments


def _solve(moments: Moments, n: int, y_sum: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients and intercept of a ridge on the `n` rows that the moments are of."""
    from scipy.linalg import cho_factor, cho_solve

    about_mean, y_mean = moments.copy(), y_sum / n
    x_mean = about_mean.centre(n, y_mean)
    about_mean.gram[np.diag_indices_from(about_mean.gram)] += alpha
    coef = cho_solve(cho_factor(about_mean.gram, overwrite_a=True), about_mean.xy)
    return coef, y_mean - x_mean @ coef
