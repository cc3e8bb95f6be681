"""Capture against `run_with_cache`, one text at a time: every point, family, position and prompt."""

import functools

import numpy as np
import pytest
import torch
from helpers import FAMILIES, as_installed, cached, relative
from transformer_lens import HookedTransformer

from graticule import Activations, capture
from graticule.hooks.capture import NonFiniteError
from graticule.hooks.capture_spec import Sample

TOLERANCE = 1e-5


def vector_points(model, tokens):
    """Every point that holds `[batch, pos, …]`."""
    cache = cached(model, tokens)
    names = [n for n in model.hook_dict if n in cache and not n.endswith(("pattern", "scores"))]
    names = [
        n for n in names if not n.endswith(("hook_cos", "hook_sin"))
    ]  # of positions alone, one for all rows
    return [n for n in names if cache[n].ndim >= 3 and cache[n].shape[:2] == tokens.shape]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["hooked", "bridge"])
def test_every_point_is_what_run_with_cache_gives(load_tiny, names, family, kind):
    model = load_tiny(family, kind)
    texts = names[:12]
    points = vector_points(model, model.to_tokens(texts[0]))
    assert len(points) > 30
    acts = capture(model, texts, points=points, token_budget=24)
    assert set(acts) == set(points)
    for i, text in enumerate(texts):
        cache = cached(model, model.to_tokens(text))
        for point in points:
            assert relative(acts[point][i], cache[point][0, -1].reshape(-1)) <= TOLERANCE, (point, text)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hooked", "bridge"])
@pytest.mark.parametrize(
    "pos",
    ["last", "all", 1, -2, slice(1, None), "entity", "entity_last", "entity_mean", Sample(2, seed=3)],
    ids=str,
)
def test_positions_and_prompts(load_tiny, names, kind, pos):
    model = load_tiny("llama", kind)
    texts, before, after = names[:10], "what are the lat / lon coordinates of ", " ?"
    acts = capture(model, texts, prompt=before + "{}" + after, pos=pos, points=["resid_post", "hook_embed"])
    tokenizer = model.tokenizer
    row = 0
    for i, text in enumerate(texts):
        tokens = model.to_tokens(before + text + after)
        cache = cached(model, tokens)
        length, head = tokens.shape[1], 1 + len(tokenizer(before, add_special_tokens=False)["input_ids"])
        entity = np.arange(head, length - 1)  # the question mark is one token
        wanted = {
            "last": [length - 1],
            "all": range(length),
            "entity": entity,
            "entity_last": entity[-1:],
            "entity_mean": entity,
        }
        if isinstance(pos, str):
            places = list(wanted[pos])
        elif isinstance(pos, Sample):
            places = acts.rows.query("source == @i")["position"].to_list()
            assert len(places) == len(set(places)) == 2
            assert min(places) >= 1  # never BOS
        else:
            places = list(
                np.arange(length)[pos : pos + 1 or None] if isinstance(pos, int) else range(length)[pos]
            )
        for point in acts.points:
            expected = cache[point][0, places]
            if pos == "entity_mean":
                expected = expected.mean(0, keepdim=True)
            got = acts[point][row : row + len(expected)]
            assert relative(got, expected) <= TOLERANCE, (point, text)
        lines = acts.rows.iloc[row : row + len(expected)]
        assert (lines["source"] == i).all()
        if pos != "entity_mean":
            assert lines["position"].to_list() == places
            assert lines["token"].to_list() == tokens[0, places].tolist()
        row += len(expected)
    assert row == acts.n_rows


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hooked", "bridge"])
def test_the_result_does_not_depend_on_batching_or_on_a_shared_prefix(load_tiny, names, kind):
    model = load_tiny("gpt2", kind)
    prompt = "where is the city of "
    whole = capture(model, names, prompt=prompt, token_budget=4096)
    for other in (
        capture(model, names, prompt=prompt, token_budget=1),
        capture(model, names[::-1], prompt=prompt, token_budget=40).select(rows=slice(None, None, -1)),
        capture(model, names, prompt=prompt, share_prefix=False),
    ):
        for point in whole:
            assert relative(other[point], whole[point]) <= TOLERANCE
    twice = capture(model, names, prompt=prompt, token_budget=4096)
    assert all(torch.equal(twice[p], whole[p]) for p in whole)


