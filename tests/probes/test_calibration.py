"""Calibration: the batched instrument is the plain one, and it finds what is put into planted worlds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from graticule import Activations, Table, sweep
from graticule.probes.calibration.calibrate import GAINS, calibrate
from graticule.probes.calibration.components import Mixture, RidgeAnswerer, choose
from graticule.probes.calibration.instrument import PROBE, STRINGS, Instrument
from graticule.probes.calibration.judging import (
    held_aside,
    judge_many,
    limit_of_detection,
    monotone,
    resampled,
)
from graticule.probes.calibration.marginal import Marginal, known_gain
from graticule.probes.calibration.oddities import odd_functions
from graticule.probes.calibration.result import HIDDEN, NOISE, ODD, SURFACE, Calibration, detected
from graticule.probes.calibration.targets import (
    SyntheticTargets,
    _split,
    blocks,
    hidden_from,
    noise,
    read_from_activations,
    string_functions,
)
from graticule.probes.core.findings import Findings
from graticule.probes.core.fit import Predictions
from graticule.probes.core.labels import BETTER_BY_LITTLE
from graticule.probes.core.resample import cluster_sums, wilson
from graticule.probes.core.verdict import NO_BETTER, NOT_DECIDED, STRUCTURE, verdict
from graticule.probes.linear.ridge_cv import ridge_cv
from graticule.probes.linear.spectrum import plan_holdout
from graticule.probes.scores.metrics import r2
from graticule.probes.surface.baselines import Baselines, text_digest
from graticule.probes.surface.joint import JOINT, joint_rows
from graticule.probes.surface.serving import features_of
from graticule.probes.surface.string_ridge import tfidf_predictions
from graticule.probes.surface.strings import StringReader
from graticule.sims.planted import planted


def in_pairs(n_rows: int = 260, width: int = 12, seed: int = 0, **shares: float) -> Findings:
    """Findings of a planted world, some of whose rows depend on each other in pairs."""
    world = planted(n_rows=n_rows, width=width, seed=seed, n_layers=2, **shares)  # type: ignore[arg-type]
    frame = world.table.frame.copy()
    frame["pair"] = np.where(np.arange(n_rows) < n_rows // 2, np.arange(n_rows) // 2, np.arange(n_rows))
    frame["is_test"] = frame.groupby("pair")["is_test"].transform("first")
    table = Table(frame, text="text", target="target", split="is_test", cluster="pair", name="pairs")
    beside = Baselines(text_digest(table), world.baselines.features, True)
    return sweep(world.activations, table, baselines=beside, n_bootstrap=200, progress=False)


@pytest.fixture(scope="module")
def findings() -> Findings:
    return in_pairs(surface=0.4, hidden=0.3)


@pytest.fixture(scope="module")
def instrument(findings: Findings) -> Instrument:
    return Instrument.of(findings, strengths=9)


@pytest.fixture(scope="module")
def larger() -> Findings:
    return in_pairs(700, surface=0.4, hidden=0.3)


@pytest.fixture(scope="module")
def calibration(larger: Findings) -> Calibration:
    return calibrate(larger, targets=12, strengths=8, seed=3, n_bootstrap=200)


def mixed(instrument: Instrument, rng: np.random.Generator, count: int = 3) -> tuple[np.ndarray, Mixture]:
    """Components of a few targets, and targets of every kind."""
    n = instrument.n_train
    assert instrument.strings is not None
    luck = noise(instrument.clusters, count, n, rng)
    said = string_functions(instrument.strings.ridge.features(), count, n, 0, rng)
    probe = instrument.ridges[PROBE]
    raw = read_from_activations(probe, np.ones(probe.test.shape[1]), count, rng)
    components = np.concatenate([luck, said, hidden_from(instrument, raw)])
    weights = np.sqrt([[1, 0, 0], [0.5, 0.5, 0], [0.45, 0.45, 0.1], [0.1, 0.1, 0.8]])
    columns = np.tile(np.arange(count)[:, None] + count * np.arange(3), (4, 1))
    return components, Mixture(columns, np.repeat(weights, count, axis=0))


def one_at_a_time(findings: Findings, instrument: Instrument, y: np.ndarray) -> dict[str, Predictions]:
    """Every predictor fitted to one target by the functions that a sweep uses."""
    swept = findings.inputs
    problem = swept.problem
    clusters = problem.clusters[problem.train]
    texts = np.array(swept.table.texts)
    n = instrument.n_train
    assert instrument.strings is not None
    found = {
        STRINGS: tfidf_predictions(
            list(texts[problem.train]),
            y[:n, None],
            clusters,
            list(texts[problem.test]),
            alphas=list(instrument.strings.alphas),
            disable=True,
        )[0]
    }
    reader = StringReader.of(swept.table, problem, swept.baselines.tokens)
    served = features_of(swept.baselines, swept.activations, problem)
    points = {name: findings.baselines[name]["point"] for name in served}
    together = joint_rows(served, points, swept.table, problem, reader)
    assert together is not None
    for name, ridge in instrument.ridges.items():
        rows = swept.activations if name == PROBE else swept.baselines.features.get(name, reader.additive)
        point = findings.chosen_point if name == PROBE else findings.baselines[name]["point"] or name
        X = together.every() if name == JOINT else rows[point].double().numpy()
        fit = ridge_cv(X[problem.train], y[:n], alphas=ridge.alphas, clusters=clusters)
        found[name] = Predictions(fit.out_of_fold, fit.predict(X[problem.test]))
    return found


@pytest.mark.slow
def test_many_verdicts_at_once_are_those_one_at_a_time(findings: Findings, instrument: Instrument) -> None:
    """The same strengths, stacks, draws, intervals and words, for noise, strings and hidden parts alike."""
    components, mixture = mixed(instrument, np.random.default_rng(0))
    stacked = instrument.stacked(components, mixture)
    n, problem = instrument.n_train, findings.inputs.problem
    every = mixture.of(components)
    settings = {"min_gain": 0.01, "model_baselines": True}
    judged = judge_many(
        every[:, n:], stacked, instrument.clusters[n:], means=every[:, :n].mean(axis=1), **settings
    )
    for t, y in enumerate(every):
        parts = one_at_a_time(findings, instrument, y)
        alone, surface = verdict(
            y[:n, None],
            y[n:, None],
            parts.pop(PROBE),
            {name: parts[name] for name in instrument.baselines},
            test_clusters=problem.clusters[problem.test],
            target_names=["y"],
            model_baselines=tuple(instrument.baselines),
            min_gain=0.01,
            n_bootstrap=150,
            seed=5,
        )
        assert judged.words[t] == alone.label
        assert np.allclose(stacked["surface"][t], surface[:, 0], atol=1e-4), t
        assert judged.surface[t] == pytest.approx(alone.surface, abs=1e-5)
        assert judged.gain[t] == pytest.approx(alone.gain, abs=1e-5)
        assert (judged.low[t], judged.high[t]) == pytest.approx(alone.ci95, abs=1e-5)


@pytest.mark.parametrize("width", [20, 90])
def test_ridge_answers_mixtures_as_if_fitted_to_them(width: int) -> None:
    """Both routes (more rows than width, fewer), with clusters, against `ridge_cv` target by target."""
    rng = np.random.default_rng(width)
    X = rng.normal(size=(80, width)) * rng.gamma(1.0, size=width)
    parts = rng.normal(size=(4, 80))
    parts[2:] += X[:, :2].T
    parts -= parts[:, :60].mean(axis=1, keepdims=True)
    clusters = np.arange(60) // 2
    mixture = Mixture(np.array([[0, 2], [1, 3], [0, 1]]), np.array([[0.3, 1.0], [2.0, 0.1], [1.0, 0.0]]))
    ridge = RidgeAnswerer.of(X[:60], X[60:], plan_holdout(60, clusters))
    found = choose(ridge.answers(parts[:, :60]), parts[:, :60], mixture)
    together = ridge_cv(X[:60], mixture.of(parts)[:, :60].T, clusters=clusters, per_target=True)
    assert np.allclose(ridge.alphas, together.alphas)
    assert np.allclose(found.alphas, together.alpha_by_target)
    assert np.allclose(found.train, together.out_of_fold.T, atol=1e-7)
    assert np.allclose(found.test, together.predict(X[60:]).T, atol=1e-7)


def test_noise_respects_clusters() -> None:
    clusters = np.array([0, 0, 1, 1, 2, 3] * 200) + np.repeat(np.arange(200) * 4, 6)
    values = noise(clusters, 30, 600, np.random.default_rng(0))
    pairs = values.reshape(30, 200, 6)
    same = np.mean(pairs[:, :, 0] * pairs[:, :, 1])
    apart = np.mean(pairs[:, :, 0] * pairs[:, :, 2])
    assert same == pytest.approx(0.5, abs=0.05)
    assert apart == pytest.approx(0.0, abs=0.05)
    assert np.allclose(values[:, 600:].std(axis=1), 1)


@pytest.mark.slow
def test_hidden_parts_are_of_the_activations_and_beyond_the_baselines(instrument: Instrument) -> None:
    probe = instrument.ridges[PROBE]
    raw = read_from_activations(probe, np.ones(probe.test.shape[1]), 6, np.random.default_rng(2))
    hidden = hidden_from(instrument, raw)
    own = Mixture(np.arange(6)[:, None], np.ones((6, 1)))
    stacked = instrument.stacked(hidden, own)
    truth = hidden[:, instrument.n_train :].T
    assert r2(truth, stacked["surface"].T).mean() < 0.05
    assert r2(truth, stacked["full"].T).mean() > 0.3


def test_a_baseline_that_knows_nothing_of_the_activations_takes_nothing_off_their_part() -> None:
    rng = np.random.default_rng(4)
    rows, along = rng.normal(size=(600, 8)), rng.normal(size=8)
    y = rows @ along / np.linalg.norm(along) + rng.normal(size=600)
    table = Table(pd.DataFrame({"y": y, "is_test": np.arange(600) >= 450}), target="y", split="is_test")
    swept = sweep(
        Activations.from_tensors({"blocks.0.hook_resid_post": rows.astype(np.float32)}),
        table,
        baselines=Baselines.of(table, {"own": rng.normal(size=(600, 3)).astype(np.float32)}),
        progress=False,
    )
    instrument = Instrument.of(swept)
    raw = read_from_activations(instrument.ridges[PROBE], np.ones(8), 12, rng)
    # left-out means have the correlation -1 with the values: taking them off would leave rounding
    assert np.corrcoef(hidden_from(instrument, raw), raw)[range(12), range(12, 24)].min() > 0.9


@pytest.mark.slow
def test_a_planted_world_is_calibrated(calibration: Calibration, larger: Findings) -> None:
    """Larger hidden parts are found more often; noise and strings seldom; true gains are as made."""
    rates = calibration.rates
    hidden = rates[rates["kind"] == HIDDEN]
    assert list(hidden["true_gain"]) == list(GAINS)
    assert (rates["targets"] == 12).all()
    assert np.allclose(hidden["known"], hidden["true_gain"], atol=0.03)
    assert hidden["gain"].is_monotonic_increasing
    assert hidden["above_0"].iloc[-1] >= 11 > 3 >= calibration.rate(SURFACE, what="above_0")[0] * 12
    assert calibration.rate(NOISE)[0] <= 0.25
    assert 0.8 < calibration.coverage()[0] <= 1
    surface = rates.loc[rates["kind"] == SURFACE, "surface"].iloc[0]
    assert surface == pytest.approx(larger.verdict.surface, abs=0.1)
    assert 0 < calibration.limit_of_detection < 1.2 * calibration.limit_true <= 0.24
    at = calibration.equivalent(calibration.limit_of_detection)
    assert at == pytest.approx(calibration.limit_true, rel=0.2)
    assert calibration.equivalent(5.0) is None


@pytest.mark.slow
def test_the_same_seed_gives_the_same_calibration(findings: Findings) -> None:
    one, other, third = (
        calibrate(findings, targets=3, gains=[0.1], strengths=5, n_bootstrap=50, seed=s) for s in (1, 1, 2)
    )
    pd.testing.assert_frame_equal(one.targets, other.targets)
    assert not np.allclose(one.targets["gain"], third.targets["gain"])


@pytest.mark.slow
def test_the_limit_stands_under_the_verdict_that_was_calibrated(findings: Findings, tmp_path) -> None:
    fresh = dataclasses.replace(findings, limit_of_detection=None, largest_gain_tried=None)
    before = fresh.summary().splitlines()
    made = calibrate(fresh, targets=3, gains=[0.1, 0.5], strengths=5, n_bootstrap=50)
    after = fresh.summary().splitlines()
    (line,) = [line for line in after if line not in before]
    assert [one for one in after if one != line] == before
    assert line == detected(findings, made).summary().splitlines()[after.index(line)]
    assert np.array_equal([fresh.limit_of_detection], [made.limit_of_detection], equal_nan=True)
    assert fresh.largest_gain_tried == 0.5
    fresh.save(tmp_path)
    assert Findings.load(tmp_path).summary() == fresh.summary()


@pytest.mark.slow
def test_what_is_printed_under_the_verdict(calibration: Calibration, larger: Findings, tmp_path) -> None:
    told = detected(larger, calibration)
    assert told.limit_of_detection == calibration.limit_of_detection
    assert "with these rows, at this layer" in told.summary()
    assert calibration.limit_in_words in calibration.summary().splitlines()[0]
    never = dataclasses.replace(calibration, limit_of_detection=float("nan"))
    none = (
        f"no hidden part of those tried (up to {max(GAINS):g} of the target's variance) would have been seen"
    )
    assert none in never.summary().splitlines()[0]
    assert "nothing up to" not in never.summary()
    below = dataclasses.replace(calibration, limit_of_detection=-0.009)
    assert "no smallest gain can be given" in below.summary()
    assert "-0.009" not in below.summary()
    bound = dataclasses.replace(calibration, limit_of_detection=0.001, limit_true=0.002, at_most=True)
    assert ".001 or less would have been seen" in bound.summary()
    assert "at most .002 of the target's variance" in bound.summary()
    for limit in (None, 0.006, float("nan")):
        dataclasses.replace(larger, limit_of_detection=limit).save(tmp_path)
        kept = Findings.load(tmp_path).limit_of_detection
        assert kept == limit or (limit is not None and kept is not None and np.isnan([limit, kept]).all())
    with pytest.raises(ValueError, match="calibrate these"):
        detected(dataclasses.replace(larger, table="another"), calibration)


@pytest.mark.slow
def test_saved_loaded_and_shown(calibration: Calibration, tmp_path) -> None:
    calibration.save(tmp_path / "c")
    back = Calibration.load(tmp_path / "c")
    assert back.summary() == calibration.summary()
    pd.testing.assert_frame_equal(back.targets, calibration.targets)
    assert len(back.figures()) == 3
    table = next(iter(back.tables().values()))
    assert len(table) == 3 + len(GAINS)
    never = dataclasses.replace(calibration, limit_true=float("nan"), limit_of_detection=float("nan"))
    never.save(tmp_path / "n")
    assert np.isnan(Calibration.load(tmp_path / "n").limit_of_detection)
    assert len(never.figures()) == 3


@pytest.mark.slow
def test_what_cannot_be_calibrated_is_refused(findings: Findings) -> None:
    with pytest.raises(ValueError, match="shares of the variance"):
        calibrate(findings, gains=[0.0])
    with pytest.raises(ValueError, match="at least 2"):
        calibrate(findings, targets=1)
    bare = sweep(findings.inputs.activations, np.arange(260.0), progress=False)
    with pytest.raises(ValueError, match="no baselines"):
        calibrate(bare)


@pytest.mark.slow
def test_without_texts_the_surface_is_the_first_captured_baseline(findings: Findings) -> None:
    swept = findings.inputs
    frame = swept.table.frame.drop(columns="text")
    table = Table(frame, target="target", split="is_test", cluster="pair", name="pairs")
    beside = Baselines(text_digest(table), swept.baselines.features, False)
    found = sweep(swept.activations, table, baselines=beside, n_bootstrap=100, progress=False)
    done = calibrate(found, targets=4, gains=[0.7], strengths=6, n_bootstrap=100)
    assert done.rate(HIDDEN, what="above_0", true_gain=0.7)[0] == 1
    assert done.provenance["string_alphas"] is None


@pytest.mark.slow
def test_coverage_is_nominal_where_it_should_be_and_not_where_it_cannot() -> None:
    """Two fixed predictors of many targets: about 95% on plain rows, less where a few rows decide it all."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=(200, 300))
    surface = 0.5 * y + rng.normal(size=y.shape)
    full = surface + 0.3 * (y - surface) * rng.normal(size=y.shape)
    plain = cluster_sums(y, {"surface": surface, "full": full}, np.arange(200))
    wild = surface + np.exp(2.5 * rng.normal(size=y.shape))
    skewed = cluster_sums(y, {"surface": wild, "full": full}, np.arange(200))
    for how in (held_aside, resampled):
        assert 0.91 < how(plain, 1).mean() < 0.98
    assert resampled(skewed, 1).mean() < 0.88


