"""One predictor's answers to many targets at every strength, from which mixtures of them are answered too.

Ridge at a fixed strength is linear in its target, out of fold as well: what it says of a mixture of targets
is the mixture of what it says of each. So a synthetic target that is part noise, part string and part
activation costs no fit of its own, and still chooses its own strength.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from einops import rearrange
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from graticule.probes.linear.rows import ArrayRows, RowSource, chunk_rows_for, chunks, gather_float64
from graticule.probes.linear.spectrum import HoldoutPlan, Spectrum, out_of_fold, spectrum_of
from graticule.probes.linear.strengths import default_alphas, rounding_of
from graticule.probes.surface.string_ridge import Smoother, StringRidge

FEW_ROWS = 5000
"""Training rows up to which TF-IDF's answers go through matrices that serve every target."""
_TOLERANCE = 1e-4  # of a standard deviation, see `dual_ridge`


@dataclass(frozen=True)
class Answers:
    """What one predictor says of every component at every strength."""

    alphas: Float[np.ndarray, " alpha"]
    """Strengths, ascending."""
    train: Float[np.ndarray, "alpha component train"]
    """Out of fold."""
    test: Float[np.ndarray, "alpha component test"]
    """From the fit on all training rows."""

    def some(self, index: Int[np.ndarray, " component"]) -> Answers:
        """The answers to some of the components."""
        return Answers(self.alphas, self.train[:, index], self.test[:, index])


@dataclass(frozen=True)
class Mixture:
    """Targets as weighted sums of components."""

    columns: Int[np.ndarray, "target part"]
    """The components of each target."""
    weights: Float[np.ndarray, "target part"]
    """Their weights; 0 where a part is absent."""

    def of(self, components: Float[np.ndarray, "component row"]) -> Float[np.ndarray, "target row"]:
        """The targets, or anything else that is linear in them."""
        return np.einsum("tp,tpn->tn", self.weights, components[self.columns])

    def __len__(self) -> int:
        return len(self.columns)

    def __getitem__(self, part: slice | Int[np.ndarray, " part"]) -> Mixture:
        return Mixture(self.columns[part], self.weights[part])


@dataclass(frozen=True)
class Chosen:
    """A predictor's answer to each target, at the strength that the target chose on its training rows."""

    alphas: Float[np.ndarray, " target"]
    """Chosen strengths."""
    train: Float[np.ndarray, "target train"]
    """Out of fold."""
    test: Float[np.ndarray, "target test"]
    """From the fit on all training rows."""


def choose(
    answers: Answers,
    components: Float[np.ndarray, "component train"],
    mixture: Mixture,
    *,
    strongest_of_equals: bool = False,
) -> Chosen:
    """Each target's strength by its own out-of-fold error, and the predictions there.

    The error of a mixture is the mixture of errors, so sums of its squares at every strength follow from the
    inner products of a target's parts.
    """
    squares = _squares(answers.train, components, mixture)
    best = squares.argmin(axis=0)
    if strongest_of_equals:
        best = len(squares) - 1 - squares[::-1].argmin(axis=0)
    train, test = (np.empty((len(mixture), part.shape[2])) for part in (answers.train, answers.test))
    for t, (a, columns, weights) in enumerate(zip(best, mixture.columns, mixture.weights, strict=True)):
        train[t], test[t] = weights @ answers.train[a, columns], weights @ answers.test[a, columns]
    return Chosen(answers.alphas[best], train, test)


