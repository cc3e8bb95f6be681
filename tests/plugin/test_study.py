"""The whole battery on a tiny model: every step, its pages, and going on after a kill."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from graticule import Store, Table, study
from graticule.cli import main
from graticule.hooks.artifact import ArtifactError
from graticule.results import RESULTS, load_result
from graticule.studies.result import Study
from graticule.studies.running import chosen_steps
from graticule.studies.steps import STEPS, Settings

SMALL = Settings(
    prompts={"empty": "", "where": "where is {}"},
    prompt_rows=200,
    targets=6,
    twins=2,
    cause_rows=6,
    cause_controls=8,
    attribution_rows=20,
    paper_compat=True,
    retests=2,
)
BARE: dict[str, Any] = {"prepend_bos": False, "include_bos": False, "progress": False}


@pytest.fixture(scope="module")
def places() -> Table:
    """Names of two words; the place is the sum of what the words say, with noise."""
    rng = np.random.default_rng(0)
    words = ["paris", "rome", "oslo", "lima", "cairo", "delhi", "tokyo", "berlin", "madrid", "vienna"]
    kinds = ["city", "river", "lake", "port", "mount", "king", "north", "south"]
    picked = rng.integers(0, len(words), 320), rng.integers(0, len(kinds), 320)
    said = rng.normal(size=(len(words), 2))[picked[0]] + 0.6 * rng.normal(size=(len(kinds), 2))[picked[1]]
    y = said + 0.3 * rng.normal(size=said.shape)
    frame = pd.DataFrame(
        {
            "name": [f"{words[a]} {kinds[b]} {i % 7}" for i, (a, b) in enumerate(zip(*picked, strict=True))],
            "lat": np.clip(15 * y[:, 0], -80, 80),
            "lon": np.clip(40 * y[:, 1], -170, 170),
            "land": [f"land {a % 4}" for a in picked[0]],
            "id": np.arange(320),
            "page_views": rng.integers(1, 10_000, 320),
        }
    )
    names, of = np.unique(frame["name"], return_inverse=True)
    frame["is_test"] = (rng.random(len(names)) < 0.3)[of]  # a split of its own: one part is enough here
    return Table(
        frame, text="name", target=["lat", "lon"], units=["lat", "lon"], blocks=["land", "id"], name="places",
        split="is_test",
    )  # fmt: skip


NO_BLOCKS = (
    "0 blocks of id can be held out, of 320 with rows (at least 10 test rows each; the largest has 1): "
)
NO_BLOCKS += "give another column or a lower minimum="


@pytest.fixture(scope="module")
def made(load_tiny: Any, places: Table, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    out = tmp_path_factory.mktemp("studies") / "places"
    return study(load_tiny("llama", "hooked"), places, out=out, settings=SMALL, **BARE), out


@pytest.mark.slow
def test_every_step_gives_its_results_or_says_why_not(made):
    found, out = made
    assert found.failed == {}
    assert set(found.results) == {step.name for step in STEPS} - set(found.failures)
    assert set(found.results["holdouts"]) == {"land"}
    reasons = {
        "classes": "the target is a number; k-sparse and logistic probes are for classes",
        "latents": "no SAE; name a SAELens folder with --sae",
        "causes": "outcome 'a northern or a southern country': the tokenizer does not know ' Germany'; give "
        "outcomes= of your own",
        "holdouts: id": NO_BLOCKS,
    }
    assert found.failures == {step: f"not applicable: {why}" for step, why in reasons.items()}
    assert found.findings.limit_of_detection is not None
    for step in found.results:
        assert (out / "pages" / f"{step}.html").stat().st_size > 1000
    lines = found.summary().splitlines()
    assert lines[0].startswith(found.findings.verdict.label)
    parts = found.tables()["The parts of the study, a page each"]
    assert set(parts["part"].str.split(":").str[0]) == {step.name for step in STEPS}


@pytest.mark.slow
def test_special_tokens_are_left_out_of_every_part_as_asked(made, load_tiny, places):
    _, out = made
    stores = {f.parent for f in out.rglob("manifest.json") if "shards" in json.loads(f.read_text())}
    assert {s.name for s in stores} >= {"activations", "block_0", "twin_0"} and len(stores) > 8
    for store in map(Store, stores):
        assert store.request["bos"] is store.request["prepend_bos"] is False
        assert store.request.get("include_bos") in (None, False)
    model, point = load_tiny("llama", "hooked"), "blocks.2.hook_resid_post"
    text = places.head(200, SMALL.seed).texts[7]
    ids = model.tokenizer(f"where is {text}", add_special_tokens=False)["input_ids"]
    expected = model.run_with_cache(torch.tensor([ids]))[1][point][0, -1]
    got = Store(out / "prompts/captures/where/activations")[point][7]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_column_that_cannot_be_held_out_is_said_where_the_results_are(made):
    found, out = made
    (land,) = found.results["holdouts"].values()
    assert f"no hold-outs of id: {NO_BLOCKS}" in land.summary()
    told = f"holdouts: id: not applicable: {NO_BLOCKS}"
    assert told in found.summary() and told in Study.load(out).summary()
    for page in (out / "report.html", out / "pages" / "holdouts.html"):
        assert NO_BLOCKS in page.read_text()


@pytest.mark.slow
def test_the_first_page_links_to_the_others(made):
    found, out = made
    page = (out / "report.html").read_text()
    for step in found.results:
        assert f'href="pages/{step}.html"' in page
    assert 'href="../report.html"' in (out / "pages" / "controls.html").read_text()


@pytest.mark.slow
def test_nothing_that_is_whole_is_run_again(made, load_tiny, places):
    found, out = made
    before = {f: f.stat().st_mtime_ns for f in out.glob("*/step.json")}
    again = study(load_tiny("llama", "hooked"), places, out=out, settings=SMALL, **BARE, pages=False)
    assert {f: f.stat().st_mtime_ns for f in out.glob("*/step.json")} == before
    assert again.summary() == found.summary()


def files_of(out: Path) -> dict[str, bytes]:
    """What a study leaves on disk, but its pages."""
    return {
        str(f.relative_to(out)): f.read_bytes() for f in out.rglob("*") if f.is_file() and f.suffix != ".html"
    }


@pytest.mark.slow
def test_a_step_without_its_index_is_run_again_alone(made, load_tiny, places):
    """What a kill between a step's results and its index leaves behind; resumed is as undisturbed."""
    found, out = made
    before = files_of(out)
    for step in ("calibrate", "layers", "pca"):
        (out / step / "step.json").unlink()
    other = (out / "mlp" / "step.json").stat().st_mtime_ns
    again = study(load_tiny("llama", "hooked"), places, out=out, settings=SMALL, **BARE, pages=False)
    assert (out / "pca" / "step.json").is_file()
    assert (out / "mlp" / "step.json").stat().st_mtime_ns == other
    assert files_of(out) == before
    for caption, table in found.tables().items():
        pd.testing.assert_frame_equal(again.tables()[caption], table, check_exact=True)


