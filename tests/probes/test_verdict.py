"""The verdict on planted worlds, and its bootstrap against brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.metrics import r2_score

from graticule.hooks.artifact import json_ready
from graticule.probes.causes.result import rank_p
from graticule.probes.core.fit import Predictions, stack
from graticule.probes.core.labels import BETTER_BY_LITTLE
from graticule.probes.core.resample import (
    cluster_sums,
    effective_clusters,
    interval,
    resampled_r2,
    weighted_r2,
)
from graticule.probes.core.verdict import (
    HARDLY_VARIES,
    MISSING,
    NO_BETTER,
    NO_BETTER_THAN_BEST,
    NO_BETTER_THAN_MEAN,
    NOT_DECIDED,
    STRUCTURE,
    JudgeSettings,
    Verdict,
    label_of,
    verdict,
)
from graticule.probes.neurons.rotations import exceeded
from graticule.probes.scores.metrics import auroc
from graticule.probes.scores.significance import bootstrap_p, ranks, share_reaching


def split(values: np.ndarray, n_train: int) -> Predictions:
    return Predictions(values[:n_train], values[n_train:])


def judge(
    y: np.ndarray,
    probe: np.ndarray,
    baselines: dict[str, np.ndarray],
    n_train: int,
    clusters: np.ndarray | None = None,
    **settings: object,
) -> Verdict:
    n_test = len(y) - n_train
    return verdict(
        y[:n_train],
        y[n_train:],
        split(probe, n_train),
        {name: split(values, n_train) for name, values in baselines.items()},
        test_clusters=np.arange(n_test) if clusters is None else clusters,
        target_names=[f"t{i}" for i in range(y.shape[1])],
        **{"model_baselines": {"embedding"}, "min_gain": 0.01, "n_bootstrap": 400, "seed": 0, **settings},  # type: ignore[arg-type]
    )[0]


@pytest.mark.slow
def test_surface_signal_alone_is_not_structure() -> None:
    """The probe only repeats, with its own noise, what the baselines already say."""
    rng = np.random.default_rng(0)
    called = []
    for seed in range(200):
        signal = rng.normal(size=(400, 1))
        y = signal + rng.normal(size=signal.shape)
        noisy = [0.5 * signal + 0.1 * rng.normal(size=signal.shape) for _ in range(3)]
        result = judge(
            y, noisy[0] + 0 * signal, {"tfidf": signal * 0.5, "embedding": noisy[2]}, 200, seed=seed
        )
        called.append(result.label)
    assert called.count(STRUCTURE) <= 10
    assert called.count(NO_BETTER) > called.count(STRUCTURE)


def test_planted_extra_signal_is_structure() -> None:
    rng = np.random.default_rng(1)
    called = []
    for _ in range(20):
        surface, extra = rng.normal(size=(2, 1200, 2))
        y = surface + extra + rng.normal(size=surface.shape)
        probe = 0.7 * surface + 0.7 * extra
        result = judge(y, probe, {"tfidf": 0.9 * surface, "embedding": 0.5 * surface}, 600)
        assert result.gain == pytest.approx(1 / 3, abs=0.1)
        called.append(result.label)
    assert called.count(STRUCTURE) >= 19


def test_a_probe_weaker_than_the_string_can_still_add_to_it() -> None:
    """The shape of US places: .43 against .54, and a gain all the same."""
    rng = np.random.default_rng(2)
    string, other = rng.normal(size=(2, 6000, 2))
    y = 0.74 * string + 0.3 * other + 0.6 * rng.normal(size=string.shape)
    probe = 0.5 * string + 0.25 * other + 0.2 * rng.normal(size=string.shape)
    result = judge(y, probe, {"tfidf": 0.74 * string, "embedding": 0.3 * string}, 3000)
    assert result.margin_ci95[1] < 0 < result.ci95[0]
    assert result.strongest_baseline == "tfidf"
    assert result.label == STRUCTURE
    with pytest.warns(DeprecationWarning, match=r"Verdict\.words is the old name of label"):
        assert result.words == STRUCTURE


def test_repeated_rows_widen_the_interval() -> None:
    """Eight copies of a row are one observation: as clusters they bring no certainty."""
    rng = np.random.default_rng(3)
    base, extra = rng.normal(size=(2, 250, 1))
    y = base + 0.4 * extra + rng.normal(size=base.shape)
    once = np.arange(250)
    rows = np.concatenate([once, np.repeat(np.arange(150, 250), 7)])  # test rows eight times
    clusters = rows[150:]
    args = (y[rows], base[rows] + 0.3 * extra[rows], {"embedding": base[rows]}, 150)
    apart, together = judge(*args), judge(*args, clusters=clusters)
    single = judge(y, base + 0.3 * extra, {"embedding": base}, 150)
    width = [v.ci95[1] - v.ci95[0] for v in (apart, together, single)]
    assert width[1] > 2 * width[0]
    assert width[1] == pytest.approx(width[2], rel=1e-9)
    assert (together.clusters, together.effective_clusters) == (100, pytest.approx(100))
    assert apart.gain == pytest.approx(together.gain)


def test_gain_and_margin_are_differences_of_r2() -> None:
    rng = np.random.default_rng(4)
    y = rng.normal(1900, 30, (300, 2))
    a, b, probe = (y + rng.normal(0, s, y.shape) for s in (40, 30, 20))
    result = judge(y, probe, {"a": a, "embedding": b}, 200)
    design = [np.column_stack([np.ones(300), a[:, t], b[:, t], probe[:, t]]) for t in range(2)]

    def stacked(columns: list[int]) -> float:
        pred = [
            d[:, columns] @ np.linalg.lstsq(d[:200][:, columns], y[:200, t])[0] for t, d in enumerate(design)
        ]
        return float(r2_score(y[200:], np.stack(pred, axis=1)[200:]))

    assert result.surface == pytest.approx(stacked([0, 1, 2]), abs=1e-9)
    assert result.gain == pytest.approx(stacked([0, 1, 2, 3]) - stacked([0, 1, 2]), abs=1e-9)
    assert result.strongest_baseline == "embedding"
    assert result.margin == pytest.approx(r2_score(y[200:], probe[200:]) - r2_score(y[200:], b[200:]))
    assert np.mean(list(result.gain_by_target.values())) == pytest.approx(result.gain)


def test_a_gain_over_a_surface_worse_than_the_mean_is_no_structure_unless_the_stack_beats_the_mean() -> None:
    """Baselines that hold on training rows and fail on test rows: half of their error away is a gain."""
    rng = np.random.default_rng(5)
    y = rng.normal(size=(400, 1))
    overfitted = y + 0.1 * rng.normal(size=y.shape)
    overfitted[200:] = 1.2 * rng.normal(size=(200, 1))
    for knows, label in ((0.0, NO_BETTER_THAN_MEAN), (0.9, STRUCTURE)):
        probe = y + 0.1 * rng.normal(size=y.shape)
        probe[200:] = knows * y[200:] + 0.02 * rng.normal(size=(200, 1))
        result = judge(y, probe, {"embedding": overfitted}, 200)
        assert result.surface < -1
        assert result.gain > 0.5
        assert result.ci95[0] > 0
        assert result.label == label
        assert label in result.summary().splitlines()[0]


def test_a_gain_over_a_stack_that_is_worse_than_its_best_member_is_no_structure() -> None:
    """Of two baselines one fails on test rows and spoils the stack, and the probe mends a part of that."""
    rng = np.random.default_rng(3)
    y = rng.normal(size=(400, 1))
    good, spoils, probe = (y + noise * rng.normal(size=y.shape) for noise in (0.8, 0.9, 1.0))
    spoils[200:] = 2 * rng.normal(size=(200, 1))
    members = {"embedding": good, "twin_0": spoils}
    result = judge(y, probe, members, 200)
    assert result.strongest_baseline == "embedding" and r2_score(y[200:], good[200:]) > result.surface
    assert result.gain > 0.05 and result.ci95[0] > 0
    assert result.label == NO_BETTER_THAN_BEST and "strongest baseline alone" in result.summary()
    assert judge(y, y + 0.3 * rng.normal(size=y.shape), members, 200).label == STRUCTURE


def test_a_gain_over_a_surface_that_is_the_mean_needs_no_more_than_its_interval() -> None:
    """The training mean is a predictor as good as any: what beats it is told by pairs of the same rows."""
    decided = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        y = rng.normal(size=(120, 1))
        nothing = 0.02 * rng.normal(size=y.shape)
        result = judge(y, 0.5 * y + 0.35 * rng.normal(size=y.shape), {"embedding": nothing}, 80)
        assert result.label != NO_BETTER_THAN_MEAN, seed
        decided += result.label == STRUCTURE
    assert decided == 20


@pytest.mark.parametrize("others", [1, 2, 3, 6])
def test_a_target_with_one_value_but_for_a_few_test_rows_is_not_decided(others: int) -> None:
    rng = np.random.default_rng(others)
    y = np.zeros((120, 1))
    y[:24], y[80 : 80 + others] = 1, 1
    probe = {"wrong": 0.2 * rng.normal(size=y.shape) - 2 * y, "right": y + 0.1 * rng.normal(size=y.shape)}
    for name, label in (("wrong", NO_BETTER), ("right", STRUCTURE)):
        values = np.concatenate([probe["right"][:80], probe[name][80:]])
        result = judge(y, values, {"embedding": 0.1 * rng.normal(size=y.shape)}, 80)
        assert (result.label == HARDLY_VARIES) == (others < 3)
        assert any("t0" in said and f"({others})" in said for said in result.warnings) == (others < 3)
        if others == 6:
            assert result.label == label
    repeated = judge(y, probe["right"], {"embedding": 0.1 * y}, 80, clusters=np.maximum(np.arange(40), 5))
    assert repeated.label == HARDLY_VARIES


def test_of_several_targets_the_one_that_hardly_varies_is_said() -> None:
    rng = np.random.default_rng(7)
    y = rng.normal(size=(200, 2))
    y[100:, 1] = 0
    y[100, 1] = 1
    result = judge(y, y + 0.1 * rng.normal(size=y.shape), {"embedding": rng.normal(size=y.shape)}, 100)
    assert result.label != HARDLY_VARIES
    assert any("t1 (1)" in said for said in result.warnings)


def test_missing_model_baselines_no_baselines_and_few_clusters() -> None:
    rng = np.random.default_rng(5)
    y = rng.normal(size=(120, 1))
    result = judge(y, y + 0.1, {"tfidf": rng.normal(size=y.shape)}, 60)
    assert (result.label, result.model_baselines) == (MISSING, False)
    alone = judge(y, y + 0.1, {}, 60)
    assert (alone.label, alone.strongest_baseline) == (MISSING, None)
    assert alone.surface == pytest.approx(r2_score(y[60:], np.full((60, 1), y[:60].mean())))
    assert alone.gain == pytest.approx(1 - alone.surface)
    few = judge(y, y + 0.1, {"embedding": y * 0.5}, 60, clusters=np.arange(60) % 6)
    assert few.effective_clusters == pytest.approx(6)
    assert any("effective clusters" in w for w in few.warnings) and "warning" in few.summary()
    assert not result.warnings


def test_a_target_constant_over_the_test_rows_is_left_out_and_said() -> None:
    rng = np.random.default_rng(6)
    y = rng.normal(size=(200, 2))
    y[100:, 1] = 0
    result = judge(y, y + rng.normal(size=y.shape), {"embedding": rng.normal(size=y.shape)}, 100)
    assert np.isfinite([result.gain, *result.ci95]).all()
    assert json_ready(result)["gain_by_target"]["t1"] is None
    assert any("t1" in w for w in result.warnings)


def test_words() -> None:
    assert label_of(0.02, (0.001, 0.04), 0.01, True) == STRUCTURE
    assert label_of(0.005, (0.001, 0.009), 0.01, True) == BETTER_BY_LITTLE
    assert label_of(0.005, (-0.001, 0.009), 0.01, True) == NO_BETTER
    assert label_of(0.005, (0.001, 0.02), 0.01, True) == NOT_DECIDED
    assert label_of(0.02, (-0.01, 0.04), 0.01, True) == NOT_DECIDED
    assert label_of(float("nan"), (float("nan"),) * 2, 0.01, True) == NOT_DECIDED
    assert label_of(0.9, (0.8, 1.0), 0.01, False) == MISSING


def test_wrong_shapes_and_values_are_named() -> None:
    y = np.random.default_rng(7).normal(size=(40, 1))
    with pytest.raises(ValueError, match=r"'embedding'.*not finite at row 3"):
        bad = y.copy()
        bad[3] = np.inf
        judge(y, y, {"embedding": bad}, 20)
    with pytest.raises(ValueError, match="'probe' names the probe"):
        judge(y, y, {"probe": y}, 20)
    with pytest.raises(ValueError, match="for 2 target names"):
        verdict(
            y,
            y,
            Predictions(y, y),
            {},
            test_clusters=np.arange(40),
            target_names=["a", "b"],
            model_baselines=(),
            min_gain=0.01,
            n_bootstrap=2000,
            seed=0,
        )


def test_stack_with_copies_and_constants_predicts_as_without() -> None:
    rng = np.random.default_rng(8)
    y = rng.normal(1950, 20, (100, 1))
    a, b = y + rng.normal(0, 10, y.shape), y + rng.normal(0, 30, y.shape)
    plain = stack({"a": a, "b": b}, y).predict({"a": a, "b": b})
    more = {"a": a, "again": a * 3 + 5, "flat": np.full_like(a, 7), "b": b}
    assert np.allclose(stack(more, y).predict(more), plain, atol=1e-6)
    with pytest.raises(KeyError, match="again"):
        stack(more, y).predict({"a": a, "b": b, "flat": a})


def test_a_predictor_that_goes_against_the_target_out_of_fold_is_left_out() -> None:
    """What leave-one-out gives at an endless penalty, the mean of the others, tells nothing of test rows."""
    rng = np.random.default_rng(9)
    y = rng.normal(1950, 20, (100, 1))
    a, left_out = y + rng.normal(0, 10, y.shape), (y.sum() - y) / 99
    fitted = stack({"a": a, "noise": left_out}, y)
    assert fitted.coef[1] == 0
    assert np.allclose(fitted.coef[0], stack({"a": a}, y).coef[0])


def test_bootstrap_is_the_brute_force_resampling() -> None:
    rng = np.random.default_rng(9)
    clusters = rng.integers(0, 25, 120)
    y = rng.normal(1900, 10, (120, 3))
    preds = {"a": y + rng.normal(0, 8, y.shape), "b": y + rng.normal(0, 12, y.shape)}
    sums = cluster_sums(y, preds, clusters)
    labels = np.unique(clusters)
    weights = rng.multinomial(len(labels), np.full(len(labels), 1 / len(labels)), size=40)
    found = weighted_r2(sums, weights.astype(float))
    for draw, weight in enumerate(weights):
        rows = np.concatenate([np.flatnonzero(clusters == c) for c in np.repeat(labels, weight)])
        for i, pred in enumerate(preds.values()):
            expected = r2_score(y[rows], pred[rows], multioutput="raw_values")
            assert np.allclose(found[draw, i], expected, atol=1e-10)


def test_bootstrap_is_seeded_and_does_not_depend_on_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(10)
    y = rng.normal(size=(50, 1))
    sums = cluster_sums(y, {"a": y * 0.5}, np.arange(50))
    whole = resampled_r2(sums, 64, seed=3)
    monkeypatch.setattr("graticule.probes.core.resample._CHUNK_CELLS", 333)
    assert np.allclose(resampled_r2(sums, 64, seed=3), whole, rtol=1e-12)
    assert not np.array_equal(resampled_r2(sums, 64, seed=4), whole)


@pytest.mark.slow
def test_interval_covers_the_true_difference() -> None:
    """Errors shared within clusters: resampling clusters covers, resampling rows does not."""
    rng = np.random.default_rng(11)

    def draw(n_clusters: int) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray]:
        clusters = np.repeat(np.arange(n_clusters), 5)
        y, e, f = (rng.normal(size=(n_clusters, 1))[clusters] for _ in range(3))
        own = rng.normal(size=(2, len(clusters), 1)) * 0.2
        return y, {"a": y + 0.6 * e + own[0], "b": y + 0.8 * f + own[1]}, clusters

    y, preds, _ = draw(200_000)
    truth = r2_score(y, preds["a"]) - r2_score(y, preds["b"])
    inside = {"clusters": 0, "rows": 0}
    for seed in range(120):
        y, preds, clusters = draw(80)
        for unit, labels in (("clusters", clusters), ("rows", np.arange(len(y)))):
            samples = resampled_r2(cluster_sums(y, preds, labels), 250, seed)
            low, high = interval(samples[:, 0] - samples[:, 1])
            inside[unit] += low <= truth <= high
    assert 0.88 <= inside["clusters"] / 120 <= 0.99
    assert inside["rows"] / 120 < 0.8


def test_effective_clusters() -> None:
    assert effective_clusters(np.array([5, 5, 5, 5])) == pytest.approx(4)
    assert effective_clusters(np.array([1000, 1, 1])) == pytest.approx(1, abs=0.01)


def test_what_differs_by_rounding_alone_is_a_tie() -> None:
    """A probe that adds nothing: its stack is the baselines' own, in another order of the same sums."""
    rng = np.random.default_rng(12)
    y = rng.normal(size=(300, 1))
    a, b = y + rng.normal(size=y.shape), y + 2 * rng.normal(size=y.shape)
    against = -y + rng.normal(size=y.shape)  # goes against the target out of fold, so it is left out
    for names in (("a", "b"), ("b", "a")):
        given = {name: {"a": a, "b": b}[name] for name in names}
        result = judge(y, against, given, 200, model_baselines=set(names), min_gain=0.0)
        assert (result.gain, result.ci95, result.label) == (0.0, (0.0, 0.0), NOT_DECIDED)
    noise = np.array([2e-16, -1e-16, 0.0, 4e-16])
    assert bootstrap_p(noise, two_sided=False) == bootstrap_p(-noise, two_sided=False) == 1.0
    assert bootstrap_p(noise + 0.3, null=0.3) == 1.0
    assert bootstrap_p(noise + 1e-3, two_sided=False) == pytest.approx(0.2)


