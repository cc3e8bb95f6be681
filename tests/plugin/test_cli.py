"""The command line: help that costs nothing, errors on one line, and commands on a real, tiny model."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from graticule.cli import main
from graticule.commands import arguments, options
from graticule.hooks.store import Store
from graticule.loading.gguf import n_layers_of
from graticule.probes.tables.table import Table

COMMANDS = (
    "demo",
    "probe",
    "study",
    "words",
    "family",
    "monitor",
    "sim",
    "certify",
    "capture",
    "tables",
    "report",
    "push",
)
OF_SAE = ("sae train", "sae eval", "sae report")


def run(*words: str, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "graticule", *words]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of two layers with a word-level tokenizer, saved as a Hugging Face folder."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "tiny"
    words = ["<unk>", "<eos>", *[f"w{k}" for k in range(60)]]
    core = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"unk_token": "<unk>", "eos_token": "<eos>", "bos_token": "<eos>", "pad_token": "<eos>"}
    PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=len(words),
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_positions=32,
            bos_token_id=1,
            eos_token_id=1,
        )
        GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    """Distinct names whose target is the number in their second word."""
    names = [f"w{k % 12} w{12 + k // 12}" for k in range(240)]
    rows = {"name": names, "value": [k // 12 + 0.01 * (k % 7) for k in range(240)], "half": ["a", "b"] * 120}
    path = tmp_path / "things.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def error_of(captured: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    lines = captured.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("graticule: ")
    return lines[0]


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys; from graticule.cli import main; code = main(['probe', '--help']);"
        "heavy = {'torch', 'transformer_lens', 'sae_lens', 'sklearn', 'pandas', 'plotly'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--cluster-column" in done.stdout


@pytest.mark.parametrize("command", [*COMMANDS, *OF_SAE])
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Example:  graticule {command} " in shown
    assert "--debug" in shown
    assert "-v, --verbose" in shown


def test_bare_call_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {command} " in shown for command in [*COMMANDS, "sae"])
    assert main(["sae", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {command.removeprefix('sae ')} " in shown for command in OF_SAE)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("graticule 0.")


_PROBE = ["probe", "--model", "no-such-model", "--table", "world_cities", "--out", "o"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["prode"], "prode"),
        (["demo", "--rows", "many"], "'--rows'"),
        (["probe", "--table", "x.csv"], "--model"),
        (["probe", "--model", "m", "--table", "nowhere.csv", "--out", "o"], "nowhere.csv"),
        (["probe", "--model", "m", "--table", "{csv}", "--out", "o"], "--text-column"),
        (["probe", "--model", "m", "--table", "world_cities", "--target", "x", "--out", "o"], "is packaged"),
        (["probe", "--model", "m", "--table", "world_cities", "--layers", "two", "--out", "o"], "'two'"),
        (["probe", "--model", "m", "--table", "world_cities", "--out", "{csv}"], "is a file"),
        (
            [
                "probe",
                "--model",
                "m",
                "--table",
                "{csv}",
                "--text-column",
                "name",
                "--target",
                "wert",
                "--out",
                "o",
            ],
            "wert",
        ),
        (
            ["probe", "--model", "no-such-model-anywhere", "--table", "world_cities", "--out", "o"],
            "no-such-model",
        ),
        (["capture", "--model", "m", "--out", "o"], "--table"),
        (["capture", "--model", "m", "--texts", "nowhere.txt", "--out", "o"], "nowhere.txt"),
        (["capture", "--model", "m", "--table", "{csv}", "--text-column", "x", "--out", "o"], "'x'"),
        (
            ["capture", "--model", "m", "--texts", "{csv}", "--out", "o"],
            "things.csv --text-column COLUMN",
        ),
        (["capture", "--model", "m", "--texts", "some.TSV.gz", "--out", "o"], "--table some.TSV.gz"),
        (["capture", "--model", "m", "--texts", "some.parquet", "--out", "o"], "--table some.parquet"),
        (["capture", "--model", "m", "--texts", "some.json", "--out", "o"], "one text a line; .json holds"),
        (["capture", "--model", "m", "--texts", "some.jsonl", "--out", "o"], "one text a line; .jsonl holds"),
        (["tables", "nations"], "nations"),
        (["tables", "world_cities", "--out", "cities.xls"], "cities.xls"),
        (["report", "nowhere"], "saved result"),
        ([*_PROBE, "--calibrate", "-3"], "--calibrate -3"),
        ([*_PROBE, "--calibrate", "1"], "--calibrate 1"),
        ([*_PROBE, "--points", ""], "--points ''"),
        ([*_PROBE, "--pos", "banana"], "pos='banana'"),
        ([*_PROBE, "--prompt", "{name}"], "one slot"),
        ([*_PROBE, "--out", "/proc/x"], "nothing can be written in /proc"),
        (
            ["capture", "--model", "m", "--table", "world_cities", "--out", "/proc/x"],
            "nothing can be written",
        ),
        ([*_PROBE, "--model", ""], "--model ''"),
        (
            ["study", "--model", "m", "--table", "world_cities", "--out", "o", "--only", "nope"],
            "study. There",
        ),
    ],
)
def test_errors_are_one_line_and_code_2(
    words: list[str],
    expected: str,
    csv: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(csv.parent)
    assert main([word.replace("{csv}", str(csv)) for word in words]) == 2
    assert expected in error_of(capsys)
    assert sorted(path.name for path in csv.parent.iterdir()) == ["things.csv"]


@pytest.mark.parametrize("words", [["--debug", "tables", "nations"], ["tables", "nations", "--debug"]])
def test_debug_shows_the_traceback(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="nations"):
        main(words)
    monkeypatch.setenv("GRATICULE_DEBUG", "1")
    with pytest.raises(ValueError, match="nations"):
        main(["tables", "nations"])


@pytest.mark.slow
def test_interrupt_says_how_to_go_on(tmp_path: Path) -> None:
    """The interrupt comes while the command trains for hours."""
    words = ["sim", "--concepts", "3", "--seeds", "1", "--steps", "1000000000", "--out", str(tmp_path / "o")]
    process = subprocess.Popen(
        [sys.executable, "-m", "graticule", *words],
        stderr=subprocess.PIPE,
        # a suite started in the background hands down that interrupts are ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    try:
        said = b""
        while b"step/s" not in said:  # its bar: it trains
            part = process.stderr.read1(1 << 16)
            assert part, f"the command ended without training: {said.decode()}"
            said += part
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=60)[1].decode()
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "Traceback" not in told
    assert (
        told.strip().splitlines()[-1].startswith("graticule: interrupted; the same command run again goes on")
    )


def test_one_line() -> None:
    assert (
        options.one_line(OSError(28, "No space left on device", "a/b")) == "no space left on the disk for a/b"
    )
    assert options.one_line(KeyError("no column x")) == "no column x"
    assert options.one_line(ValueError("two\n  lines")) == "two lines"
    assert options.one_line(FileNotFoundError(2, "No such file", "x.csv")) == "No such file: x.csv"
    assert options.one_line(RuntimeError("odd")) == "RuntimeError: odd (--debug shows where)"
    assert options.one_line(MemoryError()) == "MemoryError: no message (--debug shows where)"


def test_words_become_arguments() -> None:
    layers = {
        "all": "all",
        "7": 7,
        "-1": -1,
        "0.5": 0.5,
        "3,7,11": [3, 7, 11],
        "0.25, 0.5": [0.25, 0.5],
        "0:18:2": slice(0, 18, 2),
        "4:": slice(4, None),
    }
    assert {words: arguments.read_layers(words) for words in layers} == layers
    assert isinstance(arguments.read_layers("7"), int)
    positions = {"last": "last", "entity_mean": "entity_mean", "-2": -2, "1:": slice(1, None)}
    assert {words: arguments.read_pos(words) for words in positions} == positions
    assert arguments.read_points("resid_post") == "resid_post"
    assert arguments.read_points("resid_post, mlp_out") == ["resid_post", "mlp_out"]
    assert arguments.targets_and_units(["latitude:lat", "height:metres", "n"]) == (
        ["latitude", "height", "n"],
        {"latitude": "lat", "height": "metres"},
    )
    for wrong in ("1:2:3:4", "a:b"):
        with pytest.raises(ValueError, match="slice"):
            arguments.read_layers(wrong)
    with pytest.raises(ValueError, match="NAME"):
        arguments.targets_and_units([":lat"])


def table_options(csv: Path, target: list[str], **options: Any) -> arguments.TableOptions:
    return arguments.TableOptions(str(csv), "name", target, **options)


def test_table_options_reach_the_table(csv: Path) -> None:
    options = {"block_column": ["half"], "cluster_column": "value", "confound": ["half", "length"]}
    table = table_options(csv, ["value:m"], **options).read(seed=3)
    assert list(table.confounds) == ["half", "length"]
    assert table.target_names == ("value",)
    assert table.units == ("m",)
    assert list(table.blocks) == ["half"]
    assert table.clusters.max() + 1 == table.frame["value"].nunique() == 140
    with pytest.raises(ValueError, match="'raise' or 'drop'"):
        table_options(csv, ["value"], on_bad="ignore").read()


def test_a_name_that_holds_the_separator_is_a_name(csv: Path, tmp_path: Path) -> None:
    """A column `a:b`, and an SAE's folder `k=32`, are there as they stand."""
    frame = pd.read_csv(csv).assign(**{"a:b": range(240), "a": range(1, 241), "a:b:c": range(2, 242)})
    frame.to_csv(csv, index=False)
    for words, names, first, units in (
        (["a:b"], ("a:b",), [0], (None,)),
        (["a:b:kg"], ("a:b",), [0], ("kg",)),
        (["a:kg"], ("a",), [1], ("kg",)),
        (["a:b:c"], ("a:b:c",), [2], (None,)),
        (["a:b", "a:years"], ("a:b", "a"), [0, 1], (None, "years")),
    ):
        table = table_options(csv, words).read()
        assert (table.target_names, table.y[0].tolist(), table.units) == (names, first, units)
    for name in ("k=32", "plain"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cfg.json").touch()
    where = [str(tmp_path / name) for name in ("k=32", "plain")]
    assert arguments.read_saes(where) == {"k_32": where[0], "plain": where[1]}
    assert arguments.read_saes([f"mine={where[0]}"]) == {"mine": where[0]}


@pytest.mark.slow
def test_tables_are_listed_described_and_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tables"]) == 0
    listed = capsys.readouterr().out.strip().splitlines()
    assert [line.split(":")[0] for line in listed] == ["world_cities", "historical_figures"]
    table = Table.packaged("world_cities")
    assert f"{len(table):,} rows, target latitude, longitude" in listed[0]
    assert main(["tables", "world_cities"]) == 0
    assert f"rows: {len(table)}" in capsys.readouterr().out
    for name in ("new/folder/cities.csv", "cities.parquet"):
        assert main(["tables", "world_cities", "--out", str(tmp_path / name)]) == 0
    again = pd.read_parquet(tmp_path / "cities.parquet")
    pd.testing.assert_frame_equal(again, table.frame)
    assert len(pd.read_csv(tmp_path / "new" / "folder" / "cities.csv")) == len(table)


_DEEP = [
    ["capture", "--table", "world_cities", "--layers", "0,3"],
    ["capture", "--table", "world_cities", "--layers", "3:"],
    ["probe", "--table", "world_cities", "--layers", "-4"],
    ["probe", "--table", "world_cities", "--points", "blocks.3.hook_mlp_out"],
    ["sae", "train", "--corpus", "x", "--tokens", "9", "--hook-name", "blocks.3.hook_resid_post"],
]


@pytest.mark.parametrize("words", _DEEP)
@pytest.mark.parametrize("told", [{"n_layer": 3}, {"text_config": {"num_hidden_layers": 3}}])
def test_a_layer_that_a_config_denies_is_refused_before_the_model_is_loaded(
    words: list[str], told: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder holds nothing but a config: loading it would fail otherwise, and later."""
    (tmp_path / "config.json").write_text(json.dumps(told))
    assert main([*words, "--model", str(tmp_path), "--out", str(tmp_path / "o")]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert re.search(r"layers 0 to 2|none of 3 layers", said[-1]), said
    assert not (tmp_path / "o").exists()


def test_the_depth_that_a_config_tells_is_the_models(load_tiny: Any, hf_folder: Any) -> None:
    for family in ("gpt2", "llama", "qwen3"):
        assert n_layers_of(str(hf_folder(family))) == load_tiny(family).cfg.n_layers
    assert n_layers_of("no-such-model") is None


@pytest.mark.slow
@pytest.mark.gemma
def test_the_depth_of_the_packaged_model(gemma: Any) -> None:
    assert n_layers_of("gemma-3-270m") == gemma.cfg.n_layers


@pytest.mark.slow
def test_capture_to_a_store(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("w1 w2\nw3\nw4 w5 w6\n")
    words = ["capture", "--model", str(tiny_model), "--texts", str(lines), "--layers", "1", "--out"]
    assert main([*words, str(tmp_path / "store")]) == 0
    assert "3 rows at 1 points of width 32: blocks.1.hook_resid_post" in capsys.readouterr().out
    store = Store(tmp_path / "store")
    assert store["resid_post", 1].shape == (3, 32)
    for flag, tokens in (("--no-include-bos", 6), ("--no-prepend-bos", 6), ("--prepend-bos", 9)):
        assert main([*words, str(tmp_path / flag), "--pos", "all", flag]) == 0
        assert Store(tmp_path / flag).n_rows == tokens


@pytest.mark.slow
def test_probe_then_report(tiny_model: Path, csv: Path, tmp_path: Path) -> None:
    """The whole path as a user runs it, on the model above; the page is written anew from the folder."""
    out = tmp_path / "found"
    words = ["probe", "--model", str(tiny_model), "--table", str(csv), "--text-column", "name"]
    words += ["--target", "value:m", "--block-column", "half", "--out", str(out)]
    done = run(*words, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    page = out / "report.html"
    assert done.stdout.strip().splitlines()[-1] == f"The page: {page}"
    assert "warning" not in done.stderr.lower()
    first = page.read_bytes()
    page.unlink()
    assert main(["report", str(out)]) == 0
    assert page.read_bytes() == first
    page.unlink()
    assert main(["report", str(tmp_path)]) == 0  # a folder of findings, as the demo leaves
    assert (tmp_path / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.gemma
def test_demo(tmp_path: Path) -> None:
    """Both packaged tables, the packaged model, one page; the same command again runs nothing."""
    out = tmp_path / "demo"
    done = run("demo", "--rows", "120", "--out", str(out), HF_HUB_OFFLINE="1", timeout=500)
    assert done.returncode == 0, done.stderr
    last = done.stdout.strip().splitlines()[-1]
    assert "world_cities: " in last
    assert "historical_figures: " in last
    assert str(out / "report.html") in last
    assert (out / "report.html").stat().st_size > 1_000_000
    found = json.loads((out / "world_cities" / "findings.json").read_text())
    assert len(found["layers"]) == 18
    assert {"proximity_error", "haversine_km"} <= set(found["layers"][0]["test"])
    assert run("demo", "--rows", "120", "--out", str(out), HF_HUB_OFFLINE="1").stdout == done.stdout
