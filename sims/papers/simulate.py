"""Train lookup tables on many worlds of one law, and measure them all the same way."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from tqdm.auto import tqdm

from graticule.hooks.artifact import ArtifactError, fingerprint, library_versions
from graticule.hooks.calls import renamed
from graticule.hooks.doors import FOLDER, POINTS, SETTINGS, door
from graticule.hooks.kinds import set_aside
from graticule.hooks.names import user_path
from graticule.sims.papers.setting import Setting
from graticule.sims.papers.simulation import Simulation, unfinished
from graticule.sims.training.lookup import Learned, train_tables
from graticule.sims.training.settings import Optimizer
from graticule.sims.truth.steering import VIEWS, concept_lines, steering_of, watch_cosines
from graticule.sims.world import World

_log = logging.getLogger(__name__)

RUNS = {3: 100, 4: 100, 5: 50, 6: 20}
"""Concepts → runs of the paper's tables; 10 for seven concepts and more."""
MEASURED = ("settings", "concepts", "curves", "heat", "edges")
"""What is measured of a setting."""
GAUGE = ("log_odds", "positive", "first", "effective", "rank")
UNDER = tuple(f"{view}_{product}" for product in ("causal", "whitened") for view in VIEWS[:2])
"""Cosines within a concept under the learner's own inner products."""
FAR = 0.05
"""Nats."""
_POINTS = 40


@renamed(points="n_points")
@door(settings=SETTINGS.or_none(), n_points=POINTS, out=FOLDER.or_none())
def simulate(
    settings: World | Setting | Sequence[World | Setting] | None = None,
    *,
    runs: int | None = None,
    steps: int | None = None,
    optimizer: Optimizer | None = None,
    seed: int = 0,
    nulls: int = 20,
    n_points: int = _POINTS,
    out: Path | str | None = None,
    progress: bool | None = None,
) -> Simulation:
    """Train `runs` worlds of each setting in one batch, and measure their steering vectors.

    Settings that differ in the initial scale alone train in one batch on the same worlds and samples. Run r
    takes world, tables and samples from seed + r, whatever it is trained beside.

    `simulate(world)` trains every run on that world; with nothing given, worlds of seven concepts are drawn,
    one per run: 10 runs of 200,000 updates, for minutes. What is trained is logged, and drawn as a bar.
    The trained tables themselves are what `train_tables([Contexts.complete(world)])` of
    `graticule.sims.training.lookup` returns.

    Args:
        settings: Worlds, settings, or both.
        runs: None is the paper's number (100 for m = 3 and 4, 50, 20, then 10).
        steps: In place of the settings' own, as in `reproduce`.
        optimizer: In place of the settings' own, as in `reproduce`.
        seed: Of the first run.
        nulls: Draws of the permutation and random-pair nulls, 0 for none.
        n_points: On the curves.
        out: A folder in which each setting is kept once it is done, so that the same call goes on there.
        progress: Whether bars are drawn; None: where it takes long.

    Raises:
        ValueError: For no setting, no run, or two settings that are the same.
    """
    given = list(settings) if isinstance(settings, Sequence) else [settings or Setting()]
    worlds = [Setting.on(one) if isinstance(one, World) else one for one in given]
    chosen = [setting.asked(steps, optimizer) for setting in worlds]
    if not chosen or len(set(chosen)) != len(chosen) or (runs is not None and runs < 1):
        raise ValueError(f"{len(chosen)} settings, runs={runs}: one or more of either, all different")
    batches: dict[Setting, list[Setting]] = {}
    for setting in chosen:
        batches.setdefault(replace(setting, scale=1.0), []).append(setting)
    saved = _Saved(out, runs=runs, seed=seed, nulls=nulls, points=n_points)
    done = {setting: tables for setting in chosen if (tables := saved.get(setting)) is not None}
    quiet = progress is False or len(batches) == 1
    with tqdm(batches.items(), desc="settings", unit="setting", disable=quiet, leave=False) as bar:
        for common, members in bar:
            bar.set_postfix_str(common.name)
            count = runs_of(common.concepts) if runs is None else runs
            missing = [member for member in members if member not in done]
            for member in missing:
                _log.info("%s: %d runs of %s", member.name, count, member.training_words)
            for setting, learned in _learn(missing, count, seed, n_points, progress) if missing else ():
                done[setting] = measure(setting, learned, nulls)
                saved.put(setting, done[setting])
    parts = [done[setting] for setting in chosen]
    tables = {name: pd.concat([part[name] for part in parts], ignore_index=True) for name in parts[0]}
    _warn_of_unfinished(tables["settings"])
    provenance = {
        "seed": seed,
        "runs": runs,
        "nulls": nulls,
        "settings": [setting.described() for setting in chosen],
        "versions": library_versions(),
    }
    return _own(tables, provenance)


