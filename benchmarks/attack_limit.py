"""Is the limit of detection that of fresh worlds, in bits and in R²? `python benchmarks/attack_limit.py`.

A world has 16 columns that the baseline and the activations hold, and 32 that the activations alone hold. A
latent variable is .3 of the first, a share of the others and noise; the target is the variable itself
(numbers) or whether it is among its largest (yes or no). `calibrate` is run on worlds with a share of .1, and
gives the part that is seen (interval above 0) in 80% of targets, and what is measured of it on average. Fresh
worlds are then drawn with parts about as large, and the same two figures read off them.
"""

import argparse
import logging
from typing import Any

import numpy as np
import pandas as pd
import torch
from _timing import parser, show, write

from graticule import Activations, Findings, Table, calibrate, sweep
from graticule.probes.calibration.judging import limit_of_detection, monotone
from graticule.probes.calibration.marginal import Marginal
from graticule.probes.surface.baselines import Baselines, text_digest

SURFACE, OWN, SHARE = 16, 32, 0.3
KINDS: dict[str, tuple[float | None, int]] = {
    "numbers, 400 rows": (None, 400),
    "numbers, 1,200 rows": (None, 1200),
    "yes/no .5, 400 rows": (0.5, 400),
    "yes/no .5, 1,200 rows": (0.5, 1200),
    "yes/no .1, 1,200 rows": (0.1, 1200),
}
"""Share of yes, and rows; a quarter are test rows."""
TIMES = (0.3, 0.45, 0.65, 0.9, 1.2, 1.6, 2.2)
"""Fresh parts, in the median limit of the calibrations. All of this was fixed before any of it was run."""


def world(rng: np.random.Generator, rows: int, hidden: float, yes: float | None) -> Findings:
    """Findings of one world."""
    known, own = rng.normal(size=(rows, SURFACE)), rng.normal(size=(rows, OWN))
    weights = [rng.normal(size=width) for width in (SURFACE, OWN)]
    parts = [x @ w / np.linalg.norm(w) for x, w in zip((known, own), weights, strict=True)]
    latent = np.sqrt(SHARE) * parts[0] + np.sqrt(hidden) * parts[1]
    latent += np.sqrt(1 - SHARE - hidden) * rng.normal(size=rows)
    turn = np.linalg.qr(rng.normal(size=(SURFACE + OWN, SURFACE + OWN)))[0]
    values = latent if yes is None else (latent > np.quantile(latent, 1 - yes)).astype(int)
    frame = pd.DataFrame({"y": values, "is_test": rng.permutation(rows) < rows // 4})
    table = Table(frame, target="y", split="is_test", name="limit")
    activations = Activations.from_tensors(
        {"blocks.0.hook_resid_post": torch.from_numpy(np.concatenate([known, own], axis=1) @ turn)}
    )
    beside = {"mean_embedding": Activations.from_tensors({"hook_embed": torch.from_numpy(known)})}
    baselines = Baselines(text_digest(table), beside, False)
    return sweep(activations, table, baselines=baselines, progress=False)


def line(name: str, place: int, args: argparse.Namespace) -> dict[str, Any]:
    """Both limits of one kind of target."""
    yes, rows = KINDS[name]
    said: list[tuple[float, float]] = []
    for trial in range(args.calibrations):
        found = world(np.random.default_rng([args.seed, place, 0, trial]), rows, 0.1, yes)
        calibration = calibrate(found, targets=args.targets, strengths=8, seed=trial, progress=False)
        said.append((calibration.limit_true, calibration.limit_of_detection))
    true, measured = np.nanmedian(said, axis=0)
    linear = 1.0
    if yes is not None:
        linear = Marginal.of((np.arange(rows) < yes * rows).astype(float)[:, None]).linear  # type: ignore[union-attr]
    shares = np.array([t * true for t in TIMES if t * true / linear < 1 - SHARE])
    seen, gains = np.zeros(len(shares)), np.zeros(len(shares))
    for k, share in enumerate(shares):
        for trial in range(args.trials):
            rng = np.random.default_rng([args.seed, place, 1 + k, trial])
            verdict = world(rng, rows, share / linear, yes).verdict
            seen[k] += verdict.ci95[0] > 0
            gains[k] += verdict.gain / args.trials
    counts = np.full(len(shares), float(args.trials))
    fresh, _ = limit_of_detection(shares, seen / counts, counts)
    fresh_gain = float(np.interp(np.log(fresh), np.log(shares), monotone(gains, counts)))
    within = [low / fresh_gain for _, low in said if low == low]
    return {
        "target": name,
        "unit": "R²" if yes is None else "bits",
        "said": measured,
        "fresh": fresh_gain,
        "ratio": measured / fresh_gain,
        "within 1.5": float(np.mean([1 / 1.5 <= r <= 1.5 for r in within])),
        "part said": true,
        "part fresh": fresh,
        "seen at": {f"{s:.3f}": f"{v / args.trials:.3f}" for s, v in zip(shares, seen, strict=True)},
    }


def main() -> None:
    """Run it."""
    options = parser(__doc__)
    options.add_argument("--trials", type=int, default=200, help="fresh worlds a part (default: %(default)s)")
    options.add_argument("--calibrations", type=int, default=20, help="worlds (default: %(default)s)")
    options.add_argument("--targets", type=int, default=60, help="of each calibration (default: %(default)s)")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--match", default="", help="only targets with these letters in their names")
    args = options.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    lines: list[dict[str, Any]] = []
    for place, name in enumerate(KINDS):
        if args.match in name:
            lines.append(line(name, place, args))
            show(lines[-1:])
    show(lines, "The gain that is seen 80% of the time: said by calibrate, and in fresh worlds")
    write(args, {"limits": lines})


if __name__ == "__main__":
    main()
