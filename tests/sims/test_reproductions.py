"""Simulations and reproductions: their numbers against the tables they come from, and the paper's trends."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from graticule.sims.papers import simulate as module
from graticule.sims.papers.reproduce import TABLES, reproduce
from graticule.sims.papers.setting import Setting
from graticule.sims.papers.simulate import MEASURED, behind, runs_of, simulate
from graticule.sims.papers.simulation import TITLES, Simulation
from graticule.sims.training.lookup import train_tables
from graticule.sims.truth.steering import VIEWS, Flips, concept_lines, steering_of

from ..helpers import misread_axes


@pytest.fixture(scope="module")
def simulation():
    settings = [
        Setting(3, steps=4000).by("population"),
        Setting(3, steps=4000, scale=0.1).by("population"),
        Setting(4, dim=6, steps=300, masks=3, vector_share=0.75),
    ]
    return simulate(settings, runs=3, seed=5, nulls=5, n_points=4, progress=False)


@pytest.mark.slow
def test_a_setting_is_measured_as_its_runs_are(simulation):
    """Whatever it was trained beside: the same as training the setting alone, run by run."""
    setting = Setting(3, steps=4000, scale=0.1).by("population")
    contexts = [setting.contexts(seed) for seed in (5, 6, 7)]
    learned = train_tables(contexts, setting.training((5, 6, 7), (0.1,) * 3, 4), progress=False)
    runs = concept_lines(learned).groupby("run").mean()
    line = simulation.settings.iloc[1]
    for view in VIEWS:
        assert line[view] == pytest.approx(runs[view].mean(), abs=1e-3)
        assert line[f"{view}_se"] == pytest.approx(runs[view].std(ddof=1) / 3**0.5, abs=1e-3)
    assert line["loss"] == pytest.approx(learned.loss[-1].mean(), abs=1e-4)
    assert line["floor"] == pytest.approx(np.mean([c.entropy_floor for c in contexts]))
    assert line["gap"] == pytest.approx(line["loss"] - line["floor"])


@pytest.mark.slow
def test_a_run_that_stays_on_a_plateau_is_told():
    """Seed 7 at m = 7 does so on the exact gradient at every learning rate, its neighbours do not."""
    found = simulate(Setting(7).by("population"), runs=3, seed=6, nulls=0, n_points=2, progress=False)
    runs = found.concepts.groupby("run")["unembedding"].mean()
    assert runs.iloc[1] < 0.9 < 0.98 < min(runs.iloc[0], runs.iloc[2])
    assert found.settings["behind"].tolist() == [1]
    assert "3 runs, 1 far above the others' loss" in found.summary()
    assert not behind(np.array([0.1, 0.11, 0.14])).any()  # all alike: nothing is told
    assert behind(np.array([0.01, 0.01, 0.07])).tolist() == [False, False, True]


@pytest.mark.slow
def test_a_stopped_simulation_goes_on_after_the_last_setting_done(tmp_path, monkeypatch):
    """The second batch is stopped; the same call trains it alone, and gives what a whole one does."""
    settings = [Setting(3, dim=d, scale=s, steps=300) for d in (3, 4) for s in (1.0, 0.1)]
    how = {"runs": 2, "nulls": 3, "n_points": 2, "progress": False}
    whole = simulate(settings, **how)
    learn, asked = module._learn, []

    def stopped(members, *rest):
        asked.append([(m.width, m.scale) for m in members])
        if members[0].width == 4 and len(asked) == 2:
            raise KeyboardInterrupt
        return learn(members, *rest)

    monkeypatch.setattr(module, "_learn", stopped)
    with pytest.raises(KeyboardInterrupt):
        simulate(settings, out=tmp_path, **how)
    found = simulate(settings, out=tmp_path, **how)
    assert asked == [[(3, 1.0), (3, 0.1)], [(4, 1.0), (4, 0.1)], [(4, 1.0), (4, 0.1)]]
    for name in MEASURED:
        pd.testing.assert_frame_equal(getattr(found, name), getattr(whole, name))
    simulate(settings, out=tmp_path, **{**how, "runs": 1})  # another number of runs is another simulation
    assert asked[3:] == [[(3, 1.0), (3, 0.1)], [(4, 1.0), (4, 0.1)]]
    for place in tmp_path.glob("*/manifest.json"):
        place.write_text("{")  # damaged: made again, and nothing removed
    folders = len(list(tmp_path.glob("*/manifest.json")))
    assert len(simulate(settings, out=tmp_path, **how).settings) == 4
    assert len(list(tmp_path.glob("*/manifest.json"))) == folders + 4


@pytest.mark.slow
def test_tables_hang_together(simulation):
    assert list(simulation.settings["setting"]) == [
        "m=3, population",
        "m=3, population, scale 0.1",
        "m=4, k=6, 3 masks, 75% of 𝒞",
    ]
    for name, part in simulation.curves.groupby("setting"):
        line = simulation.settings.set_index("setting").loc[name]
        assert part["step"].iloc[-1] == line["updates"]
        assert part["unembedding"].iloc[-1] == pytest.approx(line["unembedding"], abs=1e-5)
        assert (part["gap"] >= -1e-9).all()
        heat = simulation.heat[simulation.heat["setting"] == name]
        m = line["concepts"]
        assert len(heat) == 4 * m * m
        if line["masks"] == 0:
            within = heat[(heat["view"] == "mixed") & (heat["i"] == heat["j"])]["mean"].mean()
            assert within == pytest.approx(line["mixed"])
    edges = simulation.edges[simulation.edges["setting"] == "m=3, population"]
    assert sorted(Setting(3).contexts(5).world.graph.edges) == sorted(
        zip(edges["parent"], edges["child"], strict=True)
    )


@pytest.mark.slow
def test_result_is_saved_told_and_drawn(simulation, tmp_path):
    simulation.save(tmp_path / "sim")
    again = Simulation.load(tmp_path / "sim")
    pd.testing.assert_frame_equal(again.settings, simulation.settings)
    assert again.summary() == simulation.summary()
    assert "mean cosine of" in simulation.summary().splitlines()[0]
    found = simulation.to_json()
    assert found["settings"][0]["unembedding"] == pytest.approx(simulation.settings["unembedding"][0])
    figures = simulation.figures()
    assert len(figures) == 2 + 3 + 1
    assert not any(map(misread_axes, figures.values()))
    assert all(len(figure.data) for figure in figures.values())
    assert {"Mean cosines and losses"} < set(simulation.tables())


@pytest.mark.slow
def test_same_seed_same_numbers():
    first, again = (simulate(Setting(3, steps=200), runs=2, seed=1, progress=False) for _ in range(2))
    pd.testing.assert_frame_equal(first.settings, again.settings)
    pd.testing.assert_frame_equal(first.heat, again.heat)


def test_settings_have_names_of_their_own_and_rates_of_the_paper():
    rows = [row.setting for rows in TABLES.values() for row in rows]
    assert len({s.name for s in rows}) == len(set(rows))
    assert Setting(5).rate == 0.1 and Setting(5, optimizer="adam").rate == 0.001
    exact = Setting(7, steps=200_000).by("population")
    assert exact.rate == 16 and exact.steps == 1250  # as much learning rate × updates
    assert [Setting(m).by("population").rate for m in (3, 7, 12)] == [1.0, 16.0, 128.0]
    assert exact.by("population") is exact
    assert runs_of(3) == 100 and runs_of(12) == 10
    for graph, edges in {"dense": 6, "chain": 3, "forest": 2, "independent": 0}.items():
        assert Setting(4, graph=graph).contexts(0).world.graph.number_of_edges() == edges


def test_what_cannot_be_simulated_is_refused():
    with pytest.raises(ValueError, match="one or more of either"):
        simulate([], runs=1)
    with pytest.raises(ValueError, match="all different"):
        simulate([Setting(3), Setting(3)], runs=1)
    with pytest.raises(ValueError, match="has \\[9\\] concepts"):
        reproduce("1", concepts=(9,), runs=1)


# Reproductions ----------------------------------------------------------------------------------------
@pytest.mark.slow
def test_table_1_at_three_and_four_concepts():
    found = reproduce("1", runs=3, concepts=(3, 4), steps=60_000, optimizer="population", progress=False)
    assert list(found.paper["paper"][:3]) == [0.972, 0.982, 0.980]
    assert found.paper["difference"].equals(found.paper["ours"] - found.paper["paper"])
    assert (found.paper["ours"] > 0.85).all(), found.paper
    assert "of the paper's" in found.summary().splitlines()[0]
    assert found.title == f"{TITLES['1']}; here the exact gradient"


@pytest.mark.slow
def test_figure_6_smaller_dimensions_are_less_parallel():
    found = reproduce("figure6", runs=2, concepts=(7,), steps=60_000, optimizer="population", progress=False)
    assert found.settings["dim"].tolist() == [5, 6, 7]
    assert found.settings["embedding"].is_monotonic_increasing
    assert found.settings["embedding"].iloc[0] < found.settings["embedding"].iloc[2] - 0.02


@pytest.mark.slow
def test_figure_2_pairs_beside_the_same_first_concept_are_parallel():
    found = reproduce("figure2", steps=4000, optimizer="population", progress=False)
    cosines = found.paper.set_index(["setting", "what"])["ours"]
    same, other = "with g(111) − g(101)", "with g(010) − g(000)"
    assert cosines["the first two known", same] > 0.9
    assert cosines["the first two known", other] < 0.6
    assert cosines["all contexts", other] > 0.9
    assert len(found.points) == 24 and len(found.figures()) >= 3
    first = found.points[found.points["setting"] == "only the first concept known"]
    rows = first[["x", "y", "z"]].to_numpy()
    centres = np.stack([rows[first["c1"] == value].mean(axis=0) for value in (0, 1)])
    spread = np.linalg.norm(rows - centres[first["c1"]], axis=1).max()
    assert np.linalg.norm(centres[1] - centres[0]) > 2 * spread  # two clusters


@pytest.mark.slow
def test_figure_5_is_set_beside_the_curves_at_the_papers_epochs():
    found = reproduce("figure5", runs=1, steps=20_000, optimizer="population", progress=False)
    loss = found.paper[found.paper["what"] == "loss"].set_index("paper")
    assert loss["ours"][4.85] == pytest.approx(np.log(128), abs=0.02)
    assert loss["ours"][4.25] == pytest.approx(4.25, abs=0.35)  # a hundred epochs
    assert np.isnan(loss["ours"][2.3])  # not reached
    assert "Cosines during training" in found.figures()


@pytest.mark.slow
def test_across_concepts_and_the_map_keep_their_form():
    flat = reproduce("orthogonality", runs=1, steps=2000, optimizer="population", progress=False)
    assert flat.paper["what"].tolist()[1] == "mean within a concept"
    assert flat.paper["ours"].iloc[0] <= flat.paper["ours"].iloc[1] <= flat.paper["ours"].iloc[2]
    grid = reproduce("scales", runs=2, steps=2000, concepts=(3,), optimizer="population", progress=False)
    assert len(grid.settings) == 12 and sorted(set(grid.settings["dim"])) == [2, 3, 6, 12]
    assert [name.split(":")[0] for name in grid.figures()] == [
        "Unembedding cosine by dimension, initial scale and optimiser",
        "The same under the product of the embeddings' covariance",
    ]
    small = replace(grid, settings=grid.settings[grid.settings["scale"] == 1.0])
    told = small.summary().splitlines()
    assert len(told) == 7
    cosine = grid.settings.set_index("setting")["unembedding"]
    assert told[0].endswith(
        f"{cosine['m=3, population']:.3f} to {cosine['m=3, k=12, population']:.3f} at initial scale × 1"
    )


@pytest.mark.slow
def test_cosines_across_concepts_are_those_of_runs():
    """Worlds differ from run to run: cosines of opposite signs do not cancel before their size is taken."""
    setting = Setting(4, steps=2000)
    found = simulate(setting, runs=3, seed=2, nulls=0, progress=False)
    contexts = [setting.contexts(seed) for seed in (2, 3, 4)]
    learned = train_tables(contexts, setting.training((2, 3, 4), (1.0,) * 3, 40), progress=False)
    sizes, signed = [], []
    for steering in steering_of(learned):
        grid = steering.cosines()["unembedding"]
        off = [grid[i, j] for i in range(4) for j in range(4) if i != j]
        sizes.append(np.mean(np.abs(off)))
        signed.append(np.mean(off))
    line = found.settings.iloc[0]
    assert line["unembedding_across_abs"] == pytest.approx(np.mean(sizes), abs=1e-3)
    assert line["unembedding_across_abs_se"] == pytest.approx(np.std(sizes, ddof=1) / 3**0.5, abs=1e-3)
    assert line["unembedding_across"] == pytest.approx(np.mean(signed), abs=1e-3)
    heat = found.heat[(found.heat["view"] == "unembedding") & (found.heat["i"] != found.heat["j"])]
    assert line["unembedding_across_abs"] > heat["mean"].abs().mean() + 0.01
    assert f"a mean |cosine| of {line['unembedding_across_abs']:.3f} in a run" in found.summary()


@pytest.mark.slow
def test_products_of_the_learner_itself():
    """The whitened one by hand; and spare dimensions hide linearity from the Euclidean product alone."""
    settings = [Setting(5, dim=d).by("population") for d in (5, 20)]
    found = simulate(settings, runs=2, nulls=0, n_points=2, progress=False).settings
    assert found["unembedding"].iloc[0] > 0.98 and found["unembedding"].iloc[1] < 0.7
    assert found["unembedding_whitened"].iloc[1] > found["unembedding"].iloc[1] + 0.2
    assert found["unembedding_causal"].iloc[1] < found["unembedding"].iloc[1] - 0.2
    seeds = (0, 1)
    contexts = [settings[1].contexts(seed) for seed in seeds]
    learned = train_tables(contexts, settings[1].training(seeds, (1.0, 1.0), 2), progress=False)
    means = []
    for run, held in enumerate(contexts):
        f = learned.f[run, : held.n].double().numpy()[held.probabilities > 0]
        g, spread = learned.g[run].double().numpy(), np.cov(f.T, ddof=0)
        own = []
        for steering in Flips(held).tokens:
            d = g[steering[:, 1]] - g[steering[:, 0]]
            gram = d @ spread @ d.T
            cosines = gram / np.sqrt(np.outer(np.diag(gram), np.diag(gram)))
            own.append(cosines[~np.eye(len(d), dtype=bool)].mean())
        means.append(np.mean(own))
    assert found["unembedding_whitened"].iloc[1] == pytest.approx(np.mean(means), abs=1e-3)
    assert found["unembedding_whitened_se"].iloc[1] == pytest.approx(np.std(means, ddof=1) / 2**0.5, abs=1e-3)


def test_a_title_names_another_optimiser():
    found = reproduce("1", runs=1, concepts=(3,), steps=50, optimizer="adam", progress=False)
    assert found.title == f"{TITLES['1']}; here Adam"
