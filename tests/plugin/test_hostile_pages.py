"""Names that attack pages, figures, notebooks and terminals: real results whose every name is one."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from graticule import Activations, Table, holdouts, sweep, words
from graticule.cli import main
from graticule.commands.options import one_line, say, show_logs
from graticule.hooks.messages import visible
from graticule.hooks.result import Result
from graticule.hub import push
from graticule.probes.core.findings import Findings
from graticule.probes.plots.drawing import figure_json
from graticule.probes.plots.style import Markup, plain
from graticule.probes.surface.baselines import Baselines, text_digest
from graticule.probes.words.words import Words
from graticule.report import write_page
from graticule.saes.features.examine import examine
from graticule.saes.training.run import Run

from ..helpers import misread_axes
from ..payloads import FITTING, MARKS, PAYLOADS
from ..probes.test_words import PAIRS, TOKENS, WIDTH, _model
from .test_browser import chromium, look  # noqa: F401
from .test_hub_hostile import attacks
from .test_report import Page
from .test_sae_features import make

pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'utils' module has been deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:HookedTransformer:DeprecationWarning"),
]

NAMES = list(FITTING.values())
EACH = 8
ELEMENTS = set(
    """html head meta link title style script body header h1 h2 h3 nav ul li a main section p pre figure div
    figcaption table thead tbody tr th td details summary dl dt dd footer noscript span""".split()  # noqa: SIM905
)
SEEN = [name for name in NAMES if len(name) < 100]


def sweep_subject(**columns: Any) -> Findings:
    """Findings of a table of hostile texts, blocks, targets, classes and a name of its own."""
    rng = np.random.default_rng(0)
    n = len(NAMES) * EACH
    hidden = rng.normal(size=(n, 6))
    frame = pd.DataFrame({NAMES[1]: [f"{NAMES[i % len(NAMES)]} {i}" for i in range(n)]})
    frame[NAMES[2]] = [NAMES[i % len(NAMES)] for i in range(n)]
    frame["is_test"] = np.arange(n) // len(NAMES) % 3 == 0  # of every level some
    targets = columns.pop("target", None) or NAMES
    for k, name in enumerate(targets):
        if name not in frame:
            frame[name] = hidden[:, k % 6] + rng.normal(size=n)
    table = Table(
        frame, text=NAMES[1], target=targets, split="is_test", blocks=[NAMES[2]], name=NAMES[0], **columns
    )
    points = {f"blocks.{k}.hook_resid_post": (hidden + k).astype(np.float32) for k in range(2)}
    surface = {name: Activations.from_tensors({"hook_embed": hidden[:, :2]}) for name in (NAMES[0], NAMES[6])}
    given = Baselines(text_digest(table), surface, True, {"captured_by": NAMES[0], NAMES[5]: NAMES[4]})
    acts = Activations.from_tensors(
        points, provenance={"captured_by": NAMES[3], NAMES[5]: {NAMES[6]: NAMES[7]}}
    )
    return sweep(acts, table, baselines=given, progress=False)


@pytest.fixture(scope="module")
def numbers() -> Findings:
    chosen = ("script", "html link", "figure's markup", "formula", "template", "terminal", "table", "path")
    return replace(sweep_subject(target=[PAYLOADS[what] for what in chosen]), model=NAMES[0])


def hostile_words() -> Words:
    """Cosines of concepts with hostile names."""
    rng = np.random.default_rng(0)
    names = [PAYLOADS[what] for what in ("script", "html link", "figure's markup", "formula")]
    starts = {name: 10 + 2 * PAIRS * k for k, name in enumerate(names)}
    lists = {n: [(f"w{i}", f"w{i + PAIRS}") for i in range(s, s + PAIRS)] for n, s in starts.items()}
    model, rows = _model(rng.normal(size=(TOKENS, WIDTH))), rng.normal(size=(300, WIDTH))
    return words(model, lists, n_bootstrap=20, n_random=100, residuals=rows, progress=False)


@pytest.fixture(scope="module")
def results(numbers, load_tiny, tmp_path_factory) -> dict[str, Result]:
    """Several kinds of results."""
    model = load_tiny("llama", "hooked")
    drawn = torch.Generator().manual_seed(3)
    tokens = torch.randint(1, model.cfg.d_vocab, (len(NAMES), 12), generator=drawn)
    features = examine(model, make(), tokens, n=8, n_examples=3)
    told = {"token": [NAMES[i % len(NAMES)] for i in range(len(features.examples))]}
    effects = {"token": [NAMES[i % len(NAMES)] for i in range(len(features.effects))]}
    features = replace(
        features,
        name=NAMES[0],
        examples=features.examples.assign(**{k: v for k, v in told.items() if k in features.examples}),
        effects=features.effects.assign(**effects),
    )
    history = pd.DataFrame(
        {"step": [1, 2], "tokens": [8, 16], "seconds": [0.1, 0.2], "loss": [2.0, 1.0], "l0": [3.0, 3.0],
         "explained_variance": [0.1, 0.2], "dead": [0, 1], "lr": [1e-3, 1e-3]}
    )  # fmt: skip
    trainer = {"lr": 1e-3, "total_training_samples": 16, "train_batch_size_samples": 8}
    sae = {"architecture": NAMES[0], "d_in": 4, "d_sae": 8}
    request = {"sae": sae, "hook_name": NAMES[2], "trainer": trainer}
    manifest = {"state": "complete", "tokens": 16, "request": request, "provenance": {NAMES[0]: NAMES[2]}}
    events = ({"event": NAMES[3], "step": 1, "seconds": 0.1, NAMES[5]: NAMES[6]},)
    run = Run(tmp_path_factory.mktemp("run"), manifest, history, events)
    parts = {name: replace(run) for name in NAMES}
    return {
        "words": hostile_words(),
        "numbers": numbers,
        "classes": sweep_subject(target=[NAMES[2]]),
        "hold-outs": holdouts(numbers, NAMES[2], n_bootstrap=50, minimum=3, progress=False),
        "features": features,
        "history": replace(run, parts=parts),
    }


@pytest.fixture(scope="module")
def page(results, tmp_path_factory) -> Path:
    links = {name: name for name in NAMES}
    return write_page(
        list(results.values()), tmp_path_factory.mktemp("page") / "report.html", NAMES[0], links
    )


def strings(value: Any, key: str = "") -> list[tuple[str, str]]:
    """Every string in a figure's JSON with the key that it is under."""
    if isinstance(value, str):
        return [(key, value)]
    if isinstance(value, dict):
        return [pair for k, v in value.items() for pair in strings(v, k)]
    return [pair for v in value for pair in strings(v, key)] if isinstance(value, list) else []


