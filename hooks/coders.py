"""SAEs: where they lie (a SAELens folder, a run, the object itself), and what graticule reads off them;
and SAELens's cached-activation datasets, written from activations and read back.

A dataset (`datasets.load_from_disk`) has one column named exactly as the hook point, of feature
`Array2D((context, d_in))`, and `token_ids` where tokens are known.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from graticule.hooks.artifact import ArtifactError, only_file, users_folder
from graticule.hooks.imports import load
from graticule.hooks.names import user_path
from graticule.hooks.rows import PointKey, Rows
from graticule.hooks.values import finite

OF_BATCHES = ("batchtopk", "matryoshka_batchtopk")
"""Architectures that pick their active latents over the batch while they are trained."""
_OF_SEQUENCES = ("temporal",)
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


def check_coder(sae: SparseCoder) -> None:
    """Raises:
    ValueError: Unless a row's latents depend on that row alone.
    """
    kind = architecture(sae)
    if kind in OF_BATCHES:
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
    name = metadata(sae, "hook_name")
    return None if name is None else str(name)


def writes_elsewhere(sae: SparseCoder) -> str | None:
    """The point a transcoder writes to; None for an SAE that reconstructs what it reads."""
    out = metadata(sae, "hook_name_out")
    if out is not None and out != hook_name(sae):
        return str(out)
    return "another point" if "transcoder" in architecture(sae) else None


def describe(sae: SparseCoder) -> dict[str, Any]:
    """What an SAE is, for provenance: plain values only."""
    keys = ("model_name", "hook_name", "hook_name_out", "hook_head_index", "neuronpedia_id")
    return {
        "architecture": architecture(sae),
        "d_in": int(sae.cfg.d_in),
        "d_sae": int(sae.cfg.d_sae),
        "normalize_activations": str(getattr(sae.cfg, "normalize_activations", "none")),
        "apply_b_dec_to_input": bool(getattr(sae.cfg, "apply_b_dec_to_input", False)),
        **{k: v for k in keys if (v := metadata(sae, k)) is not None},
    }


def metadata(sae: SparseCoder, key: str) -> Any:
    """An entry of the SAE's metadata, or of its cfg as older SAEs keep it; None if there is none."""
    entries = getattr(sae.cfg, "metadata", None)
    value = entries.get(key) if isinstance(entries, dict) else getattr(entries, key, None)
    return getattr(sae.cfg, key, None) if value is None else value


def head_of(sae: SparseCoder) -> int | None:
    """The attention head that the SAE reads at a point of heads; None for all of them."""
    head = metadata(sae, "hook_head_index")
    return None if head is None else int(head)


@contextmanager
def as_found(sae: Any) -> Generator[None]:
    """Evaluation mode and flat heads inside; mode and whatever SAELens keeps on the SAE as before after."""
    attributes = vars(sae)
    before = {key: attributes[key] for key in _STATE if key in attributes}
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
            attributes.pop(key, None)
        attributes.update(before)


def _same(x: Tensor, d_head: int | None = None) -> Tensor:  # noqa: ARG001
    return x


_FOLDERS = ("folder", "path", "out")


@dataclass(frozen=True)
class Found:
    """An SAE and where it lies."""

    sae: SparseCoder
    """The SAE, as it is used once published."""
    name: str
    """For titles."""
    run: Path | None
    """The run folder, where there is one."""


def find_sae(source: Any) -> Found:
    """The SAE of a SAELens folder, a run (its folder, or the object that training returned), or itself.

    A training SAE that picks its active latents over a batch is taken as the inference SAE that it saves.

    Args:
        source: any of these.

    Returns:
        The SAE, what it is called, and its run.

    Raises:
        FileNotFoundError: where a folder holds no SAE.
        ArtifactError: where it is damaged, or its run is not complete.
        TypeError: for anything else.
        ValueError: for a transcoder, or an SAE that reads whole sequences.
    """
    loaded = load_sae(source)
    sae = as_published(loaded.sae)
    check_coder(sae)
    if (other := writes_elsewhere(sae)) is not None:
        raise ValueError(
            f"this is a transcoder from {hook_name(sae)} to {other}: it does not reconstruct what it reads, "
            "and what is measured here is reconstruction"
        )
    return Found(sae, loaded.name, loaded.run)


def load_sae(source: Any) -> Found:
    """The same without looking at what kind of SAE it is, and an SAE in training as it stands.

    Raises:
        FileNotFoundError: where a folder holds no SAE.
        ArtifactError: where it is damaged, or its run is not complete.
        TypeError: for anything else.
    """
    if isinstance(source, SparseCoder):
        return Found(source, f"{architecture(source)} SAE", None)
    if not isinstance(source, str | Path):
        folder = next(
            (h for key in _FOLDERS if isinstance(h := getattr(source, key, None), str | Path)), None
        )
        if folder is None:
            raise TypeError(
                f"{type(source).__name__} is no SAE: give a SAELens SAE, its folder, or the folder of a run"
            )
        source = folder
    folder = user_path(source)
    place = sae_folder(folder)
    return Found(_read(place), folder.resolve().name, None if place == folder else folder)


