"""Pooled rows against brute force, one learned query, and a sweep that chooses the way on training rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from graticule import Activations, Table, baselines, capture, pool, sweep
from graticule.probes.core.fit import fit_points
from graticule.probes.core.inputs import problem_of
from graticule.probes.core.labels import STRUCTURE
from graticule.probes.surface.baselines import Baselines, text_digest

POINT = "blocks.1.hook_resid_post"
WAYS = ("last", "mean", "max", "rolling")


def texts_of_tokens(rng: np.random.Generator, n: int, width: int = 12) -> tuple[np.ndarray, pd.DataFrame]:
    sizes = rng.integers(1, 15, n)
    rows = pd.DataFrame({"source": np.repeat(np.arange(n), sizes)})
    rows["position"] = rows.groupby("source").cumcount() + 1
    return rng.normal(size=(len(rows), width)), rows


def test_every_way_is_that_of_brute_force_in_any_order_of_rows():
    rng = np.random.default_rng(0)
    x, rows = texts_of_tokens(rng, 30)
    shuffled = rng.permutation(len(x))
    acts = Activations.from_tensors(
        {POINT: torch.from_numpy(x[shuffled])}, rows.iloc[shuffled].reset_index(drop=True), {"n_inputs": 30}
    )
    pooled = pool(acts, how=WAYS, window=4)
    assert pooled.points == tuple(f"{POINT}.{way}" for way in WAYS)
    assert pooled.rows["source"].tolist() == list(range(30)) and "position" not in pooled.rows
    for text in range(30):
        own = x[rows["source"] == text]
        windows = [own[i : i + 4].mean(0) for i in range(max(1, len(own) - 3))]
        for way, expected in zip(WAYS, (own[-1], own.mean(0), own.max(0), np.max(windows, 0)), strict=True):
            assert np.allclose(pooled[f"{POINT}.{way}"][text], expected, atol=1e-5)
    assert pooled.provenance["pooled"] == {"how": list(WAYS), "window": 4}


def world(seed: int, n: int, chance: bool = False) -> tuple[Table, Activations]:
    """Texts of which one token says the target, and a column which token that is."""
    rng = np.random.default_rng(seed)
    x, rows = texts_of_tokens(rng, n)
    y = rng.normal(size=n)
    needle = rows.groupby("source").sample(1, random_state=seed).index.to_numpy()
    if not chance:
        x[needle, 0] += 8
        x[needle, 1] = 3 * y
    table = Table.from_arrays(y, is_test=np.arange(n) % 4 == 0)
    return table, Activations.from_tensors({POINT: torch.from_numpy(x)}, rows, {"n_inputs": n})


@pytest.mark.slow
def test_a_learned_query_looks_where_the_target_is_and_never_at_the_row_itself():
    for chance in (False, True):
        table, acts = world(0, 240, chance)
        pooled = pool(acts, table, how=("mean", "max", "attention"))
        fits = {fit.point.rpartition(".")[2]: fit for fit in fit_points(pooled, problem_of(pooled, table))}
        scores = {way: fit.validation for way, fit in fits.items()}
        y = table.y[table.is_test]
        test = 1 - np.square(y - fits["attention"].test).sum() / np.square(y - y.mean()).sum()
        if chance:
            assert scores["attention"] < 0.05 and test < 0.05
        else:
            assert scores["attention"] > scores["mean"] + 0.2 and abs(scores["attention"] - test) < 0.2
            assert scores["attention"] > 0.7


@pytest.mark.slow
def test_a_sweep_chooses_the_way_and_its_findings_name_it():
    table, acts = world(1, 200)
    pooled = pool(acts, table, how=("last", "mean", "attention"))
    rng = np.random.default_rng(1)
    luck = Activations.from_tensors(
        {"hook_embed": torch.from_numpy(rng.normal(size=(acts.n_rows, 3)))}, acts.rows
    )
    beside = pool(Baselines(text_digest(table), {"block_0": luck}, False))
    assert beside.features["block_0"].points[0] == "hook_embed.last"
    assert beside.features["block_0"].n_rows == 200
    findings = sweep(pooled, table, baselines=beside, progress=False)
    assert findings.verdict.label == STRUCTURE
    assert findings.chosen_point == f"{POINT}.attention" and findings.chosen_layer == 1
    assert ".attention" in findings.summary()


@pytest.fixture(scope="module")
def model(load_tiny) -> Any:
    return load_tiny("llama", "hooked")


@pytest.mark.slow
def test_a_model_and_its_baselines_are_pooled_alike(model):
    rng = np.random.default_rng(0)
    words = ["paris", "rome", "oslo", "lima", "river", "king", "lake", "old"]
    texts = [" ".join(rng.choice(words, rng.integers(2, 7))) + f" {i}" for i in range(60)]
    table = Table.from_arrays([text.count("river") + 0.1 * len(text) for text in texts], texts=texts)
    every: dict[str, Any] = {"pos": "all", "include_bos": False, "layers": [0, 2], "progress": False}
    acts = pool(capture(model, texts, **every))
    beside = pool(baselines(model, table, **every))
    assert acts.n_rows == len(texts) and len(acts.points) == 8
    assert beside.features["twin_0"].points == acts.points
    assert beside.features["mean_embedding"].points == ("hook_embed",)
    findings = sweep(acts, table, baselines=beside, progress=False)
    assert findings.provenance["pairing"] == "texts compared" and findings.verdict.label != STRUCTURE


def test_what_cannot_be_pooled_is_refused_in_a_line():
    _, acts = world(0, 20)
    with pytest.raises(ValueError, match=r"how='median': expected 'last', 'mean', 'max', 'rolling'"):
        pool(acts, how="median")  # pyright: ignore
    with pytest.raises(ValueError, match=r"how=\(\) is no way: expected some of last"):
        pool(acts, how=())
    with pytest.raises(ValueError, match=r"learns from a target: pool\(activations, table"):
        pool(acts, how="attention")


def test_what_cannot_be_pooled_is_refused() -> None:
    rows = pd.DataFrame({"source": [0, 0, 1], "position": [1, 2, 1]})
    every = Activations.from_tensors({"hook_x": np.ones((3, 2), np.float32)}, rows=rows)
    with pytest.raises(ValueError, match="window=0"):
        pool(every, how="rolling", window=0)
    with pytest.raises(ValueError, match="one row, and nothing to pool"):
        pool(Activations.from_tensors({"hook_x": np.ones((3, 2), np.float32)}))
