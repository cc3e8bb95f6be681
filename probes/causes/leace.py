"""LEACE (Belrose et al. 2023, arXiv 2306.03819): remove all that is linear, move little else.

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
from graticule.hooks.kinds import write_folder
from graticule.hooks.names import user_path
from graticule.probes.estimators.edits import AffineEdit
from graticule.probes.estimators.ridge_rows import as_rows, as_targets, gram_of

_KIND = "eraser"
_ARRAYS = ("mean", "left", "right")


@dataclass(frozen=True)
class Moments:
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
    def of(cls, X: Float[np.ndarray, "row width"]) -> Moments:
        """Of rows in float64."""
        mean = X.mean(axis=0)
        centred = X - mean
        values, vectors = np.linalg.eigh(gram_of(centred) / len(X))
        kept = values > values[-1] * max(X.shape) * np.finfo(np.float64).eps
        return cls(mean, values[kept], vectors[:, kept], len(X))

    @property
    def variance(self) -> float:
        """Total variance: the trace of the covariance."""
        return float(self.values.sum())

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
    """What is taken away, a column a dimension of the concept: Cov(X, Z) in another basis."""
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
        moments: Moments | None = None,
    ) -> Eraser:
        """LEACE of `Z` `[row]` or `[row, target]` from `X` `[row, width]`: **training rows only**.

        `moments` of the same rows save their covariance's diagonalisation.

        **Raises** `ValueError` where shapes disagree or values are not finite or constant, as `ridge_cv`.
        """
        source = as_rows(X)
        targets = as_targets(Z, source.shape[0])
        rows = source.gather(np.arange(source.shape[0]))
        held = Moments.of(rows) if moments is None else moments
        cross = (rows - held.mean).T @ targets.standard / len(rows)
        frame, size, basis = np.linalg.svd(held.whitened(cross), full_matrices=False)
        kept = size > 1e-10 * size.max(initial=0.0)  # collinear targets, such as one-hot columns
        frame, size, basis = frame[:, kept], size[kept], basis[kept]
        # C·V/S is W⁺U wherever small eigenvalues of Σ count, and undoes C exactly where they do not
        right = (held.vectors @ (frame / np.sqrt(held.values)[:, None])).T
        left = cross @ basis.T / size
        return cls(held.mean, np.ascontiguousarray(left), np.ascontiguousarray(right), len(rows))

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
        """The rows without the concept. **Raises** `ValueError` if the width differs."""
        rows = as_rows(X)
        if rows.shape[1] != len(self.mean):
            raise ValueError(f"X has width {rows.shape[1]}, this eraser was fitted on {len(self.mean)}")
        held = rows.gather(np.arange(rows.shape[0]))
        return held - ((held - self.mean) @ self.right.T) @ self.left.T

    def save(self, path: Path | str, overwrite: bool = False) -> None:
        """Write the eraser as a folder: `manifest.json` and `eraser.safetensors` (float64)."""
        with write_folder(path, overwrite, kind=_KIND) as folder:
            arrays = {name: torch.from_numpy(np.ascontiguousarray(getattr(self, name))) for name in _ARRAYS}
            write_tensors(folder / "eraser.safetensors", arrays)
            manifest = {"kind": _KIND, "schema": SCHEMA, "n_rows": self.n_rows}
            write_json(folder / "manifest.json", {**manifest, "versions": library_versions()})

    @classmethod
    def load(cls, path: Path | str) -> Eraser:
        """Read an eraser that `save` wrote. **Raises** `ArtifactError` if missing, damaged or none."""
        folder = user_path(path)
        manifest = read_json(folder / "manifest.json")
        check_schema(manifest, _KIND, folder)
        tensors = read_tensors(folder / "eraser.safetensors")
        if missing := [name for name in _ARRAYS if name not in tensors]:
            raise ArtifactError(f"{folder / 'eraser.safetensors'} lacks {', '.join(missing)}")
        with as_damaged(folder / "manifest.json", "fit the eraser again"):
            return cls(**{name: tensors[name].numpy() for name in _ARRAYS}, n_rows=int(manifest["n_rows"]))