def sae_folder(folder: Path | str) -> Path:
    """The SAELens folder that `folder` is, or that lies in a run of one SAE.

    Raises:
        FileNotFoundError: where it holds no SAE, or several.
        ArtifactError: where its run is not complete.
    """
    folder = user_path(folder)
    for place in (folder, folder / "sae"):
        if (place / "cfg.json").is_file():
            return place
    parts = sorted(p.parent.parent.name for p in folder.glob("*/sae/cfg.json"))
    if parts:
        raise FileNotFoundError(f"{folder} holds several SAEs: give one of them, {folder / parts[0]}, say")
    if (folder / "run.json").is_file():
        raise ArtifactError(f"{folder} is a run that is not complete: run the same training again to go on")
    raise FileNotFoundError(f"{folder} holds no SAELens SAE (no cfg.json there, nor in {folder / 'sae'})")


def _read(folder: Path) -> SparseCoder:
    """The SAE of a SAELens folder, whole.

    Raises:
        ArtifactError: Where it is not.
    """
    load("sae_lens")
    from sae_lens import SAE
    from safetensors import SafetensorError

    for file in folder.iterdir():
        only_file(file)
    try:
        sae: Any = SAE.load_from_disk(str(folder))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = "no whole JSON" if isinstance(error, json.JSONDecodeError) else _in_a_line(error)
        raise ArtifactError(
            f"{folder} holds no whole SAE ({reason}); copy it again, or train it again"
        ) from error
    for name, weight in sae.state_dict().items():
        finite(f"{folder}: {name}", weight, hint="copy the SAE again, or train it again")
    return sae


def _in_a_line(error: Exception) -> str:
    words = " ".join(str(error).split())
    words = f"no {words}" if isinstance(error, KeyError) else words
    return words if len(words) <= 160 else f"{words[:157]}…"


def as_published(sae: SparseCoder) -> SparseCoder:
    """The inference SAE of a training SAE whose latents depend on the batch; any other SAE itself."""
    load("sae_lens")
    from sae_lens import SAE, TrainingSAE

    if not isinstance(sae, TrainingSAE) or architecture(sae) not in OF_BATCHES:
        return sae
    training: Any = sae
    with tempfile.TemporaryDirectory() as folder:
        training.save_inference_model(folder)
        return SAE.load_from_disk(folder, device=str(training.device))


def write_saelens(acts: Rows, path: Path | str, point: PointKey | None, context_size: int | None) -> None:
    """Write one point as contexts of `context_size` rows.

    Without `context_size`, the rows of one text are one context.

    Raises:
        ValueError: where `point` is not given and there are several, where texts have different numbers of
            rows, or where the rows do not fill whole contexts.
        FileExistsError: if `path` exists.
    """
    from datasets import Array2D, Dataset, Features, Sequence, Value

    path = user_path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists; choose another place")
    if point is None and len(acts) > 1:
        raise ValueError(f"several points: say which with hook_name=, one of {', '.join(acts.points)}")
    name = acts.points[0] if point is None else acts.name(point)
    size = context_size or _rows_a_text(acts)
    if acts.n_rows % size:
        raise ValueError(
            f"{acts.n_rows} rows do not fill contexts of {size}; select a multiple of {size} rows first"
        )
    tensor = acts[name]
    # pyarrow has no bfloat16, and SAELens reads float16 and float32
    kind = "float16" if tensor.dtype == torch.float16 else "float32"
    values = tensor.to(getattr(torch, kind)).numpy().reshape(-1, size, tensor.shape[1])
    columns: dict[str, Any] = {name: list(values)}
    features: dict[str, Any] = {name: Array2D(values.shape[1:], kind)}
    if "token" in acts.rows:
        columns["token_ids"] = acts.rows["token"].to_numpy().reshape(-1, size).tolist()
        features["token_ids"] = Sequence(Value("int32"), size)
    Dataset.from_dict(columns, features=Features(features)).save_to_disk(str(path))


def _rows_a_text(acts: Rows) -> int:
    counts = acts.rows.groupby("source", sort=False).size().unique()
    if len(counts) != 1:
        raise ValueError(
            f"texts have between {counts.min()} and {counts.max()} rows; give context_size=, or capture a "
            "fixed number of positions a text"
        )
    return int(counts[0])


def read_saelens(path: Path | str) -> tuple[dict[str, torch.Tensor], pd.DataFrame, dict[str, Any]]:
    """The tensors, row table and provenance of a SAELens cached-activation dataset, contexts in order.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it has no activation column.
    """
    from datasets import load_from_disk

    path = user_path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no SAELens activation dataset there")
    dataset: Any = load_from_disk(str(users_folder(path)))
    names = [n for n in dataset.column_names if n != "token_ids"]
    if not names:
        raise ValueError(f"{path} has no activation column, only {dataset.column_names}")
    arrays = dataset.with_format("numpy")
    tensors: dict[str, torch.Tensor] = {}
    size = 1
    for name in names:
        values = np.stack(list(arrays[name][:]))
        size = values.shape[1]
        tensors[name] = torch.from_numpy(values.reshape(-1, values.shape[2]))
    count = len(dataset)
    rows = pd.DataFrame(
        {"source": np.repeat(np.arange(count), size), "position": np.tile(np.arange(size), count)}
    )
    if "token_ids" in dataset.column_names:
        rows["token"] = np.concatenate(list(arrays["token_ids"][:]))
    return tensors, rows, {"captured_by": "SAELens", "path": str(path)}
