"""Prompts: how entities are put, all prompts of a table in one run, and transfer between them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from graticule import Table, capture, sweep
from graticule.hooks.activations import Activations
from graticule.hooks.messages import NotApplicable
from graticule.hooks.tokens import tokenize
from graticule.probes.generalisation.prompts import Prompts, prompts
from graticule.probes.generalisation.transfer import Transfer, transfer
from graticule.probes.tables.prompts import BEST_PROMPT, PROMPTS, Prompt, prompts_of, read_prompts
from graticule.sims.planted import planted
from tests.helpers import as_installed, cached, misread_axes, relative

RANDOM = Prompt("random", random_ids=10, random_low=5)
ASKED = {
    "empty": "",
    "where": "where is the city of ",
    "cut": Prompt("cut", drop_last=True),
    "random": RANDOM,
    "period": Prompt("period", "{}.", pos="last"),
}


# One prompt ------------------------------------------------------------------------------------------
def test_the_papers_prompts():
    expected = {
        "world_place": {"empty", "empty_all_caps", "random", "coords"},
        "us_place": {"empty", "random", "coords", "where_us"},
        "nyc_place": {"empty", "random", "where_is", "where_nyc"},
        "historical_figure": {"empty", "random", "when", "when_all_caps"},
        "art": {"empty", "random", "release", "empty_all_caps"},
        "headline": {"empty", "empty_wo_period", "when_w_period", "when_wo_period"},
    }
    assert {table: set(found) for table, found in PROMPTS.items()} == expected
    assert all(BEST_PROMPT[table] in found for table, found in PROMPTS.items())
    assert PROMPTS["world_place"]["coords"].template == "What are the lat/lon coordinates of "
    assert PROMPTS["us_place"]["random"].random_ids == 10
    assert PROMPTS["historical_figure"]["when_all_caps"].upper
    assert prompts_of("world_place (raw)") == PROMPTS["world_place"]
    assert "when" in prompts_of("historical_figures")
    assert set(prompts_of("my own table")) == {"empty", "empty_all_caps", "random"}


def test_entities_as_a_prompt_has_them():
    headlines = PROMPTS["headline"]
    assert headlines["when_wo_period"].texts(["War ends."]) == ["War ends"]
    assert headlines["when_w_period"].texts(["War ends."]) == ["War ends."]
    assert PROMPTS["art"]["empty_all_caps"].texts(["Madonna's Sex"]) == ["MADONNA'S SEX"]
    with pytest.raises(ValueError, match="leaves nothing of entity 1"):
        headlines["empty_wo_period"].texts(["A.", "."])


@pytest.mark.parametrize("template", ["{", "{}{}", "{name}", "a } b", "{ }"])
def test_templates_without_one_slot_are_refused(template):
    with pytest.raises(ValueError, match="one slot"):
        Prompt("mine", template)


def test_prompts_by_name_and_by_template():
    found = read_prompts(["coords", "Where on Earth is {}?"], "world_place")
    assert list(found) == ["coords", "where_on_earth_is"]
    assert found["coords"] is PROMPTS["world_place"]["coords"]
    named = read_prompts({"mine": "I saw ", "caps": Prompt("loud", upper=True)}, "world_place")
    assert named["mine"] == Prompt("mine", "I saw ")
    assert named["caps"] == Prompt("caps", upper=True)
    with pytest.raises(ValueError, match="two prompts"):
        read_prompts(["Where is ", "Where is {}"], "t")
    with pytest.raises(ValueError, match="no prompts"):
        read_prompts([], "t")
    with pytest.raises(TypeError, match="pass a list"):
        read_prompts("coords", "world_place")
    with as_installed(), pytest.raises(TypeError, match="is int"):
        read_prompts([3], "t")
    with pytest.raises(ValueError, match="folder"):
        read_prompts({"a/b": "x"}, "t")


def test_random_ids_stand_between_bos_and_the_entity(tiny, names):
    rows = tokenize(tiny, names)
    inputs, template, pos = RANDOM.inputs(tiny, names)
    assert (template, pos) == ("", "last")
    highest = max(int(row.max()) for row in rows.ids)
    drawn = np.array([ids[1:11] for ids in inputs])
    assert drawn.min() >= 5
    assert drawn.max() < highest
    assert len(np.unique(drawn)) > 30
    for ids, row in zip(inputs, rows.ids, strict=True):
        assert ids[:1] == row[:1].tolist()
        assert ids[11:] == row[1:].tolist()
    assert RANDOM.inputs(tiny, names)[0] == inputs
    assert replace(RANDOM, seed=1).inputs(tiny, names)[0] != inputs
    with pytest.raises(ValueError, match="nothing to draw"):
        replace(RANDOM, random_low=10_000).inputs(tiny, names)


def test_headlines_are_read_at_their_period_or_at_the_token_before(tiny):
    period = tiny.tokenizer.convert_tokens_to_ids(".")
    headlines = ["the king is in oslo.", "rome is old.", "where is the port of lima."]
    for name, prompt in PROMPTS["headline"].items():
        inputs, template, pos = prompt.inputs(tiny, headlines)
        rows = capture(tiny, inputs, points="resid_post", layers=0, prompt=template, pos=pos).rows
        assert (rows["token"] == period).all() == ("wo_period" not in name)
        assert (rows["token"] == period).any() == ("wo_period" not in name)
    inputs, template, pos = Prompt("asked", "is {} old.", pos="last").inputs(tiny, headlines)
    assert (capture(tiny, inputs, prompt=template, pos=pos).rows["token"] == period).all()


# All of a table --------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def table(names):
    rng = np.random.default_rng(3)
    several = [f"{a} {b}" for a in names[:30] for b in ("river", "lake", "mount", "port")]
    value = np.array([len(n) + n.count("o") * 3 for n in several]) + rng.normal(size=len(several))
    frame = pd.DataFrame({"name": several, "value": value, "is_test": rng.random(len(several)) < 0.3})
    return Table(frame, text="name", target="value", split="is_test", name="names")


@pytest.fixture(scope="module")
def found(load_tiny, table, tmp_path_factory):
    out = tmp_path_factory.mktemp("prompts")
    return prompts(load_tiny(), table, ASKED, n_bootstrap=200, out=out, progress=False), out


@pytest.mark.slow
def test_every_prompt_reads_its_own_place(found, tiny, table):
    """Against `run_with_cache` on the whole text, at the token that the prompt names."""
    result, _ = found
    tokenizer = tiny.tokenizer
    wholes = {
        "where": [f"where is the city of {t}" for t in table.texts],
        "cut": [t[:-1] for t in table.texts],
        "period": [f"{t}." for t in table.texts],
    }
    point = "blocks.1.hook_resid_post"
    for name, whole in wholes.items():
        for i in (0, 41):
            ids = [tokenizer.bos_token_id, *tokenizer(whole[i], add_special_tokens=False)["input_ids"]]
            oracle = cached(tiny, torch.tensor([ids]))[point][0, -1]
            assert relative(result.findings[name].inputs.activations[point][i], oracle) < 1e-5
    ids, _, _ = RANDOM.inputs(tiny, table.texts)
    oracle = cached(tiny, torch.tensor([ids[7]]))[point][0, -1]
    assert relative(result.findings["random"].inputs.activations[point][7], oracle) < 1e-5


def test_random_ids_get_special_tokens_as_asked(tiny, table):
    with_bos, without = (RANDOM.inputs(tiny, table.texts[:5], bos)[0] for bos in (True, False))
    assert all(row[0] == tiny.tokenizer.bos_token_id and len(row) > 11 for row in with_bos)
    assert [row[1:] for row in with_bos] == without


@pytest.mark.slow
def test_special_tokens_are_asked_for_by_name_and_remembered(tiny, table, tmp_path):
    def ask(**bos):
        some, prompt = table.head(60, 0), {"where": "where is the city of {}"}
        return prompts(tiny, some, prompt, twins=0, n_bootstrap=20, out=tmp_path, progress=False, **bos)

    made = ask(prepend_bos=False, include_bos=False).findings["where"]
    request = made.provenance["request"]
    assert request["prepend_bos"] is request["include_bos"] is False
    for held in (made.inputs.activations, *made.inputs.baselines.features.values()):
        assert held.provenance["bos"] is False
    ids = tiny.tokenizer(f"where is the city of {made.inputs.table.texts[3]}", add_special_tokens=False)
    oracle = cached(tiny, torch.tensor([ids["input_ids"]]))["blocks.1.hook_resid_post"][0, -1]
    assert relative(made.inputs.activations["blocks.1.hook_resid_post"][3], oracle) < 1e-5
    with pytest.raises(ValueError, match="holds another capture"):
        ask()


@pytest.mark.slow
def test_one_surface_for_all_prompts(found, table):
    result, _ = found
    surfaces = {name: verdict.surface for name, verdict in result.verdicts.items()}
    assert len(set(surfaces.values())) == 1
    rivals = [f.baseline_predictions for f in result.findings.values()]
    for name in rivals[0]:
        assert all(np.array_equal(rivals[0][name].test, other[name].test) for other in rivals)
    assert {"tfidf", "twin_0", "block_0", "mean_embedding"} <= set(rivals[0])


@pytest.mark.slow
def test_what_was_taken_over_is_what_would_have_been_fitted(found):
    """The surface of the second prompt, fitted anew."""
    result, _ = found
    swept = result.findings["where"].inputs
    anew = sweep(swept.activations, swept.table, baselines=swept.baselines, n_bootstrap=200, progress=False)
    assert anew.verdict == result.verdicts["where"]


@pytest.mark.slow
def test_lines_and_differences(found):
    result, _ = found
    assert list(result.chosen["prompt"]) == list(ASKED)
    assert result.reference == "empty"
    lines = result.chosen.set_index("prompt")
    assert lines.loc["random", "tokens"] == lines.loc["empty", "tokens"] + 10
    assert lines.loc["empty", ["difference", "p"]].isna().all()
    for name in set(ASKED) - {"empty"}:
        expected = lines.loc[name, "test_r2"] - lines.loc["empty", "test_r2"]
        assert lines.loc[name, "difference"] == pytest.approx(expected, abs=1e-9)
        assert lines.loc[name, "diff_low"] <= expected <= lines.loc[name, "diff_high"]
        assert lines.loc[name, "p"] <= lines.loc[name, "p_holm"] <= 1
    assert len(result.layers) == 3 * len(ASKED)
    assert result.layers.groupby("prompt")["chosen"].sum().tolist() == [1] * len(ASKED)
    best = result.chosen.sort_values("validation").iloc[-1]["prompt"]
    assert result.summary().startswith(f"best prompt {best!r}")


@pytest.mark.slow
def test_called_again_nothing_is_run(found, load_tiny, table, monkeypatch):
    result, out = found
    model = load_tiny()

    def forbidden(*_args, **_kwargs):
        raise AssertionError("the model was run again")

    monkeypatch.setattr(model, "forward", forbidden)
    monkeypatch.setattr("graticule.probes.generalisation.prompts.sweep", forbidden)
    again = prompts(model, table, ASKED, n_bootstrap=200, out=out, progress=False)
    assert again.summary() == result.summary()


@pytest.mark.slow
def test_the_result_is_saved_whole(found, tmp_path):
    result, _ = found
    result.save(tmp_path / "result")
    loaded = Prompts.load(tmp_path / "result")
    assert loaded.summary() == result.summary()
    assert loaded.verdicts == result.verdicts
    pd.testing.assert_frame_equal(loaded.layers, result.layers)
    assert loaded.findings == {}
    assert list(loaded.figures()) == list(result.figures())
    assert not any(map(misread_axes, loaded.figures().values()))
    assert len(next(iter(loaded.tables().values()))) == len(ASKED)


def test_what_does_not_fit_is_said_before_the_model_runs(tiny, table, monkeypatch):
    monkeypatch.setattr(tiny, "forward", None)
    with pytest.raises(ValueError, match="reference 'coords'"):
        prompts(tiny, table, {"empty": ""}, reference="coords")
    with pytest.raises(ValueError, match="one slot"):
        prompts(tiny, table, {"bad": "{} {}"})
    short = Table.from_arrays(table.y, [*table.texts[:-1], "a"], table.is_test)
    with pytest.raises(ValueError, match="leaves nothing"):
        prompts(tiny, short, {"empty": "", "cut": ASKED["cut"]})
    bare = Table.from_arrays(table.y, is_test=table.is_test)
    with pytest.raises(ValueError, match="no texts"):
        prompts(tiny, bare)


@pytest.mark.slow
def test_a_vocabulary_too_small_for_random_ids(tiny, caplog):
    """They, and capitals, are left out of the table's own and told; asked for, they are refused."""
    rng = np.random.default_rng(0)
    texts = [f"{a} {b}" for a in "abcdefgh" for b in "klmnop"]
    letters = Table.from_arrays(rng.normal(size=48), texts, np.arange(48) % 3 == 2)
    highest = max(int(row.max()) for row in tokenize(tiny, texts).ids)
    told = f"random ids are drawn from 100 up to the entities' largest token id, which is {highest}"
    result = prompts(tiny, letters, twins=0, n_bootstrap=20, layers=[0], progress=False)
    assert list(result.words) == ["empty"]
    assert f"prompt 'random' is left out: {told}" in caplog.text
    assert "prompt 'empty_all_caps' is left out: all 48 texts are the same tokens" in caplog.text
    with pytest.raises(NotApplicable, match=told):
        prompts(tiny, letters, ["empty", "random"], twins=0, n_bootstrap=20, layers=[0], progress=False)


