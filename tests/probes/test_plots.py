"""Figures say what their tables say: checked against NumPy, pandas and scikit-learn."""

import ast
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from plotly.graph_objects import Bar, Box, Figure, Heatmap, Scatter
from sklearn.isotonic import IsotonicRegression

from graticule.probes import plots
from graticule.probes.beyond.mlp import mlp_depth_figure
from graticule.probes.causes.erase import erasure_figure, later_figure
from graticule.probes.causes.result import control_figure
from graticule.probes.compare import difference_figure
from graticule.probes.controls.result import within_blocks_figure
from graticule.probes.generalisation.prompts_result import prompt_depth_figure
from graticule.probes.layer_band import band_figure
from graticule.probes.neurons.result import rotation_figure
from graticule.probes.plots.holdouts import held_out_layers_figure
from graticule.probes.plots.latents import cosine_figure as latent_cosine_figure
from graticule.probes.plots.maps import coastline
from graticule.probes.plots.style import (
    BLOCKS,
    OTHER,
    block_colours,
    sampled,
    short,
    short_labels,
    spread,
    style,
)
from graticule.probes.plots.words import loo_figure, matching_figure
from graticule.saes.evaluation.result import density_figure

from ..helpers import misread_axes

ROOT = Path(__file__).parents[2]


def layers(n: int = 5) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "layer": range(n),
            "point": [f"blocks.{k}.hook_resid_post" for k in range(n)],
            "validation": np.linspace(0.1, 0.5, n),
            "test_r2": np.linspace(0.12, 0.48, n),
        }
    )


def places(n: int = 200, spread_deg: float = 60.0) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    lat, lon = rng.uniform(-1, 1, n) * spread_deg * 0.8, rng.uniform(-2, 2, n) * spread_deg
    return pd.DataFrame(
        {
            "text": [f"place {k}" for k in range(n)],
            "country": rng.choice([f"land_{k}" for k in range(14)], n),
            "true_lat": lat,
            "true_lon": lon,
            "pred_lat": lat + rng.normal(0, 1, n),
            "pred_lon": lon + rng.normal(0, 1, n),
        }
    )


def named(figure, name: str):
    found = [trace for trace in figure.data if trace.name == name]
    assert found, f"no trace {name!r} among {[t.name for t in figure.data]}"
    return found


def test_depth_marks_the_chosen_layer_once() -> None:
    figure = plots.depth_figure(layers(), {"TF-IDF": 0.4, "twin 0": -9.0}, "blocks.3.hook_resid_post", 0.45)
    (marked,) = [t for t in figure.data if t.marker.symbol == "diamond"]
    assert (list(marked.x), list(marked.y)) == ([3.0], [pytest.approx(0.39)])
    (line,) = named(figure, "validation (train, out of fold)")
    assert np.allclose(line.y, np.linspace(0.1, 0.5, 5))
    (others,) = named(figure, "test, other layers (exploratory)")
    assert list(others.x) == [0, 1, 2, 4]
    # a hopeless twin has a label but does not flatten the axis
    assert sorted(shape.y0 for shape in figure.layout.shapes) == [0.4, 0.45]
    assert figure.layout.yaxis.range[0] > -0.5
    labels = [a.text for a in figure.layout.annotations]
    assert any("−9.000 twin 0 ↓" in text for text in labels)
    assert "<b>.450 surface stack</b>" in labels


def test_depth_labels_keep_apart() -> None:
    close = {f"baseline {k}": 0.4 + 0.001 * k for k in range(6)}
    figure = plots.depth_figure(layers(), close, "blocks.3.hook_resid_post", None)
    low, high = figure.layout.yaxis.range
    at = sorted((a.y - low) / (high - low) * 330 - a.ay for a in figure.layout.annotations)
    assert np.diff(at).min() > 14.9


def test_depth_of_several_kinds_and_of_nameless_points() -> None:
    more = layers().assign(point=[f"blocks.{k}.hook_mlp_out" for k in range(5)])
    both = pd.concat([layers(), more], ignore_index=True)
    figure = plots.depth_figure(both, {}, "blocks.3.hook_mlp_out")
    assert len(named(figure, "validation, resid_post")) == len(named(figure, "validation, mlp_out")) == 1
    assert sum(bool(t.showlegend) for t in figure.data if t.legendgroup == "exploratory") == 1
    own = layers(2).assign(layer=None, point=["mine", "yours"])
    assert list(plots.depth_figure(own, {}, "mine").data[0].x) == ["mine", "yours"]
    with pytest.raises(KeyError, match="nowhere"):
        plots.depth_figure(layers(), {}, "nowhere")


