"""`graticule sim` and `graticule words`: what they leave behind is what the calls give."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from helpers import as_installed

import graticule
from graticule.cli import main
from graticule.hooks import artifact
from graticule.probes.words.vocabulary import packaged_pairs
from graticule.results import load_result
from graticule.sims.papers.setting import Setting


def told(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "sim.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_sim_leaves_means_and_errors_of_the_very_simulation(tmp_path: Path, capsys: Any) -> None:
    command = ["sim", "--concepts", "3", "--seeds", "2", "--steps", "300", "--out", str(tmp_path / "s")]
    assert main(command) == 0
    assert "mean cosine" in capsys.readouterr().out
    (line,) = told(tmp_path / "s")["settings"]
    alone = graticule.simulate(Setting(3, steps=300), runs=2, progress=False).settings.iloc[0]
    for name in ("unembedding", "embedding", "mixed"):
        assert line[name] == {"mean": pytest.approx(alone[name]), "se": pytest.approx(alone[f"{name}_se"])}
    assert line["loss"] == pytest.approx(alone["loss"])
    assert line["loss"] >= line["floor"] > 0
    page = (tmp_path / "s" / "report.html").read_text(encoding="utf-8")
    assert "Cosines during training" in page

    assert len(list((tmp_path / "s" / "parts").iterdir())) == 1  # what a stopped run goes on from
    kept = (tmp_path / "s" / "result" / "manifest.json").stat().st_mtime_ns
    assert main(command) == 0  # read, not trained again
    assert (tmp_path / "s" / "result" / "manifest.json").stat().st_mtime_ns == kept
    capsys.readouterr()
    assert main([*command[:2], "4", *command[3:]]) == 2  # another request is another simulation
    assert "holds another simulation (concepts: 3 → 4); choose another folder" in capsys.readouterr().err
    assert told(tmp_path / "s")["settings"][0]["concepts"] == 3
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert main([*command[:-1], str(tmp_path / "mine")]) == 2
    assert "it holds something other, 'notes.txt'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_kill_between_result_and_request_is_no_answer(
    tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    """Folder with one simulation, another one killed in it: the first command must not be told the second."""
    out = ["--seeds", "2", "--steps", "200", "--out", str(tmp_path / "s")]
    assert main(["sim", "--concepts", "3", *out]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(artifact, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with contextlib.suppress(KeyboardInterrupt):
            main(["sim", "--concepts", "4", *out])
    capsys.readouterr()
    assert main(["sim", "--concepts", "3", *out]) == 0
    assert "m=3 " in capsys.readouterr().out
    assert told(tmp_path / "s")["settings"][0]["concepts"] == 3


@pytest.mark.slow
def test_sim_without_a_pair_to_compare_says_so(tmp_path: Path, capsys: Any) -> None:
    command = ["sim", "--concepts", "3", "--kept", "0.1", "--seeds", "2", "--steps", "100"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    assert "no concept has two steering vectors" in capsys.readouterr().out


@pytest.mark.slow
def test_sim_sets_a_table_beside_the_papers(tmp_path: Path) -> None:
    command = ["sim", "--table", "1", "--concepts", "3", "--seeds", "2", "--steps", "200"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    paper = {(line["what"], line["paper"]) for line in told(tmp_path)["paper"]}
    assert {value for _, value in paper} == {0.972, 0.982, 0.980}


@pytest.mark.slow
def test_sim_checks_the_theorems(tmp_path: Path, capsys: Any) -> None:
    assert main(["sim", "--theorems", "--concepts", "3", "--out", str(tmp_path)]) == 0
    assert told(tmp_path)["holds"] is True
    assert "exact checks hold (3 concepts" in capsys.readouterr().out
    assert load_result(tmp_path / "result").title.startswith("The paper's theorems")
    chain = ["sim", "--theorems", "--concepts", "3", "--graph", "chain", "--out", str(tmp_path / "chain")]
    assert main(chain) == 0
    assert load_result(tmp_path / "chain" / "result").edges == ((0, 1), (1, 2))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--table", "9"], "expected one of 1, 2, 3, 4, figure2"),
        (["--table", "1", "--dim", "5"], "no use for --dim"),
        (["--table", "1", "--theorems"], "one of the two"),
        (["--table", "1", "--weight-decay", "0.5"], "no use for --weight-decay"),
        (["--table", "figure5", "--concepts", "4"], "figure5 is of 7 concepts"),
        (["--table", "figure2", "--seeds", "3"], "the scatter of one run"),
        (["--theorems", "--steps", "7", "--masks", "3"], "no use for --steps, --masks"),
        (["--optimizer", "lion"], "--optimizer 'lion': expected one of sgd, adam, population"),
        (["--graph", "star"], "graph='star': one of random, dense"),
        (["--concepts", "0"], "--concepts 0: expected a whole number of at least 1"),
        (["--dim", "0"], "dim=0"),
        (["--steps", "-3"], "--steps -3: expected a whole number of at least 0"),
        (["--masks", "0"], "masks=0"),
        (["--weight-decay", "nan"], "weight_decay=nan"),
        (["--concepts", "26"], "--concepts 26: expected a whole number of at least 1 and at most 16"),
    ],
)
def test_what_sim_cannot_do_is_one_line(tmp_path: Path, capsys: Any, words: list[str], said: str) -> None:
    with as_installed():
        assert main(["sim", *words, "--out", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert said in error[-1]
    assert not (tmp_path / "x" / "sim.json").exists()


@pytest.mark.parametrize("concepts", ["3", "17"])
def test_certify_has_one_range_of_concepts(tmp_path: Path, capsys: Any, concepts: str) -> None:
    assert main(["certify", "--concepts", concepts, "--out", str(tmp_path / "x")]) == 2
    told = f"--concepts {concepts}: expected a whole number of at least 4 and at most 10"
    assert told in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.gemma
def test_words_reads_a_folder_of_pairs(tmp_path: Path, capsys: Any) -> None:
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    packaged = packaged_pairs()
    for name in list(packaged)[:3]:
        lines = [f"{a}\t{b}" for a, b in packaged[name][:12]]
        (pairs / f"[{name.replace(' ⇒ ', ' - ')}].txt").write_text("\n".join(lines), encoding="utf-8")
    command = ["words", "--model", "gemma-3-270m", "--pairs", str(pairs), "--n-bootstrap", "20"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert "concepts nearest to their own pairs" in capsys.readouterr().out
    assert load_result(tmp_path / "out" / "words").title == "Counterfactual word pairs: gemma-3-270m"
    assert (tmp_path / "out" / "languages.html").exists()
    assert (tmp_path / "out" / "ambiguous.html").exists()
