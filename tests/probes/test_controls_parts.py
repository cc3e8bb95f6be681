"""Pieces of the controls: paired samples, scores inside blocks, names set aside."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import r2_score

from graticule import Activations, Table, sweep
from graticule.probes.controls.controls import controls
from graticule.probes.controls.parts import bare_text, digit_only, scored_blocks, within_scores
from graticule.probes.core.resample import average, cluster_sums, resampled_r2, resamples, sampled_r2


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(120, 2)) * [1, 50] + [3, 1900]
    return y, y + rng.normal(size=y.shape) * [0.5, 40], rng.integers(0, 30, 120), rng.integers(0, 4, 120)


def test_samples_are_the_bootstraps_own(rows):
    """With one truth they are `resampled_r2`'s; with two, each is scored as if alone, on the same draws."""
    y, pred, clusters, _ = rows
    expected = resampled_r2(cluster_sums(y, {"a": pred, "b": pred / 2}, clusters), 50, 7)
    found = sampled_r2({"a": (y, pred), "b": (y, pred / 2)}, clusters, 50, 7)
    assert np.allclose(found["a"].samples, expected[:, 0]) and np.allclose(found["b"].samples, expected[:, 1])
    other = sampled_r2({"a": (y, pred), "b": (-y, pred)}, clusters, 50, 7)
    alone = sampled_r2({"b": (-y, pred)}, clusters, 50, 7)
    assert np.allclose(other["b"].samples, alone["b"].samples)
    gap = other["a"] - other["b"]
    assert gap.value == pytest.approx(r2_score(y, pred) - r2_score(-y, pred))
    assert gap.ci95 == pytest.approx(tuple(np.quantile(gap.samples, [0.025, 0.975])))
    both = average([other["a"], other["b"]])
    assert both.value == pytest.approx((other["a"].value + other["b"].value) / 2)


def test_one_cluster_has_no_interval(rows):
    y, pred, _, _ = rows
    found = sampled_r2({"a": (y, pred)}, np.zeros(120, np.int64), 20, 0)["a"]
    assert found.value == pytest.approx(r2_score(y, pred))
    assert np.isnan(found.ci95).all()


def by_hand(y, pred, blocks):
    """r and R² of one target after every block's mean is taken out."""
    left_y = y - pd.Series(y).groupby(blocks).transform("mean").to_numpy()
    left_p = pred - pd.Series(pred).groupby(blocks).transform("mean").to_numpy()
    r = (left_y * left_p).sum() / np.sqrt((left_y**2).sum() * (left_p**2).sum())
    return r, 1 - ((left_y - left_p) ** 2).sum() / (left_y**2).sum()


def test_scores_inside_blocks_by_hand(rows):
    y, pred, clusters, blocks = rows
    found = within_scores(y, {"probe": pred}, blocks, clusters, 5, 3)
    expected = np.mean([by_hand(y[:, t], pred[:, t], blocks) for t in range(2)], axis=0)
    assert (found.r["probe"].value, found.r2["probe"].value) == pytest.approx(tuple(expected))
    weights = next(iter(resamples(len(np.unique(clusters)), 5, 3)))
    for draw in range(5):  # a resample with its rows written out
        again = np.repeat(
            np.arange(120), weights[draw].astype(int)[np.unique(clusters, return_inverse=True)[1]]
        )
        expected = np.mean([by_hand(y[again, t], pred[again, t], blocks[again]) for t in range(2)], axis=0)
        got = found.r["probe"].samples[draw], found.r2["probe"].samples[draw]
        assert got == pytest.approx(tuple(expected))


def test_a_block_that_tells_all_leaves_nothing():
    """Truth constant in every block: undefined. Prediction constant in every block: no r, and R² 0."""
    blocks = np.arange(60) % 3
    y = np.random.default_rng(0).normal(size=(60, 1))
    flat = blocks[:, None] * 2.0
    clusters = np.arange(60)
    found = within_scores(flat, {"probe": y}, blocks, clusters, 3, 0)
    assert np.isnan(found.r["probe"].value) and np.isnan(found.r2["probe"].value)
    found = within_scores(y, {"probe": flat}, blocks, clusters, 3, 0)
    assert np.isnan(found.r["probe"].value)
    assert found.r2["probe"].value == pytest.approx(0)


