"""Confounders: in the surface, within their levels, out of the target, by class, and those nobody named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.metrics import log_loss, r2_score

from graticule import Activations, Findings, Table, cross_fit, holdouts, judge_on, sweep
from graticule.probes.calibration.components import Mixture
from graticule.probes.calibration.instrument import Instrument
from graticule.probes.core.among_alike import gain_among_alike
from graticule.probes.core.crossfit import compared
from graticule.probes.core.fit import Problem
from graticule.probes.core.labels import STRUCTURE
from graticule.probes.core.logit_stack import row_bits
from graticule.probes.probe import asked_of
from graticule.probes.surface.baselines import Baselines, text_digest
from graticule.probes.surface.confounds import (
    CONFOUNDS,
    additive_confounds,
    confound_places,
    fit_confounds,
)
from graticule.probes.tables.columns import TableError
from graticule.probes.tables.confounders import built_in, confounder_frames
from graticule.probes.tables.groups import group_folds

POINT = "blocks.0.hook_resid_post"
MIXING = np.random.default_rng(7).normal(size=(8, 20))


def findings(
    seed: int = 0,
    concept: float = 0.0,
    kind: str = "binary",
    name: str = "first",
    texts: Any = None,
    crossfit: bool = False,
    **how: Any,
) -> Findings:
    """400 rows whose target follows the source, which activations hold and no baseline does."""
    rng = np.random.default_rng(seed)
    n = 400
    source = rng.choice([-1.0, 1.0], n)
    hidden = rng.normal(size=n)
    value = source + concept * hidden + 0.6 * rng.normal(size=n)
    frame = pd.DataFrame({
        "y": np.where(value > 0, "yes", "no") if kind == "binary" else value,
        "source": np.where(source > 0, "web", "book"),
        "size": source + 0.1 * rng.normal(size=n),
    })  # fmt: skip
    if texts is not None:
        frame["text"] = [texts(i, one, rng) for i, one in enumerate(source)]
    table = Table(frame, target="y", text=None if texts is None else "text", name=name, **how)
    rows = np.column_stack([source, hidden, rng.normal(size=(n, 6))]) @ MIXING + 0.5 * rng.normal(
        size=(n, 20)
    )
    activations = Activations.from_tensors({POINT: rows.astype(np.float32)})
    if texts is not None:
        activations = activations.with_texts(table.texts)
    blind = {"mean_embedding": Activations.from_tensors({"hook_embed": rng.normal(size=(n, 4))})}
    return sweep(
        activations,
        table,
        baselines=Baselines(text_digest(table), blind, False),
        crossfit=crossfit,
        progress=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["binary", "numeric"])
def test_of_all_rows_a_confounder_alone_is_scored_as_the_verdict_is(kind: str) -> None:
    """It stood beside the scores of another part of the rows: what it says is its levels' means, by fold."""
    swept = findings(kind=kind, confounds="source", crossfit=True)
    (line,), problem = swept.confounders, swept.problem
    level, y = swept.inputs.table.frame["source"].to_numpy() == "web", problem.y[:, 0]
    said, mean = np.zeros((2, 2, len(y)))
    for repeat in range(2):
        fold = group_folds(problem.clusters, 5, repeat)
        for k in range(5):
            for rows, values in ((level, said), (~level, said), (level | True, mean)):
                values[repeat, rows & (fold == k)] = y[rows & (fold != k)].mean()
    if kind == "binary":
        saved = [log_loss(y, mean[r]) - log_loss(y, said[r]) for r in range(2)]
        assert line.alone == pytest.approx(np.mean(saved) / np.log(2), abs=0.01)
    else:
        assert line.alone == pytest.approx(np.mean([r2_score(y, one) for one in said]), abs=0.01)
    assert line.probe == swept.verdict.score
    assert "on the one held-out part, within 2 levels of source: gain" in swept.summary()
    assert "on the one held-out part, of the target less what source predicts" in swept.summary()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["binary", "numeric"])
