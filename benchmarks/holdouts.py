"""Ridge without each of many blocks of rows, all layers, from one Gram a layer against refits from the rows.

    python benchmarks/holdouts.py --json holdouts.json

Activations are synthetic, as in `benchmarks/ridge.py`: float32 as captured, 18 layers; by default with the
rows, the width and the 49 block sizes of the paper's American states. graticule runs every layer. The refits
are the plain thing in float64: take the rows outside a block, centre them, make the Gram, solve. They, and
scikit-learn's Ridge, run `--blocks-timed` blocks on each of the first `--oracle-layers` layers, and their
time for all blocks and layers is projected from that; the rows are float64 already when their clock starts.
On the same blocks all predictions are compared.
"""

import statistics

import numpy as np
from _timing import measure, medians, parser, show, write
from ridge import draw
from sklearn.linear_model import Ridge

from graticule.probes.linear.refits import leave_blocks_out

STATES = (
    2415, 2077, 1620, 1499, 1351, 1150, 1108, 1091, 905, 880, 841, 830, 788, 771, 742, 719, 690, 662, 655,
    640, 615, 590, 560, 533, 520, 497, 470, 455, 430, 411, 395, 380, 352, 330, 312, 290, 275, 260, 244, 226,
    208, 190, 171, 150, 131, 120, 105, 90, 25,
)  # fmt: skip
"""Sizes much like those of the states among the rows of us_place."""


def refit(X: np.ndarray, y: np.ndarray, block: np.ndarray, alpha: float) -> np.ndarray:
    """Predictions of the rows of `block` by a ridge on all other rows."""
    keep = np.ones(len(X), bool)
    keep[block] = False
    rows, targets = X[keep], y[keep]
    mean, centre = rows.mean(axis=0), targets.mean(axis=0)
    rows -= mean
    gram = rows.T @ rows
    gram.flat[:: len(gram) + 1] += alpha
    coef = np.linalg.solve(gram, rows.T @ (targets - centre))
    return (X[block] - mean) @ coef + centre


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, repeats=1)
    options.add_argument("--rows", type=int, default=29_997)
    options.add_argument("--width", type=int, default=640)
    options.add_argument("--layers", type=int, default=18)
    options.add_argument("--alpha", type=float, default=100.0)
    options.add_argument("--oracle-layers", type=int, default=2, help="layers on which refits are timed")
    options.add_argument("--blocks-timed", type=int, default=4, help="blocks that are refitted there")
    args = options.parse_args()
    shares = np.array(STATES) / sum(STATES)
    label = np.random.default_rng(0).choice(len(STATES), args.rows, p=shares)
    blocks = [np.flatnonzero(label == k) for k in range(len(STATES))]
    timed = np.linspace(0, len(blocks) - 1, args.blocks_timed).astype(int)
    lines, ours, worst = [], [], 0.0
    for layer in range(args.layers):
        X, y = draw(layer, args.rows, args.width, 2)
        found = []

        def graticule_run(X=X, y=y, found=found) -> None:
            found[:] = leave_blocks_out(X, y, blocks, [args.alpha])
            for i, block in enumerate(blocks):
                found[0].predict(i, X[block])

        runs = {"graticule": graticule_run}
        X64 = X.astype(np.float64) if layer < args.oracle_layers else None
        if X64 is not None:

            def refits(X64=X64, y=y) -> None:
                for i in timed:
                    refit(X64, y, blocks[i], args.alpha)

            def sklearn_run(X64=X64, y=y) -> None:
                for i in timed:
                    keep = np.delete(np.arange(args.rows), blocks[i])
                    Ridge(args.alpha).fit(X64[keep], y[keep]).predict(X64[blocks[i]])

            runs |= {"refits": refits, "sklearn": sklearn_run}
        seconds = medians(measure(runs, args.repeats, warm_up=layer == 0))
        ours.append(seconds["graticule"])
        if X64 is None:
            continue
        scale = len(blocks) / len(timed)
        for i in timed:
            expected = refit(X64, y, blocks[i], args.alpha)
            error = np.abs(found[0].predict(i, X[blocks[i]]) - expected).max()
            worst = max(worst, float(error / np.abs(expected - found[0].y_mean[i]).max()))
        lines.append(
            {
                "layer": layer,
                "graticule s": seconds["graticule"],
                "refits s (projected)": seconds["refits"] * scale,
                "sklearn s (projected)": seconds["sklearn"] * scale,
                "ratio": seconds["refits"] * scale / seconds["graticule"],
                "blocks refitted": found[0].refitted,
            }
        )
    show(lines, f"{args.rows} rows, width {args.width}, {len(blocks)} blocks, 2 targets, one strength")
    total = statistics.fmean(line["refits s (projected)"] for line in lines) * args.layers
    peer = statistics.fmean(line["sklearn s (projected)"] for line in lines) * args.layers
    ratio = statistics.median(line["ratio"] for line in lines)
    print(
        f"\nall {args.layers} layers: graticule {sum(ours):.1f} s measured; refits {total:.0f} s and "
        f"scikit-learn {peer:.0f} s, projected from {len(timed)} blocks on each of {len(lines)} layers\n"
        f"ratio to the refits {ratio:.1f} (required: 20); predictions differ by at most {worst:.1e} of their "
        "spread (required: 1e-6)"
    )
    figures = {"layers": lines, "ratio": ratio, "worst": worst, "graticule_seconds": ours}
    write(args, {"figures": figures})


if __name__ == "__main__":
    main()
