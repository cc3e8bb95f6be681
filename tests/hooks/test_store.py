"""Stores: resumed after SIGKILL byte for byte, bounded, checksummed, and refused with a reason."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from graticule import Activations, Store, Table, capture, sweep
from graticule.hooks.alignment import COMPARED, AlignmentError
from graticule.hooks.artifact import ArtifactError
from graticule.hooks.names import place_of
from graticule.probes.core.inputs import paired_rows

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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


# Repaired --------------------------------------------------------------------------------------------
def damage(file: Path) -> None:
    """Other bytes, with the size and the time as they were."""
    stat, whole = file.stat(), file.read_bytes()
    file.write_bytes(whole[:-4] + bytes(b ^ 255 for b in whole[-4:]))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.slow
def test_capture_again_repairs_damaged_shards_and_only_these(tiny, names, tmp_path, small_shards):
    labels = pd.DataFrame({"name": names})
    store = capture(tiny, names, store=tmp_path / "store", rows=labels)
    whole = contents(store.path)
    shards = json.loads((store.path / "manifest.json").read_text())["shards"]
    assert len(shards) > 3
    for broken in (
        ["blocks.1.hook_resid_post/00001.safetensors"],
        ["rows/00000.parquet"],
        list(shards[2]["files"]),
    ):
        for name in broken:
            damage(store.path / name)
        fresh = Store(store.path)
        with pytest.raises(ArtifactError, match="capture again"):
            fresh.verify()
        untouched = store.path / "blocks.0.hook_resid_post" / "00003.safetensors"
        before = untouched.stat().st_mtime_ns
        again = capture(tiny, names, store=store.path, rows=labels)
        again.verify()
        assert contents(store.path) == whole
        assert untouched.stat().st_mtime_ns == before
    (store.path / "blocks.2.hook_resid_post" / "00000.safetensors").unlink()
    capture(tiny, names, store=store.path, rows=labels).verify()
    assert contents(store.path) == whole


def test_a_finished_store_is_hashed_where_something_changed_and_not_otherwise(
    tiny, names, tmp_path, monkeypatch
):
    from graticule.hooks import store_writer

    read: list[str] = []
    original = store_writer.sha256
    monkeypatch.setattr(store_writer, "sha256", lambda file: read.append(str(file)) or original(file))
    store = capture(tiny, names, store=tmp_path / "store")
    monkeypatch.setattr(type(tiny), "forward", lambda *a, **k: pytest.fail("the model ran"))
    read.clear()
    capture(tiny, names, store=tmp_path / "store")
    assert not read
    shutil.copytree(store.path, tmp_path / "copy", copy_function=shutil.copyfile)  # other times
    capture(tiny, names, store=tmp_path / "copy")
    assert len(read) == 4
    read.clear()
    capture(tiny, names, store=tmp_path / "copy")
    assert not read
    assert "noted" not in store.provenance


@pytest.mark.slow
def test_other_labels_are_refused_and_not_taken_for_the_old_ones(
    tiny, names, tmp_path, small_shards, monkeypatch
):
    from graticule.hooks import store_writer

    labels = pd.DataFrame({"label": np.arange(len(names))})
    edited = labels.replace(3, -3)
    capture(tiny, names, store=tmp_path / "store", rows=labels)
    with pytest.raises(ArtifactError, match="rows"):
        capture(tiny, names, store=tmp_path / "store", rows=edited)
    assert capture(
        tiny, names, store=tmp_path / "store", rows=labels.set_index(labels.label * 7)
    ).n_rows == len(names)

    original, calls = store_writer.write_table, []

    def full(path, table):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        original(path, table)

    monkeypatch.setattr(store_writer, "write_table", full)
    with pytest.raises(OSError, match="No space"):
        capture(tiny, names, store=tmp_path / "stopped", rows=labels)
    with pytest.raises(ArtifactError, match="rows"):  # not half of each
        capture(tiny, names, store=tmp_path / "stopped", rows=edited)
    for other in (labels.astype(str), labels.rename(columns={"label": "x"}), labels.astype("float64")):
        with pytest.raises(ArtifactError, match="row"):
            capture(tiny, names, store=tmp_path / "stopped", rows=other)


# Of which texts --------------------------------------------------------------------------------------
def _stopped(monkeypatch, call) -> None:
    """The call, which meets a full disk at its third shard."""
    from graticule.hooks import store_writer

    original, calls = store_writer.write_table, []

    def full(path, table):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        original(path, table)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(store_writer, "write_table", full)
        call()


def _ids(model, texts: list[str]) -> list[list[int]]:
    return [model.to_tokens(text)[0].tolist() for text in texts]


@pytest.mark.slow
def test_a_finished_store_is_of_the_texts_it_was_captured_with(tiny, names, tmp_path, caplog):
    """Other texts are refused; rows that say none are taken to be of those given, and that is said."""
    texts = [f"{name} {i}" for i, name in enumerate(names)]
    table, ids = Table.from_arrays(np.arange(60.0), texts), _ids(tiny, names)
    turned = [*texts[1:], texts[0]]
    said = capture(tiny, ids, store=tmp_path / "said", texts=turned)
    assert capture(tiny, ids, store=said.path, texts=turned).rows.equals(said.rows)
    assert capture(tiny, ids, store=said.path).rows.equals(said.rows)
    for others in (texts, [*turned[:-1], "x"], names):
        inputs = {"inputs": names} if others is names else {"inputs": ids, "texts": others}
        with pytest.raises(
            ArtifactError, match=r"row \d+ is of another one than .*choose another place"
        ) as e:
            capture(tiny, store=said.path, **inputs)
        assert "\n" not in str(e.value)
    assert paired_rows(capture(tiny, ids, store=tmp_path / "right", texts=texts), table)[1] == COMPARED
    assert "do not say" not in caplog.text

    unsaid = capture(tiny, ids, store=tmp_path / "unsaid")
    before = contents(unsaid.path)
    again = capture(tiny, ids, store=unsaid.path, texts=texts)
    assert "do not say which texts they are of" in caplog.text
    assert paired_rows(again, table)[1] == COMPARED and contents(unsaid.path) == before
    with pytest.raises(AlignmentError, match="another order"):
        sweep(capture(tiny, ids, store=unsaid.path, texts=turned), table)
    assert (
        paired_rows(capture(tiny, names, store=unsaid.path), Table.from_arrays(np.arange(60.0), names))[1]
        == COMPARED
    )
    with pytest.raises(AlignmentError, match=r"input 0 has the tokens of entry \d+ of"):
        capture(tiny, ids, store=unsaid.path, texts=[*names[1:], names[0]])


@pytest.mark.slow
def test_a_store_that_was_stopped_goes_on_with_the_same_texts(
    tiny, names, tmp_path, small_shards, monkeypatch
):
    texts = [f"{name} {i}" for i, name in enumerate(names)]
    ids, turned = _ids(tiny, names), [*texts[1:], texts[0]]
    calm = capture(tiny, ids, store=tmp_path / "calm", texts=texts)
    _stopped(monkeypatch, lambda: capture(tiny, ids, store=tmp_path / "said", texts=texts))
    with pytest.raises(ArtifactError, match="was captured with other texts"):
        capture(tiny, ids, store=tmp_path / "said", texts=turned)
    with pytest.raises(ArtifactError, match="give texts= as before"):
        capture(tiny, ids, store=tmp_path / "said")
    capture(tiny, ids, store=tmp_path / "said", texts=texts)
    assert contents(tmp_path / "said") == contents(calm.path)
    damage(calm.path / "rows" / "00001.parquet")
    with pytest.raises(ArtifactError, match="damaged"):
        Store(calm.path).verify()
    assert capture(tiny, ids, store=calm.path, texts=texts).rows.equals(Store(tmp_path / "said").rows)

    plain = capture(tiny, ids, store=tmp_path / "plain")
    _stopped(monkeypatch, lambda: capture(tiny, ids, store=tmp_path / "unsaid"))
    of_texts = capture(tiny, ids, store=tmp_path / "unsaid", texts=texts)
    assert contents(tmp_path / "unsaid") == contents(plain.path)
    assert of_texts.rows.equals(plain.with_texts(texts).rows)


# Manifests that lie ----------------------------------------------------------------------------------
def _set(manifest, *path_and_value):
    *path, last, value = path_and_value
    for key in path:
        manifest = manifest[key]
    manifest[last] = value


HOSTILE = {
    "a point up and away": lambda m: _set(m, "points", 0, "name", "../../data"),
    "an absolute point": lambda m: _set(m, "points", 0, "name", "/tmp/data"),
    "a point that is the row table": lambda m: _set(m, "points", 0, "name", "rows"),
    "a point that is no text": lambda m: _set(m, "points", 0, "name", 7),
    "a point twice": lambda m: m["points"].append(m["points"][0]),
    "a wider width": lambda m: _set(m, "points", 0, "width", 64),
    "a negative width": lambda m: _set(m, "points", 0, "width", -32),
    "a width that is no number": lambda m: _set(m, "points", 0, "width", "32"),
    "more rows": lambda m: (_set(m, "n_rows", 10**6), _set(m, "shards", 0, "rows", [0, 10**6])),
    "rows that go back": lambda m: _set(m, "shards", 0, "rows", [5, 2]),
    "rows that do not begin at 0": lambda m: _set(m, "shards", 0, "rows", [2, 62]),
    "another number of rows": lambda m: _set(m, "n_rows", 3),
    "a file elsewhere": lambda m: m["shards"][0]["files"].update({"../x": "0" * 64}),
    "a file less": lambda m: m["shards"][0]["files"].pop("rows/00000.parquet"),
    "no checksum": lambda m: _set(m, "shards", 0, "files", "rows/00000.parquet", None),
    "no points": lambda m: m.pop("points"),
    "no shards": lambda m: m.pop("shards"),
    "no request": lambda m: m.pop("request"),
    "no dtype": lambda m: m.pop("dtype"),
    "no count": lambda m: m.pop("n_rows"),
    "no word of being complete": lambda m: m.pop("complete"),
    "shards that are a number": lambda m: _set(m, "shards", 7),
    "points that are text": lambda m: _set(m, "points", "all"),
}


@pytest.fixture(scope="module")
def a_store(load_tiny, names, tmp_path_factory):
    return capture(load_tiny("llama", "hooked"), names, store=tmp_path_factory.mktemp("lies") / "store").path


@pytest.mark.parametrize("lie", HOSTILE)
def test_a_manifest_that_does_not_fit_is_refused_on_opening(lie, a_store, tiny, names):
    manifest = a_store / "manifest.json"
    told = manifest.read_text()
    words = json.loads(told)
    HOSTILE[lie](words)
    manifest.write_text(json.dumps(words))
    try:
        for open_it in (Store, Activations.load, lambda p: capture(tiny, names, store=p)):
            with pytest.raises(ArtifactError) as refusal:
                open_it(a_store)
            assert "\n" not in str(refusal.value)
            assert str(a_store) in str(refusal.value)
    finally:
        manifest.write_text(told)


def test_tensors_of_another_shape_or_cut_short_are_refused_without_checksums_too(a_store, tmp_path):
    from safetensors.torch import save_file

    shutil.copytree(a_store, tmp_path / "store")
    file = tmp_path / "store" / "blocks.0.hook_resid_post" / "00000.safetensors"
    whole = file.read_bytes()
    for spoil in (
        lambda: save_file({"data": torch.zeros(60, 16)}, file),
        lambda: save_file({"other": torch.zeros(60, 32)}, file),
        lambda: save_file({"data": torch.zeros(60, 32, dtype=torch.int64)}, file),
        lambda: file.write_bytes(whole[:-8]),
        lambda: file.write_bytes(b"\xff" * 64),
        lambda: file.write_bytes(b""),
    ):
        spoil()
        with pytest.raises(ArtifactError, match=r"00000\.safetensors"):
            Store(tmp_path / "store", verify=False)
        file.write_bytes(whole)
    assert Store(tmp_path / "store", verify=False).n_rows == 60


def test_names_that_would_leave_the_folder_are_refused_where_they_enter(tmp_path):
    for name in ("/tmp/elsewhere", "../../x", "a/b", "..", "", "a\0b", "rows"):
        with pytest.raises(ValueError, match="hook"):
            Activations.from_tensors({name: torch.ones(2, 3)}).save(tmp_path / "store")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_store_of_very_many_shards_needs_few_file_handles(tmp_path):
    import resource

    from graticule.hooks.store_writer import StoreWriter

    writer = StoreWriter(tmp_path / "store", {}, {"hook_a": 2, "hook_b": 2}, "float32")
    rng = np.random.default_rng(0)
    data = torch.from_numpy(rng.normal(size=(225, 2)).astype(np.float32))
    for i in range(75):
        here = data[3 * i : 3 * i + 3]
        writer.append({"hook_a": here, "hook_b": -here}, pd.DataFrame({"source": range(3 * i, 3 * i + 3)}))
    store = Store(writer.finish({}))
    used = len(os.listdir("/proc/self/fd"))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 72, limits[1]))
    try:
        assert torch.equal(store["hook_a"], data)
        for _ in range(2):
            index = rng.permutation(225)
            assert torch.equal(store.gather("hook_b", index), -data[torch.from_numpy(index)])
        assert store.load().n_rows == 225
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_store_whose_files_were_touched_is_opened_once_they_are_verified(tiny, tmp_path):
    texts = ["the city of paris", "rome", "a river"]
    first = capture(tiny, texts, layers=[0], store=tmp_path / "s")
    for file in (tmp_path / "s").rglob("*.safetensors"):
        os.utime(file, (1, 1))
    again = capture(tiny, texts, layers=[0], store=tmp_path / "s")
    assert torch.equal(first["resid_post", 0], again["resid_post", 0])


@pytest.mark.parametrize("place", ["local", "remote", "remote without checksums"])
def test_another_capture_at_the_place_of_an_open_store_is_refused(tiny, names, tmp_path, place):
    where = tmp_path / "s" if place == "local" else f"memory://another-{place.replace(' ', '-')}/s"
    verify = place != "remote without checksums"
    capture(tiny, names[:6], layers=[0], store=where)
    opened = Store(where, verify=verify)
    point, index = opened.points[0], np.arange(3)
    if place != "remote":  # of which this would copy the file
        opened.gather(point, index)
    place_of(where).rename(tmp_path / "old") if place == "local" else place_of(where).remove()
    if place == "local":
        with pytest.raises(ArtifactError, match="missing"):
            opened[point]
    capture(tiny, names[:6], layers=[0], prompt="Where is {} now?", store=where)
    reads = [lambda: opened.gather(point, index), lambda: opened[point], lambda: opened.provenance]
    if place == "local":
        reads += [lambda: opened.with_texts(names[:6]), opened.verify, opened.load]
    for read in reads:
        with pytest.raises(ArtifactError, match="is another capture now than the one that was opened"):
            read()
    assert Store(where).provenance["prompt"] == "Where is {} now?"


def test_a_store_saved_over_another_is_refused_and_the_same_one_goes_on(tiny, names, tmp_path):
    first, second = (capture(tiny, names[i : i + 6], layers=[0]) for i in (0, 6))
    first.save(tmp_path / "s")
    opened = Store(tmp_path / "s")
    first.save(tmp_path / "s", overwrite=True)
    assert torch.equal(opened.gather(opened.points[0], np.arange(6)), first["resid_post", 0])
    second.save(tmp_path / "s", overwrite=True)
    with pytest.raises(ArtifactError, match="another capture now"):
        opened.gather(opened.points[0], np.arange(6))
