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
from graticule.hooks.kinds import check_replaceable, write_folder
from graticule.hooks.locks import only_here
from graticule.hooks.names import check_leads_somewhere, inside, place_of
from graticule.hooks.places import Place
from graticule.hooks.question import check_same_question
from graticule.hooks.result import Result

if TYPE_CHECKING:
    from typing import Self

_ARRAYS = "arrays.safetensors"
_RECORDS = 200  # lines of a table that go into JSON too


class SavedResult(Result):
    """A `Result` whose fields say how it is kept: tables as Parquet, arrays as safetensors, the rest as JSON.

    Subclasses are frozen dataclasses with a `KIND`; types of fields must be importable at run time. NaN is
    null in JSON and NaN again where the field is a `float`; tuples and nested dataclasses come back as such.
    """

    KIND: ClassVar[str]
    """What kind of folder this is: `calibration`, say."""

    def to_json(self) -> dict[str, Any]:
        """All fields but arrays, in JSON's own types; of tables those of up to 200 lines."""
        out: dict[str, Any] = {}
        for name, value in _fields(self).items():
            if isinstance(value, pd.DataFrame):
                if len(value) <= _RECORDS:
                    out[name] = json_ready(value.to_dict("records"))
            elif not isinstance(value, np.ndarray):
                out[name] = json_ready(value)
        return out

    def save(self, path: Place | str, overwrite: bool = False) -> None:
        """Write the result as a folder, in place of an earlier answer to the same question.

        Args:
            path: The folder, or its url on a file system of fsspec: `s3://bucket/holdouts`.
            overwrite: Whether it may take the place of a result of the same kind that was asked something
                else.

        Raises:
            FileExistsError: `path` holds something else, or a result that was asked something else, or
                another process saves there.
        """
        path = place_of(path)
        check_leads_somewhere(path)
        check_replaceable(path, self.KIND)
        with only_here(path, f"saving a {self.KIND} into"):
            check_same_question(path, self, overwrite)
            with write_folder(path, overwrite=True, kind=self.KIND) as folder:
                self._write(folder)

    def _write(self, folder: Path) -> None:
        values = _fields(self)
        arrays = {k: torch.from_numpy(_plain_array(v)) for k, v in values.items() if _is_array(v)}
        if arrays:
            write_tensors(folder / _ARRAYS, arrays)
        tables = [k for k, v in values.items() if isinstance(v, pd.DataFrame)]
        for name in tables:
            write_table(folder / f"{name}.parquet", values[name])
        rest = {k: v for k, v in values.items() if k not in arrays and k not in tables}
        files = {f.name: sha256(f) for f in sorted(folder.iterdir())}
        manifest = {"kind": self.KIND, "schema": SCHEMA, "files": files, "tables": tables}
        write_json(folder / "manifest.json", {**manifest, "fields": rest, "versions": library_versions()})

    @classmethod
    def load(cls, path: Place | str) -> Self:
        """Read what `save` wrote.

        **Raises** `ArtifactError` if the folder is missing, incomplete, damaged or of another kind or schema.
        """
        path = place_of(path)
        manifest = read_json(path / "manifest.json")
        check_schema(manifest, cls.KIND, path)
        with as_damaged(path / "manifest.json", f"make the {cls.KIND} again"):
            for name, digest in manifest["files"].items():
                file = inside(path, name)
                if not file.exists() or sha256(file) != digest:
                    raise ArtifactError(f"{file} is missing or damaged; make the {cls.KIND} again")
            values: dict[str, Any] = {n: read_table(inside(path, f"{n}.parquet")) for n in manifest["tables"]}
            if _ARRAYS in manifest["files"]:
                values |= {name: tensor.numpy() for name, tensor in read_tensors(path / _ARRAYS).items()}
            fields = manifest["fields"].items()
        hints = get_type_hints(cls)
        try:
            values |= {name: decode(value, hints[name]) for name, value in fields}
            return cls(**values)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(f"{path} was written by another version of graticule: {error}") from error


def decode(value: Any, hint: Any) -> Any:
    """A value out of JSON as its annotation has it: tuples, NaN and dataclasses as they were."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        return decode(value, next(h for h in inner if h is not type(None)))
    if hint is float:
        return float("nan") if value is None else float(value)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        hints = get_type_hints(hint)
        held = cast("Mapping[str, Any]", value)
        return cast("Any", hint)(**{k: decode(v, hints[k]) for k, v in held.items()})
    if kind is tuple:
        many = len(inner) == 2 and inner[1] is Ellipsis
        return tuple(decode(v, inner[0] if many else inner[i]) for i, v in enumerate(value))
    if kind is list:
        return [decode(v, inner[0]) for v in value]
    if isinstance(kind, type) and issubclass(kind, Mapping) and inner:
        key: Any = inner[0] if inner[0] in (int, float) else str
        return {key(k): decode(v, inner[1]) for k, v in value.items()}
    return value


def _fields(result: Any) -> dict[str, Any]:
    return {
        f.name: getattr(result, f.name) for f in dataclasses.fields(result) if f.metadata.get("saved", True)
    }


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray)


def _plain_array(value: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(value).copy()