@pytest.mark.slow
def test_rows_alike_under_one_prompt_are_linked_under_all(tiny):
    """Names that differ in their last letter are one row without it, so they share a cluster everywhere."""
    rng = np.random.default_rng(0)
    names = [f"{a} {b}x" for a in ("paris", "oslo", "lima", "rome") for b in "abcdefghijkl"]
    names[1] = names[0][:-1] + "y"
    frame = pd.DataFrame({"name": names, "y": rng.normal(size=48), "is_test": np.arange(48) % 3 == 2})
    table = Table(frame, text="name", target="y", split="is_test")
    result = prompts(tiny, table, {"empty": "", "cut": ASKED["cut"]}, twins=0, n_bootstrap=50, progress=False)
    plain = capture(tiny, names, progress=False).rows["same_tokens_as"]
    assert plain[1] != plain[0]
    for findings in result.findings.values():
        clusters = findings.inputs.problem.clusters
        assert clusters[0] == clusters[1]
        assert len(set(clusters)) == 47


# Transfer --------------------------------------------------------------------------------------------
def _moved(world, change):
    tensors = {p: change(world.activations[p].double()).float() for p in world.activations.points}
    return sweep(
        Activations.from_tensors(tensors),
        world.table,
        baselines=world.baselines,
        progress=False,
        n_bootstrap=50,
    )