@pytest.mark.slow
def test_saved_and_loaded(made):
    found, out = made
    again = Study.load(out)
    assert again.findings.verdict == found.findings.verdict
    assert {s: list(r) for s, r in again.results.items()} == {s: list(r) for s, r in found.results.items()}
    held = json.loads((out / "study.json").read_text())
    assert held["findings"]["verdict"]["words"] == found.findings.verdict.label
    assert set(held["parts"]) == set(found.results)


@pytest.mark.slow
def test_every_saved_part_is_read_by_its_kind(made):
    found, out = made
    for step, results in found.results.items():
        for name, result in results.items():
            again = load_result(out / step / name)
            assert type(again) is type(result)
            assert again.summary() == result.summary()
            assert RESULTS[result.KIND].endswith(type(result).__name__)


@pytest.mark.slow
def test_the_pages_are_made_again_without_a_model(made, capsys):
    _, out = made
    (out / "report.html").unlink()
    assert main(["report", str(out)]) == 0
    assert (out / "report.html").is_file()


@pytest.mark.slow
def test_a_part_that_is_gone_is_told(made, tmp_path):
    import shutil

    _, out = made
    shutil.copytree(out, tmp_path / "copy", ignore=shutil.ignore_patterns("*.html", "captures"))
    shutil.rmtree(tmp_path / "copy" / "pca")
    with pytest.raises(ArtifactError, match="'pca'"):
        Study.load(tmp_path / "copy")


