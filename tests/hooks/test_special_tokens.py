"""Special tokens are those of the tokenizer itself; positions say whether they become rows."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from helpers import relative
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformer_lens import HookedTransformer, HookedTransformerConfig

from graticule import Table, capture, load_model, record
from graticule.hooks.artifact import ArtifactError
from graticule.hooks.capture_spec import Sample, pos_from_data, pos_to_data
from graticule.hooks.streams.contexts import contexts, special_ids
from graticule.hooks.tokens import Frame, special_frame, special_id, tokenize
from graticule.probes.attribution.attribute import attribute
from graticule.probes.attribution.trace import trace
from graticule.probes.causes.experiment import Experiment
from graticule.probes.causes.reprobe import captured_tokens
from graticule.probes.probe import probe
from graticule.probes.tables.prompts import Prompt

TEXTS = ["the cat sat", "a dog runs in the park", "water is wet"]
WORDS = sorted({w for t in TEXTS for w in t.split()})
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def word_tokenizer(around: str | None = None, **special: str):
    """A tokenizer of whole words; `around` is what its post-processor puts around a text."""
    words = [*dict.fromkeys([*special.values(), "[UNK]"]), *WORDS]
    inner = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if around:
        names = [w for w in around.split() if w != "$A"]
        inner.post_processor = processors.TemplateProcessing(
            single=around, special_tokens=[(n, words.index(n)) for n in dict.fromkeys(names)]
        )
    return hf.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", **special)


def model_with(tokenizer, **settings):
    config = HookedTransformerConfig(
        n_layers=1,
        d_model=16,
        n_ctx=32,
        d_head=8,
        n_heads=2,
        d_vocab=len(tokenizer) + 1,
        act_fn="relu",
        seed=0,
        **settings,
    )
    model = HookedTransformer(config)
    model.tokenizer = tokenizer  # as it is: set_tokenizer would load it again
    return model


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> tuple:
    folder: Path = tmp_path_factory.mktemp("bert")
    vocabulary = {w: i for i, w in enumerate([*SPECIAL, *WORDS])}
    hf.BertTokenizerFast(vocab=vocabulary).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    original = hf.BertForMaskedLM(hf.BertConfig(vocab_size=len(vocabulary), **sizes)).eval()
    original.save_pretrained(folder)
    return load_model(folder, device="cpu"), original, hf.AutoTokenizer.from_pretrained(folder)


def test_an_encoder_gets_its_own_tokens(bert):
    model, original, tokenizer = bert
    acts = capture(model, TEXTS, pos="all")
    at = 0
    for text in TEXTS:
        ids = tokenizer(text).input_ids
        lines = slice(at, at + len(ids))
        assert acts.rows["token"][lines].to_list() == ids
        with torch.no_grad():
            hidden = original(torch.tensor([ids]), output_hidden_states=True).hidden_states
        for layer in range(2):
            assert relative(acts["resid_post", layer][lines], hidden[layer + 1][0]) <= 1e-4
        at += len(ids)
    bare = capture(model, TEXTS, pos="all", prepend_bos=False)
    assert bare.rows["token"].to_list() == tokenizer(" ".join(TEXTS), add_special_tokens=False).input_ids


CLS = {"cls_token": "[CLS]", "sep_token": "[SEP]"}
BOTH = {"bos_token": "[CLS]", "eos_token": "[SEP]"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "special", "followed"),
    [
        ("bert", CLS, True),
        ("bert", {**CLS, **BOTH}, True),
        ("bert", BOTH, True),
        ("gemma", BOTH, True),
        ("gpt2", BOTH, False),
    ],
    ids=["cls, sep", "all four", "bos, eos", "decoder that looks ahead", "decoder"],
)
def test_what_reads_both_ways_gets_what_its_tokenizer_puts_there(tmp_path, caplog, kind, special, followed):
    words = word_tokenizer("[CLS] $A [SEP]", pad_token="[PAD]", **special)
    words.save_pretrained(tmp_path)
    small = {"vocab_size": len(words), "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16}
    wide = {"num_key_value_heads": 1, "head_dim": 8, "use_bidirectional_attention": True, "pad_token_id": 0}
    original = {
        "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**small, intermediate_size=32)),
        "gemma": lambda: hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(**small, **wide, intermediate_size=32)),
        "gpt2": lambda: hf.GPT2LMHeadModel(
            hf.GPT2Config(vocab_size=len(words), n_embd=16, n_layer=2, n_head=2)
        ),
    }[kind]()
    original.save_pretrained(tmp_path)
    model, tokenizer = (
        load_model(tmp_path, device="cpu", verify=False),
        hf.AutoTokenizer.from_pretrained(tmp_path),
    )
    for text in TEXTS:
        ids = tokenizer(text).input_ids
        assert tokenizer.convert_ids_to_tokens(ids)[:: len(ids) - 1] == ["[CLS]", "[SEP]"]
        assert capture(model, [text], pos="all").rows["token"].to_list() == (ids if followed else ids[:-1])
        assert model.to_tokens(text)[0].tolist() == (ids if followed else ids[:-1])
    assert ("ends texts with [SEP]" in caplog.text) is not followed


def test_prompts_and_spans_inside_an_encoders_tokens(bert):
    model, _, tokenizer = bert
    rows = tokenize(model, TEXTS, "is {} wet")
    for text, ids, (start, end) in zip(TEXTS, rows.ids, rows.spans, strict=True):
        assert ids.tolist() == tokenizer(f"is {text} wet").input_ids
        assert ids[start:end].tolist() == tokenizer(text, add_special_tokens=False).input_ids
    last = capture(model, TEXTS, prompt="is {} wet", pos="entity_last").rows["token"]
    assert tokenizer.convert_ids_to_tokens(last.to_list()) == [t.split()[-1] for t in TEXTS]
    ids, template, pos = Prompt("random", "", random_ids=4, random_low=5).inputs(model, TEXTS)
    last = capture(model, ids, prompt=template, pos=pos).rows["token"]
    assert tokenizer.convert_ids_to_tokens(last.to_list()) == [t.split()[-1] for t in TEXTS]


@pytest.mark.parametrize(
    ("around", "special", "default", "prepend", "expected"),
    [
        (None, {"bos_token": "<s>"}, True, None, Frame((0,))),
        (None, {"bos_token": "<s>"}, False, None, Frame()),
        (None, {"bos_token": "<s>"}, True, False, Frame()),
        ("<s> $A", {"bos_token": "<s>"}, True, None, Frame((0,))),
        ("<s> $A", {"bos_token": "<s>"}, False, None, Frame()),
        ("<s> $A", {"bos_token": "<s>"}, False, True, Frame((0,))),
        ("$A </s>", {"bos_token": "<s>", "eos_token": "</s>"}, True, None, Frame((), (1,))),
        ("$A </s>", {"bos_token": "<s>", "eos_token": "</s>"}, True, True, Frame((0,), (1,))),
        ("[CLS] $A [SEP]", {"cls_token": "[CLS]", "sep_token": "[SEP]"}, False, None, Frame((0,), (1,))),
        ("[CLS] $A [SEP]", {"cls_token": "[CLS]", "sep_token": "[SEP]"}, True, True, Frame((0,), (1,))),
        (None, {"bos_token": "<|endoftext|>"}, True, None, Frame((0,))),
        (None, {}, True, None, Frame()),
    ],
)
def test_what_is_put_around_a_text(around, special, default, prepend, expected):
    tokenizer = word_tokenizer(around, **special)
    assert special_frame(tokenizer, TEXTS[0], default, prepend) == expected
    rows = tokenize(model_with(tokenizer, default_prepend_bos=default), TEXTS, prepend_bos=prepend)
    for text, row, (start, end) in zip(TEXTS, rows.ids, rows.own, strict=True):
        own = tokenizer(text, add_special_tokens=False).input_ids
        assert row.tolist() == [*expected.head, *own, *expected.tail]
        assert row[start:end].tolist() == own


def test_the_unknown_token_stands_for_nothing():
    tokenizer = word_tokenizer()
    for kind in ("bos", "eos", "pad", "sep"):  # as TransformerLens fills them in: no words of the vocabulary
        setattr(tokenizer, f"{kind}_token", "<|endoftext|>")
        assert getattr(tokenizer, f"{kind}_token_id") == tokenizer.unk_token_id == 0
        assert special_id(tokenizer, kind) is None
    model = model_with(tokenizer)
    own = [tokenizer(t, add_special_tokens=False).input_ids for t in TEXTS]
    assert capture(model, TEXTS, pos="all").rows["token"].to_list() == [i for ids in own for i in ids]
    with pytest.raises(ValueError, match="no BOS token; leave prepend_bos out"):
        capture(model, TEXTS, prepend_bos=True)
    joined = contexts(model, TEXTS * 2, 2, context_size=6)
    assert joined.flatten().tolist() == [i for ids in own * 2 for i in ids][:12]
    assert special_ids(True, tokenizer) == ()  # rows of unknown words are rows
    genuine = word_tokenizer(bos_token="[UNK]")  # GPT-2's way: one word of the vocabulary for all
    assert special_id(genuine, "bos") == genuine.unk_token_id


def test_a_text_that_begins_with_bos_gets_no_second():
    tokenizer = word_tokenizer("<s> $A", bos_token="<s>")
    tokenizer.chat_template = "{{ bos_token }} {% for m in messages %}{{ m['content'] }} {% endfor %}"
    model = model_with(tokenizer)
    talk = [{"role": "user", "content": TEXTS[0]}]
    written = tokenizer.apply_chat_template(talk, tokenize=False)
    expected = tokenizer.apply_chat_template(talk, tokenize=True)["input_ids"]
    for settings in ({}, {"prepend_bos": True}, {"prepend_bos": False}):
        acts = capture(model, [written, "<s> water is wet"], pos="all", **settings)
        assert acts.rows.query("source == 0")["token"].to_list() == expected
        assert acts.rows["token"].to_list().count(0) == 2
    rows = tokenize(model, TEXTS, "<s> is {} wet")  # the prompt's own
    for text, ids, span in zip(TEXTS, rows.ids, rows.spans, strict=True):
        assert ids.tolist().count(0) == 1
        assert ids[slice(*span)].tolist() == tokenizer(text, add_special_tokens=False).input_ids


def test_contexts_say_that_an_encoders_tokens_are_not_among_them(bert, caplog):
    model, _, tokenizer = bert
    rows = [tokenizer(text).input_ids for text in TEXTS]
    assert contexts(model, rows, 3, context_size=4).tolist() == [row[:4] for row in rows]
    assert not caplog.records
    assert contexts(model, TEXTS * 2, 1, context_size=6).shape == (1, 6)
    assert "contexts of joined texts have none" in caplog.text
    caplog.clear()
    contexts(model_with(word_tokenizer("<s> $A", bos_token="<s>")), TEXTS, 1, context_size=6)
    assert not caplog.records


# Which of them become rows -----------------------------------------------------------------------------
@pytest.mark.parametrize("pos", ["all", "last", slice(None), slice(-2, None), Sample(9)], ids=str)
@pytest.mark.parametrize("ready", [False, True], ids=["texts", "token rows"])
def test_special_tokens_are_rows_only_where_they_may(bert, pos, ready):
    model, _, tokenizer = bert
    whole = [tokenizer(t).input_ids for t in TEXTS]
    inputs = whole if ready else TEXTS
    got = {b: capture(model, inputs, pos=pos, include_bos=b).rows for b in (None, True, False)}
    assert not {2, 3} & set(got[False]["token"])
    assert {2, 3} & set(got[True]["token"])
    kept = got[isinstance(pos, Sample) is False]  # by default: all but a sample have them
    assert got[None].equals(kept)
    for i, ids in enumerate(whole):
        mine = got[False][got[False]["source"] == i]
        cut = {"all": ids[1:-1], "last": ids[-2:-1]}.get(pos) if isinstance(pos, str) else None
        if isinstance(pos, slice):
            cut = [t for t in ids[pos] if t not in (2, 3)]
        assert mine["token"].to_list() == (cut or ids[1:-1])
        assert [ids[p] for p in mine["position"]] == mine["token"].to_list()


def test_an_index_that_is_a_special_token_is_refused_where_these_are_left_out(bert):
    assert (capture(bert[0], TEXTS, pos=0).rows["token"] == 2).all()
    with pytest.raises(ValueError, match="pos=0 is a special token of text 0, and include_bos=False"):
        capture(bert[0], TEXTS, pos=0, include_bos=False)


def test_a_recording_leaves_special_tokens_out_as_a_capture_does(bert):
    model, _, tokenizer = bert
    captured = capture(model, TEXTS, layers=0, pos="last", include_bos=False)
    with record(model, layers=0, pos="last", include_bos=False) as recording:
        for text in TEXTS:
            model(tokenizer(text, return_tensors="pt")["input_ids"])
    assert recording.activations.rows["position"].tolist() == captured.rows["position"].tolist()
    ids = tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    with (
        record(model, layers=0, pos=-1, include_bos=False),
        pytest.raises(ValueError, match="pos=-1 is a special token of text 0, and include_bos=False"),
    ):
        model(ids)  # [SEP]
    with record(model, layers=0, pos=slice(-1, None), include_bos=False) as recording:
        model(ids)
    with pytest.raises(ValueError, match="selects no token of any text"):
        _ = recording.activations


@pytest.mark.parametrize("pos", ["last", "entity_mean", 3, -2, slice(1, None, 2), Sample(2, seed=3)], ids=str)
def test_positions_are_plain_data(pos):
    import json

    assert pos_from_data(json.loads(json.dumps(pos_to_data(pos)))) == pos
    if not isinstance(pos, Sample):
        assert pos_from_data(repr(pos)) == pos  # as 0.1 wrote it


@pytest.mark.parametrize(
    "written",
    ["first", "__import__('os')", "1.5", "True", {"slice": [1]}, {"sample": 2, "seed": 0, "by": "x"}, None],
)
def test_what_is_no_position_is_refused_in_a_line(written):
    with pytest.raises(ValueError, match="is no position that was saved; pass pos="):
        pos_from_data(written)


@pytest.mark.parametrize("written", ["Sample(k=2, seed=3)", {"sample": 2, "seed": 3}], ids=str)
def test_draws_by_place_are_not_repeated(written):
    with pytest.raises(ValueError, match=r"was drawn by each text's place in the input.*capture again"):
        pos_from_data(written)


@pytest.mark.slow
def test_a_text_gives_the_same_positions_wherever_it_stands(tiny, names, tmp_path):
    pos = Sample(2, seed=3)
    texts = [f"{name} of the old city" for name in names]  # some names come twice
    of = dict(zip(texts, positions_of(capture(tiny, texts, pos=pos, layers=0).rows), strict=False))
    assert len({tuple(p) for p in of.values()}) > 5  # not the same for all of them
    shuffled = np.random.default_rng(0).permutation(texts).tolist()
    for some in (texts[::-1], texts[7:12], texts[:1], shuffled, texts[3:4] * 3):
        assert positions_of(capture(tiny, some, pos=pos, layers=0).rows) == [of[t] for t in some]
        rows = [tiny.to_tokens(t)[0].tolist() for t in some]
        assert positions_of(capture(tiny, rows, pos=pos, layers=0).rows) == [of[t] for t in some]
    stored = capture(tiny, shuffled, pos=pos, layers=0, store=tmp_path / "store", token_budget=20)
    assert positions_of(stored.rows) == [of[t] for t in shuffled]
    assert positions_of(capture(tiny, texts, pos=Sample(2, seed=4), layers=0).rows) != [of[t] for t in texts]


def positions_of(rows):
    return [group["position"].tolist() for _, group in rows.groupby("source")]


def test_a_store_of_draws_by_place_is_not_gone_on_from(tiny, names, tmp_path):
    import json

    store = tmp_path / "store"
    capture(tiny, names, pos=Sample(1), layers=0, store=store)
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["request"]["pos"] = "Sample(k=1, seed=0)"
    (store / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"another capture \(pos: 'Sample"):
        capture(tiny, names, pos=Sample(1), layers=0, store=store)


@pytest.mark.parametrize("pos", [1.0, None, True, np.float64(2), "first", slice(0.5, None), [1, 2]], ids=repr)
def test_a_position_of_another_kind_is_refused_in_a_line(tiny, names, pos):
    from helpers import as_installed

    with as_installed(), pytest.raises((ValueError, TypeError), match=r"pos.*(expected|index)"):
        capture(tiny, names[:2], pos=pos)


# Replayed ----------------------------------------------------------------------------------------------
BEGINS_AND_ENDS = {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("around", "default", "prepend", "frame"),
    [
        ("$A </s>", True, None, ([], [1])),  # the tokenizer's own, though it has a BOS
        (None, True, False, ([], [])),
        (None, False, True, ([0], [])),
        (None, True, None, ([0], [])),
    ],
    ids=str,
)
def test_findings_are_replayed_with_the_special_tokens_of_their_capture(around, default, prepend, frame):
    tokenizer = word_tokenizer(around, **BEGINS_AND_ENDS)
    model = model_with(tokenizer, default_prepend_bos=default)
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, rng.integers(2, 6))) for _ in range(60)]
    table = Table.from_arrays(rng.normal(size=60), texts=texts)
    findings = probe(model, table, pos="last", twins=0, prepend_bos=prepend, n_bootstrap=20, progress=False)
    bare = [tokenizer(t, add_special_tokens=False).input_ids for t in texts]
    whole = [[*frame[0], *ids, *frame[1]] for ids in bare]
    rows = findings.inputs.activations.rows
    assert rows["token"].to_list() == [ids[-1] for ids in whole]
    found = attribute(findings, model, n_bootstrap=20, progress=False)
    np.testing.assert_allclose(found.rows["reading_target"], findings.at().predictions[:, 0], atol=1e-4)
    assert len(trace(findings, model, texts[3]).readings[0]) == len(whole[3])
    tokens, _ = captured_tokens(model, findings, np.arange(60))
    assert [ids.tolist() for ids in tokens.ids] == whole
    experiment = Experiment(model, findings, [], point=None, rows=9, span="entity_last", seed=0)
    assert [ids.tolist() for ids in experiment.tokens("").ids] == [whole[i] for i in experiment.sources]


@pytest.mark.slow
def test_probe_hands_on_which_tokens_are_rows(bert, tmp_path):
    table = Table.from_arrays(np.random.default_rng(0).normal(size=60), texts=TEXTS * 20)
    asked = {
        "layers": 0,
        "pos": "last",
        "twins": 1,
        "n_bootstrap": 20,
        "progress": False,
        "out": tmp_path / "out",
    }
    findings = probe(bert[0], table, include_bos=False, **asked)
    ends = bert[2].convert_ids_to_tokens(findings.inputs.activations.rows["token"].to_list())
    assert ends == [t.split()[-1] for t in TEXTS * 20]
    twin = findings.inputs.baselines.features["twin_0"]
    assert twin.rows["token"].to_list() == findings.inputs.activations.rows["token"].to_list()
    again = probe(bert[0], table, include_bos=False, **asked).verdict
    np.testing.assert_equal(asdict(again), asdict(findings.verdict))  # NaN is NaN
    with pytest.raises(FileExistsError, match=r"ask something else.*include_bos: False → not set"):
        probe(bert[0], table, **asked)
