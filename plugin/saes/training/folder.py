"""What a training run leaves on disk: request and state, refused where they differ; checkpoints; the SAE.

A checkpoint outlives a kill at any moment: one safetensors file, and one JSON file that names it and is the
commit. It is replaced by one rename, after the tensors it names are on disk, and only then are the older
tensors removed.

`cfg.json`'s `metadata` is what a stranger has of an SAE: every entry that SAELens, its evaluator and
Neuronpedia read. Without `sae_lens_version` of 6 or more SAELens takes the file for an older format and
silently drops the rest; `model_from_pretrained_kwargs` is unpacked by its command line and must be a dict.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from graticule.hooks.artifact import (
    SCHEMA,
    ArtifactError,
    as_damaged,
    check_schema,
    json_ready,
    library_versions,
    read_json,
    read_tensors,
    sha256,
    write_json,
    write_tensors,
)
from graticule.hooks.kinds import SAE, FolderKind, differences, flat, listing, write_folder
from graticule.hooks.names import inside

_log = logging.getLogger(__name__)

KIND = "sae_run"
FILE = "run.json"
RUN = FolderKind(KIND, "run of an SAE", FILE, ())
"""The folder of a run; `run.json` is there first."""
_UNSAID = "stream.graticule.values: not set"  # what runs of 0.1 do not say of their rows
_OBJECT = "an object"  # what has no words, and is compared by what it holds later
_INDEX = "checkpoint.json"
_OF_SAELENS = (
    "model_name",
    "model_class_name",
    "model_from_pretrained_kwargs",
    "hook_name",
    "hook_head_index",
    "dataset_path",
    "context_size",
    "seqpos_slice",
    "prepend_bos",
    "exclude_special_tokens",
    "sequence_separator_token",
    "disable_concat_sequences",
)  # as its own runner keeps them


@dataclass
class RunFolder:
    """The folder of one SAE's run, or of several SAEs'."""

    path: Path
    """Where it is."""
    manifest: dict[str, Any]
    """Its `run.json`."""

    @classmethod
    def open(cls, path: Path, request: Mapping[str, Any]) -> RunFolder:
        """The folder of this very run, with a new `run.json` or the one that is there.

        Raises:
            FileExistsError: if `path` holds something else.
            ValueError: naming what differs, if it holds a run of another request.
            ArtifactError: if its `run.json` is damaged.
        """
        RUN.check(path)
        if not (path / FILE).is_file():
            run = cls(path, {"kind": KIND, "schema": SCHEMA, "state": "training", "tokens": 0, "steps": 0})
            run.update(request=json_ready(request), versions=library_versions())
            return run
        manifest = read_json(path / FILE)
        check_schema(manifest, KIND, path)
        with as_damaged(path / FILE, "train into another folder"):
            differing = differences(manifest["request"], request)
        unsaid = [difference for difference in differing if difference.startswith(_UNSAID)]
        if unsaid and len(unsaid) == len(differing):
            _log.warning(
                "%s was begun by an earlier version: whether its rows are the same is not known", path
            )
        elif differing:
            raise _other_request(path, listing(differing))
        return cls(path, manifest)

    def update(self, **changes: Any) -> None:
        """Write `run.json` with `changes`."""
        self.manifest.update(changes)
        write_json(self.path / FILE, self.manifest)


def _other_request(path: Path, differing: str) -> ValueError:
    return ValueError(
        f"{path} holds a run of another request ({differing}): train with its settings to go on, or choose "
        "another folder"
    )


# The call as it was made -------------------------------------------------------------------------------
def call_words(**arguments: Any) -> dict[str, Any]:
    """Arguments of `train` as plain values, kept beside the request: another call into the same folder is
    refused at once, by the names that the caller used, before a model is run or even loaded.

    What was not given and what has no words is left out.
    """
    plain = {name: _plain(value) for name, value in arguments.items()}
    return {name: value for name, value in flat(json_ready(plain)) if value not in (None, _OBJECT, {})}


def check_call(out: Path, call: Mapping[str, Any]) -> None:
    """Refuse a call into the folder of a run that was called otherwise.

    Args:
        out: the run folder, which may not exist yet.
        call: what `call_words` made of the arguments.

    Raises:
        ValueError: naming every argument that was given in both calls and differs.
    """
    if not (out / FILE).is_file():
        return
    before = read_json(out / FILE).get("call") or {}
    both = [name for name in before if name in call]
    if differing := differences({n: before[n] for n in both}, {n: call[n] for n in both}):
        raise _other_request(out, "; ".join(differing))


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(item) for name, item in dataclasses.asdict(value).items() if name != "metadata"}
    if isinstance(value, Mapping):
        mapping = cast("Mapping[Any, Any]", value)
        return {str(key): _plain(item) for key, item in mapping.items()}
    if isinstance(value, Sequence) and all(isinstance(v, bool | int | float | str) for v in value):
        return list(cast("Sequence[Any]", value)) if len(value) <= 100 else _OBJECT
    return _OBJECT


# Checkpoints -------------------------------------------------------------------------------------------
def write_checkpoint(folder: Path, step: int, state: Mapping[str, Any]) -> None:
    """Make `state` the checkpoint in `folder`, in place of the one there; a no-op if it is of this step.

    Raises:
        TypeError: as `pack` does.
    """
    if (folder / _INDEX).is_file() and read_json(folder / _INDEX).get("step") == step:
        return
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    packed = pack(dict(state), tensors)
    name = f"{step:010d}.safetensors"
    write_tensors(folder / name, apart(tensors))
    index = {"kind": "sae_checkpoint", "schema": SCHEMA, "step": step, "tensors": name}
    index |= {"sha256": sha256(folder / name), "versions": library_versions(), "state": packed}
    write_json(folder / _INDEX, index)
    for file in folder.glob("*.safetensors"):
        if file.name != name:
            file.unlink(missing_ok=True)


def read_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The state in `folder`'s checkpoint, on the CPU; None where there is none yet.

    Raises:
        ArtifactError: if it is damaged or of another schema.
    """
    if not (folder / _INDEX).is_file():
        return None
    index = read_json(folder / _INDEX)
    check_schema(index, "sae_checkpoint", folder)
    with as_damaged(folder / _INDEX, "train into another folder"):
        file = inside(folder, index["tensors"])
        if not file.is_file() or sha256(file) != index["sha256"]:
            raise ArtifactError(
                f"{file} is missing or damaged (its checksum differs); train into another folder"
            )
        return unpack(index["state"], read_tensors(file))


