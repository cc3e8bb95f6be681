"""The point that is judged: by what its probe adds to the stacked baselines, out of fold on training rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graticule import Activations, Findings, Table, sweep
from graticule.probes.core.choice import choose_point, gain_by_cluster
from graticule.probes.core.findings_display import layer_table
from graticule.probes.core.fit import chosen, fit_points, stack_design
from graticule.probes.core.verdict import NO_BETTER, STRUCTURE
from graticule.probes.surface.baselines import Baselines, text_digest

POINTS = [f"blocks.{layer}.hook_resid_post" for layer in range(4)]


def left_out_by_hand(columns: np.ndarray, y: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Errors of least squares that is fitted anew without each cluster."""
    X, out = np.c_[np.ones(len(y)), columns], np.empty(len(y))
    for label in np.unique(clusters):
        inside = clusters == label
        weights = np.linalg.lstsq(X[~inside], y[~inside], rcond=None)[0]
        out[inside] = y[inside] - X[inside] @ weights
    return out


@pytest.mark.parametrize("sizes", ["ones", "mixed"])
def test_the_gain_is_that_of_stacks_fitted_without_each_cluster(sizes: str) -> None:
    rng = np.random.default_rng(0)
    n = 60
    clusters = np.arange(n) if sizes == "ones" else rng.permutation(np.minimum(np.arange(n) // 3, 12))
    y = rng.normal(size=(n, 2))
    baselines = [y + rng.normal(size=y.shape) for _ in range(2)]
    probes = [y + rng.normal(size=y.shape), -y, baselines[0], np.zeros_like(y)]
    parts = gain_by_cluster(probes, baselines, y, clusters)
    assert len(parts) == len(np.unique(clusters))
    assert parts[:, 1:].sum(axis=0) == pytest.approx(0, abs=1e-12)  # against it, a copy, a constant
    expected = 0.0
    for t in range(2):
        columns = np.stack([one[:, t] for one in (*baselines, probes[0])], axis=1)
        design = stack_design(columns, y[:, t])
        without = left_out_by_hand(design.design[:, :2], design.right, clusters)
        added = left_out_by_hand(design.design, design.right, clusters)
        expected += float(np.square(without).sum() - np.square(added).sum()) / (2 * n)
    assert parts[:, 0].sum() == pytest.approx(expected, rel=1e-6)
    order = rng.permutation(n)
    moved = gain_by_cluster(
        [p[order] for p in probes], [b[order] for b in baselines], y[order], clusters[order]
    )
    np.testing.assert_allclose(moved, parts, atol=1e-9)


def test_luck_adds_less_than_nothing_on_average() -> None:
    """The price of a column that says nothing is about one row's share of what the baselines leave."""
    rng = np.random.default_rng(1)
    y = rng.normal(size=(300, 1))
    gains = []
    for _ in range(200):
        luck = rng.normal(size=y.shape)
        luck *= np.sign((luck * (y - y.mean())).sum())  # as a stack takes it
        gains.append(gain_by_cluster([luck], [y + rng.normal(size=y.shape)], y, np.arange(300)).sum())
    noise = 3 * np.std(gains) / np.sqrt(200)
    assert -2 / 300 - noise < np.mean(gains) < 0


def world(hidden: float, seed: int = 2) -> tuple[Activations, Table, Baselines]:
    """Two early layers that hold the surface well, two late ones with the hidden part and less surface."""
    rng = np.random.default_rng(seed)
    n, width = 600, 12
    words, own = rng.normal(size=(n, width)), rng.normal(size=n)
    y = np.sqrt(0.6) * words[:, 0] + np.sqrt(hidden) * own + np.sqrt(0.4 - hidden) * rng.normal(size=n)
    tensors = {}
    for layer, point in enumerate(POINTS):
        noise = 0.05 if layer < 2 else 1.5
        x = words + noise * rng.normal(size=(n, width))
        if layer >= 2:
            x = np.c_[x, 3 * own]
        tensors[point] = torch.from_numpy(x).float()
    table = Table.from_arrays(y, is_test=np.arange(n) % 4 == 0)
    embedding = Activations.from_tensors({"hook_embed": torch.from_numpy(words).float()})
    return (
        Activations.from_tensors(tensors),
        table,
        Baselines(text_digest(table), {"mean_embedding": embedding}, False),
    )


def swept(hidden: float, with_baselines: bool = True) -> Findings:
    activations, table, baselines = world(hidden)
    return sweep(
        activations,
        table,
        baselines=baselines if with_baselines else None,
        n_bootstrap=200,
        progress=False,
    )


def test_a_late_layer_that_holds_more_is_judged_though_an_early_one_reads_the_surface_better() -> None:
    found = swept(0.2)
    layers = found.layers.set_index("point")
    assert layers["validation"].idxmax() in POINTS[:2] and found.chosen_point in POINTS[2:]
    assert found.verdict.label == STRUCTURE
    assert layers["validation_gain"].idxmax() in POINTS[2:]
    assert layers.loc[found.chosen_point, "validation_gain"] == pytest.approx(found.verdict.gain, abs=0.08)
    assert layers.index[~layers["exploratory"]].tolist() == [found.chosen_point]
    assert found.baselines["shuffled"]["point"] == found.chosen_point
    assert "validation_gain" in layer_table(found) and "stacked baselines" in str(found.plot().to_dict())


def test_where_no_layer_adds_anything_the_best_probe_is_judged() -> None:
    found = swept(0.0)
    layers = found.layers.set_index("point")
    assert found.chosen_point == layers["validation"].idxmax()
    assert found.verdict.label == NO_BETTER


def test_without_baselines_of_the_model_the_best_probe_is_judged() -> None:
    found = swept(0.2, with_baselines=False)
    layers = found.layers.set_index("point")
    assert found.chosen_point == layers["validation"].idxmax() and layers["validation_gain"].isna().all()
    assert "validation_gain" not in layer_table(found)
    assert [line["validation_gain"] for line in found.to_json()["layers"]] == [None] * 4


def test_of_points_that_add_as_much_the_better_probe_is_judged() -> None:
    activations, table, baselines = world(0.2)
    found = sweep(activations, table, baselines=baselines, n_bootstrap=50, progress=False)
    problem = found.problem
    fits = fit_points(activations, problem, progress=False)
    choice = choose_point(fits, found.baseline_predictions, problem, ["mean_embedding"])
    assert choice.best.point == found.chosen_point == chosen(fits[2:]).point
    assert choice.gains is not None and min(choice.gains[2:]) > max(choice.gains[:2])
    assert choose_point(fits, {}, problem, ["mean_embedding"]).best is chosen(fits)