def test_unknown_steps_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'controls'"):
        chosen_steps(["control"], [])
    assert [s.name for s in chosen_steps(["pca", "mlp"], ["mlp"])] == ["pca"]


@pytest.mark.slow
def test_the_command_line_runs_a_part(hf_folder, tmp_path, capsys):
    frame = pd.DataFrame(
        {
            "name": [f"{w} {i}" for i in range(40) for w in ("paris", "rome", "oslo")],
            "value": [float(k + i % 5) for i in range(40) for k in range(3)],
        }
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    words = ["study", "--model", str(hf_folder("llama")), "--table", str(tmp_path / "t.csv")]
    words += ["--text-column", "name", "--target", "value", "--only", "pca,layers"]
    assert main([*words, "--no-prepend-bos", "--include-bos", "--out", str(tmp_path / "out")]) == 0
    asked = Store(tmp_path / "out/probe/activations").request
    assert (asked["prepend_bos"], asked["include_bos"]) == (False, True)
    shown = capsys.readouterr()
    assert "[2/2] pca" in shown.err and "The pages:" in shown.out
    # what the data cannot give is told and all is well; what was asked for and failed is an error
    asked = [*words[:-1], "classes,sphere", "--out", str(tmp_path / "out")]
    assert main(asked) == 2  # other steps do not drop finished ones
    assert "holds a study with the steps layers, pca" in capsys.readouterr().err
    asked[-1] = str(tmp_path / "other")
    assert main(asked) == 0
    shown = capsys.readouterr()
    assert shown.err.count("not applicable: ") == 2 and "failed" not in shown.err
    asked = [*words[:-1], "pca,popularity", "--popularity-column", "name", "--out", str(tmp_path / "other")]
    assert main(asked) == 1
    shown = capsys.readouterr()
    assert "graticule: 1 step failed: popularity; the others are whole" in shown.err
    failed = "popularity: failed: ValueError: column 'name' holds no numbers (e.g. 'paris 0')"
    assert failed in shown.out and failed.removeprefix("popularity: ") in (
        tmp_path / "other" / "report.html"
    ).read_text().replace("&#x27;", "'").replace("&#39;", "'")
    assert main([*words[:-1], "pcaa", "--out", str(tmp_path / "out")]) == 2
    assert "did you mean 'pca'" in capsys.readouterr().err
    up = [*words[:-1], "popularity", "--popularity-column", "../../x", "--out", str(tmp_path / "up")]
    assert main(up) == 2
    assert "popularity column '../../x' holds a slash" in capsys.readouterr().err
    assert not (tmp_path / "up").exists()
    index = tmp_path / "other" / "study.json"
    told = index.read_text()
    for bad in ({"steps": ["../.."]}, {"steps": 7}, {"failures": None}):
        index.write_text(json.dumps({**json.loads(told), **bad}))
        with pytest.raises(ArtifactError, match=r"study\.json"):
            Study.load(tmp_path / "other")


@pytest.mark.slow
def test_other_settings_run_only_what_depends_on_them(made, load_tiny, places):
    from dataclasses import replace

    _, out = made
    before = {f.parent.name: f.stat().st_mtime_ns for f in out.glob("*/step.json")}
    changed = replace(SMALL, attribution_rows=25)
    study(load_tiny("llama", "hooked"), places, out=out, settings=changed, **BARE, pages=False)
    after = {f.parent.name: f.stat().st_mtime_ns for f in out.glob("*/step.json")}
    assert {step for step in after if after[step] != before[step]} == {"attribution"}