def test_limit_of_detection() -> None:
    gains, counts = np.array([0.01, 0.02, 0.04]), np.full(3, 100.0)
    assert limit_of_detection(gains, np.array([0.2, 0.6, 1.0]), counts)[0] == pytest.approx(0.02 * np.sqrt(2))
    assert limit_of_detection(gains, np.array([0.9, 0.8, 1.0]), counts) == (0.01, True)
    assert np.isnan(limit_of_detection(gains, np.array([0.0, 0.1, 0.7]), counts)[0])
    assert np.allclose(monotone(np.array([0.3, 0.1, 0.5]), counts), [0.2, 0.2, 0.5])


def test_wilson_is_scipys() -> None:
    from scipy.stats import binomtest

    for found, of in ((0, 20), (3, 50), (50, 50)):
        oracle = binomtest(found, of).proportion_ci(method="wilson")
        assert wilson(found, of) == pytest.approx((oracle.low, oracle.high), abs=1e-6)


@pytest.mark.slow
def test_the_words_are_those_of_gain_and_interval(calibration: Calibration) -> None:
    said = calibration.targets
    least = calibration.min_gain
    structure = (said["low"] > 0) & (said["gain"] >= least)
    sure = np.where(said["low"] > 1e-3 * least, BETTER_BY_LITTLE, NO_BETTER)  # less is rounding
    expected = np.where(structure, STRUCTURE, np.where(said["high"] < least, sure, NOT_DECIDED))
    ruled = said["words"].str.contains("hold .* of the squares|strongest baseline alone")
    assert ruled.mean() < 0.1
    assert said["words"][~ruled].tolist() == expected[~ruled].tolist()
    assert set(expected) >= {STRUCTURE, NO_BETTER, NOT_DECIDED}


