"""States of long jobs: what is packed comes back the same, through JSON and safetensors."""

import json

import numpy as np
import pytest
import torch
from helpers import STATE, alike

from graticule.hooks.artifact import read_tensors, write_tensors
from graticule.saes.training.folder import apart, pack, unpack


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