def test_a_shared_prefix_is_computed_once(tiny, names, monkeypatch):
    prompt = "what are the lat / lon coordinates of the city of "
    seen = []
    original = HookedTransformer.forward

    @functools.wraps(original)
    def forward(self, tokens, *args, **kwargs):
        seen.append(tuple(tokens.shape))
        return original(self, tokens, *args, **kwargs)

    monkeypatch.setattr(HookedTransformer, "forward", forward)
    capture(tiny, names, prompt=prompt)
    longest = max(len(tiny.tokenizer(n, add_special_tokens=False)["input_ids"]) for n in names)
    prefix = [shape for shape in seen if shape[1] > longest + 1]
    assert len(prefix) == 2  # the prefix itself, and the check of the cached route against the plain one
    distinct = len(dict.fromkeys(names))
    assert sum(shape[0] for shape in seen if shape[1] <= longest) == distinct + 2  # repeats run once


def test_no_block_beyond_the_last_wanted_one_and_no_logits(load_tiny, names, monkeypatch):
    for kind in ("hooked", "bridge"):
        model = load_tiny("llama", kind)
        reached = []
        late = {n: h for n, h in model.hook_dict.items() if n.startswith(("blocks.2", "ln_final", "unembed"))}
        handles = [
            h.register_forward_hook(lambda *_, n=n, seen=reached: seen.append(n)) for n, h in late.items()
        ]
        try:
            capture(model, names[:5], layers=1)
        finally:
            for handle in handles:
                handle.remove()
        assert reached == [], kind


def test_bos_is_explicit(tiny, names):
    with_bos = capture(tiny, names[:4], pos="all")
    without = capture(tiny, names[:4], pos="all", prepend_bos=False)
    assert with_bos.n_rows == without.n_rows + 4
    assert (with_bos.rows.query("position == 0")["token"] == tiny.tokenizer.bos_token_id).all()
    for i, text in enumerate(names[:4]):
        tokens = tiny.to_tokens(text, prepend_bos=False)
        rows = np.flatnonzero(without.rows["source"] == i)
        expected = cached(tiny, tokens)["blocks.2.hook_resid_post"][0]
        assert relative(without["resid_post", 2][rows], expected) <= TOLERANCE


def test_token_rows_and_tensors(tiny):
    ragged = [[0, 5, 6], [0, 7], [0, 8, 9, 10, 11]]
    acts = capture(tiny, ragged)
    for i, row in enumerate(ragged):
        assert (
            relative(acts["resid_post", 1][i], cached(tiny, torch.tensor([row]))["resid_post", 1][0, -1])
            < 1e-5
        )
    block = torch.tensor([[0, 5, 6], [0, 9, 0]])  # a real token that shares the padding's id
    acts = capture(tiny, block, pos="all")
    assert (
        relative(acts["resid_post", 2].reshape(2, 3, -1), cached(tiny, block)["resid_post", 2]) <= TOLERANCE
    )


def test_dtype_and_rows(tiny, names):
    import pandas as pd

    table = pd.DataFrame({"name": names[:6], "year": range(6)})
    acts = capture(tiny, names[:6], pos="all", dtype="bfloat16", rows=table)
    assert acts["resid_post", 0].dtype == torch.bfloat16
    assert (acts.rows["name"] == [names[i] for i in acts.rows["source"]]).all()
    assert (acts.rows["year"] == acts.rows["source"]).all()


