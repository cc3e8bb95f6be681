"""The rule for calls, held over everything that is exported; and every form of 0.1, which works and warns."""

import dataclasses
import inspect
import re
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import graticule
from graticule import Outcome, RidgeProbe, hub, saes
from graticule.hooks.artifact import json_ready
from graticule.hooks.result import Result
from graticule.hooks.rows import Rows
from graticule.results import RESULTS
from graticule.sims.papers.setting import Setting

NO_ANALYSIS = ("dense_truth", "learned_truth", "sparse_truth", "mean_convention", "sum_convention")
"""Calls that make planted rows or turn a number, and analyse nothing."""
FUNCTIONS: dict[str, Callable[..., Any]] = {
    f"{room.__name__}.{name}": getattr(room, name)
    for room in (graticule, saes, hub)
    for name in room.__all__
    if inspect.isfunction(getattr(room, name)) and name not in NO_ANALYSIS
}
SUBJECTS = {
    "ablate": "neurons",
    "baselines": "table",
    "capture": "inputs",
    "holdouts": "by",
    "languages": "contexts",
    "ambiguous": "contexts",
    "latents": "saes",
    "popularity": "column",
    "probe": "table",
    "prompts": "table prompts",
    "record": "points",
    "study": "table",
    "trace": "text",
    "words": "pairs",
    "evaluate": "sae corpus",
    "examine": "sae corpus",
    "compare": "a b",
    "transfer": "findings_by_prompt",
    "sweep": "activations target",
    "load_model": "name_or_path",
    "certify": "world",
    "simulate": "settings",
    "theorems": "world",
    "reproduce": "name",
    "recovery": "saes truth",
    "sae_config": "architecture d_in d_sae",
    "train": "source",
    "push": "what repo",
    "load_saved": "path",
    "directions": "others",
    "judge_on": "others",
    "token_table": "inputs labels",
    "pool": "activations table",
}
"""What a call is about, beside findings and a model: given by position too."""
NO_PROGRESS = {
    "monitor": "reads predictions that there are",
    "record": "runs nothing itself: the model's passes in its block are the user's",
    "load_model": "the libraries that read weights draw their own bars",
    "load_saved": "reads a folder",
    "token_table": "tokenises",
    "sae_config": "makes settings",
    "push": "huggingface_hub draws its own bars",
}
DRAWS_NOTHING = {
    "capture": "`Sample` has a seed of its own",
    "record": "keeps what a pass computes",
    "load_model": "reads weights",
    "judge_on": "the sweep behind it has the findings' own seed",
    "monitor": "its intervals are of formulas",
    "load_saved": "reads a folder",
    "pca": "its bootstrap has the findings' own seed",
    "sphere": "its bootstrap has the findings' own seed",
    "trace": "reads one text",
    "study": "its seed stands in its settings",
    "examine": "takes the corpus in its order",
    "sae_config": "makes settings",
    "push": "sends what there is",
}
BANNED = {
    *("held", "found", "told", "kept", "known", "shown", "said", "rivals", "material", "made_of", "again"),
    *("with_material", "arms", "arm", "draws", "point", "bench", "rig", "given", "marks"),
}
"""Words of the plan's table; `point` and `draws` were keywords of 0.1."""


def own(name: str) -> str:
    return name.rpartition(".")[2]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_findings_come_first_then_the_model_and_options_have_names(name):
    parameters = list(inspect.signature(FUNCTIONS[name]).parameters.values())
    places = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY and p.kind is not p.VAR_KEYWORD]
    subject = SUBJECTS.get(own(name), "").split()
    leading = [place for place in places if place not in subject]
    assert leading in (["findings", "model"], ["findings"], ["model"], [])
    assert places == leading + subject, f"by position: {places}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_progress_and_seed_are_everywhere(name):
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    assert ("progress" in parameters) is (own(name) not in NO_PROGRESS)
    assert ("seed" in parameters) is (own(name) not in DRAWS_NOTHING)
    if "progress" in parameters:
        assert parameters["progress"].default is None


def classes() -> list[type]:
    """Classes that are exported, results of every kind, and what these inherit from us."""
    named = [getattr(room, n) for room in (graticule, saes, hub) for n in room.__all__]
    loaded = [getattr(import_module(home), name) for home, name in (p.split(":") for p in RESULTS.values())]
    every = {b for c in [*named, *loaded] if inspect.isclass(c) for b in c.__mro__}
    return sorted((c for c in every if c.__module__.startswith("graticule.")), key=lambda c: c.__qualname__)


