"""Rows a second for training an SAE from disk: a global shuffle, beside SAELens's cached activations.

    python benchmarks/gather.py --gib 4 --json gather.json

The same rows (float32, 576 wide) lie in a store and in a dataset of SAELens's. Read are

- `StoreStream`: batches of random rows of the whole store, each row once;
- SAELens's cached reading (`get_raw_llm_batch`): rows in the order in which they lie;
- SAELens's `next`: the same through its mixing buffer (131,072 rows, or half of what there is), filled once
  before the clock starts;
- graticule's mixing buffer of as many rows, fed with the same sequential reading.

Every figure is GB/s of rows delivered, median over repeats that take turns. Warm: everything has been read
before. Cold: before each repeat the files are closed and put out of the page cache (`posix_fadvise`);
`resident` says how much of them was still there. Checksums are left out and timed apart: they read the
whole store once. Buffers, filled from the start, are timed warm only.
"""

import argparse
import ctypes
import gc
import json
import mmap
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from _timing import parser, show, write

from graticule import Store
from graticule.hooks.store_writer import StoreWriter
from graticule.hooks.streams.buffer import MixingBuffer
from graticule.hooks.streams.stored import StoreStream

POINT = "blocks.0.hook_resid_post"
CONTEXT, WIDTH, BATCH = 128, 576, 4096


# Making ------------------------------------------------------------------------------------------------
def pieces(n_contexts: int, each: int) -> Iterator[torch.Tensor]:
    """Random rows `[context, pos, width]`, `each` contexts at a time."""
    generator = torch.Generator().manual_seed(0)
    for start in range(0, n_contexts, each):
        yield torch.randn(min(each, n_contexts - start), CONTEXT, WIDTH, generator=generator)


def make_store(path: Path, n_contexts: int, each: int) -> None:
    """The rows as a store, a shard a piece."""
    writer = StoreWriter(path, {}, {POINT: WIDTH}, "float32")
    for i, piece in enumerate(pieces(n_contexts, each)):
        n = len(piece)
        rows = pd.DataFrame(
            {
                "source": i * each + np.repeat(np.arange(n), CONTEXT),
                "position": np.tile(np.arange(CONTEXT), n),
            }
        )
        writer.append({POINT: piece.flatten(0, 1)}, rows)
    writer.finish({})


def make_dataset(path: Path, n_contexts: int, each: int) -> None:
    """The same as SAELens's `CacheActivationsRunner` leaves it: one Arrow file a piece, moved together."""
    from datasets import Array2D, Dataset, Features

    features = Features({POINT: Array2D((CONTEXT, WIDTH), "float32")})
    path.mkdir()
    count = -(-n_contexts // each)
    names = [f"data-{i:05d}-of-{count:05d}.arrow" for i in range(count)]
    for name, piece in zip(names, pieces(n_contexts, each), strict=True):
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Dataset.from_dict({POINT: piece.numpy()}, features=features)
            made.save_to_disk(folder)
            (file,) = Path(folder).glob("*.arrow")
            file.rename(path / name)
            state = json.loads((Path(folder) / "state.json").read_text())
            (path / "dataset_info.json").write_text((Path(folder) / "dataset_info.json").read_text())
    state["_data_files"] = [{"filename": name} for name in names]
    (path / "state.json").write_text(json.dumps(state))


# Page cache --------------------------------------------------------------------------------------------
def sync(folder: Path) -> None:
    """Dirty pages stay in the cache whatever one asks for."""
    for file in (f for f in folder.rglob("*") if f.is_file()):
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())


def drop(folder: Path) -> float:
    """Put a folder's files out of the page cache; which share of them is still there."""
    gc.collect()  # mapped pages are not dropped: no map may be left
    resident = total = 0
    libc = ctypes.CDLL(None, use_errno=True)
    for file in (f for f in folder.rglob("*") if f.is_file() and f.stat().st_size):
        with open(file, "r+b") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            with mmap.mmap(handle.fileno(), 0) as mapped:
                count = -(-len(mapped) // mmap.PAGESIZE)
                flags = (ctypes.c_ubyte * count)()
                start = ctypes.c_char.from_buffer(mapped)
                libc.mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(len(mapped)), flags)
                del start
                resident, total = resident + sum(b & 1 for b in flags), total + count
    return resident / total


# Readers -----------------------------------------------------------------------------------------------
Reader = Callable[[], torch.Tensor]


def stored(path: Path) -> Reader:
    """Batches of the globally shuffled store."""
    stream = StoreStream(Store(path, verify=False), POINT, BATCH, epochs=None, exclude_special=False)
    next(stream)  # the permutation is drawn
    return lambda: next(stream)[POINT]


