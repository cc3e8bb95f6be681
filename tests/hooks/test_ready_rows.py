"""Token rows that come padded are read as their texts are: each by itself, as `run_with_cache` has it."""

import logging

import numpy as np
import pytest
import torch

from graticule import Sample, capture, record
from graticule.hooks.capture_spec import CaptureSpec
from graticule.hooks.running.runner import run_in_parts

TEXTS = ["the city of paris is old", "rome", "a river in the north", "king of the lake", "oslo is"]
POINT = "blocks.2.hook_resid_post"
AT = {
    "last": "last",
    "all": "all",
    "-1": -1,
    "-2": -2,
    "1": 1,
    "slice": slice(-2, None),
    "entity": "entity",
    "entity_last": "entity_last",
    "sample": Sample(2),
}
FORMS = {"tensor": lambda t: t, "lists": lambda t: t.tolist()}


@pytest.fixture
def model(load_tiny):
    """A model whose pad token is nothing else; a test may say otherwise."""
    model = load_tiny("llama")
    before = model.tokenizer.pad_token
    model.tokenizer.pad_token = "?"
    yield model
    model.tokenizer.pad_token, model.tokenizer.padding_side = before, "right"


def alone(model, pos) -> np.ndarray:
    """Each text by itself, through run_with_cache."""
    rows = []
    for text in TEXTS:
        _, cache = model.run_with_cache(model.to_tokens(text))
        rows.append(cache[POINT][0][pos if isinstance(pos, slice) else slice(pos, pos + 1 or None)])
    return torch.cat(rows).numpy()


def values(acts) -> np.ndarray:
    return np.asarray(acts[POINT])


@pytest.mark.parametrize("texts", [None, TEXTS], ids=["", "texts"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("pos", AT.values(), ids=AT)
def test_padded_rows_are_their_texts(model, pos, form, texts) -> None:
    tokens = form(model.to_tokens(TEXTS))
    acts = capture(model, tokens, points=POINT, pos=pos, texts=texts)
    ready = [model.to_tokens(text)[0].tolist() for text in TEXTS]
    want = capture(model, ready, points=POINT, pos=pos)
    assert np.abs(values(acts) - values(want)).max() < 1e-5
    columns = ["source", "position", "token", "token_digest"]
    assert acts.rows[columns].equals(want.rows[columns])
    named = {"last": -1, "all": slice(None), "entity_last": -1, "entity": slice(None)}
    if not isinstance(pos, Sample):
        assert (
            np.abs(values(acts) - alone(model, named.get(pos, pos) if isinstance(pos, str) else pos)).max()
            < 1e-5
        )


def test_padding_on_the_left_and_by_batch(model) -> None:
    left = model.to_tokens(TEXTS, padding_side="left")
    by_batch = [*model.to_tokens(TEXTS[:2]).tolist(), *model.to_tokens(TEXTS[2:]).tolist()]
    for rows in (left, by_batch):
        assert np.abs(values(capture(model, rows, points=POINT)) - alone(model, -1)).max() < 1e-5


def test_as_record_reads_them(model) -> None:
    tokens = model.to_tokens(TEXTS)
    with record(model, POINT, pos="last") as recording:
        model(tokens)
    acts = capture(model, tokens, points=POINT)
    assert np.abs(values(recording.activations) - values(acts)).max() < 1e-5
    assert recording.activations.rows["position"].tolist() == acts.rows["position"].tolist()


def test_in_parts_too(model) -> None:
    got = []
    spec = CaptureSpec(positions="last")
    take = lambda tensors, rows: got.append(tensors[POINT])  # noqa: E731
    bar = type("Bar", (), {"update": lambda self, n: None})()
    run_in_parts(model, model.to_tokens(TEXTS), [POINT], take, 2, bar, spec)
    assert np.abs(torch.cat(got).numpy() - alone(model, -1)).max() < 1e-5


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_pad_token_that_is_eos_too(model, side, form) -> None:
    """Texts tell it; without them it is refused, as it is where nobody can know."""
    model.tokenizer.pad_token = model.tokenizer.eos_token
    tokens = form(model.to_tokens(TEXTS, padding_side=side))
    assert np.abs(values(capture(model, tokens, points=POINT, texts=TEXTS)) - alone(model, -1)).max() < 1e-5
    with pytest.raises(ValueError, match=r"token row 1 may be padded with token 0.*texts=.*own tokens$"):
        capture(model, tokens, points=POINT)
    others = ["x " + text for text in TEXTS]  # whose tokens stand in no row
    with pytest.raises(ValueError, match=r"may be padded"):
        capture(model, tokens, points=POINT, texts=others)
    assert capture(model, tokens[:1], points=POINT).n_rows == 1


def test_a_last_token_that_is_meant(model) -> None:
    """EOS at the end of lists of their own lengths, a pad token that stands in the text itself."""
    ready = [[*model.to_tokens(text)[0].tolist()] for text in TEXTS]
    pad = model.tokenizer.pad_token_id
    with_pad = [f"{text} ?" for text in TEXTS]
    acts = capture(model, model.to_tokens(with_pad), points=POINT, texts=with_pad)
    assert acts.rows["token"].tolist() == [pad] * len(TEXTS)
    assert np.abs(values(acts) - values(capture(model, with_pad, points=POINT))).max() < 1e-5
    model.tokenizer.pad_token = model.tokenizer.eos_token
    ended = [[*row, model.tokenizer.eos_token_id] for row in ready]
    acts = capture(model, ended, points=POINT)
    assert acts.rows["token"].tolist() == [model.tokenizer.eos_token_id] * len(TEXTS)
    one_length = [[*row[:2], model.tokenizer.eos_token_id] for row in ready]
    assert set(capture(model, one_length, points=POINT).rows["position"]) == {2}


def test_other_padding_is_refused_or_said(model, caplog) -> None:
    """`pad_sequence` puts zeros; so may whoever has no tokenizer."""
    ready = [model.to_tokens(text)[0] for text in TEXTS]
    rows = torch.nn.utils.rnn.pad_sequence(ready, batch_first=True, padding_value=7)
    with pytest.raises(ValueError, match=r"token row 1 is its entry of texts= and \d times token 7"):
        capture(model, rows, points=POINT, texts=TEXTS)
    tokenizer = model.tokenizer
    for kept in (tokenizer, None):
        caplog.clear()
        try:
            model.tokenizer = kept
            with caplog.at_level(logging.WARNING, "graticule"):
                capture(model, rows, points=POINT)
        finally:
            model.tokenizer = tokenizer
        assert "ends in token 7" in caplog.text and "\n" not in caplog.messages[0]


def test_texts_in_another_order_are_refused(model) -> None:
    tokens = model.to_tokens(TEXTS)
    with pytest.raises(ValueError, match=r"input 0 has the tokens of entry 1 of texts="):
        capture(model, tokens, points=POINT, texts=[TEXTS[1], TEXTS[0], *TEXTS[2:]])


def test_one_token_that_may_be_padding_is_said(model, caplog) -> None:
    model.tokenizer.pad_token = model.tokenizer.eos_token
    rows = torch.tensor([[0, 5, 6], [0, 9, 0]])
    with caplog.at_level(logging.WARNING, "graticule"):
        assert capture(model, rows, points=POINT).rows["position"].tolist() == [2, 2]
    assert "token row 1 ends in token 0, which pads" in caplog.text