def methods(owner: type) -> dict[str, Callable[..., Any]]:
    found = {n: getattr(m, "__func__", m) for n, m in vars(owner).items() if not n.startswith("_")}
    return {n: m for n, m in found.items() if inspect.isfunction(m)}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_are_called_what_they_are(name):
    parameters = set(inspect.signature(FUNCTIONS[name]).parameters)
    assert not parameters & BANNED


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_is_described(name):
    said = inspect.getdoc(FUNCTIONS[name]) or ""
    parameters = inspect.signature(FUNCTIONS[name]).parameters
    assert [a for a in parameters if not re.search(rf"^ +\*{{0,2}}{a}: ", said, re.M)] == []
    assert said.index("Args:\n") > 0


BY_PLACE = {
    "at": "hook_name k sae",
    "predictions_at": "hook_name",
    "predictor": "k sae",
    "arm": "k sae",
    "coverage": "how",
    "matrix": "score",
    "average": "score",
    "fit": "clusters",
    "sae": "device",
    "select": "rows points",
    "encode": "hook_name",
    "to_saelens": "hook_name",
    "save_pretrained": "judged",
    "with_inputs": "baselines",
    "from_pretrained": "probe_id revision",
    "from_fit": "hook_name target_names units",
    "from_tensors": "rows provenance",
    "edit": "scale",
    "fwd_hooks": "scale pos",
}
"""What a method is about and can be left out: given by position too."""
OWN_WORDS = {
    "marks": "what a certificate gives",
    "known": "whether a world's concept is seen: a term of its theory",
    "given": "what two concepts are separated by: likewise",
    "point": "the column of its tables is called so too; `chosen_hook_name` and `hook_name=` name it",
}
"""Words that are names for their own sake where a class of ours has them as fields or in a world's terms."""


def public(owner: type) -> dict[str, Any]:
    """Methods, properties and fields of a class, by name, that are not there for 0.1 alone."""
    names = {n: v for n, v in vars(owner).items() if not n.startswith("_")}
    names |= {f.name: f for f in dataclasses.fields(owner)} if dataclasses.is_dataclass(owner) else {}
    return {n: v for n, v in names.items() if not (inspect.getdoc(v) or "").startswith("The old name of")}


@pytest.mark.parametrize("owner", classes(), ids=lambda c: c.__qualname__)
def test_methods_fields_and_properties_are_called_what_they_are(owner):
    assert not public(owner).keys() & (BANNED - OWN_WORDS.keys())
    for name, method in methods(owner).items():
        if name in public(owner):
            allowed = (
                OWN_WORDS.keys() - {"point"} if owner.__module__.startswith("graticule.sims.") else set()
            )
            assert not set(inspect.signature(method).parameters) & (BANNED - allowed), name


@pytest.mark.parametrize("owner", [c for c in classes() if issubclass(c, Result | Rows | RidgeProbe)])
def test_options_of_methods_have_names(owner):
    for name, method in methods(owner).items():
        parameters = inspect.signature(method).parameters.values()
        options = {
            p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is not p.empty
        }
        assert options <= set(BY_PLACE.get(name, "").split()), name


# The forms of 0.1 ------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def made(load_tiny, tmp_path_factory) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    words = ["paris", "rome", "oslo", "lima", "cairo", "river", "king", "lake"]
    picked, values = rng.integers(0, 8, (60, 2)), rng.normal(size=8)
    frame = pd.DataFrame(
        {
            "name": [f"{words[a]} {words[b]} {i % 7}" for i, (a, b) in enumerate(picked)],
            "y": values[picked[:, 0]] + 0.5 * values[picked[:, 1]],
            "views": rng.integers(1, 99, 60),
            "kind": np.where(rng.random(60) < 0.5, "hill", "valley"),
        }
    )
    model = load_tiny("llama", "hooked")
    table = graticule.Table(frame, text="name", target="y", blocks=["kind"])
    acts = graticule.capture(model, table.texts, layers=[0, 1], progress=False)
    beside = graticule.baselines(None, table)
    findings = graticule.sweep(acts, table, baselines=beside, n_bootstrap=20, progress=False)
    pairs = list(zip(words[:4], words[4:], strict=True))
    return {
        "m": model,
        "t": table,
        "a": acts,
        "b": beside,
        "f": findings,
        "p": findings.chosen_point,
        "ask": [Outcome("river or lake", "{} is", {"river": ("river",), "lake": ("lake",)}, "y")],
        "few": {"rows": 4, "controls": 2, "progress": False},
        "tmp": tmp_path_factory.mktemp("face"),
        "pairs": {"city ⇒ other": pairs, "other ⇒ city": [(b, a) for a, b in pairs]},
        "kinds": graticule.Table(frame.assign(warm=(frame["y"] > 0) * 1), text="name", target="warm"),
    }


