"""The verdict on classes in bits: against scikit-learn and the textbook, and on planted worlds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import ttest_1samp
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, log_loss, roc_auc_score

from graticule import Activations, Findings, JudgeSettings, Table, compare, controls, erase, sweep
from graticule.cli import main
from graticule.probes.causes.erase import _LAYERS as LAYERS
from graticule.probes.core.bits import bits_verdict, class_odds, class_test_scores, row_gains
from graticule.probes.core.class_lines import IN_R2
from graticule.probes.core.class_scores import auroc_terms, class_scores_of, share_interval
from graticule.probes.core.detection import detection
from graticule.probes.core.fit import Predictions, Problem
from graticule.probes.core.inputs import predicted_rows
from graticule.probes.core.intervals import mean_of
from graticule.probes.core.judge import judge_predictions
from graticule.probes.core.logit_stack import (
    entropy_bits,
    held_out_bits,
    logit_stack,
    row_bits,
    shares,
    shrunk,
)
from graticule.probes.core.resample import wilson
from graticule.probes.core.verdict import HARDLY_VARIES, MISSING, NO_BETTER, NOT_DECIDED, STRUCTURE
from graticule.probes.surface.baselines import Baselines, text_digest


def problem_of(y: np.ndarray, n_train: int, clusters: np.ndarray | None = None) -> Problem:
    rows = np.arange(len(y))
    names = tuple(f"c{k}" for k in range(y.shape[1]))
    return Problem(rows, y, rows >= n_train, rows if clusters is None else clusters, names)


def split(values: np.ndarray, n_train: int) -> Predictions:
    return Predictions(values[:n_train], values[n_train:])


def world(n: int, seed: int, hidden: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes, a score of what the surface reads, and one that reads the hidden part too."""
    rng = np.random.default_rng(seed)
    surface, part, noise = rng.normal(size=(3, n, 1))
    y = (surface + hidden * part + noise > 0).astype(float)
    return y, surface + rng.normal(size=(n, 1)), surface + hidden * part + rng.normal(size=(n, 1))


# Stacks ----------------------------------------------------------------------------------------------
def test_without_a_penalty_it_is_scikit_learns_logistic_regression() -> None:
    y, one, other = world(400, 0)
    stack = logit_stack({"one": one, "other": other}, y, penalty=0.0)
    theirs = LogisticRegression(C=np.inf, tol=1e-10).fit(np.hstack([one, other]), y[:, 0])
    ours = stack.probabilities({"one": one, "other": other})[:, 0]
    assert ours == pytest.approx(theirs.predict_proba(np.hstack([one, other]))[:, 1], abs=2e-4)
    bits = row_bits(y, stack.probabilities({"one": one, "other": other})).mean()
    assert bits * np.log(2) == pytest.approx(log_loss(y, ours), abs=1e-9)


def test_several_classes_share_a_weight() -> None:
    """Against a general optimiser of the loss as it is written."""
    rng = np.random.default_rng(1)
    y = np.eye(3)[rng.integers(0, 3, 200)]
    score = y + rng.normal(size=y.shape)

    def loss(at: np.ndarray) -> float:
        odds = at[:3] + at[3] * score
        centred = score - score.mean(axis=0)
        start = np.log((y.sum(axis=0) + 0.5) / (len(y) + 1.5))
        moved = at[:3] + at[3] * score.mean(axis=0) - start
        nats = np.logaddexp.reduce(odds, axis=1).sum() - (odds * y).sum()
        return nats + 0.15 * (at[3] ** 2 * np.square(centred).mean() + np.square(moved).sum())

    best = minimize(loss, np.r_[np.log(y.mean(axis=0)), 0.5], tol=1e-12).x
    stack = logit_stack({"probe": score}, y)
    assert stack.weights[0] == pytest.approx(best[3], abs=1e-3)
    odds = best[:3] + best[3] * score
    p = np.exp(odds) / np.exp(odds).sum(axis=1, keepdims=True)
    assert stack.probabilities({"probe": score}) == pytest.approx(shrunk(p, stack.least), abs=1e-4)