@pytest.mark.slow
def test_blocks_of_targets_give_what_one_block_gives(
    larger: Findings, calibration: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a thousandth of the memory: strings, answers and predictions each in many blocks, all parts anew."""
    one = calibration.targets
    for name, room in (("targets._STRING_BYTES", 400_000), ("targets._PREDICTED_BYTES", 3_000_000)):
        monkeypatch.setattr(f"graticule.probes.calibration.{name}", room)
    for module in ("targets", "instrument"):
        monkeypatch.setattr(f"graticule.probes.calibration.{module}.BLOCK_BYTES", 300_000)
    many = calibrate(larger, targets=12, strengths=8, seed=3, n_bootstrap=200).targets
    empty = np.zeros((12, 700))
    parts = blocks(
        Instrument.of(larger, strengths=8), SyntheticTargets(empty, empty, empty, 0.5, 0), kinds=10
    )
    assert len(parts) > 1 and sum(len(inner) for _, inner in parts) > len(parts)
    assert sorted(np.concatenate([b for _, inner in parts for b in inner])) == list(range(12))
    figures = ["known", "surface", "gain", "low", "high"]
    pd.testing.assert_frame_equal(one[["kind", "number", "true_gain"]], many[["kind", "number", "true_gain"]])
    assert np.abs(one[figures] - many[figures]).max().max() < 1e-10
    assert one["words"].tolist() == many["words"].tolist()


def test_no_block_outgrows_its_bytes_but_by_one_target() -> None:
    for count, n_hidden, most in ((200, 64, 27), (200, 64, 3), (7, 7, 100), (500, 64, 5), (13, 4, 9)):
        parts = _split(np.arange(count), n_hidden, most)
        assert sorted(np.concatenate(parts)) == list(range(count))
        sizes = [2 * len(part) + len(np.unique(part % n_hidden)) for part in parts]
        assert max(sizes) <= max(most, 3)


def test_own_values_are_the_tables_and_gains_are_shares_of_their_variance() -> None:
    """One in twenty: as many ones as there are, and a hidden part of a latent share g / linear adds g."""
    rng = np.random.default_rng(0)
    y = (rng.random((4000, 1)) < 0.05) * 1.0
    marginal = Marginal.of(y)
    assert marginal is not None and 0.15 < marginal.linear < 0.3
    assert Marginal.of(rng.normal(size=(500, 2))) is None
    assert Marginal.of(np.exp(1.5 * rng.normal(size=(500, 1)))) is not None
    hidden, rest = rng.normal(size=(2, 60, 4000))
    part = 0.1 / marginal.linear
    latent = np.sqrt(part) * hidden + np.sqrt(1 - part) * rest
    values = marginal.of_latent(latent, np.arange(60))
    assert np.array_equal(np.sort(values, axis=1), np.tile(np.sort(y[:, 0]), (60, 1)))
    gains = known_gain(values, np.zeros((60, 4000)), hidden)
    assert gains.mean() == pytest.approx(0.1, abs=0.01)
    beside = known_gain(values, rest, hidden)
    assert beside.mean() == pytest.approx(0.1, abs=0.01)


def test_odd_functions_are_of_the_text_alone() -> None:
    texts = ["New York", "Łódź", "San Juan de la Maguana", "Rome", "Oslo", "Río Negro", "X"] * 3
    values = odd_functions(texts, 40, np.random.default_rng(0))
    assert np.array_equal(values, odd_functions(texts, 40, np.random.default_rng(0)))
    assert np.allclose(values[:, :7], values[:, 7:14])
    assert np.allclose(values.mean(axis=1), 0) and np.allclose(values.std(axis=1), 1)
    assert len(np.unique(values.round(6), axis=0)) > 30


@pytest.mark.slow
def test_a_rare_class_is_calibrated_with_targets_as_rare(findings: Findings) -> None:
    swept = findings.inputs
    frame = swept.table.frame.assign(rare=(swept.table.y[:, 0] > np.quantile(swept.table.y, 0.9)) * 1.0)
    table = Table(
        frame, text="text", target="rare", split="is_test", cluster="pair", kind="numeric", name="r"
    )
    beside = Baselines(text_digest(table), swept.baselines.features, True)
    rare = sweep(swept.activations, table, baselines=beside, n_bootstrap=50, progress=False)
    done = calibrate(rare, targets=4, gains=[0.05, 0.3, 0.9], strengths=5, n_bootstrap=50)
    assert done.provenance["own_values"] is True
    assert list(done.hidden["true_gain"]) == [0.0, 0.05, 0.3]  # no target of these values has more
    assert done.rates["kind"].tolist() == [NOISE, SURFACE, ODD, HIDDEN, HIDDEN]
    without = calibrate(rare, targets=4, gains=[0.3], strengths=5, n_bootstrap=50, boosting="none")
    assert without.provenance["trees"]["suspects"] == 0
