"""Masked arrays are refused wherever arrays come in: nobody reads a mask."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch

from graticule import Activations, Contexts, RidgeProbe, Table, World, sweep
from graticule.hooks.limits import LimitError
from graticule.hooks.padding import Extent
from graticule.hooks.values import MaskedError, token_ids, unmasked
from graticule.probes.linear.strengths import check_alphas
from graticule.probes.steering import shuffled_pairs

N = 40
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N, 4)), RNG.normal(size=N)
TEST = np.arange(N) % 4 == 0
TEXTS = [f"text {i}" for i in range(N)]


def masked(values: np.ndarray, at: int = 3) -> np.ma.MaskedArray:
    mask = np.zeros(values.shape, bool)
    mask[at] = True
    return np.ma.masked_array(values, mask=mask)


def acts() -> Activations:
    return Activations.from_tensors({"x": X})


def table() -> Table:
    return Table.from_arrays(Y, is_test=TEST)


DOORS: dict[str, Callable[[], object]] = {
    "activations": lambda: Activations.from_tensors({"x": masked(X)}),
    "target of a sweep": lambda: sweep(acts(), masked(Y), split=TEST),
    "split of a sweep": lambda: sweep(acts(), Y, split=masked(TEST)),
    "clusters of a sweep": lambda: sweep(acts(), Y, split=TEST, cluster=masked(np.arange(N))),
    "y of a table": lambda: Table.from_arrays(masked(Y), TEXTS),
    "split of a table": lambda: Table.from_arrays(Y, TEXTS, masked(TEST)),
    "clusters of a table": lambda: Table.from_arrays(Y, TEXTS, TEST, masked(np.arange(N))),
    "another target": lambda: table().with_target(masked(Y)),
    "other clusters": lambda: table().with_clusters(masked(np.arange(N))),
    "X of a ridge": lambda: RidgeProbe().fit(masked(X), Y),
    "y of a ridge": lambda: RidgeProbe().fit(X, masked(Y)),
    "rows to be predicted": lambda: RidgeProbe().fit(X, Y).predict(masked(X)),
    "strengths": lambda: check_alphas(masked(np.array([1.0, 2.0, 4.0, 8.0]))),
    "lengths": lambda: Extent.of_lengths(masked(np.arange(1, 6)), 5, 9),
    "token ids": lambda: token_ids(masked(np.arange(9)), "token row 0"),
    "an attention mask": lambda: Extent.of_mask(masked(np.ones((5, 9), int)), 5, 9),
    "ends of a steering set": lambda: shuffled_pairs(X, masked(X), n_random=2),
    "masks of a world": lambda: Contexts.of(World.independent(4), masked(np.eye(4, dtype=int))),
}


@pytest.mark.parametrize("door", DOORS)
def test_masked_entries_are_refused_in_one_line(door: str) -> None:
    with pytest.raises(MaskedError, match=r"is a masked array with .* the first at \[3(, 0)?\]") as told:
        DOORS[door]()
    assert "\n" not in str(told.value)


def test_a_mask_without_a_masked_entry_is_taken() -> None:
    plain = sweep(acts(), Y, split=TEST, n_bootstrap=20).verdict
    found = sweep(acts(), np.ma.masked_array(Y, mask=False), split=TEST, n_bootstrap=20).verdict
    assert found == plain
    assert unmasked("y", Y) is Y
    frame = pd.DataFrame({"y": masked(Y)})  # pandas reads the mask: a missing value
    with pytest.raises(ValueError, match="row 3: target 'y' is missing"):
        Table(frame, target="y")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ([0, 1.5, 2], "1.5 at row 1"),
        ([0, np.nan, 2], "nan at row 1"),
        ([True, False, True], "True at row 0"),
        (["a"] * 3, "is a at row 0"),
    ],
)
def test_a_source_that_is_no_number_of_a_text_is_refused(source: list, said: str) -> None:
    """Truncated, row 1 would be taken for another one of text 1."""
    with pytest.raises(ValueError, match="the number of the text") as told:
        Activations.from_tensors({"x": X[:3]}, pd.DataFrame({"source": source}))
    assert said in str(told.value)
    whole = Activations.from_tensors({"x": X[:3]}, pd.DataFrame({"source": [0.0, 2.0, 1.0]}))
    assert sweep_sources(whole) == [0, 2, 1]


def sweep_sources(given: Activations) -> list[int]:
    from graticule.hooks.alignment import sources

    return sources(given.rows).tolist()


def test_no_seed_is_no_seed() -> None:
    """None would draw another split at every call, and say that its seed was None."""
    for call in (
        lambda: Table.from_arrays(Y, TEXTS, seed=None),
        lambda: sweep(acts(), Y, split=TEST, seed=None),
    ):
        with pytest.raises(LimitError, match="seed=None: expected a whole number of at least 0"):
            call()


@pytest.mark.parametrize(
    ("chances", "said"), [([-0.5, 1.5], "chances hold -0.5"), ([np.nan, 1.0], "chances hold nan")]
)
def test_chances_that_are_none_are_named(chances: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Contexts.of(World.independent(2), [[1, 0], [0, 1]], chances)


def test_long_rows_are_long_and_not_infinite() -> None:
    """Squares of 1e20 overflow float32, the rows themselves do not."""
    from graticule.hooks.streams.base import row_norms
    from graticule.hooks.streams.stored import StoreStream

    rows = torch.full((8, 4), 1e20)
    assert row_norms(rows) == pytest.approx(np.full(8, 2e20))
    given = Activations.from_tensors({"x": rows})
    with pytest.raises(ValueError, match=r"rows of x are up to 2e\+20 long.*divide the activations"):
        StoreStream(given, "x", batch_size=4, max_norm=10.0)
