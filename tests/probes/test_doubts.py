"""What stands against a verdict: units, outliers, constant fits, null checks that find something."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sae_lens import StandardSAE, StandardSAEConfig

from graticule import Activations, Findings, Table, calibrate, controls, holdouts, latents, mlp, sweep
from graticule.probes.core.cells import outlying, outlying_said
from graticule.probes.core.fit import PointRows, Predictions, Problem, stack
from graticule.probes.core.verdict import NO_BETTER, NOT_DECIDED, STRUCTURE
from graticule.probes.scores.metrics import pearson
from graticule.probes.surface.baselines import Baselines, text_digest
from graticule.sims.planted import Planted, planted

POINT = "blocks.0.hook_resid_post"


@pytest.fixture(scope="module")
def world() -> Planted:
    return planted(n_rows=300, width=16, n_layers=1, surface=0.3, hidden=0.5, n_words=30)


def swept(world: Planted, x: np.ndarray | None = None, y: np.ndarray | None = None, **baselines) -> Findings:
    acts = world.activations if x is None else Activations.from_tensors({POINT: torch.from_numpy(x)})
    table = world.table if y is None else world.table.with_target(y)
    others = replace(world.baselines, features={**world.baselines.features, **baselines}, strings=False)
    return sweep(acts, table, baselines=others, n_bootstrap=200, progress=False)


def values(world: Planted) -> np.ndarray:
    return world.activations[POINT].double().numpy()


@pytest.fixture(scope="module")
def plain(world: Planted) -> Findings:
    return swept(world)


@pytest.mark.parametrize("power", [-99, -60, 12, 18, 25, 35, 99])
def test_no_unit_of_the_target_moves_the_verdict(world: Planted, plain: Findings, power: int) -> None:
    found = swept(world, y=world.table.y * 10.0**power).verdict
    for name in ("gain", "surface", "score", "margin", "ci95", "margin_ci95"):
        expected = pytest.approx(getattr(plain.verdict, name), abs=1e-9)
        assert getattr(found, name) == expected, name
    assert found.label == plain.verdict.label == STRUCTURE


def test_no_offset_of_the_target_moves_the_verdict(world: Planted, plain: Findings) -> None:
    assert swept(world, y=world.table.y - 1e5).verdict.gain == pytest.approx(plain.verdict.gain, abs=1e-9)


@pytest.mark.parametrize("offset", [0, 1e6, 1e9])
def test_no_offset_makes_predictors_alike(world: Planted, offset: float) -> None:
    findings = swept(world, y=world.table.y + offset)
    assert findings.verdict.label == STRUCTURE
    assert "by construction" not in findings.summary()


def test_what_is_left_out_of_a_stack_has_no_weight() -> None:
    """One that goes against the target, a constant, and a constant but for rounding, at any unit."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=(80, 1))
    helps = y + rng.normal(size=y.shape)
    for unit in (1e-100, 1.0, 1e20, 1e100):
        rounding = 3.0 + 4e-16 * rng.integers(0, 2, y.shape)
        given = {"helps": helps, "against": -helps, "constant": 0 * y, "rounding": rounding}
        fit = stack({name: p * unit for name, p in given.items()}, (y + 3) * unit)
        assert fit.coef[1:, 0].tolist() == [0.0, 0.0, 0.0]
        x = (helps - helps.mean())[:, 0]
        assert fit.coef[0, 0] == pytest.approx(float(x @ y[:, 0] / (x @ x)), rel=1e-9)


def test_no_unit_moves_a_correlation() -> None:
    rng = np.random.default_rng(1)
    y, p = rng.normal(size=(2, 50, 1))
    for unit in (1e-100, 1e100):
        assert pearson(y * unit, p * unit) == pytest.approx(np.corrcoef(y[:, 0], p[:, 0])[0, 1])


