"""Calls that people make by mistake: one line each, of what came, what was expected and what to write."""

import copy
import json
import logging
import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import as_installed
from sklearn.dummy import DummyClassifier
from sklearn.metrics import accuracy_score, balanced_accuracy_score

import graticule
from graticule import saes
from graticule.cli import main
from graticule.hooks.messages import TellsNames
from graticule.loading.lens import _SHARDING, quiet_lens
from graticule.probes.core.findings_figures import worst_rows
from graticule.probes.core.verdict import NO_BETTER, STRUCTURE

N = 48
TOPK = {"architecture": "topk", "d_sae": 16, "k": 2}
FRAME = pd.DataFrame(
    {"w": [f"{a} {b}" for a in ("paris", "rome", "oslo", "lima", "delhi", "cairo", "tokyo", "berlin")
           for b in ("king", "lake", "port", "san", "north", "south")],
     "y": np.arange(float(N)), "half": np.arange(N) % 2, "third": np.arange(N) % 3}
)  # fmt: skip


@pytest.fixture(scope="module")
def given(load_tiny):
    """A model, a table, activations, baselines, findings, and activations of every token."""
    model = load_tiny()
    table = graticule.Table(FRAME, text="w", target="y")
    acts, beside = graticule.capture(model, table.texts), graticule.baselines(model, table, twins=0)
    findings = graticule.sweep(acts, table, baselines=beside, n_bootstrap=20)
    return model, table, acts, beside, findings, graticule.capture(model, table.texts, pos="all", layers=[0])


