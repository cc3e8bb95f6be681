"""The memory and time of `calibrate` on many rows and targets, in a process of its own.

`python benchmarks/calibrate.py --rows 200000 --targets 200 --width 64`: a planted world with texts, two
model baselines and one layer, swept and calibrated; prints what the process took at most, before and in all.
"""

import argparse
import resource
import sys
import time

from graticule import calibrate, sweep
from graticule.sims.planted import planted


def most_gib() -> float:
    """What this process has taken at most, in GiB."""
    taken = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return taken / (1 << 30 if sys.platform == "darwin" else 1 << 20)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--targets", type=int, default=200)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--draws", type=int, default=2000, help="of the bootstrap: fewer are faster")
    parser.add_argument("--string-step", type=int, help="every so many strengths of TF-IDF; 19 tries one")
    given = parser.parse_args()
    began = time.perf_counter()
    world = planted(n_rows=given.rows, width=given.width, n_layers=1, surface=0.4, hidden=0.2)
    findings = sweep(world.activations, world.table, baselines=world.baselines, progress=False)
    print(f"swept in {time.perf_counter() - began:.0f} s, {most_gib():.2f} GiB at most", flush=True)
    began = time.perf_counter()
    calibration = calibrate(
        findings, targets=given.targets, n_bootstrap=given.draws, string_step=given.string_step, progress=True
    )
    print(calibration.summary())
    print(f"calibrated in {time.perf_counter() - began:.0f} s, {most_gib():.2f} GiB at most")


if __name__ == "__main__":
    main()