def an_sae(point: str) -> Any:
    from sae_lens import TopKSAE, TopKSAEConfig

    torch.manual_seed(0)
    config = TopKSAEConfig(d_in=32, d_sae=16, k=4)
    config.metadata.hook_name = point
    return TopKSAE(config)


def cached(model: Any, texts: Any) -> Any:
    return model.run_with_cache(list(texts))[1]


def recorded(model: Any, texts: Any) -> Any:
    """A recording whose points and positions are given by position."""
    with graticule.record(model, "resid_post", -1) as recording:
        model(list(texts))
    return recording.activations


QUIET = {"progress": False}
SLOW = {"ablate", "causes", "classes", "latents", "study", "theorems"}
"""Calls of more than half a second."""
OLD: dict[str, tuple[Callable[..., Any], str]] = {
    "capture": (lambda m, t, **_: graticule.capture(m, t.texts[:3], "resid_post", [0], "all"), "points="),
    "sweep": (lambda a, t, b, **_: graticule.sweep(a, t, b, n_bootstrap=20, **QUIET), "baselines="),
    "sweep, draws": (lambda a, t, **_: graticule.sweep(a, t, draws=20, **QUIET), "n_bootstrap="),
    "baselines": (lambda t, **_: graticule.baselines(None, t, 0), "twins="),
    "trace": (lambda m, f, **_: graticule.trace(m, f, "paris king"), r"trace\(findings, model\)"),
    "trace, point": (lambda m, f, p, **_: graticule.trace(f, m, "paris king", point=p), "hook_name="),
    "attribute": (lambda m, f, **_: graticule.attribute(m, f, ["paris king"], "head"), "texts=, unit="),
    "erase, point": (lambda f, p, **_: graticule.erase(f, point=p, **QUIET), "hook_name="),
    "compare": (lambda f, **_: graticule.compare(f, f, draws=20), "n_bootstrap="),
    "pca": (lambda f, p, **_: graticule.pca(f, point=p, ks=2), "hook_name="),
    "popularity": (lambda f, **_: graticule.popularity(f, "views", strata=2, draws=20), "n_bootstrap="),
    "directions": (lambda f, **_: graticule.directions(f, draws=3, **QUIET), "n_noise="),
    "steer": (lambda m, f, ask, few, **_: graticule.steer(f, m, ask, scales=(-2.0, 2.0), **few), "outcomes="),
    "steer, the model first": (
        lambda m, f, ask, few, **_: graticule.steer(m, f, outcomes=ask, scales=(-2.0, 2.0), **few),
        r"steer\(findings, model\)",
    ),
    "ablate": (
        lambda m, f, ask, few, **_: graticule.ablate(m, f, [(0, 1)], ask, values=(-2.0, 2.0), **few),
        "outcomes=",
    ),
    "causes": (
        lambda m, f, ask, few, p, **_: graticule.causes(
            f, m, outcomes=ask, point=p, scales=(-2.0, 2.0), **few
        ),
        "hook_name=",
    ),
    "neurons": (
        lambda m, f, **_: graticule.neurons(m, f, top=2, rotations=9, permutations=5, **QUIET),
        r"neurons\(findings, model\)",
    ),
    "classes": (
        lambda a, kinds, **_: graticule.classes(
            graticule.sweep(a, kinds, n_bootstrap=20, **QUIET), (1,), repeats=1, n_bootstrap=20, **QUIET
        ),
        "ks=",
    ),
    "latents": (
        lambda f, p, **_: graticule.latents(f, an_sae(p), ks=(1,), top=2, draws=1, **QUIET),
        "n_random=",
    ),
    "holdouts": (lambda f, **_: graticule.holdouts(f, "kind", minimum=3, draws=20, **QUIET), "n_bootstrap="),
    "words": (
        lambda m, pairs, **_: graticule.words(
            m, pairs, metrics=["euclidean"], draws=50, n_random=50, **QUIET
        ),
        "n_bootstrap=",
    ),
    "languages": (
        lambda m, pairs, **_: graticule.languages(
            m,
            {"a": ["paris", "king"], "b": ["rome", "lake"]},
            pairs,
            metrics=["euclidean"],
            n_bootstrap=50,
            n_random=50,
            **QUIET,
        ),
        "pairs=",
    ),
    "record": (lambda m, t, **_: recorded(m, t.texts[:2]), "pos="),
    "from_cache": (
        lambda m, t, **_: graticule.Activations.from_cache(cached(m, t.texts[:1]), -1),
        "pos=",
    ),
    "study": (
        lambda m, t, tmp, **_: graticule.study(m, t, tmp / "study", only="pca", pages=False, **QUIET),
        "out=",
    ),
    "simulate": (
        lambda **_: graticule.simulate(Setting(3, steps=20), runs=1, nulls=2, points=3, **QUIET),
        "n_points=",
    ),
    "theorems": (
        lambda **_: graticule.theorems(graticule.World.random(3, seed=1), 0, steps=5, **QUIET),
        "seed=",
    ),
    "transfer": (lambda f, **_: graticule.transfer({"one": f, "two": f}, draws=20), "n_bootstrap="),
}


