"""Readings as sums of upstream writes, against TransformerLens's own decompositions."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import as_installed, cached, misread_axes, relative

from graticule import Table, baselines, capture, sweep
from graticule.hooks.artifact import ArtifactError
from graticule.hooks.capture_spec import CaptureSpec, Sample
from graticule.hooks.running.runner import run_in_parts
from graticule.probes.attribution.attribute import TOLERANCE, DecompositionError, attribute, means_and_shares
from graticule.probes.attribution.result import Attribution
from graticule.probes.attribution.trace import Trace, trace
from graticule.probes.linear.ridge import RidgeProbe

MODELS = [(f, k) for f in ("gpt2", "llama", "gemma3") for k in ("hooked", "bridge")]


@pytest.fixture(scope="module")
def gemma3_folder(tmp_path_factory, hf_folder):
    """A tiny model with norms before and after both sublayers."""
    import transformers as hf

    tokenizer = hf.AutoTokenizer.from_pretrained(hf_folder("llama"))
    ids = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = hf.Gemma3TextConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, sliding_window=16, **ids,
    )  # fmt: skip
    torch.manual_seed(0)
    model = hf.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp("postnorm")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def any_model(load_tiny, gemma3_folder):
    made = {}

    def load(family, kind):
        if family != "gemma3":
            return load_tiny(family, kind)
        if kind not in made:
            made[kind] = _post_norm(gemma3_folder) if kind == "hooked" else _bridge(gemma3_folder)
        return made[kind]

    return load


def _bridge(folder):
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(str(folder), device="cpu")
    bridge.eval()
    return bridge


def _post_norm(folder):
    """The HookedTransformer with Gemma 3's layout: gated, RMS norms before and after."""
    import transformers as hf
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    tokenizer = hf.AutoTokenizer.from_pretrained(folder)
    sizes = {"n_layers": 3, "d_model": 32, "n_heads": 4, "d_head": 8, "d_mlp": 48, "n_ctx": 64}
    config = HookedTransformerConfig(
        **sizes, d_vocab=len(tokenizer), act_fn="gelu_new", gated_mlp=True, normalization_type="RMS",
        use_normalization_before_and_after=True, positional_embedding_type="rotary", rotary_dim=8, seed=0,
        device="cpu",
    )  # fmt: skip
    model = HookedTransformer(config, tokenizer=tokenizer)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def probe_at(point, width=32, targets=2, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(80, width))
    y = X @ rng.normal(size=(width, targets)) + rng.normal(size=(80, targets)) + 5
    return RidgeProbe(point, [f"t{i}" for i in range(targets)], [None] * targets).fit(X, y)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["component", "head", "neuron"])
@pytest.mark.parametrize(("family", "kind"), MODELS)
def test_terms_sum_to_the_reading(any_model, names, family, kind, unit):
    model = any_model(family, kind)
    point = "blocks.2.hook_resid_post"
    probe = probe_at(point)
    hooks = _hooks(model)
    found = attribute(probe, model, texts=names[:24], unit=unit, top=6, n_bootstrap=20, progress=False)
    assert _hooks(model) == hooks
    assert found.gap <= TOLERANCE
    whole = found.values.astype(np.float64).sum(1) + probe.intercept
    for i in (0, 7, 23):
        x = cached(model, model.to_tokens(names[i]))[point][0, -1].double().numpy()
        said = x @ probe.coef + probe.intercept
        np.testing.assert_allclose(found.rows[["reading_t0", "reading_t1"]].iloc[i], said, atol=1e-4)
        np.testing.assert_allclose(whole[i], said, atol=1e-3)
    kinds = set(found.terms["kind"])
    assert {"component": "mlp", "head": "head", "neuron": "neuron"}[unit] in kinds
    if unit == "neuron":
        assert (found.of("t0")["kind"] == "neuron").sum() == 6


