"""The one way a folder is written and read: temporary name, sync, rename; JSON, safetensors and Parquet.

A folder that exists under its own name is whole. Words are JSON, tables Parquet, tensors safetensors;
nothing is pickled.
"""

import dataclasses
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from torch import Tensor

SCHEMA = 1
"""Version of every folder format written here."""

_LIBRARIES = ("graticule", "torch", "transformer-lens", "sae-lens", "transformers", "numpy", "scikit-learn")


class ArtifactError(ValueError):
    """A folder or file is missing, incomplete, damaged, or of another schema."""


def json_ready(value: Any) -> Any:
    """`value` in JSON's own types: arrays as lists, NaN and infinity as None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: json_ready(getattr(value, f.name)) for f in dataclasses.fields(value)}
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


def _sync(path: Path) -> None:
    """Flush a file or folder to disk, so that a rename after it cannot outlive its content."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _umask() -> int:
    """The process's file mode mask; it can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Yield a temporary file name beside `path`; on a clean exit it is synced and renamed onto `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(fd)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp's files are their owner's alone
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def write_folder(path: Path | str, overwrite: bool = False) -> Generator[Path]:
    """Yield an empty folder to fill; on a clean exit it is synced and renamed to `path`.

    On an exception nothing is left behind and an existing `path` is untouched.

    **Raises** `FileExistsError` if `path` exists and `overwrite` is False.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; choose another place, or say overwrite=True")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        for file in sorted(temporary.rglob("*")):
            _sync(file)
        _sync(temporary)
        if path.exists():
            old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".old"))
            os.replace(path, old / path.name)
            os.replace(temporary, path)
            shutil.rmtree(old)
        else:
            os.replace(temporary, path)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as JSON, keys in their own order, atomically; NaN becomes null."""
    with replacing(Path(path)) as temporary:
        text = json.dumps(json_ready(value), indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path | str) -> dict[str, Any]:
    """The JSON object in `path`.

    **Raises** `ArtifactError` if the file is missing, is not JSON, or is not an object.
    """
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing: {path.parent} is not a whole graticule folder") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); write it again") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} holds {type(value).__name__}, expected a JSON object")
    return cast("dict[str, Any]", value)


def check_schema(manifest: Mapping[str, Any], kind: str, path: Path | str) -> None:
    """**Raises** `ArtifactError` unless `manifest` is of this `kind` and schema."""
    if manifest.get("kind") != kind:
        raise ArtifactError(f"{path} holds a {manifest.get('kind')!r} folder, expected {kind!r}")
    if manifest.get("schema") != SCHEMA:
        raise ArtifactError(
            f"{path} is of schema {manifest.get('schema')!r}, this graticule reads schema {SCHEMA}; "
            "write it again, or read it with the version that wrote it (the folder's JSON names it)"
        )


def write_tensors(path: Path | str, tensors: Mapping[str, Tensor]) -> None:
    """Write `tensors` as one safetensors file, atomically."""
    from safetensors.torch import save_file

    with replacing(Path(path)) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary)


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """The tensors in a safetensors file.

    **Raises** `ArtifactError` if the file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing") from error
    except SafetensorError as error:
        raise ArtifactError(f"{path} is damaged ({error}); write it again") from error


def write_table(path: Path | str, table: pd.DataFrame) -> None:
    """Write `table` as Parquet, atomically; the same table gives the same bytes."""
    with replacing(Path(path)) as temporary:
        table.to_parquet(temporary, index=False, compression="zstd")


def read_table(path: Path | str) -> pd.DataFrame:
    """The table in a Parquet file.

    **Raises** `ArtifactError` if the file is missing or damaged.
    """
    import pyarrow

    try:
        return pd.read_parquet(path)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing") from error
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); write it again") from error


def sha256(path: Path | str) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
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
    found: dict[str, str] = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
