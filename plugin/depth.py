"""How many layers a model will have, as its config says before anything is loaded."""

import json
from collections.abc import Sequence
from typing import Any, cast

from graticule import gguf
from graticule.hooks.names import user_path

_DEPTHS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_PACKAGED_DEPTH = 18


def check_depth(model: str, points: str | Sequence[str] = (), layers: Any = "all") -> None:
    """Refuse layers and points that a model will not have, without loading it.

    Args:
        model: what `load_model` takes.
        points: names of hook points.
        layers: as `capture` takes them.

    Raises:
        PointError: A layer that is out of range; nothing is said where the config does not tell.
    """
    from graticule.hooks.points import PointError, layer_of, resolve_layers

    depth = depth_of(model)
    if depth is None:
        return
    resolve_layers(depth, layers)
    for point in [points] if isinstance(points, str) else points:
        layer = layer_of(point)
        if layer is not None and layer >= depth:
            raise PointError(f"no hook point {point!r}: this model has layers 0 to {depth - 1}")


def depth_of(model: str) -> int | None:
    """The layers that a folder's config, or what is packaged, tells of; None where neither does."""
    file = user_path(model) / "config.json"
    if not file.is_file():
        return _PACKAGED_DEPTH if model == gguf.PACKAGED else None
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # load_model says what is wrong with it
    if not isinstance(config, dict) or cast("dict[str, Any]", config).get("is_encoder_decoder"):
        return None
    parts = [cast("dict[str, Any]", config), cast("dict[str, Any]", config).get("text_config")]
    told = {part[name] for part in parts if isinstance(part, dict) for name in _DEPTHS if name in part}
    depth = told.pop() if len(told) == 1 else None
    return depth if isinstance(depth, int) and depth > 0 else None
