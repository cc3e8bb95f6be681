"""Corpora and contexts: the same documents by every route, and SAELens's own contexts to the token."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import as_installed

from graticule.hooks.streams.contexts import ContextReader, ContextSettings, contexts, special_ids
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


@pytest.mark.parametrize("kind", KINDS)
def test_missing_and_empty_texts_are_passed_over_wherever_they_stand(kind, tmp_path, tiny):
    """Also first, where the corpus is judged by the documents that are there."""
    texts = [None, "", TEXTS[0], None, *TEXTS[1:]]
    if kind == "txt":
        (tmp_path / "a.txt").write_text("\n\n" + "\n".join(TEXTS))
        texts, source = TEXTS, tmp_path / "a.txt"
    elif kind == "jsonl":
        (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
        source = tmp_path / "a.jsonl"
    elif kind in ("parquet", "folder"):
        pd.DataFrame({"text": texts}).to_parquet(tmp_path / "a.parquet", row_group_size=4)
        source = tmp_path if kind == "folder" else tmp_path / "a.parquet"
    elif kind == "list":
        source = texts
    else:
        from datasets import Dataset

        source = Dataset.from_dict({"text": texts})
        source = source.to_iterable_dataset() if kind == "streaming" else source
    corpus = Corpus.read(source)
    assert not corpus.tokenised and list(corpus.documents()) == [t or "" for t in texts]
    got = [n for n, _ in corpus.tokens(tiny.tokenizer)]
    assert got == [n for n, text in enumerate(texts) if text]


MESSAGES = [[{"role": "user", "content": "hello"}]]


@pytest.mark.parametrize(
    ("columns", "column", "words"),
    [
        (
            {"tokens": [["the", "city"]], "text": ["a"]},
            None,
            r"'tokens'.*words \['the', 'city'\].*column='text'",
        ),
        ({"messages": MESSAGES}, "messages", r"'messages'.*conversation.*apply_chat_template"),
        ({"text": [None, None]}, None, "2 documents, no text"),
        ({"text": [3, 4]}, None, "is int 3, neither a text nor token ids"),
        ({"input_ids": [[1.0, 2.5]]}, None, r"position 0: 1.0 is float; token ids are whole numbers"),
        ({"input_ids": [[True, False]]}, None, r"True is bool"),
        ({"input_ids": [[4, 5], [4, -100]]}, None, r"document 1 .*position 1: id -100 has no embedding"),
    ],
)
@pytest.mark.parametrize("kind", ["dataset", "streaming", "parquet", "jsonl"])
def test_columns_that_are_no_corpus_are_named_with_a_way_out(columns, column, words, kind, tmp_path):
    from datasets import Dataset

    source = Dataset.from_dict(columns)
    if kind in ("parquet", "jsonl"):  # files are named, not their columns
        file = tmp_path / f"a.{kind}"
        source.to_parquet(str(file)) if kind == "parquet" else source.to_json(str(file))
        source = file
        words = words.replace("'tokens'.*", "").replace("'messages'.*", "").replace(".*column='text'", "")
    if kind == "streaming":
        source = source.to_iterable_dataset()
    with pytest.raises(ValueError, match=words):
        list(Corpus.read(source, column).documents())


def test_documents_of_two_kinds_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "hello"}\n{"text": [1, 2]}\n')
    with pytest.raises(ValueError, match=r"document 1 of .*a\.jsonl is token ids where the others are texts"):
        list(Corpus.read(tmp_path / "a.jsonl").documents())


def test_a_folder_of_parts_names_them(tmp_path):
    from datasets import Dataset, DatasetDict

    part = Dataset.from_dict({"text": TEXTS})
    DatasetDict({"valid": part, "train": part}).save_to_disk(str(tmp_path / "both"))
    with pytest.raises(ValueError, match=r"parts train, valid: .* as in .*both/train"):
        Corpus.read(tmp_path / "both")
    assert len(list(Corpus.read(tmp_path / "both" / "train").documents())) == len(TEXTS)


def test_lines_are_parted_by_newlines_alone(tmp_path):
    lines = ["the city\u2028of oslo", "a\x0cb", "c\x85d\re", "last"]
    for end in ("\n", "\r\n"):
        (tmp_path / "a.txt").write_bytes(("\ufeff" + end.join(lines)).encode())
        assert list(Corpus.read(tmp_path / "a.txt").documents()) == lines
    (tmp_path / "a.jsonl").write_bytes(
        b"\xef\xbb\xbf" + "\r\n".join(json.dumps(t, ensure_ascii=False) for t in lines).encode()
    )
    assert list(Corpus.read(tmp_path / "a.jsonl").documents()) == lines


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", "oslo\nCôte\n".encode("cp1252"), r"a\.txt, line 2 is not UTF-8 \(byte 0xf4\).*iconv"),
        ("a.txt", "oslo\n".encode("utf-16"), r"a\.txt is UTF-16.*save it as UTF-8"),
        ("a.jsonl", '{"text": "Côte"}'.encode("cp1252"), r"a\.jsonl, line 1 is not UTF-8"),
        ("a.jsonl", b'"oslo"\n{"text": "li', r"a\.jsonl, line 2 is no whole JSON value.*cut off"),
        ("a.jsonl", b'[{"text": "oslo"},\n{"text": "lima"}]', r"a\.jsonl, line 1 .*one object a line"),
        ("a.jsonl", b'[{"text": "oslo"}, {"text": "lima"}]', r"a\.jsonl, line 1: .*one object a line"),
        ("a.parquet", b"PAR1 and then nothing", r"a\.parquet is no Parquet file"),
    ],
)
def test_files_that_cannot_be_read_are_named_with_line_and_way_out(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        list(Corpus.read(tmp_path / name).documents())


@pytest.mark.parametrize("bad", [-100, -1, "vocabulary", 5000, 6.7, True])
def test_ids_without_an_embedding_are_refused_at_every_door(tiny, bad):
    """Row, position, id and the vocabulary's size are named."""
    from graticule import capture
    from graticule.hooks.streams.live import LiveStream

    size = tiny.cfg.d_vocab
    bad = size if bad == "vocabulary" else bad
    rows = [[5, 6, 7], [5, bad, 7]]
    words = rf"1.*, position 1: .*{bad}"
    for door in (
        lambda: capture(tiny, rows),
        lambda: contexts(tiny, rows, 2),
        lambda: list(LiveStream(tiny, rows, "resid_pre", 2, exclude_special=False)),
        lambda: contexts(tiny, [[1, 2], rows[1]], 9, context_size=2, pack=True),
    ):
        with as_installed(), pytest.raises(ValueError, match=words) as error:
            door()
        assert not isinstance(bad, int) or bad < size or str(size) in str(error.value)
    for separator in (-1, size):
        with pytest.raises(ValueError, match=f"separator, position 0: id {separator} has no embedding"):
            contexts(tiny, TEXTS, 1, separator=separator)