@pytest.mark.slow
def test_a_page_holds_them_as_text(results, page):
    read = Page(page)
    drawn = sum(len(result.figures()) for result in results.values())
    assert drawn > 15
    assert read.counts["script"] == 2 + drawn
    assert not set(read.counts) - ELEMENTS
    outside = read.source.split("</head>")[1]
    for mark in MARKS:
        assert mark not in outside
    cells = "\n".join(read.texts["td"])
    for name in SEEN:
        assert visible(name, lines=True).split("\n")[0] in cells, name
    assert not any(letter in read.source for letter in "\x1b\x07\x08\x9b\u202e\u2066\u200b")
    links = [link for link in read.links if not link.startswith("#") and link != "data:,"]
    assert len(links) == len(NAMES)
    assert not any(":" in link for link in links)


@pytest.mark.slow
def test_figures_hold_them_as_text(results):
    for result in results.values():
        for caption, figure in result.figures().items():
            assert misread_axes(figure) == [], caption
            for key, text in strings(json.loads(figure_json(figure))):
                if key in ("hovertemplate", "texttemplate"):
                    for name in NAMES:
                        assert "<" not in name or name not in text, caption
                else:
                    left = text.replace("<b>", "", 1).replace("</b>", "", 1).replace("<br>", "", 1)
                    assert "<" not in left, (caption, key, text)
                    assert "$" not in text, (caption, key, text)
                    assert text.isprintable() or "\n" in text, (caption, key)


@pytest.mark.slow
@pytest.mark.browser
def test_nothing_of_them_runs_in_a_browser(chromium, page, tmp_path):  # noqa: F811
    probe = """<script>setTimeout(function () {
      var before = document.title, hovered = 0, todo = [];
      document.querySelectorAll(".plot").forEach(function (plot) {
        (plot.data || []).slice(0, 4).forEach(function (trace, k) {
          var where = (trace.xaxis || "x") + (trace.yaxis || "y");
          todo.push(function () {
            var place = trace.type === "heatmap" ? [0, 0] : 0;
            Plotly.Fx.hover(plot, [{curveNumber: k, pointNumber: place}], where);
            hovered += plot.querySelectorAll(".hovertext").length;
          });
        });
      });
      document.querySelectorAll("a, h1, h2, td, th, dd, pre").forEach(function (one) {
        one.dispatchEvent(new MouseEvent("mouseover", {bubbles: true}));
      });
      function last() {
        function bold(t) {
          return /bold|baseline-shift/.test(t.getAttribute("style") || "") && /bold|low/.test(t.textContent);
        }
        document.title = "PROBE" + JSON.stringify({
          title: before, hovered: hovered, ran: document.body.getAttribute("data-ran"), after: document.title,
          links: document.querySelectorAll(".plot a").length, pictures: document.images.length,
          bold: Array.prototype.filter.call(document.querySelectorAll(".plot tspan"), bold).length,
          handlers: document.querySelectorAll("[onerror], [onload], [onmouseover], [onclick]").length
        });
      }
      function step() {  // a hover at a time: they are throttled
        if (todo.length === 0) { last(); } else { todo.shift()(); setTimeout(step, 60); }
      }
      step();
    }, 3000);</script>"""
    copy = tmp_path / "probed.html"
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", probe + "</body>"), encoding="utf-8")
    seen = look(chromium, copy, tmp_path)
    found = json.loads(
        seen.dom.split("<title>PROBE")[1].split("</title>")[0].replace("&quot;", '"').replace("&lt;", "<")
        .replace("&gt;", ">").replace("&amp;", "&")
    )  # fmt: skip
    assert found.pop("hovered") > 30
    assert found.pop("title").strip() == found.pop("after").strip() == NAMES[0]
    assert found == {"ran": None, "links": 0, "pictures": 0, "bold": 0, "handlers": 0}
    assert seen.fetched == []
    assert seen.console == []