# A state as JSON and tensors ------------------------------------------------------------------------------
def pack(value: Any, tensors: dict[str, Tensor], path: str = "state") -> Any:
    """`value` in JSON's own types, its tensors moved into `tensors` under the path that leads to them.

    What JSON would not give back as it was (tuples, keys that are no strings, infinities) is marked.

    Raises:
        TypeError: for anything but tensors, arrays, numbers, strings, None, lists, tuples and dicts.
    """
    if isinstance(value, Tensor):
        while path in tensors:  # {"a.b": …} beside {"a": {"b": …}}
            path += "'"
        tensors[path] = value.detach()
        return {"$tensor": path}
    if isinstance(value, np.ndarray):
        return {"$array": pack(torch.from_numpy(value), tensors, path)["$tensor"]}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, list | tuple):
        items = cast("list[Any]", value)
        packed = [pack(item, tensors, f"{path}.{i}") for i, item in enumerate(items)]
        return packed if isinstance(value, list) else {"$tuple": packed}
    if isinstance(value, Mapping):
        mapping = cast("Mapping[Any, Any]", value)
        if all(isinstance(key, str) and not key.startswith("$") for key in mapping):
            return {key: pack(item, tensors, f"{path}.{key}") for key, item in mapping.items()}
        pairs = [[pack(k, tensors), pack(v, tensors, f"{path}.{k}")] for k, v in mapping.items()]
        return {"$pairs": pairs}
    raise TypeError(f"{path} is a {type(value).__name__}: a state holds tensors and plain values only")


def unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `pack` was given.

    Raises:
        KeyError: for a tensor that is not there.
    """
    if isinstance(value, list):
        return [unpack(item, tensors) for item in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    packed = cast("dict[str, Any]", value)
    if "$tensor" in packed:
        return tensors[packed["$tensor"]]
    if "$array" in packed:
        return tensors[packed["$array"]].numpy()
    if "$float" in packed:
        return float(packed["$float"])
    if "$tuple" in packed:
        return tuple(unpack(item, tensors) for item in packed["$tuple"])
    if "$pairs" in packed:
        return {unpack(k, tensors): unpack(v, tensors) for k, v in packed["$pairs"]}
    return {key: unpack(item, tensors) for key, item in packed.items()}


def apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor with a storage of its own: safetensors refuses shared ones."""
    seen: set[int] = set()
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        shared = storage.data_ptr() in seen or storage.nbytes() != tensor.numel() * tensor.element_size()
        seen.add(storage.data_ptr())
        out[name] = tensor.clone(memory_format=torch.contiguous_format) if shared else tensor
    return out


# The SAE -----------------------------------------------------------------------------------------------
def sae_metadata(stream: Mapping[str, Any], hook_name: str) -> dict[str, Any]:
    """The metadata of an SAE trained at `hook_name` on a stream whose `metadata()` is `stream`."""
    import sae_lens

    out: dict[str, Any] = {name: stream.get(name) for name in _OF_SAELENS}
    out["hook_name"] = hook_name
    out["model_from_pretrained_kwargs"] = dict(stream.get("model_from_pretrained_kwargs") or {})
    out["sae_lens_version"] = out["sae_lens_training_version"] = sae_lens.__version__
    out["graticule"] = {**dict(stream.get("graticule") or {}), "versions": library_versions()}
    return json_ready(out)


def trainer_settings(cfg: Any, own: Any) -> dict[str, Any]:
    """SAELens's trainer config as JSON, with the settings `own` that are ours beside it: a trainer's, or the
    `Optimisation` that it is to be made from."""
    ours = {"clip_grad_norm": own.clip_grad_norm, "b_dec_init_method": own.b_dec_init_method}
    return {**_saelens_settings(cfg), **ours}


def _saelens_settings(cfg: Any) -> dict[str, Any]:
    """Without what is only of this machine."""
    ours = ("logger", "device", "checkpoint_path", "n_checkpoints", "save_final_checkpoint")
    return {name: value for name, value in dataclasses.asdict(cfg).items() if name not in ours}


def write_sae(trainer: Any, folder: Path, stream: Mapping[str, Any], seed: int) -> None:
    """Write the trained SAE as SAELens's inference folder, all of it or none: `cfg.json`,
    `sae_weights.safetensors`, `sparsity.safetensors` (log10 of each latent's firing frequency over the last
    window) and `runner_cfg.json`. `SAE.load_from_disk` reads it without graticule."""
    from safetensors.torch import save_file

    training = {
        "training_tokens": trainer.n_training_samples,
        "training_steps": trainer.n_training_steps,
        "seed": seed,
        "trainer": trainer_settings(trainer.cfg, trainer),
    }
    metadata = trainer.sae.cfg.metadata
    metadata.graticule = {**dict(metadata.graticule or {}), "training": training}
    with write_folder(folder, overwrite=True, kind=SAE) as temporary:
        trainer.sae.save_inference_model(temporary)
        sparsity = trainer.log_feature_sparsity.to(torch.float32).contiguous()
        save_file({"sparsity": sparsity}, temporary / "sparsity.safetensors")
        write_json(temporary / "runner_cfg.json", _runner_config(trainer, stream, seed))


def _runner_config(trainer: Any, stream: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The run in the words of SAELens's `LanguageModelSAERunnerConfig`, as far as they apply."""
    cfg = trainer.cfg
    settings = {**sae_metadata(stream, trainer.sae.cfg.metadata.hook_name), **_saelens_settings(cfg)}
    settings.pop("total_training_samples", None)
    settings.pop("train_batch_size_samples", None)
    return {
        **settings,
        "training_tokens": cfg.total_training_samples,
        "train_batch_size_tokens": cfg.train_batch_size_samples,
        "device": str(cfg.device),
        "dtype": trainer.sae.cfg.dtype,
        "seed": seed,
        "sae": trainer.sae.cfg.to_dict(),
    }
