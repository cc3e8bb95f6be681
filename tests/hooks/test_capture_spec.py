"""What a capture was asked comes back from what it saved, and does the same again."""

from __future__ import annotations

import json

import pytest
import torch

from graticule import Activations, Sample, capture
from graticule.hooks.artifact import read_json
from graticule.hooks.capture_spec import CaptureSpec, pos_to_data

ASKED = [
    {"pos": "all", "include_bos": False},
    {"pos": slice(1, None, 2), "prompt": "where is {} now", "prepend_bos": True},
    {"pos": Sample(2, seed=3), "prepend_bos": False, "dtype": "bfloat16"},
    {"pos": 0, "prompt": "'quoted' "},
    {},
]


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_a_capture_is_repeated_from_what_it_saved(tiny, names, tmp_path, asked):
    first = capture(tiny, names, layers=1, **asked)
    spec = CaptureSpec.from_json(json.loads(json.dumps(first.provenance)))
    assert (spec.n_inputs, spec.model) == (len(names), first.provenance["model"])
    again = capture(tiny, names, **spec.arguments(points=list(first.points), dtype=asked.get("dtype")))
    assert torch.equal(first["resid_post", 1], again["resid_post", 1])
    assert first.rows.equals(again.rows)
    assert CaptureSpec.from_json(again.provenance) == spec
    # a store's manifest says it in the same words, and a folder of saved activations, too
    stored = capture(tiny, names, layers=1, store=tmp_path / "store", **asked)
    assert CaptureSpec.from_json(stored.request) == CaptureSpec.from_json(stored.provenance) == spec
    first.save(tmp_path / "saved")
    assert CaptureSpec.from_json(Activations.load(tmp_path / "saved").provenance) == spec


def test_it_is_json_and_back():
    spec = CaptureSpec(
        model={"name": "m"},
        inputs="abc",
        n_inputs=3,
        prompt="",
        positions=pos_to_data(slice(-2, None)),
        points=("blocks.0.hook_resid_post",),
        dtype="float32",
        framed=True,
        prepend_bos=False,
        include_bos=True,
        shard=(1, 4),
    )
    assert CaptureSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert CaptureSpec.from_json(CaptureSpec().to_json()) == CaptureSpec()
    assert CaptureSpec().to_json() == {} and CaptureSpec().pos == "last"


def test_a_store_compares_what_it_always_compared(tiny, names, tmp_path):
    capture(tiny, names, layers=0, store=tmp_path / "store")
    assert sorted(read_json(tmp_path / "store" / "manifest.json")["request"]) == [
        "bos", "compile", "inputs", "model", "n_inputs", "pos", "prepend_bos", "prompt", "share_prefix",
        "token_budget",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("pos", "bos", "wanted"),
    [("'all'", True, "all"), ("-2", False, -2), ("slice(1, None, None)", True, slice(1, None))],
)
def test_captures_of_0_1_are_read(pos, bos, wanted):
    spec = CaptureSpec.from_json({"prompt": "", "pos": pos, "bos": bos, "captured_at": "then"})
    assert spec.arguments() == {"pos": wanted, "prompt": "", "prepend_bos": bos, "include_bos": None}
    assert spec.positions == pos_to_data(wanted)


def test_draws_of_0_1_are_read_but_not_repeated():
    spec = CaptureSpec.from_json({"pos": "Sample(k=2, seed=3)", "bos": True})
    assert spec.positions == "Sample(k=2, seed=3)" and spec.prepend_bos is True
    with pytest.raises(ValueError, match=r"was drawn by each text's place in the input.*capture again"):
        spec.arguments()
