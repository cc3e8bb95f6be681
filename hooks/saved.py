"""Results that save themselves: a frozen dataclass of words, numbers, arrays and tables, by its fields."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd
import torch

from graticule.hooks.artifact import (
    SCHEMA,
    ArtifactError,
    as_damaged,
    check_schema,
    json_ready,
    library_versions,
    read_json,
    read_table,
    read_tensors,
    sha256,
    write_json,
    write_table,
    write_tensors,
)
from graticule.hooks.calls import renamed
from graticule.hooks.kinds import FolderKind, check_replaceable, write_folder
from graticule.hooks.limits import as_boolean
from graticule.hooks.locks import only_here
from graticule.hooks.names import check_leads_somewhere, inside, inside_file, place_of
from graticule.hooks.places import Place
from graticule.hooks.replacing import replacing_entries
from graticule.hooks.result import Result, check_same_question

if TYPE_CHECKING:
    from typing import Self

_ARRAYS = "arrays.safetensors"
_RECORDS = 200  # lines of a table that go into JSON too


class SavedResult(Result):
    """A `Result` whose fields say how it is kept: by their types, in files of their own or in JSON.

    Tables are Parquet, arrays safetensors. So are mappings to dataclasses of arrays; of mappings to what has
    `save` and `load`, every entry is a folder. The rest is JSON. Subclasses are frozen dataclasses with a
    `KIND`; types of fields must be importable at run time. NaN is null in JSON and NaN again where the field
    is a `float`; tuples and nested dataclasses come back as such. A field that is saved under another name
    than its own (that of an earlier version) says so: `field(metadata={"saved_as": "words"})`.
    """

    KIND: ClassVar[str]
    """What kind of folder this is: `calibration`, say."""
    MARK: ClassVar[str] = "manifest.json"
    """The file that says so, with the fields that are JSON."""
    BESIDE: ClassVar[FolderKind | None] = None
    """The kind of a folder in which other things lie beside the result; None where there are none."""
    REMEDY: ClassVar[str] = ""
    """What to do where a folder is damaged; by default, to make such a result again."""

    def to_json(self) -> dict[str, Any]:
        """All fields but arrays, in JSON's own types; of tables those of up to 200 lines."""
        out: dict[str, Any] = {}
        names = _saved_names(type(self))
        for name, value in _fields(self).items():
            if isinstance(value, pd.DataFrame):
                if len(value) <= _RECORDS:
                    out[names[name]] = json_ready(value.to_dict("records"))
            elif not isinstance(value, np.ndarray):
                out[names[name]] = json_ready(value)
        return out

    @renamed("overwrite")
    def save(self, path: Place | str, *, overwrite: bool = False) -> Place:
        """Write the result as a folder, in place of an earlier answer to the same question.

        Args:
            path: The folder, or its url on a file system of fsspec: `s3://bucket/holdouts`.
            overwrite: Whether it may take the place of a result of the same kind that was asked something
                else.

        Returns:
            Where it is.

        Raises:
            FileExistsError: `path` holds something else, or a result that was asked something else, or
                another process saves there.
        """
        path = place_of(path)
        if self.BESIDE is None:
            check_leads_somewhere(path)
            check_replaceable(path, self.KIND)
        with only_here(path, f"saving {self.KIND} into"):
            if self.BESIDE is not None:
                self.BESIDE.check(path)
            check_same_question(path, self, as_boolean("overwrite", overwrite))
            replaced = (
                write_folder(path, overwrite=True, kind=self.KIND)
                if self.BESIDE is None
                else replacing_entries(path, self.KIND)
            )
            with replaced as folder:
                self._write(folder)
        return path

    def _write(self, folder: Path) -> None:
        arrays: dict[str, torch.Tensor] = {}
        entries = _entry_types(type(self))
        for name, value in _fields(self).items():
            saved_as = _saved_names(type(self))[name]
            if isinstance(value, pd.DataFrame):
                write_table(folder / f"{saved_as}.parquet", value)
            elif isinstance(value, np.ndarray):
                arrays[saved_as] = _as_tensor(value)
            elif name in entries and _saves_itself(entries[name]):
                for key, entry in value.items():
                    entry.save(inside(folder / saved_as, key))
            elif name in entries:
                parts = [(k, e, f.name) for k, e in value.items() for f in dataclasses.fields(entries[name])]
                tensors = {f"{key}/{part}": _as_tensor(getattr(entry, part)) for key, entry, part in parts}
                write_tensors(folder / f"{saved_as}.safetensors", tensors)
        if arrays:
            write_tensors(folder / _ARRAYS, arrays)
        files = {
            f.relative_to(folder).as_posix(): sha256(f) for f in sorted(folder.rglob("*")) if f.is_file()
        }
        write_json(folder / self.MARK, self._manifest(files))

    def _manifest(self, files: Mapping[str, str]) -> dict[str, Any]:
        """What `MARK` says: the files with their checksums, the tables, and the fields that are JSON."""
        names, values = _saved_names(type(self)), _fields(self)
        tables = [names[name] for name, value in values.items() if isinstance(value, pd.DataFrame)]
        in_files = {*_entry_types(type(self)), *(n for n, v in values.items() if isinstance(v, np.ndarray))}
        plain = {
            names[name]: value
            for name, value in values.items()
            if name not in in_files and not isinstance(value, pd.DataFrame)
        }
        manifest = {"kind": self.KIND, "schema": SCHEMA, "files": files, "tables": tables}
        return {**manifest, "fields": plain, "versions": library_versions()}

    @classmethod
    def load(cls, path: Place | str) -> Self:
        """Read what `save` wrote.

        Raises:
            ArtifactError: If the folder is missing, incomplete, damaged or of another kind or schema.
        """
        path = place_of(path)
        manifest = read_json(path / cls.MARK)
        check_schema(manifest, cls.KIND, path)
        return cls._read(path, manifest)

    @classmethod
    def _read(cls, path: Place, manifest: Mapping[str, Any]) -> Self:
        with as_damaged(path / cls.MARK, cls._remedy()):
            values, plain = cls._in_files(path, manifest), dict(manifest["fields"])
        try:
            if others := plain.keys() - _saved_names(cls).values():
                raise KeyError(min(others))
            return cls(**values, **cls._in_json(plain))
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(f"{path} was written by another version of graticule: {error}") from error

    @classmethod
    def _in_json(cls, plain: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that are found in JSON."""
        hints, names = get_type_hints(cls), _saved_names(cls)
        return {name: decode(plain[key], hints[name]) for name, key in names.items() if key in plain}

    @classmethod
    def _in_files(cls, path: Place, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that have files of their own, which are checked."""
        files: Mapping[str, str] = manifest["files"]
        for name, digest in files.items():
            file = inside_file(path, name)
            if not file.exists() or sha256(file) != digest:
                raise ArtifactError(f"{file} is missing or damaged; {cls._remedy()}")
        arrays = read_tensors(path / _ARRAYS) if _ARRAYS in files else {}
        entries = _entry_types(cls)
        values: dict[str, Any] = {}
        for name, saved_as in _saved_names(cls).items():
            if f"{saved_as}.parquet" in files:
                values[name] = read_table(inside(path, f"{saved_as}.parquet"))
            elif saved_as in arrays:
                values[name] = arrays[saved_as].numpy()
            elif name in entries and _saves_itself(entries[name]):
                keys = dict.fromkeys(f.split("/")[1] for f in files if f.startswith(f"{saved_as}/"))
                values[name] = {key: entries[name].load(inside(path / saved_as, key)) for key in keys}
            elif name in entries and f"{saved_as}.safetensors" in files:
                tensors = read_tensors(path / f"{saved_as}.safetensors")
                parts = [field.name for field in dataclasses.fields(entries[name])]
                values[name] = {
                    key: entries[name](*(tensors[f"{key}/{part}"].numpy() for part in parts))
                    for key in dict.fromkeys(tensor.rpartition("/")[0] for tensor in tensors)
                }
        return values

    @classmethod
    def _remedy(cls) -> str:
        return cls.REMEDY or f"make the {cls.KIND} again"


def decode(value: Any, hint: Any) -> Any:
    """A value out of JSON as its annotation has it: tuples, NaN and dataclasses as they were."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        return decode(value, next(h for h in inner if h is not type(None)))
    if hint is float:
        return float("nan") if value is None else float(value)
    if hasattr(hint, "from_json") and isinstance(value, Mapping):
        return hint.from_json(value)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        hints = get_type_hints(hint)
        names = {saved_as: name for name, saved_as in _saved_names(hint).items()}
        items = [(names[key], item) for key, item in cast("Mapping[str, Any]", value).items()]
        return cast("Any", hint)(**{name: decode(item, hints[name]) for name, item in items})
    if kind is tuple:
        many = len(inner) == 2 and inner[1] is Ellipsis
        return tuple(decode(v, inner[0] if many else inner[i]) for i, v in enumerate(value))
    if kind is list:
        return [decode(v, inner[0]) for v in value]
    if isinstance(kind, type) and issubclass(kind, Mapping) and inner:
        key: Any = inner[0] if inner[0] in (int, float) else str
        return {key(k): decode(v, inner[1]) for k, v in value.items()}
    return value


def _saved_names(cls: Any) -> dict[str, str]:
    """Field → the name that it is saved under, of those that are."""
    fields = [f for f in dataclasses.fields(cls) if f.metadata.get("saved", True)]
    return {f.name: f.metadata.get("saved_as", f.name) for f in fields}


def _fields(result: Any) -> dict[str, Any]:
    return {name: getattr(result, name) for name in _saved_names(type(result))}


def _as_tensor(value: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(value).copy())


def _entry_types(cls: Any) -> dict[str, Any]:
    """Field → the class of its entries, of mappings whose entries have files of their own."""
    fields = _saved_names(cls)
    mappings = {
        name: get_args(hint)[1]
        for name, hint in get_type_hints(cls).items()
        if name in fields and get_origin(hint) in (dict, Mapping)
    }
    return {name: kind for name, kind in mappings.items() if _saves_itself(kind) or _is_of_arrays(kind)}


def _saves_itself(kind: Any) -> bool:
    return isinstance(kind, type) and hasattr(kind, "save") and hasattr(kind, "load")


def _is_of_arrays(kind: Any) -> bool:
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        return False
    hints = get_type_hints(kind)
    return all(_is_array_type(hints[f.name]) for f in dataclasses.fields(kind))


def _is_array_type(hint: Any) -> bool:
    """Whether an annotation is of arrays, with or without a shape."""
    return getattr(hint, "array_type", hint) is np.ndarray
