"""Padding is never taken for a token of a text, in the two ways to bring one's own passes."""

import numpy as np
import pytest
import torch
import transformers as hf
from helpers import as_installed

from graticule import Activations, capture, load_model, record
from graticule.hooks.padding import Extent

TEXTS = ["the city of paris is old", "rome", "a river in the north", "king of the lake", "oslo is"]
POINTS = [f"blocks.{layer}.hook_resid_post" for layer in range(3)]


@pytest.fixture
def padded(load_tiny, request):
    """A model whose pad token is nothing else, as it was before afterwards."""
    model = load_tiny("llama", getattr(request, "param", "hooked"))
    before = model.tokenizer.pad_token
    model.tokenizer.pad_token = "?"
    yield model
    model.tokenizer.pad_token = before
    model.tokenizer.padding_side = "right"


def far(acts: Activations, want: Activations) -> float:
    assert acts.n_rows == want.n_rows
    return max(float((acts[p] - want[p]).abs().max()) for p in POINTS)


@pytest.mark.slow
@pytest.mark.parametrize("padded", ["hooked", "bridge"], indirect=True)
@pytest.mark.parametrize("pos", [-1, -2, 0, 1, slice(None), slice(-2, None), slice(1, 3)])
def test_both_ways_give_what_a_capture_gives(padded, pos) -> None:
    want = capture(padded, TEXTS, pos=pos)
    tokens = padded.to_tokens(TEXTS)
    lengths = [int(padded.to_tokens(text).shape[-1]) for text in TEXTS]
    assert min(lengths) < max(lengths) == tokens.shape[1]
    with torch.no_grad(), record(padded, pos=pos) as recording:
        _, cache = padded.run_with_cache(tokens)
    mask = np.arange(tokens.shape[1]) < np.array(lengths)[:, None]
    ways = {
        "recorded": recording.activations,
        "cached": Activations.from_cache(cache, pos=pos, points=POINTS),
        "lengths": Activations.from_cache(cache, pos=pos, points=POINTS, lengths=lengths),
        "mask": Activations.from_cache(cache, pos=pos, points=POINTS, attention_mask=torch.from_numpy(mask)),
    }
    for name, acts in ways.items():
        assert far(acts, want) < 1e-5, name
        for column in ("source", "position"):
            assert acts.rows[column].tolist() == want.rows[column].tolist(), name


@pytest.mark.parametrize("padded", ["hooked", "bridge"], indirect=True)
def test_texts_that_the_model_pads_itself_are_measured(load_tiny, padded) -> None:
    """Certain even where the pad token is BOS and EOS too, which the tokens alone would not tell."""
    padded.tokenizer.pad_token = padded.tokenizer.bos_token
    with torch.no_grad(), record(padded, pos=-1) as recording:
        padded(TEXTS)
    assert far(recording.activations, capture(padded, TEXTS)) < 1e-5


def test_padding_on_the_left(padded) -> None:
    padded.tokenizer.padding_side = "left"
    tokens = padded.to_tokens(TEXTS, padding_side="left")
    mask = tokens != padded.tokenizer.pad_token_id
    with torch.no_grad(), record(padded, pos=slice(None)) as recording:
        padded(tokens, padding_side="left")
    rows = recording.activations.rows
    assert rows.groupby("source").size().tolist() == mask.sum(1).tolist()
    assert (rows.groupby("source")["position"].min() == 0).all()
    told = Extent.of_mask(mask, *mask.shape)
    assert (told.stop == mask.shape[1]).all()
    assert (told.lengths == mask.sum(1).numpy()).all()


def test_a_mask_given_to_the_pass_is_read(padded) -> None:
    padded.tokenizer.pad_token = padded.tokenizer.bos_token
    tokens = padded.to_tokens(TEXTS)
    mask = torch.tensor([[1] * len(padded.to_tokens(t)[0]) for t in ["rome"]])
    lengths = torch.tensor([len(padded.to_tokens(text)[0]) for text in TEXTS])
    mask = (torch.arange(tokens.shape[1]) < lengths[:, None]).int()
    with torch.no_grad(), record(padded, pos=-1) as recording:
        padded(tokens, attention_mask=mask)
    assert far(recording.activations, capture(padded, TEXTS)) < 1e-5


