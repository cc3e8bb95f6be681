"""Which model something is of: every byte of it, its settings, its hooks; and what was written earlier."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
from helpers import with_two_words_exchanged

from graticule import Store, Table, capture, load_model, probe, record, trace
from graticule.hooks import identity, kinds
from graticule.hooks.artifact import ArtifactError
from graticule.hooks.calls import one_call
from graticule.hooks.identity import _earlier_digest, model_identity, tokenizer_digest, weight_digest
from graticule.hooks.kinds import ForeignFolderError
from graticule.hooks.streams.live import LiveStream

POINT = "blocks.1.hook_resid_post"


def swap_rows(model):
    model.W_E.data[[7, 8]] = model.W_E.data[[8, 7]]


def swap_entries_that_no_sample_meets(model):
    entries = model.blocks[0].mlp.W_in.data.view(-1)
    entries[[5, 7]] = entries[[7, 5]]


def edit_eps(model):
    model.cfg.eps = 1.0
    for block in model.blocks:
        block.ln1.eps = block.ln2.eps = 1.0


def edit_a_table(model):
    model.blocks[0].attn.rotary_sin.mul_(0.5)


def zero_a_block(model):
    model.blocks[0].hook_resid_post.add_hook(lambda value, hook: value * 0)


EDITS = [swap_rows, swap_entries_that_no_sample_meets, edit_eps, edit_a_table, zero_a_block]


@pytest.fixture(scope="module")
def kept(load_tiny, names, tmp_path_factory):
    """A store and findings of one model, finished."""
    model, folder = load_tiny("llama", "hooked"), tmp_path_factory.mktemp("kept")
    table = Table.from_arrays(np.random.default_rng(0).normal(size=60), (names * 60)[:60], name="t")
    capture(model, names[:4], points=POINT, store=folder / "store")
    probe(model, table, points=POINT, twins=0, n_bootstrap=20, out=folder / "findings", progress=False)
    return folder, table


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_folders_of_a_model_do_not_answer_for_an_edited_one(tiny, names, kept, edit):
    folder, table = kept
    edited = copy.deepcopy(tiny)
    edit(edited)
    with pytest.raises((ArtifactError, ValueError), match=r"holds another capture|hooks of its own"):
        capture(edited, names[:4], points=POINT, store=folder / "store")
    with pytest.raises(
        (ForeignFolderError, ValueError), match=r"ask something else .*model|hooks of its own"
    ):
        probe(edited, table, points=POINT, twins=0, n_bootstrap=20, out=folder / "findings", progress=False)
    state = LiveStream(tiny, names, POINT, 4, context_size=8, buffer_tokens=16).state_dict()
    with pytest.raises(ValueError, match="of another stream"):
        LiveStream(edited, names, POINT, 4, context_size=8, buffer_tokens=16).load_state_dict(state)


@pytest.mark.parametrize(
    ("family", "kind", "setting", "value"),
    [
        ("gpt2", "hooked", "activation_function", "relu"),
        ("gpt2", "hooked", "layer_norm_epsilon", 0.1),
        ("gpt2", "hooked", "scale_attn_weights", False),
        ("llama", "hooked", "rope_parameters", {"rope_theta": 77.0, "rope_type": "default"}),
        ("llama", "bridge", "rope_parameters", {"rope_theta": 77.0, "rope_type": "default"}),
        ("gpt2", "bridge", "scale_attn_weights", False),
    ],
)
def test_an_edited_config_json_is_another_model(load_tiny, hf_folder, tmp_path, family, kind, setting, value):
    shutil.copytree(hf_folder(family), tmp_path / "m")
    config = json.loads((tmp_path / "m/config.json").read_text())
    (tmp_path / "m/config.json").write_text(json.dumps(config | {setting: value}))
    assert (
        model_identity(_load(tmp_path / "m", kind))["config"]
        != model_identity(load_tiny(family, kind))["config"]
    )


def _load(folder, kind):
    if kind == "hooked":
        return load_model(folder, device="cpu", verify=False)
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(str(folder), device="cpu")


@pytest.mark.parametrize("kind", ["hooked", "bridge"])
def test_two_loads_are_one_model_wherever_it_lies_and_after_runs(load_tiny, hf_folder, names, tmp_path, kind):
    used = load_tiny("llama", kind)
    capture(used, names[:4], points=POINT)
    shutil.copytree(hf_folder("llama"), tmp_path / "elsewhere")
    ours, theirs = model_identity(used), model_identity(_load(tmp_path / "elsewhere", kind))
    assert (ours["digest"], ours["config"]) == (theirs["digest"], theirs["config"])
    assert "hooks" not in ours


def test_the_digest_reads_every_kind_of_tensor(tiny):
    def with_buffers(**values):
        model = copy.deepcopy(tiny)
        for name, value in values.items():
            model.register_buffer(name, value)
        return weight_digest(model)

    values = {"a": torch.tensor(1.0), "b": torch.arange(6).bfloat16().view(2, 3).T, "c": torch.tensor([True])}
    own = with_buffers(**values)
    assert with_buffers(**{n: v.clone() for n, v in values.items()}) == own
    others = [
        ("a", torch.tensor(2.0)),
        ("a", torch.tensor(1.0, dtype=torch.float64)),
        ("b", torch.arange(6).bfloat16().view(3, 2)),
        ("c", torch.tensor([False])),
    ]
    assert len({own, *(with_buffers(**values | {name: other}) for name, other in others)}) == 5


def test_hooks_are_named_in_memory_and_a_recordings_own_are_not(tiny, names):
    hooked = copy.deepcopy(tiny)
    zero_a_block(hooked)
    with record(hooked, POINT) as recording:
        hooked(names[:2])
        inside = recording.activations.provenance["model"]["hooks"]
    made = capture(hooked, names[:4], points=POINT).provenance["model"]["hooks"]
    assert inside == made == ["blocks.0.hook_resid_post"]


def test_findings_do_not_answer_for_an_edited_tokenizer(tiny, kept):
    folder, table = kept
    edited = with_two_words_exchanged(tiny, table.texts)
    with pytest.raises(ForeignFolderError, match=r"ask something else .*inputs"):
        probe(edited, table, points=POINT, twins=0, n_bootstrap=20, out=folder / "findings", progress=False)


def test_streams_do_not_answer_for_an_edited_tokenizer(tiny, names):
    def stream(model, corpus=names):
        return LiveStream(model, corpus, POINT, 4, context_size=8, buffer_tokens=16)

    edited = with_two_words_exchanged(tiny, names)
    state = stream(tiny).state_dict()
    assert stream(edited).metadata()["graticule"]["tokenizer"] != state["settings"]["tokenizer"]
    with pytest.raises(ValueError, match=r"of another stream \(tokenizer: "):
        stream(edited).load_state_dict(state)
    ids = [[1, 2, 3, 4, 5, 6, 7, 8]] * 8  # of token rows no tokenizer is asked
    stream(edited, ids).load_state_dict(stream(tiny, ids).state_dict())
    padded = copy.deepcopy(tiny)
    padded.tokenizer(names[:3], padding=True, truncation=True, max_length=4)
    stream(padded).load_state_dict(state)


def test_a_tokenizer_is_all_that_makes_ids_of_texts(tiny):
    class Slow:
        def __init__(self, vocabulary, lower=False):
            self.vocabulary, self.init_kwargs = vocabulary, {"lower": lower, "name_or_path": object()}

        def get_vocab(self):
            return self.vocabulary

        def __call__(self, text, add_special_tokens=True):
            return {"input_ids": [self.vocabulary.get(word, 0) for word in text.split()]}

    ours = [Slow({"a": 1, "b": 2}), Slow({"a": 2, "b": 1}), Slow({"a": 1, "b": 2}, True), tiny.tokenizer]
    assert len({tokenizer_digest(one) for one in ours}) == 4
    assert tokenizer_digest(Slow({"b": 2, "a": 1})) == tokenizer_digest(ours[0])


def test_what_an_earlier_version_wrote_is_read_and_not_gone_on_with(tiny, names, kept, tmp_path):
    shutil.copytree(kept[0], tmp_path / "old")
    store, findings = tmp_path / "old/store", tmp_path / "old/findings"
    earlier = {k: v for k, v in model_identity(tiny).items() if k != "config"} | {
        "digest": _earlier_digest(tiny)
    }
    assert len(earlier["digest"]) == 16
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["request"]["model"] = earlier
    (store / "manifest.json").write_text(json.dumps(manifest))
    np.testing.assert_array_equal(
        Store(store, model=tiny)[POINT], capture(tiny, names[:4], points=POINT)[POINT]
    )
    other = copy.deepcopy(tiny)
    other.W_E.data[0, 0] += 1
    with pytest.raises(ArtifactError, match="was captured from"):
        Store(store, model=other)
    with pytest.raises(
        ArtifactError, match=r"recorded by an earlier version.*choose another place or remove"
    ):
        capture(tiny, names[:4], points=POINT, store=store)
    written = json.loads((findings / "findings.json").read_text())
    written["provenance"]["request"]["model"] = earlier
    written["provenance"]["request"].pop("inputs")
    written["provenance"]["fingerprint"] = "0" * 16
    (findings / "findings.json").write_text(json.dumps(written))
    with pytest.raises(ForeignFolderError, match=r"model: recorded by an earlier version.*remove it"):
        probe(tiny, kept[1], points=POINT, twins=0, n_bootstrap=20, out=findings, progress=False)
    now = {"stream": {"model": model_identity(tiny), "seed": 0}}
    (line,) = kinds.differences({"stream": {"model": earlier, "seed": 0}}, now)
    assert line.startswith("stream.model: recorded by an earlier version")
    assert kinds.differences(now, now) == []


@pytest.fixture
def reads(monkeypatch):
    """Counts how often the bytes of a model are read; they are read all the same."""
    begun, xxh3_128 = [], identity.xxhash.xxh3_128
    monkeypatch.setattr(identity.xxhash, "xxh3_128", lambda: begun.append(1) or xxh3_128())
    return begun


def scale(model):
    with torch.no_grad():
        model.blocks[0].mlp.W_in.mul_(2)


def scale_through_data(model):
    model.blocks[0].mlp.W_in.data.mul_(2)


def swap_data(model):
    model.blocks[0].mlp.W_in.data = model.blocks[0].mlp.W_in.data * 2


def replace_a_module(model):
    with torch.no_grad():
        model.blocks[0].mlp = copy.deepcopy(model.blocks[0].mlp)
        model.blocks[0].mlp.W_in[0, 0] += 1


EDITS_IN_PLACE = [scale, scale_through_data, swap_data, replace_a_module, edit_a_table]


@pytest.mark.slow
@pytest.mark.parametrize("edit", EDITS_IN_PLACE, ids=lambda edit: edit.__name__)
def test_weights_are_read_once_a_call_and_an_edit_is_seen_by_the_next(tiny, names, reads, edit):
    model = copy.deepcopy(tiny)
    table = Table.from_arrays(np.arange(52.0), names[:52], name="t")
    findings = probe(model, table, points=POINT, twins=0, n_bootstrap=20, progress=False)
    reads.clear()
    trace(findings, model, names[0])
    assert len(reads) == 1
    edit(model)
    with pytest.raises(ValueError, match="the model given is"):
        trace(findings, model, names[0])
    assert len(reads) == 2
    assert (
        capture(model, names[:1], points=POINT).provenance["model"]
        != findings.provenance["activations"]["model"]
    )


@pytest.mark.parametrize("edit", EDITS_IN_PLACE[:-2], ids=lambda edit: edit.__name__)
def test_within_a_call_what_leaves_a_trace_is_read_again(tiny, edit):
    model = copy.deepcopy(tiny)
    with one_call():
        before = weight_digest(model)
        edit(model)
        assert (weight_digest(model) == before) == (edit is scale_through_data)  # only a user's own hook can
    assert weight_digest(model) != before


def test_a_hook_that_writes_weights_during_a_call_is_seen(tiny):
    model = copy.deepcopy(tiny)
    model.blocks[0].hook_resid_post.add_hook(lambda value, hook: scale_through_data(model))
    with one_call():
        before = weight_digest(model)
        model(torch.tensor([[1, 2]]), return_type=None)
        assert weight_digest(model) != before


@pytest.fixture
def spliced(tiny):
    """The tiny model as SAELens's class, which an SAE can be attached to, and such an SAE."""
    from sae_lens import HookedSAETransformer, TopKSAE, TopKSAEConfig

    model = HookedSAETransformer(tiny.cfg, tokenizer=tiny.tokenizer)
    model.load_state_dict(tiny.state_dict())
    model.eval()
    config = TopKSAEConfig(d_in=int(tiny.cfg.d_model), d_sae=8, k=2, dtype="float32", device="cpu")
    sae = TopKSAE(config)
    sae.cfg.metadata.hook_name = "blocks.0.hook_resid_post"
    return model, sae


