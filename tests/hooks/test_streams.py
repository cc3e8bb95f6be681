"""Streams: every row once and at its own place, and bit-identical batches after any stop."""

import copy
import hashlib
import json

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import as_installed, cached, relative

from graticule import Activations, Store
from graticule.hooks.artifact import ArtifactError
from graticule.hooks.capture import NonFiniteError
from graticule.hooks.points import PointError
from graticule.hooks.store_writer import StoreWriter
from graticule.hooks.streams.base import Stream
from graticule.hooks.streams.buffer import MixingBuffer
from graticule.hooks.streams.contexts import contexts
from graticule.hooks.streams.live import LiveStream
from graticule.hooks.streams.stored import StoreStream
from graticule.saes.training.folder import pack, unpack

POINTS = (
    "blocks.0.hook_resid_pre",
    "blocks.1.attn.hook_z",
    "blocks.1.mlp.hook_post",
    "blocks.2.hook_resid_post",
)
WIDTHS = {"a": 3, "b": 5}


def corpus(n=60, seed=0):
    """Texts of several lengths over the tiny tokenizer's words."""
    rng = np.random.default_rng(seed)
    words = ["the", "city", "of", "is", "in", "a", "river", "king", "paris", "rome", "oslo", "lima", "tokyo"]
    return [" ".join(rng.choice(words, rng.integers(3, 40))) for _ in range(n)]


def through_json(state):
    """The state as a checkpoint has it: words in JSON, tensors beside them, a moment's and not a view's."""
    tensors = {}
    words = json.loads(json.dumps(pack(state, tensors), allow_nan=False))
    return unpack(words, {name: tensor.clone() for name, tensor in tensors.items()})


def rows_of(batches, point):
    return torch.cat([b[point] for b in batches])


