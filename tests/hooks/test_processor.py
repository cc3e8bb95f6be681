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


@pytest.mark.parametrize("fast", [False, True])
def test_models_and_captures_say_what_the_machine_does(hf_folder, names, monkeypatch, caplog, fast):
    from graticule import capture, load_model

    monkeypatch.setattr(processor, "features", lambda: ("amx_bf16",) if fast else ("avx512_bf16",))
    model = load_model(hf_folder("llama"), dtype="auto", device="cpu")
    assert next(model.parameters()).dtype == (torch.bfloat16 if fast else torch.float32)
    assert not caplog.records or fast
    with caplog.at_level(logging.WARNING, logger="graticule"):
        half = load_model(hf_folder("llama"), dtype="bfloat16", device="cpu")
        acts = capture(half, names[:3], dtype="auto", layers=0)
    assert acts["resid_post", 0].dtype == torch.bfloat16
    assert ("avx512_bf16" in acts.provenance["processor"]) is not fast
    told = [r.getMessage() for r in caplog.records if "computes in bfloat16" in r.getMessage()]
    assert len(told) == (0 if fast else 2), told
    assert all("avx512_bf16; no amx_bf16" in line for line in told)
