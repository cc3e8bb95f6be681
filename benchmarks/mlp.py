"""MLP probes of every layer and weight decay as batches, against the same fits one by one in plain torch.

    python benchmarks/mlp.py --json mlp.json

The reference is what a reader of Gurnee & Tegmark's table 2 would write: `torch.nn.Sequential`, `mse_loss`,
`torch.optim.AdamW`, float32, one network for every layer and decay, on the same rows with the same initial
weights. It trains the networks of the first `--oracle-layers` layers, and its time for all layers is
projected from them; graticule trains all layers, and its time on those few is told too. Every run trains
`--epochs` epochs without early stopping, so that all do the same work; time is proportional to epochs.
Activations are synthetic with the spectrum of a residual stream; targets bend, so that a network has
something to find. Scores are R² on validation rows at the chosen decay.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from _timing import measure, medians, parser, show, write

from graticule.probes.mlp import MLPFit, MLPJob, MLPSettings, fit_mlps, validation_rows
from graticule.probes.mlp_train import Shape

TARGETS = 2


def draw(layer: int, n: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Activations `[n, width]` of a layer, and the target `[n, 2]` of all layers."""
    rng = np.random.default_rng(0)
    latent = rng.standard_normal((n, width), dtype=np.float32)
    y = latent[:, :TARGETS] + np.abs(latent[:, 8 : 8 + TARGETS]) + 0.5 * rng.standard_normal((n, TARGETS))
    rng = np.random.default_rng(1 + layer)
    scale = np.arange(1, width + 1, dtype=np.float32) ** -0.3
    rotation = np.linalg.qr(rng.standard_normal((width, width)))[0].astype(np.float32)
    return (latent * scale) @ rotation, y


def plain_torch(x: torch.Tensor, y: torch.Tensor, job: MLPJob, settings: MLPSettings, decay: float) -> float:
    """One network, as one would write it; returns its best validation loss."""
    fitted, held = validation_rows(job.rows, np.arange(len(x)), settings.validation, settings.split_seed)
    net = torch.nn.Sequential(
        torch.nn.Linear(x.shape[1], settings.hidden),
        torch.nn.ReLU(),
        torch.nn.Linear(settings.hidden, TARGETS),
    )
    shape = Shape(x.shape[1], 1, settings.hidden, TARGETS)
    w1, b1, w2, b2 = (part[0] for part in shape.views(shape.initial(job.seed)[None]))
    with torch.no_grad():
        for parameter, value in zip(net.parameters(), (w1.T, b1[0], w2.T, b2[0]), strict=True):
            parameter.copy_(value)
    optimiser = torch.optim.AdamW(net.parameters(), lr=settings.learning_rate, weight_decay=decay)
    order, best = np.random.default_rng(job.seed), float("inf")
    for _ in range(settings.epochs):
        index = torch.from_numpy(order.permutation(fitted))
        for rows in index.split(settings.batch):
            optimiser.zero_grad()
            torch.nn.functional.mse_loss(net(x[rows]), y[rows]).backward()
            optimiser.step()
        with torch.no_grad():
            best = min(best, float((net(x[held]) - y[held]).square().mean()))
    return best


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, repeats=3)
    options.add_argument("--rows", type=int, default=10_000)
    options.add_argument("--width", type=int, default=640)
    options.add_argument("--layers", type=int, default=18)
    options.add_argument("--epochs", type=int, default=5)
    options.add_argument("--oracle-layers", type=int, default=2, help="layers that plain torch trains")
    options.add_argument("--device", default="cpu", help="of all runs")
    options.add_argument("--at-once", type=int, help="layers that train together (default: graticule's own)")
    args = options.parse_args()
    n = args.rows
    drawn = {f"layer {i}": draw(i, n, args.width) for i in range(args.layers)}
    y = next(iter(drawn.values()))[1]
    points = list(drawn)
    few = points[: args.oracle_layers]
    fits: dict[str, list[MLPFit]] = {}
    losses: dict[str, list[float]] = {}

    def settings(dtype: str) -> MLPSettings:
        return MLPSettings(epochs=args.epochs, patience=args.epochs, dtype=dtype)  # type: ignore[arg-type]

    def batched(dtype: str, chosen: list[str]) -> None:
        fits[dtype] = fit_mlps(
            lambda point: torch.from_numpy(drawn[point][0]),
            y,
            np.arange(n),
            [MLPJob(point, np.arange(n)) for point in chosen],
            settings(dtype),
            device=args.device,
            at_once=args.at_once,
            progress=False,
        )

    def one_by_one() -> None:
        t = torch.from_numpy(((y - y.mean(0)) / y.std(0)).astype(np.float32)).to(args.device)
        for point in few:
            x = drawn[point][0]
            x = torch.from_numpy((x - x.mean(0)) / np.median(x.std(0))).to(args.device)
            job = MLPJob(point, np.arange(n))
            losses[point] = [
                plain_torch(x, t, job, settings("float32"), d) for d in settings("float32").decays
            ]

    runs = {
        "plain torch float32": one_by_one,
        "batched float32": lambda: batched("float32", few),
        "batched bfloat16": lambda: batched("bfloat16", few),
    }
    seconds = medians(measure(runs, args.repeats))
    share = len(few) / args.layers
    start = time.perf_counter()
    batched("bfloat16", points)
    whole = time.perf_counter() - start
    reference = seconds["plain torch float32"]
    best = {"plain torch float32": np.mean([min(losses[p]) for p in few])}
    batched("float32", few)
    for dtype in ("float32", "bfloat16"):
        at = {f.point: float(np.nanmin(f.losses)) for f in fits[dtype]}
        best[f"batched {dtype}"] = np.mean([at[p] for p in few])
    rows = [
        {
            "run": name,
            f"{len(few)} layers s": s,
            f"{args.layers} layers s": s / share,
            "× plain torch": reference / s,
            "lowest validation loss": float(best[name]),
        }
        for name, s in seconds.items()
    ]
    show(
        rows,
        f"n {n}, width {args.width}, 256 hidden, {args.layers} layers × 4 decays, {args.epochs} epochs, "
        f"medians of {args.repeats}; seconds of all layers are projected from {len(few)}",
    )
    print(
        f"\nall {args.layers} layers, batched bfloat16: {whole:.1f} s measured, plain torch "
        f"{reference / share:.1f} s projected: ratio {reference / share / whole:.1f} (required: 2)"
    )
    figures = {"runs": rows, "ratio": reference / share / whole, "all_layers_bfloat16_seconds": whole}
    write(args, {"figures": figures})


if __name__ == "__main__":
    main()