def test_what_cannot_be_told_is_refused(padded) -> None:
    padded.tokenizer.pad_token = padded.tokenizer.eos_token
    tokens = padded.to_tokens(TEXTS)
    with (
        pytest.raises(
            ValueError, match=r"row 1 of a batch is padded with token 0, .*lengths= .*attention_mask="
        ),
        record(padded, pos=-1),
    ):
        padded(tokens)
    _, cache = padded.run_with_cache(tokens)
    with pytest.raises(ValueError, match=r"row 1 of a batch is padded"):
        Activations.from_cache(cache)
    _, few = padded.run_with_cache(tokens, names_filter=POINTS)
    with pytest.raises(ValueError, match=r"tokens are not known\).*lengths="):
        Activations.from_cache(few)
    assert Activations.from_cache(few, lengths=tokens.shape[1]).n_rows == len(TEXTS)
    _, one = padded.run_with_cache(tokens[:1], names_filter=POINTS)
    assert Activations.from_cache(one).n_rows == 1  # one text is padded by nobody


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"lengths": [3, 2]}, "expected 5 whole numbers"),
        ({"lengths": [3, 2, 9, 1, 1]}, "lengths= from 1 to 9: expected 1 to 7 tokens"),
        ({"lengths": [3, 2, 0, 1, 1]}, "from 0 to 3"),
        ({"lengths": torch.tensor([3.0, 2, 2, 1, 1])}, "float32"),
        ({"attention_mask": np.ones((5, 3))}, r"expected \(5, 7\)"),
        ({"attention_mask": np.array([[1, 0, 1, 1, 1, 1, 1]] * 5)}, "row 0: expected one run of 1"),
        ({"attention_mask": np.zeros((5, 7))}, "row 0: expected one run of 1"),
        ({"lengths": 7, "attention_mask": np.ones((5, 7))}, "give one of them"),
    ],
)
def test_what_is_said_must_fit(padded, said, told) -> None:
    tokens = padded.to_tokens(TEXTS)
    assert tokens.shape == (5, 7)
    _, cache = padded.run_with_cache(tokens)
    with pytest.raises(ValueError, match=told):
        Activations.from_cache(cache, points=POINTS, **said)
    with pytest.raises(ValueError, match=told), record(padded, pos=-1, **said):
        padded(tokens)
    assert "forward" not in vars(padded)


