"""What a study is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graticule.hooks.artifact import sha256
from graticule.hooks.coders import load_sae, sae_folder
from graticule.hooks.identity import weight_digest
from graticule.hooks.limits import check_limits
from graticule.hooks.names import check_name
from graticule.probes.tables.checks import need_column
from graticule.probes.tables.table import Table


@dataclass(frozen=True)
class Settings:
    """What a study does; the defaults fit a small model on two cores."""

    prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    """Name → prompt or template to compare; by default the table's own (`probes.tables.prompts`)."""
    prompt_rows: int = 5000
    """Rows of the table for the comparison of prompts: every prompt is another capture."""
    blocks: tuple[str, ...] | None = None
    """Columns to hold out level by level; None takes the table's blocks."""
    popularity: str | None = None
    """Column with page views, population or the like; None takes `page_views` or `population`."""
    saes: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Name → SAELens SAE, for the step on latents."""
    targets: int = 200
    """Synthetic targets of each kind in the calibration."""
    twins: int = 3
    """Untrained twins among the controls."""
    cause_rows: int = 40
    """Test rows on which the model is intervened upon."""
    cause_controls: int = 100
    """Matched control directions."""
    attribution_rows: int = 200
    """Test rows whose readings are taken apart."""
    paper_compat: bool = False
    """Also score as the paper's code does."""
    seed: int = 0
    """Of everything drawn."""

    def __post_init__(self) -> None:
        """**Raises** `LimitError` for a number outside its range."""
        check_limits(
            prompt_rows=self.prompt_rows,
            synthetic_targets=self.targets,
            twins=self.twins,
            rows=[self.cause_rows, self.attribution_rows],
            controls=self.cause_controls,
            seed=self.seed,
        )

    def check_names(self, table: Table) -> None:
        """**Raises** `BadNameError` for a name that is to be a folder's and cannot be one, `ColumnError` for
        a popularity column that the table does not have."""
        for what, names in (
            ("popularity column", () if self.popularity is None else (self.popularity,)),
            ("block column", tuple(table.blocks) if self.blocks is None else self.blocks),
            ("prompt", self.prompts),
            ("SAE", self.saes),
        ):
            for name in names:
                check_name(name, what)
        if self.popularity is not None:
            need_column(table.frame, self.popularity, "popularity")


def digest_of(sae: Any) -> str:
    """A digest of an SAE, given as an object or as the SAELens folder that holds it."""
    if isinstance(sae, str | Path):
        files = sorted(f for f in sae_folder(sae).iterdir() if f.suffix in (".json", ".safetensors"))
        return " ".join(sha256(f)[:16] for f in files)
    return weight_digest(sae)


def loaded(sae: Any) -> Any:
    """An SAE as an object; a folder, a run's too, is read by SAELens."""
    return load_sae(sae).sae if isinstance(sae, str | Path) else sae
