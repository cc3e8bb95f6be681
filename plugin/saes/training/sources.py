"""What is trained on what: the SAEs asked for, by name, and the stream that feeds all of them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from sae_lens import TrainingSAEConfig

from graticule.hooks.calls import came
from graticule.hooks.doors import MODEL
from graticule.hooks.names import check_name, user_path
from graticule.hooks.points import PointError
from graticule.hooks.protocols import HookedModel
from graticule.hooks.rows import Rows
from graticule.hooks.streams.base import Stream
from graticule.saes.training.settings import Optimisation

_OF_TRAIN = (
    *("model", "store", "corpus", "points", "layers", "batch_size"),
    *("context_size", "n_tokens", "epochs", "seed", "progress"),
)
"""Arguments of the streams that `train` fills in."""
_RESERVED = ("checkpoint", "sae", "evaluation", "features")


@dataclass(frozen=True)
class Wanted:
    """One SAE that was asked for."""

    name: str
    """Its folder's name; empty for the only one."""
    point: str | None
    """Its hook point; None for the stream's only one."""
    config: Any
    """A training config, an architecture's name, or a mapping of `sae_config`'s arguments."""
    optimisation: Mapping[str, Any]
    """Settings of the optimiser that are this SAE's alone."""


def wanted_saes(config: Any, hook_name: str | Sequence[str] | None) -> list[Wanted]:
    """The SAEs that `config` and `hook_name` ask for: every config at every point.

    `config` is one config, a list of them, or a mapping of names to them; a config that names its own
    `hook_name` is trained there only.

    Raises:
        ValueError: where there is none, or for a name that cannot be a folder's.
    """
    points: list[str | None] = (
        [hook_name] if hook_name is None or isinstance(hook_name, str) else [*hook_name]
    )
    named = _named(config)
    if not named or not points:
        raise ValueError("nothing to train: config= and hook_name= name no SAE")
    out: list[Wanted] = []
    for name, given in named.items():
        ours, rest, own = _parts(given)
        there = [own] if own else points
        for point in there:
            parts = [name] if name or len(there) == 1 else []
            parts += [str(point)] if len(there) > 1 else []
            out.append(Wanted("-".join(parts), point, rest, ours))
    for sae in out:
        if not sae.name and len(out) == 1:
            continue
        if sae.name in (*_RESERVED, "") or sae.name.startswith(".") or "/" in sae.name:
            raise ValueError(f"{sae.name!r} cannot name an SAE's folder; choose another name")
        check_name(sae.name, "the name of an SAE")
    if len({sae.name for sae in out}) < len(out):
        raise ValueError(f"two SAEs of one name: {', '.join(sae.name for sae in out)}")
    return out


def _named(config: Any) -> dict[str, Any]:
    if isinstance(config, Mapping):
        configs = cast("Mapping[str, Any]", config)
        return {"": configs} if "architecture" in configs else dict(configs)
    if isinstance(config, Sequence) and not isinstance(config, str):
        listed = cast("Sequence[Any]", config)
        return {f"{i}-{_short(given)}": given for i, given in enumerate(listed)}
    return {"": config}


def _short(given: Any) -> str:
    """An architecture and its size, in a folder's name."""
    if isinstance(given, TrainingSAEConfig):
        return f"{given.architecture()}-{given.d_sae}"
    if isinstance(given, Mapping):
        settings = cast("Mapping[str, Any]", given)
        return "-".join(str(settings[key]) for key in ("architecture", "d_sae") if settings.get(key))
    return str(given)


def _parts(given: Any) -> tuple[dict[str, Any], Any, str | None]:
    """The optimiser's settings, the SAE's, and its own hook point."""
    if not isinstance(given, Mapping):
        return {}, given, given.metadata.hook_name if isinstance(given, TrainingSAEConfig) else None
    rest = dict(cast("Mapping[str, Any]", given))
    names = {field.name for field in fields(Optimisation)}
    optimisation = {name: rest.pop(name) for name in [*rest] if name in names}
    own = rest.pop("hook_name", None)
    return optimisation, rest, own


