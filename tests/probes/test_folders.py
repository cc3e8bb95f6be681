"""Folders of findings and what lies beside them: never another's, never stale, never a half one unseen."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from graticule import (
    Activations,
    Findings,
    Store,
    Table,
    baselines,
    capture,
    load_saved,
    probe,
    sweep,
)
from graticule.hooks.artifact import ArtifactError, fingerprint, sealed
from graticule.hooks.kinds import ForeignFolderError
from graticule.hooks.result import check_beforehand
from graticule.probes.beyond.pca import pca
from graticule.probes.layer_band import LayerBand, layer_band
from graticule.probes.linear.leace import Eraser
from graticule.probes.linear.ridge import RidgeProbe
from graticule.probes.surface.baselines import Baselines
from graticule.studies.result import Study

POINTS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    words = np.array(["paris", "rome", "oslo", "lima", "cairo"])
    return pd.DataFrame(
        {
            "name": [f"{words[i % 5]} {words[i // 5 % 5]} {i}" for i in range(60)],
            "value": rng.normal(size=60),
            "country": words[rng.integers(0, 3, 60)],
            "views": rng.integers(1, 99, 60),
            "test": np.arange(60) % 3 == 0,
        }
    )


def table_of(frame: pd.DataFrame, **changes) -> Table:
    return Table(
        frame, **{"text": "name", "target": "value", "split": "test", "blocks": ["country"], **changes}
    )


@pytest.fixture(scope="module")
def found(frame) -> Findings:
    """Findings of made-up activations, with TF-IDF as the only baseline."""
    table = table_of(frame)
    rng = np.random.default_rng(1)
    acts = Activations.from_tensors({p: torch.from_numpy(rng.normal(size=(60, 6))) for p in POINTS})
    return sweep(acts, table, baselines=baselines(None, table), n_bootstrap=20, progress=False)


# Whose folder ----------------------------------------------------------------------------------------
def test_a_hostile_store_cannot_make_findings_remove_a_folder(found, tmp_path, monkeypatch):
    """A manifest whose point climbs out of the folder that is saved to."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("mine")
    hostile = replace(found, probes={"../../data": found.probe}, chosen_point="../../data")
    with pytest.raises(ValueError, match="holds a slash"):
        hostile.save("results")
    for name in ("../../data", str(tmp_path / "data"), ".."):
        with pytest.raises(ValueError, match="hook name"):
            Activations.from_tensors({name: np.ones((3, 2))})
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["data", "data/thesis.txt"]


@pytest.mark.slow
def test_nothing_is_saved_among_things_of_the_user(found, tmp_path):
    """One rule for every `save`: what the command line refuses, a notebook is refused too."""
    found.save(tmp_path / "own")
    found.report(tmp_path / "own" / "report.html")
    found.save(tmp_path / "own")
    assert Findings.load(tmp_path / "own").verdict == found.verdict
    things = {"f": found, "acts": found.inputs.activations, "probe": found.probe,
              "baselines": found.inputs.baselines, "band": layer_band(found), "study": Study(found, {}, {}),
              "eraser": Eraser.fit(np.eye(4), np.arange(4.0)[:, None])}  # fmt: skip
    for name in ("elements.csv", "predictions.parquet", "probes", "rivals.safetensors"):
        theirs = tmp_path / f"theirs {name}"
        (theirs / name).mkdir(parents=True)
        (theirs / "script.py").write_text("mine")
        for what, thing in things.items():
            with pytest.raises(FileExistsError, match=r"something other|exists; choose another") as told:
                thing.save(theirs)
            assert "\n" not in str(told.value), what
            assert {p.name for p in theirs.iterdir()} == {name, "script.py"}
    for place in (tmp_path / "store", tmp_path / "probe"):
        saved = found.inputs.activations if place.name == "store" else found.probe
        saved.save(place)
        before = sorted(p.name for p in place.iterdir())
        with pytest.raises(ForeignFolderError, match="choose another place"):
            found.save(place)
        assert sorted(p.name for p in place.iterdir()) == before


