"""Rows of the space-and-time tables inside the PyPI package sae-probes: a text and one target a file.

The package (Kantamneni et al. 2025, "Are Sparse Autoencoders Useful?") carries 5,000 rows a target, drawn
with replacement from the authors' tables, each target on its own: latitude and longitude are of other rows.
There is no split and no other column. Repeated rows are kept, as clusters.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import pandas as pd

from graticule.hooks.artifact import users_file
from graticule.hooks.names import user_path
from graticule.probes.tables.rows import TableError
from graticule.probes.tables.table import Table

PREFIX = "sae-probes:"
"""What the command line puts before a tag."""
_UNITS = {
    "world_latitude": "lat",
    "world_longitude": "lon",
    "us_lat": "lat",
    "us_long": "lon",
    "nyc_lat": "lat",
    "nyc_long": "lon",
    "hist_fig_birthyear": "year",
    "hist_fig_deathyear": "year",
    "art_year": "year",
    "headline_year": "year",
}


def sae_probes_table(
    tag: str,
    place: Path | str | None = None,
    *,
    on_bad: Literal["raise", "drop"] = "raise",
    test_size: float = 0.2,
    seed: int = 0,
) -> Table:
    """The rows of one target of sae-probes, by its tag: `world_latitude`, `us_long`, `hist_fig_deathyear`, ….

    `place` is a file, a folder that holds it anywhere below, or None for the installed package. Numeric
    targets are used as numbers, words as classes. The split is drawn here, in whole clusters: rows of one
    text stand on one side.

    **Raises** `FileNotFoundError`, `TableError` for a file without `prompt` and `target`.
    """
    path = _find(tag, place)
    if path.name.endswith(".zst") and find_spec("zstandard") is None:
        raise ImportError(f"{path.name} is compressed: pip install zstandard")
    frame = pd.read_csv(
        users_file(path), keep_default_na=False, na_values={"target": [""]}, dtype={"prompt": str}
    )
    if missing := [column for column in ("prompt", "target") if column not in frame.columns]:
        raise TableError(f"{path.name} has no column {', '.join(missing)}; it has {', '.join(frame.columns)}")
    return Table(
        frame.rename(columns={"target": tag}),
        text="prompt",
        target=tag,
        units=_UNITS.get(tag),
        name=f"sae-probes {tag}",
        on_bad=on_bad,
        test_size=test_size,
        seed=seed,
    )


def _find(tag: str, place: Path | str | None) -> Path:
    """`18_world_latitude.csv.zst` for `world_latitude`; the shortest number first where several end alike."""
    if place is None:
        spec = find_spec("sae_probes")  # found without being imported: it brings torch and a model library
        if spec is None or not spec.submodule_search_locations:
            raise FileNotFoundError(
                "sae-probes is not installed: pip install --no-deps sae-probes, or give the file or folder"
            )
        place = next(iter(spec.submodule_search_locations))
    path = user_path(place)
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(f"no file or folder {str(path)!r} for {PREFIX}{tag}")
    name = re.compile(rf"(\d+_)?{re.escape(tag)}\.csv(\.zst|\.gz)?")
    found = sorted(p for p in path.rglob("*.csv*") if name.fullmatch(p.name))
    if not found:
        known = {re.sub(r"^\d+_|\.csv.*$", "", p.name) for p in path.rglob("*_*.csv*")}
        near = sorted(k for k in known if k.split("_")[0] == tag.split("_")[0]) or sorted(known)[:10]
        raise FileNotFoundError(f"no {tag}.csv in {path}; there are {', '.join(near) or 'none'}")
    return found[0]
