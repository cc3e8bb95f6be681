"""Activations as the latents of a SAELens SAE: sparse in memory, reconstructed in chunks when asked for."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from graticule.hooks.activations import Activations
from graticule.hooks.artifact import library_versions
from graticule.hooks.points import PointError, layer_of
from graticule.hooks.store import Store

_log = logging.getLogger(__name__)

_CHUNK_CELLS = 1 << 26  # numbers in one dense chunk of latents: 256 MiB in float32
_OF_BATCHES = ("batchtopk", "matryoshka_batchtopk")
_OF_SEQUENCES = ("temporal",)
_UNFOLDED = ("expected_average_only_in", "covariance_whitening")
# What SAELens's encode and decode leave on the SAE itself, and its way of taking heads apart.
_STATE = ("x_norm_coeff", "ln_mu", "ln_std", "d_head", "reshape_fn_in", "reshape_fn_out")


@runtime_checkable
class SparseCoder(Protocol):
    """What graticule asks of an SAE: every SAELens `SAE` is one.

    `W_dec` is `[d_sae, d_in]`; `cfg` carries `d_in`, `d_sae` and `metadata.hook_name`.
    """

    cfg: Any
    W_dec: Any

    def encode(self, x: Any) -> Any:
        """`[row, d_in]` activations to `[row, d_sae]` latents."""
        ...

    def decode(self, feature_acts: Any) -> Any:
        """`[row, d_sae]` latents to `[row, d_in]` reconstructions."""
        ...


@dataclass(frozen=True)
class Latents:
    """The latents of one SAE on the rows of its hook point."""

    point: str
    """The hook point whose rows were encoded."""
    values: Any = field(repr=False)
    """SciPy CSR `[row, d_sae]`, in the SAE's own units."""
    sae: SparseCoder = field(repr=False)
    """The SAE."""
    activations: Activations | Store = field(repr=False)
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

        **Raises** `ValueError` for a transcoder, whose decoder writes to another point than it reads.
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
        with _as_found(sae), torch.no_grad():
            x = _read(self.activations, self.point, self.sae, index)
            if hasattr(sae, "process_sae_in"):
                sae.process_sae_in(x)  # normalisation is undone with the statistics that this leaves
            active = torch.from_numpy(self.values[index].toarray()).to(x.device, sae.W_dec.dtype)
            return sae.decode(active).to("cpu", torch.float64).numpy()


def encode(
    activations: Activations | Store,
    sae: SparseCoder,
    point: str | None = None,
    *,
    batch: int = 4096,
    progress: bool | None = None,
) -> Latents:
    """The latents of `sae` on the rows of its own hook point (or of `point`), `[row, d_sae]`, sparse.

    Any SAELens SAE: its own `encode` is called on at most `batch` rows at a time, with the normalisation that
    its cfg asks for; SAEs on concatenated heads (`hook_z`) and on one head of a point are understood. The SAE
    is left as it was found: mode, device, dtype and gradients included.

    **Raises** `PointError` if the point was not captured (naming the nearest), `ValueError` if its width is
    not the SAE's, the SAE names no point, or its latents of a row depend on other rows.
    """
    check_coder(sae)
    name = _point_of(activations, sae, point)
    width, wanted = activations.widths[name], int(sae.cfg.d_in)
    head = _head(sae)
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
    bar = tqdm(total=n, desc=f"encoding {name}", unit="row", disable=quiet, leave=False)
    with bar, _as_found(sae), torch.no_grad():
        parts: list[Any] = []
        for chunk in _chunks(n, step):
            parts.append(_sparse(sae.encode(_read(activations, name, sae, chunk))))
            bar.update(len(chunk))
    import scipy.sparse as sp

    values = sp.csr_matrix(sp.vstack(parts, format="csr") if parts else (0, int(sae.cfg.d_sae)))
    return Latents(name, values, sae, activations)


def check_coder(sae: SparseCoder) -> None:
    """**Raises** `ValueError` unless a row's latents depend on that row alone."""
    kind = architecture(sae)
    if kind in _OF_BATCHES:
        raise ValueError(
            f"a {kind} SAE still in training picks its active latents over the batch, so a row's latents "
            "depend on its neighbours: save it with save_inference_model and load that (it becomes jumprelu)"
        )
    if kind in _OF_SEQUENCES:
        raise ValueError(f"a {kind} SAE reads whole sequences; rows of single positions cannot be encoded")


def architecture(sae: SparseCoder) -> str:
    """SAELens's name of the SAE's kind: `standard`, `topk`, `jumprelu`, …"""
    named = getattr(sae.cfg, "architecture", None)
    return str(named() if callable(named) else named or type(sae).__name__)


