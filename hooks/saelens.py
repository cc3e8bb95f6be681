"""SAELens's cached-activation datasets: written from activations, and read back.

The dataset (`datasets.load_from_disk`) has one column named exactly as the hook point, of feature
`Array2D((context, d_in))`, and `token_ids` where tokens are known.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from graticule.hooks.artifact import users_folder
from graticule.hooks.names import user_path
from graticule.hooks.rows import Rows


def write_saelens(acts: Rows, path: Path | str, point: str | None, context_size: int | None) -> None:
    """Write one point as contexts of `context_size` rows.

    Without `context_size`, the rows of one text are one context.

    Raises:
        ValueError: where `point` is not given and there are several, where texts have different numbers of
            rows, or where the rows do not fill whole contexts.
        FileExistsError: if `path` exists.
    """
    from datasets import Array2D, Dataset, Features, Sequence, Value

    path = user_path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists; choose another place")
    if point is None and len(acts) > 1:
        raise ValueError(f"several points: say which with hook_name=, one of {', '.join(acts.points)}")
    name = point or acts.points[0]
    size = context_size or _rows_a_text(acts)
    if acts.n_rows % size:
        raise ValueError(
            f"{acts.n_rows} rows do not fill contexts of {size}; select a multiple of {size} rows first"
        )
    tensor = acts[name]
    # pyarrow has no bfloat16, and SAELens reads float16 and float32
    kind = "float16" if tensor.dtype == torch.float16 else "float32"
    values = tensor.to(getattr(torch, kind)).numpy().reshape(-1, size, tensor.shape[1])
    columns: dict[str, Any] = {name: list(values)}
    features: dict[str, Any] = {name: Array2D(values.shape[1:], kind)}
    if "token" in acts.rows:
        columns["token_ids"] = acts.rows["token"].to_numpy().reshape(-1, size).tolist()
        features["token_ids"] = Sequence(Value("int32"), size)
    Dataset.from_dict(columns, features=Features(features)).save_to_disk(str(path))


def _rows_a_text(acts: Rows) -> int:
    counts = acts.rows.groupby("source", sort=False).size().unique()
    if len(counts) != 1:
        raise ValueError(
            f"texts have between {counts.min()} and {counts.max()} rows; give context_size=, or capture a "
            "fixed number of positions a text"
        )
    return int(counts[0])


def read_saelens(path: Path | str) -> tuple[dict[str, torch.Tensor], pd.DataFrame, dict[str, Any]]:
    """The tensors, row table and provenance of a SAELens cached-activation dataset, contexts in order.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it has no activation column.
    """
    from datasets import load_from_disk

    path = user_path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no SAELens activation dataset there")
    dataset: Any = load_from_disk(str(users_folder(path)))
    names = [n for n in dataset.column_names if n != "token_ids"]
    if not names:
        raise ValueError(f"{path} has no activation column, only {dataset.column_names}")
    arrays = dataset.with_format("numpy")
    tensors: dict[str, torch.Tensor] = {}
    size = 1
    for name in names:
        values = np.stack(list(arrays[name][:]))
        size = values.shape[1]
        tensors[name] = torch.from_numpy(values.reshape(-1, values.shape[2]))
    count = len(dataset)
    rows = pd.DataFrame(
        {"source": np.repeat(np.arange(count), size), "position": np.tile(np.arange(size), count)}
    )
    if "token_ids" in dataset.column_names:
        rows["token"] = np.concatenate(list(arrays["token_ids"][:]))
    return tensors, rows, {"captured_by": "SAELens", "path": str(path)}
