"""The controls battery on worlds whose truth is planted, against refits by scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.metrics import r2_score

from graticule import Activations, Table, baselines, probe, sweep
from graticule.hooks.capture_spec import Sample
from graticule.probes.controls.controls import controls
from graticule.probes.controls.inputs import ControlInputs
from graticule.probes.controls.randomised import control_target, dimension_lines, entity_lines
from graticule.probes.controls.result import Controls
from graticule.probes.core.verdict import verdict

POINT = "blocks.0.hook_resid_post"


def token_world(concept: bool, n_rows: int = 900, seed: int = 0, **table):
    """Sixty last tokens, held in 80 dimensions; the target is the token's own, or a concept beside it."""
    rng = np.random.default_rng(seed)
    token = rng.integers(0, 60, n_rows)
    value, embedding = rng.normal(size=60), rng.normal(size=(60, 80))
    hidden = rng.normal(size=n_rows)
    y = hidden if concept else value[token]
    held = 8 * np.outer(hidden, rng.normal(size=80)) if concept else 12 * embedding[token]
    X = held + rng.normal(size=(n_rows, 80))
    rows = pd.DataFrame({"source": np.arange(n_rows), "token": token + 5})
    acts = Activations.from_tensors({POINT: X.astype(np.float32)}, rows=rows)
    texts = [f"w{i} t{t}" for i, t in enumerate(token)]
    made = Table.from_arrays(
        y,
        texts=texts,
        is_test=rng.random(n_rows) < 0.25,
        blocks={"decile": np.digitize(y, [-1, 0, 1]).tolist()},
    )
    return sweep(acts, made, baselines=baselines(None, made), progress=False)


@pytest.fixture(scope="module")
def lookup():
    return token_world(concept=False)


@pytest.fixture(scope="module")
def found(lookup):
    return controls(lookup, progress=False)


@pytest.mark.slow
def test_a_probe_of_the_token_is_not_selective(found):
    """The target is a function of the token, so is the control's: both are learnt alike."""
    one = found.line("control task, last token")
    assert one["probe"] > 0.95
    assert one["score"] > 0.9
    assert abs(one["difference"]) < 0.05
    assert one["seeds"] == 3
    assert one["seed_low"] <= one["score"] <= one["seed_high"]


@pytest.mark.slow
def test_a_probe_of_a_concept_is_selective():
    one = controls(token_world(concept=True), progress=False).line("control task, last token")
    assert one["probe"] > 0.9
    assert one["score"] < 0.1
    assert one["difference_low"] > 0.8


@pytest.mark.slow
def test_the_control_task_is_scikit_learns(lookup, found):
    """The whole line once more: the target by hand, the strength by RidgeCV, the score by r2_score."""
    problem = lookup.inputs.problem
    token = lookup.inputs.activations.rows["token"].to_numpy()
    X = lookup.inputs.activations[POINT].double().numpy()
    scores = []
    for draw in range(3):
        setting = ControlInputs.of(lookup, 3, 0)
        target, known = control_target(
            pd.factorize(token)[0], problem.is_test, setting.y_train, setting.rng(1, draw)
        )
        train, rows = problem.train, problem.test[known[problem.test]]
        chosen = RidgeCV(lookup.probe.alphas).fit(X[train], target[train, 0] / target[train, 0].std())
        predicted = Ridge(chosen.alpha_).fit(X[train], target[train, 0]).predict(X[rows])
        scores.append(r2_score(target[rows, 0], predicted))
    one = found.line("control task, last token")
    assert one["score"] == pytest.approx(np.mean(scores), abs=1e-9)
    assert one["seed_low"] == pytest.approx(min(scores), abs=1e-9)
    assert one["rows"] == len(rows)
    assert one["probe"] == pytest.approx(
        r2_score(problem.y[rows, 0], lookup.probe.predict(X[rows])[:, 0]), abs=1e-9
    )


def test_control_targets_are_functions_of_the_key_with_the_targets_own_values():
    rng = np.random.default_rng(0)
    codes, is_test = rng.integers(0, 40, 300), rng.random(300) < 0.4
    y = rng.normal(size=(int((~is_test).sum()), 2))
    target, known = control_target(codes, is_test, y, rng)
    assert np.array_equal(known, np.isin(codes, codes[~is_test]))
    given = pd.DataFrame(target[known]).groupby(codes[known]).agg(["nunique"])
    assert (given.to_numpy() == 1).all()
    drawn = np.unique(target[known], axis=0)
    assert len(drawn) == len(np.unique(codes[known]))  # no value is given twice, and pairs stay together
    assert all((y == row).all(axis=1).any() for row in drawn)


