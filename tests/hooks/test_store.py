"""Stores: resumed after SIGKILL byte for byte, bounded, checksummed, and refused with a reason."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from graticule import Activations, Store, capture
from graticule.hooks.artifact import ArtifactError

SCRIPT = """
import sys, torch, numpy as np
from transformer_lens import HookedTransformer, HookedTransformerConfig
from graticule import capture
from graticule.hooks.running import runner
runner._SHARD_BYTES = {shard_bytes}
torch.manual_seed(0)
torch.set_num_threads(1)
model = HookedTransformer(HookedTransformerConfig(
    n_layers=2, d_model=16, n_heads=2, d_head=8, d_vocab=500, n_ctx=16, act_fn="gelu", d_mlp=32,
    default_prepend_bos=False, device="cpu"))
rng = np.random.default_rng(0)
rows = [rng.integers(0, 500, rng.integers(2, 9)) for _ in range({rows})]
print("ready", flush=True)
capture(model, rows, store=sys.argv[1])
"""


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the provenance, which holds times."""
    files = (f for f in sorted(folder.rglob("*")) if f.is_file() and f.name != "provenance.json")
    return {str(f.relative_to(folder)): f.read_bytes() for f in files}


def run(folder: Path, rows: int, shard_bytes: int) -> subprocess.Popen:
    code = SCRIPT.format(rows=rows, shard_bytes=shard_bytes)
    command = [sys.executable, "-W", "ignore", "-c", code, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "HF_HUB_OFFLINE": "1"})


def test_killed_three_times_and_resumed_it_is_the_same_byte_for_byte(tmp_path):
    rows, shard_bytes = 50_000, 400_000  # 128 bytes a row: 16 shards
    calm = run(tmp_path / "calm", rows, shard_bytes)
    assert calm.wait() == 0
    rng, killed = np.random.default_rng(0), tmp_path / "killed"
    kills = 0
    for _ in range(3):
        process = run(killed, rows, shard_bytes)
        process.stdout.readline()  # past the imports
        time.sleep(float(rng.uniform(0.1, 0.5)))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        process.stdout.close()
        with pytest.raises(ArtifactError):
            Store(killed)
    calm.stdout.close()
    assert kills == 3
    final = run(killed, rows, shard_bytes)
    assert final.wait() == 0
    final.stdout.close()
    assert contents(killed) == contents(tmp_path / "calm")
    assert len(json.loads((killed / "manifest.json").read_text())["shards"]) > 10
    assert Store(killed).n_rows == rows


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr("graticule.hooks.running.runner._SHARD_BYTES", 4096)


def test_a_store_is_what_capture_gives_in_memory(tiny, names, tmp_path, small_shards):
    settings = {"points": ["resid_post", "mlp_post"], "pos": "all", "prompt": "where is "}
    store = capture(tiny, names, store=tmp_path / "store", **settings)
    acts = capture(tiny, names, **settings)
    assert isinstance(store, Store)
    assert len(json.loads((tmp_path / "store" / "manifest.json").read_text())["shards"]) > 5
    assert store.points == acts.points
    assert store.widths == acts.widths
    for point in acts:
        assert torch.allclose(store[point], acts[point], atol=1e-5)
        index = np.random.default_rng(0).permutation(acts.n_rows)[:50]
        assert torch.equal(store.gather(point, index), store[point][torch.from_numpy(index)])
    assert store.rows.equals(acts.rows)
    loaded = store.load()
    assert isinstance(loaded, Activations)
    assert torch.equal(loaded["resid_post", 1], store["resid_post", 1])


def test_a_finished_store_is_opened_without_running_the_model(tiny, names, tmp_path, monkeypatch):
    first = capture(tiny, names, store=tmp_path / "store")
    monkeypatch.setattr(type(tiny), "forward", lambda *a, **k: pytest.fail("the model ran"))
    again = capture(tiny, names, store=tmp_path / "store")
    assert torch.equal(first["resid_post", 0], again["resid_post", 0])


