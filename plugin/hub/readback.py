"""Whether the Hub gives back what was sent: every file's digest, and every tensor as SAELens loads it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graticule.hooks.artifact import sha256
from graticule.hooks.imports import load
from graticule.hub.outgoing import digest
from graticule.hub.remote import MAIN, Hub
from graticule.hub.uploads import SaeFacts, Upload


def tensors_of(upload: Upload) -> dict[str, Tensor]:
    """What is sent: the tensors of a SAE as `SAE.load_from_disk` has them here, or of a probe.

    Raises:
        ValueError: if they cannot be loaded or are not finite: such a thing is not pushed.
    """
    if upload.folder is not None:
        return _finite(_loaded(upload, upload.folder), str(upload.folder))
    return _finite(_probe_tensors(upload.probe), f"the probe {upload.id}")


def _loaded(upload: Upload, folder: Path) -> dict[str, Tensor]:
    """The tensors in a folder, of the upload's kind."""
    if isinstance(upload.facts, SaeFacts):
        return _sae_tensors(upload.facts, folder)
    from graticule.probes.linear.ridge import RidgeProbe

    return _probe_tensors(RidgeProbe.load(folder))


def _finite(tensors: dict[str, Tensor], where: str) -> dict[str, Tensor]:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} of {where} holds numbers that are not finite: it is not fit to publish")
    return tensors


def _probe_tensors(probe: Any) -> dict[str, Tensor]:
    arrays = vars(probe.weights)
    return {name: torch.from_numpy(value) for name, value in arrays.items() if isinstance(value, np.ndarray)}


def _sae_tensors(facts: SaeFacts, folder: Path) -> dict[str, Tensor]:
    load("sae_lens")
    from sae_lens import SAE

    version = str(facts.metadata.get("sae_lens_version") or facts.cfg.get("sae_lens_version") or "0")
    if int(version.split(".")[0]) < 6:
        raise ValueError(
            f"{folder / 'cfg.json'}: metadata.sae_lens_version is {version}; below 6 SAELens drops the "
            "metadata on loading. Save the SAE again with SAELens 6"
        )
    try:
        sae: Any = SAE.load_from_disk(folder, device="cpu")
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        kind = facts.cfg.get("architecture")
        hint = ": save a SAE in training with save_inference_model" if isinstance(error, KeyError) else ""
        raise ValueError(f"SAELens cannot load {folder} (architecture {kind!r}): {error}{hint}") from error
    return dict(sae.state_dict())


def tensor_differences(sent: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> list[str]:
    """What differs between two sets of tensors, by name, shape, dtype and bits; nothing if they are equal."""
    differing = [f"{name} is missing" for name in sent if name not in got]
    differing += [f"{name} was not sent" for name in got if name not in sent]
    for name in sent.keys() & got.keys():
        a, b = sent[name], got[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            differing.append(f"{name} is {tuple(b.shape)} {b.dtype}, sent {tuple(a.shape)} {a.dtype}")
        elif not torch.equal(_bits(a), _bits(b)):
            differing.append(f"{name} differs in {int((a != b).sum())} of {a.numel()} values")
    return differing


def read_back(
    hub: Hub, commit: str, files: Mapping[str, Path | bytes], uploads: Sequence[Upload]
) -> list[str]:
    """Fetch `files` at `commit` and load every upload from them; what differs, in words.

    On the main branch `SAE.from_pretrained` (or `RidgeProbe.from_pretrained`) is compared as well, because
    that is what readers of the card will call.
    """
    wrong: list[str] = []
    copies: dict[str, Path] = {}
    for path, content in files.items():
        copy = hub.read(path, commit)
        if copy is None:
            wrong.append(f"{path} is missing")
            continue
        copies[path] = copy
        if sha256(copy) != digest(content):
            wrong.append(f"{path} is not what was sent")
    for upload in uploads:
        sent = tensors_of(upload)
        here = [copies[path] for path in upload.in_repo if path in copies]
        if here:
            wrong += [f"{upload.id}: {d}" for d in _differs(upload, sent, here[0].parent)]
        if hub.revision == MAIN:
            wrong += [f"{upload.id}, from_pretrained: {d}" for d in _from_main(hub.repo, upload, sent)]
    if wrong:
        _forget(copies.values())
    return list(dict.fromkeys(wrong))


def _forget(copies: Iterable[Path]) -> None:
    """Take what is not right out of the Hub's cache, which would hand it out for the right one."""
    for copy in copies:
        copy.resolve().unlink(missing_ok=True)
        copy.unlink(missing_ok=True)


def _differs(upload: Upload, sent: Mapping[str, Tensor], folder: Path) -> list[str]:
    try:
        return tensor_differences(sent, _loaded(upload, folder))
    except (ValueError, OSError) as error:
        return [str(error)]


def _from_main(repo: str, upload: Upload, sent: Mapping[str, Tensor]) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on scaling factors that only its own releases have
        try:
            return tensor_differences(sent, _pretrained(repo, upload))
        except (KeyError, RuntimeError, TypeError, ValueError, OSError) as error:
            return [f"{type(error).__name__}: {error}"]


def _pretrained(repo: str, upload: Upload) -> dict[str, Tensor]:
    if not isinstance(upload.facts, SaeFacts):
        from graticule.probes.linear.ridge import RidgeProbe

        return _probe_tensors(RidgeProbe.from_pretrained(repo, upload.id))
    load("sae_lens")
    from sae_lens import SAE

    dtype = str(upload.facts.cfg.get("dtype", "float32")).removeprefix("torch.")
    sae: Any = SAE.from_pretrained(repo, upload.id, device="cpu", dtype=dtype)
    return dict(sae.state_dict())


def _bits(tensor: Tensor) -> Tensor:
    """Every byte, so that the same not-a-number is equal to itself and a changed sign of zero is not."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
