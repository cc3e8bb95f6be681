"""Tables of tokens: spans against the tokenizer itself, rows against a pass, and what reads tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import cached, relative

import graticule
from graticule import Activations, Findings, baselines, capture, sweep, token_table
from graticule.hooks.alignment import AlignmentError
from graticule.hooks.capture_spec import CaptureSpec, Places, pos_from_data, pos_to_data
from graticule.hooks.offsets import character_offsets
from graticule.hooks.tokens import TokenRows
from graticule.probes.core.labels import NO_BETTER, STRUCTURE
from graticule.probes.surface.baselines import Baselines, text_digest
from graticule.probes.surface.token_readers import TOKENS
from graticule.probes.tables.columns import TableError

TEXTS = ["the old city of paris", "san francisco is in the west", "a river", "the king of rome is old"]
LABELS = [[0, 1, 1, 0, 1], [0, 0, 0, 1], [1], [0]]


def spans_of(texts: list[str]) -> list[list[tuple[int, int, str]]]:
    """Every other word, by its characters."""
    out = []
    for text in texts:
        ends = np.cumsum([len(word) + 1 for word in text.split()])
        out.append(
            [(int(e) - 1 - len(w), int(e) - 1, "odd") for e, w in zip(ends, text.split(), strict=True)][1::2]
        )
    return out


@pytest.fixture(scope="module")
def model(load_tiny) -> Any:
    return load_tiny("llama", "hooked")


def test_spans_are_the_tokens_that_the_tokenizer_itself_says(model):
    texts = [*TEXTS, "x", "of paris and-lat"] * 3
    spans = spans_of(texts)
    table = token_table(model, texts, spans=spans, outside="even", clusters=np.arange(len(texts)) % 6)
    for number, (text, some) in enumerate(zip(texts, spans, strict=True)):
        encoded = model.tokenizer(text, add_special_tokens=False)
        inside = {encoded.char_to_token(c) for start, end, _ in some for c in range(start, end)} - {None}
        own = table.frame[table.frame["text"] == number]
        assert list(own["position"]) == list(range(1, 1 + len(encoded["input_ids"])))  # BOS has no label
        assert list(own["token"]) == encoded["input_ids"]
        assert set(own["position"][own["label"] == "odd"] - 1) == inside
    assert table.frame["piece"][0] == "the" and table.frame["window"][0] == "the old city of"


def test_pieces_of_a_slow_tokenizer_are_looked_up_or_refused():
    from transformers import ByT5Tokenizer

    slow, texts = ByT5Tokenizer(), ["the  old city", "a b"]
    ids = [np.array(slow(text, add_special_tokens=False)["input_ids"]) for text in texts]
    rows = TokenRows(ids, [(0, len(row)) for row in ids], [(0, len(row)) for row in ids], False)
    for text, ranges in zip(texts, character_offsets(slow, texts, rows), strict=True):
        assert ranges.tolist() == [[i, i + 1] for i in range(len(text))]
    accented = np.array(slow("é", add_special_tokens=False)["input_ids"])
    other = TokenRows([accented], [(0, 2)], [(0, 2)], False)
    with pytest.raises(ValueError, match="this tokenizer is a slow one, which says no offsets; give labels"):
        character_offsets(slow, ["é"], other)


def test_spans_without_labels_are_yes_or_no(model):
    table = token_table(model, TEXTS * 3, spans=[[(0, 3)], [], [], [(4, 8)]] * 3, clusters=list(range(4)) * 3)
    assert table.kind == "binary"
    assert table.frame["piece"][table.frame["label"].astype(bool)].unique().tolist() == ["the", "king"]


def test_labels_are_taken_with_and_without_special_tokens(model):
    texts = TEXTS[:1] * 6
    own = [[0, 1, 1, None, 1]] * 6
    apart = {"clusters": list(range(6)), "split": [False] * 3 + [True] * 3}
    with pytest.raises(TableError, match="text 0 has 6 tokens, 1 of them special, and 4 labels"):
        token_table(model, texts, [[1, 2, 3, 4]] * 6, **apart)
    one = token_table(model, texts, own, split=apart["split"])
    rows = model.to_tokens(texts)
    other = token_table(model, rows, [[np.nan, *labels] for labels in own], split=apart["split"])
    padded = torch.cat([rows, torch.zeros_like(rows[:, :2])], dim=1)
    assert one.pos == other.pos == Places(((1, 2, 3, 5),) * 6)
    for table in (one, other):
        assert table.y.ravel().tolist() == [0, 1, 1, 1] * 6
        assert len(np.unique(table.clusters)) == 1  # the same text six times over
    del padded


def test_rows_are_those_of_a_pass_and_every_text_is_run_once(model):
    texts = [f"{text} {word}" for text in TEXTS for word in ("north", "south", "lake")]
    table = token_table(model, texts, spans=spans_of(texts), outside="even").take(np.arange(30))
    acts = capture(model, table.inputs, pos=table.pos, layers=[0, 2], progress=False)
    assert acts.n_rows == len(table) == 30
    source, pairing = table.paired(acts)
    assert list(source) == list(range(30)) and pairing == "texts compared"
    for row in (0, 7, 29):
        line = table.frame.iloc[row]
        own = cached(model, model.to_tokens(texts[line["text"]]))["blocks.2.hook_resid_post"][
            0, line["position"]
        ]
        assert relative(acts["blocks.2.hook_resid_post"][row], own) < 1e-5
    every = capture(model, table.inputs, pos="all", layers=[0], progress=False)
    assert set(table.paired(every)[0]) == {-1, *range(30)}
    spec = CaptureSpec.from_json(acts.provenance)
    assert spec.pos == table.pos == pos_from_data(pos_to_data(table.pos))
    again = capture(model, table.inputs, **spec.arguments(progress=False))
    assert torch.equal(again["blocks.0.hook_resid_post"], acts["blocks.0.hook_resid_post"])


def test_other_tokens_are_refused_in_a_line(model):
    texts = [f"{text} {word}" for text in TEXTS for word in ("north", "south", "lake")]
    table = token_table(model, texts, spans=spans_of(texts), outside="even")
    bare = capture(model, texts, pos="all", layers=[0], prepend_bos=False, progress=False)
    with pytest.raises(AlignmentError, match=r"activation row 0 is of token .* where text 0 has"):
        sweep(bare, table)
    with pytest.raises(AlignmentError, match="of another text"):
        sweep(capture(model, texts[::-1], pos="all", layers=[0], progress=False), table)
    with pytest.raises(ValueError, match=r"12 texts\): there are 3 texts; give those"):
        capture(model, texts[:3], pos=table.pos, progress=False)
    with pytest.raises(ValueError, match="which say where they are; leave pos= out"):
        baselines(model, table, pos=-2)
    with pytest.raises(TableError, match="give labels=, one for each token, or spans="):
        token_table(model, texts)
    with pytest.raises(TableError, match=r"span \(2, 900\) does not lie in"):
        token_table(model, texts, spans=[[(2, 900)]] * 12)
    with pytest.raises(ValueError, match="are token rows: give labels="):
        token_table(model, model.to_tokens(texts[:2]), spans=[[(0, 1)]] * 2)


# Verdicts ----------------------------------------------------------------------------------------------
def planted(
    concept: str, seed: int = 0, texts: int = 70, width: int = 24
) -> tuple[Any, Activations, Baselines]:
    """Random token rows of no model, labels by a concept, activations that read it, and others of luck."""
    rng = np.random.default_rng(seed)
    ids = [rng.integers(0, 60, rng.integers(8, 16)) for _ in range(texts)]
    ids = [np.where(rng.random(len(row)) < 0.2, 0, row) for row in ids]
    hidden = [rng.random(len(row)) < 0.5 for row in ids]
    labels = {
        "hidden": hidden,
        "token": [row % 3 == 0 for row in ids],
        "neighbour": [np.concatenate([[False], row[:-1] % 3 == 0]) for row in ids],
        "place": [np.arange(len(row)) < 4 for row in ids],
        "again": [np.array([token in row[:i] for i, token in enumerate(row)]) for row in ids],
        "odd": [(np.cumsum(row == 0) - (row == 0)) % 2 == 1 for row in ids],
        "text": [np.full(len(row), rng.random() < 0.5) for row in ids],
    }[concept]
    table = token_table(None, [row.tolist() for row in ids], labels)
    rows = table.frame[["text", "position", "token"]].rename(columns={"text": "source"})
    y = table.y[:, 0]
    x = rng.normal(size=(len(y), width))
    x[:, 0] += 2.0 * (y - 0.5) * (concept != "text")
    point = "blocks.1.hook_resid_post"
    acts = Activations.from_tensors({point: torch.from_numpy(x)}, rows, {"n_inputs": texts})
    luck = torch.from_numpy(rng.normal(size=(60, 4))[table.frame["token"]])
    beside = Activations.from_tensors({"hook_embed": luck}, rows, {"n_inputs": texts})
    return table, acts, Baselines(text_digest(table), {"token_embedding": beside})


@pytest.mark.slow
@pytest.mark.parametrize(
    "concept,member",
    [
        ("token", "token"),
        ("neighbour", "neighbours"),
        ("place", "position"),
        ("odd", "token_counts"),
        ("again", "token_counts"),
    ],
)
def test_what_tokens_themselves_say_is_no_structure(concept, member):
    table, acts, beside = planted(concept)
    findings = sweep(acts, table, baselines=beside, progress=False)
    assert findings.verdict.label == NO_BETTER
    assert set(TOKENS) <= set(findings.baselines) and {"tfidf", "spelling", "trees"} <= set(
        findings.baselines
    )
    scores = {name: line["test"]["r2"] for name, line in findings.baselines.items()}
    assert scores[member] > 0.9


@pytest.mark.slow
def test_a_planted_concept_is_structure_without_any_tokenizer_and_survives_a_folder(tmp_path):
    table, acts, beside = planted("hidden")
    findings = sweep(acts, table, baselines=beside, progress=False)
    assert findings.verdict.label == STRUCTURE
    assert findings.provenance["pairing"] == "tokens compared"
    assert len(np.unique(findings.problem.clusters)) == len(table.inputs)
    columns = {"source", "position", "token", "text", "cluster"}
    assert columns <= set(findings.predictions) and findings.predictions["text"][0].startswith("t")
    findings.save(tmp_path / "one")
    loaded = Findings.load(tmp_path / "one").with_inputs(acts, table, beside)
    assert loaded.verdict == findings.verdict
    part = table.take(table.frame["text"].to_numpy() % 2 == 0)
    half = sweep(acts, part, baselines=Baselines(text_digest(part), beside.features), progress=False)
    assert len(half.predictions) == len(part) < len(table)
    with pytest.raises(ValueError, match="rows of a table of tokens are not carried to another"):
        graticule.judge_on(findings, {"half": half})


@pytest.mark.slow
@pytest.mark.parametrize("concept", ["text"])
def test_labels_of_texts_by_chance_are_no_structure(concept):
    table, acts, beside = planted(concept)
    assert sweep(acts, table, baselines=beside, progress=False).verdict.label != STRUCTURE


def test_counts_around_a_token_are_those_of_brute_force():
    from graticule.probes.surface.token_features import count_features, position_features
    from graticule.probes.surface.token_readers import _blocks

    table = planted("hidden", texts=12)[0]
    counts = count_features(table, np.arange(12))
    places = position_features(table)
    frame = table.frame
    blocks = _blocks(table, np.arange(len(table)))
    (before, behind), far = blocks["other_tokens"], blocks["neighbours"][-1]
    offsets = (-8, -7, -6, -5, -4, -3, 3, 4)

    def around(row: int) -> list[int]:
        ids, at = table.ids[frame["text"][row]], frame["position"][row]
        return [ids[at + k] if 0 <= at + k < len(ids) else -1 for k in offsets]

    every = np.unique(np.concatenate(table.ids))
    for row in range(0, len(table), 7):
        ids, at = table.ids[frame["text"][row]], frame["position"][row]
        assert places.values[row][places.names.index("from_end")] == len(ids) - 1 - at
        same = sum(one == other for one, other in zip(around(row), around(row // 2), strict=True))
        assert far[[row]].multiply(far[[row // 2]]).sum() == same
        for side, some in ((before, ids[:at]), (behind, ids[at + 1 :])):
            assert (side[row].toarray()[0] == [np.sum(some == token) for token in every]).all()
        for name, value in zip(counts.names, counts.values[row], strict=True):
            if "this_token" in name or "these_letters" in name:
                continue
            token, *what = name.split("_")
            same = np.flatnonzero(ids == int(token))
            side = same[same < at] if what[-1] == "before" or "before" in what else same[same > at]
            expected: Any = len(side)
            if "near" in what:
                expected = 1 / np.abs(side - at).min() if len(side) else 0
            elif "mod" in what:
                expected = len(side) % 2
            assert value == pytest.approx(expected)


@pytest.mark.parametrize("letters", [False, True])
def test_a_token_that_stood_before_is_that_of_brute_force(letters: bool) -> None:
    from graticule.probes.surface.token_features import repetition_features

    rng = np.random.default_rng(3)
    rows = [rng.integers(0, 6, rng.integers(1, 14)) for _ in range(20)]
    table = token_table(None, [row.tolist() for row in rows], [[None, *(row[1:] > 2)] for row in rows])
    if letters:  # 0 and 1, 2 and 3 are the same but for case
        names = ["Le", "le", " la", "LA", "b", "c"]
        table = table.of_inputs(table.inputs, table.ids, dict(enumerate(names)))
    found, frame = repetition_features(table), table.frame
    assert any("these_letters" in name for name in found.names) == letters
    for row, (text, at) in enumerate(zip(frame["text"], frame["position"], strict=True)):
        for kind in ("this_token", "these_letters")[: 1 + letters]:
            ids = table.ids[text]
            ids = ids if kind == "this_token" else np.where(ids < 4, ids // 2, ids)
            back = [at - i for i in range(at) if ids[i] == ids[at]]
            ahead = [i - at for i in range(at + 1, len(ids)) if ids[i] == ids[at]]
            pairs = [i for i in range(1, at) if (ids[i - 1], ids[i]) == (ids[at - 1], ids[at])] if at else []
            expected = {"pair_before": len(pairs), "any_pair_before": len(pairs) > 0}
            expected["share_new"] = len(set(ids[:at].tolist())) / at if at else 1
            for side, some in (("before", back), ("behind", ahead)):
                expected |= {side: len(some), f"any_{side}": len(some) > 0}
                expected[f"near_{side}"] = 1 / min(some) if some else 0
                expected[f"distance_{side}"] = min(some, default=0)
            for name, value in expected.items():
                assert found.values[row][found.names.index(f"{kind}_{name}")] == pytest.approx(
                    float(value)
                ), name
            assert found.values[row][found.names.index(f"log_{kind}_before")] == pytest.approx(
                np.log1p(len(back))
            )


def test_marks_are_counted_by_character(model):
    from graticule.probes.surface.token_features import count_features

    texts = [f"the lake. is {word}? in rome. old" for word in ("new", "north", "oslo", "lima")]
    table = token_table(model, texts, spans=spans_of(texts), outside="even")
    counts, frame = count_features(table, np.arange(4)), table.frame
    for row, (text, position) in enumerate(zip(frame["text"], frame["position"], strict=True)):
        before = "".join(table.pieces[int(token)] for token in table.ids[text][1:position])
        for mark in ".?":
            assert counts.values[row][counts.names.index(f"mark {mark}_before")] == before.count(mark)
            odd = counts.values[row][counts.names.index(f"mark {mark}_before_mod_2")]
            assert odd == before.count(mark) % 2


@pytest.mark.slow
def test_probe_is_the_three_steps_and_models_are_baselines(model, tmp_path):
    rng = np.random.default_rng(0)
    words = ["paris", "rome", "oslo", "lima", "river", "king", "lake", "old"]
    texts = [" ".join(rng.choice(words, 6)) for _ in range(40)]
    labels = [[word in words[:4] for word in text.split()] for text in texts]
    table = token_table(model, texts, labels)
    findings = graticule.probe(model, table, layers=[0, 2], out=tmp_path / "run", progress=False)
    assert {"token_embedding", "block_0", "twin_0"} <= set(findings.baselines)
    assert findings.verdict.label == NO_BETTER
    acts = capture(model, table.inputs, pos=table.pos, layers=[0, 2], progress=False)
    beside = Baselines.load(tmp_path / "run" / "baselines")
    again = sweep(acts, table, baselines=beside, progress=False)
    assert again.verdict.gain == pytest.approx(findings.verdict.gain, abs=1e-6)
    assert graticule.probe(model, table, layers=[0, 2], out=tmp_path / "run").verdict == findings.verdict
