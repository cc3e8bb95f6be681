"""What a user names is opened only where it is a file: a pipe or a device is refused at once, in one line."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from graticule import Activations, Table, load_model
from graticule.cli import main
from graticule.hooks.streams.corpora import Corpus
from graticule.hooks.streams.files import plain_lines
from graticule.probes.papers.spacetime import sae_probes_table
from graticule.probes.words.vocabulary import ambiguous_contexts, parallel_contexts, read_pairs


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    """What waits for a pipe's other end, or reads a device to its end, is stopped, and fails."""

    def late(*_: Any) -> None:
        raise TimeoutError("still waiting")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(params=["pipe", "device", "folder"])
def no_file(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Path]:
    """Something of that name which is no file."""

    def make(name: str) -> Path:
        place = tmp_path / "given" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if request.param == "pipe":
            os.mkfifo(place)
        elif request.param == "device":
            place.symlink_to("/dev/zero")
        else:
            place.mkdir()
        return place

    return make


def _table(path: Path) -> None:
    Table(path, text="name", target="value")


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "csv": ("rows.csv", _table),
    "tsv": ("rows.tsv", _table),
    "packed csv": ("rows.csv.gz", _table),
    "parquet": ("rows.parquet", _table),
    "sae-probes": ("world_latitude.csv", lambda path: sae_probes_table("world_latitude", path.parent)),
    "corpus of lines": ("corpus.txt", Corpus.read),
    "corpus of json": ("corpus.jsonl", Corpus.read),
    "corpus of parquet": ("corpus.parquet", Corpus.read),
    "corpus of files": ("corpus.txt", lambda path: Corpus.read(path.parent)),
    "list of files": ("corpus.txt", lambda path: Corpus.read([path])),
    "texts": ("texts.txt", plain_lines),
    "packed texts": ("texts.txt.gz", plain_lines),
    "word pairs": ("[a - b].txt", lambda path: read_pairs(path.parent)),
    "parallel contexts": ("parallel.txt", parallel_contexts),
    "ambiguous contexts": ("ambiguous.txt", ambiguous_contexts),
}


@pytest.mark.parametrize("reader", READERS)
def test_only_files_are_read(reader: str, no_file: Callable[[str], Path]) -> None:
    name, read = READERS[reader]
    place = no_file(name)
    with pytest.raises((ValueError, FileNotFoundError)) as told:
        read(place)
    assert "\n" not in str(told.value)
    if not place.is_dir():
        assert str(place) in str(told.value)
        assert "is a pipe, socket or device, expected a file" in str(told.value)


@pytest.mark.parametrize("option", ["--texts", "--table"])
def test_a_command_reads_only_files(
    option: str, no_file: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = no_file("rows.csv")
    words = ["capture", "--model", str(tmp_path), option, str(place), "--out", str(tmp_path / "store")]
    assert main([*words, *(["--text-column", "name"] if option == "--table" else [])]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "expected a file" in told or place.is_dir()
    assert not (tmp_path / "store").exists()


def test_a_pipe_from_a_shell_is_refused_with_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--texts <(command)` gives the reading end of a pipe."""
    reading, writing = os.pipe()
    place = f"/dev/fd/{reading}"
    words = ["capture", "--model", str(tmp_path), "--texts", place, "--out", str(tmp_path / "store")]
    assert main(words) == 2
    os.close(reading)
    os.close(writing)
    assert "write what it gives to a file, and name that" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["model", "data set", "activations"])
def test_a_folder_that_another_library_reads_holds_only_files(
    kind: str, hf_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    mark = "config.json" if kind == "model" else "state.json"
    (folder / mark).write_text((hf_folder("llama") / mark).read_text() if kind == "model" else "{}")
    os.mkfifo(folder / ("model.safetensors" if kind == "model" else "data.arrow"))
    readers = {
        "model": [load_model],
        "data set": [Corpus.read, _table],
        "activations": [Activations.from_saelens],
    }
    for read in readers[kind]:
        with pytest.raises(ValueError, match="is a pipe, socket or device, expected a file"):
            read(folder)
