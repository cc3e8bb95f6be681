"""Activations and tables of the same rows in the same order: compared, refused, or said to be by place."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

import graticule
from graticule import Activations, Findings, Store, Table, baselines, capture, holdouts, record, sweep
from graticule.hooks.alignment import BY_PLACE, BY_TOKENS, COMPARED, DIGEST, AlignmentError, text_digests
from graticule.probes.core.inputs import paired_rows, problem_of
from graticule.probes.tables.prompts import Prompt

N = 40
FIRST, SECOND = (
    ["paris", "rome", "oslo", "lima", "cairo"],
    ["king", "lake", "port", "san", "north", "south", "east", "west"],
)
TEXTS = [f"{a} {b}" for a in FIRST for b in SECOND]
POINT = "blocks.0.hook_resid_post"
SHUFFLED = np.random.default_rng(1).permutation(N)


@pytest.fixture(scope="module")
def X() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(N, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def table(X: np.ndarray) -> Table:
    return Table(pd.DataFrame({"w": TEXTS, "y": X @ np.arange(6.0)}), text="w", target="y")


@pytest.fixture(scope="module")
def captured(load_tiny) -> Activations:
    return capture(load_tiny(), TEXTS, layers=[0])


def shuffled(X: np.ndarray, order: np.ndarray) -> Activations:
    return Activations.from_tensors({POINT: X[order]}, texts=[TEXTS[i] for i in order])


def test_the_right_rows_are_compared_and_predict(X: np.ndarray, table: Table) -> None:
    findings = sweep(Activations.from_tensors({POINT: X}, texts=TEXTS), table, n_bootstrap=20)
    assert findings.verdict.score > 0.99
    assert findings.provenance["pairing"] == COMPARED
    assert "by place" not in findings.summary()


def test_rows_in_another_order_are_refused_and_the_first_is_named(X: np.ndarray, table: Table) -> None:
    order = np.arange(N)
    order[[5, 9]] = 9, 5
    with pytest.raises(AlignmentError, match=r"row 5 is of another text than row 5 .*'paris south'.*another"):
        sweep(shuffled(X, order), table)
    with pytest.raises(AlignmentError, match="another order"):
        sweep(shuffled(X, SHUFFLED), table)


def test_a_text_too_many_or_too_few_is_refused_at_every_door(X: np.ndarray, captured, tmp_path) -> None:
    """Row i is of text i only where there are as many of both: nothing says which was left out."""
    captured.save(tmp_path / "store")
    cache = {POINT: torch.from_numpy(X[:8]).reshape(4, 2, 6)}
    for texts, of in ((TEXTS, "39 inputs and texts= has 40"), (TEXTS[:38], "39 inputs and texts= has 38")):
        with pytest.raises(AlignmentError, match=of) as told:
            Activations.from_tensors({POINT: X[:39]}, texts=texts)
        assert "\n" not in str(told.value)
        with pytest.raises(AlignmentError, match=of):
            Activations.from_tensors({POINT: X[:39]}).with_texts(texts)
    for acts in (captured, Store(tmp_path / "store")):
        with pytest.raises(AlignmentError, match="40 inputs and texts= has 41"):
            acts.with_texts([*TEXTS, "berlin"])
        assert len(acts.with_texts(TEXTS).rows) == N
    with pytest.raises(AlignmentError, match="4 inputs and texts= has 5"):
        Activations.from_cache(cache, pos=-1, lengths=2, texts=TEXTS[:5])
    some = Activations.from_tensors({POINT: X[:39]}, pd.DataFrame({"source": range(1, 40)}), texts=TEXTS)
    assert some.rows[DIGEST].tolist() == text_digests(TEXTS)[1:].tolist()


@pytest.mark.slow
def test_a_part_of_the_table_is_told_first_and_logged(X: np.ndarray, table: Table, caplog, tmp_path) -> None:
    findings = sweep(Activations.from_tensors({POINT: X}, texts=TEXTS), table, n_bootstrap=20)
    assert "rows alone" not in findings.summary() + caplog.text
    half = Activations.from_tensors({POINT: X[:24]}, texts=TEXTS[:24])
    findings = sweep(half, table, n_bootstrap=20)
    assert "activations are of 24 of the 40 rows of table 'table'" in caplog.text
    findings.save(tmp_path / "f")
    for one in (findings, Findings.load(tmp_path / "f")):
        told = one.summary().splitlines()
        assert told[0].startswith(one.verdict.label)
        assert told[1].startswith("of 24 of the table's 40 rows alone")


def test_fewer_rows_more_rows_and_other_texts(X: np.ndarray, table: Table, load_tiny) -> None:
    kept = np.delete(np.arange(N), [3, 20])
    with pytest.raises(AlignmentError, match=r"row 3 .*some of its texts.*capture table\.texts"):
        sweep(shuffled(X, kept), table)
    with pytest.raises(AlignmentError, match=r"38 inputs, table 'table' has 40 rows"):
        sweep(Activations.from_tensors({POINT: X[kept]}), table)
    more = np.concatenate([X, X[:1]])
    with pytest.raises(AlignmentError, match=r"row 40 .*which has 40 rows"):
        sweep(Activations.from_tensors({POINT: more}, texts=[*TEXTS, TEXTS[0]]), table)
    with pytest.raises(AlignmentError, match="come from 41 texts, table 'table' has 40 rows"):
        sweep(Activations.from_tensors({POINT: more}), table)
    with pytest.raises(AlignmentError, match="1 of the rows are of none of its texts"):
        sweep(Activations.from_tensors({POINT: X}, texts=["berlin", *TEXTS[1:]]), table)
    with pytest.raises(AlignmentError, match="row 3 is of another text"):
        sweep(capture(load_tiny(), [TEXTS[i] for i in kept], layers=[0]), table)


def test_a_selection_keeps_its_texts(captured: Activations, table: Table) -> None:
    source, how = paired_rows(captured.select(rows=SHUFFLED[:30]), table)
    assert (source == SHUFFLED[:30]).all()
    assert how == COMPARED
    with pytest.raises(AlignmentError, match="row 0 is of another text"):
        problem_of(captured, table.take(SHUFFLED))


def test_stores_and_files_keep_them(captured: Activations, table: Table, tmp_path, load_tiny) -> None:
    captured.save(tmp_path / "saved")
    for acts in (
        Activations.load(tmp_path / "saved"),
        Store(tmp_path / "saved"),
        capture(load_tiny(), TEXTS, layers=[0], store=tmp_path / "store"),
    ):
        assert paired_rows(acts, table)[1] == COMPARED
        with pytest.raises(AlignmentError, match="another order"):
            sweep(acts, table.take(SHUFFLED))
        with pytest.raises(AlignmentError, match="row 0 is already known to be of entry 4 of the texts"):
            acts.with_texts([TEXTS[i] for i in SHUFFLED])
        said = acts.with_texts([f"in {text}" for text in TEXTS])  # none of them is another row's
        assert said.rows[DIGEST].tolist() == text_digests([f"in {text}" for text in TEXTS]).tolist()


def test_texts_do_not_turn_the_comparison_off(X: np.ndarray, table: Table, captured, load_tiny) -> None:
    """Neither of a selection, nor of rows brought from elsewhere; the message says what does help."""
    order = np.argsort(TEXTS)[::-1]
    rows = shuffled(X, order).rows
    for made in (
        lambda: captured.select(rows=order).with_texts([TEXTS[i] for i in order]),
        lambda: shuffled(X, order).with_texts(TEXTS),
        lambda: Activations.from_tensors({POINT: X[order]}, rows, {"n_inputs": N}, texts=TEXTS),
    ):
        with pytest.raises(
            AlignmentError, match=r"row \d+ is already known to be of entry .*leave these"
        ) as e:
            made()
        assert "\n" not in str(e.value)
    written = [f"the city of {text}" for text in TEXTS]
    for acts, way in (
        (shuffled(X, order), r"activations\.select\(rows\)"),
        (Activations.from_tensors({POINT: X}, texts=written), r"activations\.with_texts\(table\.texts\)"),
    ):
        with pytest.raises(AlignmentError, match=way) as e:
            sweep(acts, table)
        assert ("with_texts" in str(e.value)) == ("with_texts" in way)
    with pytest.raises(AlignmentError, match=r"input 0 is entry 1 of texts=, 'paris lake', not entry 0"):
        capture(load_tiny(), [TEXTS[1], TEXTS[0], *TEXTS[2:]], layers=[0], texts=TEXTS)
    said = capture(load_tiny(), written, layers=[0], texts=TEXTS)
    assert paired_rows(said, table)[1] == COMPARED


def test_token_rows_are_of_texts_that_are_said(load_tiny, table: Table) -> None:
    ids = [load_tiny().to_tokens(text)[0].tolist() for text in TEXTS]
    assert paired_rows(capture(load_tiny(), ids, layers=[0]), table)[1] == BY_PLACE
    assert paired_rows(capture(load_tiny(), ids, layers=[0], texts=TEXTS), table)[1] == COMPARED
    with pytest.raises(AlignmentError, match="39 inputs"):
        sweep(capture(load_tiny(), ids[1:], layers=[0]), table)
    with pytest.raises(ValueError, match="texts= has 39 entries for 40 inputs"):
        capture(load_tiny(), ids, texts=TEXTS[1:])


def test_findings_are_given_back_only_what_they_were_made_from(X: np.ndarray, table: Table) -> None:
    acts, none = Activations.from_tensors({POINT: X}, texts=TEXTS), baselines(None, table)
    findings = sweep(acts, table, baselines=none, n_bootstrap=20)
    findings.with_inputs(acts, table, none)
    with pytest.raises(AlignmentError, match="another order"):
        findings.with_inputs(shuffled(X, SHUFFLED), table, none)
    with pytest.raises(TypeError, match=r"baselines is a Table; expected baselines: graticule\.baselines\("):
        findings.with_inputs(acts, table, table)
    with pytest.raises(TypeError, match="activations is a Table; expected Activations or a Store"):
        findings.with_inputs(table, acts, none)


def test_what_cannot_be_compared_is_said(X: np.ndarray, table: Table) -> None:
    findings = sweep(Activations.from_tensors({POINT: X}), table, n_bootstrap=20)
    assert findings.provenance["pairing"] == BY_PLACE
    assert "paired with the table by place" in findings.summary()


def test_recorded_calls_count_on_where_their_texts_are_said(load_tiny, table: Table) -> None:
    model = load_tiny()
    batches = [TEXTS[i : i + 5] for i in range(0, N, 5)]  # all of one length
    with record(model, layers=[0], pos=-1) as recording:
        for batch in batches:
            model(batch)
    with pytest.raises(AlignmentError, match=r"8 calls were recorded.*record\(model, texts=table\.texts\)"):
        sweep(recording.activations, table)
    with record(model, layers=[0], pos=-1, texts=TEXTS) as recording:
        for batch in batches:
            model(batch)
    acts = recording.activations
    source, how = paired_rows(acts, table)
    assert (source == np.arange(N)).all()
    assert how == COMPARED
    assert torch.allclose(acts["resid_post", 0], capture(model, TEXTS)["resid_post", 0], atol=1e-5)


def test_a_cache_is_of_texts_that_are_said(load_tiny, table: Table) -> None:
    _, cache = load_tiny().run_with_cache(TEXTS)
    acts = Activations.from_cache(cache, points=[POINT], texts=TEXTS)
    assert paired_rows(acts, table)[1] == COMPARED
    assert paired_rows(Activations.from_cache(cache, points=[POINT]), table)[1] == BY_PLACE
    with pytest.raises(AlignmentError, match="texts= has 39"):
        Activations.from_cache(cache, points=[POINT], texts=TEXTS[1:])


def series(values: np.ndarray) -> pd.Series:
    return pd.Series(values, index=SHUFFLED)


@pytest.mark.parametrize(
    "call",
    [
        lambda acts, table, v: sweep(acts, series(v), split=np.arange(N) % 4 == 0),
        lambda acts, table, v: sweep(
            acts, pd.DataFrame({"a": v}, index=SHUFFLED), split=np.arange(N) % 4 == 0
        ),
        lambda acts, table, v: sweep(acts, v, split=series(np.arange(N) % 4 == 0)),
        lambda acts, table, v: sweep(acts, v, cluster=series(np.arange(N)), split=np.arange(N) % 4 == 0),
        lambda acts, table, v: table.with_target(series(v)),
        lambda acts, table, v: table.with_clusters(series(np.arange(N))),
        lambda acts, table, v: Table.from_arrays(series(v), texts=TEXTS),
        lambda acts, table, v: Table.from_arrays(v, texts=pd.Series(TEXTS, index=SHUFFLED)),
        lambda acts, table, v: Table.from_arrays(series(v), texts=pd.Series(TEXTS)),
        lambda acts, table, v: Table.from_arrays(v, texts=TEXTS, blocks={"b": series(v)}),
        lambda acts, table, v: holdouts(sweep(acts, table, n_bootstrap=20), by=series(np.arange(N) % 3)),
    ],
)
def test_an_index_that_says_another_order_is_refused(captured, table, X, call) -> None:
    from helpers import as_installed

    with as_installed(), pytest.raises(ValueError, match=r"to_numpy\(\)") as caught:
        call(captured, table, X[:, 0].astype(float))
    assert "\n" not in str(caught.value)


def test_an_index_that_says_the_order_is_taken(captured, X) -> None:
    y, split = X[:, 0].astype(float), np.arange(N) % 4 == 0
    want = sweep(captured, y, split=split, n_bootstrap=20).verdict
    assert sweep(captured, pd.Series(y), split=pd.Series(split), n_bootstrap=20).verdict == want
    both = Table.from_arrays(series(y), texts=pd.Series(TEXTS, index=SHUFFLED))  # one order of both
    assert (both.y[:, 0] == y).all()


def test_captured_columns_stand_in_the_inputs_order(load_tiny) -> None:
    frame = pd.DataFrame({"w": TEXTS, "n": np.arange(N)}, index=SHUFFLED)
    acts = capture(load_tiny(), frame["w"], layers=[0], rows=frame)
    assert acts.rows["n"].tolist() == list(range(N))
    assert (acts.rows["text_digest"] == text_digests(TEXTS)).all()
    with pytest.raises(ValueError, match="different indices"):
        capture(load_tiny(), frame["w"], rows=frame.sort_index())


@pytest.mark.slow
def test_prompts_are_of_the_tables_texts(load_tiny, table: Table) -> None:
    asked = {"bare": "", "cut": Prompt("cut", drop_last=True)}
    made = graticule.prompts(load_tiny(), table, asked, layers=[0], twins=0, n_bootstrap=20)
    for findings in made.findings.values():
        assert findings.provenance["pairing"] == COMPARED


def test_a_digest_is_of_the_whole_text() -> None:
    some = ["a", "a ", "A", "", "é", "e\u0301", "\ud800", "x" * 10_000, "x" * 10_001]
    assert len(set(text_digests(some).tolist())) == len(some)
    assert re.match("int64", str(text_digests(some).dtype))


def tokenised(model, texts: list[str], prompt: str = "", bos: bool = True) -> list[list[int]]:
    head = [model.tokenizer.bos_token_id] if bos else []
    return [head + model.tokenizer(prompt + t, add_special_tokens=False)["input_ids"] for t in texts]


@pytest.mark.slow
def test_token_rows_are_compared_with_what_a_baseline_read(load_tiny) -> None:
    model = load_tiny()
    texts = [*TEXTS[:-2], "paris rome", "paris  rome"]  # the last two are the same tokens
    table = Table.from_arrays(np.arange(float(N)), texts, name="w")
    beside = baselines(model, table, layers=[0], twins=0, progress=False)

    def ask(rows: list[list[int]], beside=beside):
        acts = capture(model, rows, layers=[0])
        return sweep(acts, table, baselines=beside, n_bootstrap=20, crossfit=False, progress=False)

    rows = tokenised(model, texts)
    found = ask(rows)
    assert found.provenance["pairing"] == BY_TOKENS and "by place" not in found.summary()
    assert ask([*rows[:-2], rows[-1], rows[-2]]).provenance["pairing"] == BY_TOKENS
    with pytest.raises(ValueError, match="captured with special tokens, the activations without"):
        ask(tokenised(model, texts, bos=False))
    bare = baselines(model, table, layers=[0], twins=0, prepend_bos=False, progress=False)
    assert ask(tokenised(model, texts, bos=False), bare).provenance["pairing"] == BY_TOKENS
    order = np.arange(N)
    order[[5, 9]] = 9, 5
    with pytest.raises(AlignmentError, match=r"row 5 has the tokens of row 9 of table 'w'.*row 5:") as error:
        ask([rows[i] for i in order])
    assert "\n" not in str(error.value)
    said = pd.DataFrame({"source": range(N), DIGEST: text_digests(texts)})
    said["token_digest"] = capture(model, [rows[i] for i in order], layers=[0]).rows["token_digest"]
    mislabelled = Activations(dict(capture(model, rows, layers=[0])), said)
    assert paired_rows(mislabelled, table)[1] == COMPARED
    with pytest.raises(AlignmentError, match=r"row 5 has the tokens of row 9 of table 'w'"):
        sweep(mislabelled, table, baselines=beside, n_bootstrap=20, progress=False)
    for unknown in (ask(tokenised(model, texts, "the city of ")), ask(rows, None)):
        assert unknown.provenance["pairing"] == BY_PLACE
        assert "their order cannot be checked" in unknown.summary()


def test_the_digest_of_tokens_is_of_a_texts_own(load_tiny, tmp_path) -> None:
    model = load_tiny()
    of_texts = capture(model, TEXTS, layers=[0], pos="all", store=tmp_path).rows
    of_rows = capture(model, tokenised(model, TEXTS, bos=False), layers=[0]).rows
    first = of_texts.drop_duplicates("source")["token_digest"].to_numpy()
    assert (first == of_rows["token_digest"].to_numpy()).all()
    twice = [[model.tokenizer.bos_token_id, *row] for row in tokenised(model, TEXTS)]  # a slip
    assert (first == capture(model, twice, layers=[0]).rows["token_digest"].to_numpy()).all()
    assert len(set(first)) == len(set(of_rows["same_tokens_as"]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hooked", "bridge"])
def test_texts_in_another_order_than_the_tokens_are_refused_at_every_door(load_tiny, table, kind) -> None:
    """Token rows, a recorded pass of strings or of ids, a cache: their tokens say which text each is of."""
    model = load_tiny("llama", kind)
    order = np.arange(N)
    order[[5, 9]] = 9, 5
    inputs = [TEXTS[i] for i in order]
    ids, every = tokenised(model, inputs), model.to_tokens(inputs)
    beside = baselines(load_tiny(), table, layers=[0], twins=0, pos=-1, progress=False)

    def recorded(what, texts):
        with record(model, layers=[0], pos=-1, texts=texts) as recording:
            for part in what:
                model(part)
        return recording.activations

    def read(texts):
        return Activations.from_cache(model.run_with_cache(every)[1], points=[POINT], texts=texts)

    doors = (
        lambda texts: capture(model, ids, layers=[0], pos=-1, texts=texts),
        lambda texts: recorded([inputs], texts),
        lambda texts: recorded([every], texts),
        lambda texts: recorded([every[:20], every[20:]], texts),
        lambda texts: recorded([every, every], texts),
        read,
    )
    for door in doors:
        with pytest.raises(AlignmentError, match=r"input 5 has the tokens of entry 9 of texts=.*order") as e:
            door(TEXTS)
        assert "\n" not in str(e.value)
        assert set(door([f"in {text}" for text in TEXTS]).rows["source"]) == set(range(N))
    for door in (*doors[:3], read):  # nothing is said, and a baseline read the table's texts
        with pytest.raises(AlignmentError, match=r"row 5 has the tokens of row 9 of table 'table'"):
            sweep(door(None), table, baselines=beside, n_bootstrap=20, progress=False)


def test_generated_tokens_are_no_texts_of_their_own(load_tiny) -> None:
    """Of a text that is generated on, a pass with a cache sees one token, which may be another text."""
    model = load_tiny()
    texts = ["paris", "rome", "oslo"]
    with record(model, layers=[0], pos=-1, texts=texts) as recording:
        model(texts)
        model(["rome", "berlin", "lima"])
    rows = recording.activations.rows
    assert rows["source"].tolist() == [0, 1, 2] * 2
    assert (rows["token_digest"].to_numpy()[:3] == rows["token_digest"].to_numpy()[3:]).all()
    with pytest.raises(AlignmentError, match="input 0 has the tokens of entry 1"):
        with record(model, layers=[0], pos=-1, texts=texts) as recording:
            model(texts)
            model(["rome", "paris", "oslo"])
        _ = recording.activations


@pytest.mark.slow
def test_a_prompt_that_makes_one_text_another_is_no_disorder(load_tiny) -> None:
    """With its last character dropped `oslos` is `oslo`, and `oslo` is `osl`, each in its own place."""
    texts = ["oslos", "oslo", *TEXTS[:20]]
    table = Table.from_arrays(np.arange(22.0), texts)
    made = graticule.prompts(
        load_tiny(),
        table,
        {"bare": "", "cut": Prompt("cut", drop_last=True)},
        layers=[0],
        twins=0,
        n_bootstrap=20,
    )
    assert {f.provenance["pairing"] for f in made.findings.values()} == {COMPARED}