@pytest.mark.slow
def test_notebooks_show_them_as_text(results):
    for result in results.values():
        shown = result._repr_html_()
        for mark in (*MARKS, "\x1b", "\u202e"):
            assert mark not in shown
        assert 'class="tex2jax_ignore' in shown  # or dollars would be a formula, and its links live
        assert "\x1b" not in repr(result)[:100]


@pytest.mark.parametrize("what", ["terminal", "turned round"])
def test_what_prints_itself_is_seen(what):
    word = PAYLOADS[what]
    acts = Activations.from_tensors({PAYLOADS["turned round"]: np.zeros((20, 2))})
    frame = pd.DataFrame({"text": [f"{word} {i}" for i in range(20)], word: np.arange(20.0)})
    table = Table(frame, text="text", target=word, name=word)
    for one in (acts, table):
        assert repr(one).isprintable()
        assert str(one).isprintable()


@pytest.mark.slow
def test_findings_are_saved_and_told_inside_their_folder(numbers, tmp_path):
    (tmp_path / "in").mkdir()
    numbers.save(tmp_path / "in" / "findings")
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
    assert [p.name for p in (tmp_path / "in").iterdir()] == ["findings"]
    assert Findings.load(tmp_path / "in" / "findings").target_names == numbers.target_names
    made = push(tmp_path / "in" / "findings", "user/x", licence="mit", dry_run=True)
    assert attacks(made.card.split("\n---\n", 1)[1]) == []


@pytest.mark.slow
def test_a_terminal_sees_them(numbers, tmp_path, capsys):
    numbers.save(tmp_path / "findings")
    for arguments in (
        ["push", str(tmp_path / "findings"), "--repo", "user/x", "--dry-run"],
        ["push", str(tmp_path / "\x1b[31mred\u202e"), "--repo", "user/x"],
        ["report", str(tmp_path / "\x1b[31mred\u202e")],
        ["report", str(tmp_path / "findings")],
    ):
        main(arguments)
        said = "".join(capsys.readouterr())
        assert all(letter.isprintable() or letter in "\n\t" for letter in said), arguments


@pytest.mark.parametrize("what", PAYLOADS)
def test_what_is_printed_and_logged_is_seen(what, capsys, monkeypatch):
    # half a character in a report that pytest keeps of the log could not be sent between its processes
    monkeypatch.setattr(logging.getLogger("graticule"), "propagate", False)
    show_logs(verbose=False)
    say(PAYLOADS[what])
    say(PAYLOADS[what], err=True)
    logging.getLogger("graticule").warning("of %s", PAYLOADS[what])
    assert one_line(ValueError(PAYLOADS[what])).isprintable()
    for said in capsys.readouterr():
        assert all(letter.isprintable() or letter in "\n\t" for letter in said)


@pytest.mark.parametrize("what", PAYLOADS)
def test_labels(what):
    from plotly.graph_objects import Figure, Scatter

    word = PAYLOADS[what]
    ours = Markup(f"<b>{plain(word)}</b><br>ours")
    hover = f"{plain(word)}: %{{y}}<extra></extra>"
    figure = Figure(
        Scatter(x=[word, ours], y=[1, 2], text=np.array([word, "b"]), name=word, hovertemplate=hover)
    )
    figure.update_xaxes(title_text=word, ticktext=[word], tickvals=[0])
    figure.add_annotation(text=word, hovertext=word)
    spec = json.loads(figure_json(figure))
    (trace,) = spec["data"]
    expected = visible(word, lines=True)
    for entity, letter in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("$", "&#36;")):
        expected = expected.replace(entity, letter)
    assert trace["name"] == trace["text"][0] == trace["x"][0] == expected
    assert spec["layout"]["xaxis"]["title"]["text"] == spec["layout"]["xaxis"]["ticktext"][0] == expected
    assert (
        spec["layout"]["annotations"][0]["text"] == spec["layout"]["annotations"][0]["hovertext"] == expected
    )
    inside = expected.replace("%{", "&#37;{")
    assert trace["x"][1] == f"<b>{inside}</b><br>ours"
    assert trace["hovertemplate"] == f"{inside}: %{{y}}<extra></extra>"
