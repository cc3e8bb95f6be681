"""SAEs where they lie: a SAELens folder, a training run or its folder, or the SAE itself."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graticule.hooks.artifact import ArtifactError, only_file
from graticule.hooks.coders import (
    OF_BATCHES,
    SparseCoder,
    architecture,
    check_coder,
    hook_name,
    writes_elsewhere,
)
from graticule.hooks.finite import finite
from graticule.hooks.imports import load
from graticule.hooks.names import user_path

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
    found = load_sae(source)
    sae = as_published(found.sae)
    check_coder(sae)
    if (other := writes_elsewhere(sae)) is not None:
        raise ValueError(
            f"this is a transcoder from {hook_name(sae)} to {other}: it does not reconstruct what it reads, "
            "and what is measured here is reconstruction"
        )
    return Found(sae, found.name, found.run)


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
    """The SAE of a SAELens folder, whole. **Raises** `ArtifactError` where it is not."""
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