@pytest.mark.parametrize("named", ["source", "size"])
def test_what_the_source_tells_is_no_structure_once_it_is_declared(kind: str, named: str) -> None:
    assert findings(kind=kind).verdict.label == STRUCTURE
    of_source = findings(kind=kind, confounds=named)
    assert of_source.verdict.label != STRUCTURE
    (line,) = of_source.confounders
    assert line.declared and line.reaches and line.low <= 0.02
    assert any(f"{named} alone reaches" in warning for warning in of_source.verdict.warnings)
    assert of_source.residualised is not None and of_source.residualised.label != STRUCTURE
    (answer,) = (one for one in of_source.summary().splitlines() if "or the concept?" in one)
    assert answer.strip().startswith(f"{named}, ") and "the probe reads what none" not in answer


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["binary", "numeric"])
def test_a_concept_beside_the_source_is_structure_still(kind: str, tmp_path) -> None:
    both = findings(kind=kind, concept=1.0, confounds=["source", "size"])
    assert both.verdict.label == STRUCTURE
    assert [line.name for line in both.confounders] == ["source", "size"]
    assert all(line.low > 0 and not line.reaches for line in both.confounders)
    both.save(tmp_path / "findings")
    again = Findings.load(tmp_path / "findings")
    assert again.confounders == both.confounders and again.residualised == both.residualised
    assert again.summary() == both.summary() and "within 2 levels of source: gain" in again.summary()
    assert "source, size, or the concept? the probe reads what none of these say" in again.summary()
    swept = both.inputs
    whole = again.with_inputs(swept.activations, swept.table, swept.baselines)
    assert whole.inputs.judge(both.predictions_at()).gain == both.verdict.gain
    bare = swept.table.derived(confounds={})
    with pytest.raises(ValueError, match="digests differ"):
        again.with_inputs(swept.activations, bare, swept.baselines)
    assert {"confounds": ("source", "size")}.items() <= asked_of(swept.table).items()
    assert "confounds" not in asked_of(bare)