def _hooks(model):
    return sum(len(h.fwd_hooks) + len(h.bwd_hooks) for h in model.hook_dict.values())


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_terms_are_transformer_lens_own(any_model, names, family):
    model = any_model(family, "hooked")
    probe = probe_at("blocks.2.hook_resid_post")
    components = attribute(probe, model, texts=names[:5], unit="component", n_bootstrap=10)
    heads = attribute(probe, model, texts=names[:5], unit="head", n_bootstrap=10)
    neurons = attribute(probe, model, texts=names[:5], unit="neuron", top=9, n_bootstrap=10)
    for i in range(5):
        cache = cached(model, model.to_tokens(names[i]))
        stack, labels = cache.decompose_resid(3, pos_slice=-1, return_labels=True)
        theirs = stack[:, 0].double().numpy() @ probe.coef
        assert len(labels) == components.values.shape[1]
        np.testing.assert_allclose(components.values[i], theirs, atol=1e-5)
        cache.compute_head_results()
        stack = cache.stack_head_results(3, pos_slice=-1)
        theirs = stack[:, 0].detach().double().numpy() @ probe.coef
        own = (heads.of("t0")["kind"] == "head").to_numpy()
        np.testing.assert_allclose(heads.values[i][own], theirs, atol=1e-5)
        for k, line in neurons.of("t0").iterrows():
            if line["kind"] != "neuron":
                continue
            layer, n = int(line["layer"]), int(line["index"])
            write = float(cache[f"blocks.{layer}.mlp.hook_post"][0, -1, n]) * model.blocks[layer].mlp.W_out[n]
            np.testing.assert_allclose(
                neurons.values[i][k], write.detach().double().numpy() @ probe.coef, atol=1e-5
            )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hooked", "bridge"])
def test_heads_behind_a_norm_sum_to_what_the_attention_adds(any_model, names, kind):
    model = any_model("gemma3", kind)
    probe = probe_at("blocks.1.hook_resid_mid")
    by_component = attribute(probe, model, texts=names[:6], unit="component", n_bootstrap=10)
    by_head = attribute(probe, model, texts=names[:6], unit="head", n_bootstrap=10)
    whole, apart = by_component.of("t0"), by_head.of("t0")
    assert "L1 MLP" not in set(whole["term"])  # written after the point
    for layer in range(2):
        attention = by_component.values[:, (whole["term"] == f"L{layer} attention").to_numpy()].sum(1)
        own = apart["kind"].isin(["head", "bias"]) & (apart["layer"] == layer)
        heads = by_head.values[:, own.to_numpy()].sum(1)
        assert relative(torch.from_numpy(heads), torch.from_numpy(attention)) < 1e-5


def test_the_neurons_that_make_the_reading_vary_stand_alone(tiny, names):
    probe = probe_at("blocks.2.hook_resid_post", targets=1)
    texts = names[:52]
    found = attribute(probe, tiny, texts=texts, unit="neuron", top=3, n_bootstrap=10)
    acts = capture(tiny, texts, points=["mlp_post", "resid_post"])
    read = probe.predict(acts["resid_post", 2])[:, 0]
    share = {}
    for layer in range(3):
        write = tiny.blocks[layer].mlp.W_out.detach().double().numpy() @ probe.coef[:, 0]
        each = acts["mlp_post", layer].double().numpy() * write
        for n in range(each.shape[1]):
            share[layer, n] = np.cov(each[:, n], read, ddof=0)[0, 1] / read.var()
    best = sorted(share, key=lambda k: -abs(share[k]))[:3]
    alone = found.of("t0")[found.of("t0")["kind"] == "neuron"]
    assert {(int(a), int(b)) for a, b in zip(alone["layer"], alone["index"], strict=True)} == set(best)
    for _, line in alone.iterrows():
        assert line["share"] == pytest.approx(share[int(line["layer"]), int(line["index"])], abs=1e-5)
    assert found.of("t0")["share"].sum() == pytest.approx(1, abs=1e-4)


def test_shares_and_means_on_a_sum_whose_parts_are_known():
    """Independent parts of variance 1, 4 and 0 have shares .2, .8 and 0; intervals respect clusters."""
    rng = np.random.default_rng(0)
    covered = np.zeros(2)
    for trial in range(60):
        cluster = np.repeat(np.arange(40), 5)
        parts = rng.normal(size=(40, 2))[cluster] * [1, 2] + [3, 0]  # all five rows of a cluster alike
        terms = np.concatenate([parts, np.full((200, 1), 7.0)], axis=1)[:, :, None]
        mean, share = means_and_shares(terms, terms.sum(1), cluster, 300, trial)
        assert share.value[2, 0] == pytest.approx(0, abs=1e-12)
        assert share.value.sum() == pytest.approx(1)
        assert mean.low[2, 0] == mean.high[2, 0] == 7
        covered += [mean.low[0, 0] <= 3 <= mean.high[0, 0], share.low[1, 0] <= 0.8 <= share.high[1, 0]]
    assert (covered >= 50).all()  # 95% of 60, less what forty clusters cost