@pytest.mark.slow
def test_no_unit_moves_what_goes_on_from_findings(world: Planted) -> None:
    """Hold-outs, controls within blocks, and calibration, at units whose squares nearly leave float64."""
    blocks = {"block": np.random.default_rng(2).choice(list("abc"), len(world.table)).tolist()}
    others = replace(world.baselines, strings=False)
    found: dict[float, list[float]] = {}
    for unit in (1.0, 1e-97, 1e97):
        table = Table.from_arrays(
            world.table.y[:, 0] * unit, world.table.texts, world.table.is_test, blocks=blocks
        )
        findings = sweep(world.activations, table, baselines=others, n_bootstrap=50, progress=False)
        held = holdouts(findings, "block", n_bootstrap=50, strings=False, progress=False).to_json()["scores"]
        within = controls(findings, seeds=1, progress=False).tables()
        measured = calibrate(findings, targets=4, gains=[0.1], progress=False)
        found[unit] = [float("nan") if s["held_out"] is None else s["held_out"] for s in held[-3:]]
        numbers = [t.select_dtypes("number").to_numpy(np.float64).ravel() for t in within.values()]
        found[unit] += [*np.concatenate(numbers), *measured.targets["gain"]]
    for unit in (1e-97, 1e97):
        np.testing.assert_allclose(found[unit], found[1.0], atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("row", ["training", "test"])
def test_a_row_far_from_the_others_is_told_and_decides_nothing(world: Planted, row: str) -> None:
    x = values(world).copy()
    at = int(np.flatnonzero(world.table.is_test == (row == "test"))[3])
    x[at] *= 1e3
    found = swept(world, x)
    assert found.verdict.label.startswith(NOT_DECIDED)
    told = [w for w in found.verdict.warnings if "as far from the middle" in w]
    assert len(told) == 1 and f"row {at} ({row})" in told[0] and "1 of 300" in told[0]
    assert told[0] in found.summary()
    kept = world.activations.select(np.delete(np.arange(300), at))
    again = sweep(
        kept, world.table, baselines=world.baselines, n_bootstrap=200, progress=False
    ).verdict  # as the warning says
    assert again.label == STRUCTURE and not any("middle" in w for w in again.warnings)


@pytest.mark.slow
def test_where_a_far_row_leaves_the_mean_alone_the_reason_stands_in_the_first_line(
    world: Planted, tmp_path: Path
) -> None:
    x = values(world).copy()
    x[int(np.flatnonzero(~world.table.is_test)[0])] *= 1e4
    found = swept(world, x)
    assert found.summary().startswith(f"{NOT_DECIDED}: outliers at {POINT}")
    page = found.report(tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"{NOT_DECIDED}: outliers at {POINT}" in page
    for said in ("no better than the training mean", "as far from the middle"):
        assert any(said in w for w in found.verdict.warnings) and said in page


@pytest.mark.slow
def test_a_point_that_an_outlier_leaves_nothing_is_told_though_another_is_chosen(world: Planted) -> None:
    """The words are at an earlier point: no better than the baselines, but for the point that was lost."""
    words = world.baselines.features["mean_embedding"]["hook_embed"].double()
    both = {"blocks.0.hook_resid_pre": words, POINT: torch.from_numpy(values(world))}
    settings = {"n_bootstrap": 200, "progress": False}
    features = dict(world.baselines.features)
    features["twin_0"] = Activations.from_tensors(dict.fromkeys(both, features["twin_0"][POINT]))
    others = replace(world.baselines, features=features)
    seen = sweep(Activations.from_tensors(both), world.table, baselines=others, **settings)
    assert (seen.verdict.label, seen.chosen_point) == (STRUCTURE, POINT)
    both[POINT] = both[POINT].clone()
    both[POINT][int(np.flatnonzero(~world.table.is_test)[0])] *= 1e4
    found = sweep(Activations.from_tensors(both), world.table, baselines=others, **settings)
    assert found.chosen_point == "blocks.0.hook_resid_pre" and found.verdict.ci95[1] < 0.01
    reason = f"outliers at {POINT} leave the probe nothing but the training mean there"
    assert found.verdict.label == f"{NOT_DECIDED}: {reason}"
    assert any(f"row at {POINT}" in w for w in found.verdict.warnings)


def test_a_column_far_wider_than_the_others_is_told(world: Planted) -> None:
    wide = 1e7 * np.random.default_rng(3).normal(size=(300, 1))
    found = swept(world, np.concatenate([values(world), wide], axis=1))
    assert found.verdict.label.startswith(f"{NOT_DECIDED}: outliers")
    assert any(w.startswith(f"column 16 of {POINT}") for w in found.verdict.warnings)


def test_a_baseline_that_an_outlier_leaves_nothing_makes_no_structure(world: Planted) -> None:
    """The twin knows all that the probe knows, but for one row: what the probe adds to it is not its own."""
    x = values(world)
    assert (
        swept(world, twin_0=Activations.from_tensors({POINT: torch.from_numpy(x)})).verdict.label == NO_BETTER
    )
    x = x.copy()
    x[int(np.flatnonzero(~world.table.is_test)[0])] *= 1e4
    found = swept(world, twin_0=Activations.from_tensors({POINT: torch.from_numpy(x)}))
    assert found.verdict.ci95[0] > 0.1  # structure, by gain and interval
    assert (
        found.verdict.label
        == f"{NOT_DECIDED}: outliers leave the baseline twin_0 nothing but the training mean"
    )


def test_rows_of_one_size_are_no_outliers() -> None:
    """Whatever their offset, scale, and columns that are the same in all rows; of sparse rows too."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(200, 8))
    sparse = np.where(rng.random((200, 8)) < 0.05, 1.0, 0.0)
    for rows in (x, 1e4 + x, 1e-30 * x, np.c_[x, np.ones(200)], sparse):
        acts = Activations.from_tensors({POINT: torch.from_numpy(rows)})
        assert not outlying(PointRows(acts, POINT, np.arange(200))).any
    x[[7, 30]] += [[300.0], [60.0]]
    frame = pd.DataFrame({"token": np.arange(200)})
    acts = Activations.from_tensors({POINT: torch.from_numpy(1e4 + x)}, frame)
    found = outlying(PointRows(acts, POINT, np.arange(200)))
    assert found.rows.tolist() == [7, 30]
    problem = Problem(np.arange(200), x[:, :1], np.arange(200) > 99, np.arange(200), ("y",))
    words = outlying_said(found, POINT, "the probe", problem, acts)
    assert "the farthest row 7 (training, token 7)" in words[0] and "np." not in " ".join(words)


@pytest.mark.slow
def test_a_fit_that_is_the_mean_decides_as_far_as_its_rows_would_have_shown() -> None:
    """Luck in the activations' place: 150 rows show too little, 60,000 rows of width 2 enough."""
    rng = np.random.default_rng(5)
    for rows, said in (
        (200, f"{NOT_DECIDED}: the probe's best fit is the training mean"),
        (60_000, NO_BETTER),
    ):
        x, y = rng.normal(size=(rows, 2)), rng.normal(size=rows)
        x -= np.outer(y, (y @ x) / (y @ y))  # nothing of the target, on all rows together
        acts = Activations.from_tensors({POINT: torch.from_numpy(x)})
        table = Table.from_arrays(y, is_test=np.arange(rows) % 4 == 0)
        luck = Activations.from_tensors({"hook_embed": torch.from_numpy(rng.normal(size=(rows, 2)))})
        twin = Activations.from_tensors({POINT: torch.from_numpy(x[:, ::-1].copy())})
        others = Baselines(text_digest(table), {"mean_embedding": luck, "twin_0": twin}, False)
        found = sweep(acts, table, baselines=others, n_bootstrap=50, progress=False)
        assert found.verdict.label == said, found
        assert found.checks["twin_0 in the probe's place"].label == said  # the twin, judged by the same rule
        if rows > 1000:
            continue
        beside = mlp(found, hidden=4, decays=[1.0], epochs=2, progress=False)
        assert beside.verdict.label == said, beside.verdict
        assert said in beside.summary()
        y = np.full((rows, 1), y[~table.is_test].mean())
        still = Predictions(y[~table.is_test], y[table.is_test])
        assert found.inputs.judge(still).label == said
        assert found.inputs.judge(still, width=2).label == said


@pytest.mark.slow
def test_latents_of_luck_decide_nothing_either() -> None:
    """Every arm that is the training mean says so, as the findings do; what reads the target is judged."""
    rng = np.random.default_rng(8)
    rows, width = 200, 4
    x, y = np.abs(rng.normal(size=(rows, width))), rng.normal(size=rows)
    acts = Activations.from_tensors({POINT: torch.from_numpy(x).float()})
    table = Table.from_arrays(y, is_test=np.arange(rows) % 4 == 0)
    luck = Activations.from_tensors({"hook_embed": torch.from_numpy(rng.normal(size=(rows, 2)))})
    found = sweep(
        acts,
        table,
        baselines=Baselines(text_digest(table), {"mean_embedding": luck}, False),
        n_bootstrap=50,
        progress=False,
    )
    sae = StandardSAE(StandardSAEConfig(d_in=width, d_sae=width, dtype="float32", device="cpu"))
    sae.cfg.metadata.hook_name = POINT
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(width))
        sae.W_dec.copy_(torch.eye(width))
    judged = latents(found, sae, ks=(1, 2), n_random=2, progress=False)
    at_mean = judged.predictors[
        (judged.predictors["gain"].abs() < 1e-9)
        & (~judged.predictors["arm"].isin(["random latents", "untrained latents"]))
    ]
    assert found.verdict.label.startswith(NOT_DECIDED) and len(at_mean)
    assert at_mean["words"].str.startswith(NOT_DECIDED).all(), at_mean


@pytest.mark.slow
def test_a_strength_at_the_end_of_the_grid_is_told_in_the_summary(world: Planted) -> None:
    found = sweep(
        world.activations,
        world.table,
        baselines=world.baselines,
        alphas=[1e4, 1e5],
        n_bootstrap=50,
        progress=False,
    )
    assert found.layer_scores[0]["alpha_at_edge"]
    assert "the chosen strength 1e+04 is an end of the strengths tried" in found.summary()


def test_a_concept_in_a_small_column_is_read_as_far_as_rounding_allows_and_told_where_not() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 13))
    y = x[:, 0] + x[:, 12] + 0.5 * rng.normal(size=300)
    table = Table.from_arrays(y, is_test=np.arange(300) % 3 == 0)
    beside = Baselines(text_digest(table), {"block_0": Activations.from_tensors({POINT: x[:, :1]})}, False)
    x[:, 12] /= 1000
    exact, rounded = (
        sweep(
            Activations.from_tensors({POINT: torch.from_numpy(x).to(dtype)}),
            table,
            baselines=beside,
            n_bootstrap=50,
            crossfit=dtype == torch.float32,
        )
        for dtype in (torch.float32, torch.bfloat16)
    )
    sentence = "1 of 13 principal axes at blocks.0.hook_resid_post vary so little that the smallest strength"
    assert exact.verdict.label == STRUCTURE and sentence not in exact.summary()
    assert exact.verdict.dealing is not None
    assert rounded.verdict.label == NO_BETTER and sentence in rounded.summary()


