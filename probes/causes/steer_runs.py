"""Runs of steering: the probe's direction, its controls, shuffled targets, another concept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.hooks.bars import bar
from graticule.hooks.messages import UnknownNameError
from graticule.hooks.points import layer_of
from graticule.hooks.same_model import check_one_model
from graticule.probes.causes.bench import Bench, row_interval
from graticule.probes.causes.controls import covariance_directions
from graticule.probes.causes.effects import effect_line
from graticule.probes.estimators.edits import AffineEdit
from graticule.probes.findings import Findings

_BAND = 10
"""Controls that are run at every dose, for the band of the dose-response figure."""
_SHUFFLED = 10
_MOST_TARGETS = 4
_CHUNK = 8
"""Directions whose runs are held at once."""

_Kind = tuple[str, str, np.ndarray, bool]
"""Kind, name, displacement of one standard deviation, and whether every dose is run."""


def steering_tables(
    bench: Bench, names: Sequence[str], scales: Sequence[float], dose: float, controls: int,
    other: Findings | None, progress: bool | None,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Effects (not adjusted), control effects and doses of steering every target of `names`."""
    parts = [_Steer(bench, name, tuple(scales), dose, controls, other, progress).tables() for name in names]
    effects, held, doses = (pd.concat(list(part), ignore_index=True) for part in zip(*parts, strict=True))
    return effects, held, doses


def need_dose(dose: float, scales: Sequence[float]) -> None:
    """**Raises** `ValueError` unless the scales are numbers, with the dose among them in both directions."""
    if isinstance(scales, str | int | float) or not all(isinstance(s, Real) for s in scales):
        raise ValueError(f"scales={scales!r}: expected several numbers, (-2, -1, 0, 1, 2)")
    if not {dose, -dose} <= set(scales):
        raise ValueError(f"dose={dose:g}: both it and {-dose:g} must be among scales={tuple(scales)}")


def steering_tests(bench: Bench, names: Sequence[str]) -> int:
    """How many outcomes steering these targets is tested on."""
    later = int(bench.later is not None)
    return sum(sum(o.target == name for o in bench.outcomes) + later for name in names)


def steered(findings: Findings, targets: Sequence[str] | None) -> list[str]:
    """Targets to steer: those asked for, or the first four. **Raises** `KeyError` for an unknown one."""
    names = list(findings.target_names)
    if targets is None:
        return names[:_MOST_TARGETS]
    if unknown := [t for t in targets if t not in names]:
        raise UnknownNameError(f"no target {unknown[0]!r}; these findings have {', '.join(names)}")
    return list(targets)