@pytest.mark.slow
def test_an_answer_to_another_question_is_not_written_over(found, frame, tmp_path):
    """Another target, table, rows, points or activations: refused by what differs, unless it is said."""
    acts, seen = found.inputs.activations, {"n_bootstrap": 20, "progress": False}

    def asked(table: Table, activations=acts, **settings) -> Findings:
        return sweep(activations, table, baselines=baselines(None, table), **{**seen, **settings})

    rng = np.random.default_rng(7)
    values = {p: torch.from_numpy(rng.normal(size=(60, 6))) for p in POINTS}
    described = {"model": {"name": "one"}, "prompt": "in {}", "captured_by": "test"}
    others = {
        "target_names: ": asked(table_of(frame, target="views")),
        "table: another one": asked(table_of(frame.assign(value=frame["value"] + 1))),
        "split_note: ": asked(table_of(frame, split=None)),
        f"points: {POINTS[0]}, {POINTS[1]} → {POINTS[1]}": asked(
            table_of(frame), acts.select(points=POINTS[1])
        ),
        "activations: other values": asked(table_of(frame), Activations.from_tensors(values)),
        "model.name: from_tensors → one": asked(
            table_of(frame), Activations.from_tensors(dict(acts), provenance=described)
        ),
    }
    place = tmp_path / "findings"
    found.save(place)
    for what, other in others.items():
        with pytest.raises(FileExistsError, match="answers another question") as told:
            other.save(place)
        assert what in str(told.value) and "overwrite=True" in str(told.value), told.value
        assert "\n" not in str(told.value)
        assert Findings.load(place).summary() == found.summary()
    for judged in (asked(table_of(frame), min_gain=0.2, seed=3), asked(table_of(frame), alphas=[1.0])):
        judged.save(place)  # the same question
    replace(found, limit_of_detection=0.1).save(place)
    assert Findings.load(place).limit_of_detection == 0.1
    other = others["target_names: "]
    other.save(place, overwrite=True)
    assert Findings.load(place).target_names == ("views",)

    for name, of in (("band", layer_band), ("pca", lambda f: pca(f, ks=[2]))):
        of(found).save(tmp_path / name)
        of(found).save(tmp_path / name)
        with pytest.raises(FileExistsError, match="answers another question"):
            of(other).save(tmp_path / name)
        of(other).save(tmp_path / name, overwrite=True)
    found.inputs.baselines.save(tmp_path / "beside")
    shorter = Table(frame[:40], text="name", target="value", split="test")
    with pytest.raises(FileExistsError, match=r"baselines of something else.*table: another one"):
        baselines(None, shorter).save(tmp_path / "beside")
    baselines(None, shorter).save(tmp_path / "beside", overwrite=True)


def test_another_question_is_refused_before_the_work(found, tmp_path):
    found.save(tmp_path / "findings")
    check_beforehand(tmp_path / "nothing", Findings, model="other")
    check_beforehand(tmp_path / "findings", Findings, model=found.model, table=found.table)
    with pytest.raises(ForeignFolderError, match=r"answers another question \(model: .* → other\)"):
        check_beforehand(tmp_path / "findings", Findings, model="other")