def test_a_copy_of_a_baseline_gains_nothing() -> None:
    """A penalty on each weight would let two copies pay half of what one pays."""
    for seed in range(20):
        y, one, _ = world(100, seed)
        problem = problem_of(y, 60)
        gained = row_gains(problem, split(one, 60), {"block_0": split(one, 60)})
        assert np.abs(gained).max() < 1e-4


def test_scores_that_tell_all_classes_apart_stay_finite() -> None:
    y = np.repeat([[0.0], [1.0]], 30, axis=0)
    stack = logit_stack({"probe": 2 * y - 1}, y)
    p = stack.probabilities({"probe": 2 * y - 1})
    assert np.isfinite(stack.weights).all()
    assert p.min() >= 1 / 62 and p.max() <= 1 - 1 / 62
    assert (np.abs(p - y) < 0.05).all()


def test_what_goes_against_the_target_or_is_constant_is_left_out() -> None:
    y, one, _ = world(200, 3)
    stack = logit_stack({"against": -one, "constant": np.ones_like(one), "one": one}, y)
    assert stack.weights[0] == stack.weights[1] == 0 < stack.weights[2]


def test_bits_of_rows_held_out_are_those_of_refits() -> None:
    from graticule.probes.tables.groups import group_folds

    for columns in (1, 3):
        y, one, other = world(300, 12)
        if columns == 3:
            rng = np.random.default_rng(13)
            y = np.eye(3)[rng.integers(0, 3, 300)]
            one, other = (y + rng.normal(size=y.shape) for _ in range(2))
        clusters = np.arange(300) // 2
        scores, bits = {"one": one, "other": other}, np.empty(300)
        fold = group_folds(clusters, 10, 0)
        for k in range(10):
            rest = {name: score[fold != k] for name, score in scores.items()}
            p = logit_stack(rest, y[fold != k]).probabilities({n: s[fold == k] for n, s in scores.items()})
            bits[fold == k] = row_bits(y[fold == k], p)
        assert held_out_bits(scores, y, clusters) == pytest.approx(bits, abs=0.03)
        assert held_out_bits(scores, y, clusters).mean() == pytest.approx(bits.mean(), abs=1e-3)


# Verdicts --------------------------------------------------------------------------------------------
def test_gain_and_interval_are_those_of_a_paired_t_test() -> None:
    y, one, other = world(500, 4)
    problem = problem_of(y, 300)
    judged = bits_verdict(
        problem, split(other, 300), {"e": split(one, 300)}, model_baselines=("e",), min_gain=None
    )
    odds = class_odds(problem, split(other, 300), {"e": split(one, 300)})
    saved = row_bits(y[300:], odds.surface) - row_bits(y[300:], odds.full)
    test = ttest_1samp(saved, 0).confidence_interval()
    assert judged.gain == pytest.approx(saved.mean())
    assert judged.ci95 == pytest.approx((test.low, test.high))
    assert judged.label == STRUCTURE
    assert judged.min_gain == pytest.approx(0.01 * entropy_bits(y[:300]))
    assert judged.entropy == pytest.approx(
        row_bits(y[300:], np.tile(shares(y[:300]), (len(y) - 300, 1))).mean()
    )
    assert judged.left == pytest.approx(judged.entropy - judged.surface) and 0 < judged.gain_of_rest <= 1
    assert judged.surface + judged.gain == pytest.approx(
        (row_bits(y[300:], odds.shares) - row_bits(y[300:], odds.full)).mean()
    )


def test_rows_of_a_cluster_are_one_observation() -> None:
    rng = np.random.default_rng(5)
    values, clusters = rng.normal(size=40), np.arange(40)
    once = mean_of(values, clusters).ci95
    eight = mean_of(np.repeat(values, 8), np.repeat(clusters, 8)).ci95
    assert eight == pytest.approx(once)
    assert np.isnan(mean_of(values, np.zeros(40, int)).ci95).all()


def test_the_words_follow_the_evidence() -> None:
    y, one, other = world(2000, 6)
    problem, beside = problem_of(y, 1000), {"e": split(one, 1000)}
    same = bits_verdict(problem, beside["e"], beside, model_baselines=("e",), min_gain=None)
    assert same.label == NO_BETTER
    missing = bits_verdict(problem, split(other, 1000), beside, model_baselines=(), min_gain=None)
    assert missing.label == MISSING
    rare = y.copy()
    rare[1000:] = 0
    rare[1000:1002] = 1
    judged = bits_verdict(
        problem_of(rare, 1000), split(other, 1000), beside, model_baselines=("e",), min_gain=None
    )
    assert judged.label == HARDLY_VARIES