def make_stream(
    source: Any,
    points: Sequence[str],
    *,
    corpus: Any,
    n_tokens: int | None,
    batch_size: int,
    context_size: int | None,
    epochs: int | None,
    seed: int,
    options: Mapping[str, Any],
    progress: bool | None,
) -> Stream:
    """The stream of `points`: the one given, over a store or activations, or live from a model and a corpus.

    Raises:
        ValueError: for settings that the source does not have, and as the streams do.
        TypeError: for any other source.
    """
    if isinstance(source, Stream):
        if corpus is not None or options:
            raise ValueError("a stream comes with its corpus and settings: leave corpus= and stream= out")
        missing = [point for point in points if point not in source.points]
        if missing:
            raise PointError(f"{', '.join(missing)} is not in the stream: {', '.join(source.points)}")
        return source
    shared: dict[str, Any] = {"epochs": epochs, "seed": seed, **options}
    if isinstance(source, str | Path | Rows):
        from graticule.hooks.streams.stored import StoreStream

        if isinstance(source, str | Path) and not user_path(source).exists():
            raise ValueError(
                f"train: source is {came(source)}, no folder; expected a loaded model, "
                f"{MODEL.write(source)}, or the folder of a store"
            )
        if corpus is not None or context_size is not None:
            raise ValueError("a store holds its contexts: leave corpus= and context_size= out")
        _check_options(StoreStream, options)
        return StoreStream(source, list(points) or None, batch_size, **shared)
    if isinstance(source, HookedModel):
        from graticule.hooks.streams.live import LiveStream

        if corpus is None or not points:
            raise ValueError("training from a model needs corpus= (texts, files or a dataset) and hook_name=")
        _check_options(LiveStream, options)
        shared |= {"context_size": context_size, "n_tokens": n_tokens, "progress": progress}
        return LiveStream(source, corpus, list(points), batch_size, **shared)
    raise TypeError(
        f"cannot train on a {type(source).__name__}: give a TransformerLens model, an activation store, or a "
        "stream"
    )


def _check_options(kind: type, options: Mapping[str, Any]) -> None:
    """Refuse a setting in `stream=` that is none, or is `train`'s own argument."""
    parameters = inspect.signature(kind).parameters
    names = [name for name in parameters if name not in _OF_TRAIN]
    for name, value in options.items():
        if name in _OF_TRAIN and name in parameters:
            where = {"points": "hook_name", "layers": "hook_name"}.get(name, name)
            raise ValueError(f"stream= has {name}, which train takes itself: train(…, {where}={value!r})")
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(names)}"
            raise ValueError(f"stream= has no setting {name!r}{hint}")


def _available_tokens(stream: Stream) -> int | None:
    """Rows that the stream will give in whole batches, where it knows."""
    epochs = getattr(stream, "epochs", None)
    batches = getattr(stream, "n_batches", None)
    return None if epochs is None or batches is None else int(epochs) * int(batches) * stream.batch_size


def check_one_batch(n_tokens: int | None, batch_size: int) -> None:
    """Refuse fewer rows than a batch has."""
    if n_tokens is not None and n_tokens < batch_size:
        raise ValueError(
            f"n_tokens={n_tokens} is less than one batch of {batch_size}: write "
            f"batch_size={max(1, n_tokens)} or less, or more n_tokens"
        )


def total_tokens(stream: Stream, n_tokens: int | None) -> int:
    """`n_tokens` in whole batches; all that the stream has where it is None.

    Raises:
        ValueError: where nobody knows how many, or where the stream has fewer.
    """
    has = _available_tokens(stream)
    wanted = n_tokens if n_tokens is not None else getattr(stream, "n_tokens", None) or has
    if wanted is None and getattr(stream, "epochs", 1) is None:
        raise ValueError(
            "epochs=None reads the data without end: say how many rows with n_tokens=, or epochs=1"
        )
    if wanted is None:
        raise ValueError("n_tokens= is needed: the corpus does not say how many tokens it has")
    total = int(wanted) // stream.batch_size * stream.batch_size
    if total < stream.batch_size:
        check_one_batch(int(wanted), stream.batch_size)
    if has is not None and total > has:
        raise ValueError(
            f"n_tokens={wanted}: the store gives {has:,} in whole batches; lower n_tokens or raise epochs"
        )
    return total