@pytest.mark.parametrize("padded", ["hooked", "bridge"], indirect=True)
def test_a_row_that_was_padded_among_others_is_padded_alone_too(padded) -> None:
    tokens = padded.to_tokens(TEXTS)[1:2]
    _, cache = padded.run_with_cache(tokens)
    acts = Activations.from_cache(cache, pos=slice(None), points=POINTS)
    assert acts.rows["position"].tolist() == list(range(len(padded.to_tokens(TEXTS[1])[0])))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A BERT on its bridge, whose embedding hook holds positions and norms too."""
    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({w for t in TEXTS for w in t.split()})]
    hf.BertTokenizerFast(vocab={w: i for i, w in enumerate(words)}).save_pretrained(folder)
    small = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    hf.BertForMaskedLM(hf.BertConfig(vocab_size=len(words), **small)).save_pretrained(folder)
    return load_model(folder, device="cpu", verify=False)


@pytest.mark.slow
def test_what_saw_padding_is_refused_where_a_model_reads_both_ways(encoder) -> None:
    tokens = encoder.to_tokens(TEXTS)
    mask = (tokens != 0).long()
    want = capture(encoder, TEXTS, pos="all")
    words = "reads both ways, and texts of a padded batch without a mask see the padding"
    for given in (TEXTS, tokens):
        with torch.no_grad(), record(encoder, pos=slice(None)) as recording:
            encoder(given)
            with pytest.raises(ValueError, match=f"{words}.*give the pass attention_mask="):
                _ = recording.activations
        with pytest.raises(ValueError, match=words):
            _ = recording.activations
    _, cache = encoder.run_with_cache(tokens)
    for points in (POINTS, POINTS[:1]):
        with pytest.raises(ValueError, match=f"{words}.*run it with attention_mask=, and say it here"):
            Activations.from_cache(cache, points=points)
    with pytest.raises(ValueError, match=words):
        Activations.from_cache(cache, lengths=mask.sum(1))
    inner = {name: cache[name] for name in ("hook_embed", *POINTS)}  # not the embedding of any token
    partly = type(cache)(inner, encoder)
    with pytest.raises(ValueError, match=r"cannot be told \(the tokens are not known\)"):
        Activations.from_cache(partly)
    with torch.no_grad(), record(encoder, pos=slice(None)) as recording:
        encoder(tokens, attention_mask=mask)
    _, cache = encoder.run_with_cache(tokens, attention_mask=mask)
    for acts in (
        recording.activations,
        Activations.from_cache(cache, pos="all", points=POINTS, attention_mask=mask),
    ):
        assert far(acts, want) < 1e-5
        assert acts.rows["position"].tolist() == want.rows["position"].tolist()
    _, alone = encoder.run_with_cache(encoder.to_tokens(TEXTS[:1]))
    assert (
        far(Activations.from_cache(alone, pos="all", points=POINTS), capture(encoder, TEXTS[:1], pos="all"))
        < 1e-5
    )
    embedded = "embed.hook_out"
    with torch.no_grad(), record(encoder, [embedded], pos=slice(None)) as recording:
        encoder(tokens)  # nothing looks ahead yet
    assert recording.activations.n_rows == want.n_rows


def test_what_is_no_cache_is_refused_in_a_line(padded) -> None:
    tokens = padded.to_tokens(TEXTS)
    output, cache = padded.run_with_cache(tokens)
    _, few = padded.run_with_cache(tokens, names_filter=POINTS[:1])
    _, bare = padded.run_with_cache(tokens[:1], remove_batch_dim=True)
    for wrong, said, told in (
        (few, {"points": POINTS[1]}, f"no hook point '{POINTS[1]}'"),
        ((output, cache), {}, r"is a tuple.*expected the second: _, cache = model\.run_with_cache\(tokens\)"),
        (output, {}, r"is a Tensor.*Activations\.from_tensors\(\{'blocks"),
        (3, {}, r"cache is 3; expected .*run_with_cache\(tokens\)\[1\]"),
        (bare, {}, "leave remove_batch_dim out of run_with_cache"),
        (cache, {"pos": "entity_mean"}, r"pos='entity_mean': expected an index .*'last' or 'all'"),
        (cache, {"pos": 1.5}, "pos=1.5: expected an index"),
        (cache, {"pos": True}, "pos=True: expected an index"),
        (cache, {"layers": 9, "points": "resid_post"}, "layer 9"),
    ):
        with as_installed(), pytest.raises((TypeError, ValueError, KeyError), match=told):
            Activations.from_cache(wrong, **said)
    with as_installed(), pytest.raises(TypeError, match=r"from_tensors: tensors is a Tensor; .*\{'blocks"):
        Activations.from_tensors(output)
    last, every = (
        Activations.from_cache(cache, pos=pos, points="resid_post", layers=1) for pos in ("last", "all")
    )
    assert list(last) == list(every) == POINTS[1:2]
    assert torch.equal(last[POINTS[1]], Activations.from_cache(cache)[POINTS[1]])
    assert every.n_rows == sum(len(padded.to_tokens(text)[0]) for text in TEXTS)
    assert {".1." in name for name in Activations.from_cache(cache, layers=1)} == {True}


def test_an_index_beyond_a_text(padded) -> None:
    _, cache = padded.run_with_cache(padded.to_tokens(TEXTS))
    with pytest.raises(IndexError, match=r"pos=5: row 1 of the batch has 2 tokens"):
        Activations.from_cache(cache, pos=5)


def test_points_of_a_cache_by_any_of_their_names(padded) -> None:
    _, cache = padded.run_with_cache(padded.to_tokens(TEXTS))
    assert list(Activations.from_cache(cache, points="resid_post")) == POINTS
    assert list(Activations.from_cache(cache, points=("resid_post", 1))) == POINTS[1:2]
    assert list(Activations.from_cache(cache, points="blocks.*.hook_resid_post")) == POINTS
    with pytest.raises(KeyError, match="did you mean 'resid_post'"):
        Activations.from_cache(cache, points="resid_pos")
    every = list(Activations.from_cache(cache))
    assert not [name for name in every if name.endswith("hook_scale") or name.startswith("unembed")]
    assert {"blocks.0.hook_mlp_out", "blocks.1.attn.hook_z", *POINTS} <= set(every)