def test_what_adds_nothing_to_any_row_has_no_interval() -> None:
    """A probe that goes against the target, which no stack takes, is no sum that an interval could be of."""
    y, one, _ = world(500, 6)
    problem, beside = problem_of(y, 480), {"e": split(one, 480)}
    against = Predictions(-beside["e"].out_of_fold, -beside["e"].test)
    for metric in ("bits", "r2"):
        settings = JudgeSettings(score=metric, min_gain=0.01)
        judged = judge_predictions(problem, against, beside, settings, model_baselines=("e",))
        assert judged.gain == judged.se == 0 and judged.label == NO_BETTER and judged.adds_nothing
        text = judged.summary()
        unit = judged.unit if metric == "r2" else "bits a row"
        assert text.startswith(
            f"{NO_BETTER}: gain +0.000 {unit}: the probe adds nothing to any row, and no interval can be had"
        )
        assert "95% interval" not in text and "the interval is as wide" not in text
        assert "only 20.0 effective clusters of test rows (fewer than 30)" in text.splitlines()[-1]
        idle = judge_predictions(problem, against, beside, settings, model_baselines=("e",), width=500)
        assert idle.label == f"{NOT_DECIDED}: the probe's best fit is the training mean"
        assert np.isnan(idle.ci95).all() and "interval can be had" in idle.summary().splitlines()[0]
        # in bits it would be computed from rows that vary by nothing
        assert bool(detection(idle, None, None, "")) == (metric == "r2")


def test_thirty_classes_are_one_score() -> None:
    """A part that single classes' R² do not show for want of rows, and one pooled log-loss does."""
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 30, 900)
    y = np.eye(30)[labels]
    one, other = (0.15 * y + 0.1 * rng.normal(size=y.shape) for _ in range(2))
    beside = {"e": split(one, 600)}
    judged = bits_verdict(
        problem_of(y, 600), split(other, 600), beside, model_baselines=("e",), min_gain=None
    )
    assert judged.label == STRUCTURE
    assert set(judged.gain_by_target) == {f"c{k}" for k in range(30)}
    shares = y[600:].mean(axis=0)
    assert judged.gain == pytest.approx(
        np.nansum(shares * np.array(list(judged.gain_by_target.values()))), rel=1e-6
    )


# Scores beside ---------------------------------------------------------------------------------------
def test_scores_are_scikit_learns() -> None:
    y, one, other = world(600, 8)
    problem = problem_of(y, 300)
    odds = class_odds(problem, split(other, 300), {"e": split(one, 300)})
    scores = class_scores_of(odds, y[:300], y[300:], np.arange(300))
    assert scores.auroc == pytest.approx(roc_auc_score(y[300:, 0], odds.probe[:, 0]))
    assert scores.brier == pytest.approx(brier_score_loss(y[300:, 0], odds.probe[:, 0]))
    assert scores.accuracy == pytest.approx(((odds.probe > 0.5) == y[300:]).mean())
    taken = odds.probe[:, 0] > (y[:300].sum() + 0.5) / 301
    assert scores.balanced_accuracy == pytest.approx(balanced_accuracy_score(y[300:, 0], taken))
    assert scores.auroc_ci95[0] < scores.auroc < scores.auroc_ci95[1]


def test_terms_of_the_auroc_are_its_jackknife() -> None:
    """DeLong's variance is the infinitesimal jackknife's: leaving a row out moves the AUROC by its term."""
    y, _, score = world(60, 9)
    area, terms = auroc_terms(y, score)
    assert terms.sum() == pytest.approx(0, abs=1e-12)
    for row in range(0, 60, 7):
        rest = np.arange(60) != row
        moved = area - roc_auc_score(y[rest, 0], score[rest, 0])
        size = (y == y[row]).sum()
        assert moved == pytest.approx(terms[row] * size / (size - 1), abs=1e-12)