def _warn_of_unfinished(settings: pd.DataFrame) -> None:
    """Say which settings are still far above a floor that they could have come to."""
    for line in unfinished(settings).to_dict("records"):
        as_sgd = " (steps= counts those of SGD)" if line["optimizer"] == "population" else ""
        _log.warning(
            "%s ended %.2f nats above its floor after %s updates%s: its geometry is that of an unfinished "
            "training, give more steps=",
            line["setting"], line["gap"], f"{line['updates']:,}", as_sgd,
        )  # fmt: skip


def runs_of(concepts: int) -> int:
    """How many runs the paper averages."""
    return RUNS.get(concepts, 10)


class _Saved:
    """Measured settings in a folder, each a `Simulation` of its own; without a folder, none."""

    def __init__(self, out: Path | str | None, **how: Any) -> None:
        """`how` is what was asked for beside the settings: runs, seed, nulls, points."""
        self._out, self._how = None if out is None else user_path(out), how

    def get(self, setting: Setting) -> dict[str, pd.DataFrame] | None:
        """The tables of a setting that is done; None if it is not."""
        if self._out is None:
            return None
        try:
            simulation = Simulation.load(self._place(self._out, setting))
        except ArtifactError:
            return None
        return {name: getattr(simulation, name) for name in MEASURED}

    def put(self, setting: Setting, tables: Mapping[str, pd.DataFrame]) -> None:
        """Keep the tables of a setting, all of them or none."""
        if self._out is not None:
            place = self._place(self._out, setting)
            set_aside(place)
            _own(tables, provenance=self._request(setting)).save(place)

    def _request(self, setting: Setting) -> dict[str, Any]:
        return {"setting": setting.described(), **self._how}

    def _place(self, out: Path, setting: Setting) -> Path:
        return out / fingerprint(self._request(setting))


def _own(tables: Mapping[str, pd.DataFrame], provenance: Mapping[str, Any]) -> Simulation:
    """A simulation that is none of the paper's."""
    none = pd.DataFrame()
    return Simulation(name="", points=none, paper=none, provenance=provenance, **tables)


def _learn(
    members: Sequence[Setting], runs: int, seed: int, points: int, progress: bool | None
) -> list[tuple[Setting, Learned]]:
    """The members' runs as one batch, taken apart again."""
    seeds = tuple(range(seed, seed + runs))
    worlds = [members[0].contexts(s) for s in seeds]
    contexts = worlds * len(members)
    scales = tuple(member.scale for member in members for _ in seeds)
    settings = members[0].training(seeds * len(members), scales, points)
    whole = train_tables(contexts, settings, watch=watch_cosines(contexts), progress=progress)
    out: list[tuple[Setting, Learned]] = []
    for k, member in enumerate(members):
        part = slice(k * runs, (k + 1) * runs)
        own = replace(
            whole,
            contexts=whole.contexts[part],
            f=whole.f[part],
            g=whole.g[part],
            loss=whole.loss[:, part],
            floor=whole.floor[part],
            watched=tuple(point[part] for point in whole.watched),
        )
        out.append((member, own))
    return out


def measure(
    setting: Setting, learned: Learned, nulls: int, label: str | None = None
) -> dict[str, pd.DataFrame]:
    """The tables of a `Simulation` for one setting, called by its name or `label`."""
    label = label or setting.name
    grids = _grids(learned)
    concepts = concept_lines(learned, nulls)
    edges = pd.DataFrame(sorted(learned.contexts[0].world.graph.edges), columns=["parent", "child"])
    parts = {
        "settings": pd.DataFrame([_setting_line(setting, learned, concepts, grids)]).assign(setting=label),
        "concepts": concepts,
        "curves": _curves(learned),
        "heat": _heat(grids),
        "edges": edges.astype(np.int64),
    }
    for name, table in parts.items():
        if name != "settings":
            table.insert(0, "setting", label)
    return parts


