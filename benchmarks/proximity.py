"""Proximity error of every row, exact and with ties, against a plain haversine matrix in chunks of rows.

    python benchmarks/proximity.py --json proximity.json

Places are drawn in clusters, like towns, as many as the world table of the paper has; predictions are the
places shrunk towards their mean, with noise, and a tenth of them repeat another row's. Both run on all rows
unless `--oracle-rows` says otherwise; then the plain matrix does so many rows against all predictions, and
its time is projected. What the two say is compared on the rows that both did. Memory is what a
run adds at its peak to what the process held before it, sampled while it runs once more.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _timing import measure, medians, parser, show, write

from graticule.probes.scores.geo import haversine_km, proximity_error


def draw(n: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted latitude and longitude; `spread` scales the map (1: the world, .01: a city)."""
    rng = np.random.default_rng(seed)
    towns = np.stack([rng.normal(25, 20, 400), rng.uniform(-120, 140, 400)], axis=1)
    true = towns[rng.integers(0, 400, n)] + rng.normal(0, 2, (n, 2))
    true[:, 0] = np.clip(true[:, 0], -85, 85)
    pred = true.mean(axis=0) + 0.85 * (true - true.mean(axis=0)) + rng.normal(0, 1, (n, 2)) * [9, 25]
    pred[: n // 10] = pred[n // 10 : 2 * (n // 10)]
    centre = np.array([40.7, -74.0])
    return (
        (true, pred)
        if spread == 1
        else (centre + spread * (true - true.mean(0)), centre + spread * (pred - true.mean(0)))
    )


def plain(true: np.ndarray, pred: np.ndarray, rows: int, chunk: int = 256) -> np.ndarray:
    """The definition: distances in kilometres, closer ones counted, ties counted half."""
    n = len(pred)
    out = np.empty(rows)
    for start in range(0, rows, chunk):
        stop = min(start + chunk, rows)
        shape = (stop - start, n)
        km = haversine_km(
            np.broadcast_to(true[start:stop, 0, None], shape),
            np.broadcast_to(true[start:stop, 1, None], shape),
            np.broadcast_to(pred[:, 0], shape),
            np.broadcast_to(pred[:, 1], shape),
        )
        own = km[np.arange(stop - start), np.arange(start, stop), None]
        out[start:stop] = ((km < own).sum(axis=1) + ((km == own).sum(axis=1) - 1) / 2) / n
    return out


def peak_mb(run: Callable[[], object]) -> float:
    """MiB that `run` adds to the process at its peak, sampled every 2 ms."""
    page = Path("/proc/self/statm")

    def held() -> float:
        return int(page.read_text().split()[1]) * 4096 / 2**20

    before, highest, done = held(), [held()], threading.Event()

    def watch() -> None:
        while not done.is_set():
            highest[0] = max(highest[0], held())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return highest[0] - before


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, repeats=1)
    options.add_argument("--rows", type=int, default=39_585)
    options.add_argument(
        "--oracle-rows", type=int, default=None, help="rows of the plain matrix (default: all)"
    )
    options.add_argument("--spreads", type=float, nargs="+", default=[1.0, 0.01])
    args = options.parse_args()
    did = min(args.oracle_rows or args.rows, args.rows)
    lines = []
    for spread in args.spreads:
        true, pred = draw(args.rows, spread)
        found: dict[str, np.ndarray] = {}

        def ours(true=true, pred=pred, found=found) -> None:
            found["ours"] = proximity_error(true, pred)

        def matrix(true=true, pred=pred, found=found) -> None:
            found["plain"] = plain(true, pred, did)

        ours()
        seconds = medians(measure({"ours": ours, "plain": matrix}, args.repeats, warm_up=False))
        seconds["plain"] *= args.rows / did
        differ = np.abs(found["ours"][:did] - found["plain"]) * args.rows
        lines.append(
            {
                "map": "world" if spread == 1 else f"x {spread}",
                "graticule s": seconds["ours"],
                "plain s": seconds["plain"],
                "ratio": seconds["plain"] / seconds["ours"],
                "mean error": float(found["ours"].mean()),
                "largest difference (ranks)": float(differ.max()),
                "rows that differ": int((differ > 0.01).sum()),
                "peak MiB": peak_mb(ours),
            }
        )
    show(lines, f"n {args.rows}; the plain matrix did {did} rows")
    worst, peak = min(line["ratio"] for line in lines), max(line["peak MiB"] for line in lines)
    print(f"\nsmallest ratio {worst:.1f} (required: 10); peak {peak:.0f} MiB (at most 1024)")
    write(args, {"figures": lines})


if __name__ == "__main__":
    main()
