"""Shared by the benchmarks: interleaved repeats, medians, a table on the terminal, JSON in a file."""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def measure(
    runs: Mapping[str, Callable[[], object]], repeats: int, warm_up: bool = True
) -> dict[str, list[float]]:
    """Seconds of each repeat of each run.

    The runs take turns, so that a machine that grows slower meanwhile slows all of them: compare ratios
    within one call, never seconds between two.
    """
    if warm_up:
        for run in runs.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each run's repeats."""
    return {name: statistics.median(values) for name, values in seconds.items()}


def show(rows: Sequence[Mapping[str, Any]], title: str = "") -> None:
    """Print rows as an aligned table; all have the first row's columns."""
    columns = list(rows[0])
    cells = [columns, *([_cell(row[column]) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    if title:
        print(f"\n{title}")
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    import numpy as np
    import torch

    from graticule.hooks.processor import described

    return {
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "processor": described(),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def parser(description: str | None, repeats: int = 5) -> argparse.ArgumentParser:
    """The options that every benchmark has: `--repeats` and `--json`."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--repeats", type=int, default=repeats, help="timed repeats (default: %(default)s)")
    options.add_argument("--json", type=Path, help="also write the figures to this file")
    return options


def add_names(options: argparse.ArgumentParser, count: int) -> None:
    """The options that say which names are captured."""
    options.add_argument("--names", type=Path, help="a CSV file; the packaged cities by default")
    options.add_argument("--column", default="name")
    options.add_argument("--count", type=int, default=count)


def drawn_names(args: argparse.Namespace) -> list[str]:
    """So many names of the file, each once, in a random order."""
    import numpy as np
    import pandas as pd

    from graticule import Table

    if args.names is None:
        texts = Table.packaged("world_cities").texts
    else:
        texts = pd.read_csv(args.names, keep_default_na=False)[args.column]
    names = [str(name) for name in dict.fromkeys(texts)]
    return [names[i] for i in np.random.default_rng(0).permutation(len(names))[: args.count]]


def write(args: argparse.Namespace, figures: Mapping[str, Any]) -> None:
    """Write `figures`, the options and `machine()` as JSON, if `--json` gives a path."""
    path = args.json
    if path is not None:
        settings = {name: value for name, value in vars(args).items() if name != "json"}
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = {"machine": machine(), "settings": settings, **figures}
        path.write_text(json.dumps(whole, indent=1, sort_keys=True, default=str) + "\n")
        print(f"written to {path}")


def rate(count: int, of: int) -> str:
    """A rate with its Wilson interval."""
    from graticule.probes.core.resample import wilson

    low, high = wilson(count, of)
    return f"{count / of:.3f} [{low:.3f}, {high:.3f}]"
