"""What a card says about a SAE or a probe, read from the files beside its weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from graticule.hooks.names import user_path
from graticule.hooks.values import finite

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILE = re.compile(r"\.(txt|parquet|jsonl?|csv|arrow|gz|zst|safetensors|gguf)$", re.IGNORECASE)


@dataclass(frozen=True)
class SaeFacts:
    """A SAE as its files describe it."""

    cfg: Mapping[str, Any]
    """`cfg.json`."""
    runner: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """SAELens's `runner_cfg.json`; empty without one."""
    run: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """`run.json` of a graticule run; empty without one."""
    evaluation: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """`evaluation.json`; empty if the SAE was not evaluated."""
    last: Mapping[str, float] = field(default_factory=dict[str, float])
    """The last line of the training history."""
    density: tuple[tuple[float, int], ...] = ()
    """Left edge in log10 of a latent's firing frequency, and how many latents lie in that bin."""
    digest: str = ""
    """SHA-256 of the weights file."""
    dataset: str | None = None
    """The training text's id on the Hub, if it is there."""
    local_model: bool = False
    """Whether the model was named by a local path, so that its name says nothing about the Hub."""
    base_model: str | None = None
    """The model's id on the Hub, if it is known."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """SAELens's metadata in `cfg.json`."""
        return cast("Mapping[str, Any]", self.cfg.get("metadata") or {})

    @property
    def tokens(self) -> Any:
        """How many tokens it was trained on: a run's own count before what was asked for; None if unknown."""
        trained = look((self.metadata,), ("graticule",)) or {}
        counted = look((self.run, trained.get("training") or {}), ("tokens", "training_tokens"))
        return counted or self.find("tokens", "training_tokens", "n_tokens", "total_training_samples")

    def find(self, *names: str) -> Any:
        """The first setting of one of these names, in the SAE's own files before the run's; else None."""
        return look((self.metadata, self.cfg, self.runner, self.run), names)


@dataclass(frozen=True)
class ProbeFacts:
    """A ridge probe as its manifest and its verdict describe it."""

    manifest: Mapping[str, Any]
    """`manifest.json`."""
    judged: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """`verdict.json`: model, table, verdict, baselines, limit of detection; empty if never judged."""
    cosines: tuple[float, ...] = ()
    """Between the read and the write direction, a target each."""
    digest: str = ""
    """SHA-256 of the tensors' file."""
    base_model: str | None = None
    """The model's id on the Hub, if it is known."""


def look(sources: Iterable[Mapping[str, Any]], names: Sequence[str]) -> Any:
    """The first value that is not None under one of `names`: each source's own level first, then below."""
    for source in sources:
        level: list[Mapping[str, Any]] = [source]
        while level:
            for held in level:
                for name in names:
                    if held.get(name) is not None:
                        return held[name]
            level = [
                cast("Mapping[str, Any]", v)
                for held in level
                for v in held.values()
                if isinstance(v, Mapping)
            ]
    return None


def hub_dataset(name: Any) -> str | None:
    """`name` if it can be a dataset's id on the Hub (`owner/name`, no file), else None."""
    if (
        isinstance(name, str)
        and _HUB_ID.fullmatch(name)
        and not _FILE.search(name)
        and not user_path(name).exists()
    ):
        return name
    return None


def hub_model(name: Any) -> str | None:
    """The Hub's id of a model by TransformerLens's name for it; None if it is a local one."""
    if not isinstance(name, str) or not name or user_path(name).exists():
        return None
    from transformer_lens.loading_from_pretrained import get_official_model_name

    try:
        return str(get_official_model_name(name))
    except ValueError:
        return name if _HUB_ID.fullmatch(name) and not _FILE.search(name) else None


def histogram(
    log10_frequency: np.ndarray, low: float = -10.0, step: float = 0.25
) -> tuple[tuple[float, int], ...]:
    """Latents a bin of log10 firing frequency, from `low` to 0; what lies outside is in the outer bins.

    **Raises** `NonFiniteError` for what is no number; minus infinity is a latent that never fired.
    """
    bins = round(-low / step)
    fired = log10_frequency != -np.inf
    finite("log10 firing frequencies", log10_frequency, lambda i: f"of latent {i}", counted=fired)
    held = np.where(fired, log10_frequency.astype(np.float64), low)
    place = np.clip(np.floor((held - low) / step), 0, bins - 1).astype(int)
    counts = np.bincount(place, minlength=bins)
    return tuple((low + step * i, int(n)) for i, n in enumerate(counts))
