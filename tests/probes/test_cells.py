"""Single absurd cells are named, and leave nothing decided; tails are none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from graticule import Activations, Findings, Table, sweep
from graticule.probes.calibration.result import put_under
from graticule.probes.core.cells import absurd_targets
from graticule.probes.core.fit import Predictions, Problem
from graticule.probes.core.gates import Gates
from graticule.probes.core.verdict import NO_BETTER, NOT_DECIDED, STRUCTURE
from graticule.probes.surface.baselines import Baselines, text_digest

POINT = "blocks.0.hook_resid_post"
N = 400
ROW = {"training": 17, "test": 20}


def world(hidden: float = 0.8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 16))
    y = np.sqrt(hidden) * x[:, 0] + np.sqrt(1 - hidden) * rng.normal(size=N)
    return x, y, rng.normal(size=(N, 4))


def swept(x: np.ndarray, y: np.ndarray, beside: np.ndarray) -> Findings:
    table = Table.from_arrays(y, is_test=np.arange(N) % 4 == 0)
    luck = Activations.from_tensors({"hook_embed": torch.from_numpy(beside)})
    return sweep(
        Activations.from_tensors({POINT: torch.from_numpy(x)}),
        table,
        baselines=Baselines(text_digest(table), {"mean_embedding": luck}, False),
        n_bootstrap=200,
        progress=False,
    )


def test_without_them_there_is_structure() -> None:
    found = swept(*world())
    assert found.verdict.label == STRUCTURE and found.gates == Gates()


@pytest.mark.parametrize("part", ROW)
@pytest.mark.parametrize("where", ["activations", "baseline"])
@pytest.mark.parametrize("size", [1e6, -1e9])
def test_an_absurd_cell_is_named_and_nothing_decided(part: str, where: str, size: float) -> None:
    x, y, beside = world()
    (x if where == "activations" else beside)[ROW[part], 3] = size
    verdict = swept(x, y, beside).verdict
    assert verdict.label.startswith(f"{NOT_DECIDED}: ")
    said = f"row {ROW[part]} ({part})"
    assert any(said in w and f"in column 3 ({size:.3g})" in w for w in verdict.warnings)


def test_rows_far_out_gate_nothing_where_a_ridge_reads_as_much_with_them() -> None:
    """Single tokens of a language model are: far out in a column of their own."""
    x, y, _ = world()
    x[[3, 5, 20, 33], 10] = 60.0
    verdict = swept(x, y, x[:, :4].copy()).verdict
    assert verdict.label == NO_BETTER
    assert any("rows over 10 times as far from the middle as the median row" in w for w in verdict.warnings)
    x[[3, 5, 20, 33], 0] = 60.0  # where the target is read
    assert swept(x, y, x[:, 1:5].copy()).verdict.label.startswith(f"{NOT_DECIDED}: ")


@pytest.mark.parametrize("part,size", [("training", 1e3), ("test", 1e8), ("test", -300.0)])
def test_an_absurd_target_is_named_and_nothing_decided(part: str, size: float) -> None:
    x, y, beside = world()
    y[ROW[part]] = size
    found = swept(x, y, beside)
    assert (
        found.verdict.label == f"{NOT_DECIDED}: the target 'target' of {part} row {ROW[part]} is {size:.4g}"
    )
    assert any(f"{part} row {ROW[part]} is {size:.4g}" in w for w in found.verdict.warnings)
    problem = found.problem
    truth = Predictions(problem.y[problem.train], problem.y[problem.test])
    assert found.inputs.judge(truth).label == found.verdict.label  # and so for every other predictor


@pytest.mark.parametrize("tail", ["normal", "t", "lognormal", "poisson", "rare", "years"])
def test_tails_are_no_absurd_cells(tail: str) -> None:
    rng = np.random.default_rng(1)
    draw = {
        "normal": lambda n: rng.normal(size=n),
        "t": lambda n: rng.standard_t(3, n),
        "lognormal": lambda n: np.exp(1.5 * rng.normal(size=n)),
        "poisson": lambda n: rng.poisson(0.2, n).astype(float),
        "rare": lambda n: (np.arange(n) < 3).astype(float),
        "years": lambda n: 2000 - rng.exponential(150, n) * (1 + 5 * (rng.random(n) < 0.05)),
    }[tail]
    alarms = 0
    for trial in range(200):
        n = (40, 300)[trial % 2]
        problem = Problem(np.arange(n), draw(n)[:, None], np.arange(n) % 4 == 0, np.arange(n), ("y",))
        alarms += bool(absurd_targets(problem))
    assert alarms <= 2


def test_several_typing_errors_are_counted() -> None:
    y = np.random.default_rng(2).normal(size=(200, 1))
    y[[4, 9, 13]] = [[1e4], [1.1e4], [-1e4]]
    ((few, said),) = absurd_targets(Problem(np.arange(200), y, np.arange(200) >= 150, np.arange(200), ("y",)))
    assert few == "the target 'y' of training row 9 is 1.1e+04" and "of 2 more" in said


def test_gates_close_the_side_that_they_are_of() -> None:
    verdict = swept(*world()).verdict
    assert Gates(structure=("why",)).through(verdict).label == f"{NOT_DECIDED}: why"
    assert Gates(no_better=("why",)).through(verdict) == verdict
    low = replace(verdict, label=NO_BETTER)
    assert Gates(("why",)).through(low) == low
    assert Gates((), ("why",)).through(low).label == f"{NOT_DECIDED}: why"
    undecided = replace(verdict, label=f"{NOT_DECIDED}: other")
    assert Gates(("why",), ("why",)).through(undecided) == undecided
    assert Gates(("a",), ()) | Gates(("b", "a"), ("c",)) == Gates(("a", "b"), ("c",))


def test_a_calibration_that_calls_nothing_structure_too_often_opens_the_verdict() -> None:
    from graticule import calibrate

    found = swept(*world())
    calibration = calibrate(found, targets=20, gains=[0.1], progress=False)
    assert calibration.gates == Gates() and found.verdict.label == STRUCTURE
    rates = calibration.rates.copy()
    rates.loc[rates["kind"] == "noise", "structure"] = 6
    put_under(found, replace(calibration, rates=rates))
    reason = "calibration called 6 of 20 noise targets structure"
    assert found.verdict.label == f"{NOT_DECIDED}: {reason}" and found.inputs.gates.structure == (reason,)
