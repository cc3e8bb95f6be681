"""Pin, zero or mean-ablate single neurons, beside neurons of the same layer that write as much.

Gurnee & Tegmark (2310.02207 v3, appendix B) pin a time neuron and watch the next token, beside nine random
neurons, and zero-ablate neurons without any. Here both, with matched controls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from graticule.hooks.doors import FINDINGS, MODEL, NEURONS, door
from graticule.hooks.limits import LimitError, check_indices
from graticule.hooks.protocols import HookedModel
from graticule.hooks.running.session import packed, undisturbed
from graticule.hooks.saved import SavedResult
from graticule.probes.causes.bench import Bench, provenance_of
from graticule.probes.causes.controls import needed
from graticule.probes.causes.effects import EffectTables, adjusted
from graticule.probes.causes.neuron_runs import DRAWN, PIN_DOSE, neuron_tables, neuron_tests
from graticule.probes.causes.outcomes import Outcome
from graticule.probes.causes.rig import Span
from graticule.probes.findings import Findings

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PINS = (-4.0, -2.0, 0.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class Ablation(EffectTables, SavedResult):
    """The result of `graticule.ablate`."""

    KIND: ClassVar[str] = "ablation"

    model: str
    """The model's name."""
    table: str
    """The table's name."""
    span: str
    """Which tokens were edited."""
    rows: int
    """Test rows whose prompts were run."""
    effects: pd.DataFrame
    """A line a neuron, intervention and outcome; see `EffectTables`."""
    controls: pd.DataFrame
    """A line a control neuron and outcome: `intervention`, `outcome`, `kind`, `direction`, `effect`."""
    doses: pd.DataFrame
    """Empty: neurons have `pins`."""
    pins: pd.DataFrame
    """A line a pinned value: `outcome`, `asked` (the neuron asked for), `kind`, `neuron`, `value` (standard
    deviations of that neuron from its mean), `effect` (change in log-odds)."""
    outcomes: tuple[Outcome, ...]
    """As stated beforehand."""
    provenance: Mapping[str, Any]
    """Model, table, settings and versions."""

    @property
    def title(self) -> str:
        """Model and table."""
        return f"Neurons pinned and ablated: {self.model} on {self.table}"

    def summary(self) -> str:
        """The strongest effect first, then every outcome."""
        return "\n".join(self.effect_lines())

    def figures(self) -> dict[str, Figure]:
        """Pin sweeps, then effects among their controls."""
        return {**pin_figures(self.pins), **self.effect_figures()}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Effects."""
        return self.effect_tables()


@door(model=MODEL, findings=FINDINGS, neurons=NEURONS)
def ablate(
    model: HookedModel,
    findings: Findings,
    neurons: Sequence[tuple[int, int]],
    outcomes: Sequence[Outcome] | None = None,
    *,
    values: Sequence[float] = PINS,
    rows: int = 100,
    controls: int = 100,
    pos: Span = "all",
    seed: int = 0,
    include_bos: bool = False,
    progress: bool | None = None,
) -> Ablation:
    """Pin MLP neurons to a sweep of values, and set them to zero and to their mean, one at a time.

    `neurons` are (layer, index) pairs of `blocks.{layer}.mlp.hook_post`, edited at the tokens of `pos`, BOS
    among them with `include_bos` alone.
    Values are standard deviations from the neuron's mean over the prompts' entity tokens. Effects: the slope
    of the stated answers' log-odds between pins at −2 and +2, and the next-token KL of zero- and
    mean-ablation. Controls are neurons of the same layer whose own spread writes most nearly as much (sd ·
    |W_out|).

    **Raises** `ValueError` for no neurons or values without −2 and 2, `IndexError` for a neuron that the
    layer does not have.
    """
    if not neurons:
        raise ValueError("no neurons: give (layer, index) pairs")
    _check_once(neurons)
    if not {-PIN_DOSE, PIN_DOSE} <= set(values):
        raise ValueError(f"values={tuple(values)} must hold {-PIN_DOSE:g} and {PIN_DOSE:g}")
    bench = Bench(model, findings, outcomes, point=None, rows=rows, span=pos, seed=seed,
                  include_bos=include_bos)  # fmt: skip
    with undisturbed(model), packed(model):
        count = needed(controls, neuron_tests(bench, neurons))
        effects, held, pins = neuron_tables(bench, neurons, values, count, pos, progress)
    settings = {"neurons": [list(n) for n in neurons], "pos": pos, "rows": rows,
                "include_bos": include_bos, "controls": count,
                "values": list(values), "seed": seed}  # fmt: skip
    return Ablation(
        model=findings.model,
        table=findings.table,
        span=pos,
        rows=len(bench.sources),
        effects=adjusted(effects),
        controls=held,
        doses=pd.DataFrame(),
        pins=pins,
        outcomes=bench.outcomes,
        provenance=provenance_of(findings, settings),
    )


def _check_once(neurons: Sequence[tuple[int, int]]) -> None:
    """**Raises** `LimitError` for what is no pair of whole numbers, and for a neuron that is named twice."""
    pairs: dict[tuple[int, int], None] = {}
    for neuron in neurons:
        if not isinstance(neuron, tuple | list) or len(neuron) != 2:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise LimitError("neurons", neuron, "(layer, index) pairs")
        layer, index = (check_indices("neurons", [number])[0] for number in neuron)
        if (layer, index) in pairs:
            raise LimitError("neurons", (layer, index), "each of them once, and it is there twice")
        pairs[layer, index] = None


def pin_figures(pins: pd.DataFrame) -> dict[str, Figure]:
    """Caption → pin sweep, a figure a neuron asked for and outcome."""
    from graticule.probes.plots.causes import pin_figure

    out: dict[str, Figure] = {}
    if not len(pins):
        return out
    for (asked, outcome), lines in pins.groupby(["asked", "outcome"], sort=False):
        caption = f"Neuron {asked} pinned, beside {DRAWN} neurons that write as much: {outcome}"
        out[caption] = pin_figure(lines, "log-odds")
    return out
