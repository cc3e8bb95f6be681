"""Is what the probe reads used by the model? Steering, erasing, ablating: the second verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from graticule.hooks.doors import FINDINGS, MODEL, door
from graticule.hooks.names import user_path
from graticule.hooks.protocols import HookedModel
from graticule.hooks.question import check_beforehand
from graticule.hooks.running.packing import packed
from graticule.hooks.running.session import undisturbed
from graticule.hooks.saved import SavedResult
from graticule.probes.causes.ablate import PINS, pin_figures
from graticule.probes.causes.bench import Bench, provenance_of
from graticule.probes.causes.controls import NEGLIGIBLE, needed
from graticule.probes.causes.effects import LEVEL, EffectTables, adjusted
from graticule.probes.causes.neuron_runs import neuron_tables, neuron_tests
from graticule.probes.causes.outcomes import Outcome
from graticule.probes.causes.removal import removal_tables, removal_tests
from graticule.probes.causes.rig import Span
from graticule.probes.causes.steer import SCALES
from graticule.probes.causes.steer_runs import need_dose, steered, steering_tables, steering_tests
from graticule.probes.findings import Findings
from graticule.probes.scores.verdict import STRUCTURE

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

USED = "used"
NOT_SEEN = "present, no effect seen"
UNDECIDED = "not decided"
_ENOUGH_ROWS = 20


@dataclass(frozen=True)
class Causes(EffectTables, SavedResult):
    """The result of `graticule.causes`."""

    KIND: ClassVar[str] = "causes"

    model: str
    """The model's name."""
    table: str
    """The table's name."""
    target_names: tuple[str, ...]
    """Targets that were steered and erased."""
    words: str
    """The second verdict: `used`, `present, no effect seen` or `not decided`."""
    reason: str
    """Why, in a sentence."""
    first_verdict: str
    """The verdict of the findings, in words."""
    point: str
    """The hook point of the interventions."""
    span: str
    """Which tokens were edited."""
    rows: int
    """Test rows whose prompts were run."""
    dose: float
    """Standard deviations of the reading at which steering is measured, plus and minus."""
    effects: pd.DataFrame
    """A line an intervention and outcome; see `EffectTables`."""
    controls: pd.DataFrame
    """A line a control and outcome: `intervention`, `outcome`, `kind`, `direction`, `effect`."""
    doses: pd.DataFrame
    """Dose-response of steering: `intervention`, `outcome`, `kind`, `direction`, `scale`, `value`."""
    pins: pd.DataFrame
    """Pin sweeps of the neurons asked for; empty without any."""
    outcomes: tuple[Outcome, ...]
    """As stated beforehand."""
    provenance: Mapping[str, Any]
    """Model, table, settings and versions."""

    @property
    def title(self) -> str:
        """Model, table and point."""
        return f"Causes: {', '.join(self.target_names)} in {self.model} on {self.table}, at {self.point}"

    def summary(self) -> str:
        """The second verdict, why, and every outcome with what its controls reach."""
        return "\n".join([f"{self.words}: {self.reason}", *self.effect_lines(), *self._beside()])

    def _beside(self) -> list[str]:
        """What directions of shuffled targets and of another concept reach, where they were run."""
        lines: list[str] = []
        for kind, name in (("shuffled", "directions of shuffled targets"), ("other", "another concept")):
            for line in self.effects[self.effects["tested"]].to_dict("records"):
                held = self.controls[
                    (self.controls["kind"] == kind)
                    & (self.controls["intervention"] == line["intervention"])
                    & (self.controls["outcome"] == line["outcome"])
                ]["effect"]
                if len(held):
                    lines.append(
                        f"{name} in place of {str(line['intervention']).removeprefix('steer ')}, "
                        f"{line['outcome']}: up to ±{held.abs().max():.3g}"
                    )
        return lines

    def figures(self) -> dict[str, Figure]:
        """Dose-response and control effects, outcome by outcome; pin sweeps."""
        return {**self.effect_figures(), **pin_figures(self.pins)}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Effects."""
        return self.effect_tables()


@door(model=MODEL, findings=FINDINGS)
def causes(
    model: HookedModel,
    findings: Findings,
    *,
    outcomes: Sequence[Outcome] | None = None,
    targets: Sequence[str] | None = None,
    point: str | None = None,
    rows: int = 100,
    controls: int = 100,
    neurons: Sequence[tuple[int, int]] | None = None,
    other: Findings | None = None,
    pos: Span = "from_entity",
    scales: Sequence[float] = SCALES,
    dose: float = 2.0,
    seed: int = 0,
    include_bos: bool = False,
    progress: bool | None = None,
    out: Path | str | None = None,
) -> Causes:
    """Does the model use what the probe reads at `point`? Interventions beside matched controls.

    Every target is steered (`steer`), all of them together are erased (LEACE), and `neurons` are pinned and
    ablated (`ablate`), on at most `rows` test rows, their names set into the prompts of `outcomes` (by
    default those packaged for latitude, longitude and year). Every effect is ranked among at least `controls`
    interventions as large as itself (more, where fewer could not reach .05 after Holm's correction).

    Special tokens (BOS) are edited with `include_bos` alone.

    **The verdict:** *used* if an outcome lies beyond its controls (Holm-adjusted p below .05); *present, no
    effect seen* if none does although the findings show structure, at least 20 rows were run, and the
    controls move what was measured; else *not decided*. Under every outcome stands its detection limit, the
    97.5% quantile of its controls' sizes: smaller effects could not have been told from displacements in
    general. With `out`, the result is saved there.

    **Raises** `ValueError` and `KeyError` as `steer` and `ablate`.
    """
    need_dose(dose, scales)
    if out is not None:
        asked = {"model": findings.model, "table": findings.table}
        check_beforehand(user_path(out), Causes, **asked)
    bench = Bench(model, findings, outcomes, point=point, rows=rows, span=pos, seed=seed,
                  include_bos=include_bos)  # fmt: skip
    names = steered(findings, targets)
    pins = pd.DataFrame()
    with undisturbed(model), packed(model):
        tests = steering_tests(bench, names) + removal_tests(bench)
        tests += neuron_tests(bench, neurons) if neurons else 0
        count = needed(controls, tests)
        effects, held, doses = steering_tables(bench, names, scales, dose, count, other, progress)
        removed = removal_tables(bench, names, count, progress)
        tables = [(effects, held), removed]
        if neurons:
            *found, pins = neuron_tables(bench, neurons, PINS, count, "all", progress)
            tables.append((found[0], found[1]))
    every = adjusted(pd.concat([t[0] for t in tables], ignore_index=True))
    words, reason = second_verdict(every, findings.verdict.words, len(bench.sources))
    settings = {
        "point": bench.point, "pos": pos, "rows": rows, "controls": count, "scales": list(scales),
        "dose": dose, "neurons": [list(n) for n in neurons or ()],
        "other": None if other is None else other.table, "seed": seed,
        "include_bos": include_bos,
    }  # fmt: skip
    result = Causes(
        model=findings.model,
        table=findings.table,
        target_names=tuple(names),
        words=words,
        reason=reason,
        first_verdict=findings.verdict.words,
        point=bench.point,
        span=pos,
        rows=len(bench.sources),
        dose=dose,
        effects=every,
        controls=pd.concat([t[1] for t in tables], ignore_index=True),
        doses=doses,
        pins=pins,
        outcomes=bench.outcomes,
        provenance=provenance_of(findings, settings),
    )
    if out is not None:
        result.save(out)
    return result


def second_verdict(effects: pd.DataFrame, first: str, rows: int) -> tuple[str, str]:
    """The verdict and its reason from adjusted `effects`, the first verdict's words and the rows run."""
    tested = effects[effects["tested"]]
    if not len(tested):
        return UNDECIDED, "no outcome was tested"
    beyond = tested[tested["p_holm"] < LEVEL]
    if len(beyond):
        best = beyond.sort_values("p_holm", kind="stable").iloc[0]
        more = f", and {len(beyond) - 1} more" if len(beyond) > 1 else ""
        return USED, (
            f"{best['intervention']} changes {best['outcome']} by {best['effect']:+.3g} {best['unit']}, its "
            f"matched controls by up to {best['limit']:.3g}{more} ({len(beyond)} of {len(tested)} outcomes)"
        )
    if first != STRUCTURE:
        return UNDECIDED, f"no outcome beyond its controls, and the findings themselves say: {first}"
    if rows < _ENOUGH_ROWS:
        return UNDECIDED, f"no outcome beyond its controls, on {rows} rows alone (20 are needed to say more)"
    if not (tested["limit"] > NEGLIGIBLE).any():
        return UNDECIDED, "nothing that was measured moves at all, not even with the controls"
    reason = (
        f"none of {len(tested)} outcomes lies beyond its matched controls; their detection limits are below"
    )
    answers = tested[tested["sensitivity"].notna()]
    if len(answers) and not (answers["sensitivity_p"] < LEVEL).any():
        reason += (
            " (the stated answers do not follow the truth in this model as it is: another prompt may "
            "show more)"
        )
    return NOT_SEEN, reason