@pytest.mark.slow
def test_an_attached_sae_is_said_and_is_no_part_of_what_is_kept(spliced, names, tmp_path, caplog):
    """Blocks after it read its reconstruction: not what the same model gives without it."""
    from graticule import causes, saes

    model, sae = spliced
    later = "blocks.1.hook_resid_post"
    table = Table.from_arrays(np.random.default_rng(0).normal(size=52), names[:52], name="t")
    findings = probe(model, table, points=later, twins=0, n_bootstrap=20, progress=False)
    clean = capture(model, names, points=later, store=tmp_path / "store")[later]
    assert "hooks of its own" not in caplog.text
    model.add_sae(sae)
    said = "hooks of its own at blocks.0.hook_resid_post (an SAE)"
    with pytest.raises(ValueError, match=r"hooks of its own at blocks\.0\.hook_resid_post \(an SAE\)"):
        capture(model, names, points=later, store=tmp_path / "store")
    config = {"architecture": "topk", "d_sae": 8, "k": 2}
    with pytest.raises(ValueError, match=r"hooks of its own at .* \(an SAE\)"):
        saes.train(model, corpus=names, config=config, hook_name=later, out=tmp_path / "run", n_tokens=64,
                   batch_size=32, context_size=8)  # fmt: skip
    caplog.clear()
    acts = capture(model, names, points=later)
    assert [r.message for r in caplog.records if said in r.message] and caplog.text.count(said) == 1
    assert acts.provenance["model"]["hooks"] == ["blocks.0.hook_resid_post (an SAE)"]
    assert not np.allclose(np.asarray(acts[later]), np.asarray(clean), atol=1e-3)
    caplog.clear()
    with pytest.raises(ValueError, match=r"hooks differ, none and hooks .* \(an SAE\)"):
        causes(findings, model, rows=4, controls=2, progress=False)
    assert caplog.text.count(f"causes: the model has {said}") == 1
    model.reset_saes()
    with record(model, later) as recording, model.saes(saes=[sae]):  # attached while it is recorded
        model(names[:4])
    assert recording.activations.provenance["model"]["hooks"] == ["blocks.0.hook_resid_post (an SAE)"]
    caplog.clear()
    np.testing.assert_array_equal(np.asarray(capture(model, names, points=later)[later]), np.asarray(clean))
    assert "hooks of its own" not in caplog.text
