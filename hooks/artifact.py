"""The one way a file is written and read: words are JSON, tables Parquet, tensors safetensors.

A file that exists under its own name is whole (`hooks.replacing`); nothing is pickled.
"""

import dataclasses
import hashlib
import io
import json
import math
import os
import stat
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from torch import Tensor

from graticule.hooks.names import place_of, user_path
from graticule.hooks.places import Place, RemotePath
from graticule.hooks.replacing import recover, replacing

SCHEMA = 1
"""Version of every folder format written here."""

_SEAL = "seal"
_LIBRARIES = ("graticule", "torch", "transformer-lens", "sae-lens", "transformers", "numpy", "scikit-learn")


class ArtifactError(ValueError):
    """A folder or file is missing, incomplete, damaged, or of another schema."""


def json_ready(value: Any) -> Any:
    """`value` in JSON's own types: arrays as lists, NaN and infinity as None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {f.metadata.get("saved_as", f.name): json_ready(getattr(value, f.name)) for f in fields}
    if isinstance(value, Mapping):
        return {str(k): json_ready(v) for k, v in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [json_ready(v) for v in cast("list[Any]", items)]
    if isinstance(value, np.ndarray):
        return json_ready(value.tolist())
    if isinstance(value, np.generic):
        return json_ready(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def write_json(path: Place | str, value: Any) -> None:
    """Write `value` as JSON, keys in their own order, atomically; NaN becomes null."""
    with replacing(place_of(path)) as temporary:
        text = json.dumps(json_ready(value), indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """`value` in JSON's own types, with a digest of the rest under `seal`, by which a change shows."""
    plain = {key: entry for key, entry in json_ready(value).items() if key != _SEAL}
    return {**plain, _SEAL: hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]}


def is_as_sealed(value: Mapping[str, Any]) -> bool:
    """Whether what was read is what `sealed` gave; what was never sealed counts as such."""
    return _SEAL not in value or sealed(value)[_SEAL] == value[_SEAL]


def unsealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """The value without its seal."""
    return {key: entry for key, entry in value.items() if key != _SEAL}


def only_file(path: Place | str, remedy: str = "remove it, and write the file again") -> Place:
    """`path`, which is opened next: a file, or nothing. Who opens a pipe or a device may wait for ever.

    Args:
        path: A file of ours, or one that a user names.
        remedy: What to do where it is none.

    Returns:
        The same path.

    Raises:
        ArtifactError: if it is a folder, pipe, socket or device.
    """
    path = place_of(path)
    if isinstance(path, RemotePath):
        if path.is_dir():
            raise ArtifactError(f"{path} is a folder, expected a file; {remedy}")
        return path
    try:
        mode = path.stat().st_mode  # once: between two looks another process may have replaced it
    except OSError:  # not there, or not to be seen: whoever opens it says so
        return path
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise ArtifactError(f"{path} is {what}, expected a file; {remedy}")
    return path


def users_file(path: Path | str) -> Path:
    """`path`, which a user names and which is opened next: a file, or nothing.

    Raises:
        ArtifactError: As `only_file` does.
    """
    path = user_path(path)
    only_file(path, "write what it gives to a file, and name that")
    return path


def users_folder(folder: Path | str) -> Path:
    """`folder`, which another library opens next: files and folders alone, whatever they are for.

    Raises:
        ArtifactError: if it holds a pipe, socket or device.
    """
    for place, _, names in os.walk(folder):
        for name in names:
            users_file(os.path.join(place, name))
    return Path(folder)


def _settled_text(path: Place, tries: int = 5) -> str:
    """The text of a file that others may be replacing, with its folder, at this moment.

    Where two folders cannot change places in one step, there is a moment without either: a file missing then
    is looked for again once its writer is through.
    """
    for left in reversed(range(tries)):
        recover(path.parent if path.parent.is_dir() else path.parent.parent)
        try:
            return only_file(path).read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            if not left:
                raise
    raise AssertionError("tries is 1 or more")


def read_json(path: Place | str) -> dict[str, Any]:
    """The JSON object in `path`, after what a killed writer had committed beside it is in its place.

    Raises:
        ArtifactError: If the file is missing, is not JSON, or is not an object.
    """
    path = place_of(path)
    try:
        value = json.loads(_settled_text(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactError(f"{path} is missing: {path.parent} is not a whole graticule folder") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); write it again") from error
    except ValueError as error:  # Python's own limit of the digits it reads
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"{path} is damaged (a number of thousands of digits); write it again") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} holds {type(value).__name__}, expected a JSON object")
    return cast("dict[str, Any]", value)