def test_ranks_and_shares_take_ties_within_rounding() -> None:
    rng = np.random.default_rng(13)
    plain = rng.integers(0, 6, (40, 2)).astype(float)
    noisy = plain * (1 + 1e-15 * rng.normal(size=plain.shape))
    assert np.array_equal(ranks(noisy), rankdata(plain, axis=0))
    apart = rng.normal(size=(50, 3))
    assert np.array_equal(ranks(apart), rankdata(apart, axis=0))
    # as many predictions as scores that are one number but for rounding tell nothing
    flat = np.full((40, 1), 0.1) + 1e-17 * rng.normal(size=(40, 1))
    assert auroc((plain[:, :1] > 2).astype(float), flat)[0] == 0.5
    null = rng.normal(size=(60, 4)) ** 2
    observed = null[17] * (1 + 1e-9)
    assert np.allclose(share_reaching(null, observed), [(1 + (n >= n[17]).sum()) / 61 for n in null.T])
    assert share_reaching(null[:, 0], 0.0) == 1.0
    assert np.isnan(share_reaching(null[:, 0], float("nan")))


def test_an_effect_that_is_no_number_has_no_p() -> None:
    """NaN is at least as large as nothing, so its rank would be the best of all."""
    controls = np.arange(1.0, 40.0)
    assert rank_p(5.0, controls) == pytest.approx(36 / 40)
    assert np.isnan(rank_p(float("nan"), controls)) and np.isnan(rank_p(1.0, np.array([1.0, np.nan])))
    null = np.sort(controls.astype(np.float32))
    assert np.isnan(exceeded(null, np.array([np.nan, 3.0]))).tolist() == [True, False]
    assert exceeded(null, np.array([3.0000001, 3.1])).tolist() == [38 / 40, 37 / 40]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1.0, 1.5])
