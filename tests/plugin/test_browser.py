"""The page in a real browser: every plot drawn, no console errors, nothing fetched, no sideways scrolling."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from plotly.graph_objects import Figure

from graticule.hooks.result import Result
from graticule.probes.attribution.result import build_up_figure, shares_figure
from graticule.probes.calibration.result import rates_figure
from graticule.report import write_page
from graticule.saes.training.run import curves_figure
from graticule.sims.papers.curves import cosine_curve_figure
from graticule.sims.papers.figures import VIEWS, concept_cosines_figure

from .conftest import Places

pytestmark = pytest.mark.browser

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--virtual-time-budget=15000",
    "--enable-logging=stderr",
]

PROBE = """<script>setTimeout(function () {
  var plots = Array.prototype.slice.call(document.querySelectorAll(".plot"));
  var text = Array.prototype.slice.call(document.querySelectorAll(
    ".annotation-text, .legendtext, .xtitle, .ytitle"));
  var width = document.documentElement.clientWidth;
  document.title = "PROBE" + JSON.stringify({
    plots: plots.length,
    drawn: plots.filter(function (p) { return p.querySelector("svg.main-svg"); }).length,
    marks: plots.map(function (p) { return p.querySelectorAll(".point, .hm image, .js-line").length; }),
    width: width,
    scroll: document.documentElement.scrollWidth,
    touching: plots.reduce(function (found, plot) {
      var all = Array.prototype.map.call(plot.querySelectorAll("text"), function (t) {
        return [t.textContent.trim(), t.getBoundingClientRect()];
      }).filter(function (pair) { return pair[0] && pair[1].width > 0; });
      all.forEach(function (a, i) {
        all.slice(i + 1).forEach(function (b) {
          var across = Math.min(a[1].right, b[1].right) - Math.max(a[1].left, b[1].left);
          var down = Math.min(a[1].bottom, b[1].bottom) - Math.max(a[1].top, b[1].top);
          if (across > 2 && down > 3) found.push(a[0] + " on " + b[0]);
        });
      });
      return found;
    }, []),
    panels: plots.map(function (p) {
      var starts = {};
      Object.keys(p._fullLayout).filter(function (k) { return /^xaxis/.test(k); }).forEach(function (k) {
        starts[p._fullLayout[k].domain[0]] = true;
      });
      return Object.keys(starts).length;
    }),
    cut: text.filter(function (t) {
      var box = t.getBoundingClientRect(), room = t.closest(".plot").getBoundingClientRect();
      return box.left < room.left - 1 || box.right > room.right + 1;
    }).map(function (t) { return t.textContent; })
  });
}, 3000);</script>"""


@dataclass(frozen=True)
class Seen:
    dom: str
    console: list[str]
    fetched: list[str]


@pytest.fixture(scope="module")
def chromium() -> str:
    """Chromium's path. Without one: skip, or fail where GRATICULE_REQUIRE_BROWSER=1."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        reason = f"no Chromium on PATH (looked for {', '.join(names)}); Debian: apt-get install chromium"
        if os.environ.get("GRATICULE_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)  # CI installs a browser and sets the variable, so nothing is skipped there
    return path


def look(chromium: str, page: Path, folder: Path, width: int = 1200) -> Seen:
    """Open `page` in a new browser and bring back its DOM, console, and what the page itself asked for."""
    log = folder / "net.json"
    where = [f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", f"--window-size={width},1000"]
    command = [chromium, *FLAGS, *where, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    events = json.loads(log.read_text())
    kind = events["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    requests = [e["params"] for e in events["events"] if e["type"] == kind and "url" in e.get("params", {})]
    # the browser's own errands have no origin; a page opened from a file has the origin "null"
    fetched = [str(r["url"]) for r in requests if r.get("initiator") != "not an origin"]
    return Seen(done.stdout, re.findall(r"CONSOLE.*", done.stderr), fetched)


def measured(chromium: str, page: Path, folder: Path, width: int) -> tuple[dict[str, object], Seen]:
    """What a script inside a copy of the page measures once the plots are drawn."""
    folder.mkdir()
    copy = folder / "probed.html"
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", PROBE + "</body>"), encoding="utf-8")
    seen = look(chromium, copy, folder, width)
    found = re.search(r"<title>PROBE(.*?)</title>", seen.dom)
    assert found, "the page's scripts did not run to their end"
    return json.loads(found[1].replace("&quot;", '"').replace("&amp;", "&")), seen


def test_the_watch_notices(chromium: str, tmp_path: Path) -> None:
    """The positive control: errors and requests of a page that has them are seen."""
    page = tmp_path / "bad.html"
    page.write_text(
        '<img src="http://pictures.invalid/a.png"><script>console.error("said");'
        'fetch("https://data.invalid/x").catch(function () {}); nothing();</script>'
    )
    seen = look(chromium, page, tmp_path)
    assert {"http://pictures.invalid/a.png", "https://data.invalid/x"} <= set(seen.fetched)
    assert any("said" in line for line in seen.console)
    assert any("nothing is not defined" in line for line in seen.console)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 500])
def test_page_is_drawn_and_quiet(chromium: str, places: Result, tmp_path: Path, width: int) -> None:
    page = write_page(places, tmp_path / "report.html")
    found, seen = measured(chromium, page, tmp_path / "browser", width)
    assert seen.console == []
    assert seen.fetched == []
    assert found["plots"] == found["drawn"] == len(places.figures())
    assert all(int(marks) > 0 for marks in found["marks"]), found["marks"]  # type: ignore[union-attr]
    assert found["scroll"] == found["width"] == width
    assert found["cut"] == []


class Panels(Places):
    """Figures of several panels and long titles, of several rooms."""

    def figures(self) -> dict[str, Figure]:
        pairs = [(i, j) for i in range(3) for j in range(3)]
        heat = [{"view": v, "i": i, "j": j, "mean": i / 4 - j / 5} for v in VIEWS for i, j in pairs]
        steps = {"setting": "m=3", "step": [10, 20, 50, 100, 200, 500]}
        views = {name: np.linspace(0, 0.3, 6) for view in VIEWS for name in (view, f"{view}_se")}
        noise = {"targets": 200, "above_0": 2, "structure": 1, "covered_aside": 190, "covered_resampled": 180}
        kinds = [{"kind": kind, "true_gain": 0.0, **noise} for kind in ("noise", "surface only")]
        made = np.arange(1, 10) * 1000
        history = pd.DataFrame({"tokens": made, "loss": made * 2.5, "l0": 16, "dead": made / 30})
        write = [{"kind": k, "layer": n, "term": f"L{n}"} for n in range(14) for k in ("attention", "mlp")]
        terms = pd.DataFrame([{"kind": "other", "layer": np.nan, "term": "embedding"}, *write]).assign(
            share=np.linspace(-0.2, 0.4, 29), share_low=np.nan, share_high=np.nan, mean=np.arange(29.0)
        )
        return {
            "Cosines": concept_cosines_figure(pd.DataFrame(heat)),
            "Cosines during training": cosine_curve_figure(
                pd.DataFrame({**steps, **views}), pd.DataFrame({"what": [], "step": [], "paper": []})
            ),
            "Rates": rates_figure(pd.DataFrame(kinds)),
            "Training": curves_figure({"": history.assign(explained_variance=made / 2e4)}),
            "Shares": shares_figure(terms),
            "The reading so far": build_up_figure(terms, -44.0),
        }


@pytest.mark.slow
def test_on_a_phone_panels_stand_below_one_another_and_no_text_on_text(chromium, places, tmp_path) -> None:
    page = write_page(Panels(places.words, places.predictions), tmp_path / "report.html")
    narrow, seen = measured(chromium, page, tmp_path / "narrow", 500)  # as narrow as a window can be
    assert seen.console == []
    assert narrow["touching"] == narrow["cut"] == []
    assert narrow["panels"] == [1] * 6
    wide, _ = measured(chromium, page, tmp_path / "wide", 1200)
    assert wide["panels"] == [3, 3, 2, 2, 1, 1]
    assert wide["touching"] == wide["cut"] == []
