"""What of a folder may be published: its own files, without tokens, passwords or places on this machine."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, cast
from urllib.parse import unquote

from graticule.hooks.artifact import ArtifactError, json_ready, read_json, sha256

log = logging.getLogger(__name__)

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
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


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


def _cut(match: re.Match[str]) -> str:
    quote = match["quote"] or ""
    return quote + _last_part(match["quoted"] if quote else match[0]) + quote


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


def own_file(root: Path, *parts: str) -> Path | None:
    """The file `parts` of the folder `root`; None if there is none.

    Raises:
        ValueError: for a link, symbolic or hard, at any step below `root`, and for what is no file: whatever
            lies behind it is not the folder's own, and is never read.
    """
    path, seen = root, None
    for part in parts:
        path = path / part
        try:
            seen = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISLNK(seen.st_mode):
            raise ValueError(
                f"{path} is a symbolic link: only what lies in {root} itself is published; put the file or "
                "folder there in its place (cp -L follows links)"
            )
    if seen is None or not stat.S_ISREG(seen.st_mode):
        kind = _KINDS.get(stat.S_IFMT(seen.st_mode), "something else") if seen is not None else "a folder"
        raise ValueError(f"{path} is {kind}, expected a file")
    if seen.st_nlink > 1:
        raise ValueError(
            f"{path} has {seen.st_nlink} names (hard links), and others may lie outside {root}: put a copy "
            "in its place"
        )
    return path


def own_folders(root: Path) -> list[Path]:
    """The folders in `root`, hidden ones left out.

    Raises:
        ValueError: for a link to a folder.
    """
    for path in sorted(root.iterdir()):
        if path.is_symlink() and path.is_dir():
            raise ValueError(
                f"{path} is a symbolic link: only what lies in {root} itself is published; name the folder "
                "that it leads to, or take it away"
            )
    return [p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")]


def own_tree(root: Path) -> None:
    """Raise `ValueError` unless all in `root`, at any depth, is files and folders of its own."""
    for folder, folders, files in os.walk(root):
        where = Path(folder).relative_to(root).parts
        for name in folders:
            if (Path(folder) / name).is_symlink():
                own_file(root, *where, name)
        for name in files:
            own_file(root, *where, name)


def publishable(path: Path) -> Path | bytes:
    """The file itself, or its content where it named a token or a place on this machine.

    Raises:
        ArtifactError: for a damaged file.
        ValueError: for a file that is not of the kind that its name says, and for tensors or a table whose
            names or notes hold what must not be published.
    """
    if path.suffix == ".json":
        value = read_json(path)
        content = public_json(value, str(path))
        return path if content is None else content
    words = _tensor_words(path) if path.suffix == ".safetensors" else _table_words(path)
    for text in words:
        if has_secret(text) or shorten(text) != text:
            what = "a token" if has_secret(text) else f"a place on this machine ({text[:80]!r})"
            raise ValueError(f"{path} holds {what} in its names or notes: write it again without")
    return path


def public_json(value: dict[str, Any], where: str) -> bytes | None:
    """What is published of a JSON object; None if nothing had to be cut. Tokens cut out are told."""
    if secrets := list(dict.fromkeys(secret_places(value))):
        log.warning(
            "%s: %s looks like a token, and '%s' is published in its place", where, ", ".join(secrets), GONE
        )
    cleaned = public(value)
    return None if cleaned == value else json_bytes(cleaned)


def json_bytes(value: Any) -> bytes:
    """JSON as graticule's own files have it."""
    return (json.dumps(json_ready(value), indent=1, ensure_ascii=False) + "\n").encode("utf-8", "replace")


def digest(content: Path | bytes) -> str:
    """The SHA-256 of a file or of its content."""
    return sha256(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()


def _tensor_words(path: Path) -> Iterable[str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            notes: dict[str, str] = file.metadata() or {}
            return [*file.keys(), *notes, *notes.values()]
    except SafetensorError as error:
        raise ArtifactError(f"{path} is damaged ({error}); write it again") from error


def _table_words(path: Path) -> Iterable[str]:
    import pyarrow
    from pyarrow import parquet

    try:
        file: Any = parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); write it again") from error
    for field in file.schema_arrow:
        kind = field.type
        if not (pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind)):
            raise ValueError(f"{path}: column {field.name!r} holds {kind}; a training history holds numbers")
        yield from (_text(part) for pair in (field.metadata or {}).items() for part in pair)
        yield field.name
    for pair in (file.metadata.metadata or {}).items():
        if pair[0] == b"ARROW:schema":  # the same again, in base 64
            continue
        yield from map(_text, pair)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
