"""What is asked of a simulation: a world of one's own, numbers that stand for others, and mistaken calls."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import as_installed

import graticule
from graticule.certificate import certify
from graticule.certificate.learners import Plan
from graticule.cli import main
from graticule.results import load_result
from graticule.sims.contexts import Contexts
from graticule.sims.papers.curves import loss_curve_figure
from graticule.sims.papers.reproduce import reproduce
from graticule.sims.papers.setting import Setting
from graticule.sims.papers.simulate import simulate
from graticule.sims.training.lookup import train_tables
from graticule.sims.training.settings import Training
from graticule.sims.truth.steering import concept_lines
from graticule.sims.world import World
from graticule.sims.worlds import RestrictedWorld

WORLD = World.random(4, seed=3)
QUICK: dict[str, Any] = {"runs": 2, "nulls": 0, "n_points": 2, "progress": False}


@pytest.mark.slow
def test_a_world_of_ones_own_is_what_every_run_learns(tmp_path: Path) -> None:
    """The same means as training on it by hand; another world of the same shape is another simulation."""
    found = simulate(WORLD, steps=300, out=tmp_path, **QUICK)
    by_hand = Training(dim=4, steps=300, seed=(0, 1), log_every=300)
    lines = concept_lines(train_tables([Contexts.complete(WORLD)] * 2, by_hand, progress=False))
    for view in ("unembedding", "embedding", "mixed"):
        assert found.settings[view].item() == pytest.approx(
            lines.groupby("run")[view].mean().mean(), abs=1e-6
        )
    assert set(map(tuple, found.edges[["parent", "child"]].to_numpy())) == set(WORLD.graph.edges)

    turned = World(WORLD.graph, tuple(table[..., ::-1] for table in WORLD.tables))
    both = simulate([WORLD, turned], steps=300, out=tmp_path, **QUICK)
    assert both.settings["loss"].iloc[0] == found.settings["loss"].item()
    assert both.settings["setting"].nunique() == 2
    assert len(list(tmp_path.iterdir())) == 2
    three = World.on(World.chain(2).graph, values=3)  # more values than two
    assert len(simulate(three, steps=20, **QUICK).concepts) == 2 * 2 * 3


def test_worlds_that_differ_in_what_is_kept_are_different_certificates() -> None:
    few = [RestrictedWorld.drawn(WORLD, 0.5, seed) for seed in (0, 1)]
    prints = {certify._fingerprint(world, Plan()) for world in (WORLD, *few)}
    assert len(prints) == 3


@pytest.mark.slow
def test_updates_on_the_exact_gradient_are_told_in_those_that_were_asked_for(
    tmp_path: Path, capsys: Any, caplog: Any
) -> None:
    """`--steps` count SGD's: at m = 4 (learning rate 2) one on the exact gradient stands for 20."""
    command = ["sim", "--concepts", "4", "--seeds", "1", "--steps", "400", "--optimizer", "population"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    told = (
        "20 updates on the exact gradient, at learning rate 2: as much learning rate × updates as 400 of SGD"
    )
    assert told in capsys.readouterr().out
    assert told in load_result(tmp_path / "result").summary()
    assert told in (tmp_path / "report.html").read_text(encoding="utf-8")
    with caplog.at_level(logging.INFO, "graticule"):
        simulate(Setting(4, steps=400), optimizer="population", **QUICK)
    assert "2 runs of 20 updates on the exact gradient" in caplog.text
    assert "nats above its floor after 20 updates (steps= counts those of SGD)" in caplog.text
    assert repr(WORLD) == f"World: {WORLD.m} concepts of 2 values, {len(WORLD.graph.edges)} edges"
    assert "of SGD" not in simulate(Setting(4, steps=10), **QUICK).summary()
    assert main(["sim", "--help"]) == 0
    assert "count SGD's" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_no_updates_are_none_in_every_reproduction() -> None:
    found = reproduce("scales", runs=1, steps=0, concepts=3, optimizer="sgd", progress=False)
    assert set(found.settings["updates"]) == {0}


def test_a_loss_that_hardly_falls_has_numbers_on_its_axis() -> None:
    """Where no power of ten, nor twice or five times one, lies in what is drawn, plotly finds its own."""
    curves = pd.DataFrame({"setting": "a", "step": [1, 10, 50], "gap": [1.81, 1.7, 1.66], "gap_se": 0.01})
    assert loss_curve_figure(curves).layout.yaxis.tickvals is None
    falling = curves.assign(gap=[2.0, 0.3, 0.01])
    assert 0.1 in loss_curve_figure(falling).layout.yaxis.tickvals


CALLS = {
    "a number for a world": (lambda: World(4), r"World: graph is 4; .*: graticule\.World\.random\(4\)$"),
    "a number for its tables": (lambda: World(WORLD.graph, 3), r"tables is 3; expected"),
    "a word for concepts": (lambda: World.random("4"), r"m='4': expected a whole number of at least 1"),
    "half a concept": (lambda: World.dense(2.5), r"m=2\.5"),
    "a misspelt bound": (lambda: World.random(4, lo=0.3), r"'lo'; it takes World\.on\(graph, …\); .*low\?"),
    "a word for a bound": (lambda: World.random(4, low="a"), r"low='a'"),
    "a number for a graph": (lambda: World.on(4), r"World\.on: graph is 4"),
    "a seed in words": (lambda: World.on(WORLD.graph, seed="x"), r"seed is 'x'; .* numpy Generator"),
    "theorems of a number": (lambda: graticule.theorems(3), r"world is 3; expected a graticule\.World"),
    "a learner of another kind": (lambda: graticule.theorems(WORLD, learned=3), r"learned is 3; expected"),
    "a number to simulate": (lambda: simulate(4), r"simulate\(graticule\.World\.random\(4\)\)$"),
    "a word to simulate": (lambda: simulate("4"), r"settings is '4'; expected a World, a Setting"),
    "a number among worlds": (lambda: simulate([WORLD, 3]), r"settings is a list; expected"),
    "runs in words": (lambda: simulate(WORLD, runs="3"), r"runs='3'"),
    "points in words": (lambda: simulate(WORLD, n_points="3"), r"points is '3'"),
    "too large a world": (lambda: simulate(World.random(17, 0.1)), r"concepts=17: .* at most 16"),
    "a graph beside a world": (lambda: simulate(Setting.on(WORLD, graph="chain")), r"graph='chain' for a"),
    "concepts beside a world": (lambda: Setting(3, given=WORLD), r"concepts=3 for a world of 4"),
    "a setting in words": (lambda: Setting("4"), r"concepts='4'"),
    "a width in words": (lambda: Setting(dim="4"), r"dim='4': expected a whole number"),
    "training in words": (lambda: Training(steps="4"), r"steps='4'"),
    "a table by number": (lambda: reproduce(1), r"name=1: expected one of '1', '2'"),
    "no such row": (lambda: reproduce("1", concepts=9), r"no row of 1 has \[9\] concepts"),
    "contexts of a number": (lambda: Contexts.complete(4), r"world is 4; expected a graticule\.World"),
    "hidden in words": (lambda: Contexts.complete(WORLD, hidden="a"), r"hidden is 'a'; .*: \(0, 1\)$"),
    "a certificate of a word": (lambda: graticule.certify("x"), r"certify: world is 'x'; expected"),
    "a plan that is none": (lambda: graticule.certify(WORLD, plan=3), r"plan is 3; expected a Plan"),
}  # fmt: skip


@pytest.mark.parametrize("what", CALLS)
def test_a_mistaken_call_is_told_in_one_line(what: str) -> None:
    call, told = CALLS[what]
    with as_installed(), pytest.raises((TypeError, ValueError), match=told) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_what_a_world_is_made_of_may_come_from_a_generator() -> None:
    drawn = World.on(WORLD.graph, seed=np.random.default_rng(5))
    assert drawn.same_as(World.on(WORLD.graph, seed=5))
    assert Contexts.complete(WORLD, hidden=(0,)).masks[:, 0].sum() == 0