@pytest.mark.parametrize("old", [pytest.param(old, marks=[pytest.mark.slow] * (old in SLOW)) for old in OLD])
def test_a_call_written_for_0_1_works_and_names_the_new_form(made, old):
    call, now = OLD[old]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert call(**made) is not None
    told = [str(one.message) for one in caught if "goes in 0.3" in str(one.message)]
    assert any(re.search(now, message) for message in told), told
    assert all(one.filename == __file__ for one in caught if "goes in 0.3" in str(one.message))


def warned(call: Callable[[], Any], now: str) -> Any:
    """What a call gives, which says what its form is called now."""
    with pytest.warns(DeprecationWarning, match=now):
        return call()


def test_settings_take_and_show_the_resamples_under_both_names():
    settings = warned(
        lambda: graticule.JudgeSettings(draws=70, seed=3), r"JudgeSettings\(draws=\).*n_bootstrap="
    )
    assert settings == graticule.JudgeSettings(n_bootstrap=70, seed=3)
    assert warned(lambda: settings.draws, "JudgeSettings.draws is the old name of n_bootstrap") == 70
    assert json_ready(settings)["draws"] == 70  # as folders of today and of 0.1 have it
    assert graticule.JudgeSettings.from_json(json_ready(settings)) == settings
    with pytest.raises(TypeError, match="give one of them"):
        graticule.JudgeSettings(draws=70, n_bootstrap=70)


def test_hook_points_of_methods_are_hook_names_and_options_have_names(made, tmp_path):
    a, f, p = made["a"], made["f"], made["p"]
    first = np.arange(2)
    assert warned(lambda: a.gather(point=p, index=first), "hook_name=").equal(a.gather(p, first))
    assert warned(lambda: f.at(point=p), "hook_name=").name == f.at(hook_name=p).name == f.at(p).name
    assert warned(lambda: f.point_of(point=p), "hook_name=") == f.point_of(p)
    warned(lambda: a.to_saelens(tmp_path / "point", point=p), "hook_name=")
    warned(lambda: a.to_saelens(tmp_path / "size", p, 1), "context_size=")
    for saved in (a, f, f.probe, graticule.compare(f, f, n_bootstrap=20)):
        folder = tmp_path / type(saved).__name__
        saved.save(folder)
        warned(lambda saved=saved, folder=folder: saved.save(folder, True), "overwrite=")
    assert warned(lambda: f.inputs.draws, "n_bootstrap") == f.inputs.n_bootstrap == 20