def test_spread_is_the_least_movement() -> None:
    """Positions less k gaps, in order, are an isotonic regression of the wanted ones."""
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 20):
        wanted = rng.uniform(0, 100, n)
        placed = np.asarray(spread(wanted.tolist(), 10.0, -1e6, 1e6))
        order = np.argsort(wanted)
        steps = 10.0 * np.arange(n)
        best = IsotonicRegression().fit_transform(np.arange(n), wanted[order] - steps) + steps
        assert np.allclose(placed[order], best)
    kept = spread([99.0, 99.0, 99.0], 10.0, 0.0, 100.0)
    assert sorted(kept) == [80.0, 90.0, 100.0]
    assert spread([], 10.0, 0.0, 1.0) == []


def test_map_draws_every_test_row_on_the_world() -> None:
    rows = places().assign(split=np.where(np.arange(200) < 120, "test", "train"))
    rows.loc[0, "pred_lon"] = 300.0
    figure = plots.map_figure(rows, "lat", "lon", "country")
    for panel in ("y", "y2"):
        drawn = [t for t in figure.data if t.mode == "markers" and (t.yaxis or "y") == panel]
        assert sum(len(t.x) for t in drawn) == 120
        assert max(float(np.max(t.x)) for t in drawn) <= 180.0
    assert tuple(figure.layout.xaxis.range) == (-180.0, 180.0)
    assert "All 120 test rows" in plots.note_of(figure)
    assert "1 predicted and 0 true places" in plots.note_of(figure)
    assert len({t.marker.color for t in figure.data if t.mode == "markers"}) == len(BLOCKS) + 1


def test_map_zooms_and_samples() -> None:
    near = places(500, spread_deg=8.0)
    figure = plots.map_figure(near, "lat", "lon", limit=100, seed=3)
    low, high = figure.layout.xaxis.range
    assert -30 < low < -16 < 16 < high < 30
    assert "100 of 500 test rows are drawn, sampled with seed 3." in plots.note_of(figure)
    again = plots.map_figure(near, "lat", "lon", limit=100, seed=3)
    assert figure.to_json() == again.to_json()
    with pytest.raises(KeyError, match="pred_nowhere"):
        plots.map_figure(near, "nowhere", "lon")


def test_coastline_is_a_world() -> None:
    lon, lat = coastline()
    assert len(lon) == len(lat) > 1000
    assert np.nanmin(lon) < -170 < 170 < np.nanmax(lon)
    assert np.nanmax(lat) > 80
    assert np.nanmax(np.abs(np.diff(lon))) <= 180  # no line across the map


def test_scatter_shows_identity_medians_and_what_lies_beyond() -> None:
    rng = np.random.default_rng(0)
    true = rng.uniform(0, 100, 400)
    rows = pd.DataFrame({"t": true, "p": 0.5 * true + 25, "b": rng.choice(["x", "y"], 400)})
    rows.loc[0, "p"] = 1e6
    figure = plots.scatter_figure(rows, "t", "p", "b", unit="m")
    (line,) = named(figure, "predicted = true")
    assert list(line.x) == list(line.y)
    (median,) = named(figure, "median prediction")
    assert np.allclose(median.y, 0.5 * np.asarray(median.x) + 25, atol=0.5)
    assert "1 prediction beyond" in plots.note_of(figure)
    assert figure.layout.xaxis.title.text == "true value (m)"
    assert len(named(figure, "x")[0].x) + len(named(figure, "y")[0].x) == 400
    years = plots.time_figure(rows, "t", "p")
    assert years.layout.xaxis.tickformat == "d"
    assert years.layout.yaxis.title.text == "predicted year"


def test_block_errors_match_pandas() -> None:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "block": rng.choice([f"b{k:02d}" for k in range(30)], 2000, p=np.arange(1, 31) / 465),
            "true": rng.normal(size=2000),
            "pred": rng.normal(size=2000),
        }
    )
    figure = plots.block_error_figure(rows, "block", true="true", pred="pred", unit="units", top=10)
    error = (rows["pred"] - rows["true"]).abs()
    top = rows["block"].value_counts().index[:10]
    want = error.groupby(rows["block"]).quantile([0.25, 0.5, 0.75]).unstack().loc[top]
    want = want.sort_values(0.5, ascending=False)
    (trace,) = figure.data
    assert [row[0] for row in trace.customdata] == list(want.index)
    assert np.allclose(trace.x, want[0.5])
    assert np.allclose(trace.x - trace.error_x.arrayminus, want[0.25])
    assert np.allclose(trace.x + trace.error_x.array, want[0.75])
    assert "20 smaller blocks" in plots.note_of(figure)
    centuries = rows.assign(block=rng.integers(-5, 5, 2000))
    ordered = plots.block_error_figure(centuries, "block", true="true", pred="pred")
    assert [int(row[0]) for row in ordered.data[0].customdata] == list(range(4, -6, -1))
    with pytest.raises(ValueError, match="error=, or both"):
        plots.block_error_figure(rows, "block", true="true")


