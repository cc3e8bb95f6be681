"""Whatever is read may have been edited, or be no file at all: one line, at once, never a wait."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from graticule import Activations, Findings, Store, Table, baselines, sweep
from graticule.cli import main
from graticule.hooks.artifact import ArtifactError, read_json, read_table, read_tensors, sha256
from graticule.results import load_result

POINT = "blocks.0.hook_resid_post"


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    """What waits for a pipe's other end is stopped, and fails."""

    def late(*_: Any) -> None:
        raise TimeoutError("still waiting")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def made() -> Findings:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"name": [f"place {i}" for i in range(40)], "value": rng.normal(size=40)})
    table = Table(frame.assign(test=np.arange(40) % 3 == 0), text="name", target="value", split="test")
    acts = Activations.from_tensors({POINT: torch.from_numpy(rng.normal(size=(40, 4)))})
    return sweep(acts, table, baselines=baselines(None, table), n_bootstrap=20, progress=False)


@pytest.fixture
def findings(made: Findings, tmp_path: Path) -> Path:
    made.save(tmp_path / "findings")
    return tmp_path / "findings"


def _one_line(error: BaseException, *words: str) -> None:
    assert "\n" not in str(error)
    assert all(word in str(error) for word in words), str(error)


@pytest.mark.parametrize("kind", ["pipe", "folder"])
@pytest.mark.parametrize("read", [read_json, read_table, read_tensors, sha256])
def test_only_files_are_opened(kind: str, read: Callable[[Path], Any], tmp_path: Path) -> None:
    place = tmp_path / "thing"
    os.mkfifo(place) if kind == "pipe" else place.mkdir()
    with pytest.raises(ArtifactError) as told:
        read(place)
    _one_line(told.value, str(place), kind, "expected a file")


@pytest.mark.parametrize("name", ["findings.json", "predictions.parquet", f"probes/{POINT}/manifest.json"])
def test_a_pipe_among_findings_is_told(name: str, findings: Path) -> None:
    (findings / name).unlink()
    os.mkfifo(findings / name)
    with pytest.raises(ArtifactError, match="is a pipe, socket or device"):
        Findings.load(findings)


@pytest.mark.parametrize("name", ["manifest.json", f"{POINT}/00000.safetensors", "rows/00000.parquet"])
def test_a_pipe_in_a_store_is_told(name: str, tmp_path: Path) -> None:
    Activations.from_tensors({POINT: torch.zeros(5, 3)}).save(tmp_path / "store")
    (tmp_path / "store" / name).unlink()
    os.mkfifo(tmp_path / "store" / name)
    with pytest.raises(ArtifactError, match="is a pipe, socket or device"):
        store = Store(tmp_path / "store")
        assert store.rows is not None
        store[POINT]


@pytest.mark.parametrize(
    ("where", "value", "word"),
    [
        (("target_names", 0), "x", "_x"),
        (("layers", 0), "x", "findings.json"),
        (("layers",), [], "findings.json"),
        (("chosen_point",), None, "findings.json"),
        (("verdict", "ci95"), {}, "findings.json"),
        (("verdict", "min_gain"), "x", "findings.json"),
        (("baselines", "strings"), 7, "findings.json"),
    ],
)
def test_edited_findings_are_damaged_findings(
    where: tuple[Any, ...], value: Any, word: str, findings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = json.loads((findings / "findings.json").read_text())
    place = words
    for step in where[:-1]:
        place = place[step]
    place[where[-1]] = value
    (findings / "findings.json").write_text(json.dumps(words))
    for load in (Findings.load, load_result):
        with pytest.raises(ArtifactError) as told:
            load(findings)
        _one_line(told.value, word, "run the sweep again")
    assert main(["report", str(findings)]) == 2
    _one_line(ValueError(capsys.readouterr().err.strip()), "findings.json")


def test_a_number_of_thousands_of_digits_is_damage(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"kind": ' + "7" * 5000 + "}")
    with pytest.raises(ArtifactError, match=r"is damaged \(a number of thousands of digits") as told:
        read_json(tmp_path / "run.json")
    assert "set_int_max_str_digits" not in str(told.value)