@pytest.fixture(scope="module")
def three():
    """One prompt; the same moved by an offset; the same turned."""
    world = planted(surface=0.3, hidden=0.5, n_targets=2, seed=1)
    rng = np.random.default_rng(0)
    offset = torch.from_numpy(rng.normal(size=32)) * 3
    turn = torch.from_numpy(np.linalg.qr(rng.normal(size=(32, 32)))[0])
    return {
        "plain": _moved(world, lambda x: x),
        "offset": _moved(world, lambda x: x + offset),
        "turned": _moved(world, lambda x: x @ turn),
    }


@pytest.mark.slow
def test_an_offset_is_taken_out_by_the_shift_and_a_rotation_is_not(three):
    result = transfer(three, n_bootstrap=200)
    raw, shifted = result.matrix("r2"), result.matrix("shifted_r2")
    own = raw.loc["plain", "plain"]
    assert own > 0.6
    assert raw.loc["plain", "offset"] < own - 0.2
    assert shifted.loc["plain", "offset"] == pytest.approx(own, abs=1e-3)
    assert result.matrix("spearman").loc["plain", "offset"] == pytest.approx(
        result.matrix("spearman").loc["plain", "plain"], abs=1e-3
    )
    assert shifted.loc["plain", "turned"] < 0.3
    assert np.diag(raw) == pytest.approx(np.diag(shifted))
    cell = result.cells.iloc[0]
    assert cell["low"] < cell["r2"] < cell["high"]
    assert result.point in three["plain"].probes