def test_a_share_of_independent_rows_has_wilsons_interval() -> None:
    right = np.r_[np.ones(450), np.zeros(50)]
    low, high = share_interval(right, np.arange(500))
    assert (low, high) == pytest.approx(wilson(450, 500), abs=2e-3)
    wide = share_interval(np.repeat(right, 4), np.repeat(np.arange(500), 4))
    assert wide == pytest.approx((low, high), abs=1e-3)


# The whole sweep ---------------------------------------------------------------------------------------
def inputs(labels: np.ndarray, n: int = 240) -> tuple[Activations, pd.DataFrame, Activations]:
    rng = np.random.default_rng(10)
    X, X0 = rng.normal(size=(2, n, 16))
    X[:, 0] += 3 * labels
    X0[:, 0] += labels
    frame = pd.DataFrame({"name": [f"{k} thing" for k in range(n)]})
    rows = pd.DataFrame({"source": np.arange(n), "text": frame["name"]})
    at = [f"blocks.{k}.hook_resid_post" for k in (0, 1)]
    both = {at[0]: torch.tensor(X0), at[1]: torch.tensor(X)}
    return Activations(both, rows), frame, Activations({at[0]: torch.tensor(X0)}, rows[["source"]])


@pytest.fixture(scope="module")
def binary() -> tuple[Findings, Activations, pd.DataFrame, Baselines]:
    truth = np.random.default_rng(11).random(240) < 0.4
    activations, frame, block_0 = inputs(truth)
    frame["animate"] = np.where(truth, "alive", "dead")
    table = Table(frame, text="name", target="animate", positive="alive")
    beside = Baselines(text_digest(table), {"block_0": block_0})
    return sweep(activations, table, baselines=beside, seed=1, crossfit=False), activations, frame, beside


@pytest.mark.slow
def test_yes_or_no_is_judged_in_bits(binary, tmp_path) -> None:
    findings = binary[0]
    assert findings.verdict.metric == findings.settings.score == "bits"
    assert findings.verdict.label == STRUCTURE
    assert findings.settings.min_gain == findings.verdict.min_gain
    assert findings.chosen_layer == 1
    text = findings.summary()
    first = text.splitlines()[0]
    assert first.startswith(f"{STRUCTURE}: gain +") and "bits a row" in first
    assert "animate: 1 is 'alive', 0 is 'dead' (positive='dead' turns it round)" in text
    for word in ("AUROC", "accuracy", "balanced accuracy", "Brier skill", "of test rows are 'alive'"):
        assert word in text
    assert "R²" not in text
    findings.save(tmp_path / "f")
    again = Findings.load(tmp_path / "f")
    assert again.summary() == text
    assert again.class_scores == findings.class_scores and again.settings == findings.settings


@pytest.mark.slow
def test_r2_stays_to_be_had(binary) -> None:
    findings, activations, frame, beside = binary
    table = Table(frame, text="name", target="animate", positive="alive")
    squares = sweep(activations, table, baselines=beside, score="r2", crossfit=False)
    assert squares.verdict.metric == "r2" and squares.verdict.min_gain == 0.01
    assert "R²" in squares.summary().splitlines()[0]
    assert findings.verdict_in_r2.gain == pytest.approx(squares.verdict.gain)
    assert squares.verdict_in_r2 is squares.verdict
    with pytest.raises(ValueError, match="score='bits' is for classes"):
        sweep(activations, Table(frame.assign(z=np.arange(240.0)), text="name", target="z"), score="bits")


@pytest.mark.slow
def test_which_class_is_one_can_be_chosen(binary) -> None:
    _, _, frame, _ = binary
    tables = [Table(frame, text="name", target="animate", positive=p) for p in ("alive", "dead", None)]
    assert [t.classes for t in tables] == [("dead", "alive"), ("alive", "dead"), ("alive", "dead")]
    assert (tables[0].y + tables[1].y == 1).all()
    with pytest.raises(ValueError, match="positive='ghost': expected 'alive' or 'dead'"):
        Table(frame, text="name", target="animate", positive="ghost")
    with pytest.raises(ValueError, match="none of which is class 1"):
        Table(frame.assign(k=[f"k{i % 3}" for i in range(240)]), target="k", positive="k1")
    with pytest.raises(ValueError, match="the target holds numbers"):
        Table(frame.assign(k=np.arange(240.0)), target="k", positive=1)