@pytest.mark.slow
def test_memory_of_training_rows_is_the_hat_matrix(lookup):
    """In sample a random target is fitted to trace(H − 1/n) / (n − 1) on average, whatever it is."""
    same, _, held_out = entity_lines(ControlInputs.of(lookup, 40, 0))
    problem, alpha = lookup.inputs.problem, lookup.probe.alpha
    X = lookup.inputs.activations[POINT].double().numpy()[problem.train]
    X = X - X.mean(0)
    squares = np.linalg.svd(X, compute_uv=False) ** 2
    shrunk = squares / (squares + alpha)
    expected = (2 * shrunk - shrunk**2).sum() / (len(X) - 1)
    assert same.score == pytest.approx(expected, abs=0.01)
    assert same.rows == len(X)
    assert held_out.rows == len(problem.test)
    assert abs(held_out.score) < 0.03


@pytest.mark.slow
def test_k_directions_are_refits_on_projections(lookup, found):
    problem = lookup.inputs.problem
    X = lookup.inputs.activations[POINT].double().numpy()
    X = X - X[problem.train].mean(0)
    basis = np.linalg.svd(X[problem.train], full_matrices=False)[2][:10].T
    y = problem.y[problem.train, 0]
    grid = np.geomspace(1e-3, 1e9, 200)
    chosen = RidgeCV(grid).fit(X[problem.train] @ basis, y)
    expected = r2_score(problem.y[problem.test, 0], chosen.predict(X[problem.test] @ basis))
    assert found.line("10 principal components")["score"] == pytest.approx(expected, abs=2e-3)
    curve = found.curve.groupby(["kind", "k"])["r2"].mean()
    assert found.curve["k"].unique().tolist() == [2, 10, 50, 80]
    for kind in found.curve["kind"].unique():
        assert curve[kind, 80] == pytest.approx(found.line("probe")["score"])
        assert curve[kind, 2] < curve[kind, 50] < curve[kind, 80]


@pytest.mark.slow
def test_whitened_random_directions_hold_their_share():
    """k of d directions, all of them equally likely, hold about k / d of a planted direction's R²."""
    curve = dimension_lines(ControlInputs.of(token_world(concept=True, n_rows=2000), 20, 0))[1]
    curve = curve[curve["kind"] == "random whitened directions"].groupby("k")["r2"].mean()
    assert curve[50] / curve[80] == pytest.approx(50 / 80, abs=0.08)
    assert curve[10] / curve[80] == pytest.approx(10 / 80, abs=0.04)


@pytest.mark.slow
def test_a_part_of_the_rows_is_judged_as_the_verdict_judges(lookup):
    setting, problem = ControlInputs.of(lookup, 1, 0), lookup.inputs.problem
    rng = np.random.default_rng(3)
    train, test = rng.random(len(problem.train)) < 0.7, rng.random(len(problem.test)) < 0.6
    one = setting.gain_line("subset", "some", "?", train, test)

    def part(p):
        return type(p)(p.out_of_fold[train], p.test[test])

    expected, _ = verdict(
        setting.y_train[train],
        setting.y_test[test],
        part(setting.probe),
        {name: part(p) for name, p in lookup.baseline_predictions.items()},
        test_clusters=setting.clusters_test[test],
        target_names=lookup.target_names,
        model_baselines=(),
        min_gain=0.01,
        n_bootstrap=2000,
        seed=0,
    )
    assert (one.difference, one.score) == pytest.approx((expected.gain, expected.surface), abs=1e-12)
    # resamples here, clusters left out one at a time there
    assert (one.difference_low, one.difference_high) == pytest.approx(expected.ci95, rel=0.35)


@pytest.mark.slow
def test_saved_drawn_and_said(found, tmp_path):
    found.save(tmp_path / "controls")
    again = Controls.load(tmp_path / "controls")
    pd.testing.assert_frame_equal(again.table, found.table)
    pd.testing.assert_frame_equal(again.curve, found.curve)
    assert again.summary() == found.summary()
    assert len(again.figures()) == 3
    page = again.report(tmp_path / "controls.html").read_text()
    assert "selectivity" in page
    first = found.summary().splitlines()[0]
    assert "control task, last token" in first and "above every control" in first
    drawn = found.table[(found.table["metric"] == "R²") & (found.table["group"] != "train fit")]
    others = drawn[drawn["score"].notna() & ~drawn["group"].eq("control") & (drawn["control"] != "probe")]
    above = int((others["score"] > others["probe"]).sum())  # as the figure has them
    assert f"of the figure's {len(others)} other lines {above or 'none'} " in first
    with pytest.raises(KeyError, match="no control 'luck'; there are probe, surface"):
        found.line("luck")


@pytest.mark.slow
def test_the_same_seed_gives_the_same_table(lookup, found):
    pd.testing.assert_frame_equal(controls(lookup, progress=False).table, found.table)
    other = controls(lookup, seed=1, progress=False).line("control task, last token")
    assert other["score"] != found.line("control task, last token")["score"]


