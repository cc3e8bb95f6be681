"""LEACE (Belrose et al. 2023, arXiv 2306.03819): remove all that is linear, move little else.

Beside it the controls that are as large as an intervention: random directions with the activations' own
covariance, and erasers of random linear features that take away as much.

With Σ = Cov(X), C = Cov(X, Z), W = Σ^(-1/2) and U an orthonormal basis of W·C, theorem 4.3 gives the affine
map r(x) = x − W⁺UUᵀW (x − E x): of all maps after which no linear predictor of Z does better than a constant,
the one that moves x least, in every norm that is quadratic in x. Here in float64, without shrinkage, so that
the guarantee is exact on the rows it was fitted on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from graticule.hooks.artifact import (
    SCHEMA,
    ArtifactError,
    as_damaged,
    check_schema,
    library_versions,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)
from graticule.hooks.calls import renamed
from graticule.hooks.kinds import write_folder
from graticule.hooks.names import place_of
from graticule.hooks.places import Place
from graticule.probes.linear.edits import AffineEdit
from graticule.probes.linear.moments import gram_of
from graticule.probes.linear.rows import as_rows, as_targets

_BISECTIONS = 60
_KIND = "eraser"
_ARRAYS = ("mean", "left", "right")


@dataclass(frozen=True)
class Covariance:
    """Mean and covariance of activations, diagonalised: what erasers and matched controls are made from."""

    mean: Float[np.ndarray, " width"]
    """Mean row."""
    values: Float[np.ndarray, " rank"]
    """Eigenvalues of the covariance (ddof 0) that are not rounding, ascending."""
    vectors: Float[np.ndarray, "width rank"]
    """Their eigenvectors."""
    n_rows: int
    """Rows."""

    @classmethod
    def of(cls, X: Float[np.ndarray, "row width"]) -> Covariance:
        """Of rows in float64."""
        mean = X.mean(axis=0)
        centred = X - mean
        values, vectors = np.linalg.eigh(gram_of(centred) / len(X))
        above = values > values[-1] * max(X.shape) * np.finfo(np.float64).eps
        return cls(mean, values[above], vectors[:, above], len(X))

    def whitened(self, directions: Float[np.ndarray, "width k"]) -> Float[np.ndarray, "rank k"]:
        """Σ^(-1/2) times `directions`, in the eigenbasis."""
        return (self.vectors.T @ directions) / np.sqrt(self.values)[:, None]

    def eraser(self, frame: Float[np.ndarray, "rank k"]) -> Eraser:
        """The eraser of an orthonormal frame of the whitened space (in the eigenbasis)."""
        root = np.sqrt(self.values)[:, None]
        left, right = self.vectors @ (root * frame), (self.vectors @ (frame / root)).T
        return Eraser(self.mean, left, right, self.n_rows)


@dataclass(frozen=True)
class Eraser:
    """x ↦ x − left·right·(x − mean): an affine map that takes a concept's linear trace out of activations."""

    mean: Float[np.ndarray, " width"]
    """Mean of the rows it was fitted on; it stays where it is."""
    left: Float[np.ndarray, "width rank"]
    """What is taken away, one column per dimension of the concept: Cov(X, Z) in another basis."""
    right: Float[np.ndarray, "rank width"]
    """How much of it: least squares of the concept on the activations, in the same basis."""
    n_rows: int
    """Rows it was fitted on."""

    @classmethod
    def fit(
        cls,
        X: Shaped[np.ndarray, ...] | Shaped[Tensor, ...],
        Z: Shaped[np.ndarray, ...] | Shaped[Tensor, ...],
        *,
        covariance: Covariance | None = None,
    ) -> Eraser:
        """LEACE of `Z` from `X`: **training rows only**.

        Args:
            X: activations `[row, width]`.
            Z: the concept, `[row]` or `[row, target]`.
            covariance: of the same rows, which saves their covariance's diagonalisation.

        Raises:
            ValueError: where shapes disagree or values are not finite or constant, as `ridge_cv`.
        """
        source = as_rows(X)
        targets = as_targets(Z, source.shape[0])
        rows = source.gather(np.arange(source.shape[0]))
        covariance = Covariance.of(rows) if covariance is None else covariance
        cross = (rows - covariance.mean).T @ targets.standard / len(rows)
        frame, size, basis = np.linalg.svd(covariance.whitened(cross), full_matrices=False)
        above = size > 1e-10 * size.max(initial=0.0)  # collinear targets, such as one-hot columns
        frame, size, basis = frame[:, above], size[above], basis[above]
        # C·V/S is W⁺U wherever small eigenvalues of Σ count, and undoes C exactly where they do not
        right = (covariance.vectors @ (frame / np.sqrt(covariance.values)[:, None])).T
        left = cross @ basis.T / size
        return cls(covariance.mean, np.ascontiguousarray(left), np.ascontiguousarray(right), len(rows))

    @property
    def rank(self) -> int:
        """Dimensions taken away."""
        return self.left.shape[1]

    @property
    def edit(self) -> AffineEdit:
        """The same map as an edit, for hooks."""
        return AffineEdit.setting(self.right.T, self.right @ self.mean, self.left.T)

    @property
    def removed(self) -> float:
        """Variance taken away, in squared activation units: the trace of the covariance before less after,
        which is also the mean squared displacement, both over the rows it was fitted on."""
        return float(np.square(self.left).sum())

    def apply(self, X: Shaped[np.ndarray, ...] | Shaped[Tensor, ...]) -> Float[np.ndarray, "row width"]:
        """The rows without the concept.

        Raises:
            ValueError: if the width differs.
        """
        source = as_rows(X)
        if source.shape[1] != len(self.mean):
            raise ValueError(f"X has width {source.shape[1]}, this eraser was fitted on {len(self.mean)}")
        rows = source.gather(np.arange(source.shape[0]))
        return rows - ((rows - self.mean) @ self.right.T) @ self.left.T

    @renamed("overwrite")
    def save(self, path: Path | str, *, overwrite: bool = False) -> Place:
        """Write the eraser as a folder: `manifest.json` and `eraser.safetensors`; returns where it is."""
        with write_folder(path, overwrite, kind=_KIND) as folder:
            arrays = {name: torch.from_numpy(np.ascontiguousarray(getattr(self, name))) for name in _ARRAYS}
            write_tensors(folder / "eraser.safetensors", arrays)
            manifest = {"kind": _KIND, "schema": SCHEMA, "n_rows": self.n_rows}
            write_json(folder / "manifest.json", {**manifest, "versions": library_versions()})
        return place_of(path)

    @classmethod
    def load(cls, path: Path | str) -> Eraser:
        """Read an eraser that `save` wrote.

        Raises:
            ArtifactError: if it is missing, damaged or no eraser.
        """
        folder = place_of(path)
        manifest = read_json(folder / "manifest.json")
        check_schema(manifest, _KIND, folder)
        tensors = read_tensors(folder / "eraser.safetensors")
        if missing := [name for name in _ARRAYS if name not in tensors]:
            raise ArtifactError(f"{folder / 'eraser.safetensors'} lacks {', '.join(missing)}")
        with as_damaged(folder / "manifest.json", "fit the eraser again"):
            return cls(**{name: tensors[name].numpy() for name in _ARRAYS}, n_rows=int(manifest["n_rows"]))


