"""Every row tested."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import t as student
from sklearn.linear_model import LinearRegression
from sklearn.metrics import log_loss, r2_score

from graticule import Activations, Findings, Table, cross_fit, judge_family, sweep
from graticule.probes.core.crossfit import cross_fitted
from graticule.probes.core.dealing import Dealing
from graticule.probes.core.findings_display import carried
from graticule.probes.core.findings_figures import rows_shown
from graticule.probes.core.fit import Problem, stack
from graticule.probes.core.labels import STRUCTURE
from graticule.probes.core.logit_stack import logit_stack
from graticule.probes.families.gain_tests import findings_test
from graticule.probes.generalisation.crossfitted import CrossFitted
from graticule.probes.linear.left_out import fits_without, row_products_of
from graticule.probes.linear.ridge_cv import ridge_cv
from graticule.probes.surface.baselines import Baselines, text_digest
from graticule.probes.surface.fitted import dealt_rows
from graticule.probes.surface.trees import boosted_without
from graticule.probes.tables.groups import group_folds

POINTS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")


def findings(
    rows: int = 120,
    hidden: float = 1.0,
    kind: str = "numeric",
    copies: int = 1,
    seed: int = 0,
    above: float = 0.0,
    noise: int = 0,
    **options: Any,
) -> Findings:
    """The second layer alone holds the hidden part; every row stands there `copies` times."""
    rng = np.random.default_rng(seed)
    seen, concept = rng.normal(size=(rows, 3)), rng.normal(size=(rows, 2))
    value = seen[:, 0] + hidden * concept[:, 0] + 0.5 * rng.normal(size=rows)
    early = np.concatenate([seen, rng.normal(size=(rows, 2))], axis=1)
    late = np.concatenate([seen, concept], axis=1)
    target = value if kind == "numeric" else np.where(value > above, "yes", "no")
    frame = pd.DataFrame({"target": target, "group": np.arange(rows)}).loc[np.repeat(np.arange(rows), copies)]
    table = Table(frame.reset_index(drop=True), target="target", cluster="group", name="small")
    tensors = {
        name: torch.from_numpy(np.repeat(x, copies, axis=0).astype(np.float32))
        for name, x in zip(POINTS, (early, late), strict=True)
    }
    embedding = Activations.from_tensors({"hook_embed": np.repeat(seen, copies, axis=0).astype(np.float32)})
    features = {"mean_embedding": embedding}
    if noise:
        luck = rng.normal(size=(rows * copies, 4)).astype(np.float32)
        features["noise"] = Activations.from_tensors({"hook_embed": luck})
    beside = Baselines(text_digest(table), features, False)
    options = {"crossfit": False, **options}
    return sweep(Activations.from_tensors(tensors), table, baselines=beside, progress=False, **options)


def test_predictions_are_those_of_fits_without_the_fold() -> None:
    grid = np.geomspace(1e-3, 1e5, 15)
    swept = findings(alphas=grid.tolist())
    inputs, problem = swept.inputs, swept.inputs.problem
    made = cross_fitted(inputs, n_folds=4, n_repeats=2, seed=3)
    fold = group_folds(problem.clusters, 4, 7919 * 3 + 1)
    train, test = np.flatnonzero(fold != 2), np.flatnonzero(fold == 2)
    y, c = problem.y[train], problem.clusters[train]
    seen = inputs.baselines.features["mean_embedding"]["hook_embed"].numpy().astype(float)
    late = inputs.activations[POINTS[1]].numpy().astype(float)
    base, probe = (ridge_cv(x[train], y, clusters=c, alphas=grid) for x in (seen, late))
    surface = LinearRegression().fit(base.out_of_fold, y).predict(base.predict(seen[test]))
    both = LinearRegression().fit(np.hstack([base.out_of_fold, probe.out_of_fold]), y)
    full = both.predict(np.hstack([base.predict(seen[test]), probe.predict(late[test])]))
    assert np.allclose(made.predictions["surface"][1, test], surface, atol=1e-6)
    assert np.allclose(made.predictions["full"][1, test], full, atol=1e-6)
    assert set(made.points) == {POINTS[1]} and len(made.points) == 8


def test_gain_is_that_of_all_rows_and_its_interval_half_as_wide_again(tmp_path) -> None:
    swept = findings()
    got = cross_fit(swept, n_repeats=1)
    made, problem = cross_fitted(swept.inputs, n_repeats=1), swept.inputs.problem
    r2 = {name: r2_score(problem.y, made.predictions[name][0]) for name in ("full", "surface")}
    assert got.gain == pytest.approx(r2["full"] - r2["surface"])
    squares = {n: np.square(problem.y - made.predictions[n][0])[:, 0] for n in ("full", "surface")}
    total = np.square(problem.y - problem.y.mean())[:, 0]
    influence = (squares["surface"] - squares["full"] - got.gain * total) / total.mean()
    error = 1.5 * influence.std(ddof=1) / np.sqrt(len(total))
    assert (got.ci95[1] - got.ci95[0]) / 2 == pytest.approx(1.98 * error, rel=0.05)
    assert got.label == STRUCTURE and got.rows == 120 and got.folds == 5
    got.save(tmp_path / "c")
    again = CrossFitted.load(tmp_path / "c")
    assert again.summary() == got.summary() and "5 folds dealt 1 times" in again.summary()
    assert list(again.figures()) and again.points.iloc[0]["point"] == POINTS[1]


@pytest.mark.slow
def test_copies_of_a_row_tell_nothing_new() -> None:
    one, three = (cross_fit(findings(copies=c), n_repeats=1) for c in (1, 3))
    widths = [r.ci95[1] - r.ci95[0] for r in (one, three)]
    assert widths[1] > 0.7 * widths[0] and three.clusters == one.clusters == 120


@pytest.mark.slow
def test_classes_are_judged_in_bits() -> None:
    got = cross_fit(findings(rows=200, hidden=2.0, kind="binary"), n_repeats=1)
    assert got.metric == "bits" and got.label == STRUCTURE and 0 < got.gain < 1
    assert "bits a row" in got.summary()


@pytest.mark.slow
def test_nothing_is_found_where_nothing_is() -> None:
    labels = [cross_fit(findings(rows=80, hidden=0.0, seed=s), n_repeats=1).label for s in range(12)]
    assert labels.count(STRUCTURE) <= 1


def test_what_cannot_be_dealt_is_refused() -> None:
    with pytest.raises(ValueError, match="n_folds=1"):
        cross_fit(findings(), n_folds=1)


# By default --------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["numeric", "binary"])
def test_a_small_table_that_graticule_splits_is_judged_on_every_row(kind: str, tmp_path: Path) -> None:
    swept = findings(kind=kind, crossfit=None)
    verdict = swept.verdict
    one = findings(kind=kind, min_gain=verdict.min_gain)
    assert one.verdict.dealing is None and one.split_verdict is None
    assert swept.verdict_of_split == one.verdict
    dealing = verdict.dealing
    assert dealing is not None and (dealing.repeats, dealing.folds) == (2, 5)
    assert sum(dealing.points.values()) == 10 and dealing.test_clusters == 24
    assert verdict.rows == 120 and verdict.clusters == 120 and verdict.label == STRUCTURE
    text = swept.summary()
    assert text.splitlines()[0].startswith(f"{STRUCTURE}: gain {verdict.gain:+.3f}")
    assert "cross-fitted over 2 × 5 folds, because one held-out part would have 24 effective clusters" in text
    assert "for comparison, one held-out part alone: " in text
    assert f"each fold chose its own layer, layer 1 in {dealing.points[POINTS[1]]} of 10" in text
    swept.save(tmp_path / "f")
    again = Findings.load(tmp_path / "f")
    assert again.verdict == verdict and again.split_verdict == swept.split_verdict
    assert again.summary() == text and again.settings == swept.settings
    shown_alike(swept, again)
    by_command = cross_fit(one)
    assert by_command.gain == verdict.gain and by_command.label == verdict.label


def shown_alike(swept: Findings, again: Findings) -> None:
    """Figures and the rows most wrong are of all rows, as fits without each predict it, after loading too."""
    made = cross_fitted(swept.inputs).predictions["probe"].mean(axis=0)
    for one in (swept, again):
        rows, which = rows_shown(one)
        assert which == "all rows, each by fits without it" and len(rows) == 120
        assert np.allclose(rows["pred_target"], made[:, 0])
        captions = list(one.figures())
        assert sum(which in caption for caption in captions) == 1
        assert "once on the 24 rows of one held-out part (the verdict is of all 120)" in captions[0]
        wrong = one.tables()[f"Rows that the probe gets most wrong, of {which}"]
        if one.kind == "numeric":
            error = np.abs(rows["true_target"] - made[:, 0])
            assert wrong["error (standard deviations)"][0] == pytest.approx(
                error.max() / rows["true_target"].std(ddof=0)
            )


@pytest.mark.slow
def test_a_shipped_split_or_a_large_part_is_judged_as_it_is() -> None:
    swept = findings(rows=60, crossfit=None)
    problem, table = swept.inputs.problem, swept.inputs.table
    shipped = table.with_split(problem.is_test, note="shipped, column 'is_test'")
    assert swept.verdict.dealing is not None
    again = sweep(swept.inputs.activations, shipped, baselines=swept.inputs.baselines, progress=False)
    assert again.verdict.dealing is None and again.verdict == swept.split_verdict
    asked = sweep(
        swept.inputs.activations, shipped, baselines=swept.inputs.baselines, crossfit=True, progress=False
    )
    assert asked.verdict.gain == pytest.approx(swept.verdict.gain)
    assert findings(rows=1010, crossfit=None).verdict.dealing is None


@pytest.mark.slow
def test_of_all_rows_are_the_entropy_and_the_smallest_gain() -> None:
    """What is left is counted on the tested rows, so that no gain is more than all of it."""
    swept = findings(rows=100, hidden=3.0, kind="binary", above=4.5, crossfit=None)
    verdict, problem = swept.verdict, swept.inputs.problem
    y, share = problem.y[:, 0], problem.y.mean()
    assert y.sum() < 12 and y[problem.train].mean() != pytest.approx(share)
    spent = np.zeros(
        (2, len(y))
    )  # by the shares of each fold's training rows, half a row added to each class
    for repeat in range(2):
        fold = group_folds(problem.clusters, 5, repeat)
        for k in range(5):
            ours = y[fold != k]
            p = (ours.sum() + 0.5) / (len(ours) + 1)
            spent[repeat, fold == k] = -np.log2(np.where(y[fold == k] > 0.5, p, 1 - p))
    assert verdict.entropy == pytest.approx(spent.mean())
    assert verdict.min_gain == pytest.approx(
        -0.01 * (share * np.log2(share) + (1 - share) * np.log2(1 - share))
    )
    assert swept.split_verdict is not None and swept.split_verdict.min_gain == verdict.min_gain
    for one in (verdict, swept.split_verdict):
        assert one.entropy is not None and one.surface + one.gain <= one.entropy and one.gain_of_rest <= 1
    made = cross_fitted(swept.inputs)
    assert verdict.left == pytest.approx(made.bits(problem.y, "surface").mean())
    assert (
        f"of {verdict.entropy:.3f} bits a row (what the classes' training shares alone spend)"
        in swept.summary()
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["numeric", "binary"])
def test_members_are_scored_on_the_rows_of_the_verdict(kind: str) -> None:
    """One page has one set of rows: bars, table and sentences are of all rows, computed here fold by fold."""
    grid = np.geomspace(1e-3, 1e5, 15)
    swept = findings(rows=80, kind=kind, crossfit=None, noise=1, alphas=grid.tolist())
    problem, features = swept.inputs.problem, swept.inputs.baselines.features
    y, shown = problem.y, {n: line["all_rows"] for n, line in swept.baselines.items() if n != "shuffled"}
    said = {part: np.zeros((2, len(y), 1)) for part in ("alone", "odds", "shares", "without", "whole")}
    names = ("mean_embedding", "noise")
    for repeat in range(2):
        fold = group_folds(problem.clusters, 5, repeat)
        for k in range(5):
            train, test = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
            X = {n: features[n]["hook_embed"].numpy().astype(float) for n in names}
            fits = {
                n: ridge_cv(X[n][train], y[train], clusters=problem.clusters[train], alphas=grid)
                for n in names
            }
            of_train = {n: fits[n].out_of_fold for n in names}
            of_test = {n: fits[n].predict(X[n][test]) for n in names}
            said["alone"][repeat, test] = of_test["mean_embedding"]
            said["without"][repeat, test] = stack({"noise": of_train["noise"]}, y[train]).predict(of_test)
            said["whole"][repeat, test] = stack(of_train, y[train]).predict(of_test)
            if kind == "binary":
                one = {"mean_embedding": of_train["mean_embedding"]}
                said["odds"][repeat, test] = logit_stack(one, y[train], 2.0).probabilities(of_test)
                said["shares"][repeat, test] = (y[train].sum() + 0.5) / (len(train) + 1)
    r2 = {part: np.mean([r2_score(y, one) for one in values]) for part, values in said.items()}
    line = shown["mean_embedding"]
    assert line["r2"] == pytest.approx(r2["alone"], abs=1e-6)
    assert line["without"] == pytest.approx(r2["without"], abs=1e-6)
    assert line["adds"] == pytest.approx(r2["whole"] - r2["without"], abs=1e-6)
    unit = "Brier skill" if kind == "binary" else "R²"
    caption, table = next((c, t) for c, t in swept.tables().items() if c.startswith("The baselines"))
    assert "test scores are of all 80 rows, each by fits without it, but of shuffled targets" in caption
    assert list(table[f"test {unit}"])[:2] == [shown[n]["r2"] for n in names]
    bars = [shown[n]["r2"] for n in names]
    if kind == "binary":
        losses = [
            log_loss(y[:, 0], one[:, 0]) / np.log(2) for part in ("shares", "odds") for one in said[part]
        ]
        assert line["bits"] == pytest.approx(np.mean(losses[:2]) - np.mean(losses[2:]), abs=1e-6)
        bars = [shown[n]["bits"] for n in names]
    else:
        assert shown["joint"]["without"] == pytest.approx(r2["whole"], abs=1e-6)
        assert r2["whole"] + shown["joint"]["adds"] == pytest.approx(swept.verdict.surface, abs=1e-6)
    assert swept.verdict.strongest_baseline == "mean_embedding"
    drawn = [a.hovertext for a in swept.plot().layout.annotations]
    bars.append(shown["joint"]["bits" if kind == "binary" else "r2"])
    values = [*bars, swept.verdict.surface, swept.verdict.score]
    titles = [*names, "joint", "surface stack", "probe"]
    assert set(drawn) == {f"{n}: test score {v:z.3f}" for n, v in zip(titles, values, strict=True)}
    assert f"(alone {line['r2']:.3f}, without it {line['without']:z.3f} {unit})" in swept.summary()


def test_a_member_that_says_little_carries_nothing() -> None:
    """Whatever the stack loses without it: `block_0` of a negative score was told to carry a surface."""
    swept = findings()
    lines = {n: dict(line) for n, line in swept.baselines.items()}
    lines["other"] = {**lines["mean_embedding"], "adds": 0.02, "without": 0.3, "test": {"r2": 0.3}}
    for alone, carries in ((-0.1, False), (0.1, False), (0.2, True)):
        lines["mean_embedding"] |= {"adds": 0.05, "without": 0.27, "test": {"r2": alone}}
        (line,) = carried(replace(swept, baselines=lines))
        assert line.startswith("the surface is carried by mean_embedding (alone") == carries
        assert line.startswith("no member carries the surface by itself, other most (0.300)") != carries


def test_families_take_the_cross_fitted_p() -> None:
    swept = findings(crossfit=None)
    test, verdict = findings_test(swept), swept.verdict
    assert test.gain == pytest.approx(verdict.gain)
    assert test.p == pytest.approx(student.sf(verdict.gain / verdict.se, verdict.df))
    assert test.t == pytest.approx(verdict.gain / verdict.se, rel=0.2)
    members = judge_family({"a": swept, "b": findings(crossfit=None, hidden=0.0, seed=1)})
    assert "1 of 2 findings named" in members.summary()
    first = members.members.set_index("name").loc["a"]
    assert verdict.dealing is not None and first["judged_at"] == verdict.dealing.by_fold


def test_layers_are_told_that_the_folds_chose_beside_the_one_that_is_saved() -> None:
    def dealing(*layers: int) -> Dealing:
        counts = {f"blocks.{layer}.hook_resid_post": 10 - k for k, layer in enumerate(layers)}
        return Dealing(2, 5, 24.0, counts)

    assert dealing(9).by_fold == "layer 9, in every fold"
    assert dealing(12, 9).by_fold == "layers 9 and 12, by fold"
    assert dealing(12, 9, 15).by_fold == "layers 9, 12 and 15, by fold"
    assert dealing(12, 9, 15, 3, 4).by_fold == "5 layers from 3 to 15, by fold"
    mixed = replace(dealing(9), points={"hook_embed": 6, "blocks.9.hook_resid_post": 4})
    assert mixed.by_fold == "hook_embed and layer 9, by fold"
    swept = findings()
    for layers, said in (((1, 0), False), ((0,), True)):
        one = replace(swept, verdict=replace(swept.verdict, dealing=dealing(*layers)))
        assert ("(blocks.1.hook_resid_post, which no fold chose)" in one.summary()) == said
        assert one.summary().splitlines()[0].endswith(f" ({dealing(*layers).by_fold})")


@pytest.mark.slow
def test_classes_of_which_a_fold_lacks_one_are_judged() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4))
    y = np.where(np.arange(60) < 2, "rare", np.where(x[:, 0] > 0, "up", "down"))
    table = Table(pd.DataFrame({"y": y}), target="y", name="three")
    beside = Activations.from_tensors({"hook_embed": x[:, 1:].astype(np.float32)})
    acts = Activations.from_tensors({POINTS[0]: torch.from_numpy(x.astype(np.float32))})
    swept = sweep(acts, table, baselines=Baselines(text_digest(table), {"e": beside}, False), progress=False)
    assert swept.verdict.dealing is not None and np.isfinite(swept.verdict.gain)
    assert set(swept.verdict.gain_by_target) == set(table.target_names)
    assert 0.5 < swept.class_scores.accuracy <= 1


@pytest.mark.parametrize(("rows", "width", "size"), [(80, 200, 1), (90, 20, 2), (120, 300, 3)])
def test_fits_without_a_part_are_those_of_the_other_rows(rows: int, width: int, size: int) -> None:
    rng = np.random.default_rng(rows)
    X = rng.normal(size=(rows, width)) * np.geomspace(1, 30, width) + 50
    y = np.stack([X[:, 0] + rng.normal(size=rows), rng.normal(size=rows)], axis=1)
    clusters, grid = np.arange(rows) // size, np.geomspace(1e-2, 1e6, 9)
    part = np.flatnonzero(clusters % 5 == 0)
    rest = np.setdiff1d(np.arange(rows), part)
    (ours,) = fits_without(row_products_of(X), y, clusters, [part], grid.tolist())
    theirs = ridge_cv(X[rest], y[rest], alphas=grid, clusters=clusters[rest])
    assert ours.alpha == theirs.alpha and ours.validation == pytest.approx(theirs.score)
    assert np.allclose(ours.out_of_fold, theirs.out_of_fold, atol=1e-8)
    assert np.allclose(ours.test, theirs.predict(X[part]), atol=1e-8)


@pytest.mark.slow
def test_trees_without_a_fold_see_nothing_of_it() -> None:
    rng = np.random.default_rng(3)
    X, fold = rng.normal(size=(120, 5)), np.arange(120) % 4
    y = np.stack([np.sign(X[:, 0] * X[:, 1]) + 0.1 * rng.normal(size=120), rng.normal(size=120)], axis=1)
    other = y.copy()
    other[fold == 2] = rng.normal(size=(30, 2))
    one, two = boosted_without(X, y, fold)[2], boosted_without(X, other, fold)[2]
    assert np.array_equal(one.out_of_fold, two.out_of_fold) and np.array_equal(one.test, two.test)
    assert r2_score(y[fold != 2, 0], one.out_of_fold[:, 0]) > 0.3
    assert r2_score(y[fold == 2, 0], one.test[:, 0]) > 0.3


@pytest.mark.slow
def test_what_rows_would_show_is_told_in_bits_too() -> None:
    swept = findings(rows=60, hidden=0.4, kind="binary", crossfit=None, seed=4)
    assert swept.verdict.label.startswith("not decided")
    needs = swept.verdict.rows_needed
    assert needs.power(0.1, float(needs.rows(0.1))) == pytest.approx(0.8, abs=0.02)
    assert "rows like these would show a gain of" in swept.summary()
    assert "How often a gain would be seen, by test rows" in " ".join(swept.figures())


def test_targets_dealt_anew_leave_no_place_within_a_cluster() -> None:
    y = np.tile([1.0, 0.0], 100)[:, None]  # the first of every pair is of one class
    problem = Problem(np.arange(200), y, np.arange(200) >= 160, np.repeat(np.arange(100), 2), ("y",))
    dealt = dealt_rows(problem, np.random.default_rng(0))
    assert 0.3 < (y[dealt] == y).mean() < 0.7
    assert (dealt.reshape(-1, 2) // 2 == dealt.reshape(-1, 2)[:, :1] // 2).all()  # pairs stay together
