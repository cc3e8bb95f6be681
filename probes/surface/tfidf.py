"""What can be read off the string alone: TF-IDF of its words and letters, through ridge."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from graticule.probes.estimators.sparse_ridge import dual_ridge, is_small
from graticule.probes.scores.metrics import mean_r2
from graticule.probes.scores.verdict import Predictions
from graticule.probes.tables.groups import group_folds

logger = logging.getLogger(__name__)

ALPHAS: tuple[float, ...] = tuple(float(a) for a in np.logspace(-3, 3, 19))
"""Default strengths: rows of the matrix have length √2 at most, so 1 is a middling one."""

_STRONG = 0.4  # strengths above it are always tried: weaker ones take many more iterations


@dataclass(frozen=True)
class _Counts:
    """Terms of all texts, counted once; any fold's TF-IDF is a choice of columns and their weights."""

    blocks: tuple[Any, ...]
    """Counts [row, term] of word 1-2 grams and of char_wb 2-5 grams, sparse."""
    n_train: int
    """The first rows, from which folds are taken."""

    def matrix(self, fit_rows: np.ndarray, min_df: int) -> Any:
        """TF-IDF of every row with vocabulary and document frequencies of ``fit_rows`` alone.

        Equal to scikit-learn's ``TfidfVectorizer(min_df=…)`` fitted on those rows: terms that fewer than
        ``min_df`` of them hold are dropped, frequencies smoothed, each block's rows set to length 1.
        """
        import scipy.sparse as sp
        from sklearn.preprocessing import normalize

        parts: list[Any] = []
        for counts in self.blocks:
            frequency = np.bincount(counts[fit_rows].indices, minlength=counts.shape[1])
            kept = np.flatnonzero(frequency >= min_df)
            if len(kept) == 0:
                continue
            inverse = np.log((1 + len(fit_rows)) / (1 + frequency[kept])) + 1
            parts.append(normalize(counts[:, kept] @ sp.diags_array(inverse), norm="l2"))
        return sp.csr_matrix(sp.hstack(parts) if parts else (self.blocks[0].shape[0], 0))


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
    ``disable`` goes to tqdm.

    **Raises** ValueError where the numbers of rows differ, for an empty train or test part, or values that
    are not finite.
    """
    strengths = np.sort(np.asarray(ALPHAS if alphas is None else alphas, np.float64))
    _check(texts_train, y_train, clusters_train, texts_test)
    n = len(texts_train)
    centre, scale = y_train.mean(axis=0), y_train.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    z = (y_train - centre) / scale
    fold = group_folds(clusters_train, folds, seed)
    counts = _count([*texts_train, *texts_test], n)
    used_df = _usable_df(counts, min_df)
    rows = np.arange(n)

    groups = _groups(strengths)
    scores, best, held_out = np.full(len(strengths), np.nan), -1, np.zeros(z.shape)
    with tqdm(total=len(groups) * (int(fold.max()) + 1), desc="TF-IDF", disable=disable, leave=False) as bar:
        for group in groups:
            predicted = _out_of_fold(counts, z, fold, strengths[group], used_df, bar)
            scores[group] = [mean_r2(z, p) for p in predicted.astype(np.float64)]
            chosen = _pick(scores)
            if chosen != best:
                best, held_out = chosen, predicted[chosen - group[0]]
            if best != group[0]:
                break
    test_rows = np.arange(n, n + len(texts_test))
    test = _fit_predict(counts, rows, z, test_rows, strengths[best : best + 1], used_df)[0]
    info: dict[str, Any] = {
        "alpha": float(strengths[best]),
        "alpha_at_edge": len(strengths) > 1 and best in (0, len(strengths) - 1),
        "validation": float(scores[best]),
        "validation_by_alpha": [float(s) for s in scores],
        "alphas": [float(a) for a in strengths],
        "n_terms": _n_terms(counts, rows, used_df),
        "min_df": used_df,
        "folds": int(fold.max()) + 1,
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


def _out_of_fold(
    counts: _Counts, z: np.ndarray, fold: np.ndarray, alphas: np.ndarray, min_df: int, bar: Any
) -> np.ndarray:
    # single precision, in standard deviations, is far below any noise here
    out = np.zeros((len(alphas), *z.shape), np.float32)
    for k in range(int(fold.max()) + 1):
        inside, outside = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        if len(inside):  # a single cluster leaves no other rows to learn from
            out[:, outside] = _fit_predict(counts, inside, z, outside, alphas, min_df)
        bar.update()
    return out


def _fit_predict(
    counts: _Counts, fit: np.ndarray, z: np.ndarray, wanted: np.ndarray, alphas: np.ndarray, min_df: int
) -> np.ndarray:
    """Predictions [alpha, wanted row, target] of ridge fitted on the rows ``fit``."""
    matrix = counts.matrix(fit, min_df)
    inside, outside = matrix[fit], matrix[wanted]
    offset = z[fit].mean(axis=0)
    if matrix.shape[1] == 0:
        return np.broadcast_to(offset, (len(alphas), len(wanted), z.shape[1])).copy()
    means = np.asarray(inside.mean(axis=0)).ravel()
    out = np.empty((len(alphas), len(wanted), z.shape[1]))
    if is_small(len(fit), z.shape[1]):  # then products between rows are fewer than coefficients
        between = (outside @ inside.T).toarray() - inside @ means
        for i, dual in enumerate(dual_ridge(inside, z[fit], alphas)):
            out[i] = between @ dual + offset
        return out
    step = max(1, (1 << 24) // (len(alphas) * len(fit)))
    for start in range(0, z.shape[1], step):
        part = slice(start, start + step)
        for i, dual in enumerate(dual_ridge(inside, z[fit, part], alphas)):
            coef = np.asarray(inside.T @ dual)
            out[i, :, part] = outside @ coef + (offset[part] - means @ coef)
    return out


def _count(texts: Sequence[str], n_train: int) -> _Counts:
    import scipy.sparse as sp
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
    return _Counts(tuple(sp.csr_matrix(block) for block in blocks), n_train)


def _n_terms(counts: _Counts, rows: np.ndarray, min_df: int) -> int:
    frequencies = [np.bincount(block[rows].indices, minlength=block.shape[1]) for block in counts.blocks]
    return int(sum((frequency >= min_df).sum() for frequency in frequencies))


def _usable_df(counts: _Counts, min_df: int) -> int:
    rows = np.arange(counts.n_train)
    if _n_terms(counts, rows, min_df):
        return min_df
    if _n_terms(counts, rows, 1):
        logger.warning("TF-IDF: no term is in %d training texts; taking all of them (min_df 1)", min_df)
        return 1
    logger.warning("TF-IDF: the training texts hold no terms; predicting the training mean")
    return min_df


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
