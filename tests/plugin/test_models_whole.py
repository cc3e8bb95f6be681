"""`load_model` on folders with weights missing or left over, files cut short, or code of their own."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers as hf
from families import CONVERTED, SIZES, TOKENS, WORDS, difference, make, words, write_gguf
from safetensors.torch import load_file, save_file
from transformer_lens.model_bridge import TransformerBridge

from graticule import load_model
from graticule.loading.original import IncompleteModelError

WIDE = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "head_dim": 16}
MODELS = {
    "converted": CONVERTED["llama"],
    "bridged": lambda: hf.LlamaConfig(num_hidden_layers=2, max_position_embeddings=64, **WIDE, **WORDS),
    "tied": CONVERTED["gpt2"],
}


def rewrite(folder: Path, change) -> None:
    """Change the weights in a folder, `{name: tensor}` to `{name: tensor}`."""
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})


def one_line(error) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("kind", MODELS)
def test_missing_weights_are_refused_unless_allowed(kind: str, tmp_path: Path, caplog) -> None:
    make(MODELS[kind](), tmp_path)
    last = ".h.1." if kind == "tied" else ".layers.1."
    rewrite(tmp_path, lambda w: {k: v for k, v in w.items() if last not in k})
    with pytest.raises(
        IncompleteModelError, match=r"weights \(first .*1\..*missing.*allow_missing=True"
    ) as e:
        load_model(tmp_path)
    one_line(e)
    with caplog.at_level(logging.WARNING, logger="graticule"):
        first, second = (load_model(tmp_path, allow_missing=True) for _ in range(2))
    assert "random here" in caplog.text
    assert isinstance(first, TransformerBridge) == (kind == "bridged")
    assert torch.equal(first(TOKENS), second(TOKENS))  # the same random values in every load


def test_fewer_layers_in_the_config_than_in_the_file(tmp_path: Path) -> None:
    make(CONVERTED["llama"](), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    with pytest.raises(IncompleteModelError, match=r"no place for, first model\.layers\.1\.") as e:
        load_model(tmp_path)
    one_line(e)


@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("model.layers.0.self_attn.q_proj.bias", True),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", False),
        ("model.rotary_emb.inv_freq", False),
        ("score.weight", False),
    ],
)
def test_weights_without_a_place(name: str, refused: bool, tmp_path: Path, caplog) -> None:
    original = make(CONVERTED["llama"](), tmp_path)
    rewrite(tmp_path, lambda w: {**w, name: torch.ones(32)})
    if refused:
        with pytest.raises(IncompleteModelError, match="no place for"):
            load_model(tmp_path)
        return
    with caplog.at_level(logging.WARNING, logger="graticule"):
        assert difference(load_model(tmp_path), original) <= 1e-4
    assert ("score.weight" in caplog.text) == (name == "score.weight")


def test_a_weight_of_another_shape(tmp_path: Path) -> None:
    make(CONVERTED["llama"](), tmp_path)
    rewrite(tmp_path, lambda w: {**w, "model.layers.0.mlp.up_proj.weight": torch.ones(5, 5)})
    with pytest.raises(IncompleteModelError, match=r"\(5, 5\) in the file, expected \(48, 32\)") as e:
        load_model(tmp_path, allow_missing=True)
    one_line(e)


def test_files_that_are_cut_short_or_absent(tmp_path: Path) -> None:
    make(CONVERTED["llama"](), tmp_path)
    file = tmp_path / "model.safetensors"
    whole = load_file(file)
    content = file.read_bytes()
    for cut in (4, 100, len(content) - 8):
        file.write_bytes(content[:cut])
        with pytest.raises(ValueError, match="damaged or cut short") as e:
            load_model(tmp_path)
        one_line(e)
    file.unlink()
    names = {k: "b.safetensors" if ".layers.1." in k else "a.safetensors" for k in whole}
    save_file({k: v for k, v in whole.items() if names[k][0] == "a"}, tmp_path / "a.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    with pytest.raises(ValueError, match=r"b\.safetensors") as e:
        load_model(tmp_path)
    one_line(e)
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, "a.safetensors")}))
    with pytest.raises(IncompleteModelError, match="missing from its files"):
        load_model(tmp_path)
    index.write_text('{"weight_map": {')
    with pytest.raises(ValueError, match="damaged or cut short") as e:
        load_model(tmp_path)
    one_line(e)


def test_a_gguf_file_without_some_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRATICULE_CACHE", str(tmp_path / "cache"))
    original = make(CONVERTED["llama"](), tmp_path / "hf")
    write_gguf(tmp_path / "whole.gguf", original)
    states = original.state_dict()
    original.state_dict = lambda: {k: v for k, v in states.items() if "layers.1.mlp" not in k}
    write_gguf(tmp_path / "holed.gguf", original)
    with pytest.raises(IncompleteModelError, match=r"holed\.gguf: 3 of \d+ weights") as e:
        load_model(tmp_path / "holed.gguf")
    assert "allow_missing" not in one_line(e)
    content = (tmp_path / "whole.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[: len(content) - 4000])
    with pytest.raises(ValueError, match=r"cut\.gguf") as e:
        load_model(tmp_path / "cut.gguf")
    one_line(e)
    assert not list((tmp_path / "cache").glob("gguf-*"))


@pytest.mark.parametrize(("name", "family"), [("gpt2", "gpt2"), ("somebody/tiny", "llama")])
def test_a_name_of_the_hub_without_some_weights(name: str, family: str, tmp_path: Path, monkeypatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0" * 40)
    make(CONVERTED[family](), snapshot)
    rewrite(snapshot, lambda w: {k: v for k, v in w.items() if ".1." not in k})
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    with pytest.raises(IncompleteModelError, match="missing from its files"):
        load_model(name)


@pytest.mark.parametrize("whole", [True, False])
def test_an_adapter_beside_a_models_weights_is_not_left_out(whole: bool, tmp_path: Path) -> None:
    if whole:
        make(CONVERTED["llama"](), tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(ValueError, match=r"holds an adapter: merge it") as e:
        load_model(tmp_path)
    one_line(e)


@pytest.mark.parametrize("saved_as", ["BertForMaskedLM", "BertForPreTraining"])
def test_an_encoder_keeps_its_own_head(saved_as: str, tmp_path: Path, caplog) -> None:
    torch.manual_seed(0)
    config = hf.BertConfig(**{k: v for k, v in SIZES.items() if k != "num_key_value_heads"})
    original = getattr(hf, saved_as)(config).eval()
    original.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, logger="graticule"):
        model = load_model(tmp_path)
    with torch.no_grad():
        out = original(TOKENS)
        want = out.logits if saved_as == "BertForMaskedLM" else out.prediction_logits
        assert float((model(TOKENS) - want).abs().max()) <= 1e-4
    assert ("seq_relationship" in caplog.text) == (saved_as == "BertForPreTraining")


# Own code --------------------------------------------------------------------------------------------------
CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
Path({marker!r}).write_text("run")
class Own(LlamaConfig):
    model_type = {kind!r}
class OwnModel(LlamaForCausalLM):
    config_class = Own
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def with_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`with_code(kind, where)`: a folder with a file of code that leaves a marker when it is run."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))

    def folder(kind: str, where: str = "config", wide: bool = False) -> tuple[Path, Path]:
        made, marker = tmp_path / "own", tmp_path / "marker"
        make(MODELS["bridged" if wide else "converted"](), made)
        words(made)
        (made / "own.py").write_text(CODE.format(marker=str(marker), kind=kind))
        config = json.loads((made / "config.json").read_text())
        if where == "config":
            config["model_type"] = kind
            config["auto_map"] = {
                "AutoConfig": "own.Own",
                "AutoModelForCausalLM": "own.OwnModel",
                "AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizer"],
            }
        elif where == "attention":
            config["attn_implementation"] = "somebody/attention"
        else:
            settings = json.loads((made / "tokenizer_config.json").read_text())
            settings |= {
                "tokenizer_class": "OwnTokenizer",
                "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizer"]},
            }
            (made / "tokenizer_config.json").write_text(json.dumps(settings))
        (made / "config.json").write_text(json.dumps(config))
        return made, marker

    return folder


def yes(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    monkeypatch.setattr(builtins, "input", lambda *_: "y")


@pytest.mark.parametrize("where", ["config", "tokenizer", "attention"])
def test_own_code_is_not_run_even_if_stdin_says_yes(where: str, with_code, monkeypatch, caplog) -> None:
    yes(monkeypatch)
    folder, marker = with_code("own-kind", where)
    if where == "tokenizer":
        with caplog.at_level(logging.WARNING, logger="graticule"):
            assert load_model(folder).tokenizer is None
        assert "trust_remote_code=True" in caplog.text
    else:
        with pytest.raises(ValueError, match=r"code of its own.*trust_remote_code=True") as e:
            load_model(folder)
        one_line(e)
    assert not marker.exists()


@pytest.mark.parametrize("wide", [False, True], ids=["converted", "bridged"])
def test_a_family_that_transformers_has_needs_no_own_code(wide: bool, with_code, monkeypatch) -> None:
    yes(monkeypatch)
    folder, marker = with_code("llama", wide=wide)
    model = load_model(folder)
    assert isinstance(model, TransformerBridge) == wide
    assert not marker.exists()
    assert model.to_tokens("the city of").tolist() == [[1, 4, 5, 6]]


def test_own_code_is_run_if_told(with_code) -> None:
    folder, marker = with_code("llama")
    plain = load_model(folder)
    assert not marker.exists()
    model = load_model(folder, trust_remote_code=True)
    assert marker.exists()
    assert torch.allclose(model(TOKENS), plain(TOKENS), atol=1e-5)


def test_official_names_that_transformer_lens_trusts_by_itself(with_code, tmp_path, monkeypatch) -> None:
    import huggingface_hub.constants as constants
    from transformer_lens import loading_from_pretrained as loading

    yes(monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "openai/gpt-oss-".startswith(loading.NEED_REMOTE_CODE_MODELS)  # it would run their code
    for official, family in (("Qwen/Qwen3-0.6B", "qwen3"), ("microsoft/phi-2", "phi")):
        repository = tmp_path / "hub" / f"models--{official.replace('/', '--')}"
        snapshot = repository / "snapshots" / ("0" * 40)
        config = (
            CONVERTED["qwen3"]()
            if family == "qwen3"
            else hf.PhiConfig(num_hidden_layers=2, partial_rotary_factor=0.5, **SMALL_PHI)
        )
        make(config, snapshot)
        words(snapshot)
        source, marker = with_code(family)
        shutil.copy(source / "own.py", snapshot)
        made = json.loads((snapshot / "config.json").read_text())
        made["auto_map"] = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnModel"}
        (snapshot / "config.json").write_text(json.dumps(made))
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0" * 40)
        load_model(official)
        assert not marker.exists()
    assert loading.NEED_REMOTE_CODE_MODELS


SMALL_PHI = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, **WORDS}


@pytest.mark.slow
def test_the_command_line_runs_no_own_code(with_code, tmp_path: Path) -> None:
    folder, marker = with_code("own-kind")
    (tmp_path / "lines.txt").write_text("the city\n")
    command = [sys.executable, "-m", "graticule", "capture", "--model", str(folder)]
    command += ["--texts", str(tmp_path / "lines.txt"), "--out", str(tmp_path / "store")]
    done = subprocess.run(
        command,
        input="y\n" * 20,
        capture_output=True,
        text=True,
        timeout=120,
        env=dict(os.environ),
        check=False,
    )
    assert done.returncode == 2 and not marker.exists()
    assert len(done.stderr.strip().splitlines()) == 1 and "code of its own" in done.stderr


# What is no name, and devices that are not here ------------------------------------------------------------
def test_a_model_is_no_name(load_tiny, tmp_path: Path) -> None:
    from helpers import as_installed

    with as_installed():
        for wrong, expected in (
            (load_tiny("llama", "hooked"), "a model already"),
            (load_tiny("llama", "bridge"), "a model already"),
            (make(CONVERTED["llama"](), tmp_path), "save_pretrained"),
            (None, "not a NoneType"),
            (3, "not a int"),
        ):
            with pytest.raises(TypeError, match=expected) as e:
                load_model(wrong)
            one_line(e)


@pytest.mark.parametrize("device", ["cuda", "cuda:97", "mps", "gpu", "", torch.device("cuda", 97)])
def test_a_device_that_is_not_here_is_refused_before_anything_loads(device, tmp_path: Path) -> None:
    if str(device) == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ValueError, match=r"is not on this machine; expected one of auto, cpu") as e:
        load_model(tmp_path / "nothing here", device=device)
    one_line(e)


def test_the_device_may_be_chosen(tmp_path: Path) -> None:
    make(CONVERTED["llama"](), tmp_path)
    model = load_model(tmp_path, device="auto")
    assert next(model.parameters()).device.type == ("cuda" if torch.cuda.is_available() else "cpu")


# What loading leaves alone ---------------------------------------------------------------------------------
def test_loading_a_model_that_sees_pictures_installs_nothing(tmp_path: Path, monkeypatch) -> None:
    ran: list[object] = []
    monkeypatch.setattr(subprocess, "check_call", lambda *words, **_: ran.append(words))
    text = {**SIZES, "head_dim": 16}
    eyes = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }
    config = hf.Gemma3Config(text_config=text, vision_config=eyes, mm_tokens_per_image=1)
    hf.Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    assert isinstance(load_model(tmp_path), TransformerBridge)
    assert ran == []


@pytest.mark.parametrize("kind", ["Roberta", "ModernBert", "ViT"])
def test_what_is_no_language_model_of_transformer_lens_is_refused_in_a_line(kind: str, tmp_path) -> None:
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = getattr(hf, f"{kind}Config")(**{**small, **WORDS})
    ends = {"ViT": "Model"}
    getattr(hf, f"{kind}{ends.get(kind, 'ForMaskedLM')}")(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has none for a|has no adapter for it") as e:
        load_model(tmp_path)
    assert len(one_line(e)) < 400


@pytest.mark.parametrize("kind", ["T5", "Bart", "MBart"])
def test_an_encoder_beside_a_decoder_is_refused_in_a_line(kind: str, tmp_path) -> None:
    """Some load as a bridge, whose decoder reads the text shifted by a token."""
    small = {"d_model": 32, "d_ff": 48, "num_layers": 1, **WORDS}
    if kind != "T5":
        sides = {f"{side}_{what}": n for side in ("encoder", "decoder")
                 for what, n in (("layers", 2), ("attention_heads", 4), ("ffn_dim", 48))}  # fmt: skip
        small = {"d_model": 32, "max_position_embeddings": 64, **sides, **WORDS}
    config = getattr(hf, f"{kind}Config")(**small)
    getattr(hf, f"{kind}ForConditionalGeneration")(config).save_pretrained(tmp_path)
    for verify in (True, False):
        with pytest.raises(
            ValueError, match=rf"has an encoder and a decoder \({kind.lower()}\).* one stack"
        ) as e:
            load_model(tmp_path, verify=verify)
        assert len(one_line(e)) < 400
