"""Corpora and contexts: the same documents by every route, and SAELens's own contexts to the token."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import as_installed

from graticule.hooks.streams.contexts import Contexts, ContextSettings, contexts, special_ids
from graticule.hooks.streams.corpora import Corpus

TEXTS = [f"the city of {name} is in the {side}" for name in ("oslo", "lima", "rome") for side in "abcdefg"]


def written(kind: str, folder: Path):
    """TEXTS as one of the sources that a corpus takes."""
    from datasets import Dataset

    table = Dataset.from_dict({"other": list(range(len(TEXTS))), "text": TEXTS})
    if kind == "list":
        return TEXTS
    if kind == "txt":
        (folder / "a.txt").write_text("\n".join(TEXTS[:9]) + "\n\n" + "\n".join(TEXTS[9:]))
        return folder / "a.txt"
    if kind == "jsonl":
        (folder / "a.jsonl").write_text("".join(json.dumps({"id": 1, "text": t}) + "\n" for t in TEXTS))
        return str(folder / "a.jsonl")
    if kind == "parquet":
        pd.DataFrame({"text": TEXTS, "n": 0}).to_parquet(folder / "a.parquet", row_group_size=4)
        return folder / "a.parquet"
    if kind == "folder":
        pd.DataFrame({"text": TEXTS[:6]}).to_parquet(folder / "a.parquet", row_group_size=4)
        (folder / "b.txt").write_text("\n".join(TEXTS[6:10]))
        pd.DataFrame({"text": TEXTS[10:]}).to_parquet(folder / "c.parquet")
        return folder
    if kind == "dataset":
        return table
    if kind == "streaming":
        return table.to_iterable_dataset(num_shards=1)
    table.save_to_disk(str(folder / "saved"))
    return folder / "saved"


KINDS = ("list", "txt", "jsonl", "parquet", "folder", "dataset", "streaming", "saved")


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_gives_the_same_documents_from_any_number_on(kind, tmp_path):
    corpus = Corpus.read(written(kind, tmp_path))
    assert not corpus.tokenised
    for start in (0, 1, 4, 7, len(TEXTS) - 1, len(TEXTS)):
        assert list(corpus.documents(start)) == TEXTS[start:], start
    assert corpus.n_documents in (len(TEXTS), None)


def test_documents_of_a_text_file_are_lines_paragraphs_or_the_file(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("one\ntwo\n\n\nthree\n")
    assert list(Corpus.read(file).documents()) == ["one", "two", "three"]
    assert list(Corpus.read(file, sample_by="paragraph").documents()) == ["one\ntwo", "three"]
    assert list(Corpus.read(file, sample_by="document").documents(0)) == ["one\ntwo\n\n\nthree\n"]


def test_token_rows_come_from_tensors_lists_and_columns(tmp_path):
    from datasets import Dataset

    rows = np.arange(12).reshape(3, 4)
    table = Dataset.from_dict({"input_ids": rows.tolist()})
    pd.DataFrame({"input_ids": rows.tolist()}).to_parquet(tmp_path / "a.parquet")
    for source in (torch.from_numpy(rows), rows, rows.tolist(), table, table.with_format("torch"), tmp_path):
        corpus = Corpus.read(source)
        assert corpus.tokenised
        got = list(corpus.tokens(start=1))
        assert [n for n, _ in got] == [1, 2]
        assert np.array_equal(np.stack([ids for _, ids in got]), rows[1:])


def test_what_is_no_corpus_is_refused_with_a_reason(tmp_path):
    (tmp_path / "a.csv").write_text("text\nhello\n")
    (tmp_path / "b.jsonl").write_text('{"body": "hello"}\n')
    (tmp_path / "empty").mkdir()
    for source, words in (
        (tmp_path / "no.txt", "does not exist"),
        ("monology/pile-uncopyrighted", "datasets.load_dataset"),
        (tmp_path / "a.csv", "expected one of .txt"),
        (tmp_path / "b.jsonl", "column="),
        (tmp_path / "empty", "no .txt"),
        ([], "at least one"),
        (torch.zeros(3), "pos"),
    ):
        with pytest.raises(ValueError, match=words):
            Corpus.read(source)
    with pytest.raises(TypeError, match="mixed"):
        Corpus.read(["a", [1, 2]])
    with pytest.raises(TypeError, match="give a path"):
        Corpus.read(3)
    assert list(Corpus.read(tmp_path / "b.jsonl", "body").documents()) == ["hello"]


def test_documents_are_tokenised_in_batches_as_one_by_one(tiny):
    corpus = Corpus.read([TEXTS[0], "", *TEXTS[1:]])
    one_by_one = [tiny.to_tokens(t, prepend_bos=False, truncate=False)[0].numpy() for t in TEXTS]
    for batch, start in ((1, 0), (3, 0), (256, 0), (4, 5)):
        got = list(corpus.tokens(tiny.tokenizer, start, batch))
        assert [n for n, _ in got] == [n for n in range(start, len(TEXTS) + 1) if n != 1]
        expected = one_by_one if start == 0 else one_by_one[start - 1 :]
        assert all(np.array_equal(ids, e) for (_, ids), e in zip(got, expected, strict=True))
    with pytest.raises(ValueError, match="no tokenizer"):
        next(corpus.tokens(None))


# Contexts ----------------------------------------------------------------------------------------------
def of_saelens(documents, size, bos, separator, pack):
    from sae_lens.tokenization_and_batching import concat_and_batch_sequences

    rows = concat_and_batch_sequences(
        iter([torch.tensor(d) for d in documents]),
        context_size=size,
        begin_batch_token_id=bos,
        sequence_separator_token_id=separator,
        disable_concat_sequences=not pack,
    )
    return [row.numpy() for row in rows]


def random_documents(rng):
    """Some long, some of one token, some that begin with a special token themselves."""
    return [rng.integers(0, 6, rng.integers(1, 30)) for _ in range(rng.integers(1, 12))]


@pytest.mark.parametrize("pack", [True, False])
def test_contexts_are_those_of_saelens_to_the_token(pack):
    rng = np.random.default_rng(0)
    for _ in range(150):
        documents = random_documents(rng)
        bos, separator = (None, 0)[rng.integers(2)], (None, 0, 1)[rng.integers(3)]
        size = int(rng.integers(2, 12))
        corpus = Corpus("random", False, None, lambda start, d=documents: iter(d[start:]))
        settings = ContextSettings(size, bos is not None, bos, separator, pack)
        source = Contexts(corpus, None, settings)
        # texts after tokenising: what `tokens` would give
        object.__setattr__(corpus, "tokens", lambda _t, s, d=documents: enumerate(d[s:], s))
        expected = of_saelens(documents, size, bos, separator, pack)
        got = source.take(10_000)
        assert len(got) == len(expected)
        assert all(np.array_equal(g, e) for g, e in zip(got, expected, strict=True))


def test_contexts_go_on_from_any_place(tiny):
    corpus = Corpus.read(TEXTS)
    settings = ContextSettings.of(tiny, corpus, 7)

    def fresh():
        return Contexts(corpus, tiny.tokenizer, settings, epochs=3)

    everything = fresh().take(10_000)
    assert len(everything) > 60
    source, at = fresh(), 0
    for n in (1, 5, 2, 17, 1, 30):
        assert np.array_equal(source.take(n), everything[at : at + n])
        at += n
        place = json.loads(json.dumps(source.state_dict()))
        source = fresh()
        source.load_state_dict(place)


def test_saelens_store_reads_the_same_contexts(tiny):
    from datasets import Dataset
    from sae_lens import ActivationsStore

    with pytest.warns(UserWarning, match="not tokenized"):
        store = ActivationsStore(
            model=tiny,
            dataset=Dataset.from_dict({"text": TEXTS}).to_iterable_dataset(),
            streaming=True,
            hook_name="blocks.1.hook_resid_post",
            hook_head_index=None,
            context_size=12,
            d_in=32,
            n_batches_in_buffer=2,
            total_training_tokens=64,
            store_batch_size_prompts=4,
            train_batch_size_tokens=4,
            prepend_bos=True,
            normalize_activations="none",
            device=torch.device("cpu"),
            dtype="float32",
        )
    expected = torch.cat([store.get_batch_tokens(), store.get_batch_tokens()]).numpy()
    assert np.array_equal(contexts(tiny, TEXTS, 8, context_size=12), expected)


def test_token_rows_are_taken_as_they_are_unless_joined(tiny):
    rows = np.array([[0, 5, 6, 7, 8], [9, 10, 11, 12, 13]])
    assert np.array_equal(contexts(tiny, rows, 5), rows)
    assert np.array_equal(contexts(tiny, rows, 5, context_size=3, prepend_bos=True), rows[:, :3])
    joined = contexts(tiny, rows, 5, context_size=6, pack=True)
    assert np.array_equal(joined, [[0, 5, 6, 7, 8, 0], [0, 9, 10, 11, 12, 13]])
    with pytest.raises(ValueError, match=r"document 1 .* has 2 tokens"):
        contexts(tiny, [[1, 2, 3], [1, 2]], 5)


def test_settings_that_do_not_fit_are_refused(tiny):
    corpus = Corpus.read(TEXTS)
    assert ContextSettings.of(tiny, corpus).context_size == 64  # what the model takes
    for arguments, words in (
        ({"context_size": 65}, "at most 64"),
        ({"context_size": 1}, "no room"),
        ({"separator": "end"}, "expected 'bos'"),
    ):
        with as_installed(), pytest.raises(ValueError, match=words):
            ContextSettings.of(tiny, corpus, **arguments)
    with pytest.raises(ValueError, match="does not fill one context"):
        Contexts(Corpus.read(["a"]), tiny.tokenizer, ContextSettings.of(tiny, corpus), epochs=None).take(1)


def test_special_ids_are_saelens_own(tiny):
    from sae_lens.util import get_special_token_ids

    assert special_ids(True, tiny.tokenizer) == tuple(sorted(get_special_token_ids(tiny.tokenizer)))
    assert special_ids(False, tiny.tokenizer) == ()
    assert special_ids([7, 3, 7], None) == (3, 7)
    assert special_ids(True, None) == ()