@pytest.mark.slow
def test_transfer_by_its_definition(three):
    """Moving the activations and predicting, where the code moves the predictions."""
    point = "blocks.3.hook_resid_post"
    result = transfer({k: three[k] for k in ("plain", "turned")}, hook_name=point, n_bootstrap=50)
    a, b = three["turned"].inputs, three["plain"].inputs
    train, test = a.problem.train, a.problem.test
    gap = a.rows(point, train).mean(0) - b.rows(point, train).mean(0)
    predicted = three["plain"].probes[point].predict(a.rows(point, test) - gap)
    y = a.problem.y[test]
    expected = 1 - ((y - predicted) ** 2).sum(0) / ((y - y.mean(0)) ** 2).sum(0)
    assert result.matrix("shifted_r2").loc["plain", "turned"] == pytest.approx(expected.mean(), abs=1e-9)


@pytest.mark.slow
def test_transfer_is_saved_and_drawn(three, tmp_path):
    result = transfer(three, n_bootstrap=50)
    result.save(tmp_path / "transfer")
    loaded = Transfer.load(tmp_path / "transfer")
    assert loaded.summary() == result.summary()
    pd.testing.assert_frame_equal(loaded.cells, result.cells)
    assert len(loaded.figures()) == 2
    assert len(next(iter(loaded.tables().values()))) == 9
    own, others = result.average()
    assert own > others


@pytest.mark.slow
def test_transfer_needs_the_same_rows(three):
    with pytest.raises(ValueError, match="two prompts"):
        transfer({"plain": three["plain"]})
    with pytest.raises(KeyError, match=r"blocks\.9"):
        transfer(three, hook_name="blocks.9.hook_resid_post")
    other = planted(n_targets=2, seed=5)
    findings = sweep(
        other.activations, other.table, baselines=other.baselines, progress=False, n_bootstrap=50
    )
    with pytest.raises(ValueError, match="other rows"):
        transfer({"plain": three["plain"], "other": findings})
    with pytest.raises(ValueError, match="with_inputs"):
        transfer({"plain": three["plain"], "bare": replace(three["plain"], swept=None)})


def test_transfer_of_prompts_that_were_loaded_says_where_their_findings_are():
    with pytest.raises(ValueError, match=r"got 0: findings are not saved with Prompts; .*FOLDER/PROMPT"):
        transfer({})