# Controls ----------------------------------------------------------------------------------------------
def covariance_directions(
    covariance: Covariance,
    count: int,
    rng: np.random.Generator,
    read: Float[np.ndarray, "width target"] | None = None,
    move: Float[np.ndarray, "width target"] | None = None,
) -> Float[np.ndarray, "count width"]:
    """Unit directions drawn with the activations' own covariance, so as anisotropic as they are.

    A direction drawn with the covariance is what a probe of random targets would call its write direction.
    With `read` and `move` (`unit_moves`) what the probe reads of them is taken out, along `move`: as large a
    step, the reading left where it is.
    """
    drawn = (
        rng.normal(size=(count, len(covariance.values))) * np.sqrt(covariance.values)
    ) @ covariance.vectors.T
    if read is not None and move is not None:
        drawn = drawn - (drawn @ read) @ move.T
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def whitened_frame(covariance: Covariance, eraser: Eraser) -> Float[np.ndarray, "rank k"]:
    """An orthonormal frame, in the whitened space, of what an eraser takes away."""
    return np.linalg.qr(covariance.whitened(eraser.left))[0]


def matched_erasers(
    covariance: Covariance, frame: Float[np.ndarray, "rank k"], count: int, rng: np.random.Generator
) -> list[Eraser]:
    """Erasers of random linear features: the rank of `frame`, the same removed variance, none of its concept.

    In the whitened space an eraser is an orthonormal frame U and removes tr(UᵀΣU). Random frames orthogonal
    to `frame` are tilted towards directions of large or small variance (by powers of Σ) until they remove
    exactly what `frame` removes; mean squared displacements are then equal too.
    """

    def removed(some: np.ndarray) -> np.ndarray:
        return (covariance.values[:, None] * np.square(some)).sum(axis=(-2, -1))

    wanted = removed(frame[None])[0]
    logs = np.log(covariance.values / covariance.values[-1])
    drawn = rng.normal(size=(count, *frame.shape))
    low, high, matched = np.full(count, -8.0), np.full(count, 8.0), drawn
    for _ in range(_BISECTIONS):
        power = ((low + high) / 2)[:, None]
        weights = np.exp(power * (logs - logs.max() * (power > 0) - logs.min() * (power < 0)))
        tilted = drawn * weights[:, :, None]
        tilted -= frame @ (frame.T @ tilted)
        tilted /= np.linalg.norm(tilted, axis=1, keepdims=True)
        matched = tilted if frame.shape[1] == 1 else np.linalg.qr(tilted)[0]
        less = removed(matched) < wanted
        low, high = np.where(less, power[:, 0], low), np.where(less, high, power[:, 0])
    return [covariance.eraser(one) for one in matched]
