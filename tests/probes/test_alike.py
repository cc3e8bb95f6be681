"""`cluster="auto"`: rows and texts that are nearly the same are presumed to belong together."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from graticule import Activations, Table, sweep
from graticule.probes.core.verdict import STRUCTURE
from graticule.probes.surface.baselines import Baselines, text_digest
from graticule.probes.tables.alike import alike_rows, alike_texts
from graticule.probes.tables.columns import TableError

POINT = "blocks.0.hook_resid_post"


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(((one[:, None] == one) == (other[:, None] == other)).all())


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_rows_that_are_nearly_the_same_are_one_cluster(scale: float) -> None:
    rng = np.random.default_rng(0)
    of = np.repeat(np.arange(60), 4)
    x = rng.normal(size=(60, 48))[of] + 0.3 * rng.normal(size=(240, 48))
    x[:, 0] *= 1e3
    assert same(alike_rows(scale * x + 5), of)
    for alone in (rng.normal(size=(240, 48)), rng.normal(size=(240, 3)), rng.normal(size=(60, 200))):
        assert len(np.unique(alike_rows(alone))) > 0.97 * len(alone)
    assert len(np.unique(alike_rows(np.ones((5, 2))))) == 5


def test_texts_that_share_most_of_their_letters_are_one_cluster() -> None:
    texts = [
        "Robert Louis Stevenson",
        "Robert L. Stevenson",
        "Marie Curie",
        "Marie Curies",
        "Ada Lovelace",
        "",
        "",
    ]
    assert same(alike_texts(texts[:5]), np.array([0, 0, 1, 1, 2]))
    assert len(np.unique(alike_texts(texts))) >= 4 and len(np.unique(alike_texts(["", " "]))) == 2


def test_a_table_puts_them_in_one_part() -> None:
    names = [f"{a} {b}" for a in ("Anna", "Boris", "Clara") for b in ("Miller", "Olsen", "Tanaka", "Weber")]
    texts = [text for name in names for text in (name, f"{name}s")]
    frame = pd.DataFrame({"text": texts, "y": np.arange(24.0)})
    table = Table(frame, text="text", target="y", cluster="auto")
    clusters = table.clusters.reshape(-1, 2)
    assert (clusters[:, 0] == clusters[:, 1]).all() and "most of their letters" in table.split_note
    assert (table.is_test.reshape(-1, 2)[:, 0] == table.is_test.reshape(-1, 2)[:, 1]).all()
    named = Table(frame.assign(auto=np.arange(24) // 4), text="text", target="y", cluster="auto")
    assert len(np.unique(named.clusters)) == 6  # a column of that name is a column
    with pytest.raises(TableError, match="name them, text="):
        Table(frame[["y"]], target="y", cluster="auto")


@pytest.mark.slow
def test_a_sweep_holds_them_out_together() -> None:
    rng = np.random.default_rng(1)
    of = np.repeat(np.arange(200), 3)
    x = rng.normal(size=(200, 256))[of] + 0.1 * rng.normal(size=(600, 256))
    y = rng.normal(size=200)[of]
    acts = Activations.from_tensors({POINT: torch.from_numpy(x)})
    luck = Activations.from_tensors({"hook_embed": torch.from_numpy(rng.normal(size=(600, 4)))})
    blank = Table.from_arrays(y)
    found = sweep(
        acts,
        y,
        baselines=Baselines(text_digest(blank), {"mean_embedding": luck}, False),
        cluster="auto",
        n_bootstrap=50,
        progress=False,
    )
    assert same(found.problem.clusters, of)
    assert found.verdict.label != STRUCTURE and not found.gates.structure


def test_near_copies_across_the_split_are_counted() -> None:
    """Paraphrases by letters, and by embeddings alone; none among texts that have nothing in common."""
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice([*"abcdefghijklmnop"], 12)) for _ in range(120)]
    embedding = rng.normal(size=(120, 16))
    is_test = np.arange(120) % 3 == 0
    rows = {POINT: rng.normal(size=(120, 6)).astype(np.float32)}

    def line(texts: list[str], embedding: np.ndarray) -> str:
        table = Table.from_arrays(rng.normal(size=120), texts, is_test)
        beside = {"mean_embedding": Activations.from_tensors({"hook_embed": embedding})}
        baselines = Baselines(text_digest(table), beside, False)
        warnings = sweep(Activations.from_tensors(rows), table, baselines=baselines, progress=False).verdict
        return next((w for w in warnings.warnings if "near copy" in w), "")

    assert line(texts, embedding) == ""
    alike, close = list(texts), embedding.copy()
    for i in range(0, 36, 3):  # twelve of forty test texts
        alike[i] = texts[i + 1] + "q"
        close[i] = embedding[i + 1] + 0.01 * rng.normal(size=16)
    alike = ["Review: her new show is funny and wise, and we all laughed, said " + text for text in alike]
    by_letters, by_embedding = line(alike, embedding), line(texts, close)
    assert "12 of 40 test texts" in by_letters and "(12 by letters, 0 by mean_embedding)" in by_letters
    around = ["…" + text[len(alike[1]) - 30 :] for text in alike[:2]]  # the first ends a letter later
    assert f"first {around[0]!r} beside {around[1]!r}" in by_letters
    assert "(0 by letters, 12 by mean_embedding)" in by_embedding