def check_schema(manifest: Mapping[str, Any], kind: str, path: Place | str) -> None:
    """Check what a folder says of itself.

    Raises:
        ArtifactError: Unless `manifest` is of this `kind` and schema.
    """
    if manifest.get("kind") != kind:
        raise ArtifactError(f"{path} holds a {manifest.get('kind')!r} folder, expected {kind!r}")
    if manifest.get("schema") != SCHEMA:
        raise ArtifactError(
            f"{path} is of schema {manifest.get('schema')!r}, this graticule reads schema {SCHEMA}; "
            "write it again, or read it with the version that wrote it (the folder's JSON names it)"
        )


@contextmanager
def as_damaged(
    path: Place | str, remedy: str, also: tuple[type[Exception], ...] = (ValueError, RuntimeError)
) -> Generator[None]:
    """Let what does not fit together in what was read from `path` be damage.

    Args:
        path: the file or folder, for the message.
        remedy: what to do about it.
        also: what else than a lacking key and a value of the wrong kind means damage here; nothing where
            these are raised for other reasons, too.

    Raises:
        ArtifactError: With the first line of the reason.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, *also) as error:
        if isinstance(error, ArtifactError):
            raise
        why = f"it lacks {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]
        raise ArtifactError(f"{path} does not fit together: {why}; {remedy}") from error


def write_tensors(path: Place | str, tensors: Mapping[str, Tensor]) -> None:
    """Write `tensors` as one safetensors file, atomically."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with replacing(place_of(path)) as temporary:
        try:
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary)
        except SafetensorError as error:  # a full disk, say
            raise OSError(f"{path} cannot be written: {error}") from error


def read_tensors(path: Place | str) -> dict[str, Tensor]:
    """The tensors in a safetensors file.

    Raises:
        ArtifactError: If the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load, load_file

    try:
        file = only_file(path)
        return load_file(file) if isinstance(file, Path) else load(file.read_bytes())
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing") from error
    except SafetensorError as error:
        raise ArtifactError(f"{path} is damaged ({error}); write it again") from error


def write_table(path: Place | str, table: pd.DataFrame) -> None:
    """Write `table` as Parquet, atomically; the same table gives the same bytes."""
    with replacing(place_of(path)) as temporary:
        table.to_parquet(temporary, index=False, compression="zstd")


def read_table(path: Place | str, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The table in a Parquet file, or those of some columns that it has.

    Raises:
        ArtifactError: If the file is missing or damaged.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        file = only_file(path)
        if isinstance(file, RemotePath):
            file = io.BytesIO(file.read_bytes())
        if columns is not None:
            has = pyarrow.parquet.read_schema(file).names
            columns = [column for column in columns if column in has]
        return pd.read_parquet(file, columns=None if columns is None else list(columns))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing") from error
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); write it again") from error


def frame_digest(frame: pd.DataFrame) -> str:
    """A short digest of a table's columns: their names, kinds and values, in order; not of its index."""
    digest = hashlib.sha256()
    for number, name in enumerate(frame.columns):
        column = frame.iloc[:, number]
        digest.update(json.dumps([str(name), str(column.dtype), len(column)]).encode())
        if column.dtype == object:  # of any kind, lists too
            for value in column:
                words = f"{type(value).__name__} {value!r}".encode("utf-8", "surrogatepass")
                digest.update(f"{len(words)}:".encode() + words)
        else:
            digest.update(pd.util.hash_pandas_object(column, index=False).to_numpy().tobytes())
    return digest.hexdigest()[:16]


def sha256(path: Place | str) -> str:
    """The SHA-256 of a file, in hexadecimal.

    Raises:
        ArtifactError: For what is no file.
    """
    with only_file(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(made_from: Mapping[str, Any]) -> str:
    """A short digest of what something was made from, and by which version of graticule.

    The same settings in any order give the same one.
    """
    made = {**made_from, "made_by": library_versions().get("graticule")}
    words = json.dumps(json_ready(made), sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def library_versions() -> dict[str, str]:
    """Versions of the libraries whose numbers enter a result."""
    versions: dict[str, str] = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