def test_small_and_missing_blocks_are_left_out():
    labels = pd.Series(["a"] * 3 + ["b"] * 2 + [None] * 4 + ["c"] * 3)
    assert scored_blocks(labels, 3).tolist() == [0] * 3 + [-1] * 6 + [1] * 3
    assert (scored_blocks(labels, 9) == -1).all()


def country_world(within: float, seed: int = 0):
    """A target that is its block's level, plus a part inside blocks of which activations hold a share."""
    rng = np.random.default_rng(seed)
    block = rng.integers(0, 8, 1600)
    inside = rng.normal(size=1600)
    y = 3 * rng.normal(size=8)[block] + inside
    X = 3 * rng.normal(size=(8, 24))[block] + within * np.outer(inside, rng.normal(size=24))
    X += rng.normal(size=X.shape)
    acts = Activations.from_tensors({"blocks.0.hook_resid_post": X.astype(np.float32)})
    table = Table.from_arrays(
        y, texts=[f"n{i}" for i in range(1600)], blocks={"country": [f"c{b}" for b in block]}
    )
    return controls(sweep(acts, table, progress=False), seeds=1, progress=False)


@pytest.mark.slow
def test_what_is_held_inside_blocks_is_found_there_and_only_there():
    sorted_only, both = country_world(0.0), country_world(3.0)
    assert sorted_only.line("probe")["score"] > 0.8  # the score alone does not tell the two apart
    assert abs(sorted_only.line("within country, the surface")["probe"]) < 0.1
    assert sorted_only.line("within country, gain")["difference"] < 0.02
    assert both.line("within country, the surface")["probe"] > 0.7
    assert both.line("within country, gain")["difference_low"] > 0.5
    oracle = sorted_only.line("oracle: country")
    assert -0.05 < oracle["difference"] < 0.01  # the probe knows what the block tells and no more
    assert both.line("oracle: country")["difference"] > 0


def test_digits_and_plain_names():
    names = ["90210", "12-34", "Route 66", "", "--", "١٢٣", "Пермь 36"]
    assert digit_only(names).tolist() == [True, True, False, False, False, True, False]
    assert bare_text("  São  PAULO, (city)!") == bare_text("sao paulo city") == "sao paulo city"
    assert bare_text("???") == "???"


@pytest.mark.slow
def test_zip_codes_and_repeats_are_set_aside():
    """Zip codes tell the target linearly, names tell nothing; some test texts are in training rows."""
    rng = np.random.default_rng(0)
    n = 800
    y = rng.permutation(9999)[:n].astype(float)  # no code twice
    code = np.arange(n) % 2 == 0
    texts = [f"{int(v):05d}" if c else f"Name{i}" for i, (v, c) in enumerate(zip(y, code, strict=True))]
    is_test = np.arange(n) % 4 > 1
    repeated = np.flatnonzero(is_test & ~code)[:40]
    for i in repeated:
        texts[i] = texts[i - 2].upper()  # a near-duplicate of a training row
    for i in repeated[:20]:
        texts[i] = texts[i - 2]
    X = np.where(code, y / 2000, rng.normal(size=n))[:, None] + 0.3 * rng.normal(size=(n, 12))
    X[:, 0] = 3 * code
    acts = Activations.from_tensors({"blocks.0.hook_resid_post": X.astype(np.float32)})
    table = Table.from_arrays(y, texts=texts, is_test=is_test)
    found = controls(sweep(acts, table, progress=False), seeds=1, progress=False)
    letters, digits = found.line("names with letters"), found.line("digit-only names")
    assert letters["rows"] + digits["rows"] == is_test.sum()
    assert digits["probe"] > 0.5 > 0.2 > letters["probe"]
    assert "50% of all rows are digit-only names" in digits["note"]
    assert found.line("repeated text set aside")["rows"] == is_test.sum() - 20
    looser = "repeated text but for case, accents and punctuation"
    assert found.line(f"{looser} set aside")["rows"] == is_test.sum() - 40
    assert found.line(f"{looser} alone")["rows"] == 40
