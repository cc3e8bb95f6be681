"""Steer along the probe's direction and watch what follows, beside displacements as large as its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from graticule.hooks.doors import FINDINGS, MODEL, door
from graticule.hooks.protocols import HookedModel
from graticule.hooks.running.session import packed, undisturbed
from graticule.hooks.saved import SavedResult
from graticule.probes.causes.bench import Bench, provenance_of
from graticule.probes.causes.controls import needed
from graticule.probes.causes.effects import EffectTables, adjusted
from graticule.probes.causes.outcomes import Outcome
from graticule.probes.causes.rig import Span
from graticule.probes.causes.steer_runs import need_dose, steered, steering_tables, steering_tests
from graticule.probes.findings import Findings

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

SCALES = (-3.0, -2.0, -1.0, 1.0, 2.0, 3.0)


@dataclass(frozen=True)
class Steering(EffectTables, SavedResult):
    """The result of `graticule.steer`."""

    KIND: ClassVar[str] = "steering"

    model: str
    """The model's name."""
    table: str
    """The table's name."""
    point: str
    """The hook point that was steered."""
    span: str
    """Which tokens were steered."""
    rows: int
    """Test rows whose prompts were run."""
    dose: float
    """Standard deviations of the reading at which effects are measured, plus and minus."""
    effects: pd.DataFrame
    """A line an intervention and outcome; see `EffectTables`."""
    controls: pd.DataFrame
    """A line a control direction and outcome: `intervention`, `outcome`, `kind`, `direction`, `effect`."""
    doses: pd.DataFrame
    """Dose-response: `intervention`, `outcome`, `kind`, `direction`, `scale`, `value`."""
    outcomes: tuple[Outcome, ...]
    """As stated beforehand."""
    provenance: Mapping[str, Any]
    """Model, table, settings and versions."""

    @property
    def title(self) -> str:
        """Model, table and point."""
        return f"Steering {self.model} on {self.table} at {self.point}"

    def summary(self) -> str:
        """The strongest effect first, then every outcome."""
        return "\n".join(self.effect_lines())

    def figures(self) -> dict[str, Figure]:
        """Dose-response and control effects, outcome by outcome."""
        return self.effect_figures()

    def tables(self) -> dict[str, pd.DataFrame]:
        """Effects."""
        return self.effect_tables()


@door(model=MODEL, findings=FINDINGS)
def steer(
    model: HookedModel,
    findings: Findings,
    outcomes: Sequence[Outcome] | None = None,
    *,
    targets: Sequence[str] | None = None,
    point: str | None = None,
    scales: Sequence[float] = SCALES,
    dose: float = 2.0,
    rows: int = 100,
    controls: int = 100,
    pos: Span = "from_entity",
    other: Findings | None = None,
    seed: int = 0,
    include_bos: bool = False,
    progress: bool | None = None,
) -> Steering:
    """Move the probe's reading by some standard deviations inside the model: a dose-response beside controls.

    At `point` (by default the chosen one) the activations are moved along the write direction until the
    target's reading has moved by `scale` standard deviations of the readings over training rows, the other
    targets' readings held, at the tokens of `pos` (BOS among them with `include_bos` alone). The effect
    is the slope between −`dose` and +`dose`, mean over test rows. Outcomes: the log-odds between stated
    answers (`default_outcomes` where none are given), and the last
    later probe's reading with the displacement carried there by the skip path subtracted.

    Controls are displacements of the same norm along directions drawn with the activations' covariance, with
    what the probe reads of them taken out; beside them stand the write directions of shuffled targets and,
    with `other`, another concept's. p is the effect's rank among the controls, two-sided, Holm over all.

    **Raises** `ValueError` for doses that are not among the scales, tables without texts, bad outcomes;
    `KeyError` for an unknown target or point.
    """
    need_dose(dose, scales)
    bench = Bench(model, findings, outcomes, point=point, rows=rows, span=pos, seed=seed,
                  include_bos=include_bos)  # fmt: skip
    names = steered(findings, targets)
    with undisturbed(model), packed(model):
        count = needed(controls, steering_tests(bench, names))
        effects, held, doses = steering_tables(bench, names, scales, dose, count, other, progress)
    settings = {"point": bench.point, "pos": pos, "scales": list(scales), "dose": dose, "rows": rows,
                "controls": count, "seed": seed, "include_bos": include_bos}  # fmt: skip
    return Steering(
        model=findings.model,
        table=findings.table,
        point=bench.point,
        span=pos,
        rows=len(bench.sources),
        dose=dose,
        effects=adjusted(effects),
        controls=held,
        doses=doses,
        outcomes=bench.outcomes,
        provenance=provenance_of(findings, settings),
    )
