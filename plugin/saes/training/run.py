"""A trained (or still training) SAE on disk: where its SAELens folder is, how the training went."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from graticule.hooks.artifact import ArtifactError, as_damaged, check_schema, read_json, read_table
from graticule.hooks.calls import renamed
from graticule.hooks.kinds import write_folder
from graticule.hooks.names import inside, user_path
from graticule.hooks.result import Result
from graticule.hooks.streams.base import LargeRows
from graticule.probes.plots.primitives import level, line_trace, panels
from graticule.probes.plots.style import BLOCKS, plain, style
from graticule.saes.training.folder import FILE, KIND

if TYPE_CHECKING:
    from typing import Self

    from plotly.graph_objects import Figure


_LINES = 200  # logged steps that go into JSON
_CURVES = "Training: loss, L0, explained variance and dead latents against tokens"
_TABLE = "The training"
_TABLE_EVENTS = "Events"


@dataclass(frozen=True)
class Run(Result):
    """A run folder, read: one SAE, or the `parts` of several trained from one stream."""

    path: Path
    """The run folder."""
    manifest: Mapping[str, Any]
    """`run.json`: `state` (`training` or `complete`), `tokens`, `steps`, `request`, `versions`."""
    history: pd.DataFrame = field(repr=False)
    """One row per logged step: `step`, `tokens`, `seconds`, `loss`, its terms, `l0`, `explained_variance`,
    `dead`, `lr`; empty before the first checkpoint, and where there are several parts."""
    events: tuple[Mapping[str, Any], ...] = ()
    """What happened between steps: starts, resumptions, resampling, the end."""
    parts: Mapping[str, Run] = field(default_factory=dict)
    """Name → run of each SAE, where several were trained from one stream."""

    @property
    def state(self) -> str:
        """`training` or `complete`."""
        return str(self.manifest["state"])

    @property
    def tokens(self) -> int:
        """Tokens trained on."""
        return int(self.manifest["tokens"])

    @property
    def sae_folder(self) -> Path:
        """The SAELens folder.

        Raises:
            ArtifactError: if the run is not complete.
            ValueError: if there are several parts.
        """
        if self.parts:
            raise ValueError(f"{self.path} holds several SAEs: choose one, parts[{next(iter(self.parts))!r}]")
        if self.state != "complete":
            raise ArtifactError(
                f"{self.path} is not complete ({self.tokens:,} tokens so far); run the same training again "
                "and it goes on from there"
            )
        return self.path / "sae"

    def sae(self, device: str = "cpu") -> Any:
        """The trained SAE, as SAELens loads it; raises as `sae_folder` does."""
        from sae_lens import SAE

        return SAE.load_from_disk(self.sae_folder, device=device)

    # As a result -------------------------------------------------------------------------------------
    @property
    def title(self) -> str:
        """Architecture, size and hook point."""
        if self.parts:
            return f"{len(self.parts)} SAEs from one stream"
        request = self.manifest["request"]
        architecture = request["sae"]["architecture"]
        return f"{architecture} SAE of {self.d_sae:,} latents at {request['hook_name']}"

    def summary(self) -> str:
        """How far it is, then the last logged step."""
        if self.parts:
            lines = [f"{self.title}: {self.state}, {self.tokens:,} tokens"]
            return "\n".join([*lines, *(f"{name}: {run.last_line()}" for name, run in self.parts.items())])
        seen = f"{self.tokens:,} tokens"
        wanted = int(self.manifest["request"]["trainer"]["total_training_samples"])
        if self.state == "complete":
            early = (
                f" (the data ended before the {wanted:,} of all whole steps)" if self.tokens < wanted else ""
            )
            first = f"trained on {seen}{early}: {self.title}"
        else:
            first = f"not complete, {seen} of {wanted:,}: {self.title}"
        return f"{first}\n{self.last_line()}"

    def last_line(self) -> str:
        """The last logged step in words."""
        if not len(self.history):
            return "nothing logged yet"
        last: Any = self.history.iloc[-1]
        figures = (
            f"loss {last['loss']:.4g}, L0 {last['l0']:.1f}, explained variance "
            f"{last['explained_variance']:z.3f}, {int(last['dead']):,} dead of {self.d_sae:,} latents "
            f"(last batch, step {int(last['step']):,}, {last['seconds']:.0f} s)"
        )
        large = LargeRows(**self.manifest["large_rows"]) if "large_rows" in self.manifest else None
        notes = [large.words if large else "", self.manifest.get("left_out", "")]
        if explained_late(self.history["explained_variance"].tolist()) < 0:
            notes.append(LESS_THAN_MEAN)
        return "; ".join([figures, *filter(None, notes)])

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return int(self.manifest["request"]["sae"]["d_sae"])

    @property
    def resampled(self) -> tuple[int, ...]:
        """Tokens after which dead latents were resampled."""
        batch = int(self.manifest["request"]["trainer"]["train_batch_size_samples"])
        return tuple(int(e["step"]) * batch for e in self.events if e["event"] == "resampled")

    def figures(self) -> dict[str, Figure]:
        """The training curves, all parts in one figure."""
        runs = self.parts or {"": self}
        histories = {name: run.history for name, run in runs.items() if len(run.history)}
        if not histories:
            return {}
        resampled = {name: run.resampled for name, run in runs.items()}
        caption = (
            f"{_CURVES}; dotted where dead latents were resampled" if any(resampled.values()) else _CURVES
        )
        return {caption: curves_figure(histories, resampled)}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Settings and last figures, one line per SAE; events where there were any."""
        runs = self.parts or {"": self}
        lines = [run.table_line(name) for name, run in runs.items()]
        out = {_TABLE: pd.DataFrame(lines)}
        events = [
            {key: value for key, value in event.items() if not isinstance(value, list)}
            for run in runs.values()
            for event in run.events
        ]
        if events:
            out[_TABLE_EVENTS] = pd.DataFrame(events)
        return out

    def table_line(self, name: str) -> dict[str, Any]:
        """One line of the table of SAEs."""
        request = self.manifest["request"]
        sae, trainer = request["sae"], request["trainer"]
        line = {"SAE": name} if name else {}
        line |= {"architecture": sae["architecture"], "hook point": request["hook_name"]}
        line |= {"d_in": sae["d_in"], "d_sae": sae["d_sae"], "tokens": self.tokens, "lr": trainer["lr"]}
        if len(self.history):
            last: Any = self.history.iloc[-1]
            line |= {"loss": last["loss"], "L0": last["l0"], "explained variance": last["explained_variance"]}
            line |= {"dead": int(last["dead"])}
        return line

    def to_json(self) -> dict[str, Any]:
        """`run.json`, the last logged steps and the events; parts by name."""
        if self.parts:
            return {**self.manifest, "parts": {name: run.to_json() for name, run in self.parts.items()}}
        lines: Any = self.history.tail(_LINES).to_dict("records")
        return {**self.manifest, "history": lines, "events": [dict(event) for event in self.events]}

    @renamed("overwrite")
    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Copy the run folder without its checkpoint.

        Args:
            path: The folder.
            overwrite: Whether another run there is replaced.

        Returns:
            Where it is.

        Raises:
            FileExistsError: `path` exists, unless `overwrite`; or it is the run itself.
        """
        path = user_path(path)
        if path.exists() and path.samefile(self.path):
            raise FileExistsError(f"{path} is this run's own folder; choose another place")
        with write_folder(path, overwrite, kind=KIND) as folder:
            shutil.copytree(
                self.path, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("checkpoint", ".*")
            )
        return path

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a run folder, complete or not.

        Raises:
            ArtifactError: if there is none, or if it is damaged or of another schema.
        """
        path = user_path(path)
        manifest = read_json(path / FILE)
        check_schema(manifest, KIND, path)
        logged, events_file = path / "history.parquet", path / "events.json"
        with as_damaged(path / FILE, "train into another folder"):
            parts = {name: cls.load(inside(path, name)) for name in manifest.get("saes", ())}
            history = read_table(logged) if logged.is_file() else pd.DataFrame()
            events = tuple(read_json(events_file)["events"]) if events_file.is_file() else ()
            _check(manifest)
            run = cls(path, manifest, history, events, parts)
            run.summary()  # what cannot be said does not fit together, whichever part it is
            return run