CALLS = {
    "a model's name": (
        lambda m, t, a, b, f, e: graticule.probe("gemma-3-270m", t),
        r"probe: model is 'gemma-3-270m'; expected a loaded model: graticule\.load_model\('gemma-3-270m'\)",
    ),
    "a name to capture": (lambda m, t, a, b, f, e: graticule.capture("gemma", t.texts), "load_model"),
    "a name to evaluate": (lambda m, t, a, b, f, e: saes.evaluate("gemma", "sae", ["a"]), "load_model"),
    "a name to record": (lambda m, t, a, b, f, e: graticule.record("gemma"), "load_model"),
    "a frame for a table": (
        lambda m, t, a, b, f, e: graticule.probe(m, FRAME),
        r"table is a DataFrame; expected a graticule\.Table: graticule\.Table\(frame, text=",
    ),
    "a file for a table": (lambda m, t, a, b, f, e: graticule.probe(m, "x.csv"), r"Table\('x\.csv', text="),
    "table and model": (
        lambda m, t, a, b, f, e: graticule.probe(t, m),
        r"swap the two, probe\(model, table\)",
    ),
    "table and model of baselines": (lambda m, t, a, b, f, e: graticule.baselines(t, m), "swap the two"),
    "table and activations": (
        lambda m, t, a, b, f, e: graticule.sweep(t, a),
        r"activations is a Table: swap the two, sweep\(activations, target\)",
    ),
    "a frame for a target": (
        lambda m, t, a, b, f, e: graticule.sweep(a, FRAME),
        r"target is a DataFrame with columns w, y, .*graticule\.Table\(frame, text=",
    ),
    "a folder for activations": (
        lambda m, t, a, b, f, e: graticule.sweep("s", t),
        r"graticule\.Store\('s'\)",
    ),
    "an array for activations": (
        lambda m, t, a, b, f, e: graticule.sweep(np.ones((3, 2)), t),
        "from_tensors",
    ),
    "a frame to capture": (
        lambda m, t, a, b, f, e: graticule.capture(m, FRAME),
        r"frame\['COLUMN'\]\.tolist",
    ),
    "a table to capture": (lambda m, t, a, b, f, e: graticule.capture(m, t), r"expected texts: table\.texts"),
    "one text": (
        lambda m, t, a, b, f, e: graticule.capture(m, "Hello world"),
        r"inputs is one text, 'Hello world'; expected several: \[text\]",
    ),
    "one word": (lambda m, t, a, b, f, e: graticule.capture(m, "Helloworld"), "is one text"),
    "one text of bytes": (lambda m, t, a, b, f, e: graticule.capture(m, b"ab"), "is one text"),
    "a set of texts": (lambda m, t, a, b, f, e: graticule.capture(m, {"a", "b"}), "expected a list of texts"),
    "whole numbers kept": (
        lambda m, t, a, b, f, e: graticule.capture(m, t.texts, dtype=torch.int8),
        "dtype=torch.int8: expected 'float32', 'bfloat16'",
    ),
    "a dtype by name": (
        lambda m, t, a, b, f, e: graticule.capture(m, t.texts, dtype="int8"),
        "expected 'float",
    ),
    "rows that are no table": (lambda m, t, a, b, f, e: graticule.capture(m, t.texts, rows=[1]), "DataFrame"),
    "an SAE that is not there": (
        lambda m, t, a, b, f, e: graticule.latents(f, "run/sae"),
        "run/sae holds no SAELens SAE",
    ),
    "a number for an SAE": (lambda m, t, a, b, f, e: graticule.latents(f, 3), "int is no SAE"),
    "no baselines": (
        lambda m, t, a, b, f, e: f.with_inputs(a, t, None),
        "judged against .* given are spelling, tfidf, trees: give the baselines",
    ),
    "a table for baselines": (lambda m, t, a, b, f, e: f.with_inputs(a, t, t), r"graticule\.baselines\("),
    "a name to train on": (
        lambda m, t, a, b, f, e: saes.train("gemma", corpus=["a"], config={"architecture": "topk"}, out="o"),
        r"graticule\.load_model\('gemma'\)",
    ),
    "a table to train on": (
        lambda m, t, a, b, f, e: saes.train(t, config={"architecture": "topk"}, out="o"),
        "Table",
    ),
    "a number for a point": (
        lambda m, t, a, b, f, e: a[9],
        r"9 is no point: expected a hook name, or \('resid_post', 0\)$",
    ),
    "a number of a point": (lambda m, t, a, b, f, e: a[1], r"1 is no point: .* or \('resid_post', 1\)$"),
    "a point without its layer": (
        lambda m, t, a, b, f, e: a["resid_post"],
        r"'resid_post' names no layer: write \('resid_post', \d\)",
    ),
    "findings and a name": (
        lambda m, t, a, b, f, e: graticule.causes("gemma-3-270m", f),
        r"model is 'gemma-3-270m', in the place of findings; .*load_model\('gemma-3-270m'\)",
    ),
    "a table and a name": (
        lambda m, t, a, b, f, e: graticule.probe(t, "gemma"),
        r"model is 'gemma', in the place of table; .*load_model\('gemma'\)",
    ),
    "a table and a folder": (
        lambda m, t, a, b, f, e: graticule.sweep(t, None, baselines=b),
        r"activations is a Table; expected",
    ),
    "numbers for texts": (
        lambda m, t, a, b, f, e: graticule.capture(m, [1.0, 2.0]),
        r"token row 0 is 1\.0; expected a text, or a list of token ids",
    ),
    "None for a text": (
        lambda m, t, a, b, f, e: graticule.capture(m, [None]),
        "token row 0 is None; expected a text",
    ),
    "nothing to trace": (
        lambda m, t, a, b, f, e: graticule.trace(f, m, None),
        "trace: text is None; expected one text",
    ),
    "several texts to trace": (
        lambda m, t, a, b, f, e: graticule.trace(f, m, ["a"]),
        "trace: text is a list; expected one text",
    ),
    "a word for scales": (
        lambda m, t, a, b, f, e: graticule.steer(f, m, scales="3"),
        r"scales='3': expected several numbers",
    ),
    "words for scales": (
        lambda m, t, a, b, f, e: graticule.causes(f, m, scales=["-2", "2"]),
        r"scales=\['-2', '2'\]: expected several numbers",
    ),
    "nowhere to train into": (
        lambda m, t, a, b, f, e: saes.train(a, config={"architecture": "topk"}, out=None),
        "train: out is None; expected a folder to write",
    ),
    "a name nearly right": (
        lambda m, t, a, b, f, e: graticule.load_model("gemma-3-27m"),
        r"did you mean '([^']+)'(?! or '\1') or",
    ),
    "columns that capture writes": (
        lambda m, t, a, b, f, e: graticule.capture(m, t.texts, rows=FRAME.assign(position=1)),
        r"rows= has a column 'position', which capture writes itself: rename it",
    ),
    "a source of one's own": (
        lambda m, t, a, b, f, e: graticule.capture(m, t.texts, rows=FRAME.assign(source="x"), store="s"),
        r"rows= has a column 'source'",
    ),
    "a word for a strength": (
        lambda m, t, a, b, f, e: f.probe.fwd_hooks("add", "3"),
        "scale='3': expected a fin",
    ),
    "NaN for a strength": (
        lambda m, t, a, b, f, e: f.probe.fwd_hooks("add", np.nan),
        "scale=nan: expected a fi",
    ),
    "the text as target": (lambda m, t, a, b, f, e: graticule.Table(FRAME, "w", "w"), "is the text column"),
    "fewer rows than a batch": (
        lambda m, t, a, b, f, e: saes.train(
            a.select(points=a.points[:1]),
            config={"architecture": "topk", "d_sae": 16, "k": 2},
            out="o",
            epochs=None,
            batch_size=256,
            n_tokens=1000,
        ),
        "batch_size=256.*write batch_size=48",
    ),
    "another name of an argument": (
        lambda m, t, a, b, f, e: saes.train(a, config=TOPK, out="o", tokens=9),
        r"unexpected keyword argument 'tokens'; .*; did you mean n_tokens\?",
    ),
    "a misspelt argument": (
        lambda m, t, a, b, f, e: graticule.capture(m, t.texts, point="resid_post"),
        r"did you mean points\?",
    ),
    "train's own argument for its stream": (
        lambda m, t, a, b, f, e: saes.train(e, config=TOPK, out="o", stream={"batch_size": 8}),
        r"stream= has batch_size, which train takes itself: train\(…, batch_size=8\)",
    ),
    "the same of a live stream": (
        lambda m, t, a, b, f, e: saes.train(
            m, corpus=t.texts, config=TOPK, hook_name=e.points[0], out="o", stream={"n_tokens": 8}
        ),
        r"train\(…, n_tokens=8\)",
    ),
    "a misspelt setting of the stream": (
        lambda m, t, a, b, f, e: saes.train(e, config=TOPK, out="o", stream={"max_nrm": 8}),
        r"stream= has no setting 'max_nrm'; did you mean max_norm\?",
    ),
    "a wrong point and too few rows": (
        lambda m, t, a, b, f, e: saes.train(
            m, corpus=t.texts, config=TOPK, hook_name="blocks.0.hook_resid_pots", out="o", n_tokens=10
        ),
        "no hook point 'blocks.0.hook_resid_pots'",
    ),
    "a wrong architecture and too few rows": (
        lambda m, t, a, b, f, e: saes.train(
            m, corpus=t.texts, config="topkk", hook_name=e.points[0], out="o", n_tokens=10
        ),
        "architecture 'topkk': expected one of",
    ),
    "too few rows": (
        lambda m, t, a, b, f, e: saes.train(
            m, corpus=t.texts, config=TOPK, hook_name=e.points[0], out="o", n_tokens=10
        ),
        "n_tokens=10 is less than one batch of 4096: write batch_size=10 or less",
    ),
    "no end": (
        lambda m, t, a, b, f, e: saes.train(e, config=TOPK, out="o", epochs=None, batch_size=8),
        "epochs=None reads the data without end: say how many rows with n_tokens=",
    ),
    "a frame for a corpus": (
        lambda m, t, a, b, f, e: saes.train(m, corpus=FRAME, config=TOPK, hook_name=e.points[0], out="o"),
        r"a corpus of DataFrame: give its texts, frame\['COLUMN'\]\.tolist\(\)",
    ),
    "a series for a corpus": (
        lambda m, t, a, b, f, e: saes.train(m, corpus=FRAME["w"], config=TOPK, hook_name="x", out="o"),
        r"a corpus of Series: give its texts, series\.tolist\(\)",
    ),
    "SAE and model of an evaluation": (
        lambda m, t, a, b, f, e: saes.evaluate("my-sae", m, t.texts),
        r"swap the two, evaluate\(model, sae, corpus\)",
    ),
    "SAE and model to examine": (
        lambda m, t, a, b, f, e: saes.examine("my-sae", m, t.texts),
        r"swap the two, examine\(model, sae, corpus\)",
    ),
    "an unknown popularity column": (
        lambda m, t, a, b, f, e: graticule.popularity(f, "x"),
        "no column 'x' for pop",
    ),
    "a list of findings": (
        lambda m, t, a, b, f, e: graticule.transfer([f, f]),
        r"expected a mapping of prompts",
    ),
    "findings and a number": (
        lambda m, t, a, b, f, e: graticule.transfer({"a": f, "b": 3}),
        "prompt 'b' is 3",
    ),
    "a word to compare": (lambda m, t, a, b, f, e: graticule.compare(f, "x"), r"Findings\.load\('x'\)"),
    "baselines for labels a token": (
        lambda m, t, a, b, f, e: graticule.sweep(e, np.arange(e.n_rows) % 2, baselines=b),
        "label per token make the table, graticule.token_table",
    ),
    "labels a text and token": (
        lambda m, t, a, b, f, e: graticule.sweep(e, np.zeros((N, 4))),
        r"48 entries for \d+ activation rows; for a label per token, .* graticule.token_table",
    ),
    "ragged labels": (lambda m, t, a, b, f, e: graticule.sweep(e, [[1, 2], [3]] * 24), "ragged.*labels"),
    "token rows as texts": (
        lambda m, t, a, b, f, e: graticule.Table.from_arrays(np.arange(3.0), texts=[[1, 2]] * 3),
        r"holds list at row 0: of token rows leave text out, and give them to capture\(model, rows\); of c",
    ),
    "a gain that is none": (
        lambda m, t, a, b, f, e: graticule.sweep(a, t, min_gain=np.nan),
        "min_gain=nan: exp",
    ),
    "a negative gain": (
        lambda m, t, a, b, f, e: graticule.probe(m, t, min_gain=-1.0),
        "min_gain=-1.0: expected",
    ),
    "no draws": (
        lambda m, t, a, b, f, e: graticule.sweep(a, t, n_bootstrap=0),
        "n_bootstrap=0: expected a whole number",
    ),
    "no epochs": (lambda m, t, a, b, f, e: graticule.mlp(f, epochs=0), "epochs=0: expected a whole number"),
    "draws without end": (
        lambda m, t, a, b, f, e: graticule.compare(f, f, n_bootstrap=10**12),
        "at most 1,000,000",
    ),
    "a seed below 0": (lambda m, t, a, b, f, e: graticule.probe(m, t, seed=-1), "seed=-1"),
    "another argument": (
        lambda m, t, a, b, f, e: graticule.probe(m, t, layer=3),
        r"'layer'; it takes probe\(model",
    ),
    "names of columns as a list": (
        lambda m, t, a, b, f, e: graticule.Table(FRAME, text=["w"], target="y"),
        r"Table: text is a list; expected the name of a column: text='w'",
    ),
    "a column for its name": (
        lambda m, t, a, b, f, e: graticule.Table(FRAME, text=FRAME["w"], target="y"),
        r"text is a Series; expected the name of a column: text='w'",
    ),
    "a column for a target": (
        lambda m, t, a, b, f, e: graticule.Table(FRAME, "w", FRAME["y"]),
        r"target is a Series; expected names of columns: target='y'",
    ),
    "a frame of targets": (
        lambda m, t, a, b, f, e: graticule.Table(FRAME, "w", FRAME[["y", "half"]]),
        r"target is a DataFrame; .* target=\['y', 'half'\]",
    ),
    "values for a target": (
        lambda m, t, a, b, f, e: graticule.Table(FRAME, "w", FRAME["y"].astype(int).tolist()),
        "no column 0 for target; .*target takes names of columns, not their values",
    ),
    "values for a split": (
        lambda m, t, a, b, f, e: graticule.Table(FRAME, "w", "y", split=FRAME["half"]),
        "split is a Series; .* split='half'",
    ),
    "a column of blocks": (
        lambda m, t, a, b, f, e: graticule.Table(FRAME, "w", "y", blocks=FRAME["third"]),
        "blocks is a Series; .* blocks='third'",
    ),
    "text and target swapped": (
        lambda m, t, a, b, f, e: graticule.Table(FRAME, text="y", target="w"),
        "48 classes in 48 rows.*are the columns swapped\\? Write text='w', target='y'",
    ),
    "a target a row": (
        lambda m, t, a, b, f, e: graticule.Table(FRAME.assign(v=FRAME.w + " x"), text="w", target="v"),
        "48 classes in 48 rows.*: name a column of numbers or of few classes",
    ),
    "a column without its table": (
        lambda m, t, a, b, f, e: graticule.sweep(a, "y", baselines=b),
        r"no column 'y' among the activation rows, .*sweep\(activations, graticule\.Table\(…, target='y'\)\)",
    ),
    "a word among layers": (
        lambda m, t, a, b, f, e: graticule.capture(m, t.texts, layers=[0, "x"]),
        r"layers='x': expected 'all', an index 7, several \[3, 7\], a slice .* or a depth fraction 0.5",
    ),
    "a word for layers": (
        lambda m, t, a, b, f, e: graticule.capture(m, t.texts, layers="foo"),
        "'foo': expected 'all', an",
    ),
    "no layers": (lambda m, t, a, b, f, e: graticule.probe(m, t, layers=None), "layers=None: expected 'all'"),
    "yes for layers": (lambda m, t, a, b, f, e: graticule.capture(m, t.texts, layers=True), "layers=True"),
    "a whole fraction": (
        lambda m, t, a, b, f, e: graticule.capture(m, t.texts, layers=2.0),
        r"layer 2\.0: a depth fraction lies in \[0, 1\]; for the layer itself write 2$",
    ),
    "a number for points": (
        lambda m, t, a, b, f, e: graticule.capture(m, t.texts, points=3),
        "points=3: expected a name such as 'resid_post', or several",
    ),
    "a module's name": (
        lambda m, t, a, b, f, e: graticule.capture(m, t.texts, points="model.layers.1"),
        r"no hook point 'model\.layers\.1'; the nearest are blocks\.1\.hook_resid_post",
    ),
    "a part of a module": (
        lambda m, t, a, b, f, e: graticule.capture(m, t.texts, points="transformer.h.2.mlp"),
        r"the nearest are blocks\.2\.hook_mlp_out",
    ),
    "a name like none": (
        lambda m, t, a, b, f, e: graticule.capture(m, t.texts, points="zzz.qqq"),
        r"names look like blocks\.0\.\S+, short ones like 'resid_post'",
    ),
    "several prompts at once": (
        lambda m, t, a, b, f, e: graticule.capture(m, t.texts, prompt=["x"]),
        "prompt is a list; expected text before every row",
    ),
    "several prompts to probe": (
        lambda m, t, a, b, f, e: graticule.probe(m, t, prompt=["x"]),
        "probe: prompt is a list; .*: 'x'",
    ),
    "folders in a list": (
        lambda m, t, a, b, f, e: graticule.probe(m, t, out=["x"]),
        "probe: out is a list; expected a folder to write: 'runs/one'",
    ),
    "a number for a store": (
        lambda m, t, a, b, f, e: graticule.capture(m, t.texts, store=3),
        "capture: store is 3; expected a folder",
    ),
    "a number for a page": (lambda m, t, a, b, f, e: f.report(3), "3 is no path: .*'runs/one'"),
    "a list to save to": (lambda m, t, a, b, f, e: f.save(["x"]), "is no path: expected the name"),
    "a number to load": (lambda m, t, a, b, f, e: graticule.Findings.load(3), "3 is no path"),
    "a neuron's layer": (
        lambda m, t, a, b, f, e: graticule.ablate(f, m, "L3"),
        r"ablate: neurons is 'L3'; expected \(layer, index\) pairs: \[\(3, 17\)\]",
    ),
    "one neuron": (
        lambda m, t, a, b, f, e: graticule.ablate(f, m, (1, 3)),
        r"neurons is a tuple; .*\[\(1, 3\)\]",
    ),
    "no neurons": (
        lambda m, t, a, b, f, e: graticule.ablate(f, m),
        r"neurons is missing: expected \(layer, index\) pairs, \[\(3, 17\)\]; it takes ablate\(findings",
    ),
    "no blocks": (
        lambda m, t, a, b, f, e: graticule.holdouts(f),
        "by is missing: expected a column of the table",
    ),
    "a misspelt column": (
        lambda m, t, a, b, f, e: graticule.holdouts(f, "thrid"),
        "^no column 'thrid' in table: did you mean 'third'",
    ),
    "a point without a probe": (lambda m, t, a, b, f, e: f.at("x"), "^no probe at 'x'; there are probes at"),
    "no folder of a study": (
        lambda m, t, a, b, f, e: graticule.study(m, t),
        r"it takes study\(model, table, out=…, …\)",
    ),
    "texts by name": (
        lambda m, t, a, b, f, e: graticule.capture(m, texts=["x"]),
        r"inputs is missing: expected texts or token rows, capture\(model, texts\)",
    ),
    "a name among findings": (
        lambda m, t, a, b, f, e: graticule.directions(f, "x"),
        "'x' among the findings",
    ),
    "a curve to compare": (
        lambda m, t, a, b, f, e: graticule.compare(f, graticule.pca(f, ks=1)),
        r"b is a PCACurve; expected findings.*: its \.curve",
    ),
    "no second findings": (lambda m, t, a, b, f, e: graticule.compare(f), "compare: b is missing"),
    "a world by words": (
        lambda m, t, a, b, f, e: graticule.World(concepts="seven"),
        r"'concepts'; it takes World\(graph, tables, …\); .*graticule\.World\.random\(4\)",
    ),
    "nothing of a world": (
        lambda m, t, a, b, f, e: graticule.World(),
        r"graph is missing: .*World\.random\(4\)",
    ),
    "a number to certify": (lambda m, t, a, b, f, e: graticule.certify(3), r"graticule\.World\.random\(3\)"),
    "a misspelt step": (
        lambda m, t, a, b, f, e: graticule.study(m, t, out="o", only="controlls"),
        "no step 'controlls' in a study; did you mean 'controls'",
    ),
    "a misspelt step left out": (
        lambda m, t, a, b, f, e: graticule.study(m, t, out="o", skip="controlls"),
        "did you mean 'controls'",
    ),
    "a number of steps": (
        lambda m, t, a, b, f, e: graticule.study(m, t, out="o", only=3),
        r"only=\['controls'\]",
    ),
    "a name with no model": (
        lambda m, t, a, b, f, e: graticule.words("gemma"),
        r"load_model\('gemma'\), if there is a model of that name; 'gemma-3-270m' is packaged",
    ),
    "a name like no other": (
        lambda m, t, a, b, f, e: graticule.load_model("no-such"),
        "no-such.*write owner/name for a model of the Hub, a folder .*a .gguf file",
    ),
    "layers of a model": (
        lambda m, t, a, b, f, e: graticule.load_model("x", layers=3),
        r"load_model: .*'layers'; it takes load_model\(name_or_path, …\); its other arguments are dtype",
    ),
    "no configuration": (
        lambda m, t, a, b, f, e: saes.train(a, out="o"),
        r"train: config is missing: .*\{'architecture': 'topk', 'd_sae': 4096, 'k': 32\}",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", CALLS)
def test_a_mistaken_call_is_told_in_one_line(given, what: str, tmp_path: Path, monkeypatch) -> None:
    call, told = CALLS[what]
    monkeypatch.chdir(tmp_path)
    with as_installed(), pytest.raises((TypeError, ValueError, KeyError, OSError)) as caught:
        call(*given)
    said = str(caught.value)
    assert re.search(told, said), said
    assert "\n" not in said
    assert type(caught.value).__name__ != "AttributeError"


@pytest.mark.parametrize(
    ("of", "name", "meant"),
    [
        (lambda f: f, "verdit", "verdict"),
        (lambda f: f.verdict, "gian", "gain"),
        (lambda f: f.inputs.table, "taget_names", "target_names"),
        (lambda f: f.inputs.activations, "poins", "points"),
        (lambda f: graticule, "lod_model", "load_model"),
        (lambda f: saes, "trian", "train"),
    ],
)
def test_a_misspelt_attribute_names_the_one_meant(given, of, name: str, meant: str) -> None:
    thing = of(given[4])
    assert hasattr(thing, meant) and not hasattr(thing, name)
    with pytest.raises(AttributeError, match=rf"no attribute '{name}'; did you mean '{meant}'\?$"):
        getattr(thing, name)


def test_what_fails_inside_a_property_is_not_told_as_missing(given) -> None:
    """The error of a property is its own, and copies and pickles go on as they did."""

    class Thing(TellsNames):
        @property
        def whole(self) -> int:
            return np.float64(3).nothing

    with pytest.raises(AttributeError, match=r"numpy\.float64' object has no attribute 'nothing'"):
        _ = Thing().whole
    assert not hasattr(given[4], "_repr_png_")
    assert copy.deepcopy(given[4].verdict) == pickle.loads(pickle.dumps(given[4].verdict)) == given[4].verdict


@pytest.mark.slow
@pytest.mark.parametrize("call", [graticule.erase, graticule.steer, graticule.causes])
def test_a_model_before_findings_as_in_0_1_is_the_same_call_with_a_warning(given, call) -> None:
    model, _, _, _, findings, _ = given
    small = {"rows": 4} if call is graticule.erase else {"rows": 4, "controls": 2}
    one = json.dumps(call(findings, model, **small, progress=False).to_json())
    with pytest.warns(DeprecationWarning, match=rf"is the old form of {call.__name__}\(findings, model\)"):
        other = json.dumps(call(model, findings, **small, progress=False).to_json())
    assert one == other


def test_yes_or_no_is_told_as_such(given) -> None:
    _, _, acts, _, _, _ = given
    table = graticule.Table(FRAME.assign(half=np.where(FRAME.half == 1, "cold", "warm")), "w", "half")
    findings = graticule.sweep(acts, table, n_bootstrap=20)
    assert "half: 1 is 'warm', 0 is 'cold' (positive='cold' turns it round)" in findings.summary()
    assert "on test rows the probe alone: AUROC" in findings.summary()
    worst = worst_rows(findings)
    assert (worst["true class"] == np.where(worst["half, true"] > 0.5, "cold", "warm")).all()
    assert (worst["true class"] != worst["predicted class"]).all()
    assert ((worst["half, true"] > 0.5) != (worst["half, predicted"] > 0.5)).all()
    rows = findings.predictions[findings.predictions["split"] == "test"]
    assert len(worst) == int(((rows["true_half"] > 0.5) != (rows["pred_half"] > 0.5)).sum())


@pytest.mark.slow
def test_classes_are_told_by_name_and_beside_the_most_frequent(given) -> None:
    _, _, acts, _, _, _ = given
    place = acts[acts.points[-1]][:, 0].argsort().argsort().numpy()  # what the model holds, in unequal parts
    words = np.array(["=a b", "2000", "c"], dtype=object)[np.digitize(place, [24, 38])]
    table = graticule.Table(FRAME.assign(sort=words), "w", "sort", kind="categorical")
    findings = graticule.sweep(acts, table, score="r2", n_bootstrap=20)
    rows = findings.predictions
    columns = [f"sort={name}" for name in findings.classes]
    names = np.asarray(findings.classes)
    true, pred = (names[rows[[f"{s}_{c}" for c in columns]].to_numpy().argmax(1)] for s in ("true", "pred"))
    assert (true == table.frame["sort"].to_numpy()).all()
    test = (rows["split"] == "test").to_numpy()
    most = DummyClassifier(strategy="most_frequent").fit(np.zeros((int((~test).sum()), 1)), true[~test])
    always = most.predict(np.zeros((int(test.sum()), 1)))
    ours, plain = (
        (accuracy_score(true[test], said), balanced_accuracy_score(true[test], said))
        for said in (pred[test], always)
    )
    assert ours != plain
    said = (
        f"sort: 3 classes, R² is of 0 and 1 for each; on test rows accuracy {ours[0]:.3f}, balanced accuracy "
        f"{ours[1]:.3f}; always saying {str(always[0])!r}, the most frequent in training, gives "
        f"{plain[0]:.3f} and {plain[1]:.3f}"
    )
    assert said in findings.summary()
    scores = findings.tables()["Every layer; test scores of layers that were not chosen are exploratory"]
    assert list(scores.columns[:3]) == ["layer", "test_r2", "validation"]
    assert {f"test_r2_{column}" for column in columns} < set(scores.columns)
    (plain_target,) = [t for name, t in given[4].tables().items() if name.startswith("Every layer")]
    assert "test_r2_y" not in plain_target
    assert plain_target["test_r2"].equals(given[4].layers["test_r2_y"].rename("test_r2"))
    worst = worst_rows(findings)
    wrong = {text: (a, b) for text, a, b in zip(rows["text"], true, pred, strict=True) if a != b}
    assert len(worst) == int((true != pred)[test].sum()) > 0
    assert list(worst.columns[:3]) == ["text", "true class", "predicted class"]
    for line in worst.to_dict("records"):
        assert wrong[line["text"]] == (line["true class"], line["predicted class"])
        assert line["score of the true class"] <= line["score of the predicted class"]


def test_whole_numbers_and_labels_of_tokens_are_told_as_such(given) -> None:
    _, _, acts, _, _, every = given
    summary = graticule.sweep(acts, graticule.Table(FRAME, "w", "third"), n_bootstrap=20).summary()
    assert "third: 3 whole numbers, 0 to 2, are taken as numbers and judged by R²; kind='ordinal'" in summary
    assert "kind='categorical' classes, in bits" in summary
    labels = np.where(every.rows["token"].to_numpy() % 2 == 1, "odd", "even")
    split = every.rows["source"].to_numpy() % 4 == 0
    findings = graticule.sweep(every, labels, split=split, n_bootstrap=20)
    worst = worst_rows(findings)
    assert {"source", "position", "token"} <= set(worst.columns)


def test_a_gain_above_all_that_were_tried_is_no_contradiction(given) -> None:
    from dataclasses import replace

    split = given[4].split_verdict  # of one held-out part
    assert split.adds_nothing and split.label == NO_BETTER
    findings = replace(given[4], verdict=replace(split, gain=0.001, se=0.002, ci95=(-0.003, 0.005)))
    told = replace(findings, limit_of_detection=float("nan")).summary()
    none = "no hidden part of those tried would have been seen 80% of the time"
    assert "gain +0.001, and by its interval not above 0.005 for this probe" in told
    assert f"left open: with these rows, at this layer, {none}" in told
    tried = replace(findings, limit_of_detection=float("nan"), largest_gain_tried=0.2)
    assert "tried (up to 0.2 of the target's variance) would have been seen" in tried.summary()
    clear = replace(tried, verdict=replace(findings.verdict, label=STRUCTURE, gain=0.86)).summary()
    assert (
        "gain +0.860 was seen, though calibration says that the hidden parts it tried, up to 0.2 of the "
        "target's variance, would each have been missed more than 20% of the time with these rows" in clear
    )
    assert "0.2 or less" not in clear


@pytest.mark.parametrize("limit", [-0.009, 0.0])
def test_a_gain_that_is_no_gain_is_never_one_that_would_have_been_seen(given, limit) -> None:
    from dataclasses import replace

    told = replace(given[4], limit_of_detection=limit).summary()
    assert "no smallest gain can be given" in told
    assert "-0.009" not in told and "0.000 would" not in told


def test_a_result_is_shown_in_a_few_lines(given) -> None:
    model, _, _, _, findings, _ = given
    for result in (findings, graticule.trace(findings, model, "paris king")):
        assert 2 <= len(repr(result).splitlines()) <= 8
        assert len(repr(result)) < 2000
        assert repr(result).startswith(f"{type(result).__name__}: {result.title}")


def test_what_says_nothing_is_left_out(given) -> None:
    """Names of classes that are 0 and 1, and a table of the rows that are most wrong where none is."""
    from dataclasses import replace

    _, _, acts, _, _, _ = given
    findings = graticule.sweep(acts, graticule.Table(FRAME, "w", "half"), n_bootstrap=20)
    assert "half: 0 and 1 are no and yes" in findings.summary()
    assert "0 is '0'" not in findings.summary()
    right = findings.predictions.assign(pred_half=findings.predictions["true_half"])
    assert not any("most wrong" in name for name in replace(findings, predictions=right).tables())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("probe --table {csv} --text-column w --target w", "target 'w' is the text column"),
        ("probe --table {csv} --text-column w --target y --target y", "target 'y' is named twice"),
        (
            "probe --table {csv} --text-column w --target day",
            "holds dates (e.g. 2001-03-01): convert them to numbers, e.g. years, in a column of the file",
        ),
        ("probe --table {csv} --target y", "needs --text-column, what the model reads; its columns are w, y"),
        (
            "probe --table {csv} --text-column w",
            "needs --target, what is to be read out (NAME[:UNIT]); its col",
        ),
        ("probe --table {csv}", "needs --text-column, what the model reads and --target, what"),
        ("probe --table {csv} --text-column y --target w", "Write --text-column 'w' --target 'y'"),
        (
            "probe --table {csv} --text-column w --target y --kind classes",
            "--kind 'classes': expected numeric, o",
        ),
        ("study --table {csv} --text-column w --target half --kind categorial", "--kind 'categorial'"),
        ("probe --table {csv} --text-column w --target truth:year --kind numeric", "target 'truth' is not"),
        (
            "probe --table {csv} --text-column w --target lone",
            "leave the class out, merge it with another, or give --",
        ),
        ("probe --table {csv} --text-column w --target y:yaer", "did you mean 'year'?"),
        ("probe --table {csv} --text-column w --target half:year", "has the unit 'year' and holds classes"),
        (
            "probe --table {csv} --text-column w --target y --rows many",
            "'--rows': 'many': it should be a valid int",
        ),
        (
            "probe --table {csv} --text-column w --target y --layers foo",
            "expected all, an index 7, several 3,7,11",
        ),
        ("capture --table {csv} --text-column w --layers 1,x", "--layers '1,x': expected all, an index 7"),
        ("probe --table {csv} --text-column w --target truth", "several ways"),
        (
            "probe --table {csv} --text-column w --target typo",
            "row 7: target 'typo' is '1O', where 98% are numbers (--kind categorical",
        ),
        ("probe --table {csv} --text-column w --target typo", "Mend them, or pass --on-bad drop"),
        ("probe --table {latin} --text-column w --target y", "latin.csv, line 2 is not UTF-8"),
        (
            "study --table {csv} --text-column w --target y --popularity-column x",
            "no column 'x' for popularity",
        ),
        (
            "study --table {csv} --text-column w --target y --synthetic-targets 1",
            "--synthetic-targets 1: expected",
        ),
        ("capture --texts {lines}", "latin.txt, line 2 is not UTF-8"),
    ],
)
def test_the_command_line_refuses_the_same_before_a_model_is_loaded(
    words: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, days = ["TRUE", "True", "false", "no"] * (N // 4), [f"2001-03-{1 + i % 28:02d}" for i in range(N)]
    typo = ["1O" if i == 7 else str(i) for i in range(N)]
    frame = FRAME.assign(truth=np.array(truth, object), day=days, typo=typo, lone=["b", *"a" * (N - 1)])
    frame.loc[0, "truth"] = "No"
    frame.to_csv(tmp_path / "data.csv", index=False)
    FRAME.assign(w="Côte " + FRAME.w).to_csv(tmp_path / "latin.csv", index=False, encoding="cp1252")
    (tmp_path / "latin.txt").write_bytes((tmp_path / "latin.csv").read_bytes())
    places = {"csv": "data.csv", "latin": "latin.csv", "lines": "latin.txt"}
    line = words.format(**{name: tmp_path / file for name, file in places.items()})
    assert main([*line.split(), "--model", "no-such-model", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("graticule: ")
    assert told in said
    assert "\n" not in said
    assert not (tmp_path / "out").exists()


def test_the_old_name_of_synthetic_targets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    FRAME.to_csv(tmp_path / "data.csv", index=False)
    words = ["study", "--model", "no-such-model", "--table", str(tmp_path / "data.csv"), "--text-column", "w"]
    assert main([*words, "--target", "y", "--out", str(tmp_path / "out"), "--targets", "9"]) == 2
    assert "--targets is --synthetic-targets now" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("what", ["erase", "steer", "ablate"])
def test_long_work_says_how_long_it_will_take(given, what: str, monkeypatch, capsys) -> None:
    """A bar that ends at its total, unasked once the work lasts, never where it was refused."""
    from graticule.hooks import messages

    model, _, _, _, findings, _ = given
    short = {"rows": 4, "controls": 3}
    calls = {
        "erase": lambda **k: graticule.erase(findings, model, rows=8, **k),
        "steer": lambda **k: graticule.steer(findings, model, **short, **k),
        "ablate": lambda **k: graticule.ablate(findings, model, [(0, 1), (1, 2)], **short, **k),
    }
    monkeypatch.setattr(messages, "EVERY", 0.0)
    for progress, patience, seen in (
        (True, 1e9, True),
        (None, 0.0, True),
        (None, 1e9, False),
        (False, 0.0, False),
    ):
        monkeypatch.setattr(messages, "PATIENCE", patience)
        calls[what](progress=progress)
        drawn = re.findall(r"(\d+)/(\d+) \[(\S+)<(\S+),", capsys.readouterr().err)
        assert bool(drawn) == seen, (progress, patience)
        if seen:
            assert drawn[0][0] == "0"
            ends = [(int(n), int(of)) for n, of, _, _ in drawn]
            assert sum(n == of for n, of in ends) >= (2 if what == "erase" else 1)
            assert all(n <= of for n, of in ends)
            assert any(left != "?" for _, _, _, left in drawn)  # an estimate of what is left


def test_what_libraries_tell_each_other_is_not_told_while_a_model_is_loaded(monkeypatch) -> None:
    """A single device shards nothing; other words of that module pass, and all of them afterwards."""
    tells, alarm, passed = logging.getLogger(_SHARDING), "The following layers were not sharded: a.b", []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: passed.append(record.getMessage()))
    monkeypatch.setattr(tells, "level", logging.WARNING)
    tells.addHandler(handler)
    try:
        with quiet_lens():
            tells.warning(alarm)
            tells.warning("something else")
        tells.warning(alarm)
    finally:
        tells.removeHandler(handler)
    assert passed == ["something else", alarm]


def test_a_command_leaves_the_filters_of_warnings_as_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    before = list(warnings.filters)
    assert main(["tables"]) == 0
    assert warnings.filters == before
