"""Hook-point names: full names, `("resid_post", 3)`, `"resid_post"` with layers, patterns with `*`.

Nothing here runs a model. On a `TransformerBridge` a TransformerLens name is an alias of the bridge's own
(`blocks.1.hook_resid_post` of `blocks.1.hook_out`): names are resolved against `hook_dict`, which holds
both, and everything downstream is keyed by the name that was asked for, never by `hook.name`.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np

from graticule.hooks.messages import UnknownNameError, brief
from graticule.hooks.protocols import HookedModel

PointSpec = str | tuple[str, int] | Sequence[str | tuple[str, int]]
"""One or several points, as `points=` takes them."""

LayerSpec = int | float | slice | Sequence[int | float] | Literal["all"]
"""Layers: an index (negative from the end), a list, a slice, `"all"`, or a depth fraction in [0, 1]."""

_BLOCK = re.compile(r"^blocks\.(\d+)\.")
_HUGGING_FACE = re.compile(
    r"^(?:\w+\.)*?(?:layers?|h|blocks?)\.(\d+)(?:\.(?!hook|attn\.hook|mlp\.hook|ln)(.*))?$"
)
_PARTS = (
    ("mlp", "hook_mlp_out"),
    ("ffn", "hook_mlp_out"),
    ("attn", "hook_attn_out"),
    ("attention", "hook_attn_out"),
)
_SHORT = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    "mlp_in": "hook_mlp_in",
    "q": "attn.hook_q",
    "k": "attn.hook_k",
    "v": "attn.hook_v",
    "z": "attn.hook_z",
    "attn_result": "attn.hook_result",
    "result": "attn.hook_result",
    "mlp_pre": "mlp.hook_pre",
    "pre": "mlp.hook_pre",
    "mlp_post": "mlp.hook_post",
    "post": "mlp.hook_post",
    "pattern": "attn.hook_pattern",
    "attn_scores": "attn.hook_attn_scores",
}
_GLOBAL = {"embed": "hook_embed", "pos_embed": "hook_pos_embed", "final": "ln_final.hook_normalized"}
_LAYERS = "'all', an index 7, several [3, 7], a slice slice(0, 18, 2), or a depth fraction 0.5"
_SQUARE = ("hook_pattern", "hook_attn_scores")


_SWITCHES = {
    "attn.hook_result": "attn_result",
    "hook_attn_in": "attn_in",
    "hook_q_input": "split_qkv_input",
    "hook_k_input": "split_qkv_input",
    "hook_v_input": "split_qkv_input",
    "hook_mlp_in": "hook_mlp_in",
}
"""Hook points that are computed where the model was told so alone → what it is told."""


class PointError(UnknownNameError):
    """A hook point or layer that the model does not have; the message names the nearest real ones."""


def layer_of(point: str) -> int | None:
    """The block that a hook name belongs to, or None outside the blocks."""
    match = _BLOCK.match(point)
    return int(match.group(1)) if match else None


def never_reached(points: Iterable[str], model: Any) -> str:
    """What to say of points that a model has and a pass did not come by, and what turns them on."""
    names = sorted(points, key=lambda name: (_place(name), name))
    switches = {part for name in names for end, part in _SWITCHES.items() if name.endswith(f".{end}")}
    on = [f"model.set_use_{part}(True)" for part in sorted(switches) if hasattr(model, f"set_use_{part}")]
    turn = f"; {' and '.join(on)} turns {'it' if len(names) == 1 else 'them'} on" if on else ""
    few = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return (
        f"this model has {few}, but its forward pass never reaches "
        f"{'it' if len(names) == 1 else 'them'}; nothing was captured{turn}"
    )


def layer_text(point: str) -> str:
    """`layer 7` for a point of block 7, and its name for one outside the blocks."""
    layer = layer_of(point)
    return point if layer is None else f"layer {layer}"


def full_name(name: str, layer: int | None = None) -> str:
    """The full hook name of a short one: `("resid_post", 3)` is `blocks.3.hook_resid_post`.

    A name that is no short name comes back as it is.
    """
    if layer is None:
        return _GLOBAL.get(name, name)
    if name in _SHORT:
        return f"blocks.{layer}.{_SHORT[name]}"
    return f"blocks.{layer}.{name}" if "hook" in name else f"blocks.{layer}.hook_{name}"


def name_of(key: object) -> str:
    """The full hook name of a key of activations: a name, or a (name, layer) pair.

    Raises:
        PointError: It is neither.
    """
    if isinstance(key, str):
        return key
    if isinstance(key, tuple) and len(key) == 2 and isinstance(key[0], str):
        return full_name(*key)
    raise PointError(f"{brief(key)} is no point: expected a hook name, or ('resid_post', 9)")


def several(values: Any) -> list[Any]:
    """What an argument that takes several lists: one string, or one (name, layer) pair, is one entry.

    Raises:
        PointError: It is neither, and no sequence.
    """
    if isinstance(values, bytes | Mapping) or hasattr(values, "columns") or not hasattr(values, "__iter__"):
        raise PointError(f"points={brief(values)}: expected a name such as 'resid_post', or several")
    pair = isinstance(values, tuple) and len(values) == 2 and isinstance(values[1], int | np.integer)
    return [values] if pair or isinstance(values, str) else list(values)


def captured_name(key: object, captured: Sequence[str]) -> str:
    """The full hook name of a key of activations that were captured.

    Args:
        key: A name, or a (name, layer) pair.
        captured: Full hook names of what was captured.

    Raises:
        PointError: It is neither, or was not captured; the message names points that were.
    """
    if isinstance(key, str | tuple) and (name := name_of(key)) in captured:
        return name
    pairs = [(short, layer) for name in captured for short, layer in _pairs(name)]
    if not isinstance(key, str | tuple):
        at = [pair for pair in pairs if pair[1] == key and type(key) is int]
        example = repr((at or pairs or [captured[0]])[0])
        raise PointError(f"{brief(key)} is no point: expected a hook name, or {example}")
    if at := [pair for pair in pairs if pair[0] == key]:
        raise PointError(
            f"{brief(key)} names no layer: write {' or '.join(map(repr, at[-1:]))}, of {len(at)}"
        )
    raise PointError(f"{name_of(key)} is not among the captured points: {', '.join(captured)}")


def _pairs(name: str) -> list[tuple[str, int]]:
    """A full hook name as (short name, layer), if it has one."""
    layer = layer_of(name)
    return [] if layer is None else [(s, layer) for s in _SHORT if full_name(s, layer) == name]


def resolve_layers(n_layers: int, layers: LayerSpec = "all") -> list[int]:
    """Layer indices in `0 … n_layers-1`, in the order asked for, without repeats.

    A float is a fraction of the depth: `0.5` of 18 layers is layer 9, `1.0` the last.

    Raises:
        PointError: for a layer the model does not have or a fraction outside [0, 1].
    """
    if isinstance(layers, str) and layers == "all":
        return list(range(n_layers))
    if isinstance(layers, slice):
        chosen = list(range(n_layers))[layers]
        if not chosen:
            raise PointError(f"layers={layers} selects none of {n_layers} layers")
        return chosen
    if isinstance(layers, str | Mapping) or not isinstance(layers, Iterable):
        return [_one_layer(n_layers, layers)]
    chosen = list(dict.fromkeys(_one_layer(n_layers, layer) for layer in layers))
    if not chosen:
        raise PointError("layers=[] selects nothing; give at least one layer")
    return chosen


def _one_layer(n_layers: int, layer: Any) -> int:
    if isinstance(layer, bool) or not isinstance(layer, int | float | np.integer | np.floating):
        raise PointError(f"layers={brief(layer)}: expected {_LAYERS}")
    if isinstance(layer, float | np.floating):
        layer = float(layer)
        if not 0.0 <= layer <= 1.0:
            whole = f"; for the layer itself write {int(layer)}" if layer.is_integer() else ""
            raise PointError(f"layer {layer}: a depth fraction lies in [0, 1]{whole}")
        return min(int(layer * n_layers), n_layers - 1)
    if not -n_layers <= layer < n_layers:
        raise PointError(f"layer {layer}: this model has layers 0 to {n_layers - 1}")
    return int(layer) % n_layers


def resolve(
    model: HookedModel, points: PointSpec = "resid_post", layers: LayerSpec = "all"
) -> tuple[str, ...]:
    """Full hook names for `points`, in model order, each one a hook point of `model`.

    `layers` applies to short names without a layer and to patterns that name blocks by `*`.

    Raises:
        PointError: for an unknown point (naming the nearest).
        ValueError: for attention patterns, whose `[head, query, key]` entries are no `[row, width]`
            activation.
    """
    hook_names: list[str] = list(model.hook_dict)
    names = _named(hook_names, points, layers, int(model.cfg.n_layers))
    for name in names:
        if name.endswith(_SQUARE):
            raise ValueError(
                f"{name} is an attention pattern [batch, head, query, key], not a [row, width] activation; "
                "capture 'z' or 'attn_out' instead, or use run_with_cache for patterns"
            )
    order = {name: i for i, name in enumerate(hook_names)}
    return tuple(sorted(names, key=lambda n: (_place(n), order[n])))


def resolve_names(hook_names: Sequence[str], points: PointSpec, layers: LayerSpec = "all") -> tuple[str, ...]:
    """Full hook names for `points` among names that are there, without a model.

    Raises:
        PointError: A point is not among them (naming the nearest).
    """
    n_layers = 1 + max((layer for name in hook_names if (layer := layer_of(name)) is not None), default=-1)
    return tuple(_named(list(hook_names), points, layers, n_layers))


def _named(hook_names: list[str], points: PointSpec, layers: LayerSpec, n_layers: int) -> dict[str, None]:
    if not isinstance(points, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise PointError(f"points={brief(points)}: expected a name such as 'resid_post', or several")
    specs = several(points)
    if not specs:
        raise PointError("points=[] selects nothing; 'resid_post' is the usual choice")
    allowed = resolve_layers(n_layers, layers)
    return {name: None for spec in specs for name in _expand(spec, hook_names, allowed, n_layers)}


def _place(name: str) -> float:
    layer = layer_of(name)
    if layer is not None:
        return float(layer)
    return -1.0 if "embed" in name and "unembed" not in name else float("inf")


def _expand(spec: Any, hook_names: list[str], allowed: list[int], n_layers: int) -> list[str]:
    if not isinstance(spec, str):
        if not (isinstance(spec, tuple) and len(spec) == 2 and isinstance(spec[0], str)):
            raise PointError(f"points=[{brief(spec)}]: expected a name or a (name, layer) pair")
        return [_checked_name(full_name(spec[0], _one_layer(n_layers, spec[1])), hook_names)]
    if "*" in spec:
        matches = [n for n in hook_names if fnmatchcase(n, spec)]
        matches = [n for n in matches if layer_of(n) is None or layer_of(n) in allowed]
        if not matches:
            raise PointError(f"pattern {spec!r} matches no hook point{_nearest(spec, hook_names)}")
        return matches
    if spec in hook_names:
        return [spec]
    if spec in _GLOBAL:
        return [_checked_name(full_name(spec), hook_names)]
    if "." in spec or spec.startswith("hook_"):
        return [_checked_name(spec, hook_names)]
    if spec not in _SHORT and full_name(spec, allowed[0]) not in hook_names:
        shorts = [*_SHORT, *_GLOBAL]
        close = difflib.get_close_matches(spec, shorts, n=3, cutoff=0.4)
        raise PointError(
            f"no hook point {spec!r}; did you mean {' or '.join(map(repr, close or shorts[:3]))}?"
        )
    return [_checked_name(full_name(spec, layer), hook_names) for layer in allowed]


def _checked_name(name: str, hook_names: list[str]) -> str:
    if name not in hook_names:
        raise PointError(f"this model has no hook point {name!r}{_nearest(name, hook_names)}")
    return name


def _nearest(name: str, hook_names: list[str]) -> str:
    if f"{name}.hook_sae_input" in hook_names:
        return f": an SAE is attached there; model.reset_saes() first, or read {name}.hook_sae_input"
    close = difflib.get_close_matches(_as_lens(name), hook_names, n=3, cutoff=0.5)
    if close:
        return f"; the nearest are {', '.join(close)}"
    some = [name for name in hook_names if layer_of(name) == 0][-1:] or hook_names[:1]
    return f"; names look like {some[0]}, short ones like 'resid_post'" if some else ""


def _as_lens(name: str) -> str:
    """A module's name in the Hugging Face model as the hook name of what it puts out; others as they are."""
    match = _HUGGING_FACE.match(name)
    if match is None:
        return name
    part = next((hook for word, hook in _PARTS if word in (match[2] or "")), "hook_resid_post")
    return f"blocks.{match[1]}.{part}"
