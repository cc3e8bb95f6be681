"""What a published file must not say: tokens and passwords, and where things lie on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, cast
from urllib.parse import unquote

GONE = "…"
"""What stands in a published file where a token was."""

_SECRETS = re.compile(
    r"\bhf_[A-Za-z0-9]{10,}"
    r"|\b(?:gh[opsur]_|github_pat_|glpat-|sk-|xox[abprs]-|api_org_|dckr_pat_|pypi-)[\w-]{16,}"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bAIza[\w-]{30,}"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+"
    r"|(?<=[Bb]earer )[\w.~+/=-]{8,}"
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"
    r"|(?i:\b(?:wandb|api_?key|secret|passw(?:or)?d)[\w-]*[\s:=\"']{1,4})(?:[0-9a-f]{40}|[0-9a-f]{32})\b"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----(?:[\s\S]*-----END [A-Z ]*PRIVATE KEY-----)?"
)
_SECRET_NAME = re.compile(
    r"(?:.*_)?(?:api_?key|secret(?:_key)?|passw(?:or)?d|private_key|credentials?|authorization|cookie)"
    r"|(?:.*_)?(?:auth|access|api|hub|hf|bearer|refresh|session|wandb|secret)_token|token",
    re.IGNORECASE,
)
_KEY_NAME = re.compile(r"(?:.*[\W_])?(?:key|token|secret|pat|passphrase)s?", re.IGNORECASE)
"""Names under which a token may stand, and other words, too: cut is what looks like one."""
_LIKE_A_KEY = re.compile(r"(?=.*\d)[\w~+/=-]{20,}")
_HERE = ("/", "~", "./", "../", "\\\\")
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]")
_A_HOME = re.compile(r"(?:[A-Za-z]:)?[\\/](?:(?:var[\\/]|export[\\/])?(?:home|Users)[\\/][^\\/]+|root)[\\/]?")
_INSIDE = re.compile(
    r"""(?P<quote>["'`])(?P<quoted>(?:[A-Za-z]:[\\/]|file:/|~\w*/|/)(?:(?!(?P=quote)).)*)(?P=quote)"""
    r"""|\b[a-z][a-z0-9+.-]*:///[^\s'"`]+"""
    r"""|\bfile://?[^\s'"`]+"""
    r"""|(?<![A-Za-z0-9])[A-Za-z]:\\[^\s'"`,;]+|(?<![A-Za-z0-9])[A-Za-z]:/(?!/)[^\s'"`,;]+"""
    r"""|(?<![\w\\])\\\\[\w.$-]+\\[^\s'"`,;]+"""
    r"""|(?<![\w/.~-])(?:~[A-Za-z]\w*|(?=/))(?:/[^\s/'"`:,;=|<>(){}\[\]]+){2,}/?"""
    r"""|(?<![\w/.~-])/(?:home|root|Users)\b/?"""
)


def has_secret(text: str) -> bool:
    """Whether `text` holds what looks like a token, a password in an address, or a private key."""
    return _SECRETS.search(text) is not None


def without_secrets(text: object) -> str:
    """`text` with all that looks like a token cut out."""
    return _SECRETS.sub(lambda m: f"hf_{GONE}" if m[0].startswith("hf_") else GONE, str(text))


def is_path(value: Any) -> bool:
    """Whether `value` is a local path by the look of it."""
    return isinstance(value, str) and "\n" not in value and _is_whole_path(value)


def _is_whole_path(text: str) -> bool:
    if text.startswith("~"):
        return re.match(r"~\w*(/|$)", text) is not None
    return text.startswith(_HERE) or _WINDOWS.match(text) is not None or text.startswith("file:/")


def shorten(value: Any) -> Any:
    """`value` with local paths cut to their last part, in keys too: a published file names no home folder."""
    if isinstance(value, Mapping):
        return _shortened(cast("Mapping[Any, Any]", value))
    if isinstance(value, list | tuple):
        return [shorten(v) for v in cast("Sequence[Any]", value)]
    if not isinstance(value, str):
        return value
    if is_path(value) and not _several(value):
        return _last_part(value)
    return _INSIDE.sub(_cut, value.replace(f"{Path.home()}/", "~/") if Path.home() != Path("/") else value)


def _shortened(value: Mapping[Any, Any]) -> dict[Any, Any]:
    """With every key's path cut too; keys that would become one are numbered."""
    out: dict[Any, Any] = {}
    for key, inner in value.items():
        name, count = shorten(key), 1
        while name in out:
            count += 1
            name = f"{shorten(key)} ({count})"
        out[name] = shorten(inner)
    return out


def _several(text: str) -> bool:
    """Whether a text that begins like a path goes on with other words or paths behind it."""
    return re.search(r"""[\s:,;=|'"`]+(?:~|/|file:|[A-Za-z]:[\\/])""", text[3:]) is not None


def _cut(found: re.Match[str]) -> str:
    quote = found["quote"] or ""
    return quote + _last_part(found["quoted"] if quote else found[0]) + quote


def _last_part(path: str) -> str:
    """The last part of a path or of a file's address; `~` for a home folder, whose name is its owner's."""
    address = re.match(r"[a-z][a-z0-9+.-]*:/+(?:localhost/+)?", path)
    if address is not None and not _WINDOWS.match(path):
        path = "/" + unquote(path[address.end() :])
    if _A_HOME.fullmatch(path) or Path(path) == Path.home() or re.fullmatch(r"~\w*/?", path):
        return "~"
    if _WINDOWS.match(path) or path.startswith("\\\\"):
        return PureWindowsPath(path).name
    return Path(path).name


def secret_places(value: Any, place: str = "") -> Iterator[str]:
    """Dotted names of the settings in `value` that hold a token, or whose name says that they do."""
    if isinstance(value, Mapping):
        for key, inner in cast("Mapping[Any, Any]", value).items():
            name = f"{place}.{without_secrets(key)}" if place else without_secrets(key)
            if has_secret(str(key)) or _is_secret(key, inner):
                yield name
            else:
                yield from secret_places(inner, name)
    elif isinstance(value, list | tuple):
        for inner in cast("Sequence[Any]", value):
            yield from secret_places(inner, place)
    elif isinstance(value, str) and has_secret(value):
        yield place


def _is_secret(key: Any, value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_is_secret(key, one) for one in cast("Sequence[Any]", value))
    return (
        isinstance(key, str)
        and isinstance(value, str)
        and value not in ("", GONE)
        and (
            _SECRET_NAME.fullmatch(key) is not None
            or (_KEY_NAME.fullmatch(key) is not None and _LIKE_A_KEY.fullmatch(value) is not None)
            or ("wandb" in key.lower() and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{32}", value) is not None)
        )
    )


def public(value: Any) -> Any:
    """`value` as it may be published: tokens cut out, in keys too, and local paths cut to their last part."""
    return shorten(_without(value))


def _without(value: Any) -> Any:
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        return {
            without_secrets(k) if isinstance(k, str) else k: GONE if _is_secret(k, v) else _without(v)
            for k, v in items
        }
    if isinstance(value, list | tuple):
        return [_without(v) for v in cast("Sequence[Any]", value)]
    return without_secrets(value) if isinstance(value, str) else value