def numbered_store(folder, n=103, shards=4, dtype=torch.float32):
    """A store whose rows carry their own number in column 0 of `a`, and twice that in `b`."""
    writer = StoreWriter(folder, {"model": {"name": "none"}}, WIDTHS, "float32")
    number = torch.arange(n, dtype=torch.float32)
    table = pd.DataFrame(
        {"source": np.arange(n) // 7, "position": np.arange(n) % 7, "token": np.arange(n) % 7 + 1}
    )
    for part in np.array_split(np.arange(n), shards):
        own = number[torch.from_numpy(part)][:, None]
        tensors = {"a": own.expand(-1, 3), "b": 2 * own.expand(-1, 5)}
        writer.append({k: t.to(dtype) for k, t in tensors.items()}, table.iloc[part].reset_index(drop=True))
    return Store(writer.finish({}))


@pytest.fixture
def store(tmp_path):
    return numbered_store(tmp_path / "store")


# From a store ------------------------------------------------------------------------------------------
def test_a_store_gives_every_row_once_an_epoch_in_a_global_order(store):
    stream = StoreStream(store, batch_size=10, epochs=2, exclude_special=False)
    assert isinstance(stream, Stream)
    batches = list(stream)
    assert len(batches) == 2 * (103 // 10) and stream.n_batches == 10
    numbers = rows_of(batches, "a")[:, 0]
    assert torch.equal(rows_of(batches, "b"), 2 * numbers[:, None].expand(-1, 5))  # the same rows at both
    first, second = numbers[:100], numbers[100:]
    assert len(set(first.tolist())) == len(set(second.tolist())) == 100
    assert set(first.tolist()) != set(second.tolist())  # others are left over
    assert not torch.equal(first, second)
    # the shuffle is of all rows: a batch meets all shards, places are uncorrelated with rows
    assert min(len({int(n) // 26 for n in b["a"][:, 0]}) for b in batches) >= 3
    assert abs(np.corrcoef(np.arange(100), first.numpy())[0, 1]) < 0.3
    assert next(stream, None) is None  # ended, and stays so


def test_the_order_follows_from_the_seed_alone(store):
    def order(**more):
        return rows_of(StoreStream(store, "a", 10, exclude_special=False, **more), "a")[:, 0]

    assert torch.equal(order(seed=1), order(seed=1))
    assert not torch.equal(order(seed=1), order(seed=2))


@pytest.mark.slow
def test_a_store_stream_goes_on_from_any_batch(store):
    def fresh(**more):
        return StoreStream(store, batch_size=10, epochs=3, normalize="expected_average_only_in", **more)

    everything = [{p: t.clone() for p, t in b.items()} for b in fresh()]
    assert len(everything) == 24  # 88 rows an epoch: the token that begins every text is left out
    for stop in (0, 1, 7, 8, 23, 24):
        stream = fresh()
        for _ in range(stop):
            next(stream)
        state = through_json(stream.state_dict())
        again = fresh()
        next(again)  # where it stood does not matter
        again.load_state_dict(state)
        left = list(again)
        assert len(left) == 24 - stop
        assert all(
            torch.equal(a[p], b[p]) for a, b in zip(left, everything[stop:], strict=True) for p in WIDTHS
        )
    with pytest.raises(ValueError, match="seed: 0 there, 1 here"):
        fresh(seed=1).load_state_dict(state)


def test_rows_of_special_tokens_stay_out(store):
    def tokens(**more):
        numbers = rows_of(StoreStream(store, "a", 1, **more), "a")[:, 0]
        return set(store.rows["token"].to_numpy()[numbers.int().numpy()])

    assert tokens(exclude_special=False) == set(range(1, 8))
    assert tokens() == set(range(2, 8))  # 1 stands first in every text
    assert tokens(exclude_special=[3, 4]) == {1, 2, 5, 6, 7}
    assert tokens(rows=store.rows["token"].to_numpy() < 4) == {2, 3}
    with pytest.raises(ValueError, match="0 of 103 rows"):
        StoreStream(store, "a", 1, exclude_special=list(range(1, 8)))


def test_samples_do_not_move_a_store_stream(store):
    calm, sampled = (StoreStream(store, "a", 10, normalize="expected_average_only_in") for _ in range(2))
    taken = sampled.sample(40, seed=3)
    assert taken["a"].shape == (40, 3) and len(set(taken["a"][:, 0].tolist())) == 40
    assert torch.equal(taken["a"], sampled.sample(40, seed=3)["a"])
    for batch in calm:
        sampled.sample(15)
        assert torch.equal(batch["a"], next(sampled)["a"])
    assert len(sampled.sample(10_000)["a"]) == sampled.n_rows == 88
    factor = sampled.scaling_factors["a"]
    norms = Activations.load(store.path)["a"][store.rows["token"].to_numpy() != 1].norm(dim=1)
    assert factor == pytest.approx(3**0.5 / float(norms.mean()), rel=1e-6)


def test_half_precision_stores_and_activations_in_memory_stream_alike(tmp_path):
    half = numbered_store(tmp_path / "half", dtype=torch.bfloat16)
    memory = half.load()
    for batch, other in zip(StoreStream(half, "a", 9), StoreStream(memory, "a", 9), strict=True):
        assert batch["a"].dtype == torch.bfloat16 and torch.equal(batch["a"], other["a"])
    (first, *_), (wide, *_) = StoreStream(half, "a", 9), StoreStream(half, "a", 9, dtype="float32")
    assert wide["a"].dtype == torch.float32 and torch.equal(first["a"].float(), wide["a"])


def test_batches_are_the_callers_own(tmp_path):
    for folder, shards in (("one", 1), ("four", 4)):
        store = numbered_store(tmp_path / folder, shards=shards)
        for source in (store, store.load()):
            for batch in StoreStream(source, batch_size=10):
                for tensor in batch.values():
                    tensor.fill_(-1.0)
            assert torch.equal(store["a"][:, 0], torch.arange(103.0))
            assert torch.equal(store.gather("a", np.arange(103))[:, 0], torch.arange(103.0))


def test_gather_keeps_the_order_asked_for_and_refuses_rows_that_are_not_there(store):
    index = np.random.default_rng(0).integers(0, 103, 500)
    assert torch.equal(store.gather("b", index), Store(store.path)["b"][torch.from_numpy(index)])
    assert store.gather("b", np.array([], dtype=np.int64)).shape == (0, 5)
    for wrong in ([-1], [0, 103]):
        with pytest.raises(IndexError, match="rows 0 to 102"):
            store.gather("a", np.array(wrong))


def test_a_damaged_store_is_noticed(store):
    file = next(store.path.glob("a/00002*"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtifactError, match="checksum"):
        damaged = Store(store.path)
        with as_installed():  # the type checks look into the store themselves
            list(StoreStream(damaged, "a", 50))


# Live --------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def live(load_tiny):
    def make(points=POINTS, batch_size=16, **more):
        settings = {"context_size": 12, "buffer_tokens": 96, "token_budget": 60, **more}
        texts = settings.pop("texts", None) or corpus()
        return LiveStream(load_tiny("llama", "hooked"), texts, points, batch_size, **settings)

    return make


def expected_rows(model, tokens, keep):
    """Point → rows of `run_with_cache` where `keep`."""
    cache = cached(model, torch.from_numpy(tokens))
    return {p: cache[p].flatten(2)[torch.from_numpy(keep)] for p in POINTS}


def kinds_of(tokens, keep):
    """For every row kept a number for its tokens up to itself: on these alone it depends."""
    prefixes = [tuple(tokens[c, : p + 1]) for c, p in zip(*np.nonzero(keep), strict=True)]
    names = {prefix: i for i, prefix in enumerate(dict.fromkeys(prefixes))}
    return torch.tensor([names[p] for p in prefixes])


def matched(rows, expected):
    """For every row the number of the expected row it is (nearest), checked to be it."""
    distance = torch.cdist(rows.double(), expected.double())
    nearest = distance.argmin(1)
    assert relative(rows, expected[nearest]) < 1e-5
    return nearest


@pytest.mark.slow
def test_live_rows_are_those_of_run_with_cache_each_once_and_the_same_at_every_point(tiny, live):
    stream = live(batch_size=11)
    assert stream.points == POINTS and stream.widths == dict(zip(POINTS, (32, 32, 48, 32), strict=True))
    batches = list(stream)
    tokens = contexts(tiny, corpus(), 10_000, context_size=12)
    assert (tokens[:, 1:] == 0).any()  # BOS between documents too
    expected = expected_rows(tiny, tokens, tokens != 0)
    rows = {p: rows_of(batches, p) for p in POINTS}
    # attention makes rows of one token differ after block 1; the embedding alone cannot tell them apart
    order = matched(rows["blocks.2.hook_resid_post"], expected["blocks.2.hook_resid_post"])
    kinds = kinds_of(tokens, tokens != 0)
    missing = kinds.bincount() - kinds[order].bincount(minlength=int(kinds.max()) + 1)
    assert missing.min() >= 0 and missing.sum() == len(kinds) % 11  # the last rows, short of a batch
    for point in POINTS:
        assert relative(rows[point], expected[point][order]) < 1e-5
    assert (order[1:] < order[:-1]).float().mean() > 0.4  # mixed


@pytest.mark.slow
def test_a_batch_mixes_many_contexts(tiny, live):
    stream = live(batch_size=48, buffer_tokens=480)
    tokens = contexts(tiny, corpus(), 10_000, context_size=12)
    expected = expected_rows(tiny, tokens, tokens != 0)[POINTS[3]]
    context = torch.from_numpy(np.nonzero(tokens != 0)[0])
    seen = [len(context[matched(batch[POINTS[3]], expected)].unique()) for batch in stream]
    held = 480 / 10.5  # contexts in the buffer
    chance = held * (1 - (1 - 1 / held) ** 48)
    assert np.mean(seen[:-8]) > 0.8 * chance


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [{}, {"tokens_per_context": 3, "epochs": 2, "normalize": "expected_average_only_in"}]
)
def test_a_live_stream_goes_on_from_any_batch_to_the_bit(live, more):
    more = {"texts": corpus(20), **more}
    everything = list(live(**more))
    n = len(everything)
    assert n > 9
    for stop in (0, 1, n // 2, n - 1, n):
        stream = live(**more)
        for _ in range(stop):
            next(stream)
        state = through_json(stream.state_dict())
        again = live(**more)
        again.load_state_dict(state)
        left = list(again)
        assert len(left) == n - stop
        assert all(
            torch.equal(a[p], b[p]) for a, b in zip(left, everything[stop:], strict=True) for p in POINTS
        )
        follow = [b[POINTS[0]] for b in stream]  # the stream that was saved goes on the same way
        assert all(torch.equal(a, b[POINTS[0]]) for a, b in zip(follow, left, strict=True))


@pytest.mark.slow
def test_a_state_of_another_stream_is_refused_naming_what_differs(live):
    state = live().state_dict()
    for more, words in (
        ({"seed": 1}, "seed: 0 there, 1 here"),
        ({"texts": corpus(seed=1)}, "corpus"),
        ({"context_size": 9}, "contexts"),
        ({"points": POINTS[:1]}, "points"),
    ):
        with pytest.raises(ValueError, match=words):
            live(**more).load_state_dict(state)


def test_more_tokens_can_be_asked_for_after_the_end(tiny, live):
    short = live(POINTS[3:], n_tokens=170)
    first = list(short)
    assert len(first) == 10  # whole batches
    again = live(POINTS[3:], n_tokens=330)
    again.load_state_dict(short.state_dict())
    rest = list(again)
    assert len(rest) == 10
    tokens = contexts(tiny, corpus(), 40, context_size=12)
    expected = expected_rows(tiny, tokens, tokens != 0)[POINTS[3]]
    kinds = kinds_of(tokens, tokens != 0)
    given = kinds[matched(rows_of(first + rest, POINTS[3]), expected)]
    assert (kinds.bincount() - given.bincount(minlength=int(kinds.max()) + 1)).min() >= 0  # none twice


@pytest.mark.slow
def test_tokens_are_sampled_within_contexts(tiny, live):
    stream = live(tokens_per_context=2, seqpos_slice=(4, None), batch_size=8)
    tokens = contexts(tiny, corpus(), 10_000, context_size=12)
    keep = tokens != 0
    keep[:, :4] = False
    expected = expected_rows(tiny, tokens, keep)[POINTS[3]]
    context, position = (torch.from_numpy(x) for x in np.nonzero(keep))
    order = matched(rows_of(stream, POINTS[3]), expected)
    assert len(order) == 2 * len(tokens) // 8 * 8
    assert len(order.unique()) == len(order) and context[order].bincount().max() == 2
    assert set(position[order].tolist()) == set(range(4, 12))


@pytest.mark.slow
def test_special_tokens_are_left_out_unless_asked_for(tiny, live):
    tokens = contexts(tiny, corpus(), 10_000, context_size=12)
    for exclude, keep in ((False, tokens >= 0), ([int(tokens[0, 1])], tokens != tokens[0, 1])):
        expected = expected_rows(tiny, tokens, keep)[POINTS[3]]
        order = matched(rows_of(live(exclude_special=exclude, batch_size=1), POINTS[3]), expected)
        assert len(order) == len(expected)
        kinds = kinds_of(tokens, keep)
        assert torch.equal(kinds[order].bincount(), kinds.bincount())


@pytest.mark.slow
def test_the_session_is_left_as_found_and_an_interrupted_pass_changes_nothing(tiny, live, monkeypatch):
    everything = list(live())
    stream, torch_state = live(), torch.get_rng_state()
    np.random.seed(0)  # noqa: NPY002
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    own = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in tiny.parameters())).digest()
    calls, forward = [], stream._passes._forward

    def failing(tokens, read, *more):
        calls.append(1)
        forward(tokens, read, *more)
        if len(calls) in (2, 5):
            raise KeyboardInterrupt

    monkeypatch.setattr(stream._passes, "_forward", failing)
    tiny.train()
    got = []
    while len(got) < len(everything):
        try:
            got.append(next(stream))
        except KeyboardInterrupt:
            assert tiny.training
    tiny.eval()
    assert len(calls) > 5
    assert all(torch.equal(a[p], b[p]) for a, b in zip(got, everything, strict=True) for p in POINTS)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])  # noqa: NPY002
    assert own == hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in tiny.parameters())).digest()
    assert not any(hook.fwd_hooks for hook in tiny.hook_dict.values())


