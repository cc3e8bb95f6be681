"""What a folder was made from, compared with what is asked for now, setting by setting."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from graticule.hooks.artifact import json_ready
from graticule.hooks.identity import EARLIER, is_earlier

_SHOWN = 6
_LONGEST = 60
_DIGESTS = ("digest", "config", "inputs", "tokenizer", "rows", "values", "table", "columns")
_TARGETS = ("targets: ", "target_names: ")
_OTHER = "another one, though it may have the same name"


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value in nested dicts, under the names that lead to it."""
    if isinstance(value, Mapping) and value:
        for key, item in cast("Mapping[str, Any]", value).items():
            yield from flat(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`name: before → now` for every setting that two requests do not share."""
    old, new = dict(flat(json_ready(before))), dict(flat(json_ready(now)))
    earlier = [n.removesuffix(".digest") for n in old if n.endswith("model.digest") and is_earlier(old[n])]
    earlier = [model for model in earlier if not is_earlier(new.get(f"{model}.digest"))]
    for name in (f"{model}.{last}" for model in earlier for last in ("digest", "config")):
        old.pop(name, None)
        new.pop(name, None)
    for name in [n for n in new if n.endswith("model.tokenizer") and n not in old]:
        new.pop(name)  # earlier versions kept the ids that came of it alone
    names = [*old, *(name for name in new if name not in old)]
    differing = [
        _difference(name, old.get(name, "not set"), new.get(name, "not set"))
        for name in names
        if old.get(name, "not set") != new.get(name, "not set")
    ]
    differing += [f"{model}: {EARLIER}" for model in earlier]
    if any(words.startswith(_TARGETS) for words in differing) and not any(
        words.startswith("columns") for words in differing
    ):  # a table's digest is of its targets too, and they are said
        differing = [words for words in differing if words != f"table: {_OTHER}"]
    return sorted(differing, key=lambda words: words.endswith(_OTHER))  # settings first, contents after


def _difference(name: str, before: Any, now: Any) -> str:
    """`name: before → now`; of digests, which say nothing to people, what they are of."""
    *path, last = name.split(".")
    if last in _DIGESTS and "not set" not in (before, now):
        return f"{'.'.join(path if last == 'digest' else [*path, last])}: {_OTHER}"
    if path[:1] == ["columns"] and "not set" not in (before, now):
        return f"{name}: other values"
    if path[:1] == ["columns"]:
        return f"{name}: {'a new column' if before == 'not set' else 'no such column now'}"
    return f"{name}: {_short(before)} → {_short(now)}"


def told(differing: list[str]) -> str:
    """The first differences on one line, and how many more there are."""
    more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
    return "; ".join(differing[:_SHOWN]) + more


def _short(value: Any) -> str:
    words = str(value) or "''"
    return words if len(words) <= _LONGEST else f"{words[: _LONGEST - 1]}…"