@pytest.mark.slow
def test_which_class_is_one_changes_no_verdict(binary) -> None:
    findings, activations, frame, beside = binary
    other = sweep(activations, Table(frame, text="name", target="animate"), baselines=beside, crossfit=False)
    assert other.verdict.gain == pytest.approx(findings.verdict.gain, abs=1e-9)
    assert other.class_scores.auroc == pytest.approx(findings.class_scores.auroc)


@pytest.mark.slow
def test_few_whole_numbers_are_told_with_the_way_to_classes(binary) -> None:
    _, activations, frame, beside = binary
    table = Table(frame.assign(k=np.arange(240) % 4), text="name", target="k")
    text = sweep(activations, table, baselines=beside, crossfit=False).summary()
    assert "k: 4 whole numbers, 0 to 3, are taken as numbers and judged by R²; kind='ordinal'" in text
    table = Table(frame.assign(k=np.arange(240) % 2), text="name", target="k")
    text = sweep(activations, table, baselines=beside, crossfit=False).summary()
    assert "k: 0 and 1 are no and yes" in text and "kind='numeric' judges them as numbers" in text


def test_settings_of_before_are_of_r2() -> None:
    saved = {"alphas": None, "min_gain": 0.01, "draws": 2000, "seed": 0}
    assert JudgeSettings.from_json(saved) == JudgeSettings(min_gain=0.01, crossfit=False)
    bits = replace(JudgeSettings(), score="bits", crossfit=False)
    assert JudgeSettings.from_json({**saved, "min_gain": None, "score": "bits"}) == bits
    with pytest.raises(ValueError, match="score='brier'"):
        JudgeSettings(score="brier")  # type: ignore[arg-type]


@pytest.mark.slow
def test_what_goes_on_from_findings_in_bits_speaks_bits(binary) -> None:
    findings = binary[0]
    problem, beside = findings.problem, findings.baseline_predictions
    compared = compare(findings, findings.at("block_0"))
    ours = class_test_scores(problem, findings.predictions_at())["bits"]
    theirs = class_test_scores(problem, beside["block_0"])["bits"]
    assert compared.metric == "bits" and ": bits +" in compared.summary().splitlines()[0]
    assert (compared.score_a, compared.score_b) == pytest.approx((ours, theirs))
    assert compared.difference == pytest.approx(ours - theirs)
    assert compared.by_target["difference"].tolist() == pytest.approx([compared.difference])
    erased = erase(findings, progress=False)
    assert erased.metric == "bits" and erased.min_gain == pytest.approx(findings.verdict.min_gain)
    assert "bits" in erased.summary() and any("(bits)" in c for c in erased.tables()[LAYERS])
    assert IN_R2 in controls(findings, seeds=1, progress=False).summary()


def test_classes_are_compared_one_by_one_in_bits() -> None:
    rng = np.random.default_rng(4)
    y = np.eye(3)[np.arange(90) % 3]
    one, other = (y + s * rng.normal(size=y.shape) for s in (0.5, 1.0))
    rows = np.arange(90)
    problem = Problem(rows, y, rows >= 60, rows, ("a", "b", "c"))
    given = [predicted_rows(n, problem, (None,) * 3, p[60:], p[:60]) for n, p in (("1", one), ("2", other))]
    compared = compare(*given)
    assert compared.metric == "bits" and compared.label == "the first is better"
    shares = problem.y[60:].mean(axis=0)
    assert compared.by_target["difference"] @ shares == pytest.approx(compared.difference)


@pytest.mark.slow
def test_the_command_line_sets_a_monitor_on_saved_findings(binary, tmp_path, capsys) -> None:
    binary[0].save(tmp_path / "f")
    words = ["monitor", str(tmp_path / "f"), "--false-positive-rate", "0.1", "--out", str(tmp_path / "m")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "false-positive rate 0.1: catches" in said and "of 'alive'" in said
    assert (tmp_path / "m" / "report.html").is_file()
