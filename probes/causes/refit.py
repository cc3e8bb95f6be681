"""Ridge refits whose out-of-fold predictions hold whole folds out: for activations that may hold nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

_FACTORS = (0.1, 1.0, 10.0, 100.0, 1e3, 1e4)


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
    other rows, from which a stack would learn the row's own target. One Cholesky factor a fold and strength.
    """
    scale, centre = y.std(axis=0), X.mean(axis=0)
    rows = X - centre  # sums of centred rows keep their digits
    whole = _sums(rows, y)
    labels = np.unique(folds)
    errors = np.zeros(len(_FACTORS))
    held = np.empty((len(_FACTORS), *y.shape))
    for label in labels:
        out = folds == label
        rest = whole.without(_sums(rows[out], y[out]))
        for k, factor in enumerate(_FACTORS):
            coef, intercept = rest.solve(alpha * factor * (rest.n / whole.n))
            held[k, out] = rows[out] @ coef + intercept
            errors[k] += float(np.square((held[k, out] - y[out]) / scale).sum())
    best = int(errors.argmin())
    coef, intercept = whole.solve(alpha * _FACTORS[best])
    return Refit(coef, intercept - centre @ coef, held[best])


def ridge_at(
    X: Float[np.ndarray, "row width"], y: Float[np.ndarray, "row target"], alpha: float
) -> tuple[Float[np.ndarray, "width target"], Float[np.ndarray, " target"]]:
    """Coefficients and intercept at one strength."""
    centre = X.mean(axis=0)
    coef, intercept = _sums(X - centre, y).solve(alpha)
    return coef, intercept - centre @ coef


@dataclass(frozen=True)
class _Sums:
    """All that a ridge with intercept depends on; differences of sums are the sums of the other rows."""

    n: float
    x: np.ndarray
    y: np.ndarray
    xx: np.ndarray
    xy: np.ndarray

    def without(self, part: _Sums) -> _Sums:
        return _Sums(self.n - part.n, self.x - part.x, self.y - part.y, self.xx - part.xx, self.xy - part.xy)

    def solve(self, alpha: float) -> tuple[np.ndarray, np.ndarray]:
        from scipy.linalg import cho_factor, cho_solve

        x_mean, y_mean = self.x / self.n, self.y / self.n
        gram = self.xx - self.n * np.outer(x_mean, x_mean)
        gram[np.diag_indices_from(gram)] += alpha
        cross = self.xy - self.n * np.outer(x_mean, y_mean)
        coef = cho_solve(cho_factor(gram, overwrite_a=True), cross)
        return coef, y_mean - x_mean @ coef


def _sums(X: np.ndarray, y: np.ndarray) -> _Sums:
    return _Sums(float(len(X)), X.sum(axis=0), y.sum(axis=0), X.T @ X, X.T @ y)