def test_confusion_shares() -> None:
    true = np.array(["a", "a", "a", "b", "b", "c"])
    pred = np.array(["a", "a", "b", "b", "b", "a"])
    figure = plots.confusion_figure(true, pred, ["a", "b", "c"])
    (trace,) = figure.data
    assert list(trace.x) == list(trace.y) == ["a", "b", "c"]
    assert np.allclose(trace.z, [[2 / 3, 1 / 3, 0], [0, 1, 0], [1, 0, 0]])
    two = plots.confusion_figure(true, pred, ["a", "b", "c"], top=2)
    assert np.allclose(two.data[0].z, [[2 / 3, 1 / 3], [0, 1]])
    assert "1 smaller classes" in plots.note_of(two)


def test_class_scores_hold_all_rows() -> None:
    """Each class's bars are NumPy's shares of all its rows, the lowest and the highest score among them."""
    rng = np.random.default_rng(0)
    for scale in (1e-6, 1.0, 3e7, 0.0):
        score, positive = 1.3 + scale * rng.standard_normal(50), np.arange(50) % 3 == 0
        figure = plots.class_score_figure(score, positive, ("no", "yes"))
        assert [t.name for t in figure.data] == ["no (33 rows)", "yes (17 rows)"]
        assert figure.layout.xaxis.title.text == "probe's score for yes"
        edges = np.histogram_bin_edges(score, 40)
        for trace, rows in zip(figure.data, (~positive, positive), strict=True):
            assert np.allclose(trace.y, 100 * np.histogram(score[rows], edges)[0] / rows.sum())
            assert np.isclose(np.sum(trace.y), 100)
            assert np.allclose(trace.x, (edges[1:] + edges[:-1]) / 2)
            assert trace.x[0] - trace.width[0] / 2 <= np.nextafter(score.min(), np.inf)


def bars(figure) -> list:
    return [trace for trace in figure.data if trace.type == "bar"]


def test_every_histogram_draws_every_value() -> None:
    """No value is left out at an edge, beyond one, or by rounding: the bars add up to all of them."""
    rng = np.random.default_rng(1)
    effects = rng.standard_normal(24)
    (drawn,) = bars(control_figure(effects, 2.0, 1.5, "probe", "logits"))
    assert list(drawn.y) == list(np.histogram(effects, 30)[0])

    decoder = pd.DataFrame({"cos_read": np.arange(-60, 61) / 100, "cos_write": [1.0, -1.0, *[0.0] * 119]})
    levels = pd.DataFrame({"direction": ["read", "write"], "level": [0.3, 0.3]})
    assert [np.sum(t.y) for t in bars(latent_cosine_figure(decoder, levels))] == [121, 121]

    own = np.eye(6, dtype=bool)
    cosines = np.where(own, 1.0, rng.uniform(-0.9, 0.9, (2, 6, 6)))
    cosines[:, 0, 1] = np.nan
    panels = bars(matching_figure(cosines, ["causal", "plain"], list("abcdef")))
    assert len(panels) == 4
    for panel, metric, mine in zip(panels, (0, 0, 1, 1), (False, True) * 2, strict=True):
        values = np.abs(cosines[metric])[own == mine]
        values = values[np.isfinite(values)]
        edges = np.linspace(0, 1, 41)
        assert np.allclose(panel.y, np.histogram(values, edges)[0] / len(values))

    pairs = pd.DataFrame({"concept": "a", "projection": rng.standard_normal(40)})
    random = rng.standard_normal((1, 50)).astype(np.float32)
    random[0, 3] = np.nan
    assert np.allclose([np.sum(t.y) for t in bars(loo_figure(pairs, random, ["a"]))], 1)

    best = np.append(rng.uniform(0.2, 0.4, 30), 0.4)
    assert np.sum(bars(rotation_figure(best, 0.2, "L1N3"))[0].y) == 31