def hook_name(sae: SparseCoder) -> str | None:
    """The hook point the SAE was trained on, as its metadata says."""
    found = _metadata(sae, "hook_name")
    return None if found is None else str(found)


def writes_elsewhere(sae: SparseCoder) -> str | None:
    """The point a transcoder writes to; None for an SAE that reconstructs what it reads."""
    out = _metadata(sae, "hook_name_out")
    if out is not None and out != hook_name(sae):
        return str(out)
    return "another point" if "transcoder" in architecture(sae) else None


def describe(sae: SparseCoder) -> dict[str, Any]:
    """What an SAE is, for provenance: plain values only."""
    kept = ("model_name", "hook_name", "hook_name_out", "hook_head_index", "neuronpedia_id")
    return {
        "architecture": architecture(sae),
        "d_in": int(sae.cfg.d_in),
        "d_sae": int(sae.cfg.d_sae),
        "normalize_activations": str(getattr(sae.cfg, "normalize_activations", "none")),
        "apply_b_dec_to_input": bool(getattr(sae.cfg, "apply_b_dec_to_input", False)),
        **{k: v for k in kept if (v := _metadata(sae, k)) is not None},
    }


def _metadata(sae: SparseCoder, key: str) -> Any:
    held = getattr(sae.cfg, "metadata", None)
    found = held.get(key) if isinstance(held, dict) else getattr(held, key, None)
    return getattr(sae.cfg, key, None) if found is None else found


def _head(sae: SparseCoder) -> int | None:
    head = _metadata(sae, "hook_head_index")
    return None if head is None else int(head)


def _point_of(activations: Activations | Store, sae: SparseCoder, point: str | None) -> str:
    name = point or hook_name(sae)
    if name is None:
        raise ValueError(
            "this SAE's metadata names no hook_name: say which point it reads with point=, one of "
            f"{', '.join(activations.points)}"
        )
    if name not in activations:
        raise PointError(
            f"the SAE reads {name}, which was not captured; the nearest captured point is "
            f"{_nearest(name, activations.points)}: capture {name} too, or say point= if the names differ"
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


def _read(activations: Activations | Store, point: str, sae: SparseCoder, index: np.ndarray) -> Tensor:
    """Rows of a point as the SAE takes them: on its device, in its dtype, of its head."""
    run = len(index) > 0 and bool((np.diff(index) == 1).all())
    if isinstance(activations, Store):
        rows = activations.gather(point, index)
    else:
        held = activations[point]
        rows = held[int(index[0]) : int(index[-1]) + 1] if run else held[torch.from_numpy(index)]
    head, wanted = _head(sae), int(sae.cfg.d_in)
    if head is not None and rows.shape[1] != wanted:
        rows = rows[:, head * wanted : (head + 1) * wanted]
    return rows.to(sae.W_dec.device, sae.W_dec.dtype)


def _sparse(acts: Tensor) -> Any:
    """One chunk of latents as SciPy CSR."""
    import scipy.sparse as sp

    dense = acts.to_dense() if acts.is_sparse else acts
    kept = torch.float64 if dense.dtype == torch.float64 else torch.float32
    row, column = dense.nonzero(as_tuple=True)
    data = dense[row, column].to("cpu", kept).numpy()
    counts = np.bincount(row.cpu().numpy(), minlength=len(dense))
    start = np.concatenate([[0], np.cumsum(counts)])
    return sp.csr_matrix((data, column.cpu().numpy().astype(np.int32), start), shape=tuple(dense.shape))


def _chunk_rows(d_sae: int, n: int) -> int:
    return max(1, min(n, _CHUNK_CELLS // max(d_sae, 1)))


def _chunks(n: int, step: int) -> Iterator[np.ndarray]:
    for start in range(0, n, step):
        yield np.arange(start, min(start + step, n))


@contextmanager
def _as_found(sae: Any) -> Generator[None]:
    """Evaluation mode and flat heads inside; mode and whatever SAELens keeps on the SAE as before after."""
    held = vars(sae)
    before = {key: held[key] for key in _STATE if key in held}
    modules: list[Any] = list(sae.modules()) if hasattr(sae, "modules") else []
    modes = [m.training for m in modules]
    try:
        for module in modules:
            module.training = False
        if getattr(sae.cfg, "reshape_activations", "none") == "hook_z":
            # captured heads are flat already, and SAELens flattens them before anything else
            sae.reshape_fn_in = _same
            sae.reshape_fn_out = _same
            sae.d_head = None  # `decode` hands it on; an SAE that has not read heads yet has none
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for key in _STATE:
            held.pop(key, None)
        held.update(before)


def _same(x: Tensor, d_head: int | None = None) -> Tensor:  # noqa: ARG001
    return x