def test_rows_that_are_not_finite_stop_the_stream_and_are_named(tiny):
    broken = copy.deepcopy(tiny)
    with torch.no_grad():
        broken.W_E[int(tiny.tokenizer("tokyo")["input_ids"][-1])] = float("nan")
    stream = LiveStream(broken, [*corpus(4)[:3], "tokyo"] * 4, POINTS[0], 8, context_size=8, buffer_tokens=16)
    with pytest.raises(NonFiniteError, match=r"hook_resid_pre: .* in documents 0 to \d+ of texts"):
        next(stream)
    assert stream._buffer.n_rows == 0 and stream._contexts.state_dict()["document"] == 0
    large = LiveStream(tiny, corpus(9), POINTS[3], 8, context_size=8, buffer_tokens=16, dtype="float16")
    with (
        tiny.hooks([(POINTS[3], lambda value, hook: value * 1e6)]),
        pytest.raises(NonFiniteError, match="float16"),
    ):
        next(large)


@pytest.mark.slow
def test_samples_do_not_move_a_live_stream(live):
    calm, sampled = live(), live()
    taken = sampled.sample(50, seed=1)
    assert taken[POINTS[0]].shape == (50, 32)
    assert torch.equal(taken[POINTS[0]], sampled.sample(50, seed=1)[POINTS[0]])
    for batch in calm:
        sampled.sample(7, seed=2)
        other = next(sampled)
        assert all(torch.equal(batch[p], other[p]) for p in POINTS)
    assert len(live().sample(10_000)[POINTS[0]]) >= 96


