"""Ridge with leave-one-out over a grid of strengths, all layers, against scikit-learn's RidgeCV a layer.

    python benchmarks/ridge.py --json ridge.json

Activations are synthetic with the spectrum of a residual stream (a power law and a few massive directions),
float32 as captured, a fresh draw for each layer. graticule runs every layer. RidgeCV, in float64 as ours is,
runs the first `--oracle-layers` only, and its time for all layers is projected from them; both take turns,
and the chosen strengths are compared there. The bound is the two float64 products of rows × width² that any
exact method needs.
"""

import statistics

import numpy as np
from _timing import measure, medians, parser, show, write
from sklearn.linear_model import RidgeCV

from graticule.probes.linear.ridge_cv import ridge_cv


def draw(layer: int, n: int, width: int, n_targets: int) -> tuple[np.ndarray, np.ndarray]:
    """Activations `[n, width]` in float32; standardised targets that the massive directions do not carry."""
    rng = np.random.default_rng(layer)
    latent = rng.standard_normal((n, width), dtype=np.float32)
    scale = np.arange(1, width + 1, dtype=np.float32) ** -0.7
    scale[:3] *= 50
    rotation = np.linalg.qr(rng.standard_normal((width, width)))[0].astype(np.float32)
    weights = rng.standard_normal((width - 3, n_targets)) / width**0.5
    y = latent[:, 3:] @ weights + 1.5 * rng.standard_normal((n, n_targets))
    X = (latent * scale) @ rotation + rng.standard_normal(width, dtype=np.float32)
    return X, (y - y.mean(axis=0)) / y.std(axis=0)


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, repeats=3)
    options.add_argument("--rows", type=int, default=20_000)
    options.add_argument("--width", type=int, default=640)
    options.add_argument("--layers", type=int, default=18)
    options.add_argument("--targets", type=int, default=2)
    options.add_argument("--strengths", type=int, default=20)
    options.add_argument("--oracle-layers", type=int, default=3, help="layers that RidgeCV runs")
    args = options.parse_args()
    alphas = np.geomspace(1e-2, 1e6, args.strengths)
    clusters = np.arange(args.rows)
    clusters[: args.rows // 5] //= 3  # a fifth of the rows in clusters of three
    rows, ours, same = [], [], True
    for layer in range(args.layers):
        X, y = draw(layer, args.rows, args.width, args.targets)
        X64 = X.astype(np.float64)
        chosen: dict[str, float] = {}

        def graticule_run(X=X, y=y, chosen=chosen) -> None:
            chosen["graticule"] = ridge_cv(X, y, alphas=alphas).alpha

        def sklearn_run(X64=X64, y=y, chosen=chosen) -> None:
            chosen["RidgeCV"] = float(RidgeCV(alphas).fit(X64, y).alpha_)

        def clustered_run(X=X, y=y) -> None:
            ridge_cv(X, y, alphas=alphas, clusters=clusters)

        def bound_run(X64=X64) -> None:
            _ = X64.T @ X64, X64 @ X64[: args.width]

        runs = {"graticule": graticule_run}
        if layer < args.oracle_layers:
            runs |= {"RidgeCV": sklearn_run, "clusters": clustered_run, "bound": bound_run}
        seconds = medians(measure(runs, args.repeats, warm_up=layer == 0))
        ours.append(seconds["graticule"])
        if layer < args.oracle_layers:
            same &= chosen["graticule"] == chosen["RidgeCV"]
            rows.append(
                {
                    "layer": layer,
                    "graticule s": seconds["graticule"],
                    "RidgeCV s": seconds["RidgeCV"],
                    "ratio": seconds["RidgeCV"] / seconds["graticule"],
                    "with clusters s": seconds["clusters"],
                    "two products s": seconds["bound"],
                    "strength": chosen["graticule"],
                    "RidgeCV strength": chosen["RidgeCV"],
                }
            )
    ratio = statistics.median(row["ratio"] for row in rows)
    total = statistics.fmean(row["RidgeCV s"] for row in rows) * args.layers
    show(
        rows,
        f"n {args.rows}, width {args.width}, {args.targets} targets, {args.strengths} strengths, "
        f"medians of {args.repeats}",
    )
    print(
        f"\nall {args.layers} layers: graticule {sum(ours):.2f} s measured, RidgeCV {total:.1f} s projected "
        f"from {len(rows)} layers\nratio {ratio:.1f} (required: 8), same chosen strengths: {same}"
    )
    figures = {"layers": rows, "ratio": ratio, "same_strengths": same, "graticule_seconds": ours}
    write(args, {"figures": figures})


if __name__ == "__main__":
    main()