def test_a_smallest_gain_that_is_no_gain_is_refused(wrong: float) -> None:
    y = np.random.default_rng(14).normal(size=(60, 1))
    with pytest.raises(ValueError, match=f"min_gain={wrong}: expected"):
        judge(y, y + 0.1, {"embedding": y * 0.5}, 30, min_gain=wrong)
    with pytest.raises(ValueError, match=f"min_gain={wrong}: expected"):
        JudgeSettings(min_gain=wrong)


def test_a_target_that_is_no_number_gives_no_word() -> None:
    y = np.random.default_rng(15).normal(size=(60, 1))
    for row in (3, 40):
        bad = y.copy()
        bad[row] = np.nan
        with pytest.raises(ValueError, match=r"'t0' of (training row 3|test row 10) is nan"):
            judge(bad, y + 0.1, {"embedding": y * 0.5}, 30)
    assert label_of(float("nan"), (-0.02, 0.001), 0.01, True) == NOT_DECIDED


def test_undefined_intervals_are_equal_after_loading() -> None:
    y = np.random.default_rng(16).normal(size=(60, 1))
    of = judge(y, y + 0.1, {"embedding": y * 0.5}, 30)
    one, other = (
        replace(of, **dict.fromkeys(("ci95", "margin_ci95"), (float("nan"), float("nan")))) for _ in range(2)
    )
    assert one == other != of