@pytest.mark.parametrize(
    ("inputs", "settings", "error", "message"),
    [
        ([], {}, ValueError, "no inputs"),
        (["rome", " "], {}, ValueError, "text 1 is empty"),
        (["rome", 3], {}, TypeError, "input 1 is int"),
        (["rome"], {"prompt": "{} in {}"}, ValueError, "exactly one slot"),
        (["rome"], {"pos": "first"}, ValueError, "expected one of"),
        (["rome"], {"pos": 9}, IndexError, "text 0 has 2 tokens"),
        (["rome"], {"dtype": "int8"}, ValueError, "float32"),
        (["the " * 80], {}, ValueError, "context is 64"),
        ([[0, 1], []], {}, ValueError, "token row 1"),
        ([[0, 1]], {"prompt": "where is "}, ValueError, "needs texts"),
        (["rome"], {"pos": slice(5, 9)}, ValueError, "selects no token"),
        (["rome"], {"points": "blocks.0.hook_resid_mid", "compile": True}, ValueError, "borders of blocks"),
    ],
)
def test_bad_input_is_refused_and_says_why(tiny, inputs, settings, error, message):
    with as_installed(), pytest.raises(error, match=message):
        capture(tiny, inputs, **settings)


def test_non_finite_values_name_their_text_and_point(load_tiny, names):
    import copy

    model = copy.deepcopy(load_tiny("llama", "hooked"))
    word = model.tokenizer("oslo", add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        model.embed.W_E[word] *= 1e7  # finite in float32, beyond float16
    texts = ["rome", "lima", "oslo", "cairo"]
    assert isinstance(capture(model, texts), Activations)
    with pytest.raises(NonFiniteError, match=r"blocks\.0\.hook_resid_post.*text 2.*float16 overflows"):
        capture(model, texts, dtype="float16")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_compiled_blocks_give_the_same_and_leave_no_trace(load_tiny, names):
    import copy

    model = copy.deepcopy(load_tiny("llama", "hooked"))
    plain = capture(model, names)
    compiled = capture(model, names, compile=True, points=["resid_post", "resid_pre"])
    assert all("forward" not in block.__dict__ for block in model.blocks)
    for point in plain:
        assert relative(compiled[point], plain[point]) <= TOLERANCE


@pytest.mark.parametrize("kind", ["hooked", "bridge"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_session_is_left_as_found(load_tiny, names, kind, fails, tmp_path):
    model = load_tiny("gpt2", kind)
    model.train()
    model.blocks[0].eval()
    model.tokenizer.padding_side = "left"
    mine = []
    model.add_hook("blocks.0.hook_resid_post", lambda t, hook: mine.append(1), is_permanent=True)
    torch.manual_seed(5)
    state, weights = torch.get_rng_state(), {n: (p, p.data_ptr()) for n, p in model.named_parameters()}
    flags = [m.training for m in model.modules()]
    before = {n: len(h.fwd_hooks) for n, h in model.hook_dict.items()}
    try:
        if fails:
            with pytest.raises(NonFiniteError):
                bad = model.tokenizer("oslo", add_special_tokens=False)["input_ids"][0]
                table = next(p for p in model.parameters() if p.shape[0] == len(model.tokenizer))
                kept = table.data[bad].clone()
                table.data[bad] = float("nan")
                try:
                    capture(model, ["rome", "oslo"])
                finally:
                    table.data[bad] = kept
        else:
            capture(model, names[:6])
        assert mine  # the user's own hook ran, and is still there
        assert {n: len(h.fwd_hooks) for n, h in model.hook_dict.items()} == before
        assert [m.training for m in model.modules()] == flags
        assert model.tokenizer.padding_side == "left"
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.get_default_dtype() == torch.float32
        assert torch.is_grad_enabled()
        assert all(
            dict(model.named_parameters())[n] is p and p.data_ptr() == d for n, (p, d) in weights.items()
        )
    finally:
        model.reset_hooks(including_permanent=True)
        model.tokenizer.padding_side = "right"
        model.eval()
