"""Rows far longer than the others: left out by a multiple of the median norm, or told of."""

import copy
import json

import numpy as np
import pytest
import torch
from helpers import as_installed

from graticule import Activations
from graticule.hooks.streams.base import NormLimit, large_rows, median_norm
from graticule.hooks.streams.live import LiveStream
from graticule.hooks.streams.stored import StoreStream
from graticule.saes.training.folder import pack, unpack

POINT, OTHER = "blocks.0.hook_resid_pre", "blocks.1.hook_resid_post"


def with_sinks(n=2000, share=0.01, times=100.0, seed=0):
    """Rows around a mean, of which some are many times as long; and which those are."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, 8)) + 2
    sinks = rng.choice(n, int(share * n), replace=False)
    rows[sinks] *= times
    return torch.from_numpy(rows).float(), np.sort(sinks)


def test_large_rows_and_their_share_of_the_variance_by_brute_force():
    rows, sinks = with_sinks()
    x = rows.double().numpy()
    apart = ((x - x.mean(0)) ** 2).sum(1)
    got = large_rows(rows)
    assert (got.n, got.of) == (20, 2000)
    assert got.share == pytest.approx(apart[sinks].sum() / apart.sum(), rel=1e-6) and got.share > 0.9
    assert "1.00% of the rows have over 10 times the median norm and hold 9" in got.words
    assert large_rows(rows[:1]).words == large_rows(torch.zeros(0, 3)).words == ""
    mostly_zero = torch.cat([torch.zeros(50, 3), torch.ones(9, 3)])
    assert median_norm(mostly_zero.norm(dim=1)) == pytest.approx(3**0.5) and large_rows(mostly_zero).n == 0


@pytest.mark.parametrize("bad", [1, 0, -3, float("nan"), float("inf"), True])
def test_multiples_that_leave_nothing_are_refused(bad):
    with as_installed(), pytest.raises(ValueError, match=r"max_norm=.*expected a number above 1"):
        NormLimit(bad)


@pytest.mark.slow
def test_a_store_leaves_out_the_rows_that_are_long_at_any_point(caplog):
    rows, sinks = with_sinks()
    other, more = with_sinks(seed=5)
    numbered = {POINT: rows, OTHER: other, "blocks.2.hook_resid_post": torch.arange(2000.0)[:, None] + 1e6}
    acts = Activations.from_tensors(numbered)
    stream = StoreStream(acts, batch_size=1)
    got = torch.cat([b["blocks.2.hook_resid_post"] for b in stream])[:, 0] - 1e6
    away = sorted({*sinks.tolist(), *more.tolist()})
    assert sorted(got.int().tolist()) == [i for i in range(2000) if i not in away]
    assert f"{len(away)} of 2,000 rows" in caplog.text and "max_norm=None takes them in" in caplog.text
    every = StoreStream(acts, batch_size=1, max_norm=None)
    assert every.n_rows == 2000
    assert StoreStream(acts, OTHER, batch_size=1).n_rows == 1980
    with pytest.raises(ValueError, match=r"max_norm: 10.0 there, None here"):
        every.load_state_dict(stream.state_dict())
    assert stream.metadata()["graticule"]["max_norm"] == 10.0


@pytest.fixture(scope="module")
def sinking(load_tiny):
    """A model that reads one word as a vector a hundred times as long, and that word's id."""
    model = copy.deepcopy(load_tiny("llama", "hooked"))
    word = int(model.tokenizer("oslo", add_special_tokens=False)["input_ids"][0])
    with torch.no_grad():
        model.W_E[word] *= 100
    return model, word


TEXTS = [f"the city of {name} is in the {side}" for name in ("oslo", "lima", "rome") for side in "abcdefgh"]


@pytest.mark.slow
@pytest.mark.parametrize("points", [POINT, [POINT, OTHER]], ids=["one", "two"])
def test_a_live_stream_gives_the_rows_it_would_give_without_the_long_ones(sinking, points, caplog):
    model, word = sinking
    made = {
        "context_size": 16,
        "buffer_tokens": 64,
        "token_budget": 64,
        "normalize": "expected_average_only_in",
    }
    stream = LiveStream(model, TEXTS * 4, points, 8, **made)
    batches = [b[POINT].clone() for b in stream]
    assert caplog.text.count("are left out: their norm is over 10 times the median") == 1
    factor = stream.scaling_factors[POINT]
    plain = LiveStream(model, TEXTS * 4, points, 8, exclude_special=[0, word], max_norm=None, **made)
    expected = torch.cat([b[POINT] / plain.scaling_factors[POINT] for b in plain])
    got = torch.cat(batches) / factor
    assert abs(len(got) - len(expected)) < 8
    assert got.norm(dim=1).max() < 3 * got.norm(dim=1).median()
    known = {tuple(r) for r in expected.round(decimals=3).tolist()}
    assert sum(tuple(r) in known for r in got.round(decimals=3).tolist()) > 0.97 * len(got)
    assert stream.norm_limit.left_out == int((torch.tensor(tokens_of(model, made)) == word).sum())
    everything = LiveStream(model, TEXTS * 4, points, 8, max_norm=None, context_size=16, buffer_tokens=64)
    assert max(b[POINT].norm(dim=1).max() for b in everything) > 20 * got.norm(dim=1).median()


def tokens_of(model, made):
    from graticule.hooks.streams.contexts import contexts

    return contexts(model, TEXTS * 4, 10_000, context_size=made["context_size"])


@pytest.mark.slow
def test_a_live_stream_that_leaves_rows_out_goes_on_to_the_bit(sinking):
    model, _ = sinking
    made = {"context_size": 16, "buffer_tokens": 64, "token_budget": 64}
    whole = [b[POINT] for b in LiveStream(model, TEXTS * 4, POINT, 8, **made)]
    stream = LiveStream(model, TEXTS * 4, POINT, 8, **made)
    for _ in range(7):
        next(stream)
    tensors = {}
    words = json.loads(json.dumps(pack(stream.state_dict(), tensors)))
    again = LiveStream(model, TEXTS * 4, POINT, 8, **made)
    again.load_state_dict(unpack(words, tensors))
    rest = [b[POINT] for b in again]
    assert len(rest) == len(whole) - 7 and all(map(torch.equal, rest, whole[7:]))
    assert again.norm_limit.left_out > 0