def test_what_is_not_of_the_folder_is_refused_when_it_is_read(found, tmp_path):
    found.save(tmp_path / "f")
    told = (tmp_path / "f" / "findings.json").read_text()
    for changes in (
        {"points": ["../../etc"]},
        {"files": {"../x": "0"}},
        {"files": {"/etc/passwd": "0"}},
        {"files": ["predictions.parquet"]},
        {"points": 7},
    ):
        (tmp_path / "f" / "findings.json").write_text(json.dumps({**json.loads(told), **changes}))
        with pytest.raises(ArtifactError, match=r"findings\.json") as refusal:
            Findings.load(tmp_path / "f")
        assert "\n" not in str(refusal.value)
    (tmp_path / "f" / "findings.json").write_text(told)
    weights = tmp_path / "f" / "probes" / POINTS[0] / "probe.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(ArtifactError, match=r"probe\.safetensors is missing or damaged"):
        Findings.load(tmp_path / "f")


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked", [{}, {"pos": slice(1, None), "prompt": "it's {}", "dtype": "float32"}], ids=str
)
def test_findings_whose_request_is_in_words_are_not_made_again(tiny, frame, tmp_path, asked):
    out = tmp_path / "out"
    settings = {"layers": 0, "n_bootstrap": 20, "twins": 0, "progress": False, "out": out, **asked}
    first = probe(tiny, table_of(frame), **settings)
    written = json.loads((out / "findings.json").read_text())
    request = written["provenance"]["request"]  # as 0.1 wrote it
    worded = {
        k: repr(settings.get(k, default)) for k, default in (("pos", "last"), ("prompt", ""), ("dtype", None))
    }
    written["provenance"]["request"] = {**request, **worded}
    written["provenance"]["fingerprint"] = fingerprint(written["provenance"]["request"])
    (out / "findings.json").write_text(json.dumps(sealed(written)))
    before = (out / "findings.json").read_bytes()
    assert probe(tiny, table_of(frame), **settings).verdict == first.verdict
    assert (out / "findings.json").read_bytes() == before
    for changed, what in (
        ({"pos": "all"}, "pos"),
        ({"prompt": "of {}"}, "prompt"),
        ({"dtype": "float16"}, "dtype"),
    ):
        with pytest.raises(ForeignFolderError, match=rf"something else \({what}"):
            probe(tiny, table_of(frame), **{**settings, **changed})


# Stale -----------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_an_edited_column_or_another_target_is_never_answered_with_the_old_one(tiny, frame, tmp_path, caplog):
    out = tmp_path / "out"
    settings = {"layers": 0, "n_bootstrap": 20, "progress": False, "out": out}
    first = probe(tiny, table_of(frame), **settings)
    made = (out / "findings.json").read_bytes()
    for other, what in (
        (table_of(frame.assign(country=frame.country.str.upper())), r"\(columns.country: other values\)"),
        (table_of(frame.assign(views=0)), r"\(columns.views: other values\)"),
        (table_of(frame.assign(more=0)), r"\(columns.more: a new column\)"),
        (table_of(frame.drop(columns="views")), r"\(columns.views: no such column now\)"),
        (table_of(frame.assign(value=-frame.value)), "table"),
        (table_of(frame, target="views"), "targets"),
        (table_of(frame, units=["lat"]), "units"),
    ):
        with pytest.raises(ForeignFolderError, match=what):
            probe(tiny, other, **settings)
        assert (out / "findings.json").read_bytes() == made
    again = probe(tiny, table_of(frame), **settings)
    assert again.to_json() == first.to_json()
    caplog.clear()
    judged = probe(tiny, table_of(frame), **settings, min_gain=0.4)
    assert judged.verdict.min_gain == 0.4
    assert "min_gain: 0.01 → 0.4" in caplog.text
    for changed, what in (({"seed": 5}, "seed: 0 → 5"), ({"twin": "fresh"}, "twin: 'permuted' → 'fresh'")):
        with pytest.raises(ForeignFolderError, match=rf"something else \({what}\)"):
            probe(tiny, table_of(frame), **settings, **changed)
    with pytest.raises(ArtifactError, match="holds another capture") as told:
        baselines(tiny, table_of(frame), layers=0, seed=5, store=out / "baselines", progress=False)
    assert "{" not in str(told.value)
    caplog.clear()
    probe(tiny, table_of(frame), **settings, twins=0)
    assert "twin_0 of an earlier run with more twins" in caplog.text
    with pytest.raises(ForeignFolderError, match="something other"):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "cat.jpg").write_text("mine")
        probe(tiny, table_of(frame), **{**settings, "out": tmp_path / "mine"})
    with pytest.raises(ForeignFolderError, match="choose another place"):
        probe(tiny, table_of(frame), **{**settings, "out": out / "activations"})
    with pytest.raises(ForeignFolderError, match="choose another place"):
        capture(tiny, ["rome"], store=out)
    with pytest.raises(ForeignFolderError, match="choose another place"):
        baselines(tiny, table_of(frame), store=out, progress=False)


