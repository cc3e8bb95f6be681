"""The page in a real browser: every plot drawn, no console errors, nothing fetched, no sideways scrolling."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from graticule.hooks.result import Result
from graticule.report.page import write_page

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
