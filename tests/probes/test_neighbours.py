"""Rows that depend on each other and do not say so: the gain without each test row's neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graticule import Activations, Findings, Table, sweep
from graticule.probes.core.fit import Problem, stack
from graticule.probes.core.neighbours import without_neighbours
from graticule.probes.core.stretches import _places, without_stretches
from graticule.probes.core.verdict import NOT_DECIDED, STRUCTURE
from graticule.probes.linear.ridge_cv import ridge_fit
from graticule.probes.scores.metrics import mean_r2
from graticule.probes.surface.baselines import Baselines, text_digest
from graticule.probes.surface.fitted import dealt_rows

POINT = "blocks.0.hook_resid_post"
ON_NEIGHBOURS = f"{NOT_DECIDED}: the gain rests on near neighbours across the split"


def swept(x: np.ndarray, y: np.ndarray, texts: list[str] | None = None, **table: object) -> Findings:
    rng = np.random.default_rng(0)
    made = Table.from_arrays(y, texts, **table)
    luck = Activations.from_tensors({"hook_embed": torch.from_numpy(rng.normal(size=(len(y), 4)))})
    return sweep(
        Activations.from_tensors({POINT: torch.from_numpy(x)}),
        made,
        baselines=Baselines(text_digest(made), {"mean_embedding": luck}, False),
        n_bootstrap=200,
        progress=False,
    )


def grouped(rng: np.random.Generator, n: int, width: int, size: int, shared: float) -> tuple[np.ndarray, ...]:
    of = np.repeat(np.arange(n // size), size)
    x = np.sqrt(shared) * rng.normal(size=(n // size, width))[of]
    x += np.sqrt(1 - shared) * rng.normal(size=(len(of), width))
    return x, rng.normal(size=n // size)[of], rng.random(len(of)) < 0.25


@pytest.mark.parametrize("n,width,levels", [(200, 10, 0), (60, 90, 0), (120, 20, 3), (150, 12, 2)])
@pytest.mark.parametrize("targets", [1, 2])
def test_the_gain_without_neighbours_is_that_of_ridges_fitted_without_them(
    n: int, width: int, levels: int, targets: int
) -> None:
    """Every test row once more by a ridge fitted without the rows that weigh most for it, or without those
    most like it in what targets and predictions leave of the activations."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, width))
    y = x[:, :targets] + 0.5 * rng.normal(size=(n, targets))
    if levels:
        y = np.repeat(rng.integers(0, levels, (n, 1)), targets, axis=1) * np.arange(1.0, targets + 1)
        x[:, :1] += y[:, :1]
    found = swept(x, y, is_test=rng.random(n) < 0.3)
    problem, baselines = found.problem, found.baseline_predictions
    fit = _fit(found)
    left = without_neighbours(found.inputs.activations, problem, fit, baselines, classes=levels > 0)
    assert left is not None and left.looked_at == len(problem.test)
    X, Z, own = x[problem.train], x[problem.test], problem.y[problem.train]
    weights = _weights(X, Z, fit.fit.alpha)
    ridge, y_test = ridge_fit(X, own, fit.fit.alpha), problem.y[problem.test]
    beside = [np.column_stack([np.ones(len(a)), b, ridge.predict(a)]) for a, b in ((X, own), (Z, y_test))]
    told = np.linalg.lstsq(beside[0], X, rcond=None)[0]
    rest, others = X - beside[0] @ told, Z - beside[1] @ told
    variances = np.linalg.eigvalsh(rest.T @ rest)
    alike = _weights(rest, others, np.square(variances).sum() / variances.sum())
    alike /= np.sqrt(np.diag(_weights(rest, rest, np.square(variances).sum() / variances.sum())))
    kind = own[:, 0] if levels else np.zeros(len(own))
    parts = [np.flatnonzero(kind == k) for k in np.unique(kind)]
    sizes = np.array([len(part) for part in parts])
    count = (
        max(2, len(X) // 10)
        if not levels
        else min(len(X) // 10, int(np.median(np.repeat(sizes, sizes))) // 4)
    )
    predicted = np.empty((2, *y_test.shape))
    for row, weight in enumerate(weights):
        gone = [part[np.argsort(-alike[row][part])[: len(part) // (4 if levels else 10)]] for part in parts]
        for look, without in enumerate((np.argsort(-weight)[:count], np.concatenate(gone))):
            kept = np.setdiff1d(np.arange(len(X)), without)
            predicted[look, row] = ridge_fit(X[kept], own[kept], fit.fit.alpha).predict(Z[[row]])[0]
    everything = {**baselines, "probe": fit.predictions}
    whole = stack({name: one.out_of_fold for name, one in everything.items()}, own)
    tests = {name: one.test for name, one in baselines.items()}
    surface = stack({name: one.out_of_fold for name, one in baselines.items()}, own).predict(
        tests, len(problem.test)
    )
    below = mean_r2(y_test, surface)
    gains = [mean_r2(y_test, whole.predict({**tests, "probe": one})) - below for one in predicted]
    expected = min(
        zip(gains, (0.25, 0.5 if levels else 0.25), strict=True), key=lambda g: g[0] - g[1] * left.gain
    )
    assert (left.without, left.least) == (pytest.approx(expected[0], abs=1e-7), expected[1])
    if not levels:
        assert left.gain == pytest.approx(found.verdict.gain, abs=1e-9)


def _weights(X: np.ndarray, Z: np.ndarray, alpha: float) -> np.ndarray:
    centred = X - X.mean(axis=0)
    return (Z - X.mean(axis=0)) @ np.linalg.inv(centred.T @ centred + alpha * np.eye(X.shape[1])) @ centred.T


def _fit(found: Findings):
    from graticule.probes.core.fit import fit_points

    return fit_points(found.inputs.activations, found.problem, progress=False)[0]


@pytest.mark.parametrize("size,shared,width", [(3, 0.99, 256), (10, 0.8, 32), (40, 0.8, 64)])
def test_synonyms_and_clusters_that_are_not_declared_leave_nothing_decided(
    size: int, shared: float, width: int
) -> None:
    x, y, is_test = grouped(np.random.default_rng(2), max(600, 25 * size), width, size, shared)
    texts = [f"{chr(97 + i % 26)}{i}" for i in range(len(y))]
    found = swept(x, y, texts, is_test=is_test)
    assert found.verdict.ci95[0] > 0.01  # structure, by gain and interval
    assert found.verdict.label == ON_NEIGHBOURS
    (said,) = [w for w in found.verdict.warnings if "next to" in w]
    assert "cluster=" in said and " test rows have one of nearly the same target" in said
    first, second = (part.split("'")[1] for part in said.split("first ")[1].split(" beside "))
    a, b = texts.index(first), texts.index(second)
    assert is_test[a] and not is_test[b] and a // size == b // size and y[a] == y[b]
    assert found.gates is not None and found.gates.structure
    again = Findings.from_json(found.to_json()) if hasattr(Findings, "from_json") else found
    assert again.gates == found.gates


@pytest.mark.slow
def test_declared_and_in_one_part_they_are_no_better(tmp_path) -> None:
    x, y, _ = grouped(np.random.default_rng(3), 600, 64, 3, 0.99)
    found = swept(x, y, clusters=np.repeat(np.arange(200), 3))
    assert found.verdict.label != STRUCTURE and not found.gates.structure
    found.save(tmp_path / "findings")
    assert Findings.load(tmp_path / "findings").gates == found.gates


@pytest.mark.parametrize("n,width,share", [(200, 8, 0.5), (600, 64, 0.4), (300, 400, 0.95)])
def test_what_is_linear_stands_without_neighbours(n: int, width: int, share: float) -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(n, width))
    y = np.sqrt(share) * x @ rng.normal(size=width) / np.sqrt(width) + np.sqrt(1 - share) * rng.normal(size=n)
    found = swept(x, y, is_test=rng.random(n) < 0.25)
    assert found.verdict.label == STRUCTURE and not found.gates.structure


def test_classes_that_lie_together_are_no_neighbours() -> None:
    rng = np.random.default_rng(5)
    of = rng.integers(0, 6, 400)
    x = 3 * rng.normal(size=(6, 20))[of] + rng.normal(size=(400, 20))
    found = swept(x, np.array(list("abcdef"))[of], is_test=rng.random(400) < 0.25)
    assert found.verdict.label == STRUCTURE


@pytest.mark.parametrize("shared", [0.8, 0.5])
def test_documents_of_a_label_each_leave_nothing_decided(shared: float) -> None:
    """Forty sentences a document, in any order, and nobody says which: more than have a row's weight."""
    rng = np.random.default_rng(13)
    of = rng.permutation(np.repeat(np.arange(10), 40))
    x = np.sqrt(shared) * rng.normal(size=(10, 64))[of] + np.sqrt(1 - shared) * rng.normal(size=(400, 64))
    found = swept(x, np.where(of < 5, "yes", "no"), is_test=rng.random(400) < 0.25)
    assert found.verdict.ci95[0] > 0.01 and found.verdict.label == ON_NEIGHBOURS


def test_a_class_of_several_kinds_stands_without_one() -> None:
    rng = np.random.default_rng(14)
    of, kind = rng.integers(0, 2, 400), rng.integers(0, 4, 400)
    x = 0.5 * rng.normal(size=(2, 64))[of] + 0.6 * rng.normal(size=(2, 4, 64))[of, kind]
    found = swept(
        x + rng.normal(size=(400, 64)), np.array(["thing", "animal"])[of], is_test=rng.random(400) < 0.25
    )
    assert found.verdict.label == STRUCTURE and not found.gates.structure


def test_targets_are_dealt_by_cluster() -> None:
    rng = np.random.default_rng(6)
    clusters, is_test = np.repeat(np.arange(40), 5), np.repeat(rng.random(40) < 0.3, 5)
    for split, parts in ((is_test, 2), (rng.random(200) < 0.3, 1)):
        y = np.repeat(np.arange(40.0), 5)[:, None]
        problem = Problem(np.arange(200), y, split, clusters, ("y",))
        rows = dealt_rows(problem, np.random.default_rng(7))
        assert sorted(rows) == list(range(200)) and (rows != np.arange(200)).mean() > 0.9
        assert (clusters[rows].reshape(40, 5) == clusters[rows][::5, None]).all()  # whole clusters
        assert (split[rows] == split).all() == (parts == 2)
    alone = Problem(np.arange(200), y, split, np.arange(200), ("y",))
    rows = dealt_rows(alone, np.random.default_rng(7))
    assert (split[rows] == split).all() and (rows != np.arange(200)).mean() > 0.9


def series(rng: np.random.Generator, n: int, width: int, rho: float) -> tuple[np.ndarray, np.ndarray]:
    """Activations and target by chance, each following the one of the row before."""
    drawn = rng.normal(size=(n, width + 1))
    for row in range(1, n):
        drawn[row] = rho * drawn[row - 1] + np.sqrt(1 - rho**2) * drawn[row]
    return drawn[:, :-1], drawn[:, -1]


@pytest.mark.parametrize("yes_or_no", [False, True])
def test_series_along_the_table_leave_nothing_decided(yes_or_no: bool) -> None:
    rng = np.random.default_rng(8)
    x, y = series(rng, 400, 16, 0.98)
    found = swept(x, np.where(y > 0, "yes", "no") if yes_or_no else y, is_test=rng.random(400) < 0.25)
    assert found.verdict.ci95[0] > 0 and found.verdict.label.startswith(NOT_DECIDED)
    assert any("position" in said and "cluster=" in said for said in found.verdict.warnings)


@pytest.mark.parametrize("yes_or_no", [False, True])
def test_series_in_any_order_leave_nothing_decided(yes_or_no: bool) -> None:
    rng = np.random.default_rng(15)
    x, y = series(rng, 300, 32, 0.95)
    order = rng.permutation(300)
    x, y = x[order], y[order]
    found = swept(x, np.where(y > 0, "yes", "no") if yes_or_no else y, is_test=rng.random(300) < 0.25)
    assert found.verdict.ci95[0] > 0 and found.verdict.label == ON_NEIGHBOURS


def test_the_gain_without_stretches_is_that_of_ridges_fitted_without_them() -> None:
    rng = np.random.default_rng(9)
    x = rng.normal(size=(300, 12))
    y = x[:, 0] + 0.5 * rng.normal(size=300)
    found = swept(x, y, is_test=rng.random(300) < 0.3)
    problem, baselines, fit = found.problem, found.baseline_predictions, _fit(found)
    own, y_test = problem.y[problem.train], problem.y[problem.test]
    everything = {**baselines, "probe": fit.predictions}
    whole = stack({name: one.out_of_fold for name, one in everything.items()}, own)
    tests = {name: one.test for name, one in baselines.items()}
    alone = stack({name: one.out_of_fold for name, one in baselines.items()}, own)
    below, left = mean_r2(y_test, alone.predict(tests, len(y_test))), list[float]()
    for place in (np.arange(300), np.random.default_rng(0).permutation(300)):
        predicted = np.empty_like(y_test)
        for at, row in enumerate(problem.test):
            start = 30 * (place[row] // 30)
            rest = [one for one in problem.train if not start - 15 <= place[one] < start + 45]
            predicted[at] = ridge_fit(x[rest], problem.y[rest], fit.fit.alpha).predict(x[[row]])[0]
        left.append(mean_r2(y_test, whole.predict({**tests, "probe": predicted})) - below)
    share = without_stretches(found.inputs.activations, problem, fit, baselines)
    assert share == pytest.approx(left[0] / left[1], abs=1e-7) and 0.8 < share < 1.2


def test_the_order_is_the_tables_in_whatever_order_activations_come() -> None:
    rng = np.random.default_rng(8)
    x, y = series(rng, 400, 16, 0.98)
    table = Table.from_arrays(y, is_test=rng.random(400) < 0.25)
    luck = Activations.from_tensors({"hook_embed": torch.from_numpy(rng.normal(size=(400, 4)))})
    found = sweep(
        Activations.from_tensors({POINT: torch.from_numpy(x)}).select(rng.permutation(400)),
        table,
        baselines=Baselines(text_digest(table), {"mean_embedding": luck}, False),
        n_bootstrap=200,
        progress=False,
    )
    assert "the gain rests on rows that stand next to each other in the table" in found.gates.structure


def test_many_equal_targets_are_not_sorted() -> None:
    """Of equal ones none is before another."""
    rng = np.random.default_rng(12)
    y = np.where(rng.random(400) < 0.05, rng.normal(size=400), 0.0)[:, None]
    nobody = np.zeros(400, bool)
    problem = Problem(np.arange(400), y, nobody, np.arange(400), ("y",))
    assert _places(problem, False) is not None
    assert (
        _places(Problem(np.arange(400), np.sort(y, axis=0), nobody, np.arange(400), ("y",)), False)
        is not None
    )
    assert (
        _places(Problem(np.arange(400), np.arange(400.0)[:, None], nobody, np.arange(400), ("y",)), False)
        is None
    )


@pytest.mark.parametrize("levels", [0, 2, 5])
def test_sorted_tables_are_decided(levels: int) -> None:
    rng = np.random.default_rng(10)
    x = rng.normal(size=(300, 16))
    y = x[:, 0] + 0.5 * rng.normal(size=300)
    order = np.argsort(y)
    target = y[order] if levels == 0 else np.array([f"c{i * levels // 300}" for i in range(300)])
    found = swept(x[order], target, is_test=rng.random(300) < 0.25)
    assert found.verdict.label == STRUCTURE


def test_copies_across_the_split_leave_nothing_decided() -> None:
    rng = np.random.default_rng(11)
    x, y = rng.normal(size=(100, 20)), rng.normal(size=100)
    y = y + x[:, 0] * 2
    is_test = rng.random(200) < 0.25
    found = swept(x.repeat(2, axis=0), y.repeat(2), is_test=is_test)
    assert "copies of training rows" in found.verdict.label
    twice = sum(is_test[2 * i] != is_test[2 * i + 1] for i in range(100))
    assert any(f"{twice} of {is_test.sum()} test rows have the very" in w for w in found.verdict.warnings)
