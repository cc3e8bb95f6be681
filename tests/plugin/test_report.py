"""The page: complete in itself, escaped, atomic, and the same bytes every time."""

import json
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from plotly.offline import get_plotlyjs

from graticule.hooks.result import Result
from graticule.report import MAX_ROWS, flattened, page_in, table_view, write_page


class Page(HTMLParser):
    """Elements, addresses, and the text in each kind of element."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.links: list[str] = []
        self.ids: list[str] = []
        self.specs: dict[str, str] = {}
        self.texts: dict[str, list[str]] = {}
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source.replace(get_plotlyjs(), "plotly"))  # 4.8 MB that hold no element

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.links += [str(value) for name, value in attrs if name in ("src", "href", "action", "data")]
        self.ids += [str(found["id"])] if "id" in found else []
        if tag not in ("meta", "link", "br", "img", "input"):
            self._open.append((tag, found))
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1][0] == tag, f"<{self._open[-1][0]}> is closed by </{tag}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for tag, _ in self._open:
            self.texts[tag][-1] += data
        if self._open and "data-plot" in self._open[-1][1]:
            name = str(self._open[-1][1]["data-plot"])
            self.specs[name] = self.specs.get(name, "") + data


@pytest.mark.slow
def test_page_is_complete_and_in_order(places: Result, tmp_path: Path) -> None:
    page = Page(write_page(places, tmp_path / "deep" / "report.html"))
    assert all(link.startswith("#") or link == "data:," for link in page.links), page.links
    assert page.counts["h1"] == 1
    assert page.counts["figure"] == len(page.specs) == 6
    assert page.counts["table"] == 1
    assert 'name="viewport"' in page.source
    assert "default-src 'none'" in page.source
    assert len(page.ids) == len(set(page.ids))
    words = [
        places.summary().split("\n")[0],
        "Score against",
        "Error by country.",
        "Worst rows.",
        "Provenance",
    ]
    body = page.source[page.source.index("<main>") :]
    where = [body.index(word) for word in words]
    assert where == sorted(where)
    assert page.texts["p"][0] == "structure beyond the baselines"


@pytest.mark.slow
def test_hostile_text_stays_text(places: Result, tmp_path: Path) -> None:
    page = Page(write_page(places, tmp_path / "report.html"))
    assert page.counts["script"] == 2 + len(page.specs)  # plotly.js, the page's own, and a figure each
    assert "em" not in page.counts
    assert "i" not in page.counts
    assert "b" not in page.counts
    assert page.texts["h1"] == [places.title]
    assert "<script>alert('summary')</script>" in page.texts["pre"][0]
    assert "</script><script>alert('row')</script>" in page.texts["td"]
    assert "Score against <b>depth</b>." in page.texts["figcaption"][0]
    assert "toy <i>v1</i>" in page.texts["dd"]


@pytest.mark.slow
def test_figures_survive_the_page(places: Result, tmp_path: Path) -> None:
    page = Page(write_page(places, tmp_path / "report.html"))
    for figure, spec in zip(places.figures().values(), page.specs.values(), strict=True):
        assert json.loads(unescape(spec)) == json.loads(figure.to_json())


@pytest.mark.slow
def test_same_result_same_bytes_and_save_load(places: Result, tmp_path: Path) -> None:
    places.save(tmp_path / "kept")
    again = type(places).load(tmp_path / "kept")
    first, second = places.report(tmp_path / "a.html"), write_page(again, tmp_path / "b.html")
    assert first == tmp_path / "a.html"
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.slow
def test_several_results(places: Result, tmp_path: Path) -> None:
    other = replace(places, words="not decided")  # pyright: ignore
    page = Page(write_page([places, other], tmp_path / "report.html", title="Two & more"))
    assert page.texts["h1"] == ["Two & more"]
    assert page.texts["title"] == ["Two & more"]
    anchors = [link[1:] for link in page.links if link.startswith("#")]
    assert len(anchors) == 2
    assert set(anchors) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert "not decided" in page.texts["li"][1]
    assert page.source.count("* plotly.js v") == 1


def test_page_without_figures_carries_no_plotly(places: Result, tmp_path: Path) -> None:
    class TablesOnly(type(places)):  # type: ignore[misc]
        def figures(self) -> dict[str, object]:
            return {}

    path = write_page(TablesOnly("words", places.predictions), tmp_path / "small.html")  # type: ignore[attr-defined]
    assert path.stat().st_size < 30_000
    assert Page(path).counts.get("script", 0) == 0


def test_errors_leave_the_old_page(places: Result, tmp_path: Path) -> None:
    class Mislaid(type(places)):  # type: ignore[misc]
        def layout(self, figures, tables) -> list[tuple[str, str]]:
            return [("table", "No such table.")]

    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(ValueError, match=r"table 'No such table\.'.*Worst rows"):
        write_page(Mislaid("words", places.predictions), path)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="no result"):
        write_page([], path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_numbers_in_tables() -> None:
    table = pd.DataFrame(
        {
            "text": ["a", None, "c"],
            "count": [12, 3, 40000],
            "year": [1987.0, -44.0, np.nan],
            "test_r2": [0.6421, -0.0312, 0.5],
            "km": [12345.678, 3.2, 0.05],
            "alpha": [1e-5, 3e-7, 2e-6],
            "edge": [True, False, True],
        }
    )
    view = table_view(table, "Numbers.")
    assert [name for name, _ in view.columns] == ["text", "count", "year", "test r2", "km", "alpha", "edge"]
    assert [kind for _, kind in view.columns] == ["words", *["number"] * 5, "words"]
    assert view.rows == [
        ["a", "12", "1987", "0.642", "12345.7", "1e-05", "yes"],
        ["–", "3", "−44", "−0.031", "3.2", "3e-07", "no"],
        ["c", "40000", "–", "0.500", "0.1", "2e-06", "yes"],
    ]


def test_long_tables_and_named_rows() -> None:
    view = table_view(pd.DataFrame({"x": range(MAX_ROWS + 7)}), "Long.")
    assert len(view.rows) == MAX_ROWS
    assert view.note == f"The first {MAX_ROWS} of {MAX_ROWS + 7} rows."
    named = table_view(pd.DataFrame({"x": [1.5]}, index=pd.Index(["TF-IDF"], name="baseline")), "Named.")
    assert named.columns == [("baseline", "words"), ("x", "number")]
    assert named.rows == [["TF-IDF", "1.500"]]
    assert table_view(pd.DataFrame({"x": []}), "Empty.").rows == []


def test_provenance_is_flattened() -> None:
    nested = {"a": {"b": 1, "c": [1, 2]}, "d": None, "e": [{"f": 1}]}
    assert list(flattened(nested)) == [("a.b", "1"), ("a.c", "1, 2"), ("e", '[{"f": 1}]')]


def test_style_fetches_nothing() -> None:
    from importlib import resources

    folder = resources.files("graticule.report")
    for name in ("style.css", "page.js", "page.html"):
        assert not re.search(r"https?:|@import|url\(", (folder / name).read_text(encoding="utf-8")), name


def test_load_gives_back_whatever_was_saved(tmp_path):
    from graticule import load_saved, sweep
    from graticule.hooks.artifact import ArtifactError
    from graticule.sims.planted import planted

    world = planted(n_rows=120, width=8, n_layers=2)
    findings = sweep(world.activations, world.table, baselines=world.baselines, n_bootstrap=50)
    saved = {"activations": world.activations, "baselines": world.baselines, "findings": findings}
    for name, one in saved.items():
        one.save(tmp_path / name)
    back = {name: load_saved(tmp_path / name) for name in saved}
    assert back["findings"].summary() == findings.summary()
    assert back["baselines"].table_digest == world.baselines.table_digest
    again = back["findings"].with_inputs(back["activations"], world.table, back["baselines"])
    assert again.inputs.problem.y.shape == findings.inputs.problem.y.shape
    with pytest.raises(ArtifactError):
        load_saved(tmp_path)


def test_a_page_of_somebody_else_stays(tmp_path):
    """`report.html` in a folder of one's own: a page of graticule's is written anew, another one is not."""
    place = page_in(tmp_path)
    assert page_in(tmp_path) == place == tmp_path / "report.html"
    place.write_text("<html>my own page</html>")
    with pytest.raises(FileExistsError, match=r"report\.html is no page of graticule's .*result\.report"):
        page_in(tmp_path)
    place.write_text('<!doctype html><meta name="generator" content="graticule 0.1.0">')
    assert page_in(tmp_path) == place