@pytest.mark.slow
def test_without_texts_tokens_or_blocks_lines_say_why():
    rng = np.random.default_rng(0)
    X, kind = rng.normal(size=(300, 20)), rng.integers(0, 3, 300)
    X[:, 0] += 3 * kind
    acts = Activations.from_tensors({POINT: X.astype(np.float32)})
    table = Table.from_arrays(np.array(["a", "b", "c"])[kind])
    found = controls(sweep(acts, table, progress=False), progress=False)
    assert found.line("probe")["score"] > 0.3
    why = found.table.set_index("control")["note"]
    assert why["control task, last token"] == (
        "not applicable: activations.rows has no token column and there are no texts"
    )
    assert why["untrained twin"].startswith("not applicable: no twin among the baselines: give controls(")
    assert why["within blocks"].startswith("not applicable: the table has no block columns")
    for name in ("random projection of the text", "names with letters", "repeated texts set aside"):
        assert why[name] == "not applicable: there are no texts"
    assert "do not apply here" in found.summary()
    assert len(found.figures()) == 2
    with pytest.raises(ValueError, match="seeds=0"):
        controls(sweep(acts, table, progress=False), seeds=0)


@pytest.fixture(scope="module")
def small(load_tiny, names):
    """A tiny model on sixty names, at one point, with three twins."""
    rng = np.random.default_rng(0)
    table = Table.from_arrays(
        rng.random(60) < 0.5, texts=names, blocks={"half": (np.arange(60) // 30).tolist()}, name="names"
    )
    model = load_tiny("llama", "hooked")
    return model, table, probe(model, table, layers=1, twins=1, score="r2", progress=False)


@pytest.mark.slow
def test_twins_made_here_are_those_of_the_baselines(small, tmp_path):
    model, table, findings = small
    found = controls(findings, model, store=tmp_path / "twins", progress=False)
    three = probe(model, table, layers=1, twins=3, progress=False)
    expected = [three.baselines[f"twin_{i}"]["test"]["r2"] for i in range(3)]
    one = found.line("untrained twin")
    assert one["seeds"] == 3
    assert one["score"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert (one["seed_low"], one["seed_high"]) == pytest.approx((min(expected), max(expected)), abs=1e-6)
    kept = {f: f.stat().st_mtime_ns for f in (tmp_path / "twins").rglob("*.safetensors")}
    again = controls(findings, model, store=tmp_path / "twins", progress=False)
    assert {f: f.stat().st_mtime_ns for f in kept} == kept and kept  # nothing was captured again
    assert again.line("untrained twin")["score"] == one["score"]


@pytest.mark.slow
def test_without_a_model_the_twins_at_hand_are_used(small):
    _, _, findings = small
    found = controls(findings, progress=False)
    one = found.line("untrained twin")
    assert one["seeds"] == 1
    assert one["note"] == "1 of 3 seeds: give controls(findings, model) to make more"
    place = found.line("untrained twin in the probe's place")
    check = findings.checks["twin_0 in the probe's place"]
    assert place["difference"] == pytest.approx(check.gain, abs=1e-12)
    assert (place["difference_low"], place["difference_high"]) == pytest.approx(check.ci95, abs=0.06)


@pytest.mark.slow
def test_another_model_is_refused(small, load_tiny):
    with pytest.raises(ValueError, match="give the same one"):
        controls(small[2], load_tiny("qwen3", "hooked"), progress=False)


@pytest.mark.slow
def test_several_rows_a_text(load_tiny, names):
    """Every token of every name is a row: rows of one text share a cluster, tokens are the rows' own."""
    model = load_tiny("llama", "hooked")
    table = Table.from_arrays(np.random.default_rng(0).normal(size=60), texts=names)
    findings = probe(model, table, layers=1, pos="all", twins=1, progress=False)
    found = controls(findings, model, seeds=2, progress=False)
    assert found.line("untrained twin")["seeds"] == 2
    assert found.line("probe")["rows"] == len(findings.inputs.problem.test) > 60
    assert found.line("control task, last token")["rows"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("pos", [slice(-1, None), Sample(1, seed=4)], ids=str)
def test_twins_read_the_positions_that_the_probe_reads(small, pos):
    model, table, _ = small
    one, three = (probe(model, table, layers=1, pos=pos, twins=n, progress=False) for n in (1, 3))
    line = controls(one, model, progress=False).line("untrained twin")
    expected = [three.baselines[f"twin_{i}"]["test"]["r2"] for i in range(3)]
    assert line["seeds"] == 3
    assert line["score"] == pytest.approx(np.mean(expected), abs=1e-6)