def _setting_line(
    setting: Setting, learned: Learned, concepts: pd.DataFrame, grids: Mapping[str, np.ndarray]
) -> dict[str, object]:
    fixed = {name: value for name, value in setting.described().items() if name != "given"}
    line: dict[str, object] = {"setting": setting.name, **fixed, "dim": setting.width}
    line |= {"lr": setting.rate, "masks": setting.masks or 0, "kept": setting.vector_share or 1.0}
    line |= {"tolerance": setting.tolerance or 0.0}
    line |= {"runs": len(learned.contexts), "updates": int(learned.steps[-1])}
    runs = concepts.groupby("run").mean(numeric_only=True)
    for view in VIEWS:
        line |= _with_error(view, runs[view])
        apart = grids[view][:, ~np.eye(grids[view].shape[1], dtype=bool)]
        for name, values in (("across", apart), ("across_abs", np.abs(apart))):
            mean, se = _mean_and_error(_mean_and_error(values)[0])
            line |= {f"{view}_{name}": float(mean), f"{view}_{name}_se": float(se)}
    line |= {f"{view}_self": _mean(runs[f"{view}_self"]) for view in VIEWS[:2]}
    for name in UNDER:
        line |= _with_error(name, runs[name] if name in runs else pd.Series([np.nan]))
    gap = learned.loss[-1] - learned.floor
    line |= {"loss": float(learned.loss[-1].mean()), "floor": float(learned.floor.mean())}
    line |= {"gap": float(gap.mean()), "gap_se": _error(gap), "behind": int(behind(gap).sum())}
    line |= {name: _mean(runs[name]) if name in runs else float("nan") for name in GAUGE}
    return line | {name: _mean(runs[name]) for name in ("shuffled", "random") if name in runs}


def behind(gap: Float[np.ndarray, " run"]) -> Bool[np.ndarray, " run"]:
    """Runs that stayed where the others did not: five times as far above the floor as the median run, and
    `FAR` nats further. Without noise in the gradient a run can stay on a plateau for good."""
    usual = float(np.median(gap))
    return (gap > 5 * usual) & (gap > usual + FAR)


def _curves(learned: Learned) -> pd.DataFrame:
    gap = learned.loss - learned.floor
    out = {"step": learned.steps, "loss": learned.loss.mean(axis=1), "floor": learned.floor.mean()}
    out |= dict(zip(("gap", "gap_se"), _mean_and_error(gap), strict=True))
    cosines = np.stack(learned.watched)
    for k, view in enumerate(VIEWS):
        out |= dict(zip((view, f"{view}_se"), _mean_and_error(cosines[:, :, k]), strict=True))
    return pd.DataFrame(out)


def _grids(learned: Learned) -> dict[str, Float[np.ndarray, "run set set"]]:
    """View → cosines (nats, for `log_odds`) between two concepts' sets, run by run."""
    grids: dict[str, list[np.ndarray]] = {}
    for steering in steering_of(learned):
        for view, grid in {**steering.cosines(), "log_odds": steering.log_odds()}.items():
            grids.setdefault(view, []).append(grid)
    return {view: np.stack(runs) for view, runs in grids.items()}


def _heat(grids: Mapping[str, Float[np.ndarray, "run set set"]]) -> pd.DataFrame:
    """Their means and standard errors over runs."""
    parts: list[pd.DataFrame] = []
    for view, stack in grids.items():
        i, j = np.indices(stack.shape[1:])
        mean, se = _mean_and_error(np.moveaxis(stack, 0, -1))
        columns = {"i": i.ravel(), "j": j.ravel(), "mean": mean.ravel(), "se": se.ravel()}
        parts.append(pd.DataFrame({"view": view, **columns}))
    return pd.concat(parts, ignore_index=True)


def _mean_and_error(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error along the last axis, over what is finite: a run's concept may have no pairs."""
    finite = np.isfinite(values)
    n = finite.sum(axis=-1)
    mean = np.divide(np.where(finite, values, 0.0).sum(axis=-1), n, out=np.full(n.shape, np.nan), where=n > 0)
    squares = np.where(finite, (values - mean[..., None]) ** 2, 0.0).sum(axis=-1)
    se = np.divide(squares, n * (n - 1), out=np.full(n.shape, np.nan), where=n > 1)
    return np.asarray(mean), np.asarray(np.sqrt(se))


def _with_error(name: str, values: pd.Series) -> dict[str, object]:
    return {name: _mean(values), f"{name}_se": _error(values)}


def _error(values: pd.Series | np.ndarray) -> float:
    """Standard error of a mean over runs; NaN for one run."""
    return float(_mean_and_error(np.asarray(values, float))[1])


def _mean(values: pd.Series) -> float:
    return float(values.mean())
