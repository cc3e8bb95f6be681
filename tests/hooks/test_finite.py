"""The check of figures: what is said where one is no number."""

import math

import numpy as np
import pytest
import torch

from graticule.hooks.values import NonFiniteError, finite


@pytest.mark.parametrize(
    "values", [torch.zeros(2, 3), np.zeros((2, 3)), 1.5, 2, np.float32(3), torch.zeros(0)]
)
def test_numbers_are_given_back_as_they_were(values):
    assert finite("the loss", values) is values


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_what_where_and_how_many_are_said(bad, kind):
    values = kind([[1.0, 2.0], [3.0, bad], [bad, bad]])
    with pytest.raises(NonFiniteError, match=r"the loss: 3 non-finite entries, the first of text 1; wait$"):
        finite("the loss", values, lambda row: f"of text {row}", "wait")
    with pytest.raises(NonFiniteError, match=r"^a mean: 1 non-finite entries$"):
        finite("a mean", bad)


def test_entries_that_stand_for_nothing_may_be_anything():
    values, counted = torch.tensor([1.0, math.nan]), torch.tensor([True, False])
    assert finite("the loss", values, counted=counted) is values
    with pytest.raises(NonFiniteError):
        finite("the loss", values, counted=~counted)
