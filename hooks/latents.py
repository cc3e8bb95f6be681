"""Activations as the latents of a SAELens SAE: sparse in memory, reconstructed in chunks when asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from graticule.hooks.artifact import library_versions
from graticule.hooks.calls import renamed
from graticule.hooks.coders import (
    SparseCoder,
    as_found,
    check_coder,
    describe,
    head_of,
    hook_name,
    load_sae,
    write_saelens,
    writes_elsewhere,
)
from graticule.hooks.imports import load
from graticule.hooks.messages import visible
from graticule.hooks.points import PointError, layer_of, name_of
from graticule.hooks.rows import PointKey, Rows
from graticule.hooks.values import finite

_log = logging.getLogger(__name__)

_CHUNK_CELLS = 1 << 26  # numbers in one dense chunk of latents: 256 MiB in float32
_UNFOLDED = ("expected_average_only_in", "covariance_whitening")


@dataclass(frozen=True)
class Latents:
    """The latents of one SAE on the rows of its hook point."""

    point: str
    """The hook point whose rows were encoded."""
    values: Any = field(repr=False)
    """SciPy CSR `[row, d_sae]`, in the SAE's own units."""
    sae: SparseCoder = field(repr=False)
    """The SAE."""
    activations: Rows = field(repr=False)
    """Whose rows these are."""

    @property
    def rows(self) -> pd.DataFrame:
        """The row table of the activations."""
        return self.activations.rows

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, d_sae)."""
        return int(self.values.shape[0]), int(self.values.shape[1])

    @property
    def l0(self) -> float:
        """Mean number of active latents a row."""
        return self.values.nnz / max(self.shape[0], 1)

    @property
    def frequency(self) -> Float[np.ndarray, " d_sae"]:
        """Share of rows on which each latent is active."""
        return np.bincount(self.values.indices, minlength=self.shape[1]) / max(self.shape[0], 1)

    @property
    def decoder(self) -> Float[np.ndarray, "d_sae width"]:
        """The decoder vectors in float64: what one unit of each latent writes."""
        return self.sae.W_dec.detach().to("cpu", torch.float64).numpy()

    @property
    def provenance(self) -> dict[str, Any]:
        """The SAE's architecture, size and metadata, and the point."""
        return {"point": self.point, **describe(self.sae), "versions": library_versions()}

    def dense(
        self, latents: Int[np.ndarray, " latent"], index: Int[np.ndarray, " row"] | None = None
    ) -> Float[np.ndarray, "row latent"]:
        """Some latents, on all rows or those of `index`, as a dense float64 array."""
        part = self.values[:, latents] if index is None else self.values[index][:, latents]
        return part.toarray().astype(np.float64)

    def inputs(self, index: Int[np.ndarray, " row"]) -> Float[np.ndarray, "row d_in"]:
        """What the SAE was given on rows `index`: the point's activations, of one head if it reads one."""
        return _read(self.activations, self.point, self.sae, index).to("cpu", torch.float64).numpy()

    def reconstruction(self, index: Int[np.ndarray, " row"]) -> Float[np.ndarray, "row d_in"]:
        """The SAE's reconstruction of rows `index`, normalisation undone as its cfg says; float64.

        Raises:
            ValueError: for a transcoder, whose decoder writes to another point than it reads.
        """
        if (other := writes_elsewhere(self.sae)) is not None:
            raise ValueError(
                f"this is a transcoder from {self.point} to {other}: it does not reconstruct what it reads"
            )
        out = np.empty((len(index), int(self.sae.cfg.d_in)))
        step = _chunk_rows(self.shape[1], len(index))
        for start in range(0, len(index), step):
            part = index[start : start + step]
            out[start : start + step] = self._decode(part)
        return out

    def error(self, index: Int[np.ndarray, " row"]) -> Float[np.ndarray, "row d_in"]:
        """What the SAE leaves unexplained of rows `index`: activation minus reconstruction; float64."""
        return self.inputs(index) - self.reconstruction(index)

    def _decode(self, index: np.ndarray) -> np.ndarray:
        sae: Any = self.sae
        with as_found(sae), torch.no_grad():
            x = _read(self.activations, self.point, self.sae, index)
            if hasattr(sae, "process_sae_in"):
                sae.process_sae_in(x)  # normalisation is undone with the statistics that this leaves
            active = torch.from_numpy(self.values[index].toarray()).to(x.device, sae.W_dec.dtype)
            return sae.decode(active).to("cpu", torch.float64).numpy()