@pytest.mark.slow
def test_a_model_stands_after_the_first_findings_and_before_it_warns(made):
    model, f = made["m"], made["f"]
    calls = {"directions": {"n_noise": 2, "progress": False}}
    for name, options in calls.items():
        call = getattr(graticule, name)
        named = call(f, f, model=model, **options)
        after = call(f, model, f, **options)
        pd.testing.assert_frame_equal(named.ranks, after.ranks)
        assert named.geometries == after.geometries and "causal" in named.geometries
        first = warned(
            lambda call=call, options=options: call(model, f, f, **options), r"\(findings, model\)"
        )
        assert first.geometries == named.geometries


@pytest.mark.slow
def test_a_point_is_named_by_its_layer_wherever_a_hook_name_is(made):
    f, p = made["f"], ("resid_post", 0)
    full = "blocks.0.hook_resid_post"
    assert f.point_of(p) == full and f.at(p).name == f.at(full).name
    assert graticule.trace(f, made["m"], "paris", hook_name=p).chosen == full
    assert graticule.holdouts(f, "kind", minimum=3, hook_name=p, n_bootstrap=20, **QUIET).point == full
    assert graticule.popularity(f, "views", strata=2, hook_name=p, n_bootstrap=20).point == full
    assert graticule.transfer({"one": f, "two": f}, hook_name=p, n_bootstrap=20).point == full
    assert graticule.attribute(f, made["m"], texts=["paris king"], hook_name=p, **QUIET).point == full
    assert graticule.pca(f, hook_name=p, ks=2).point == full
    assert graticule.directions(f, hook_name=p, n_noise=2, **QUIET).point == full
    assert made["a"].encode(an_sae("elsewhere"), p).point == full
    with pytest.raises(KeyError, match=r"^no probe at 'blocks\.7\.hook_resid_post'; there are probes at"):
        graticule.erase(f, hook_name=("resid_post", 7), points=("resid_post", 7))


def test_a_baseline_is_compared_by_its_name(made):
    f = made["f"]
    tfidf = f.at("tfidf")
    assert np.array_equal(tfidf.predictions, f.inputs.baseline_predictions["tfidf"].test)
    result = graticule.compare(f, tfidf, n_bootstrap=20)
    assert result.b == "tfidf" and result.rows == len(tfidf.y)


@pytest.mark.slow
def test_one_string_is_one_entry(made):
    f, p = made["f"], made["p"]
    assert f.points_of(p) == f.points_of(("resid_post", int(p.split(".")[1]))) == [p]
    assert f.points_of("resid_post") == f.points_of(None) == list(f.probes)
    assert list(graticule.erase(f, points=p, targets="y", **QUIET).layers["point"]) == [p]
    small = {"hidden": 4, "decays": [0.1], "epochs": 1, "folds": 2}
    assert list(graticule.mlp(f, points=p, **small, **QUIET).layers["point"]) == [p]
    words = graticule.words(
        made["m"], made["pairs"], metrics="euclidean", n_bootstrap=50, n_random=50, **QUIET
    )
    assert words.metrics == ("euclidean",)


def test_the_chosen_point_has_its_full_name_under_both_names(made):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert made["f"].chosen_hook_name == made["f"].chosen_point == made["p"]


def test_bos_is_among_the_positions_where_it_is_said_alone(made):
    """One meaning of `pos` and `include_bos` for a capture and a recording of the same tokens."""
    model, texts = made["m"], list(made["t"].texts[:2])
    for bos in (True, False):
        captured = graticule.capture(model, texts[:1], layers=[0], pos="all", include_bos=bos, progress=False)
        with graticule.record(model, "resid_post", layers=[0], include_bos=bos) as recording:
            model(texts[:1])
        assert list(captured.rows["position"]) == list(recording.activations.rows["position"])
        assert (0 in list(captured.rows["position"])) is bos


def test_ends_of_intervals_are_low_and_high(made):
    """Columns of intervals, over the tables of some results."""
    f = made["f"]
    results = [graticule.compare(f, f, n_bootstrap=20), graticule.pca(f, ks=2)]
    results.append(graticule.popularity(f, "views", strata=2, n_bootstrap=20))
    for result in results:
        for value in vars(result).values():
            if isinstance(value, pd.DataFrame):
                names = {str(c) for c in value.columns}
                assert not names & {"lower", "upper", "ci_low", "ci_high", "from", "to"}
                assert ("low" in names) is ("high" in names)
