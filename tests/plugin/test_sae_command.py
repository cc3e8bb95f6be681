"""`graticule sae train`: one command from texts to a SAELens folder, run again, interrupted, refused."""

import os
import signal
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from sae_lens import SAE
from safetensors.torch import load_file

import graticule
from graticule.cli import main
from graticule.commands.saes import read_resampling
from graticule.hooks.artifact import read_json

POINT = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def words(hf_folder, names, tmp_path_factory) -> list[str]:
    """Model and corpus, as words of a command line."""
    corpus = tmp_path_factory.mktemp("corpus") / "texts.txt"
    corpus.write_text("\n".join(" ".join(names[i : i + 8]) for i in range(len(names))) * 12)
    small = ["--context-size", "16", "--batch-size", "64", "--buffer-tokens", "512"]
    return ["--model", str(hf_folder("llama")), "--corpus", str(corpus), "--hook-name", POINT, *small]


@pytest.fixture(scope="module")
def store(load_tiny, names, tmp_path_factory) -> str:
    """Every position's activations of sixty texts at two points, on disk."""
    out = tmp_path_factory.mktemp("acts") / "store"
    points = ["blocks.0.hook_resid_post", POINT]
    texts = [f"{a} {b}" for a, b in pairwise(names)]
    graticule.capture(load_tiny(), texts, points=points, pos="all", store=out)
    return str(out)


def train(*options: str) -> int:
    return main(["sae", "train", *options])


@pytest.mark.slow
def test_from_texts_to_a_saelens_folder(words, tmp_path, capsys):
    out = tmp_path / "run"
    line = [*words, "--architecture", "batchtopk", "--d-sae", "48", "--k", "4.5", "--tokens", "1920"]
    line += ["--lr", "0.003", "--seed", "2", "--out", str(out)]
    assert train(*line) == 0
    told = capsys.readouterr().out
    assert "trained on 1,920 tokens: batchtopk SAE of 48 latents at blocks.1.hook_resid_post" in told
    assert f"For SAELens: {out / 'sae'}" in told
    sae = SAE.load_from_disk(out / "sae")
    assert (sae.cfg.d_in, sae.cfg.d_sae, sae.cfg.metadata.context_size) == (32, 48, 16)
    request = read_json(out / "run.json")["request"]
    assert (request["sae"]["k"], request["trainer"]["lr"], request["seed"]) == (4.5, 0.003, 2)
    assert train(*line) == 0  # complete: told again, not run again
    assert capsys.readouterr().out == told
    assert train(*line, "--sparsity-warm-up-steps", "3", "--seed", "9") == 2
    refusal = capsys.readouterr().err
    assert "another request" in refusal
    assert "seed: 2 → 9" in refusal


@pytest.mark.parametrize(
    ("architecture", "options", "saved_as"),
    [
        ("bricken", ["--l1", "0.01"], "standard"),
        ("standard", ["--l1", "0.5"], "standard"),
        ("topk", ["--k", "4"], "topk"),
        ("batchtopk", ["--k", "4"], "jumprelu"),
        ("matryoshka", ["--k", "4", "--normalize", "expected_average_only_in"], "jumprelu"),
        ("jumprelu", ["--l1", "0.1"], "jumprelu"),
        ("gated", ["--l1", "0.2", "--compute-dtype", "bfloat16"], "gated"),
    ],
)
def test_every_architecture_trains_and_loads(store, tmp_path, capsys, architecture, options, saved_as):
    line = ["--store", store, "--hook-name", POINT, "--architecture", architecture, "--d-sae", "40"]
    line += ["--batch-size", "32", "--tokens", "320", *options, "--out", str(tmp_path / "run")]
    assert train(*line) == 0, capsys.readouterr().err
    sae = SAE.load_from_disk(tmp_path / "run" / "sae")
    assert sae.cfg.architecture() == saved_as
    assert sae.cfg.normalize_activations == "none"
    made = sae(torch.randn(5, 32))
    assert made.shape == (5, 32)
    assert bool(made.isfinite().all())


def test_resampling_is_set_in_steps(store, tmp_path, capsys):
    line = ["--store", store, "--hook-name", POINT, "--d-sae", "40", "--batch-size", "32", "--tokens", "320"]
    line += ["--architecture", "bricken", "--out", str(tmp_path / "run")]
    assert (
        train(*line, "--resample-steps", "4,8", "--resample-tokens", "100", "--resample-subtract-bias") == 0
    )
    events = read_json(tmp_path / "run" / "events.json")["events"]
    assert [(e["event"], e["step"], e["sample_size"]) for e in events] == [
        ("resampled", n, 100) for n in (4, 8)
    ]
    assert read_json(tmp_path / "run" / "run.json")["request"]["resampling"]["subtract_bias"] is True
    assert read_resampling("none", None) is None
    assert read_resampling(None, None) == "default"
    assert read_resampling("30, 10", None) == {"steps": (10, 30), "window": 5, "subtract_bias": False}
    for given in ((None, 100), (None, None, True)):
        with pytest.raises(ValueError, match="needs --resample-steps"):
            read_resampling(*given)
    with pytest.raises(ValueError, match="expected steps like"):
        read_resampling("soon", None)


