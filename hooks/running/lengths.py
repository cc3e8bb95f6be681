"""Lengths at which a model begins to compute something else, as its Hugging Face config names them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from graticule.hooks.model_view import ModelView

_LOCAL = re.compile(r"window|chunk_size|local_attention|block_size|attention_block")
"""Settings of attention, or of a scan, that reaches no further than so many tokens …"""
_OF_LAYERS = re.compile(r"layers|pattern")
"""… and those that say in which layers."""
ATTENTION_WINDOWS = ("sliding_window", "attention_window", "attention_chunk_size", "local_attention")
"""Those of them that change what every layer of a kind computes; others belong to one family's own code."""
_ROPES = ("rope_parameters", "rope_scaling")
_STATIC = ("default", "linear", "llama3", "yarn", "proportional", "mrope")
"""Rotary embeddings whose table does not follow the length of what runs."""


@dataclass(frozen=True)
class RopeBorders:
    """Where the rotary table of a whole batch changes with its longest row."""

    borders: tuple[int, ...] = ()
    """Rows longer than this have another table than shorter ones (longrope)."""
    apart_beyond: int | None = None
    """Beyond this every length has a table of its own (dynamic NTK), or its own choice between tokens that
    score alike (sparse attention)."""


def config_of(model: Any) -> dict[str, Any]:
    """The Hugging Face config of a model's text part as plain data: of an original, or of a bridge around it;
    empty for any other model."""
    config = getattr(getattr(model, "original_model", model), "config", None)
    if config is None or not hasattr(config, "to_dict"):
        return {}
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return text.to_dict()


def windows(config: Mapping[str, Any]) -> dict[str, int]:
    """Setting → tokens, for everything in a config beyond which attention (or a scan) does not reach."""
    unused = config.get("use_sliding_window") is False or _only_full(config)
    out: dict[str, int] = {}
    for name, value in config.items():
        if not _LOCAL.search(name) or _OF_LAYERS.search(name) or (unused and name == "sliding_window"):
            continue
        sizes = cast("list[Any]", value if isinstance(value, list | tuple) else [value])
        whole = [v for v in sizes if isinstance(v, int) and not isinstance(v, bool) and v > 1]
        if whole:
            out[name] = max(whole)
    return out


def reach_of(model: Any) -> tuple[int, ...]:
    """Tokens that some layers of a model see back at most, as its configs name them."""
    own = ModelView(model).window
    return (*windows(config_of(model)).values(), *((own,) if own else ()))


def _only_full(config: Mapping[str, Any]) -> bool:
    kinds = config.get("layer_types")
    return bool(kinds) and all(kind == "full_attention" for kind in cast("list[str]", kinds))


def rope_borders(config: Mapping[str, Any]) -> RopeBorders:
    """Where the rotary table changes; for a kind of table that is not known, every length beyond the length
    trained on is taken for another."""
    borders: set[int] = set()
    apart: list[int] = []
    for rope in _ropes(config):
        kind = str(rope.get("rope_type", rope.get("type", "default")))
        if kind in _STATIC:
            continue
        trained = rope.get("original_max_position_embeddings") or config.get(
            "original_max_position_embeddings"
        )
        if kind in ("longrope", "su"):
            borders |= {int(trained)} if trained else set()
        else:
            start = config.get("max_position_embeddings") if kind == "dynamic" else trained
            apart.append(int(start or trained or 0))
    if isinstance(config.get("index_topk"), int):  # which of equal scores is chosen follows the row's length
        apart.append(int(config["index_topk"]))
    return RopeBorders(tuple(sorted(borders)), min(apart, default=None))


def _ropes(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every rotary setting, those of single kinds of layers included."""
    for name in _ROPES:
        rope = config.get(name)
        if isinstance(rope, Mapping):
            yield cast("Mapping[str, Any]", rope)
            yield from (
                cast("Mapping[str, Any]", r)
                for r in cast("Mapping[str, Any]", rope).values()
                if isinstance(r, Mapping)
            )
