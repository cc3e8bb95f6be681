"""Findings read from disk go on exactly as those that `sweep` returned, or say why they cannot."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import WORDS
from helpers import alike

from graticule import Activations, Findings, Table, baselines, capture, sweep
from graticule.hooks.artifact import json_ready
from graticule.probes.beyond.classes import classes
from graticule.probes.beyond.mlp import mlp
from graticule.probes.beyond.pca import pca
from graticule.probes.beyond.sphere import sphere
from graticule.probes.calibration.calibrate import calibrate
from graticule.probes.causes.causes import causes
from graticule.probes.causes.erase import erase
from graticule.probes.causes.outcomes import Outcome
from graticule.probes.compare import compare, gain_samples
from graticule.probes.controls.controls import controls
from graticule.probes.core.verdict import JudgeSettings, Verdict
from graticule.probes.directions.directions import directions
from graticule.probes.generalisation.holdouts import holdouts
from graticule.probes.generalisation.popularity import popularity
from graticule.probes.generalisation.transfer import transfer
from graticule.probes.latents.latents import latents
from graticule.probes.layer_band import layer_band
from graticule.probes.neurons.neurons import neurons
from graticule.sims.planted import planted

SETTINGS: dict[str, Any] = {"alphas": [0.3, 3.0, 30.0], "min_gain": 0.02, "n_bootstrap": 60, "seed": 5}
QUIET: dict[str, Any] = {"progress": False}
ASKED = Outcome("river or lake", "{} is a", {"river": ("river",), "lake": ("lake",)}, "lat")


def places(rows: int = 130) -> Table:
    rng = np.random.default_rng(3)
    picked = rng.integers(0, len(WORDS), (rows, 2))
    said = rng.normal(size=(len(WORDS), 2))
    y = said[picked[:, 0]] + 0.5 * said[picked[:, 1]] + 0.3 * rng.normal(size=(rows, 2))
    frame = pd.DataFrame(
        {
            "name": [f"{WORDS[a]} {WORDS[b]} {i % 9}" for i, (a, b) in enumerate(picked)],
            "lat": 10 * y[:, 0],
            "lon": 20 * y[:, 1],
            "land": [f"land {a % 3}" for a in picked[:, 0]],
            "page_views": rng.integers(1, 999, rows),
        }
    )
    return Table(
        frame, text="name", target=["lat", "lon"], units=["lat", "lon"], blocks="land", test_size=0.3, seed=3
    )


@pytest.fixture(scope="module")
def swept(load_tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Findings, Findings]:
    """A model, findings with settings of their own, and the same findings read from disk."""
    model, table = load_tiny("llama", "hooked"), places()
    acts, beside = capture(model, table.texts), baselines(model, table)
    found = sweep(acts, table, baselines=beside, **SETTINGS, **QUIET)
    folder = tmp_path_factory.mktemp("findings")
    found.save(folder)
    return model, found, Findings.load(folder).with_inputs(acts, table, beside)


def random_sae(findings: Findings) -> Any:
    from sae_lens.saes.sae import SAEMetadata
    from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig

    torch.manual_seed(0)
    metadata = SAEMetadata(hook_name=findings.chosen_point)
    return StandardSAE(StandardSAEConfig(d_in=32, d_sae=48, metadata=metadata))


ANALYSES: dict[str, Any] = {
    "verdict": lambda _, f: f.inputs.judge(f.inputs.baseline_predictions["twin_0"], leave_out=["twin_0"]),
    "calibrate": lambda _, f: calibrate(f, targets=2, gains=[0.1], strengths=3, **QUIET),
    "controls": lambda _, f: controls(f, seeds=2, **QUIET),
    "layers": lambda _, f: layer_band(f, "gain", n_bootstrap=50),
    "mlp": lambda _, f: mlp(f, points=[f.chosen_point], seeds=1, **QUIET),
    "pca": lambda _, f: pca(f),
    "sphere": lambda _, f: sphere(f),
    "holdouts": lambda _, f: holdouts(f, "land", **QUIET),
    "popularity": lambda _, f: popularity(f, "page_views"),
    "compare": lambda _, f: compare(f, f.at("blocks.0.hook_resid_post"), n_bootstrap=50),
    "transfer": lambda _, f: transfer({"one": f, "two": f}),
    "latents": lambda _, f: latents(f, {"random": random_sae(f)}, ks=(1, 2), **QUIET),
    "neurons": lambda m, f: neurons(f, m, rotations=2, **QUIET),
    "directions": lambda m, f: directions(f, model=m),
    "erase": lambda m, f: erase(f, m, **QUIET),
    "causes": lambda m, f: causes(f, m, outcomes=[ASKED], rows=4, controls=3, **QUIET),
    "p": lambda _, f: {"p": gain_samples(f)},
}


def plain(result: Any) -> Any:
    """All that a result holds but when it was made and how long it took."""
    if isinstance(result, Verdict):
        return json_ready(result)
    if isinstance(result, dict):
        return result

    def undated(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: undated(v) for k, v in value.items() if k not in ("made_at", "seconds")}
        return [undated(v) for v in value] if isinstance(value, list) else value

    return undated(result.to_json())


@pytest.mark.slow
@pytest.mark.parametrize("analysis", ANALYSES)
def test_what_is_made_of_findings_from_disk_is_the_same_to_the_bit(swept: Any, analysis: str) -> None:
    model, found, again = swept
    run = ANALYSES[analysis]
    one, other = plain(run(model, found)), plain(run(model, again))
    assert [key for key in one if not alike(one[key], other[key])] == []
    assert alike(one, other)


@pytest.mark.slow
def test_classes_of_findings_from_disk_are_the_same_to_the_bit(tmp_path: Any) -> None:
    world = planted(n_rows=160, width=8, n_layers=1)
    label = np.where(world.table.y[:, 0] > 0, "warm", "cold").astype(object)
    frame = world.table.frame.assign(label=label)
    table = Table(frame, text="text", target="label", split="is_test")
    found = sweep(world.activations, table, baselines=world.baselines, **SETTINGS, **QUIET)
    found.save(tmp_path)
    again = Findings.load(tmp_path).with_inputs(world.activations, table, world.baselines)
    one, other = (classes(f, ks=(1, 2), **QUIET) for f in (found, again))
    assert alike(plain(one), plain(other))


@pytest.mark.slow
def test_settings_and_the_order_of_baselines_come_back(swept: Any) -> None:
    _, found, again = swept
    asked = JudgeSettings(
        tuple(SETTINGS["alphas"]), SETTINGS["min_gain"], SETTINGS["n_bootstrap"], SETTINGS["seed"]
    )
    assert found.settings == again.settings == again.inputs.settings == asked
    names = list(found.baseline_predictions)
    assert names == list(again.baseline_predictions) == [n for n in found.baselines if n != "shuffled"]
    assert names != sorted(names)  # a file's own order would be this one


@pytest.mark.slow
def test_the_old_name_of_the_baselines_predictions_works_and_warns(swept: Any) -> None:
    found = swept[1]
    for old in (found, found.inputs):
        with pytest.warns(DeprecationWarning, match="baseline_predictions"):
            assert old.rivals is old.baseline_predictions


@pytest.mark.slow
def test_findings_without_settings_are_read_and_say_what_they_suppose(swept: Any, tmp_path: Any) -> None:
    """As graticule 0.1 wrote them."""
    _, found, _ = swept
    found.save(tmp_path)
    old = json.loads((tmp_path / "findings.json").read_text())
    del old["settings"]
    (tmp_path / "findings.json").write_text(json.dumps(old))
    read, swept = Findings.load(tmp_path), found.inputs
    given = swept.activations, swept.table, swept.baselines
    assert read.settings is None and read.summary() == found.summary()
    with pytest.warns(
        UserWarning, match="saved without their settings.*n_bootstrap=2000, seed=5.*JudgeSettings"
    ):
        supposed = read.with_inputs(*given)
    assert supposed.inputs.min_gain == SETTINGS["min_gain"]
    with pytest.warns(UserWarning, match="saved without their settings"):
        gain_samples(read)
    told = read.with_inputs(*given, settings=found.settings)
    assert told.inputs.settings == found.settings


def test_array_targets_are_aligned_as_the_sweep_aligned_them(tmp_path: Any) -> None:
    """Three rows a text, and a target for each row, not for each text."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(180, 6)).astype(np.float32)
    rows = pd.DataFrame({"source": np.arange(180) // 3, "position": np.arange(180) % 3})
    acts = Activations.from_tensors({"blocks.0.hook_resid_post": X}, rows=rows)
    y, is_test = X @ rng.normal(size=6) + rng.normal(size=180), np.arange(180) // 3 % 4 == 0
    found = sweep(acts, y, split=is_test, **SETTINGS, **QUIET)
    found.save(tmp_path)
    read = Findings.load(tmp_path)
    for again in (
        read.with_inputs(acts, y, split=is_test),
        read.with_inputs(acts, found.inputs.table, found.inputs.baselines),
    ):
        for part in ("source", "y", "is_test", "clusters"):
            assert np.array_equal(getattr(again.inputs.problem, part), getattr(found.inputs.problem, part))
        assert compare(found, again, n_bootstrap=20).difference == 0
    with pytest.raises(ValueError, match="another table"):
        read.with_inputs(acts, y[::-1].copy(), split=is_test)


@pytest.mark.slow
def test_material_that_is_not_the_findings_own_is_refused(swept: Any) -> None:
    _, found, again = swept
    acts, table, beside = again.inputs.activations, again.inputs.table, again.inputs.baselines
    order = np.random.default_rng(0).permutation(acts.n_rows)
    turned = Activations.from_tensors(
        {point: acts[point][order] for point in acts.points},
        rows=acts.rows.iloc[order].reset_index(drop=True),
    )
    with pytest.raises(ValueError, match="in another order than these findings: row 0 was of table row 0"):
        found.with_inputs(turned, table, beside)
    fewer = replace(beside, features={n: f for n, f in beside.features.items() if n != "twin_0"})
    with pytest.raises(ValueError, match=r"judged against .*twin_0.*give the baselines that `sweep` was"):
        found.with_inputs(acts, table, fewer)
    with pytest.raises(ValueError, match="judged against"):
        found.with_inputs(acts, table, None)
    few = Activations.from_tensors({point: acts[point][:90] for point in acts.points})
    with pytest.raises(ValueError, match="come from 90 inputs, table 'table' has 130 rows"):
        found.with_inputs(few, table, beside)
    few = acts.select(rows=slice(90))  # which says that it is of the first ones
    with pytest.raises(ValueError, match="of 130 activation rows, these activations hold 90"):
        found.with_inputs(few, table, beside)