@pytest.mark.slow
def test_options_given_twice_train_every_combination(store, tmp_path, capsys):
    line = ["--store", store, "--hook-name", POINT, "--d-sae", "16", "--d-sae", "24", "--k", "2", "--k", "3"]
    line += ["--batch-size", "32", "--tokens", "128", "--out", str(tmp_path / "run")]
    assert train(*line) == 0
    made = {name: read_json(tmp_path / "run" / name / "run.json")["request"]["sae"]
            for name in ("d_sae_16-k_2", "d_sae_16-k_3", "d_sae_24-k_2", "d_sae_24-k_3")}  # fmt: skip
    assert {(sae["d_sae"], sae["k"]) for sae in made.values()} == {(16, 2), (16, 3), (24, 2), (24, 3)}
    assert "4 SAEs from one stream: complete, 128 tokens" in capsys.readouterr().out


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_and_a_message(words, tmp_path, capsys, monkeypatch):
    from graticule.saes.training.trainer import Trainer

    step, taken = Trainer.step, []

    def interrupting(self, batch):
        taken.append(len(taken))
        if len(taken) == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batch)

    line = [*words, "--architecture", "topk", "--d-sae", "24", "--k", "3", "--tokens", "640"]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupting)
        assert train(*line, "--out", str(tmp_path / "cut")) == 130
    told = capsys.readouterr().err
    assert "interrupted at step 4 (256 tokens)" in told
    assert "the same command run again goes on" in told
    assert read_json(tmp_path / "cut" / "checkpoint" / "checkpoint.json")["step"] == 4
    assert not (tmp_path / "cut" / "sae").exists()
    assert train(*line, "--out", str(tmp_path / "cut")) == 0
    assert train(*line, "--out", str(tmp_path / "whole")) == 0
    found = [load_file(tmp_path / run / "sae" / "sae_weights.safetensors") for run in ("cut", "whole")]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[1])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "give either --model"),
        (["--model", "m", "--store", "s"], "give either --model"),
        (["--model", "m", "--corpus", "c"], "--model needs --hook-name and --tokens too"),
        (["--store", "s", "--corpus", "c"], "--corpus is read by a model"),
        (["--store", "nowhere"], "nowhere"),
    ],
)
def test_wrong_words_are_told_on_one_line(options, told, tmp_path, capsys):
    assert train(*options, "--out", str(tmp_path / "run")) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert told in lines[0]
    assert not (tmp_path / "run" / "run.json").exists()


def test_wrong_settings_are_told(store, tmp_path, capsys):
    line = ["--store", store, "--out", str(tmp_path / "run"), "--batch-size", "32"]
    assert train(*line, "--architecture", "topq", "--hook-name", POINT) == 2
    assert "'topq': expected one of" in capsys.readouterr().err
    assert train(*line, "--architecture", "standard", "--k", "3", "--hook-name", POINT) == 2
    assert "has no setting k" in capsys.readouterr().err
    assert train(*line, "--hook-name", "blocks.7.hook_resid_post") == 2
    assert "blocks.7.hook_resid_post" in capsys.readouterr().err
    assert train(*line) == 2
    assert "several points" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert train("--store", store, "--out", str(tmp_path / "file")) == 2
    assert "is a file" in capsys.readouterr().err


def test_help_costs_nothing():
    code = "import sys; from graticule.cli import main; main(['sae', 'train', '--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert not loaded & {"torch", "sae_lens", "transformer_lens", "pandas"}
    assert "--hook-name" in done.stdout
    assert "1e-4" in done.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--d-sae", "0"], "0: expected a whole number of at least 1"),
        (["--k", "0"], "0"),
        (["--k", "-1"], "-1"),
        (["--k", "41"], "k=41: at most the 40 latents"),
        (["--architecture", "standard", "--l1", "-0.5"], "-0.5: expected a number of at least 0"),
        (["--lr-warm-up-steps", "-1"], "-1: expected"),
        (["--lr", "nan"], "nan: expected"),
        (["--checkpoint-minutes", "nan"], "nan: expected"),
        (["--max-norm", "1"], "max_norm=1: expected a number above 1"),
        (["--max-norm", "trained"], "'trained': expected a number"),
        (["--max-norm", "few"], "--max-norm (a multiple of the median norm, or none) 'few'"),
        (["--batch-size", "100000"], "write batch_size="),
        (["--compute-dtype", "int8"], "or auto"),
    ],
)
def test_settings_that_cannot_be_end_in_one_line(store, tmp_path, capsys, options, words):
    given = [] if "--d-sae" in options else ["--d-sae", "40"]
    given += [] if "--batch-size" in options else ["--batch-size", "32"]
    out = tmp_path / "run"
    assert train("--store", store, "--hook-name", POINT, *given, *options, "--out", str(out)) == 2
    told = capsys.readouterr().err.strip()
    assert words in told and told.count("\n") == 0 and not out.exists()


def test_ids_of_another_tokenizer_train_nothing_and_measure_nothing(load_tiny, tmp_path):
    """Negative ones would be read from the end of the embedding."""
    from datasets import Dataset
    from sae_lens import TopKTrainingSAEConfig, TrainingSAE
    from sae_lens.saes.sae import SAEMetadata

    model, size = load_tiny(), 16
    held = TopKTrainingSAEConfig(d_in=32, d_sae=64, k=4, metadata=SAEMetadata(hook_name=POINT))
    sae = TrainingSAE.from_dict(held.to_dict())
    for ids, words in ((-100, "id -100 has no embedding"), (5000, f"id 5000 .* {model.cfg.d_vocab}, 0 to")):
        corpus = Dataset.from_dict({"input_ids": [[5] * size, [5] * 3 + [ids] * (size - 3)] * 40})
        with pytest.raises(ValueError, match=rf"document 1 of .*position 3: {words}"):
            graticule.saes.train(
                model, config={"architecture": "topk", "d_sae": 64, "k": 4}, hook_name=POINT, corpus=corpus,
                out=tmp_path / "run", n_tokens=640, batch_size=64, stream={"buffer_tokens": 256},
            )  # fmt: skip
        for look in (graticule.saes.evaluate, graticule.saes.examine):
            with pytest.raises(ValueError, match=rf"document 1 of .*position 3: {words}"):
                look(model, sae, corpus, n_tokens=200)
    assert not (tmp_path / "run" / "sae").exists()
