"""Ridge on the TF-IDF of some texts: terms counted once, then any targets at any strengths, fold by fold."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from tqdm.auto import tqdm

from graticule.hooks.imports import load
from graticule.probes.core.fit import Predictions
from graticule.probes.linear.sparse import (
    dual_ridge,
    duals_fit_in_memory,
    is_small,
    kernel_smoothers,
    product_duals,
)
from graticule.probes.scores.metrics import mean_r2
from graticule.probes.tables.groups import group_folds

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TermCounts:
    """Terms of all texts, counted once; any fold's TF-IDF is a choice of columns and their weights."""

    blocks: tuple[Any, ...]
    """Counts [row, term] of word 1-2 grams and of char_wb 2-5 grams, sparse."""
    n_train: int
    """The first rows, from which folds are taken."""

    @classmethod
    def of(cls, texts: Sequence[str], n_train: int) -> TermCounts:
        """Count the terms of all texts, training rows first."""
        load("scipy.sparse")
        import scipy.sparse as sp

        load("sklearn.feature_extraction.text")
        from sklearn.feature_extraction.text import CountVectorizer

        blocks: list[Any] = []
        kinds: list[dict[str, Any]] = [
            {"analyzer": "word", "ngram_range": (1, 2)},
            {"analyzer": "char_wb", "ngram_range": (2, 5)},
        ]
        for kind in kinds:
            settings: dict[str, Any] = {"lowercase": True, "dtype": np.float64, **kind}
            try:
                blocks.append(CountVectorizer(**settings).fit_transform(texts))
            except ValueError as error:  # no text holds a term of this kind
                if "empty vocabulary" not in str(error):
                    raise
                blocks.append(sp.csr_matrix((len(texts), 0)))
        return cls(tuple(sp.csr_matrix(block) for block in blocks), n_train)

    def matrix(self, fit_rows: Int[np.ndarray, " fit"], min_df: int) -> Any:
        """TF-IDF of every row with vocabulary and document frequencies of ``fit_rows`` alone.

        Equal to scikit-learn's ``TfidfVectorizer(min_df=…)`` fitted on those rows: terms that fewer than
        ``min_df`` of them hold are dropped, frequencies smoothed, each block's rows set to length 1.
        """
        load("scipy.sparse")
        import scipy.sparse as sp

        load("sklearn.preprocessing")
        from sklearn.preprocessing import normalize

        parts: list[Any] = []
        for counts in self.blocks:
            frequency = np.bincount(counts[fit_rows].indices, minlength=counts.shape[1])
            frequent = np.flatnonzero(frequency >= min_df)
            if len(frequent) == 0:
                continue
            inverse = np.log((1 + len(fit_rows)) / (1 + frequency[frequent])) + 1
            parts.append(normalize(counts[:, frequent] @ sp.diags_array(inverse), norm="l2"))
        return sp.csr_matrix(sp.hstack(parts) if parts else (self.blocks[0].shape[0], 0))

    def n_terms(self, rows: Int[np.ndarray, " row"], min_df: int) -> int:
        """How many terms at least ``min_df`` of the rows hold."""
        frequencies = [np.bincount(block[rows].indices, minlength=block.shape[1]) for block in self.blocks]
        return int(sum((frequency >= min_df).sum() for frequency in frequencies))

    def usable_df(self, min_df: int) -> int:
        """``min_df``, or 1 where no term of the training rows is that frequent (a warning is logged)."""
        rows = np.arange(self.n_train)
        if self.n_terms(rows, min_df):
            return min_df
        if self.n_terms(rows, 1):
            logger.warning("TF-IDF: no term is in %d training texts; taking all of them (min_df 1)", min_df)
            return 1
        logger.warning("TF-IDF: the training texts hold no terms; predicting the training mean")
        return min_df


