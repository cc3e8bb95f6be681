"""First tries that go wrong: one line that says what to write."""

import numpy as np
import pandas as pd
import pytest
import torch

import graticule as g
from graticule.cli import main
from graticule.commands.arguments import read_saes
from graticule.hooks.artifact import ArtifactError, write_json
from graticule.hooks.kinds import differences
from graticule.saes.training.settings import architectures
from graticule.studies.running import chosen_steps
from graticule.studies.steps import digest_of, loaded

from ..helpers import as_installed
from ..probes.test_few_rows import POINT, few

X = np.random.default_rng(0).normal(size=(24, 4))


@pytest.fixture(scope="module")
def found() -> g.Findings:
    return few(24, 6)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (pd.DataFrame(X), r"b is a DataFrame; expected numbers alone: values\.to_numpy\(\)"),
        (pd.Series(X[:, 0]), "b is a Series; expected numbers alone"),
        (X.astype(str), "b holds <U.* no tensor of numbers"),
        (X.astype(object), "b holds object, which is no tensor of numbers"),
        ([[1.0, 2.0], [3.0]], "b holds a list, which is no tensor of numbers"),
        (X[:0], r"b has shape \(0, 4\), no number at all"),
        (X[:, :0], r"b has shape \(24, 0\), no number at all"),
        (X + 1j, "b is a tensor that is complex; expected plain numbers"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused_in_a_line(values, said):
    with as_installed(), pytest.raises((TypeError, ValueError), match=said) as told:
        g.Activations.from_tensors({"b": values})
    assert "\n" not in str(told.value)


def test_numbers_of_every_kind_are_taken():
    with as_installed():
        for values in (X, X.astype("float16"), X.astype(int), X > 0, torch.from_numpy(X), X.tolist()):
            made = g.Activations.from_tensors({POINT: values})
            assert np.allclose(made[POINT].double().numpy(), np.asarray(values, np.float64))


def test_the_argument_that_is_missing_is_named(found, tiny):
    for call in (g.causes, g.attribute, g.neurons):
        with pytest.raises(
            TypeError, match=rf"{call.__name__}: model is missing: .*{call.__name__}\(findings, model"
        ):
            call(found)
    with pytest.raises(TypeError, match=r"probe: model is missing: expected a loaded model.*probe\(model, t"):
        g.probe(found.inputs.table)
    with pytest.raises(TypeError, match=r"Store\('x'\)"):
        g.sweep("x", "y")


def test_latents_are_no_activations(found):
    from sae_lens import StandardSAE, StandardSAEConfig

    sae = StandardSAE(StandardSAEConfig(d_in=6, d_sae=8, dtype="float32", device="cpu"))
    sae.cfg.metadata.hook_name = POINT
    encoded = g.Activations.from_tensors({POINT: X[:, [0, 1, 2, 3, 0, 1]]}).encode(sae)
    with pytest.raises(TypeError, match=r"activations is a Latents; .*graticule\.latents\(findings, sae\)"):
        g.sweep(encoded, found.inputs.table)


def test_one_where_several_are_expected(found):
    frame = pd.DataFrame({"name": [f"a {i}" for i in range(20)], "y": np.arange(20.0)})
    with as_installed(), pytest.raises(ValueError, match=r"units=5: expected a unit, or one for each target"):
        g.Table(frame, text="name", target="y", units=5)
    with as_installed(), pytest.raises(ValueError, match=r"alphas=1\.0: expected several numbers, alphas="):
        g.sweep(found.inputs.activations, found.inputs.table, alphas=1.0)
    with pytest.raises(ValueError, match=r"no step 'mlp, pca' in a study; did you mean \['mlp', 'pca'\]\?"):
        chosen_steps("mlp, pca", ())


def test_a_table_of_nothing_and_a_split_that_is_none(tmp_path):
    for content in ("", "\n\n"):
        (tmp_path / "e.csv").write_text(content)
        with pytest.raises(ValueError, match=r"e\.csv .* it is empty; expected a line with names"):
            g.Table(tmp_path / "e.csv", text="name", target="y")
    frame = pd.DataFrame({"name": list("abcdefgh"), "y": np.arange(8.0), "kind": ["x", "y"] * 4})
    with pytest.raises(ValueError, match="No row would be left: name another column") as told:
        g.Table(frame, text="name", target="y", split="kind")
    assert "on_bad" not in str(told.value)
    frame["kind"] = ["train", "train", "train", "train", "test", "test", "test", "other"]
    with pytest.raises(ValueError, match=r"1 of 8 rows .*on_bad='drop'"):
        g.Table(frame, text="name", target="y", split="kind")


def test_a_run_is_an_sae_and_its_page_is_named(tmp_path, capsys):
    from sae_lens import StandardSAE, StandardSAEConfig

    sae = StandardSAE(StandardSAEConfig(d_in=6, d_sae=8, dtype="float32", device="cpu"))
    sae.save_model(tmp_path / "my-sae" / "sae")
    run = str(tmp_path / "my-sae")
    assert read_saes([run]) == {"my-sae": run}
    assert digest_of(run) == digest_of(tmp_path / "my-sae" / "sae")
    assert torch.equal(loaded(run).W_dec, sae.W_dec)
    write_json(tmp_path / "my-sae" / "run.json", {"kind": "sae_run"})
    assert main(["report", run]) != 0
    assert f"graticule sae report {run}" in capsys.readouterr().err
    (tmp_path / "my-sae" / "sae" / "cfg.json").unlink()
    with pytest.raises(ArtifactError, match="a run that is not complete"):
        read_saes([run])
    with pytest.raises(FileNotFoundError, match="holds no SAELens SAE"):
        read_saes([str(tmp_path)])


def test_only_what_training_lacks_is_asked_for(capsys, tmp_path):
    given = ["sae", "train", "--model", "gemma-3-270m", "--out", str(tmp_path / "s")]
    assert main([*given, "--corpus", "x.txt", "--hook-name", POINT]) != 0
    said = capsys.readouterr().err
    assert "--model needs --tokens too" in said and "--corpus" not in said
    assert main(["sae", "train", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert all(name in told for name in architectures())
    assert "needed with --model" in told


def test_a_target_that_changed_does_not_make_another_table():
    before = {"table": "aaaa", "targets": ["size"], "columns": {"size": "c1"}}
    now = {**before, "table": "bbbb", "targets": ["views"]}
    assert differences(before, now) == ["targets: ['size'] → ['views']"]
    edited = {**now, "columns": {"size": "c2"}}
    assert any(words.startswith("table: another one") for words in differences(before, edited))
    assert differences(before, {**before, "table": "bbbb"}) == [
        "table: another one, though it may have the same name"
    ]