def test_the_gain_within_levels_is_of_stacks_with_the_levels_means_taken_out() -> None:
    both = findings(kind="numeric", concept=1.0, confounds=["source"])
    problem, level = both.problem, both.inputs.table.frame["source"].to_numpy()
    train, test = problem.train, problem.test

    def centred(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return (
            pd.Series(values[:, 0]) - pd.Series(values[:, 0]).groupby(level[rows]).transform("mean")
        ).to_numpy()

    members = {**both.baseline_predictions, "probe": both.predictions_at()}
    left = {n: (centred(p.out_of_fold, train), centred(p.test, test)) for n, p in members.items()}
    left = {n: pair for n, pair in left.items() if pair[0] @ centred(problem.y[train], train) > 0}
    y, y_test = centred(problem.y[train], train), centred(problem.y[test], test)
    scores = []
    for names in ([n for n in left if n != "probe"], list(left)):
        X, X_test = (
            np.column_stack([0 * own, *(left[n][part] for n in names)])
            for part, own in enumerate((y, y_test))
        )
        scores.append(r2_score(y_test, LinearRegression().fit(X, y).predict(X_test)))
    assert both.confounders[0].gain == pytest.approx(scores[1] - scores[0], abs=1e-9)


@pytest.mark.slow
def test_the_gain_among_the_alike_is_of_rows_less_the_mean_of_their_nearest_of_other_clusters() -> None:
    both = findings(kind="numeric", concept=1.0, confounds=["source", "size"], texts=TEXTS["length"])
    inputs, problem = both.inputs, both.problem
    rows, frame = problem.test, both.inputs.table.frame
    ordered = np.sort(frame["size"].to_numpy()[problem.train])
    rank = np.sqrt(12) * np.searchsorted(ordered, frame["size"].to_numpy()[rows]) / len(ordered)
    y = problem.y[rows]
    said = {"surface": 0.2 * y, "full": 0.9 * y + 0.1 * np.sin(np.arange(len(rows)))[:, None]}
    source, clusters = frame["source"].to_numpy()[rows], problem.clusters[rows]
    left = []
    for i in range(len(rows)):
        apart = np.square(rank - rank[i]) + 2.0 * (source != source[i])
        apart[clusters == clusters[i]] = np.inf
        near = np.flatnonzero(apart <= min(np.sort(apart)[2], 1.0) + 1e-9)
        if apart.min() < 1:
            left.append([v[i, 0] - v[near, 0].mean() for v in (y, said["surface"], said["full"])])
    own, surface, full = np.array(left).T
    gain, count = gain_among_alike(inputs, said, rows)
    assert count == len(left)
    expected = r2_score(own, full) - max(r2_score(own, surface), r2_score(own, 0 * own))
    assert float(gain.value) == pytest.approx(expected, abs=1e-6)


def test_places_are_apart_as_if_each_word_had_an_axis() -> None:
    rng = np.random.default_rng(4)
    n = 60
    size = np.where(rng.random(n) < 0.1, np.nan, rng.normal(size=n))
    pair = pd.DataFrame({"a": rng.choice([*"uvwxyz"], n), "b": rng.normal(size=n)})
    frames = {"size": pd.DataFrame({"size": size}), "pair": pair}
    places = confound_places(frames, np.arange(n), np.arange(40))

    def rank(values: np.ndarray) -> np.ndarray:
        seen = values[:40][~np.isnan(values[:40])]
        below = [(np.sum(seen < v) + np.sum(seen <= v)) / 2 / len(seen) for v in values]
        return np.sqrt(12) * np.where(np.isnan(values), 0.5, below)

    axes = np.column_stack([
        rank(size), np.sqrt(2) * np.isnan(size), np.sqrt(0.5) * pd.get_dummies(pair["a"]).to_numpy(float),
        np.sqrt(0.5) * rank(pair["b"].to_numpy()),
    ])  # fmt: skip
    some = rng.permutation(n)[:20]
    expected = np.square(axes[:, None] - axes[None, some]).sum(axis=-1)
    np.testing.assert_allclose(places.apart(places.at(some)), expected, atol=1e-12)


def test_of_one_part_the_stacks_are_those_of_its_verdict() -> None:
    swept = findings(concept=1.0, confounds=["source"])
    inputs, problem = swept.inputs, swept.problem
    probe, beside = swept.predictions_at(), swept.baseline_predictions
    said = compared(inputs, problem, swept.chosen_point, probe, 1.0, beside).predicted
    y = problem.y[problem.test]
    bits = row_bits(y, said["surface"]) - row_bits(y, said["full"])
    assert bits.mean() == pytest.approx(swept.verdict_of_split.gain, abs=1e-9)


WORLDS = {
    "product of numbers": lambda a, b: a * b,
    "many periods": lambda a, b: np.sin(4 * a),
    "words that interact": lambda a, b: np.sign(a) * np.sign(b),
}


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_confounders_are_read_whatever_the_form_of_what_they_tell(world: str) -> None:
    rng = np.random.default_rng(0)
    n = 1000
    a, b = rng.normal(size=(2, n))
    effect = WORLDS[world](a, b)
    y = (effect + 0.7 * effect.std() * rng.normal(size=n))[:, None]
    problem = Problem(np.arange(n), y, np.arange(n) >= 160, np.arange(n), ("y",))
    words = "words" in world
    frames = {
        name: pd.DataFrame({name: np.where(c > 0, "over", "under") if words else c})
        for name, c in (("a", a), ("b", b))
    }
    test = problem.test
    read, line = fit_confounds(frames, problem)
    assert r2_score(effect[test], read.test[:, 0]) > 0.7
    assert r2_score(effect[test], additive_confounds(frames, problem).test[:, 0]) < 0.5
    assert line["validation"] == pytest.approx(r2_score(y[problem.train], read.out_of_fold))


@pytest.mark.slow
@pytest.mark.parametrize("concept", [0.0, 1.5])
def test_of_forty_levels_the_gain_must_be_shown_among_rows_of_one(concept: float) -> None:
    rng = np.random.default_rng(4)
    n = 240
    level, hidden = rng.integers(0, 40, n), rng.normal(size=n)
    effect = rng.normal(size=40)[level]
    y = effect + concept * hidden + 0.6 * rng.normal(size=n)
    table = Table(pd.DataFrame({"y": y, "c": [f"c{i}" for i in level]}), target="y", confounds=["c"])
    rows = np.column_stack([effect, hidden, rng.normal(size=(n, 6))]) @ MIXING
    blind = {"mean_embedding": Activations.from_tensors({"hook_embed": rng.normal(size=(n, 4))})}
    swept = sweep(
        Activations.from_tensors({POINT: rows.astype(np.float32)}),
        table,
        baselines=Baselines(text_digest(table), blind, False),
        progress=False,
    )
    if concept:
        assert swept.verdict.label == STRUCTURE
        return
    assert swept.verdict.ci95[0] > 0  # a score per level is more than the few rows of it show
    assert swept.verdict.label == "not decided: the gain is not shown among rows that are alike in c"
    assert any("rows have any that are alike in c" in warning for warning in swept.verdict.warnings)
    assert cross_fit(swept, progress=False).label == swept.verdict.label


def test_times_are_numbers_of_days() -> None:
    days = [*range(0, 20, 2), np.nan]
    start = pd.Timestamp("2020-01-01", tz="Europe/Berlin")
    spans = pd.Series(pd.to_timedelta(days, unit="D"))
    at = start.tz_localize(None) + spans
    for values in (at, start + spans, spans, at.dt.date, at.dt.to_period("D"), at.astype(object)):
        frame = pd.DataFrame({"c": values})
        made = confounder_frames(["c"], frame, None, np.zeros(len(frame)))["c"]["c"]
        np.testing.assert_allclose(made, days)


@pytest.mark.slow
def test_balance_is_the_share_of_every_class() -> None:
    both = findings(confounds=["source", "size"])
    frame = both.inputs.table.frame
    share = (frame.groupby("y")["source"].value_counts(normalize=True)).to_dict()
    source, size = (line.balance for line in both.confounders)
    assert source["web"] == pytest.approx({name: share[name, "web"] for name in ("no", "yes")})
    assert size["mean"] == pytest.approx(frame.groupby("y")["size"].mean().to_dict())
    numbers = findings(kind="numeric", confounds=["source", "size"])
    frame = numbers.inputs.table.frame
    expected = np.corrcoef(frame["y"], frame["size"])[0, 1]
    assert numbers.confounders[1].balance["correlation"]["y"] == pytest.approx(expected)
    assert any(caption.startswith("Confounders by class") for caption in numbers.tables())


@pytest.mark.slow
def test_what_goes_on_from_findings_respects_confounders() -> None:
    first = findings(confounds=["source"], concept=1.0)
    assert CONFOUNDS in first.baseline_predictions
    assert "without confounders, which are not refitted" in holdouts(first, "source", n_bootstrap=20).note
    fitted = cross_fit(findings(confounds=["source"]), n_repeats=1, progress=False)
    assert fitted.label != STRUCTURE
    second = findings(1, confounds=["source"], name="second")
    alone = judge_on(findings(), findings(1, name="second")).scored.iloc[0]
    beside = judge_on(findings(confounds=["source"]), second).scored.iloc[0]
    assert alone["label"] == "carries" and beside["label"] != "carries"
    with pytest.raises(ValueError, match=r"'first' has the confounder 'source', which 'second' lacks"):
        judge_on(first, findings(1, name="second"))


TEXTS = {
    "length": lambda i, s, rng: " ".join(rng.choice([*"abcdefghij"], 6 if s > 0 else 5)),
    "digits": lambda i, s, rng: "".join(rng.choice([*"abcdefghij"], 5)) + ("7" if s > 0 else "k"),
    "case": lambda i, s, rng: "".join(rng.choice([*("ABCDEFGHIJ" if s > 0 else "abcdefghij")], 5)),
    "punctuation": lambda i, s, rng: "".join(rng.choice([*"abcdefghij"], 5)) + ("!" if s > 0 else "k"),
    "script": lambda i, s, rng: "".join(rng.choice([*("абвгдежзий" if s > 0 else "abcdefghij")], 5)),
    "template": lambda i, s, rng: f"the {rng.random():.3f} {'of' if s > 0 else 'in'} {rng.random():.3f}",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXTS)
def test_a_built_in_confounder_is_named_without_being_asked_for(name: str) -> None:
    undeclared = findings(texts=TEXTS[name])
    assert name in [line.name for line in undeclared.confounders if not line.declared]
    (warning,) = [w for w in undeclared.verdict.warnings if "what is read may be that" in w]
    assert name in warning.split(" reaches ")[0]
    declared = findings(texts=TEXTS[name], confounds=[name])
    assert declared.verdict.label != STRUCTURE
    concept = findings(texts=lambda i, s, rng: TEXTS[name](i, rng.choice([-1.0, 1.0]), rng))
    assert not concept.confounders


@pytest.mark.parametrize("drifts", [False, True])
def test_the_place_in_the_table_is_named_where_the_probe_reads_it_and_not_where_rows_are_sorted(
    drifts: bool,
) -> None:
    rng = np.random.default_rng(0)
    place = np.linspace(-1, 1, 300)
    y = place + 0.4 * rng.normal(size=300) if drifts else np.sort(rng.normal(size=300))
    texts = ["".join(rng.choice([*"abcdefghij"], 6)) for _ in y]
    table = Table(pd.DataFrame({"y": y, "text": texts}), text="text", target="y")
    rows = np.column_stack([place if drifts else y, rng.normal(size=(300, 5))]) + 0.3 * rng.normal(
        size=(300, 6)
    )
    activations = Activations.from_tensors({POINT: rows.astype(np.float32)}, texts=texts)
    swept = sweep(activations, table, progress=False)
    assert [line.name for line in swept.confounders] == ["position"] * drifts


def test_templates_are_what_many_texts_share() -> None:
    rng = np.random.default_rng(0)
    nouns = ["".join(rng.choice([*"abcdefghij"], 6)) for _ in range(60)]
    texts = [
        f"the {a} is in {b}" if i % 2 else f"{a} and {b}?"
        for i, (a, b) in enumerate(zip(nouns, nouns[::-1], strict=True))
    ]
    frame = built_in(texts, np.linspace(0, 1, 60))["template"]
    assert set(frame["template"]) == {"the _ is in _", "_ and _"}
    assert set(frame["begins"]) == {"the", "_"} and set(frame["ends"]) == {"_"}


def test_what_is_no_confounder_is_refused_in_a_line() -> None:
    frame = pd.DataFrame({"y": np.arange(20.0), "x": "same", "id": [f"n{i}" for i in range(20)]})
    for name, message in (
        ("y", "confounds 'y' is the target"),
        ("x", "'x' is the same in all rows"),
        ("id", "'id' is another word in every row"),
        ("length", "'length' is computed from the texts"),
        ("sorce", "no column 'sorce' in the table, which has y, x, id; computed from the texts are length"),
    ):
        with pytest.raises((ValueError, KeyError), match=message):
            Table(frame, target="y", confounds=name)


@pytest.mark.slow
def test_missing_values_of_a_confounder_are_a_level() -> None:
    first = findings(kind="numeric")
    table = first.inputs.table
    frame = table.frame.assign(source=table.frame["source"].where(table.frame.index % 7 > 0))
    frame["size"] = frame["size"].where(frame.index % 5 > 0)
    again = Table(frame, target="y", confounds=["source", "size"])
    swept = sweep(
        first.inputs.activations, again, baselines=first.inputs.baselines, crossfit=False, progress=False
    )
    assert [line.levels for line in swept.confounders] == [3, 6]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1, 2]] * 8, "confounds 's' holds .1, 2.: expected a word or a number a row"),
        ([1.0, 2.0, np.inf] + [0.0] * 5, "confounds 's' is infinite in row 2: expected finite numbers"),
    ],
)
def test_what_is_no_confounder_is_refused_by_its_row(values: list, message: str) -> None:
    frame = pd.DataFrame({"w": [f"word {i}" for i in range(8)], "y": np.arange(8.0), "s": values})
    with pytest.raises(TableError, match=message):
        Table(frame, "w", "y", confounds=["s"])


def test_calibrate_tries_its_targets_with_the_confounders() -> None:
    """Of the real target their ridge says there what it says in the surface, but for the trees."""
    swept = findings(kind="numeric", confounds=["source", "size"])
    problem = swept.problem
    instrument = Instrument.of(swept)
    order = np.concatenate([problem.train, problem.test])
    y = (problem.y - problem.y[problem.train].mean(axis=0))[order].T
    chosen = instrument.chosen(y, Mixture(np.zeros((1, 1), int), np.ones((1, 1))), [CONFOUNDS])[CONFOUNDS]
    own = additive_confounds(swept.inputs.table.confounds, problem)
    mean = problem.y[problem.train].mean()
    assert CONFOUNDS in instrument.baselines
    assert chosen.train[0] == pytest.approx(own.out_of_fold[:, 0] - mean, abs=1e-5)
    assert chosen.test[0] == pytest.approx(own.test[:, 0] - mean, abs=1e-5)