def test_another_capture_is_refused_and_said_how(tiny, load_tiny, names, tmp_path):
    store = capture(tiny, names, store=tmp_path / "store")
    for settings, words in (
        ({"prompt": "where is "}, "prompt"),
        ({"pos": "all"}, "pos"),
        ({"layers": 1}, "points"),
        ({"dtype": "bfloat16"}, "dtype"),
    ):
        with pytest.raises(ArtifactError, match=words):
            capture(tiny, names, store=tmp_path / "store", **settings)
    with pytest.raises(ArtifactError, match="inputs"):
        capture(tiny, names[:-1], store=tmp_path / "store")
    other = load_tiny("qwen3", "hooked")
    with pytest.raises(ArtifactError, match="weights"):
        store.check_model(other)
    with pytest.raises(ArtifactError, match="weights"):
        Store(tmp_path / "store", model=other)
    Store(tmp_path / "store", model=tiny)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="no activation store"):
        capture(tiny, names, store=tmp_path / "mine")


def test_damage_is_found(tiny, names, tmp_path):
    store = capture(tiny, names, store=tmp_path / "store")
    file = tmp_path / "store" / "blocks.1.hook_resid_post" / "00000.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-4] + bytes(4))
    fresh = Store(tmp_path / "store")
    assert torch.equal(fresh["resid_post", 0], store["resid_post", 0])
    with pytest.raises(ArtifactError, match=r"blocks\.1.*damaged"):
        fresh["resid_post", 1]
    with pytest.raises(ArtifactError, match="damaged"):
        Store(tmp_path / "store").verify()
    file.write_bytes(whole)
    Store(tmp_path / "store").verify()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"complete": False}, "incomplete"), ({"schema": 99}, "schema 99"), ({"kind": "sae"}, "'sae' folder")],
)
def test_incomplete_and_foreign_stores_are_refused(tiny, names, tmp_path, change, message):
    capture(tiny, names[:5], store=tmp_path / "store")
    manifest = tmp_path / "store" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **change}))
    with pytest.raises(ArtifactError, match=message):
        Store(tmp_path / "store")


def test_a_manifest_that_is_gone_or_no_json(tiny, names, tmp_path):
    with pytest.raises(ArtifactError, match="missing"):
        Store(tmp_path / "nowhere")
    capture(tiny, names[:5], store=tmp_path / "store")
    (tmp_path / "store" / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match="damaged"):
        Store(tmp_path / "store")


def test_a_full_disk_loses_no_whole_shard(tiny, names, tmp_path, small_shards, monkeypatch):
    """The third shard meets ENOSPC; the two before stay, and the same call goes on from there."""
    from graticule.hooks import store_writer as store_module

    original, calls = store_module.write_table, []

    def full(path, table):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        original(path, table)

    monkeypatch.setattr(store_module, "write_table", full)
    with pytest.raises(OSError, match="No space"):
        capture(tiny, names, store=tmp_path / "store")
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())
    assert len(manifest["shards"]) == 2
    assert not manifest["complete"]
    capture(tiny, names, store=tmp_path / "store")
    calm = capture(tiny, names, store=tmp_path / "calm")
    assert contents(tmp_path / "store") == contents(calm.path)


def test_memory_stays_bounded_while_streaming(tiny, tmp_path, small_shards, monkeypatch):
    """No shard in memory is larger than its bound (but for one text's own rows)."""
    from graticule.hooks.store_writer import StoreWriter

    sizes = []
    original = StoreWriter.append

    def append(self, tensors, rows):
        sizes.append(sum(t.numel() * t.element_size() for t in tensors.values()))
        original(self, tensors, rows)

    monkeypatch.setattr(StoreWriter, "append", append)
    rows = torch.randint(1, 60, (200, 6), generator=torch.Generator().manual_seed(0))
    capture(tiny, rows, store=tmp_path / "store")
    assert max(sizes) <= 4096
    assert sum(sizes) == 200 * 3 * 32 * 4