def test_a_latent_that_always_fires_is_drawn() -> None:
    for density in ([1.0, 1.0], [1.0, 0.4, 0.2], [1.0, 1e-4, 0.0]):
        latents = pd.DataFrame({"density": density, "cluster": [*["alive"] * (len(density) - 1), "alive"]})
        figure = density_figure(latents, 1000)
        assert sum(np.sum(t.y) for t in bars(figure)) == np.count_nonzero(density)


def test_blocks_beyond_the_palette_are_grey() -> None:
    values = pd.Series([f"b_{k}" for k in range(12) for _ in range(20 - k)])
    colours, groups = block_colours(values)
    assert list(colours) == [OTHER, *[f"b {k}" for k in range(9)]]
    assert (groups == OTHER).sum() == 11 + 10 + 9
    few, _ = block_colours(pd.Series([1900.0, 1900.0, 1800.0]))
    assert list(few) == ["1900", "1800"]


def test_rows_to_score_and_small_helpers() -> None:
    rows = places(10).assign(split="train")
    with pytest.raises(ValueError, match=r"no row has split 'test'.*train"):
        plots.map_figure(rows, "lat", "lon")
    some, _ = sampled(rows, 4, 0)
    assert list(some.index) == sorted(some.index)
    assert len(some) == 4
    assert short("a" * 30, 10) == "a" * 9 + "…"


@pytest.mark.parametrize("count", [2, 3, 6, 12, 48])
def test_ticks_stand_at_layers_and_are_told_apart(count: int) -> None:
    """None between two layers, on a phone either; and scores close together get decimals that differ."""
    layers = pd.DataFrame(
        {
            "layer": range(count),
            "point": [f"blocks.{k}.hook_resid_post" for k in range(count)],
            "validation": np.linspace(0.20, 0.24, count),
            "test_r2": np.linspace(0.20, 0.24, count),
        }
    )
    figure = plots.depth_figure(layers, {"TF-IDF": 0.21}, "blocks.1.hook_resid_post", 0.22)
    axis, phone = figure.layout.xaxis, figure.layout.meta["phone"]
    for step in (axis.dtick, phone["xaxis.dtick"]):
        assert step == int(step) >= 1
        assert count / step <= 14
    assert figure.layout.yaxis.tickformat is None


@pytest.mark.parametrize("numbers", [[13], [12, 13], [0, 15, 30], [7, 60], range(48)])
def test_an_axis_of_layers_has_ticks_at_layers_alone(numbers) -> None:
    """In every figure against layers, however few or far apart; a lone layer is a mark in the middle."""
    layers = pd.DataFrame({"layer": numbers, "point": [f"blocks.{k}.hook_resid_post" for k in numbers]})
    last = layers["point"].iloc[-1]
    both = {"validation": 0.1, "test_r2": 0.2, "ridge_validation": 0.1, "ridge_test_r2": 0.2}
    band = dict.fromkeys(("estimate", "low", "high", "low_alone", "high_alone"), 0.1)
    arms = {f"{arm}_t": 0.1 for arm in ("before", "control", "after")}
    prompts = pd.DataFrame({"prompt": ["{}"], "point": [last], "test_r2": [0.2]})
    for figure in (
        plots.depth_figure(layers.assign(**both), {}, last),
        mlp_depth_figure(layers.assign(**both), last, last),
        band_figure(layers.assign(**band), last, "gain"),
        erasure_figure(layers.assign(**arms), "t", 0.1),
        later_figure(layers.assign(**arms), "t", 3, 0.1),
        prompt_depth_figure(layers.assign(prompt="{}", **both), prompts, 0.1),
        held_out_layers_figure(layers.assign(nominal_r2=0.1, held_out_r2=0.1), last),
    ):
        axis, phone = figure.layout.xaxis, figure.layout.meta["phone"]
        low, high = axis.range
        assert (low, high) == (min(numbers) - 0.4, max(numbers) + 0.4)
        for step, most in ((axis.dtick, 14), (phone["xaxis.dtick"], 8)):
            assert step == int(step) >= 1
            assert axis.tick0 == 0
            assert (high - low) / step <= most
        if len(numbers) == 1:
            assert any("markers" in (trace.mode or "") for trace in figure.data)


def test_a_target_without_a_unit_has_none() -> None:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"b": rng.choice(["x", "y"], 60), "true": rng.normal(size=60), "pred": 0.0})
    bare, metres = (
        plots.block_error_figure(rows, "b", true="true", pred="pred", unit=u) for u in (None, "m")
    )
    assert (bare.layout.xaxis.title.text, metres.layout.xaxis.title.text) == ("error", "error (m)")
    said = [figure.layout.annotations[0].text for figure in (bare, metres)]
    assert said[1] == f"{said[0]} m"