def encode(
    activations: Rows,
    sae: Any,
    point: PointKey | None = None,
    *,
    batch: int = 4096,
    progress: bool | None = None,
) -> Latents:
    """The latents of `sae` on the rows of its own hook point (or of `point`), `[row, d_sae]`, sparse.

    Any SAELens SAE (or its folder, or a run): its own `encode` is called on at most `batch` rows at a time,
    with the normalisation that its cfg asks for; SAEs on concatenated heads (`hook_z`) and on one head of a
    point are understood. The SAE is left as it was found: mode, device, dtype and gradients included.

    Raises:
        PointError: if the point was not captured (naming the nearest).
        ValueError: if its width is not the SAE's, the SAE names no point, or its latents of a row depend on
            other rows.
    """
    sae = load_sae(sae).sae
    check_coder(sae)
    name = _point_of(activations, sae, point)
    width, wanted = activations.widths[name], int(sae.cfg.d_in)
    head = head_of(sae)
    if width != wanted and (head is None or width % wanted):
        raise ValueError(
            f"{name} has width {width}, the SAE has d_in {wanted}: was it trained on another model or point?"
        )
    normalisation = str(getattr(sae.cfg, "normalize_activations", "none"))
    if normalisation in _UNFOLDED:
        _log.warning(
            "this SAE's cfg still says normalize_activations=%r, which SAELens's encode does not apply: fold "
            "the scale in first (sae.fold_activation_norm_scaling_factor or fold_activation_whitening)",
            normalisation,
        )
    n = activations.n_rows
    step = min(batch, _chunk_rows(int(sae.cfg.d_sae), n))
    quiet = not (progress if progress is not None else n * int(sae.cfg.d_sae) > 1 << 28)
    bar = tqdm(total=n, desc=visible(f"encoding {name}"), unit="row", disable=quiet, leave=False)
    with bar, as_found(sae), torch.no_grad():
        parts: list[Any] = []
        for chunk in _chunks(n, step):
            parts.append(_sparse(sae.encode(_read(activations, name, sae, chunk)), chunk))
            bar.update(len(chunk))
    load("scipy.sparse")
    import scipy.sparse as sp

    values = sp.csr_matrix(sp.vstack(parts, format="csr") if parts else (0, int(sae.cfg.d_sae)))
    return Latents(name, values, sae, activations)


def _point_of(activations: Rows, sae: SparseCoder, point: PointKey | None) -> str:
    name = hook_name(sae) if point is None else name_of(point)
    if name is None:
        raise ValueError(
            "this SAE's metadata names no hook_name: say which point it reads with hook_name=, one of "
            f"{', '.join(activations.points)}"
        )
    if name not in activations:
        raise PointError(
            f"the SAE reads {name}, which was not captured; the nearest captured point is "
            f"{_nearest(name, activations.points)}: capture {name} too, or say hook_name= if the names differ"
        )
    return name


def _nearest(name: str, points: tuple[str, ...]) -> str:
    """The captured point with the most alike name, of equals the one in the nearest layer."""
    from difflib import SequenceMatcher

    layer = layer_of(name)

    def rank(point: str) -> tuple[float, int]:
        kind = point.replace(f".{layer_of(point)}.", f".{layer}.")
        away = abs((layer_of(point) or 0) - (layer or 0))
        return -SequenceMatcher(None, kind, name).ratio(), away

    return min(points, key=rank)


def _read(activations: Rows, point: str, sae: SparseCoder, index: np.ndarray) -> Tensor:
    """Rows of a point as the SAE takes them: on its device, in its dtype, of its head."""
    run = len(index) > 0 and bool((np.diff(index) == 1).all())
    if run and activations.in_memory:
        rows = activations[point][int(index[0]) : int(index[-1]) + 1]
    else:
        rows = activations.gather(point, index)
    finite(point, rows, lambda i: f"in row {index[i]}", "leave these rows out, or capture in float32")
    head, wanted = head_of(sae), int(sae.cfg.d_in)
    if head is not None and rows.shape[1] != wanted:
        rows = rows[:, head * wanted : (head + 1) * wanted]
    return rows.to(sae.W_dec.device, sae.W_dec.dtype)


def _sparse(acts: Tensor, index: np.ndarray) -> Any:
    """One chunk of latents, of the rows `index`, as SciPy CSR.

    Raises:
        NonFiniteError: For latents that are no numbers: a correlation with one is undefined, and the latent
            would count as one that never fires.
    """
    load("scipy.sparse")
    import scipy.sparse as sp

    dense = acts.to_dense() if acts.is_sparse else acts
    dtype = torch.float64 if dense.dtype == torch.float64 else torch.float32
    row, column = dense.nonzero(as_tuple=True)
    data = dense[row, column].to("cpu", dtype).numpy()
    of = row.cpu().numpy()
    finite(
        "latents", data, lambda i: f"in row {index[of[i]]}", "are the SAE's weights and these rows numbers?"
    )
    counts = np.bincount(of, minlength=len(dense))
    start = np.concatenate([[0], np.cumsum(counts)])
    return sp.csr_matrix((data, column.cpu().numpy().astype(np.int32), start), shape=tuple(dense.shape))


def _chunk_rows(d_sae: int, n: int) -> int:
    return max(1, min(n, _CHUNK_CELLS // max(d_sae, 1)))


def _chunks(n: int, step: int) -> Iterator[np.ndarray]:
    for start in range(0, n, step):
        yield np.arange(start, min(start + step, n))


class CapturedRows(Rows):
    """Rows that an SAE encodes, and that are exported for one to be trained on."""

    @renamed(point="hook_name")
    def encode(self, sae: Any, hook_name: PointKey | None = None, *, batch: int = 4096) -> Latents:
        """The latents of a SAELens SAE (or its folder, or a run) on the rows of its own hook point, sparse:
        see `latents.encode`.

        Args:
            sae: The SAE, its folder, or a run.
            hook_name: Another point than the one that the SAE names.
            batch: Rows encoded at once, at most.
        """
        return encode(self, sae, hook_name, batch=batch)

    @renamed("context_size", point="hook_name")
    def to_saelens(
        self, path: Path | str, hook_name: PointKey | None = None, *, context_size: int | None = None
    ) -> None:
        """Export one point as the cached-activation dataset that SAELens's `ActivationsStore` reads.

        Args:
            path: A folder of this machine that is not there yet.
            hook_name: Which point, where there are several.
            context_size: Rows of a context; by default those of one text.
        """
        write_saelens(self, path, hook_name, context_size)