def test_ids_are_read_from_every_kind_of_row(tiny):
    """As the model itself reads them."""
    from graticule.hooks.model_view import ModelView
    from graticule.hooks.values import token_ids

    assert ModelView(tiny).d_vocab == tiny.W_E.shape[0]
    for row in ([1, 2], (1, 2), np.array([1, 2], np.uint16), torch.tensor([1, 2]), [np.int32(1), 2]):
        got = token_ids(row, "row", 3)
        assert got.dtype == np.int64 and got.tolist() == [1, 2]
    assert token_ids([], "row").shape == (0,)


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
        source = ContextReader(corpus, None, settings)
        # texts after tokenising: what `tokens` would give
        object.__setattr__(corpus, "tokens", lambda _t, s, watch, d=documents: enumerate(d[s:], s))
        expected = of_saelens(documents, size, bos, separator, pack)
        got = source.take(10_000)
        assert len(got) == len(expected)
        assert all(np.array_equal(g, e) for g, e in zip(got, expected, strict=True))


def test_contexts_go_on_from_any_place(tiny):
    corpus = Corpus.read(TEXTS)
    settings = ContextSettings.of(tiny, corpus, 7)

    def fresh():
        return ContextReader(corpus, tiny.tokenizer, settings, epochs=3)

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
        ContextReader(Corpus.read(["a"]), tiny.tokenizer, ContextSettings.of(tiny, corpus), epochs=None).take(
            1
        )


def test_special_ids_are_saelens_own(tiny):
    from sae_lens.util import get_special_token_ids

    assert special_ids(True, tiny.tokenizer) == tuple(sorted(get_special_token_ids(tiny.tokenizer)))
    assert special_ids(False, tiny.tokenizer) == ()
    assert special_ids([7, 3, 7], None) == (3, 7)
    assert special_ids(True, None) == ()
