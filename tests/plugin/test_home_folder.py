"""`~` at the start of a path is the home folder, wherever a user gives one; no folder is ever called `~`."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import graticule as g
from graticule.cli import main
from graticule.commands.arguments import read_saes
from graticule.hooks.artifact import write_table
from graticule.hooks.coders import load_sae
from graticule.hooks.names import BadNameError, user_path
from graticule.hooks.streams.corpora import Corpus
from graticule.hub.uploads import gather
from graticule.probes.linear.leace import Eraser
from graticule.probes.linear.ridge import RidgeProbe
from graticule.probes.papers.spacetime import find_space_time
from graticule.probes.surface.baselines import Baselines
from graticule.probes.words.vocabulary import ambiguous_contexts, parallel_contexts, read_pairs
from graticule.report import write_page
from graticule.results import load_result
from graticule.sims.learners import load_lookup, save_lookup
from graticule.studies.result import Study
from graticule.studies.steps import digest_of, loaded

ROOT = Path(__file__).parents[2]
POINT = "blocks.0.hook_resid_post"
ROWS = 40


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of its own; the folder that one is in is another."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def _frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    words = np.array(["paris", "rome", "oslo", "lima", "cairo", "delhi", "tokyo"])
    names = [f"{words[i % 7]} {words[i // 7 % 7]} {i}" for i in range(ROWS)]
    return pd.DataFrame({"name": names, "value": rng.normal(size=ROWS), "test": np.arange(ROWS) % 3 == 0})


@pytest.fixture(scope="module")
def table() -> g.Table:
    return g.Table(_frame(), text="name", target="value", split="test")


@pytest.fixture(scope="module")
def findings(table: g.Table) -> g.Findings:
    rng = np.random.default_rng(1)
    acts = g.Activations.from_tensors({POINT: torch.from_numpy(rng.normal(size=(ROWS, 4))).float()})
    return g.sweep(acts, table, baselines=g.baselines(None, table), n_bootstrap=20, progress=False)


def _only_at_home(home: Path, *made: str) -> None:
    assert not [name for name in os.listdir(".") if name.startswith("~")]
    for name in made:
        assert (home / name).exists(), name


@pytest.mark.slow
def test_results_are_written_and_read_at_home(home: Path, findings: g.Findings) -> None:
    acts = g.Activations.from_tensors({POINT: torch.arange(12.0).reshape(4, 3)})
    acts.save("~/acts")
    acts.to_saelens("~/saelens", context_size=2)
    findings.save("~/findings")
    findings.report("~/pages/one.html")
    write_page([findings], "~/pages/two.html")
    findings.probe.save("~/probe")
    findings.probe.save_pretrained("~/pretrained")
    eraser = Eraser.fit(np.random.default_rng(0).normal(size=(30, 4)), np.arange(30.0)[:, None])
    eraser.save("~/eraser")
    Baselines("0" * 16, {POINT.split(".")[2]: acts}).save("~/baselines")
    _only_at_home(home, "acts", "saelens", "findings", "probe", "pretrained", "eraser", "baselines")
    _only_at_home(home, "pages/one.html", "pages/two.html")

    assert torch.equal(g.Activations.load("~/acts")[POINT], acts[POINT])
    assert torch.equal(g.Store("~/acts")[POINT], acts[POINT])
    assert torch.equal(g.Activations.from_saelens("~/saelens")[POINT], acts[POINT])
    assert g.Findings.load("~/findings").verdict == findings.verdict
    assert load_result("~/findings").summary() == findings.summary()
    assert RidgeProbe.load("~/probe").hook_name == findings.probe.hook_name
    assert RidgeProbe.from_pretrained("~/pretrained").hook_name == findings.probe.hook_name
    assert np.array_equal(Eraser.load("~/eraser").mean, eraser.mean)
    assert set(Baselines.load("~/baselines").features) == {"hook_resid_post"}
    with pytest.raises(FileExistsError):
        acts.save("~/acts")


def test_texts_and_tables_are_read_at_home(home: Path) -> None:
    frame = _frame()
    frame.to_csv(home / "rows.csv", index=False)
    frame.to_csv(home / "rows.tsv", index=False, sep="\t")
    write_table(home / "rows.parquet", frame)
    (home / "texts").mkdir()
    for place in (home / "corpus.txt", home / "texts" / "corpus.txt"):
        place.write_text("\n".join(frame["name"]) + "\n")
    (home / "pairs").mkdir()
    (home / "pairs" / "[a - b].txt").write_text("rome\tromes\n")
    (home / "parallel.txt").write_text("one\ttwo\na b\tc d\ne f\tg h\n")
    (home / "ambiguous.txt").write_text("one is\ttwo is\ta\tb\n")
    places = frame.rename(columns={"value": "latitude"}).assign(
        longitude=0.0, country="x", is_test=frame["test"]
    )
    places.to_csv(home / "world_place.csv", index=False)

    for name in ("rows.csv", "rows.tsv", "rows.parquet"):
        assert len(g.Table(f"~/{name}", text="name", target="value")) == ROWS
    for source in ("~/corpus.txt", [Path("~/corpus.txt")], "~/texts"):
        read = Corpus.read(source, column="name")
        assert next(read.open(0)) == frame["name"][0]
    assert read_pairs("~/pairs") == {"a ⇒ b": (("rome", "romes"),)}
    assert parallel_contexts("~/parallel.txt")["two"] == ("c d", "g h")
    assert ambiguous_contexts("~/ambiguous.txt")[0].second_word == "b"
    assert find_space_time("world_place", "~/world_place.csv") == home / "world_place.csv"
    _only_at_home(home)


@pytest.mark.slow
def test_runs_are_kept_at_home(
    home: Path, table: g.Table, load_tiny: Callable[..., Any], hf_folder: Callable[[str], Path]
) -> None:
    model = load_tiny("llama", "hooked")
    texts = list(table.texts or ())
    g.capture(model, texts, layers=[0], store="~/store")
    assert g.capture(model, texts, layers=[0], store=Path("~/store")).path == home / "store"
    study = g.study(model, table, out="~/study", only=["layers"], pages=False, progress=False)
    study.report("~/study/pages.html")
    assert Study.load("~/study").findings.verdict == study.findings.verdict
    assert g.Findings.load("~/study/probe").verdict == study.findings.verdict
    _only_at_home(home, "store", "study/pages.html")

    (home / "model").symlink_to(hf_folder("llama"))
    (home / "lines.txt").write_text("the city\nof rome\n")
    words = ["capture", "--model=~/model", "--texts=~/lines.txt", "--layers=0", "--out=~/made/store"]
    assert main(words) == 0
    assert g.Store("~/made/store").n_rows == 2
    assert main(["report", "~/study/probe"]) == 0
    _only_at_home(home, "study/probe/report.html")


def test_worlds_are_kept_at_home(home: Path) -> None:
    g.simulate(g.World.random(2, seed=0), runs=1, steps=20, nulls=0, out="~/sim", progress=False)
    contexts = g.Contexts.complete(g.World.random(2, seed=0))
    save_lookup("~/learner", contexts, torch.ones(contexts.n, 3), torch.ones(4, 3))
    assert load_lookup("~/learner")[1].n == contexts.n
    _only_at_home(home, "sim", "learner")


def test_saes_are_trained_and_read_at_home(home: Path) -> None:
    g.Activations.from_tensors({POINT: torch.randn(256, 6)}).save("~/store")
    config = {"architecture": "topk", "d_sae": 8, "k": 2}
    g.saes.train("~/store", config=config, out="~/run", batch_size=64, progress=False)
    assert g.saes.Run.load("~/run").path == home / "run"
    assert load_sae("~/run").run == home / "run"
    assert read_saes(["~/run/sae"]) == {"sae": "~/run/sae"}
    assert loaded("~/run/sae").cfg.d_sae == 8
    assert digest_of("~/run/sae") == digest_of(home / "run" / "sae")
    assert [subject.folder for subject in gather("~/run")] == [home / "run" / "sae"]
    _only_at_home(home, "store", "run")


def test_commands_write_at_home(home: Path) -> None:
    assert main(["tables", "world_cities", "--out=~/cities.parquet"]) == 0
    _only_at_home(home, "cities.parquet")


def test_every_path_of_a_user_goes_through_one_function() -> None:
    """What makes a path of an argument says `user_path`; the rest make paths of what is theirs."""
    own = {"hooks/names.py", "hooks/artifact.py", "hooks/replacing.py", "plugin/hub/private.py"}
    own |= {"plugin/hub/outgoing.py", "plugin/loading/lens.py", "probes/data/make.py"}
    for room in ("hooks", "probes", "sims", "plugin"):
        for file in sorted((ROOT / room).rglob("*.py")):
            if str(file.relative_to(ROOT)) in own:
                continue
            found = re.search(r"\bPath\((?!__file__)[a-z_]+\)", file.read_text())
            assert not found, f"{file.relative_to(ROOT)}: {found} makes a path; user_path does"


def test_a_home_that_nobody_knows_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert user_path("~draft.csv") == Path("~draft.csv")
    assert user_path(home) == home
    assert user_path("a/~/b") == Path("a/~/b")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(BadNameError, match="no home folder is known; write the whole path"):
        user_path("~/x")
