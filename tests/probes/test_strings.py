"""What reads the texts alone: spelling, an additive reader of it, boosted trees, in any order of rows."""

from __future__ import annotations

import unicodedata
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor

from graticule import Activations, Table, sweep
from graticule.probes.core.inputs import problem_of
from graticule.probes.core.verdict import BETTER_BY_LITTLE, NO_BETTER
from graticule.probes.scores.metrics import mean_r2
from graticule.probes.surface.baselines import Baselines, text_digest
from graticule.probes.surface.joint import JOINT
from graticule.probes.surface.spelling import TextFeatures, spelling
from graticule.probes.surface.strings import SPELLING, TFIDF, TREES, StringReader, fit_strings
from graticule.probes.surface.trees import boosted_predictions, boosted_without, plan_of
from graticule.probes.tables.groups import by_content, group_folds

TEXTS = [
    "Tancredo Neves",
    "Łódź (2nd) 12",
    "anna",
    "  two  spaces ",
    "北京 市",
    "O'Neill-Smith, Jr.",
    "ÉCOLE e",
    "9",
]


def made_up(rng: np.random.Generator, n: int) -> list[str]:
    """Names of one to three words of letters drawn evenly."""
    words = ["".join(chr(97 + c) for c in rng.integers(0, 26, rng.integers(2, 10))) for _ in range(3 * n)]
    names = [" ".join(words[3 * i : 3 * i + rng.integers(1, 4)]).title() for i in range(n)]
    return list(dict.fromkeys(names))


def letters_of(text: str) -> list[str]:
    """Latin letters, one for every character that has one."""
    special = {"ł": "l"}
    bases = (special.get(c.lower()) or unicodedata.normalize("NFKD", c.lower())[:1] for c in text)
    return [b for b in bases if "a" <= b <= "z"]


def test_spelling_is_what_one_text_at_a_time_says() -> None:
    values = pd.DataFrame(spelling(TEXTS).values, columns=list(spelling(TEXTS).names))
    for text, row in zip(TEXTS, values.to_dict("records"), strict=True):
        letters, words = letters_of(text), text.split()
        ranks = [ord(c) - 96 for c in letters]
        expected = {
            "characters": len(text),
            "bytes": len(text.encode()),
            "upper_characters": sum(map(str.isupper, text)),
            "digit_characters": sum(c.isnumeric() for c in text),
            "space_characters": sum(map(str.isspace, text)),
            "distinct_characters": len(set(text)),
            "letters": len(letters),
            "count_e": letters.count("e"),
            "distinct_letters": len(set(letters)),
            "vowels": sum(c in "aeiou" for c in letters),
            "rank_sum": sum(ranks),
            "rank_most": max(ranks, default=0),
            "rank_least": min(ranks, default=0),
            "letter_0": ranks[0] if ranks else 0,
            "letter_-1": ranks[-1] if ranks else 0,
            "letter_-2": ranks[-2] if len(ranks) > 1 else 0,
            "words": len(words),
            "longest_word": max(map(len, words)),
            "shortest_word": min(map(len, words)),
            "mean_word": np.mean([len(w) for w in words]),
            "word_0_characters": len(words[0]),
            "word_1_characters": len(words[1]) if len(words) > 1 else 0,
            "word_last_characters": len(words[-1]),
            "place_of_e": "".join(letters).find("e"),
            "first_code": ord(text[0]),
            "last_code": ord(text[-1]),
            "place_of_digit": next((i for i, c in enumerate(text) if c.isnumeric()), -1),
            "palindromes": sum(len(w) > 2 and w.lower() == w.lower()[::-1] for w in words),
            "count_-": text.count("-"),
        }
        for name, value in expected.items():
            assert row[name] == pytest.approx(value), (text, name)


def test_many_texts_are_read_as_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = spelling(TEXTS)
    monkeypatch.setattr("graticule.probes.surface.spelling._CHARACTERS_AT_ONCE", 12)
    parts = spelling(TEXTS)
    assert whole.names == parts.names and np.array_equal(whole.values, parts.values)
    assert np.array_equal(spelling(TEXTS[3:4]).values[0], whole.values[3])