# Keys that are missing -------------------------------------------------------------------------------
def saved_things(found: Findings, root) -> dict[str, tuple]:
    """Kind → (folder, its JSON file, what reads it)."""
    things = {
        "findings": (found, "findings.json", Findings.load),
        "probe": (found.probe, "manifest.json", RidgeProbe.load),
        "activations": (found.inputs.activations, "manifest.json", lambda p: Store(p).load()),
        "baselines": (found.inputs.baselines, "manifest.json", Baselines.load),
        "layer band": (layer_band(found), "manifest.json", LayerBand.load),
    }
    rng = np.random.default_rng(0)
    things["eraser"] = (
        Eraser.fit(rng.normal(size=(40, 4)), rng.normal(size=(40, 1))), "manifest.json", Eraser.load
    )  # fmt: skip
    for name, (thing, _, _) in things.items():
        thing.save(root / name)
    return {name: (root / name, file, load) for name, (_, file, load) in things.items()}


@pytest.mark.slow
def test_a_key_that_is_missing_or_of_another_kind_is_told_in_one_line(found, tmp_path):
    refused = 0
    for name, (folder, file, load) in saved_things(found, tmp_path).items():
        told = json.loads((folder / file).read_text())
        load(folder)
        for key in told:
            for spoilt in (
                {k: v for k, v in told.items() if k != key},
                {**told, key: 7},
                {**told, key: None},
            ):
                (folder / file).write_text(json.dumps(spoilt))
                try:
                    load(folder)
                except ArtifactError as error:
                    refused += 1
                    assert "\n" not in str(error) and str(folder) in str(error), (name, key)
        (folder / file).write_text(json.dumps(told))
        load(folder)
    assert refused > 60


@pytest.mark.slow
def test_files_that_are_gone_or_cut_are_told_by_name(found, tmp_path):
    for folder, _, load in saved_things(found, tmp_path / "whole").values():
        for file in sorted(f for f in folder.rglob("*") if f.is_file() and f.name != "provenance.json"):
            shutil.copytree(folder, tmp_path / "copy")
            copy = tmp_path / "copy" / file.relative_to(folder)
            for spoil in (lambda copy=copy: copy.write_bytes(copy.read_bytes()[:-9]), copy.unlink):
                spoil()
                with pytest.raises(ArtifactError) as refusal:
                    load(tmp_path / "copy")
                assert copy.name in str(refusal.value)
                assert "\n" not in str(refusal.value)
            shutil.rmtree(tmp_path / "copy")


@pytest.mark.parametrize("kind", ["numbers", "classes", "drawn"])
def test_what_probe_leaves_beside_findings_is_found_again(kind, tiny, frame, tmp_path):
    """Read from their folder, from a copy of it too, findings have their inputs; of another table none."""
    changes = {
        "numbers": {},
        "classes": {"target": "country", "blocks": []},
        "drawn": {"split": None, "cluster": "country"},
    }[kind]
    table = table_of(frame, **changes)
    first = probe(tiny, table, layers=[0, 1], out=tmp_path / "run", crossfit=False, progress=False)
    shutil.copytree(tmp_path / "run", tmp_path / "there")
    again = load_saved(tmp_path / "there")
    ours, theirs = first.inputs, again.inputs
    assert theirs.table.digest == table.digest and theirs.table.split_is_drawn == table.split_is_drawn
    for part in ("y", "is_test", "clusters", "source"):
        assert np.array_equal(getattr(ours.problem, part), getattr(theirs.problem, part))
    assert np.array_equal(ours.rows(POINTS[1]), theirs.rows(POINTS[1]))
    assert repr(again.inputs.judge(again.predictions_at())) == repr(
        first.inputs.judge(first.predictions_at())
    )
    other = replace(load_saved(tmp_path / "there"), provenance={**first.provenance, "table": {"digest": "x"}})
    with pytest.raises(ValueError, match="cannot be taken: these findings are of another table"):
        _ = other.inputs
