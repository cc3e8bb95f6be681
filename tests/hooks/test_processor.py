"""What is said of the processor is what the machine says of itself; `auto` follows from it."""

import logging
from pathlib import Path

import pytest
import torch

from graticule.hooks import processor


@pytest.fixture
def machine(monkeypatch):
    """A machine whose kernel tells of some flags, or has no `/proc/cpuinfo`."""

    def pretend(flags: str | None) -> None:
        def read(self, **_):
            if flags is None:
                raise FileNotFoundError(self)
            return f"processor : 0\nmodel name : amx_bf16 in a name is no feature\nflags\t: fpu {flags}\n"

        monkeypatch.setattr(Path, "read_text", read)
        processor.features.cache_clear()

    yield pretend
    monkeypatch.undo()
    processor.features.cache_clear()


@pytest.mark.parametrize(
    ("flags", "seen", "fast"),
    [
        ("avx2 avx512f avx512_bf16", ("avx512_bf16", "avx512f", "avx2"), False),
        ("avx2 avx512f avx512_bf16 amx_bf16", ("amx_bf16", "avx512_bf16", "avx512f", "avx2"), True),
        ("avx2", ("avx2",), False),
        (None, (torch.backends.cpu.get_cpu_capability().lower(),), False),
    ],
)
def test_bfloat16_is_chosen_where_it_is_faster(machine, caplog, flags, seen, fast):
    machine(flags)
    assert processor.features() == seen
    assert processor.bfloat16_is_fast() is fast
    assert processor.auto_dtype() == (torch.bfloat16 if fast else torch.float32)
    assert all(f in processor.described() for f in seen)
    assert ("no amx_bf16" in processor.described()) is not fast
    with caplog.at_level(logging.WARNING, logger="graticule"):
        assert processor.tell_if_slow(torch.bfloat16, "cpu", "this run") is not fast
        assert not processor.tell_if_slow(torch.float32, "cpu", "this run")
    assert ("this run computes in bfloat16" in caplog.text) is not fast
    assert processor.bfloat16_is_fast("cuda")  # a GPU's own units