def test_a_twin_that_finds_structure_in_the_probes_place_leaves_nothing_decided(world: Planted) -> None:
    hidden = values(world) + 1.5 * np.random.default_rng(6).normal(size=values(world).shape)
    found = swept(world, twin_0=Activations.from_tensors({POINT: torch.from_numpy(hidden)}))
    check = found.checks["twin_0 in the probe's place"]
    assert check.label == STRUCTURE
    assert found.verdict.ci95[0] > found.verdict.min_gain
    first = found.summary().splitlines()[0]
    twin, ours = f"(its own gain {check.gain:+.3f})", f"the probe's gain {found.verdict.gain:+.3f} R²"
    assert f"{check.gain:+.3f}" != f"{found.verdict.gain:+.3f}"
    assert first.startswith(f"{NOT_DECIDED}: twin_0 in the probe's place also finds structure {twin}: {ours}")
    assert any("null check" in w for w in found.verdict.warnings)


def test_shuffled_targets_that_are_read_leave_nothing_decided(
    world: Planted, plain: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where dealing the targets anew deals them as they were, shuffled targets are read as the real ones."""
    line = plain.baselines["shuffled"]
    low, high = line["ci95"]
    assert low < line["test"]["r2"] < high and low < 0.01

    class Still(np.random.Generator):
        def permutation(self, x, axis=0):
            return x

    monkeypatch.setattr(
        "graticule.probes.surface.fitted.np.random.default_rng", lambda seed: Still(np.random.PCG64(seed))
    )
    found = swept(world)
    score = found.baselines["shuffled"]["test"]["r2"]
    assert (
        found.verdict.label == f"{NOT_DECIDED}: shuffled targets are also read (their own score {score:+.3f})"
    )
    assert found.summary().startswith(f"{found.verdict.label}: the probe's gain ")
    assert found.baselines["shuffled"]["ci95"][0] > 0.1
