"""Moments against sums taken directly, and the one place that decides between rows and columns."""

import re
from pathlib import Path

import numpy as np
import pytest

from graticule.probes.linear.moments import Axes, Moments, fewer_rows
from graticule.probes.linear.rows import ArrayRows

ROOMS = [Path(__file__).parents[2] / room for room in ("hooks", "probes", "sims", "plugin")]


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return 5 + rng.normal(size=(90, 7)), rng.normal(size=(90, 2))


def direct(X, y):
    """X'X and X'y about the means of these rows."""
    centred = X - X.mean(axis=0)
    return centred.T @ centred, centred.T @ (y - y.mean(axis=0))


def test_rows_are_taken_in_and_out_again(data):
    X, y = data
    shift, y_shift = X[0], y.mean(axis=0)
    of = [Moments.of(ArrayRows(X), y - y_shift, rows, shift, 8) for rows in (np.arange(90), np.arange(30))]
    rest = of[0].copy()
    rest.take_out(X[:30] - shift, y[:30] - y_shift)
    for moments in (rest, of[0].without(of[1])):
        mean = moments.centre(60, (y[30:] - y_shift).mean(axis=0))
        np.testing.assert_allclose(shift + mean, X[30:].mean(axis=0))
        gram, xy = direct(X[30:], y[30:])
        np.testing.assert_allclose(moments.gram, gram, atol=1e-10)
        np.testing.assert_allclose(moments.xy, xy, atol=1e-10)
    apart = Moments.of(ArrayRows(X), y - y_shift, np.arange(30, 90), shift, 64)
    apart.merge(of[1])
    np.testing.assert_allclose(apart.gram, of[0].gram, rtol=1e-12)


def test_rows_that_are_not_finite_are_named(data):
    X, y = data
    X[41, 3] = np.inf
    with pytest.raises(ValueError, match="row 41"):
        Moments.of(ArrayRows(X), y, np.arange(90), X[0], 16)


@pytest.mark.parametrize("shape", [(40, 9), (9, 40)])
def test_axes_are_the_singular_vectors_whichever_products_are_taken(shape):
    X = np.random.default_rng(1).normal(size=shape)
    axes = Axes.of(X)
    _, values, vectors = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)
    rank = min(shape[0] - 1, shape[1])
    np.testing.assert_allclose(axes.squares, values[:rank] ** 2, rtol=1e-9)
    np.testing.assert_allclose(np.abs((vectors[:rank] * axes.vectors.T).sum(axis=1)), 1.0, rtol=1e-9)
    np.testing.assert_allclose(axes.explained[-1], 1.0)


def test_rows_or_columns_is_decided_in_one_place():
    assert fewer_rows((3, 4))
    assert not fewer_rows((4, 4))
    compared = re.compile(
        r"\.shape\[0\] *[<>]=? *\w+(\.\w+)*\.shape\[1\]|len\((\w+)\) *[<>]=? *\2\.shape\[1\]"
        r"|\b(n|n_rows) *[<>]=? *width\b"
    )
    places = [f.name for room in ROOMS for f in room.rglob("*.py") if compared.search(f.read_text())]
    assert not places
    assert "shape[0] < shape[1]" in (ROOMS[1] / "linear" / "moments.py").read_text()