@pytest.mark.parametrize("texts", [["oslo"], ["the city of oslo"] * 50], ids=["one", "short"])
def test_a_corpus_that_fills_no_context_is_named_with_its_size(tiny, texts):
    stream = LiveStream(tiny, texts, POINTS[0], 8, context_size=32, buffer_tokens=16, pack=False)
    for look in (lambda: stream.sample(4), lambda: next(stream)):
        with pytest.raises(ValueError, match=r"texts does not fill one context of 32 tokens.*pack=True"):
            look()


@pytest.mark.slow
@pytest.mark.parametrize(("epochs", "batches"), [(1, 40), (3, 120)])
def test_a_corpus_changed_anywhere_before_the_place_is_not_gone_on_from(tiny, epochs, batches):
    texts = corpus(60)
    made = {"context_size": 8, "buffer_tokens": 32, "epochs": epochs, "token_budget": 64}

    def fresh(texts):
        return LiveStream(tiny, texts, POINTS[0], 16, **made)

    stream = fresh(texts)
    for _ in range(batches):
        next(stream)
    state = through_json(stream.state_dict())
    read = state["place"]["documents_read"]
    assert (18 < read < 60) if epochs == 1 else read == 60
    rest = next(stream)[POINTS[0]]
    for changed in (17, read - 1):
        others = [*texts[:changed], texts[changed] + " oslo", *texts[changed + 1 :]]
        with pytest.raises(ValueError, match=f"texts has changed within the {read} documents read so far"):
            fresh(others).load_state_dict(state)
    same = fresh(texts)
    same.load_state_dict(state)
    assert torch.equal(next(same)[POINTS[0]], rest)
    if epochs == 1:  # what was not read yet may be another
        fresh([*texts[:read], *(t + " oslo" for t in texts[read:])]).load_state_dict(state)