@pytest.fixture(scope="module")
def swept(load_tiny, names):
    model = load_tiny("llama", "hooked")
    rng = np.random.default_rng(0)
    texts = [f"{n} {i}" for i, n in enumerate(names * 3)]
    acts = capture(model, texts, prompt="where is ")
    x = acts["resid_post", 1].double().numpy()
    y = x @ rng.normal(size=32)
    y = (y - y.mean()) / y.std() + 0.3 * rng.normal(size=len(y))
    frame = pd.DataFrame({"text": texts, "y": y, "is_test": rng.random(len(y)) < 0.3})
    table = Table(frame, text="text", target="y", split="is_test", name="swept")
    beside = baselines(model, table, prompt="where is ", progress=False)
    return model, sweep(acts, table, baselines=beside, progress=False)


@pytest.mark.slow
def test_test_rows_of_the_findings_as_they_were_captured(swept):
    model, findings = swept
    found = attribute(findings, model, n_bootstrap=50)
    said = findings.at()
    assert found.n_rows == len(said.y)
    np.testing.assert_allclose(found.rows["reading_y"], said.predictions[:, 0], atol=1e-4)
    np.testing.assert_allclose(found.rows["true_y"], said.y[:, 0])
    table = found.of("y")
    assert table["toward_truth"].sum() == pytest.approx(1, abs=1e-4)
    assert (table["share_low"] <= table["share"] + 1e-9).all()
    some = attribute(findings, model, rows=20, n_bootstrap=50, seed=3)
    assert 10 < some.n_rows <= 20
    again = attribute(findings, model, rows=20, n_bootstrap=50, seed=3)
    assert some.to_json()["terms"] == again.to_json()["terms"]


@pytest.mark.slow
def test_one_text_is_set_against_training_rows(swept):
    model, findings = swept
    found = attribute(findings, model, texts="rome 7", unit="head", rows=30)
    table = found.of("y")
    assert found.n_rows == 1 and table["share"].isna().all()
    assert table["reference"].notna().all()
    assert "against the mean training row" in found.summary()
    assert len(found.figures()) == 1


@pytest.mark.slow
def test_round_trip_and_figures(swept, tmp_path):
    model, findings = swept
    for unit in ("component", "head", "neuron"):
        found = attribute(findings, model, unit=unit, rows=30, top=5, n_bootstrap=20)
        found.save(tmp_path / unit)
        back = Attribution.load(tmp_path / unit)
        assert back.summary() == found.summary()
        np.testing.assert_array_equal(back.values, found.values)
        pd.testing.assert_frame_equal(back.terms, found.terms)
        assert set(back.figures()) == set(found.figures())
        assert len(back.figures()) >= 1 and len(back.tables()) == 1
        assert not any(map(misread_axes, back.figures().values()))
    with pytest.raises(ArtifactError):
        Trace.load(tmp_path / "head")


def test_a_stream_that_something_else_writes_into_is_noticed(load_tiny, names):
    model = load_tiny("llama", "hooked")
    probe = probe_at("blocks.2.hook_resid_post")
    hooks = _hooks(model)
    with (
        model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", lambda v, hook: v * 1.01)]),
        pytest.raises(DecompositionError, match="something else writes"),
    ):
        attribute(probe, model, texts=names[:20])
    assert _hooks(model) == hooks


