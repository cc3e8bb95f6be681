"""Scores of predictions: pure functions of arrays, one column a target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from graticule.hooks.values import finite
from graticule.probes.scores.geo import haversine_km, proximity_error, proximity_error_1d
from graticule.probes.scores.significance import ranks


@runtime_checkable
class Described(Protocol):
    """What :func:`score` needs to know about the targets; a ``Table`` is one."""

    @property
    def kind(self) -> str:
        """``numeric``, ``binary`` or ``categorical``."""
        ...

    @property
    def target_names(self) -> tuple[str, ...]:
        """A name for each column of ``y``."""
        ...

    @property
    def units(self) -> tuple[str | None, ...]:
        """A unit for each column of ``y``; ``lat`` and ``lon`` make coordinates."""
        ...


def r2(
    y: Float[np.ndarray, "row target"], pred: Float[np.ndarray, "row target"]
) -> Float[np.ndarray, " target"]:
    """R² of every target against the mean of the **scored** rows, as scikit-learn's ``r2_score``.

    A target that is constant over the scored rows has no R²: NaN, where scikit-learn says 0 or 1.
    """
    _check(y, pred)
    total = np.square(y - y.mean(axis=0)).sum(axis=0)
    error = np.square(y - pred).sum(axis=0)
    varied = np.ptp(y, axis=0) > 0
    return np.where(varied, 1 - error / np.where(varied, total, 1.0), np.nan)


def mean_r2(y: Float[np.ndarray, "row target"], pred: Float[np.ndarray, "row target"]) -> float:
    """Uniform mean of :func:`r2` over the targets that vary; NaN if none does."""
    return mean(r2(y, pred))


def pearson(
    y: Float[np.ndarray, "row target"], pred: Float[np.ndarray, "row target"]
) -> Float[np.ndarray, " target"]:
    """Pearson correlation of every target; NaN where either side is constant."""
    _check(y, pred)
    varied = (np.ptp(y, axis=0) > 0) & (np.ptp(pred, axis=0) > 0)
    y, pred = y - y.mean(axis=0), pred - pred.mean(axis=0)
    # each by its own length: the squares of small units vanish in a product
    y, pred = (side / np.where(varied, np.sqrt(np.square(side).sum(axis=0)), 1.0) for side in (y, pred))
    return np.where(varied, (y * pred).sum(axis=0), np.nan)


def spearman(
    y: Float[np.ndarray, "row target"], pred: Float[np.ndarray, "row target"]
) -> Float[np.ndarray, " target"]:
    """Spearman rank correlation of every target (mean ranks for ties); NaN where a side is constant."""
    return pearson(ranks(y), ranks(pred))


def mae(
    y: Float[np.ndarray, "row target"], pred: Float[np.ndarray, "row target"]
) -> Float[np.ndarray, " target"]:
    """Mean absolute error of every target, in its own unit."""
    _check(y, pred)
    return np.abs(y - pred).mean(axis=0)


def auroc(
    y: Float[np.ndarray, "row target"], scores: Float[np.ndarray, "row target"]
) -> Float[np.ndarray, " target"]:
    """Area under the ROC curve of every indicator column against the rest (Mann-Whitney, ties half).

    The mean over the columns is the macro one-vs-rest score. NaN where a column holds one class only.
    """
    _check(y, scores)
    positive = y > 0.5
    count = positive.sum(axis=0).astype(np.float64)
    pairs = count * (len(y) - count)
    reached = np.where(positive, ranks(scores), 0.0).sum(axis=0)
    wins = reached - count * (count + 1) / 2
    return np.where(pairs > 0, wins / np.where(pairs > 0, pairs, 1.0), np.nan)


def accuracy(y: Float[np.ndarray, "row target"], scores: Float[np.ndarray, "row target"]) -> float:
    """Share of rows put in the right class: one column is cut at .5, several by their largest score."""
    _check(y, scores)
    if y.shape[1] == 1:
        return float(((scores > 0.5) == (y > 0.5)).mean())
    return float((scores.argmax(axis=1) == y.argmax(axis=1)).mean())


def probabilities(
    scores: Float[np.ndarray, "row target"], eps: float = 1e-3
) -> Float[np.ndarray, "row class"]:
    """Ridge outputs for indicator columns as class probabilities: clipped to [eps, 1 − eps], then divided
    by their sum. One column is P(class 1) and gives two classes. Ridge outputs are not calibrated: this is
    the plainest map to probabilities, not the best."""
    clipped = np.clip(scores, eps, 1 - eps)
    if clipped.shape[1] == 1:
        return np.concatenate([1 - clipped, clipped], axis=1)
    return clipped / clipped.sum(axis=1, keepdims=True)


def log_loss(y: Float[np.ndarray, "row target"], scores: Float[np.ndarray, "row target"]) -> float:
    """Mean negative log probability (nats) of the true class under :func:`probabilities`."""
    _check(y, scores)
    truth = (y[:, 0] > 0.5).astype(np.int64) if y.shape[1] == 1 else y.argmax(axis=1)
    return float(-np.log(probabilities(scores)[np.arange(len(y)), truth]).mean())


def score(
    y: Float[np.ndarray, "row target"], pred: Float[np.ndarray, "row target"], table: Described
) -> dict[str, Any]:
    """Every score that fits the targets: the ``test`` entry of a layer or baseline in ``findings.json``.

    Always ``r2`` (mean over targets; on indicator columns this is the Brier skill), ``r2_by_target``,
    ``spearman``, ``pearson``. Numeric: ``mae`` (name to value). One number or coordinates:
    ``proximity_error``. Coordinates: ``haversine_km`` (mean) and ``haversine_km_median``. Categories:
    ``auroc``, ``accuracy``, ``log_loss``. A score that is undefined is NaN (JSON: null).
    """
    if y.shape[1] != len(table.target_names):
        raise ValueError(f"y has {y.shape[1]} columns but there are {len(table.target_names)} target names")
    by_target = r2(y, pred)
    out: dict[str, Any] = {
        "r2": mean(by_target),
        "r2_by_target": _named(table.target_names, by_target),
        "spearman": mean(spearman(y, pred)),
        "pearson": mean(pearson(y, pred)),
    }
    if table.kind != "numeric":
        return {
            **out,
            "auroc": mean(auroc(y, pred)),
            "accuracy": accuracy(y, pred),
            "log_loss": log_loss(y, pred),
        }
    out["mae"] = _named(table.target_names, mae(y, pred))
    columns = coordinate_columns(table.units)
    if columns is not None:
        order = list(columns)
        km = haversine_km(y[:, order[0]], y[:, order[1]], pred[:, order[0]], pred[:, order[1]])
        out["proximity_error"] = float(proximity_error(y[:, order], pred[:, order]).mean())
        out["haversine_km"], out["haversine_km_median"] = float(km.mean()), float(np.median(km))
    elif y.shape[1] == 1:
        out["proximity_error"] = float(proximity_error_1d(y[:, 0], pred[:, 0]).mean())
    return out


def coordinate_columns(units: Sequence[str | None]) -> tuple[int, int] | None:
    """Indices of the latitude and the longitude column, or None unless there is one of each."""
    if units.count("lat") != 1 or units.count("lon") != 1:
        return None
    return units.index("lat"), units.index("lon")


def mean(values: Float[np.ndarray, " target"]) -> float:
    """Mean over the values that are defined; NaN if none is."""
    defined: Bool[np.ndarray, " target"] = ~np.isnan(values)
    return float(values[defined].mean()) if defined.any() else float("nan")


def _named(names: Sequence[str], values: np.ndarray) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def _check(y: np.ndarray, pred: np.ndarray) -> None:
    """Raises:
    ValueError: Without rows.
    NonFiniteError: For targets or predictions that are no numbers: a class is not chosen, and a target
        not left out, because of a NaN.
    """
    if len(y) == 0:
        raise ValueError("no rows to score: the split is empty")
    finite("targets", y, lambda row: f"in row {row} of those scored")
    finite("predictions", pred, lambda row: f"in row {row} of those scored")


FEW = "so few test rows"
"""What there is too little of, where the number is not at hand."""


def count_of(number: int, what: str) -> str:
    """`2 test rows`, `1 test row`: the plural is of the last word."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def number_text(value: float, digits: int = 3) -> str:
    """`0.123`, or `undefined`."""
    return "undefined" if value != value else f"{value:z.{digits}f}"