@pytest.mark.parametrize("names", [["1990", "1880", "2000  2"], ["2001-01-02", "1e5", "nan"], ["0", "1"]])
def test_names_that_look_like_numbers_or_dates_are_names(names) -> None:
    """Of any kind of trace, on any axis, in any panel."""
    for figure in (
        Figure(Scatter(x=names, y=np.arange(len(names)))),
        Figure(Scatter(x=np.arange(len(names)), y=pd.Series(names, dtype=object))),
        Figure(Bar(x=np.arange(len(names)), y=names, orientation="h")),
        Figure(Bar(x=[1] * len(names), y=[names, names], orientation="h")),
        Figure(Heatmap(z=np.eye(len(names)), x=names, y=names, xaxis="x3", yaxis="y2")),
        Figure([Box(y=[0.0, 1.0], name=name) for name in names]),
    ):
        assert misread_axes(figure)
        assert misread_axes(style(figure)) == []
    assert style(Figure(Scatter(x=[1, 2], y=[3.0, np.nan]))).layout.xaxis.type is None


def test_blocks_classes_and_points_named_by_numbers_are_drawn_as_names() -> None:
    rng = np.random.default_rng(0)
    years = rng.choice(["1990", "1880", "2000"], 60)
    rows = pd.DataFrame({"century": years, "true": rng.normal(size=60), "pred": rng.normal(size=60)})
    points = pd.DataFrame({"point": ["1", "2"], "layer": [None, None]})
    arms = {f"{arm}_t": [0.1, 0.2] for arm in ("before", "control", "after")}
    inside = {"predictor": ["probe"], "r": [0.5], "r_low": [0.4], "r_high": [0.6], "blocks": [2], "rows": [9]}
    differences = pd.DataFrame({"target": ["1990"], "difference": [0.1], "low": [0.0], "high": [0.2]})
    figures = [
        plots.block_error_figure(rows, "century", true="true", pred="pred"),
        plots.confusion_figure(years, rng.permutation(years), ["1880", "1990", "2000"]),
        plots.depth_figure(points.assign(validation=0.1, test_r2=0.2), {}, "1"),
        erasure_figure(points.assign(**arms), "t", 0.1),
        within_blocks_figure(pd.DataFrame({"block": ["1990"], **inside})),
        difference_figure(differences),
    ]
    assert [misread_axes(figure) for figure in figures] == [[]] * len(figures)
    # names lie in the order that the figure gives them, on the places that its range was made for
    errors = figures[0]
    assert [str(name).split()[0] for name in errors.data[0].y] == [
        row[0] for row in errors.data[0].customdata
    ]


def test_long_names_that_begin_alike_stand_on_lines_of_their_own() -> None:
    long = "the administrative region of "
    names = [f"{long}{place}" for place in ("the north", "the south", "the south")] + ["short", "short"]
    labels = short_labels(names)
    assert len(set(labels)) == 5
    assert max(map(len, labels)) <= 26
    assert labels[0].endswith("north") and labels[1].endswith("south") and labels[3] == "short"
    classes = [f"{long}{place}" for place in ("the north", "the south")]
    (trace,) = plots.confusion_figure(np.array(classes), np.array(classes), classes).data
    assert len(set(trace.x)) == len(set(trace.y)) == 2
    rows = pd.DataFrame({"b": classes * 9, "true": np.arange(18.0), "pred": 0.0})
    assert len(set(plots.block_error_figure(rows, "b", true="true", pred="pred").data[0].y)) == 2


@pytest.mark.slow
def test_every_figure_is_styled_after_its_last_trace() -> None:
    """What `style` sees to, it sees to for all traces."""
    seen = 0
    for file in sorted(p for room in ("probes", "sims", "plugin") for p in (ROOT / room).rglob("*.py")):
        for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef):
                continue
            lines: dict[str, list[int]] = {}
            for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
                name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
                lines.setdefault(name, []).append(call.lineno)
            if "style" in lines:
                seen += 1
                assert max([0, *lines.get("add_trace", []), *lines.get("add_traces", [])]) < min(
                    lines["style"]
                ), f"{file}: {function.name}"
            elif {"Figure", "make_subplots", "new_figure", "panels"} & lines.keys():
                makers = ("new_figure", "panels", "_side_by_side")
                assert function.name in makers, f"{file}: {function.name} makes a figure without a style"
    assert seen > 60
