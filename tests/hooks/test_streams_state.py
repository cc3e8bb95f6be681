"""States of long jobs: what is packed comes back the same, through JSON and safetensors."""

import json
import math

import numpy as np
import pytest
import torch

from graticule.hooks.artifact import read_tensors, write_tensors
from graticule.hooks.streams.state import apart, pack, unpack


def alike(a, b) -> bool:
    """Equal in value and kind, all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and bool((a == b).all())
    if isinstance(a, dict):
        return list(a) == list(b) and all(alike(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    return a == b or (a != a and b != b)


def optimizer_state() -> dict:
    """A real optimiser's state after a step: integer keys, tuples, tensors of several shapes."""
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


STATE = {
    "optimizer": optimizer_state(),
    "numbers": [1, 2**70, 0.1, -math.inf, math.nan, True, None, "words", (1, (2.5, "x"))],
    "a.b": torch.arange(3),
    "a": {"b": torch.arange(4, dtype=torch.int16), "$tensor": "a name like ours"},
    "array": np.arange(3, dtype=np.uint8),
    "empty": [torch.zeros(0, 2), torch.zeros(0), {}, []],
    "half": torch.ones(2, dtype=torch.bfloat16),
    "scalar": torch.tensor(0.1, dtype=torch.float64),
    "torch": torch.get_rng_state(),
    "pcg": np.random.default_rng(3).bit_generator.state,
}


def test_what_is_packed_comes_back_through_json():
    tensors = {}
    words = json.dumps(pack(STATE, tensors), allow_nan=False)
    assert alike(unpack(json.loads(words), tensors), STATE)


def test_tensors_that_share_memory_are_written_apart(tmp_path):
    shared = torch.arange(6.0)
    state = STATE | {"view": shared[:3], "same": [shared, shared.view(2, 3)], "turned": shared.view(2, 3).T}
    tensors = {}
    words = json.dumps(pack(state, tensors), allow_nan=False)
    write_tensors(tmp_path / "t", apart(tensors))
    assert alike(unpack(json.loads(words), read_tensors(tmp_path / "t")), state)


def test_numbers_of_numpy_come_back_as_pythons():
    assert alike(unpack(pack([np.float64(0.1), np.int32(3)], {}), {}), [0.1, 3])


def test_other_things_are_refused():
    with pytest.raises(TypeError, match=r"state\.model\.0 is a Linear"):
        pack({"model": [torch.nn.Linear(1, 1)]}, {})
