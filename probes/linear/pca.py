"""PCA probes: a ridge on the first k principal components, for many k.

Components are fitted on training rows only (the space-and-time paper's code fits them on test rows too).
Rotated into components, the ridge on the first k of them is a ridge on the first k columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from graticule.probes.linear.moments import Axes
from graticule.probes.linear.ridge_cv import RidgeFit, ridge_cv

KS = (2, 4, 6, 8, 10, 15, 20, 30, 40, 50, 75, 100)
"""Numbers of components of Gurnee & Tegmark's figure 4; the full width is added."""


@dataclass(frozen=True)
class PCAFit:
    """A ridge on the first `k` components."""

    k: int
    """How many."""
    fit: RidgeFit
    """In component coordinates, its strength chosen out of fold."""
    test: Float[np.ndarray, "test target"]
    """Predictions of the test rows, in target units."""


def components(X: Float[np.ndarray, "row width"]) -> Axes:
    """Components of `X` with variance in them: at most the smaller of rows − 1 and width.

    Raises:
        ValueError: No coordinate varies.
    """
    axes = Axes.of(X)
    if not len(axes.squares):
        raise ValueError("the activations are the same in every training row: there are no components")
    return axes


def pca_ridges(
    scores: Float[np.ndarray, "train component"],
    y: Float[np.ndarray, "train target"],
    test: Float[np.ndarray, "test component"],
    ks: Sequence[int],
    *,
    alphas: Sequence[float] | None = None,
    clusters: Int[np.ndarray, " train"] | None = None,
    names: Sequence[str] = (),
) -> list[PCAFit]:
    """A ridge on the first k columns of `scores` for every k, each with its own strength.

    The components have seen the rows that the out-of-fold error holds out, though not their targets.

    Raises:
        ValueError: A k below 1 or beyond the components, or as `ridge_cv` does.
    """
    done: list[PCAFit] = []
    for k in ks:
        if not 1 <= k <= scores.shape[1]:
            raise ValueError(f"k={k}: there are {scores.shape[1]} components")
        fit = ridge_cv(scores[:, :k], y, alphas=alphas, clusters=clusters, names=names)
        done.append(PCAFit(k, fit, fit.predict(test[:, :k])))
    return done
