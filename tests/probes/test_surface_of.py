"""Baselines of one's own, and fitted ones taken over."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import graticule
from graticule import Activations, Baselines, Findings, Table, sweep
from graticule.hooks.forms import WrongKindError
from graticule.probes.surface.baselines import text_digest
from graticule.probes.surface.confounds import CONFOUNDS
from graticule.probes.surface.joint import JOINT
from graticule.probes.surface.strings import SPELLING, TFIDF, TREES
from graticule.probes.surface.token_readers import TOKENS

POINT = "blocks.0.hook_resid_post"
N = 80
RNG = np.random.default_rng(0)
SEEN, CONCEPT = RNG.normal(size=(N, 3)), RNG.normal(size=(N, 3))
FRAME = pd.DataFrame({"y": SEEN[:, 0] + CONCEPT[:, 0], "z": SEEN[:, 1], "c": RNG.normal(size=N)})
ROWS = Activations.from_tensors({POINT: torch.from_numpy(np.concatenate([SEEN, CONCEPT], axis=1))})


def swept(
    target: str = "y", beside: np.ndarray = SEEN, confounds: list[str] | None = None, **how
) -> Findings:
    table = Table(FRAME, target=target, confounds=confounds or [])
    own = Baselines.of(table, {"seen": beside})
    return sweep(ROWS, table, baselines=own, crossfit=False, n_bootstrap=50, progress=False, **how)


@pytest.fixture(scope="module")
def first() -> Findings:
    return swept()


def test_features_of_ones_own_are_baselines(first: Findings) -> None:
    table = Table(FRAME, target="y")
    made = Baselines.of(table, {"seen": SEEN, "late": ROWS})
    assert graticule.Baselines is Baselines and made.table_digest == text_digest(table) and not made.strings
    assert list(made.features) == ["seen", "late"] and made.features["late"] is ROWS
    assert np.array_equal(made.features["seen"]["seen"].numpy(), SEEN)
    assert first.baselines["seen"]["test"]["r2"] > 0.2
    with pytest.raises(
        ValueError, match="'seen' has 7 rows, and the table 80: give one for each of its rows"
    ):
        Baselines.of(table, {"seen": SEEN[:7]})
    with pytest.raises(ValueError, match="'tfidf' is what a reader of texts is called"):
        Baselines.of(table, {"tfidf": SEEN})
    for value in ([1.0, 2.0], None, pd.DataFrame(SEEN)):
        with pytest.raises(WrongKindError, match=r"'seen' is .*: expected activations, or an array"):
            Baselines.of(table, {"seen": value})


@pytest.mark.parametrize("name", [TFIDF, SPELLING, TREES, CONFOUNDS, JOINT, *TOKENS])
def test_the_readers_names_are_taken(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name!r} is what a reader"):
        Baselines.of(Table(FRAME, target="y"), {name: SEEN})


def test_they_come_back_from_disk(tmp_path) -> None:
    made = Baselines.of(Table(FRAME, target="y"), {"seen": SEEN})
    for _ in range(2):
        made.save(tmp_path / "own")
    back = Baselines.load(tmp_path / "own")
    assert list(back.features) == ["seen"] and back.table_digest == made.table_digest
    assert np.array_equal(back.features["seen"].gather("seen", np.arange(N)).numpy(), SEEN)


def test_a_surface_of_something_else_is_refused_in_a_line(first: Findings) -> None:
    for what, how in (
        ("target", {"target": "z"}),
        ("baselines", {"beside": SEEN[::-1].copy()}),
        ("confounders", {"confounds": ["c"]}),
    ):
        with pytest.raises(
            ValueError, match=f"sweep: the findings given as surface_of= have other {what} than"
        ):
            swept(surface_of=first, **how)
    with pytest.raises(ValueError, match="have other target than"):
        swept("z", surface_of=replace(first, swept=None))


def test_a_surface_of_the_same_is_taken_over(first: Findings) -> None:
    assert swept(surface_of=first).verdict == first.verdict  # baselines made anew, and alike
    own = first.inputs
    again = sweep(
        ROWS,
        own.table,
        baselines=own.baselines,
        surface_of=first,
        crossfit=False,
        n_bootstrap=50,
        progress=False,
    )
    assert again.verdict == first.verdict
    assert again.baseline_predictions["seen"] is first.baseline_predictions["seen"]
