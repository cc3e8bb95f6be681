"""The worked example of docs/architecture.md as it is printed there: installed, run as a command, read."""

import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from graticule.cli import app, main
from graticule.results import load_result

ROOT = Path(__file__).parents[1]
DOCUMENT = (ROOT / "docs" / "architecture.md").read_text()


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Path:
    """The example's two files in a folder on the path, with the entry points that its build file names."""
    files = dict(re.findall(r"^`([\w.]+)`\n\n```\w+\n(.*?)^```$", DOCUMENT, re.M | re.S))
    assert set(files) == {"median_split.py", "pyproject.toml"}
    assert sum(len(text.splitlines()) for text in files.values()) <= 120
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    about = tomllib.loads(files["pyproject.toml"])["project"]
    info = tmp_path / f"{about['name'].replace('-', '_')}-{about['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {about['name']}\nVersion: {about['version']}\n")
    groups = about["entry-points"].items()
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in named.items()) for group, named in groups]
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    commands = list(app.registered_commands)
    yield tmp_path
    app.registered_commands[:] = commands
    sys.modules.pop("median_split", None)


@pytest.mark.slow
def test_the_document_s_analysis_is_a_command_a_result_and_a_page(installed, hf_folder, capsys):
    rng = np.random.default_rng(0)
    words = np.array(["paris", "rome", "oslo", "lima", "cairo", "river", "king", "lake"])
    picked = rng.integers(0, 8, (96, 2))
    values = rng.normal(size=8)
    frame = pd.DataFrame(
        {
            "name": [f"{words[a]} {words[b]} {i % 9}" for i, (a, b) in enumerate(picked)],
            "height": values[picked[:, 0]] + 0.5 * values[picked[:, 1]],
            "kind": np.where(rng.random(96) < 0.5, "hill", "valley"),
        }
    )
    frame.to_csv(installed / "places.csv", index=False)
    out = installed / "split"
    words = [str(installed / "places.csv"), "name", "height", "kind", "--out", str(out)]
    assert main(["median-split", *words, "--model", str(hf_folder("llama"))]) == 0
    assert re.search(
        r"^hill: AUROC [01]\.\d\d \([01]\.\d\d to [01]\.\d\d\)\nvalley: AUROC", capsys.readouterr().out
    )
    page = (installed / "split.html").read_text()
    assert "height above or below its median, by kind" in page and "AUROC by block" in page
    result = load_result(out)
    assert type(result).__name__ == "MedianSplit" and list(result.blocks["block"]) == ["hill", "valley"]
    assert (
        (result.blocks["low"] <= result.blocks["auroc"]) & (result.blocks["auroc"] <= result.blocks["high"])
    ).all()
    assert main(["report", str(out)]) == 0
    assert "AUROC by block" in (out / "report.html").read_text()


def test_another_package_s_broken_command_is_left_out_in_one_line(installed, capsys):
    (installed / "median_split.py").write_text("raise ImportError('no such thing')")
    sys.modules.pop("median_split", None)
    assert main(["--version"]) == 0
    assert re.search(
        r"^graticule: the command median-split .* is left out: no such thing$", capsys.readouterr().err, re.M
    )