@dataclass(frozen=True)
class Smoother:
    """How the predictions of some rows follow from the targets of others, at each strength."""

    fit: Int[np.ndarray, " fit"]
    """Training rows that are learned from."""
    wanted: Int[np.ndarray, " wanted"]
    """Rows that are predicted; test rows are numbered after the training rows."""
    weights: Shaped[np.ndarray, "alpha wanted fit"]
    """Of the targets less their mean."""

    def predict(self, z: Float[np.ndarray, "target train"]) -> Float[np.ndarray, "alpha target wanted"]:
        """Predictions of the wanted rows."""
        if not len(self.fit):  # a single cluster leaves no other rows to learn from
            return np.zeros((len(self.weights), len(z), len(self.wanted)))
        offset = z[:, self.fit].mean(axis=1, keepdims=True)
        centred = (z[:, self.fit] - offset).astype(self.weights.dtype)
        return np.stack([centred @ weights.T for weights in self.weights]) + offset


@dataclass(frozen=True)
class StringRidge:
    """Ridge on TF-IDF for any targets: out of fold on training rows, and from all of them on test rows."""

    counts: TermCounts
    """Terms of training and test rows."""
    fold: Int[np.ndarray, " train"]
    """The fold of each training row; clusters stay whole."""
    n_test: int
    """Test rows, after the training rows."""
    min_df: int
    """Terms that fewer rows of a fit hold are dropped."""

    @classmethod
    def of(
        cls,
        texts_train: Sequence[str],
        clusters_train: Int[np.ndarray, " train"],
        texts_test: Sequence[str],
        *,
        folds: int = 5,
        seed: int = 0,
        min_df: int = 2,
    ) -> StringRidge:
        """Count the terms and deal the training clusters into folds."""
        counts = TermCounts.of([*texts_train, *texts_test], len(texts_train))
        fold = group_folds(clusters_train, folds, seed)
        return cls(counts, fold, len(texts_test), counts.usable_df(min_df))

    @property
    def n_folds(self) -> int:
        """Folds in use: never more than clusters."""
        return int(self.fold.max()) + 1

    @property
    def n_terms(self) -> int:
        """Terms of the fit on all training rows."""
        return self.counts.n_terms(np.arange(len(self.fold)), self.min_df)

    def features(self) -> Any:
        """TF-IDF [training and test row, term] with the vocabulary of all training rows, sparse."""
        return self.counts.matrix(np.arange(len(self.fold)), self.min_df)

    def out_of_fold(
        self,
        z: Float[np.ndarray, "train target"],
        alphas: Float[np.ndarray, " alpha"],
        bar: Any = None,
        tol: float = 1e-6,
    ) -> Float[np.ndarray, "alpha train target"]:
        """Predictions of every training row by the fit on the other folds, in single precision.

        ``bar`` is a tqdm bar to be moved on by one a fold.
        """
        # single precision, in standard deviations, is far below any noise here
        out = np.zeros((len(alphas), *z.shape), np.float32)
        for k in range(self.n_folds):
            inside, outside = np.flatnonzero(self.fold != k), np.flatnonzero(self.fold == k)
            if len(inside):  # a single cluster leaves no other rows to learn from
                out[:, outside] = self._fit_predict(inside, z, outside, alphas, tol)
            if bar is not None:
                bar.update()
        return out

    def test(
        self, z: Float[np.ndarray, "train target"], alphas: Float[np.ndarray, " alpha"], tol: float = 1e-6
    ) -> Float[np.ndarray, "alpha test target"]:
        """Predictions of every test row by the fit on all training rows."""
        n = len(self.fold)
        return self._fit_predict(np.arange(n), z, np.arange(n, n + self.n_test), alphas, tol)

    def smoothers(
        self, alphas: Float[np.ndarray, " alpha"], dtype: type[np.floating[Any]] = np.float64
    ) -> list[Smoother]:
        """Each fold's predictions, and then the test rows', as matrices that serve any target.

        They hold about rows² numbers a strength: for a few thousand rows and many targets.
        """
        n = len(self.fold)
        parts = [(self.fold != k, np.flatnonzero(self.fold == k)) for k in range(self.n_folds)]
        made: list[Smoother] = []
        for inside, wanted in [*parts, (np.ones(n, bool), np.arange(n, n + self.n_test))]:
            fit = np.flatnonzero(inside)
            matrix = self.counts.matrix(fit, self.min_df) if len(fit) else None
            weights = np.zeros((len(alphas), len(wanted), len(fit)), dtype)
            if matrix is not None and matrix.shape[1]:
                for i, smoother in enumerate(kernel_smoothers(matrix[fit], matrix[wanted], alphas, dtype)):
                    weights[i] = smoother
            made.append(Smoother(fit, wanted, weights))
        return made

    def _fit_predict(
        self, fit: np.ndarray, z: np.ndarray, wanted: np.ndarray, alphas: np.ndarray, tol: float
    ) -> np.ndarray:
        """Predictions [alpha, wanted row, target] of ridge fitted on the rows ``fit``."""
        matrix = self.counts.matrix(fit, self.min_df)
        inside, outside = matrix[fit], matrix[wanted]
        offset = z[fit].mean(axis=0)
        if matrix.shape[1] == 0:
            return np.broadcast_to(offset, (len(alphas), len(wanted), z.shape[1])).copy()
        if is_small(len(fit), z.shape[1]):  # then products between rows are fewer than coefficients
            smoothers = kernel_smoothers(inside, outside, alphas)
            return np.stack([smoother @ (z[fit] - offset) + offset for smoother in smoothers])
        out = np.empty((len(alphas), len(wanted), z.shape[1]), np.float64 if tol < 1e-5 else np.float32)
        step = max(1, (1 << 25) // (len(alphas) * len(fit)))
        if tol >= 1e-5 and duals_fit_in_memory(len(fit), z.shape[1]):
            for i, dual in enumerate(product_duals(inside, z[fit], alphas, tol)):
                for start in range(0, z.shape[1], step):
                    part = slice(start, start + step)
                    out[i, :, part] = self._read(inside, outside, dual[:, part], offset[part])
            return out
        for start in range(0, z.shape[1], step):
            part = slice(start, start + step)
            for i, dual in enumerate(dual_ridge(inside, z[fit, part], alphas, tol=tol)):
                out[i, :, part] = self._read(inside, outside, dual, offset[part])
        return out

    def _read(self, inside: Any, outside: Any, dual: np.ndarray, offset: np.ndarray) -> np.ndarray:
        """Predictions [wanted row, target] from the solutions on the rows that were learned from."""
        coef = np.asarray(inside.T @ dual)
        return outside @ coef + (offset - np.asarray(inside.mean(axis=0)).ravel() @ coef)


ALPHAS: tuple[float, ...] = tuple(float(a) for a in np.logspace(-3, 3, 19))
"""Default strengths: rows of the matrix have length √2 at most, so 1 is a middling one."""

_STRONG = 0.4  # strengths above it are always tried: weaker ones take many more iterations


def tfidf_predictions(
    texts_train: Sequence[str],
    y_train: Float[np.ndarray, "train target"],
    clusters_train: Int[np.ndarray, " train"],
    texts_test: Sequence[str],
    *,
    alphas: Sequence[float] | None = None,
    folds: int = 5,
    seed: int = 0,
    min_df: int = 2,
    ridge: StringRidge | None = None,
    disable: bool | None = None,
) -> tuple[Predictions, dict[str, Any]]:
    """Out-of-fold training and test predictions of ridge on TF-IDF, all targets at once.

    Terms are lower-cased word 1-2 grams and char_wb 2-5 grams that ``min_df`` texts hold. The strength, one
    for all targets, is the one with the best out-of-fold R² (mean over targets) in a group k-fold over the
    clusters of the **training** rows; vocabulary and frequencies are made anew in each fold. Strengths are
    tried from the top, three at a time below .4, until the best is not the smallest tried. If no term is
    frequent enough, ``min_df`` falls to 1; if no text tells rows apart, or all training rows are one
    cluster, the prediction is the training mean (a warning is logged).

    The second value holds ``alpha``, ``alpha_at_edge``, ``validation`` (that R²), ``alphas``,
    ``validation_by_alpha`` (NaN where not tried), ``n_terms``, ``min_df`` and ``folds``.
    ``ridge`` is one of these very rows, made before; ``disable`` goes to tqdm.

    Raises:
        ValueError: Where the numbers of rows differ, for an empty train or test part, or values that are not
            finite.
    """
    strengths = np.sort(np.asarray(ALPHAS if alphas is None else alphas, np.float64))
    _check(texts_train, y_train, clusters_train, texts_test)
    centre, scale = y_train.mean(axis=0), y_train.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    z = (y_train - centre) / scale
    if ridge is None:
        ridge = StringRidge.of(texts_train, clusters_train, texts_test, folds=folds, seed=seed, min_df=min_df)
    groups = _groups(strengths)
    scores, best, held_out = np.full(len(strengths), np.nan), -1, np.zeros(z.shape)
    with tqdm(total=len(groups) * ridge.n_folds, desc="TF-IDF", disable=disable, leave=False) as bar:
        for group in groups:
            predicted = ridge.out_of_fold(z, strengths[group], bar)
            scores[group] = [mean_r2(z, p) for p in predicted.astype(np.float64)]
            chosen = _pick(scores)
            if chosen != best:
                best, held_out = chosen, predicted[chosen - group[0]]
            if best != group[0]:
                break
    test = ridge.test(z, strengths[best : best + 1])[0]
    info: dict[str, Any] = {
        "alpha": float(strengths[best]),
        "alpha_at_edge": len(strengths) > 1 and best in (0, len(strengths) - 1),
        "validation": float(scores[best]),
        "validation_by_alpha": [float(s) for s in scores],
        "alphas": [float(a) for a in strengths],
        "n_terms": ridge.n_terms,
        "min_df": ridge.min_df,
        "folds": ridge.n_folds,
    }
    if np.nanmax(scores, initial=-np.inf) == np.nanmin(scores, initial=np.inf) and len(strengths) > 1:
        logger.warning("TF-IDF: the texts do not tell the rows apart; predicting the training mean")
    elif info["alpha_at_edge"]:
        logger.info("TF-IDF: the chosen strength %g is at an edge of the grid", info["alpha"])
    predicted = held_out.astype(np.float64) * scale + centre
    return Predictions(out_of_fold=predicted, test=test * scale + centre), info


def _groups(strengths: np.ndarray) -> list[np.ndarray]:
    """Indices of the ascending strengths in the order of trial: the strong ones, then three at a time."""
    first = min(int(np.searchsorted(strengths, _STRONG)), len(strengths) - 1)
    cuts = list(range(first, 0, -3))
    return [np.arange(first, len(strengths)), *(np.arange(max(cut - 3, 0), cut) for cut in cuts)]


def _pick(scores: np.ndarray) -> int:
    """The best strength tried; the strongest of equals, so that texts which tell nothing choose the mean."""
    if np.isnan(scores).all():
        return len(scores) - 1
    return len(scores) - 1 - int(np.nanargmax(scores[::-1]))


def _check(
    texts_train: Sequence[str], y_train: np.ndarray, clusters_train: np.ndarray, texts_test: Sequence[str]
) -> None:
    if not len(texts_train) == len(y_train) == len(clusters_train):
        raise ValueError(
            f"training rows differ: {len(texts_train)} texts, {len(y_train)} targets, "
            f"{len(clusters_train)} cluster labels"
        )
    if not len(texts_train) or not len(texts_test):
        raise ValueError(
            f"TF-IDF needs texts in both parts: {len(texts_train)} train, {len(texts_test)} test"
        )
    if not np.isfinite(y_train).all():
        row = int(np.argwhere(~np.isfinite(y_train))[0][0])
        raise ValueError(f"the target of training row {row} is {y_train[row]}: drop such rows first")