def _squares(
    predicted: np.ndarray, components: np.ndarray, mixture: Mixture
) -> Float[np.ndarray, "alpha target"]:
    """Out-of-fold squared error of every target at every strength."""
    parts = mixture.columns.shape[1]
    triples, inverse = np.unique(mixture.columns, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    out = np.zeros((len(predicted), len(mixture)))
    for a, at in enumerate(predicted):
        error = components - at
        for p, q in combinations_with_replacement(range(parts), 2):
            product = np.einsum("un,un->u", error[triples[:, p]], error[triples[:, q]])
            weight = mixture.weights[:, p] * mixture.weights[:, q] * (1 if p == q else 2)
            out[a] += weight * product[inverse]
    return out


@dataclass(frozen=True)
class RidgeAnswerer:
    """Ridge on one set of activations, eigendecomposed once."""

    spectrum: Spectrum
    """Of the training rows; its targets are exchanged."""
    test: RowSource
    """Test rows as they are."""
    plan: HoldoutPlan
    """Which training rows are held out together."""
    alphas: Float[np.ndarray, " alpha"]
    """Strengths to choose from."""

    @classmethod
    def of(
        cls,
        train: RowSource | Float[np.ndarray, "train width"],
        test: RowSource | Float[np.ndarray, "test width"],
        plan: HoldoutPlan,
        alphas: Sequence[float] | Float[np.ndarray, " alpha"] | None = None,
        strengths: int = 24,
    ) -> RidgeAnswerer:
        """`alphas` as in `ridge_cv`; without them the default grid with `strengths` of them."""
        rows, others = (ArrayRows(x) if isinstance(x, np.ndarray) else x for x in (train, test))
        n, width = rows.shape
        spectrum = spectrum_of(rows, np.zeros((n, 1)), chunk_rows_for(width))
        if alphas is None:
            alphas = default_alphas(spectrum.eigenvalues, strengths, rounding=rounding_of(rows))
        return cls(spectrum, others, plan, np.unique(np.asarray(alphas, np.float64)))

    @property
    def n_train(self) -> int:
        """Training rows."""
        return len(self.spectrum.y)

    @property
    def shape(self) -> tuple[int, int]:
        """All rows, and principal axes of the training rows."""
        return self.n_train + self.test.shape[0], len(self.spectrum.eigenvalues)

    def __matmul__(self, weights: Float[np.ndarray, "rank count"]) -> Float[np.ndarray, "row count"]:
        """Linear functions of all rows, training rows first, by their `weights` along the principal axes."""
        spectrum, out = self.spectrum, np.empty((self.shape[0], weights.shape[1]))
        spread = spectrum.spread[:, None]
        inside = spread * weights
        outside = weights / np.where(spread > 1e-7 * spread.max(), spread, np.inf)
        for index in chunks(np.arange(self.n_train), self._step()):
            out[index] = spectrum.basis(index) @ inside
        for index, rows in self._test_rows():
            out[self.n_train + index] = rows @ outside
        return out

    def along(self, values: Float[np.ndarray, "train count"]) -> Float[np.ndarray, "rank count"]:
        """Products of the principal axes' training rows with centred `values`."""
        spectrum = self.spectrum.with_targets(values)
        return spectrum.spread[:, None] * spectrum.scores

    def _test_rows(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Test rows in the basis that `spectrum.scores` belong to, a few at a time."""
        for index in chunks(np.arange(self.test.shape[0]), self._step()):
            yield index, self.spectrum.project(gather_float64(self.test, index))

    def answers(self, components: Float[np.ndarray, "component train"]) -> Answers:
        """For components that are centred on the training rows."""
        y = np.ascontiguousarray(components.T)
        step = self._step()
        spectrum = self.spectrum.with_targets(y)
        train = np.empty((len(self.alphas), *components.shape))
        for index, errors in out_of_fold(spectrum, y, self.alphas, self.plan, step):
            predicted = y[index][:, None, :] - errors
            train[:, :, index] = rearrange(predicted, "row alpha component -> alpha component row")
        weights = 1.0 / (spectrum.eigenvalues + self.alphas[:, None])
        test = np.empty((len(self.alphas), len(components), self.test.shape[0]))
        for index, rows in self._test_rows():
            for answer, weight in zip(test, weights, strict=True):
                answer[:, index] = (rows @ (weight[:, None] * spectrum.scores)).T
        return Answers(self.alphas, train, test)

    def _step(self) -> int:
        return chunk_rows_for(self.shape[1])


@dataclass(frozen=True)
class StringAnswerer:
    """TF-IDF for any target: by matrices made once where rows are few, else by a solution a target."""

    ridge: StringRidge
    """Texts, folds and terms."""
    alphas: Float[np.ndarray, " alpha"]
    """Strengths to choose from."""
    smoothers: tuple[Smoother, ...]
    """The folds' and the test rows'; none where there are many rows."""
    quiet: bool = True
    """Whether solutions for many rows go without a progress bar."""

    @classmethod
    def of(
        cls, ridge: StringRidge, alphas: Float[np.ndarray, " alpha"], quiet: bool = True
    ) -> StringAnswerer:
        """Up to 5,000 training rows through matrices, in single precision from 2,000 on."""
        n = len(ridge.fold)
        if n > FEW_ROWS:
            return cls(ridge, alphas, (), quiet)
        return cls(ridge, alphas, tuple(ridge.smoothers(alphas, np.float32 if n > 2000 else np.float64)))

    def answers(self, components: Float[np.ndarray, "component train"]) -> Answers:
        """For components that are centred on the training rows; in single precision with many rows."""
        if not self.smoothers:
            z = np.ascontiguousarray(components.T)
            parts = self.ridge.n_folds + 1
            with tqdm(total=parts, desc="strings", unit="fit", disable=self.quiet, leave=False) as bar:
                train = self.ridge.out_of_fold(z, self.alphas, bar, _TOLERANCE)
                test = self.ridge.test(z, self.alphas, _TOLERANCE)
                bar.update()
            turned = (rearrange(x, "alpha row component -> alpha component row") for x in (train, test))
            return Answers(self.alphas, *(np.ascontiguousarray(x) for x in turned))
        *folds, last = self.smoothers
        train = np.empty((len(self.alphas), *components.shape), last.weights.dtype)
        for fold in folds:
            train[:, :, fold.wanted] = fold.predict(components)
        return Answers(self.alphas, train, last.predict(components).astype(last.weights.dtype))
