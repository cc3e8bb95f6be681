"""Findings keep what every point's probe says, so that nothing is fitted again: refits are the oracle."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from torch import from_numpy

from graticule import Findings, Table, compare, probe, sweep
from graticule.hooks.artifact import ArtifactError, read_json, sealed, sha256, write_json, write_tensors
from graticule.hub.uploads import gather
from graticule.probes.core.fit import fit_points
from graticule.probes.layer_band import layer_band
from graticule.probes.linear.ridge_cv import ridge_cv
from graticule.sims.planted import planted

NEW = ("point_predictions.safetensors", "arrays.safetensors")
FIRST = "blocks.0.hook_resid_post"


@pytest.fixture(scope="module")
def findings() -> Findings:
    world = planted(n_rows=400, width=10, n_layers=3, surface=0.4, hidden=0.3, n_targets=2)
    return sweep(world.activations, world.table, baselines=world.baselines, n_bootstrap=50, progress=False)


@pytest.fixture
def folder(findings: Findings, tmp_path: Path) -> Path:
    findings.save(tmp_path / "findings")
    return tmp_path / "findings"


def as_before(folder: Path) -> Path:
    """The folder as findings were saved before they held predictions of every point."""
    manifest = read_json(folder / "findings.json")
    for name in NEW:
        (folder / name).unlink()
        del manifest["files"][name]
    write_json(folder / "findings.json", manifest)
    return folder


def same(one: Any, other: Any) -> None:
    for f in dataclasses.fields(one):
        assert np.array_equal(getattr(one, f.name), getattr(other, f.name)), f.name


@pytest.mark.slow
def test_they_are_what_a_ridge_of_every_point_says(findings: Findings) -> None:
    swept, problem = findings.inputs, findings.problem
    assert list(findings.point_predictions) == list(findings.probes)
    for point, saved in findings.point_predictions.items():
        X, train = swept.rows(point), problem.train
        fit = ridge_cv(X[train], problem.y[train], clusters=problem.clusters[train])
        assert np.array_equal(saved.out_of_fold, fit.out_of_fold)
        assert np.array_equal(saved.test, fit.predict(X[problem.test]))
        assert np.array_equal(saved.test, findings.probes[point].predict(X[problem.test]))
        (again,) = fit_points(
            swept.activations.select(points=point), problem, alphas=[findings.probes[point].alpha]
        )
        for part in ("out_of_fold", "test"):
            assert np.abs(getattr(again.predictions, part) - getattr(saved, part)).max() < 1e-12


@pytest.mark.slow
def test_from_disk_they_are_the_same_to_the_bit_without_activations(findings: Findings, folder: Path) -> None:
    back = Findings.load(folder)
    assert back.swept is None
    same(back.problem, findings.problem)
    for point in findings.probes:
        same(back.predictions_at(point), findings.predictions_at(point))
        same(back.at(point), findings.at(point))
    one, other = (compare(f, f.at(FIRST), n_bootstrap=40, progress=False) for f in (findings, back))
    assert one.to_json() == other.to_json()
    for what in ("score", "gain"):
        bands = [layer_band(f, what, n_bootstrap=40).layers for f in (findings, back)]
        pd.testing.assert_frame_equal(*bands, check_exact=True)


@pytest.mark.slow
def test_rows_are_numbered_as_by_the_table_that_was_swept(tmp_path: Path) -> None:
    world = planted(n_rows=300, width=8, n_layers=1)
    order = np.random.default_rng(0).permutation(300)[:200]
    part, some = world.table.take(order), world.activations.select(order)
    some = some.with_sources(np.arange(200), 200)
    found = sweep(some, part, n_bootstrap=20, progress=False)
    found.save(tmp_path)
    assert not np.array_equal(found.predictions["source"], found.problem.source)
    same(Findings.load(tmp_path).at(), found.at())
    assert compare(found, Findings.load(tmp_path), n_bootstrap=20, progress=False).difference == 0


@pytest.mark.slow
def test_a_band_of_gains_is_that_of_refits(findings: Findings, folder: Path) -> None:
    before, swept = Findings.load(as_before(folder)), findings.inputs
    assert before.point_predictions == {} and before.table_rows is None
    with pytest.raises(ValueError, match="loaded without their activations"):
        layer_band(before, "gain")
    with pytest.raises(ValueError, match="loaded without their activations"):
        before.at(FIRST)
    assert compare(before, findings, n_bootstrap=20, progress=False).difference == pytest.approx(0, abs=1e-12)
    same(before.predictions_at(), findings.predictions_at())  # the chosen point's always lay in the table
    refitted = before.with_inputs(swept.activations, swept.table, swept.baselines)
    for what in ("score", "gain"):
        one, other = (layer_band(f, what, n_bootstrap=40).layers for f in (findings, refitted))
        pd.testing.assert_frame_equal(one, other, rtol=0, atol=1e-12)
    for point in findings.probes:
        same(refitted.at(point), findings.at(point))


@pytest.mark.slow
def test_what_was_saved_before_is_saved_again_as_it_is(findings: Findings, folder: Path) -> None:
    before = Findings.load(as_before(folder))
    before.save(folder)
    back = Findings.load(folder)
    assert back.to_json() == findings.to_json() and back.point_predictions == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", NEW)
def test_damage_is_told(findings: Findings, folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-8])
    with pytest.raises(ArtifactError, match=f"{name} is missing or damaged"):
        Findings.load(folder)


@pytest.mark.slow
def test_predictions_of_other_rows_are_refused(findings: Findings, folder: Path) -> None:
    file, manifest = folder / NEW[0], read_json(folder / "findings.json")
    for changed, why in (
        ({"elsewhere": findings.predictions_at()}, "elsewhere has predictions and no probe"),
        ({FIRST: findings.predictions_at().part(slice(1, None))}, f"at {FIRST} are of other rows"),
    ):
        tensors = {
            f"{key}/{part}": from_numpy(getattr(p, part))
            for key, p in changed.items()
            for part in ("out_of_fold", "test")
        }
        write_tensors(file, tensors)
        write_json(
            folder / "findings.json", {**manifest, "files": {**manifest["files"], NEW[0]: sha256(file)}}
        )
        with pytest.raises(ArtifactError, match=why):
            Findings.load(folder)


@pytest.mark.slow
def test_they_are_saved_in_full_and_never_pushed(findings: Findings, folder: Path) -> None:
    rows, targets = findings.problem.y.shape
    assert 0 <= (folder / NEW[0]).stat().st_size - len(findings.probes) * rows * targets * 8 < 2000
    for what in (findings, folder):
        (upload,) = gather(what)
        assert set(upload.files) == {"manifest.json", "verdict.json", "probe.safetensors"}


@pytest.mark.slow
def test_a_finished_folder_without_them_is_not_made_again(
    load_tiny: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    words = np.array(["paris", "rome", "oslo", "lima", "cairo"])
    names = [f"{words[i % 5]} {words[i // 5 % 5]} {i}" for i in range(30)]
    frame = pd.DataFrame({"name": names, "value": rng.normal(size=30)})
    table, model = Table(frame, text="name", target="value"), load_tiny("llama", "hooked")
    how: dict[str, Any] = {"layers": [0], "twins": 0, "n_bootstrap": 20, "progress": False}
    made = probe(model, table, out=tmp_path / "run", **how)
    shutil.copytree(tmp_path / "run", tmp_path / "today")
    folder = as_before(tmp_path / "run")
    manifest = {k: v for k, v in read_json(folder / "findings.json").items() if k != "seal"}
    write_json(folder / "findings.json", sealed(manifest))
    content = (folder / "findings.json").read_bytes()
    monkeypatch.setattr(type(model), "forward", lambda *a, **k: pytest.fail("the model ran again"))
    again = probe(model, table, out=folder, **how)
    assert (folder / "findings.json").read_bytes() == content and not (folder / NEW[0]).exists()
    assert again.point_predictions == {} and again.verdict == made.verdict
    same(again.at(), made.at())
    whole = probe(model, table, out=tmp_path / "today", **how)
    assert list(whole.point_predictions) == list(whole.probes)