def buffer_rows(path: Path) -> int:
    """Rows of the mixing buffers."""
    rows = sum(f.stat().st_size for f in path.glob("*.arrow")) // (4 * WIDTH)
    return min(2**17, rows // 2 // BATCH * BATCH)


def saelens_store(path: Path) -> Any:
    """SAELens's store over its dataset, with a batch's rows a read."""
    from sae_lens import ActivationsStore

    return ActivationsStore(
        model=None,  # type: ignore  (typed as a model, but rows come from the cached path alone)
        dataset=None,
        streaming=False,
        hook_name=POINT,
        hook_head_index=None,
        context_size=CONTEXT,
        d_in=WIDTH,
        n_batches_in_buffer=buffer_rows(path) // CONTEXT,
        total_training_tokens=10**9,
        store_batch_size_prompts=BATCH // CONTEXT,
        train_batch_size_tokens=BATCH,
        prepend_bos=False,
        normalize_activations="none",
        device=torch.device("cpu"),
        dtype="float32",
        cached_activations_path=str(path),
    )


def saelens_raw(path: Path) -> Reader:
    """SAELens's reading without its buffer."""
    store = saelens_store(path)
    return lambda: store.get_raw_llm_batch()[0]


def saelens_mixed(path: Path) -> Reader:
    """SAELens's own batches."""
    store = saelens_store(path)
    next(store)  # the buffer is filled
    return lambda: next(store)


def ours_mixed(path: Path) -> Reader:
    """SAELens's reading through graticule's buffer."""
    store, rng = saelens_store(path), np.random.default_rng(0)
    size = buffer_rows(path)
    buffer = MixingBuffer({POINT: WIDTH}, size + BATCH, torch.float32)

    def read() -> torch.Tensor:
        while buffer.n_rows < size:
            buffer.write(POINT, buffer.claim(BATCH), store.get_raw_llm_batch()[0])
        return buffer.draw(BATCH, rng)[POINT]

    read()
    return read


READERS: dict[str, tuple[Callable[[Path], Reader], str]] = {
    "StoreStream: random rows of all": (stored, "store"),
    "SAELens cached: rows in order": (saelens_raw, "dataset"),
    "SAELens cached + its mixing buffer": (saelens_mixed, "dataset"),
    "SAELens cached + graticule's buffer": (ours_mixed, "dataset"),
}


def rate(reader: Reader, batches: int) -> float:
    """GB/s of rows delivered."""
    start = time.perf_counter()
    touched = 0.0
    for _ in range(batches):
        touched += float(reader()[0, 0])
    return batches * BATCH * WIDTH * 4 / (time.perf_counter() - start) / 1e9


# Running -----------------------------------------------------------------------------------------------
def measured(root: Path, batches: int, repeats: int) -> list[dict[str, Any]]:
    """One line a reader."""
    warm: dict[str, list[float]] = {name: [] for name in READERS}
    cold: dict[str, list[float]] = {name: [] for name in READERS}
    left: dict[str, list[float]] = {name: [] for name in READERS}
    readers = {name: make(root / folder) for name, (make, folder) in READERS.items()}
    for name, reader in readers.items():
        rate(reader, batches)
        print(f"warmed up: {name}", flush=True)
    for _ in range(repeats):
        for name, reader in readers.items():
            warm[name].append(rate(reader, batches))
    readers.clear()
    del reader
    for _ in range(repeats):
        for name, (make, folder) in READERS.items():
            if "buffer" not in name:
                left[name].append(drop(root / folder))
                cold[name].append(rate(make(root / folder), batches))
    return [
        {
            "what": name,
            "warm GB/s": statistics.median(warm[name]),
            "cold GB/s": statistics.median(cold[name]) if cold[name] else None,
            "resident": statistics.median(left[name]) if left[name] else None,
        }
        for name in READERS
    ]


def main(options: argparse.Namespace) -> None:
    """Make both, read both, print and write."""
    n_contexts = int(options.gib * 2**30 // (CONTEXT * WIDTH * 4))
    each = max(1, 2**28 // (CONTEXT * WIDTH * 4))
    if n_contexts * CONTEXT < 4 * BATCH:
        raise SystemExit(f"--gib {options.gib} holds less than four batches; take at least 0.04")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root = Path(folder)
        make_store(root / "store", n_contexts, each)
        make_dataset(root / "dataset", n_contexts, each)
        sync(root)
        start = time.perf_counter()
        Store(root / "store").verify()
        checksums = options.gib * 2**30 / (time.perf_counter() - start) / 1e9
        rows = measured(root, options.batches, options.repeats)
    show(rows, f"{options.gib} GiB, {n_contexts * CONTEXT:,} rows of {WIDTH} float32, batches of {BATCH}")
    print(f"checksums of the whole store: {checksums:.2f} GB/s")
    figures = {
        "gib": options.gib,
        "batch": BATCH,
        "width": WIDTH,
        "readers": rows,
        "checksums GB/s": checksums,
    }
    write(options, figures)


if __name__ == "__main__":
    arguments = parser(__doc__, repeats=3)
    arguments.add_argument("--gib", type=float, default=4.0, help="size of the store (default: %(default)s)")
    arguments.add_argument("--batches", type=int, default=32, help="batches a repeat (default: %(default)s)")
    arguments.add_argument(
        "--folder", type=Path, help="where both are written (default: the temporary folder)"
    )
    warnings.filterwarnings("ignore")
    main(arguments.parse_args())