def test_trees_are_scikit_learns_fold_by_fold() -> None:
    rng = np.random.default_rng(0)
    X, noise, row = rng.normal(size=(90, 4)), rng.normal(size=90), np.arange(90)
    X[:, 2], X[:, 3] = row % 20 == 4, row % 20 != 9  # but for three training rows constant: a leaf
    y = np.stack(
        [(X[:, 0] > 0) * (X[:, 1] + 2) * 3 + 5 * X[:, 2] - 5 * X[:, 3] + noise / 5 + 7, noise], axis=1
    )
    fold = group_folds(np.arange(60) // 2, 3, 0)
    predictions, info = boosted_predictions(X[:60], y[:60], fold, X[60:], disable=True)
    count = info["iterations"][0]
    assert count > 0 and info["iterations"][1] == 0
    assert np.ptp(predictions.test[:, 1]) == 0  # luck is left at the mean
    settings = {"learning_rate": plan_of(2)[1], "max_leaf_nodes": 8, "min_samples_leaf": 3, "max_bins": 64}
    oracle = HistGradientBoostingRegressor(**settings, max_iter=count, early_stopping=False, random_state=0)
    assert np.allclose(oracle.fit(X[:60], y[:60, 0]).predict(X[60:]), predictions.test[:, 0])
    for k in range(3):
        expected = oracle.fit(X[:60][fold != k], y[:60, 0][fold != k]).predict(X[:60][fold == k])
        assert np.allclose(expected, predictions.out_of_fold[fold == k, 0])


def test_trees_read_columns_with_missing_entries_and_bear_constant_ones() -> None:
    rng = np.random.default_rng(1)
    X, fold = rng.normal(size=(90, 2)), group_folds(np.arange(90), 3, 0)
    y = np.where(X[:, :1] > 0, 2.0, -2.0) + rng.normal(size=(90, 1)) / 5
    X[::9, 0] = np.nan
    out, _ = boosted_predictions(X[:60], y[:60], fold[:60], X[60:], disable=True)
    shared = boosted_without(X, y, fold)
    assert np.corrcoef(out.test[:, 0], y[60:, 0])[0, 1] > 0.5
    assert all(np.corrcoef(one.test[:, 0], y[fold == k, 0])[0, 1] > 0.5 for k, one in enumerate(shared))
    assert np.ptp(boosted_without(np.ones((90, 2)), y, fold)[0].test) == 0


def string_world(
    values: list[float], texts: list[str], seed: int = 0
) -> tuple[Table, Activations, Baselines]:
    """A table of texts, and activations that hold the target itself beside noise."""
    rng = np.random.default_rng(seed)
    y = np.array(values, np.float64)
    frame = pd.DataFrame({"text": texts, "y": y, "is_test": rng.random(len(y)) < 0.3})
    table = Table(frame, text="text", target="y", split="is_test", name="strings")
    z = (y - y.mean()) / y.std()
    X = np.column_stack([z, rng.normal(size=(len(y), 5))]).astype(np.float32)
    blind = {
        "block_0": Activations.from_tensors({"hook_embed": rng.normal(size=(len(y), 3)).astype(np.float32)})
    }
    return table, Activations.from_tensors({"hook_x": X}, texts=texts), Baselines(text_digest(table), blind)


FUNCTIONS = {
    "squared length": lambda t: len(t) ** 2,
    "product of ranks": lambda t: (ord(t[0].lower()) - 96) * (ord(t[-1]) - 96),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_the_text_decides_is_no_structure(name: str) -> None:
    """Activations that hold a nonlinear function of the text exactly say no more than the text does."""
    texts = made_up(np.random.default_rng(1), 500)
    table, activations, beside = string_world([FUNCTIONS[name](t) for t in texts], texts)
    findings = sweep(activations, table, baselines=beside, n_bootstrap=300, progress=False)
    assert findings.verdict.label in (NO_BETTER, BETTER_BY_LITTLE)
    assert {TFIDF, SPELLING, TREES} < set(findings.baselines)
    (line,) = (
        part
        for part in findings.summary().splitlines()
        if "surface is carried" in part or "the surface, each" in part or "no member" in part
    )
    assert SPELLING in line or TREES in line
    lacking = {k: v for k, v in findings.baseline_predictions.items() if k not in (SPELLING, JOINT)}
    alone = replace(findings.inputs, baseline_predictions=lacking).surface()
    problem = findings.problem
    assert mean_r2(problem.y[problem.test], alone.test) == pytest.approx(
        findings.baselines[SPELLING]["without"]
    )


@pytest.mark.slow
def test_the_order_of_rows_decides_nothing() -> None:
    """Rows in another order have the same folds, trees, resamples and words."""
    rng = np.random.default_rng(2)
    texts = made_up(rng, 160)
    values = [len(t) + rng.normal() * 4 for t in texts]
    table, activations, beside = string_world(values, texts)
    one = sweep(activations, table, baselines=beside, n_bootstrap=200, progress=False)
    order = rng.permutation(len(texts))
    turned = Table(
        table.frame.iloc[order].reset_index(drop=True), text="text", target="y", split="is_test", name="s"
    )
    rows = Activations.from_tensors(
        {"hook_x": activations["hook_x"].numpy()[order]}, texts=[texts[i] for i in order]
    )
    feature = beside.features["block_0"]["hook_embed"].numpy()[order]
    blind = Baselines(text_digest(turned), {"block_0": Activations.from_tensors({"hook_embed": feature})})
    other = sweep(rows, turned, baselines=blind, n_bootstrap=200, progress=False)
    assert one.verdict.label == other.verdict.label
    assert one.verdict.gain == pytest.approx(other.verdict.gain, abs=1e-7)
    assert one.verdict.ci95 == pytest.approx(other.verdict.ci95, abs=1e-6)
    trees = [np.sort(f.baseline_predictions[TREES].test[:, 0]) for f in (one, other)]
    assert np.array_equal(*trees)


def test_clusters_are_numbered_by_what_they_say() -> None:
    rng = np.random.default_rng(3)
    texts = [f"t{i}" for i in rng.permutation(30)]
    clusters = rng.integers(0, 8, 30)
    numbers = by_content(clusters, texts)
    order = rng.permutation(30)
    assert np.array_equal(by_content(clusters[order], [texts[i] for i in order]), numbers[order])
    pairs = set(zip(clusters.tolist(), numbers.tolist(), strict=True))
    assert len(pairs) == len(np.unique(clusters)) == len(np.unique(numbers))
    folds = group_folds(numbers, 3, 0)
    assert np.array_equal(group_folds(numbers[order], 3, 0), folds[order])


@pytest.mark.slow
def test_findings_of_fewer_readers_are_given_their_inputs(tmp_path) -> None:
    """Findings that were saved when TF-IDF was the only reader of texts load as before."""
    texts = made_up(np.random.default_rng(4), 60)
    table, activations, beside = string_world([len(t) for t in texts], texts)
    now = sweep(activations, table, baselines=beside, n_bootstrap=50, progress=False)
    kept = {
        name: one for name, one in now.baseline_predictions.items() if name not in (SPELLING, TREES, JOINT)
    }
    lines = {name: one for name, one in now.baselines.items() if name not in (SPELLING, TREES, JOINT)}
    old = replace(now, baseline_predictions=kept, baselines=lines, swept=None)
    again = type(now).load(old.save(tmp_path / "old")).with_inputs(activations, table, beside)
    assert set(again.inputs.baseline_predictions) == {TFIDF, "block_0"}


@pytest.mark.slow
def test_what_a_tokenizer_makes_of_texts_joins_the_features(tmp_path) -> None:
    texts = made_up(np.random.default_rng(5), 40)
    table, _, beside = string_world([len(t) for t in texts], texts)
    tokens = TextFeatures(("tokens",), np.arange(40.0)[: len(texts), None])
    saved = Baselines.load(replace(beside, tokens=tokens).save(tmp_path / "beside"))
    assert saved.tokens is not None and saved.tokens.names == tokens.names
    assert np.array_equal(saved.tokens.values, tokens.values)
    problem = problem_of(Activations.from_tensors({"hook_x": np.zeros((len(texts), 1))}), table)
    reader = StringReader.of(table, problem, saved.tokens)
    assert reader.features.names[-1] == "tokens"
    assert np.array_equal(reader.features.values[reader.place, -1], tokens.values[:, 0])
    (tmp_path / "beside" / "tokens.parquet").write_bytes(b"no table")
    with pytest.raises(ValueError, match="tokens"):
        Baselines.load(tmp_path / "beside")
    assert set(fit_strings(reader, False)[0]) == {TFIDF, SPELLING, TREES}