def _check(manifest: Mapping[str, Any]) -> None:
    """Raise a `KeyError` or the like where a `run.json` lacks what every run says."""
    if manifest["state"] not in ("training", "complete"):
        raise ValueError(f"its state is {manifest['state']!r}")
    counts = [manifest["tokens"], manifest["steps"]]
    if not manifest.get("saes") and "saes" not in manifest["request"]:
        request = manifest["request"]
        counts += [request["sae"]["d_sae"]]
        counts += [request["trainer"][f"{name}_samples"] for name in ("total_training", "train_batch_size")]
        if not all(isinstance(word, str) for word in (request["hook_name"], request["sae"]["architecture"])):
            raise TypeError("its hook name or architecture is no text")
    if not all(type(count) is int for count in counts):
        raise TypeError("tokens, steps or sizes are no whole numbers")


LESS_THAN_MEAN = (
    "it explains less than the rows' mean does: give more tokens, a smaller batch_size, or a larger lr"
)
_PANELS = {
    "loss": "loss",
    "l0": "L0",
    "explained_variance": "explained variance",
    "dead": "dead latents",
}


def explained_late(variances: Sequence[float]) -> float:
    """Mean explained variance of the last tenth of the logged steps; NaN where nothing was logged."""
    last = variances[-max(1, len(variances) // 10) :]
    return sum(last) / len(last) if len(last) else float("nan")


class History:
    """Lines and events of one SAE's training, in order."""

    def __init__(self) -> None:
        self.lines: list[dict[str, float]] = []
        self.events: list[dict[str, Any]] = []

    def add(self, line: Mapping[str, float]) -> None:
        """One logged step."""
        self.lines.append(dict(line))

    def explained_late(self) -> float:
        """Mean explained variance of the last tenth of the logged steps."""
        return explained_late([line["explained_variance"] for line in self.lines])

    def table(self) -> pd.DataFrame:
        """One row per logged step; a loss term that came later is NaN before."""
        table = pd.DataFrame(self.lines)
        return table.astype({name: "int64" for name in ("step", "tokens", "dead") if name in table.columns})

    def state_dict(self) -> dict[str, Any]:
        """Lines as a tensor, for a checkpoint."""
        table = self.table().astype("float64")
        values = torch.tensor(table.to_numpy(), dtype=torch.float64)
        return {"columns": list(table.columns), "values": values, "events": self.events}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        columns = state["columns"]
        self.lines = [dict(zip(columns, row, strict=True)) for row in state["values"].tolist()]
        self.events = list(state["events"])


# Curves ------------------------------------------------------------------------------------------------
def curves_figure(
    histories: Mapping[str, pd.DataFrame], resampled: Mapping[str, Sequence[int]] | None = None
) -> Figure:
    """Loss (log scale), L0, explained variance and dead latents against tokens.

    Args:
        histories: one curve per history, by its name.
        resampled: tokens after which dead latents were brought back: a dotted line across all panels.
    """

    spacing: dict[str, Any] = {"vertical_spacing": 0.09, "horizontal_spacing": 0.1}
    fig, cells = panels(rows=2, columns=2, shared_xaxes=True, **spacing)
    for i, (name, history) in enumerate(histories.items()):
        colour = BLOCKS[i % len(BLOCKS)]
        for column, cell in zip(_PANELS, cells, strict=True):
            more: dict[str, Any] = {"mode": "lines" if len(history) > 1 else "markers", "legendgroup": name}
            more["showlegend"] = cell == cells[0] and len(histories) > 1
            more["hover"] = f"%{{x:,}} tokens: %{{y:.4g}}<extra>{plain(name)}</extra>"
            x, y = history["tokens"], history[column]
            fig.add_trace(line_trace(x, y, name or "training", colour, 1.6, **more), **cell)
        for tokens in (resampled or {}).get(name, ()):
            level(fig, x=tokens, colour=colour, opacity=0.6)
    style(fig, height=560, aspect=0.6)
    for (column, title), cell in zip(_PANELS.items(), cells, strict=True):
        log = column == "loss" and all((history[column] > 0).all() for history in histories.values())
        fig.update_yaxes(title_text=title, type="log" if log else "linear", **cell)
    return fig.update_xaxes(title_text="tokens", row=2)