class _Steer:
    """Everything about steering one target."""

    def __init__(
        self, bench: Bench, target: str, scales: tuple[float, ...], dose: float, controls: int,
        other: Findings | None, progress: bool | None,
    ) -> None:  # fmt: skip
        self.bench, self.target, self.scales, self.dose = bench, target, scales, dose
        self.column = bench.findings.target_names.index(target)
        self.shift: Float[np.ndarray, " width"] = bench.moves[:, self.column] * bench.sd[self.column]
        self.norm = float(np.linalg.norm(self.shift))
        self.name = f"steer {target}"
        rng = np.random.default_rng([bench.seed, 2, self.column])
        drawn = covariance_directions(bench.moments, controls, rng, bench.probe.read_direction, bench.moves)
        self.kinds: list[_Kind] = [("probe", target, self.shift, True)]
        self.kinds += [("control", f"control {i}", d * self.norm, i < _BAND) for i, d in enumerate(drawn)]
        self.kinds += self._shuffled(rng)
        self.kinds += self._other(other)
        self.progress = progress

    def _shuffled(self, rng: np.random.Generator) -> list[_Kind]:
        """Write directions of probes of shuffled targets."""
        centred, y = self.bench.X - self.bench.moments.mean, self.bench.y[:, self.column]
        out: list[_Kind] = []
        for i in range(_SHUFFLED):
            mixed = y[rng.permutation(len(y))]
            write = centred.T @ (mixed - mixed.mean())
            out.append(("shuffled", f"shuffled {i}", write / np.linalg.norm(write) * self.norm, False))
        return out

    def _other(self, other: Findings | None) -> list[_Kind]:
        """Write directions of another concept's probe at the same point."""
        if other is None:
            return []
        if self.bench.point not in other.probes:
            raise UnknownNameError(f"other= has no probe at {self.bench.point}; sweep it at the same points")
        made, theirs = (f.provenance.get("activations") or {} for f in (self.bench.findings, other))
        check_one_model("other=", ("the findings are", made), ("those of other=", theirs), "probe one model")
        write = other.probes[self.bench.point].write_direction
        names = [f"{other.table}: {n}" for n in other.target_names[:_MOST_TARGETS]]
        return [
            ("other", name, column / np.linalg.norm(column) * self.norm, True)
            for name, column in zip(names, write.T[:_MOST_TARGETS], strict=True)
        ]

    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
        """Effects, control effects, doses."""
        base = self._measured([np.zeros_like(self.shift)])[0]
        doses: list[dict[str, Any]] = []
        controls: list[dict[str, Any]] = []
        own: dict[str, np.ndarray] = {}
        with bar(len(self.kinds), self.name, "direction", self.progress) as done:
            for start in range(0, len(self.kinds), _CHUNK):
                for (kind, direction, _, every), values in self._values(self.kinds[start : start + _CHUNK]):
                    slopes = {
                        name: (values[self.dose][name] - values[-self.dose][name]) / (2 * self.dose)
                        for name in base
                    }
                    if every:
                        doses += [
                            self._line(name, kind, direction)
                            | {"scale": scale, "value": float((rows - base[name]).mean())}
                            for scale, found in values.items()
                            for name, rows in found.items()
                        ]
                    if kind == "probe":
                        own = slopes
                    else:
                        controls += [
                            self._line(name, kind, direction) | {"effect": float(rows.mean())}
                            for name, rows in slopes.items()
                        ]
                    done.update()
        held = pd.DataFrame(controls)
        doses += [self._line(n, "probe", self.target) | {"scale": 0.0, "value": 0.0} for n in own]
        effects = [self._effect(name, rows, held) for name, rows in own.items()]
        return pd.DataFrame(effects), held, pd.DataFrame(doses)

    def _line(self, outcome: str, kind: str, direction: str) -> dict[str, Any]:
        return {"intervention": self.name, "outcome": outcome, "kind": kind, "direction": direction}

    def _values(self, kinds: Sequence[_Kind]) -> Iterator[tuple[_Kind, dict[float, dict[str, np.ndarray]]]]:
        """Direction by direction: scale → outcome → its value row by row."""
        jobs = [(k, s) for k in kinds for s in (self.scales if k[3] else (-self.dose, self.dose))]
        found = iter(self._measured([k[2] * s for k, s in jobs]))
        for kind in kinds:
            yield kind, {s: next(found) for k, s in jobs if k is kind}

    def _measured(self, shifts: Sequence[np.ndarray]) -> list[dict[str, np.ndarray]]:
        """Outcome → its value row by row, displacement by displacement."""
        bench = self.bench
        out: list[dict[str, np.ndarray]] = [{} for _ in shifts]
        for prompt in bench.prompts:
            runs = bench.rig(prompt).runs([AffineEdit.translation(shift) for shift in shifts])
            for held, ran, shift in zip(out, runs, shifts, strict=True):
                held |= bench.odds(prompt, ran)
                if bench.later is not None and prompt == bench.prompts[0]:
                    moved = bench.readings(ran) - bench.skipped(shift)
                    held[self._later_name] = moved[:, self.column]
        return out

    @property
    def _later_name(self) -> str:
        later = self.bench.later
        return f"reading of {self.target} at layer {layer_of(later) if later else None}, skip path subtracted"

    def _effect(self, name: str, rows: np.ndarray, held: pd.DataFrame) -> dict[str, Any]:
        bench = self.bench
        stated = {o.name: o for o in bench.outcomes}
        among = held[(held["outcome"] == name) & (held["kind"] == "control")]["effect"].to_numpy(dtype=float)
        tested = name == self._later_name or (name in stated and stated[name].target == self.target)
        sensitivity, p = bench.sensitivity(stated[name]) if name in stated else (float("nan"), float("nan"))
        return effect_line(
            intervention=self.name,
            outcome=name,
            unit="log-odds per sd" if name in stated else "sd of the target per sd",
            tested=tested,
            effect=float(rows.mean()),
            interval=row_interval(rows, bench.seed),
            controls=among,
            norm=self.norm,
            sensitivity=(sensitivity, p),
        )
