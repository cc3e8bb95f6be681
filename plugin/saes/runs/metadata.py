"""What an SAE says about itself: every entry that SAELens, its evaluator and Neuronpedia read.

`cfg.json`'s `metadata` is what a stranger has. Without `sae_lens_version` of 6 or more SAELens takes the
file for an older format and silently drops the rest; `model_from_pretrained_kwargs` is unpacked by its
command line and must be a dict.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sae_lens
import torch
from safetensors.torch import save_file

from graticule.hooks.artifact import json_ready, library_versions, write_json
from graticule.hooks.kinds import SAE, write_folder

OF_SAELENS = (
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
)
"""The names under which SAELens's own runner keeps them."""


def sae_metadata(stream: Mapping[str, Any], hook_name: str) -> dict[str, Any]:
    """The metadata of an SAE trained at `hook_name` on a stream whose `metadata()` is `stream`."""
    out: dict[str, Any] = {name: stream.get(name) for name in OF_SAELENS}
    out["hook_name"] = hook_name
    out["model_from_pretrained_kwargs"] = dict(stream.get("model_from_pretrained_kwargs") or {})
    out["sae_lens_version"] = out["sae_lens_training_version"] = sae_lens.__version__
    out["graticule"] = {**dict(stream.get("graticule") or {}), "versions": library_versions()}
    return json_ready(out)


def training_facts(trainer: Any, seed: int) -> dict[str, Any]:
    """What the training itself adds at the end: steps, tokens, seed and the trainer's settings."""
    return {
        "training_tokens": trainer.n_training_samples,
        "training_steps": trainer.n_training_steps,
        "seed": seed,
        "trainer": trainer_words(trainer.cfg, trainer),
    }


def trainer_words(cfg: Any, own: Any) -> dict[str, Any]:
    """SAELens's trainer config as JSON, with the settings `own` that are ours beside it: a trainer's, or the
    `Optimisation` that it is to be made from."""
    ours = {"clip_grad_norm": own.clip_grad_norm, "b_dec_init_method": own.b_dec_init_method}
    return {**_words_of_saelens(cfg), **ours}


def _words_of_saelens(cfg: Any) -> dict[str, Any]:
    """Without what is only of this machine."""
    words = dataclasses.asdict(cfg)
    for name in ("logger", "device", "checkpoint_path", "n_checkpoints", "save_final_checkpoint"):
        words.pop(name, None)
    return words


def write_sae(trainer: Any, folder: Path, stream: Mapping[str, Any], seed: int) -> None:
    """Write the trained SAE as SAELens's inference folder, all of it or none: `cfg.json`,
    `sae_weights.safetensors`, `sparsity.safetensors` (log10 of each latent's firing frequency over the last
    window) and `runner_cfg.json`. `SAE.load_from_disk` reads it without graticule."""
    held = dict(trainer.sae.cfg.metadata.graticule or {})
    trainer.sae.cfg.metadata.graticule = {**held, "training": training_facts(trainer, seed)}
    with write_folder(folder, overwrite=True, kind=SAE) as temporary:
        trainer.sae.save_inference_model(temporary)
        sparsity = trainer.log_feature_sparsity.to(torch.float32).contiguous()
        save_file({"sparsity": sparsity}, temporary / "sparsity.safetensors")
        write_json(temporary / "runner_cfg.json", runner_config(trainer, stream, seed))


def runner_config(trainer: Any, stream: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The run in the words of SAELens's `LanguageModelSAERunnerConfig`, as far as they apply."""
    cfg = trainer.cfg
    words = {**sae_metadata(stream, trainer.sae.cfg.metadata.hook_name), **_words_of_saelens(cfg)}
    words.pop("total_training_samples", None)
    words.pop("train_batch_size_samples", None)
    return {
        **words,
        "training_tokens": cfg.total_training_samples,
        "train_batch_size_tokens": cfg.train_batch_size_samples,
        "device": str(cfg.device),
        "dtype": trainer.sae.cfg.dtype,
        "seed": seed,
        "sae": trainer.sae.cfg.to_dict(),
    }
