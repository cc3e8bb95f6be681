"""What is called used: luck, decoys and what the output reads, in models whose use is known."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

import graticule
from graticule import Outcome, Table
from graticule.probes.causes.alike import alike_targets, dealt_by_cluster
from graticule.probes.causes.causes import UNDECIDED, USED, USED_OR_CORRELATED, Causes, second_verdict
from graticule.probes.causes.experiment import Experiment
from graticule.probes.causes.followed import answer_line, next_token_lines, reading_line, share_on
from graticule.probes.causes.readable import Readable, correlated_readings, halves_agree, readable_targets
from graticule.probes.causes.result import adjusted, effect_line
from graticule.probes.linear.edits import AffineEdit
from graticule.probes.linear.leace import Covariance
from graticule.probes.surface.baselines import Baselines, text_digest
from graticule.sims.uses import ANSWERS, POINT, planted_use

ASKED = Outcome("high or low", "{}", {"high": (ANSWERS[0],), "low": (ANSWERS[1],)}, "used")


def swept(world, *names):
    table = world.targets(*names)
    activations = graticule.capture(world.model, table.texts, points="resid_post", pos="last", progress=False)
    none = Baselines(text_digest(table), {}, strings=False)
    return graticule.sweep(activations, table, baselines=none, n_bootstrap=200, progress=False)


@pytest.fixture(scope="module")
def world():
    return planted_use(n_rows=240, width=48, others=0.3, seed=5)


@pytest.fixture(scope="module")
def findings(world):
    return {name: swept(world, name) for name in ("used", "decoy")}


def asked(world, findings, target, **more):
    outcomes = [dataclasses.replace(ASKED, target=target)]
    options = {"rows": 30, "controls": 40, "scales": (-2.0, 2.0), "progress": False} | more
    return graticule.causes(findings, world.model, hook_name=POINT, outcomes=outcomes, **options)


@pytest.mark.slow
def test_what_the_output_reads_is_used_and_its_decoy_is_not(world, findings, tmp_path):
    used, decoy = (asked(world, findings[name], name) for name in ("used", "decoy"))
    assert used.label == USED
    assert used.effects["followed"].max() > 0.4
    assert decoy.label == USED_OR_CORRELATED
    assert "all that is correlated with the direction" in decoy.reason
    assert decoy.effects["followed"].max() < 0.2
    assert decoy.p_used == 1.0 and used.p_used < 0.05
    assert set(used.criteria["criterion"]) >= {"readable", "reliable", "moves something", "moves it itself"}
    assert "What must be said of a direction" in used.tables()
    decoy.save(tmp_path / "d")
    back = Causes.load(tmp_path / "d")
    assert back.summary() == decoy.summary()
    pd.testing.assert_frame_equal(back.criteria, decoy.criteria)


@pytest.mark.slow
def test_results_saved_before_there_were_criteria_load(world, findings, tmp_path):
    result = asked(world, findings["used"], "used", controls=2)
    before = dataclasses.replace(
        result,
        effects=result.effects.drop(columns=["alone", "followed"]),
        criteria=pd.DataFrame(),
        correlated=pd.DataFrame(),
    )
    before.save(tmp_path / "c")
    for name in ("criteria.parquet", "correlated.parquet"):
        assert (tmp_path / "c" / name).exists()
    back = Causes.load(tmp_path / "c")
    assert back.summary() == before.summary()
    assert "What must be said of a direction" not in back.tables()


@pytest.mark.slow
def test_what_goes_with_it_is_named_where_it_is_given(world, findings):
    table = correlated_readings(findings["decoy"], POINT, ["decoy"], findings["used"])
    assert table["beside"].tolist() == ["planted use: used"]
    X = findings["decoy"].inputs.rows(POINT, findings["decoy"].inputs.problem.test)
    one, two = (findings[name].probes[POINT].predict(X)[:, 0] for name in ("decoy", "used"))
    assert table["correlation"][0] == pytest.approx(np.corrcoef(one, two)[0, 1])
    named = asked(world, findings["decoy"], "decoy", other=findings["used"])
    assert named.label == USED_OR_CORRELATED and "read with it: planted use: used (+" in named.reason


def test_luck_is_not_used_though_something_moves(world):
    """The gate by itself: outcomes beyond their controls, of a direction that reads nothing."""
    line = effect_line(
        intervention="steer a", outcome="o", unit="log-odds per sd", tested=True, effect=2.0,
        interval=(1.0, 3.0), controls=np.linspace(-1, 1, 100), norm=1.0,
    )  # fmt: skip
    effects = adjusted(pd.DataFrame([line])).assign(followed=0.9)
    shown, not_shown = Readable("a", 0.5, 0.3, 0.7), Readable("a", 0.05, -0.2, 0.3)
    assert second_verdict(effects, "not decided", 50, [shown])[0] == USED
    label, reason = second_verdict(effects, "not decided", 50, [not_shown])
    assert label == UNDECIDED and "read at all was not shown" in reason and "-0.200" in reason
    assert second_verdict(effects, "not decided", 50, [Readable("a", *(float("nan"),) * 3)])[0] == UNDECIDED
    assert second_verdict(effects.assign(followed=0.2), "", 50, [shown])[0] == USED_OR_CORRELATED
    assert second_verdict(effects.assign(followed=np.nan), "", 50, [shown])[0] == USED_OR_CORRELATED
    erased = effects.assign(intervention="erase a", followed=0.1)
    still = effects.assign(p_holm=1.0, followed=np.nan)
    words = second_verdict(pd.concat([erased, still]), "", 50, [shown])[1]
    assert "erasing and steering disagree: erasing moves 1 of 1 outcomes, steering none of 1" in words


def test_a_reading_beyond_its_controls_must_be_beyond_those_alike_too():
    few, wide = np.linspace(-1, 1, 100), np.linspace(-4, 4, 100)
    line = {"intervention": "steer a", "outcome": "o", "unit": "", "tested": True, "effect": 2.0}
    line |= {"interval": (1.0, 3.0), "controls": few, "norm": 1.0}
    assert effect_line(**line)["p"] == pytest.approx(1 / 101)
    both = effect_line(**line, alike=wide)
    assert both["p"] > 0.4 and both["limit"] > 3.8


# Targets made alike ------------------------------------------------------------------------------------
def test_alike_targets_are_as_readable_and_nothing_more():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4000, 6)) @ rng.normal(size=(6, 6))
    y, clusters = rng.normal(size=4000), np.arange(4000)
    made = alike_targets(5, Covariance.of(X), (X, y, clusters), (X[:50], y[:50], clusters[:50]), 0.6, rng)
    centred = X - X.mean(0)
    for column in made.train.T:
        fit = np.linalg.lstsq(centred, column - column.mean(), rcond=None)[0]
        assert np.corrcoef(centred @ fit, column)[0, 1] ** 2 == pytest.approx(0.6, abs=0.03)
    assert made.later is not None and made.later.shape == (50, 5)
    luck = alike_targets(1, Covariance.of(X), (X, y, clusters), None, -0.3, rng)
    assert np.allclose(np.sort(luck.train[:, 0]), np.sort((y - y.mean()) / y.std()))


def test_clusters_are_dealt_whole():
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(30), 4)
    y = np.repeat(rng.normal(size=30), 4)
    dealt = dealt_by_cluster(y, clusters, rng)
    assert (np.ptp(dealt.reshape(30, 4), axis=1) == 0).all()
    assert np.allclose(np.sort(dealt), np.sort(y)) and not np.array_equal(dealt, y)
    uneven = dealt_by_cluster(np.arange(6.0), np.array([0, 0, 0, 1, 1, 2]), rng)
    assert set(uneven) <= set(np.arange(6.0))


def test_later_layers_are_read_by_a_probe_of_other_rows(world, findings):
    experiment = Experiment(
        world.model, findings["used"], [], point=POINT, rows=10, span="from_entity", seed=0
    )
    reader, problem = experiment.reader, findings["used"].inputs.problem
    assert reader is not None and set(reader.rows) <= set(problem.test)
    fit = findings["used"].probes[reader.point]
    assert not np.allclose(reader.coef[:, 0], fit.read_direction[:, 0] / fit.weights.y_scale[0])


# Lines that an outcome follows ---------------------------------------------------------------------------
def test_shares_by_hand():
    rng = np.random.default_rng(0)
    read, line = rng.normal(size=(9, 1)), rng.normal(size=(9, 1))
    move = line / float((read * line).sum())
    full = 9 / 12  # of one line: |g|² / (|g|² + 3 |g|² / 9)
    assert share_on(line, read, move) == pytest.approx(full)  # the outcome follows the displacement
    assert share_on(read, read, move) == pytest.approx(full)  # or the reading
    away = line - read * float((read * line).sum() / (read * read).sum())
    assert share_on(away, read, move) == pytest.approx(0, abs=1e-12)  # or a line that is not read at all
    assert share_on(np.eye(9), read, move) == pytest.approx(0.25)  # every line alike
    assert np.isnan(share_on(np.zeros((9, 1)), read, move))


@pytest.mark.slow
def test_gradients_against_small_steps(world, findings):
    outcome = ASKED
    experiment = Experiment(
        world.model, findings["used"], [outcome], point=POINT, rows=12, span="from_entity", seed=0
    )
    width = experiment.X.shape[1]
    with torch.no_grad():
        runs = experiment.runs("{}")
        line = answer_line(runs, experiment.answers[outcome.name], width)[:, 0]
        reading = reading_line(runs, experiment.reader.point, experiment.reader.coef[:, 0], width)[:, 0]
        base = experiment.base("{}")
        lines = next_token_lines(runs, base, width, np.random.default_rng(0))
        for direction in np.random.default_rng(1).normal(size=(3, width)):
            ends = [runs.run(AffineEdit.translation(s * direction)) for s in (1.0, -1.0)]
            odds = [experiment.odds("{}", end)[outcome.name] for end in ends]
            assert float((odds[0] - odds[1]).sum()) / 2 == pytest.approx(line @ direction, rel=1e-3)
            read = [experiment.readings(e, s * direction)[:, 0] for e, s in zip(ends, (1, -1), strict=True)]
            assert float((read[0] - read[1]).mean()) / 2 == pytest.approx(reading @ direction, rel=1e-3)
    assert world.model.embed.W_E.grad is None
    assert np.abs(world.decoy @ lines).max() < 1e-3 * np.abs(world.used @ lines).max()


# Readable ----------------------------------------------------------------------------------------------
def test_readable_against_numpy(findings):
    problem = findings["used"].inputs.problem
    (one,) = readable_targets(findings["used"], POINT, ["used"])
    read = findings["used"].probes[POINT].predict(findings["used"].inputs.rows(POINT, problem.test))
    assert one.correlation == pytest.approx(np.corrcoef(read[:, 0], problem.y[problem.test][:, 0])[0, 1])
    assert one.low < one.correlation < one.high and one.shown


def test_halves_of_a_clean_direction_agree():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 5))
    y = (X[:, 0] + 0.05 * rng.normal(size=600))[:, None]
    write, read = halves_agree(X, y, np.arange(600), 1.0, 0)
    assert write[0] > 0.95 and read[0] > 0.99
    assert np.isnan(halves_agree(X[:4], np.array([[0.0], [0], [0], [1]]), np.arange(4), 1.0, 0)[0]).all()


def test_planted_worlds_are_what_they_say(world):
    X = world.model.embed.W_E.detach().double().numpy()[1 : 1 + 240]
    y = world.table.y
    assert np.corrcoef(X @ world.used, y[:, 0])[0, 1] == pytest.approx(np.sqrt(0.8), abs=0.05)
    assert np.corrcoef(X @ world.decoy, y[:, 1])[0, 1] == pytest.approx(np.sqrt(0.8), abs=0.05)
    assert np.corrcoef(y.T)[0, 1] == pytest.approx(0.6, abs=0.1)
    pushed = []
    for direction in (world.used, world.decoy):
        shift = torch.from_numpy(direction).float()

        def push(value, hook, shift=shift):
            return value + shift

        tokens = world.model.to_tokens("w3")
        with torch.no_grad():
            plain = world.model(tokens)
            moved = world.model.run_with_hooks(tokens, fwd_hooks=[(POINT, push)])
        pushed.append(float((moved - plain).abs().max()))
    assert pushed[0] > 0.1 and pushed[1] < 1e-5
    with pytest.raises(ValueError, match="a width of 4 or more"):
        planted_use(width=2)


@pytest.mark.slow
def test_a_random_target_decides_nothing():
    world = planted_use(n_rows=160, width=24, seed=9)
    frame = pd.DataFrame({"text": world.table.texts, "used": np.random.default_rng(3).normal(size=160)})
    frame["is_test"] = world.table.is_test
    table = Table(frame, text="text", target="used", split="is_test", name="luck")
    activations = graticule.capture(world.model, table.texts, points="resid_post", pos="last", progress=False)
    none = Baselines(text_digest(table), {}, strings=False)
    made = graticule.sweep(activations, table, baselines=none, n_bootstrap=200, progress=False)
    assert asked(world, made, "used").label == UNDECIDED