def signed(value: float, why: str, digits: int = 3) -> str:
    """`+0.123`, or that it is undefined with what there is: `why` is `2 test rows`."""
    return f"undefined with {why}" if value != value else f"{value:+z.{digits}f}"


def with_interval(value: float, interval: tuple[float, float], why: str, digits: int = 3) -> str:
    """`+0.123 [+0.100, +0.150]`, or what of it is undefined.

    Args:
        value: The figure.
        interval: Its ends.
        why: What there is too little of, `2 test rows`.
        digits: Behind the point.

    Returns:
        Words without a NaN.
    """
    low, high = interval
    if value != value:
        return signed(value, why)
    if low != low or high != high:
        return f"{value:+z.{digits}f}, its interval undefined with {why}"
    return f"{value:+z.{digits}f} [{low:+z.{digits}f}, {high:+z.{digits}f}]"


def share_below(
    among: Float[np.ndarray, "train target"], values: Float[np.ndarray, "row target"]
) -> Float[np.ndarray, "row target"]:
    """The share of each column of `among` below each value, ties by half: ranks among training rows."""
    columns = [
        (np.searchsorted(own, given, "left") + np.searchsorted(own, given, "right")) / (2 * len(own))
        for own, given in zip(np.sort(among, axis=0).T, values.T, strict=True)
    ]
    return np.stack(columns, axis=1)
