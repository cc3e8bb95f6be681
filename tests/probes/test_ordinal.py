"""Targets in ranks: grades, counts and heavy tails, judged without a few rows ruling the squares."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

from graticule import Table, sweep
from graticule.probes.core.verdict import NOT_DECIDED, STRUCTURE
from graticule.probes.surface.baselines import Baselines, text_digest
from graticule.probes.tables.columns import TableError
from graticule.sims.planted import planted


def frame_of(values: np.ndarray) -> pd.DataFrame:
    n = len(values)
    return pd.DataFrame({"text": [f"t{i}" for i in range(n)], "y": values, "is_test": np.arange(n) % 5 == 0})


def test_a_target_in_order_is_its_rank_among_training_rows() -> None:
    rng = np.random.default_rng(0)
    frame = frame_of(rng.integers(0, 5, 80))
    table = Table(frame, text="text", target="y", split="is_test", kind="ordinal")
    assert (table.kind, table.units) == ("numeric", ("rank",)) and ", ordinal y)" in repr(table)
    train = ~table.is_test
    ranks = (rankdata(frame["y"][train]) - 0.5) / train.sum()
    assert table.y[train, 0] == pytest.approx(ranks)
    below = [(frame["y"][train] < v).mean() + (frame["y"][train] == v).mean() / 2 for v in frame["y"]]
    assert table.y[:, 0] == pytest.approx(below)
    again = Table(
        frame.assign(y=np.exp(frame["y"])), text="text", target="y", split="is_test", kind="ordinal"
    )
    assert (again.y == table.y).all()


def test_categories_with_an_order_are_targets_in_order() -> None:
    grades = pd.Categorical(["low", "mid", "high", "mid"] * 10, ["low", "mid", "high"], ordered=True)
    frame = frame_of(np.arange(40)).assign(y=grades)
    table = Table(frame, text="text", target="y", split="is_test", kind="ordinal")
    assert (np.diff(table.y[:3, 0]) > 0).all() and table.y[1, 0] == table.y[3, 0]
    with pytest.raises(TableError, match="have no order"):
        unordered = frame.assign(y=pd.Categorical(list(grades)))
        Table(unordered, text="text", target="y", split="is_test", kind="ordinal")
    with pytest.raises(TableError, match="holds no numbers"):
        Table(frame.assign(y=list(grades)), text="text", target="y", split="is_test", kind="ordinal")
    with pytest.raises(TableError, match="ranks have none"):
        Table(frame_of(np.arange(40.0)), text="text", target="y", units="kg", kind="ordinal")


@pytest.mark.slow
def test_what_a_few_rows_rule_is_decided_by_ranks() -> None:
    world = planted(n_rows=600, n_layers=2, surface=0.3, hidden=0.4, seed=1)
    frame = world.table.frame.assign(target=np.exp(2.0 * world.table.y[:, 0]))
    verdicts = {}
    for kind in ("numeric", "ordinal"):
        table = Table(frame, text="text", target="target", split="is_test", kind=kind)
        beside = Baselines(text_digest(table), world.baselines.features, True)
        verdicts[kind] = sweep(world.activations, table, baselines=beside, progress=False)
    squares, ranks = verdicts["numeric"], verdicts["ordinal"]
    assert squares.verdict.label.startswith(f"{NOT_DECIDED}: the largest 1% of test rows hold")
    assert "kind='ordinal' judges ranks" in squares.summary()
    assert ranks.verdict.label == STRUCTURE
    assert "as ranks among the training rows (kind='ordinal')" in ranks.summary()