@pytest.mark.slow
def test_dtype_of_the_rows(live):
    wide, half = live(POINTS[3:]), live(POINTS[3:], dtype="bfloat16")
    for a, b in zip(wide, half, strict=True):
        assert b[POINTS[3]].dtype == torch.bfloat16
        assert torch.equal(a[POINTS[3]].bfloat16(), b[POINTS[3]])
    with pytest.raises(ValueError, match="expected 'float32'"):
        live(dtype="int64")


@pytest.mark.slow
def test_the_end_of_the_corpus_is_told(live, caplog):
    stream = live(POINTS[:1], n_tokens=10**6)
    with caplog.at_level("WARNING"):
        assert len(list(stream)) > 5
    assert "epochs=2" in caplog.text
    assert len(list(live(POINTS[:1], n_tokens=480, epochs=None, texts=corpus(12)))) == 30
    with pytest.raises(ValueError, match="fewer than one batch"):
        next(live(POINTS[:1], 80, texts=["the city of oslo is in a river in the city of lima"]))


def test_settings_that_do_not_fit_are_refused(live):
    for more, words in (
        ({"batch_size": 0}, "at least one row"),
        ({"buffer_tokens": 5}, "smaller than batch_size"),
        ({"tokens_per_context": 0}, "at least 1"),
        ({"n_tokens": 3}, "less than one batch"),
        ({"seqpos_slice": (12, None)}, "none of 12 positions"),
        ({"normalize": "layer_norm"}, "expected_average_only_in"),
        ({"prepend_bos": True, "context_size": 99}, "at most 64"),
    ):
        with as_installed(), pytest.raises(ValueError, match=words):
            live(**more)
    with pytest.raises(PointError, match="hook_resid_pre"):
        live(points="blocks.0.hook_resid_prr")
    stream = live()
    with pytest.raises(ValueError, match="several points"):
        stream.provider()
    with pytest.raises(PointError, match="not in the stream"):
        stream.provider("blocks.9.hook_resid_post")