def test_refusals(load_tiny, names):
    model = load_tiny("llama", "hooked")
    probe = probe_at("blocks.2.hook_resid_post")
    with pytest.raises(ValueError, match="no point of the residual stream"):
        attribute(probe_at("blocks.2.hook_mlp_out"), model, texts=names[:3])
    with pytest.raises(ValueError, match="pass texts="):
        attribute(probe, model)
    with pytest.raises(KeyError, match="t0, t1"):
        attribute(probe, model, texts=names[:3], target="t7")
    with pytest.raises(ValueError, match="2 clusters for 3 texts"):
        attribute(probe, model, texts=names[:3], clusters=[0, 1])
    with as_installed(), pytest.raises(ValueError, match="'component', 'head' or 'neuron'"):
        attribute(probe, model, texts=names[:3], unit="layer")
    nameless = RidgeProbe().fit(np.random.default_rng(0).normal(size=(9, 32)), np.arange(9.0))
    with pytest.raises(ValueError, match="no hook_name"):
        attribute(nameless, model, texts=names[:3])


@pytest.mark.parametrize(("family", "kind"), [("gpt2", "hooked"), ("llama", "bridge")])
def test_trace_is_the_probe_at_every_token(any_model, names, family, kind, tmp_path):
    model = any_model(family, kind)
    probe = probe_at("blocks.1.hook_resid_post")
    text = max(names, key=len)
    found = trace(probe, model, text)
    tokens = model.to_tokens(text)
    cache = cached(model, tokens)
    np.testing.assert_allclose(
        found.readings[0], probe.predict(cache["blocks.1.hook_resid_post"][0]), atol=1e-5
    )
    assert len(found.tokens) == tokens.shape[1] == len(found.table)
    assert list(found.table.columns) == ["token", "t0", "t1"]
    found.save(tmp_path / "trace")
    back = Trace.load(tmp_path / "trace")
    assert back.summary() == found.summary() and back.tokens == found.tokens
    assert len(back.figures()) == 2


@pytest.mark.slow
def test_trace_with_every_probe(swept):
    model, findings = swept
    found = trace(findings, model, "where is north rome")
    assert found.points == tuple(findings.probes)
    assert found.chosen == findings.chosen_point
    assert len(found.figures()) == 2
    one = trace(findings, model, "where is north rome", layers="chosen", target="y")
    at = found.points.index(found.chosen)
    np.testing.assert_allclose(one.readings[0], found.readings[at], atol=1e-6)


@pytest.mark.slow
@pytest.mark.gemma
@pytest.mark.parametrize("unit", ["component", "head", "neuron"])
def test_terms_sum_on_gemma(gemma, names, unit):
    found = attribute(
        probe_at("blocks.5.hook_resid_post", 640), gemma, texts=names[:12], unit=unit, top=5, n_bootstrap=10
    )
    assert found.gap <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("pos", [slice(-2, None), Sample(50), Sample(1, seed=2), -1], ids=str)
def test_findings_of_any_positions_are_read_again_as_they_were_captured(swept, pos):
    model, made = swept
    table = made.inputs.table
    acts = capture(model, table.texts, prompt="where is ", pos=pos, layers=1, include_bos=False)
    findings = sweep(acts, table, progress=False)
    found = attribute(findings, model, n_bootstrap=20)
    said = findings.at()
    assert found.n_rows == len(said.y) > 0
    np.testing.assert_allclose(found.rows["reading_y"], said.predictions[:, 0], atol=1e-4)


@pytest.mark.parametrize("pos", ["last", "all", slice(1, 3), Sample(2, seed=5), "entity_mean"], ids=str)
def test_in_parts_as_in_one_capture(tiny, names, pos, monkeypatch):
    from graticule.hooks import identity

    whole = capture(tiny, names, layers=[0, 2], pos=pos, prompt="where is ")
    monkeypatch.setattr(identity, "weight_digest", lambda _: pytest.fail("the weights were digested"))
    parts: list[tuple] = []
    seen: list[int] = []
    run_in_parts(
        tiny,
        names,
        list(whole.points),
        lambda held, table: parts.append((held, table)),
        13,
        SimpleNamespace(update=seen.append),
        CaptureSpec.from_json(whole.provenance),
    )
    assert len(parts) == 5 and sum(seen) == len(names)
    table = pd.concat([t for _, t in parts], ignore_index=True)
    pd.testing.assert_frame_equal(table, whole.rows[table.columns], check_dtype=False)
    for point in whole:
        assert relative(torch.cat([held[point] for held, _ in parts]), whole[point]) <= 1e-5
