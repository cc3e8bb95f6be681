"""`save` of every kind of result: the same question takes the folder again, another one is refused."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import SINCE

from graticule import (
    Activations,
    Outcome,
    Table,
    ablate,
    attribute,
    baselines,
    capture,
    classes,
    compare,
    directions,
    erase,
    holdouts,
    mlp,
    pca,
    popularity,
    steer,
    sweep,
    trace,
    transfer,
)
from graticule.hooks.artifact import json_ready
from graticule.hooks.result import _JUDGED, question_of
from graticule.probes.layer_band import layer_band
from graticule.results import RESULTS, load_result

POINTS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
SAVED_BY_ITSELF = {"sae_run", "certificate_part"}
"""A run writes as it trains; parts of a certificate lie in none of the folders of 0.1."""


def changed(value):
    return (
        type(value)(f"{one} another" for one in value or [""])
        if isinstance(value, list | tuple)
        else f"{value} another"
    )


def _name_in(value) -> list:
    return [value["name"]] if isinstance(value, Mapping) and set(value) == {"name"} else []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", sorted(RESULTS.keys() - SAVED_BY_ITSELF - SINCE))
def test_settings_of_every_kind(folders, tmp_path, kind) -> None:
    """Whatever a provenance says was asked, in a folder of 0.1 of every kind; another judgement is none."""
    one = load_result(folders / kind)
    assert is_dataclass(one)
    place = one.save(tmp_path / kind)
    one.save(place)
    settings = one.provenance.get("settings")
    settings = dict(settings) if isinstance(settings, Mapping) else {}
    judged = {name: changed(value) for name, value in settings.items() if name in _JUDGED}
    replace(one, provenance={**one.provenance, "settings": {**settings, **judged}}).save(place)
    others = [
        replace(one, provenance={**one.provenance, "settings": {**settings, name: changed(value)}})
        for name, value in settings.items()
        if name not in _JUDGED
    ]
    asked = question_of(one)  # a field that says what the provenance says is changed with it alone
    names = [f.name for f in fields(one) if f.name in ("model", "target_names", "point", "column")]
    names = [
        name for name in names if json_ready(getattr(one, name)) in (asked[name], *_name_in(asked[name]))
    ]
    names = [name for name in names if name not in settings and name not in one.provenance]
    others += [replace(one, **{name: changed(getattr(one, name))}) for name in names]
    for other in others:
        with pytest.raises(FileExistsError, match=r"answers another question .*overwrite=True") as told:
            other.save(place)
        assert "\n" not in str(told.value)
    if others:
        others[0].save(place, overwrite=True)


# Made anew -------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    words = np.array(["paris", "rome", "oslo", "lima", "cairo"])
    texts = [f"{words[i % 5]} {words[i // 5 % 5]} {i}" for i in range(60)]
    value = rng.normal(size=60)
    return pd.DataFrame(
        {
            "name": texts,
            "value": value,
            "other": rng.normal(size=60),
            "yes": value > 0,
            "country": words[rng.integers(0, 3, 60)],
            "town": words[rng.integers(0, 3, 60)],
            "views": rng.integers(1, 99, 60),
            "clicks": rng.integers(1, 99, 60),
            "test": np.arange(60) % 3 == 0,
        }
    )


def table_of(frame: pd.DataFrame, **changes) -> Table:
    usual = {"text": "name", "target": ["value", "other"], "split": "test", "blocks": ["country", "town"]}
    return Table(frame, **{**usual, **changes})


def judged(acts, table):
    return sweep(acts, table, baselines=baselines(None, table), n_bootstrap=20, progress=False)


@pytest.fixture(scope="module")
def found(frame):
    """Findings of made-up activations, with TF-IDF as the only baseline; of classes; and of other tokens."""
    rng = np.random.default_rng(1)
    values = {p: torch.from_numpy(rng.normal(size=(60, 6))) for p in POINTS}
    acts = Activations.from_tensors(values)
    prompted = Activations.from_tensors(values, provenance={"prompt": "the {}", "pos": "last"})
    tables = {"f": table_of(frame), "y": table_of(frame, target="yes", name="yes")}
    return {
        "f": judged(acts, tables["f"]),
        "y": judged(acts, tables["y"]),
        "p": judged(prompted, tables["f"]),
    }


FEW = {"n_bootstrap": 20}
QUICK = {"epochs": 1, "folds": 2, "decays": (0.1,)}
PAIRS = {
    "pca": (lambda f, y, p: pca(f, hook_name=POINTS[0]), lambda f, y, p: pca(f, hook_name=POINTS[1])),
    "pca, ks": (lambda f, y, p: pca(f, ks=[1]), lambda f, y, p: pca(f, ks=[1, 2])),
    "pca, prompt": (lambda f, y, p: pca(p, ks=[1]), lambda f, y, p: pca(_prompted(p, "a {}"), ks=[1])),
    "popularity": (
        lambda f, y, p: popularity(f, "views", **FEW),
        lambda f, y, p: popularity(f, "clicks", **FEW),
    ),
    "holdouts": (
        lambda f, y, p: holdouts(f, "country", minimum=2, **FEW),
        lambda f, y, p: holdouts(f, "town", minimum=2, **FEW),
    ),
    "compare": (lambda f, y, p: compare(f, f.at("tfidf")), lambda f, y, p: compare(y, y.at("tfidf"))),
    "band": (lambda f, y, p: layer_band(f, what="score"), lambda f, y, p: layer_band(f, what="gain")),
    "classes": (
        lambda f, y, p: classes(y, ks=[1], repeats=1, n_bootstrap=5),
        lambda f, y, p: classes(y, ks=[2], repeats=1, n_bootstrap=5),
    ),
    "mlp": (lambda f, y, p: mlp(f, hidden=4, **QUICK), lambda f, y, p: mlp(f, hidden=8, **QUICK)),
    "mlp, points": (
        lambda f, y, p: mlp(f, hidden=4, points=[f.chosen_point], **QUICK),
        lambda f, y, p: mlp(f, hidden=4, points=list(POINTS), **QUICK),
    ),
    "transfer": (
        lambda f, y, p: transfer({"a": f, "b": f}, hook_name=POINTS[0], **FEW),
        lambda f, y, p: transfer({"a": f, "c": f}, hook_name=POINTS[0], **FEW),
    ),
    "directions": (
        lambda f, y, p: directions(f, n_noise=2),
        lambda f, y, p: directions(f, n_noise=2, hook_name=_other_point(f)),
    ),
    "findings": (lambda f, y, p: f, lambda f, y, p: y),
}


def _prompted(findings, prompt: str):
    activations = {**findings.provenance["activations"], "prompt": prompt}
    return replace(findings, provenance={**findings.provenance, "activations": activations})


def _other_point(findings) -> str:
    return next(point for point in POINTS if point != findings.chosen_point)


def check_pair(asked, other, place: Path) -> None:
    asked().save(place)
    asked().save(place)
    with pytest.raises(FileExistsError, match=r"answers another question \(.*overwrite=True"):
        other().save(place)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_another_question_of_findings(found, tmp_path, pair) -> None:
    asked, other = pair
    check_pair(lambda: asked(**found), lambda: other(**found), tmp_path / "place")


def outcome(target: str) -> Outcome:
    return Outcome(target, "the {} is", {"a": (" north", " old"), "b": (" south", " new")}, target)


FEW_ROWS = {"rows": 4, "controls": 3, "progress": False}
RUNS = {
    "steer": (
        lambda f, m: steer(f, m, outcomes=[outcome("value")], targets="value", **FEW_ROWS),
        lambda f, m: steer(f, m, outcomes=[outcome("value")], targets="other", **FEW_ROWS),
    ),
    "steer, outcomes": (
        lambda f, m: steer(f, m, outcomes=[outcome("value")], targets="value", **FEW_ROWS),
        lambda f, m: steer(f, m, outcomes=[outcome("other")], targets="value", **FEW_ROWS),
    ),
    "ablate": (
        lambda f, m: ablate(f, m, [(1, 3)], outcomes=[outcome("value")], **FEW_ROWS),
        lambda f, m: ablate(f, m, [(2, 5)], outcomes=[outcome("value")], **FEW_ROWS),
    ),
    "erase": (lambda f, m: erase(f, m, targets="value"), lambda f, m: erase(f, m, targets="other")),
    "attribute": (
        lambda f, m: attribute(f, m, texts=["paris", "rome"], n_bootstrap=5),
        lambda f, m: attribute(f, m, texts=["oslo", "rome"], n_bootstrap=5),
    ),
    "trace": (lambda f, m: trace(f, m, "paris"), lambda f, m: trace(f, m, "rome")),
}


@pytest.fixture(scope="module")
def model(load_tiny):
    return load_tiny("llama")


@pytest.fixture(scope="module")
def read(model, frame):
    table = table_of(frame)
    return judged(capture(model, table.texts, progress=False), table)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("pair", RUNS.values(), ids=RUNS)
def test_another_question_of_a_model(read, model, tmp_path, pair) -> None:
    asked, other = pair
    check_pair(lambda: asked(read, model), lambda: other(read, model), tmp_path / "place")