@pytest.mark.slow
def test_bridges_stream_the_same_rows_under_the_names_asked_for(load_tiny, live):
    bridge = load_tiny("llama", "bridge")
    points = (POINTS[0], POINTS[3])
    settings = {"context_size": 12, "buffer_tokens": 96, "token_budget": 60}
    other = LiveStream(bridge, corpus(), points, 16, prepend_bos=True, **settings)
    for a, b in zip(live(points), other, strict=True):
        assert set(b) == set(points)
        assert all(relative(b[p], a[p]) < 1e-4 for p in points)


# The parts ---------------------------------------------------------------------------------------------
def test_a_buffer_gives_back_every_row_once_whatever_the_order_of_writes_and_draws():
    rng = np.random.default_rng(0)
    buffer = MixingBuffer({"a": 1}, 50, torch.float32)
    written = drawn = 0
    seen = []
    while written < 1000 or buffer.n_rows:
        if written < 1000 and (n := int(rng.integers(0, buffer.capacity - buffer.n_rows + 1))):
            buffer.write(
                "a", buffer.claim(n), torch.arange(written, written + n, dtype=torch.float32)[:, None]
            )
            written += n
        n = int(rng.integers(0, buffer.n_rows + 1))
        seen += buffer.draw(n, rng)["a"][:, 0].tolist()
        drawn += n
        assert buffer.n_rows == written - drawn
        if drawn % 3 == 0:
            copy = MixingBuffer({"a": 1}, 50, torch.float32)
            copy.load_state_dict(buffer.state_dict())
            buffer = copy
    assert sorted(seen) == list(range(written))
    with pytest.raises(ValueError, match="do not fit"):
        buffer.claim(51)
    with pytest.raises(ValueError, match="do not fit"):
        MixingBuffer({"a": 2}, 50, torch.float32).load_state_dict(buffer.state_dict())
