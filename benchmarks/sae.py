"""Training steps of sparse autoencoders against SAELens's trainer, on the same batches from the same weights.

    python benchmarks/sae.py --json sae.json

The reference is `SAETrainer.step`: forward, backward, clipping, Adam, statistics. Ours is `fast_step` with
`make_optimizer`, the same clipping and the same statistics. Every variant trains its own copy; they take
turns batch by batch, and a figure is the median over the steps after `--warm-up`. The bfloat16 columns are
SAELens under its autocast, and `compute_dtype=torch.bfloat16`.

The bound is what the dense products alone take, timed in the same turns: six of them in SAELens's step, five
without the input's gradient, one (the encoder's) where only the selected entries go on. Data are sparse sums
of random directions with noise; `--dead-window 5`, say, has latents die at once, so that AuxK is timed too.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from _timing import parser, show, write
from sae_lens import SAETrainer
from sae_lens.config import SAETrainerConfig
from sae_lens.registry import get_sae_training_class

import graticule.saes.architectures  # noqa: F401 registers `bricken`
from graticule.hooks.processor import described
from graticule.saes.steps.fast import fast_step, make_optimizer

LR = 3e-4
SETTINGS: dict[str, dict[str, Any]] = {
    "topk": {},
    "batchtopk": {},
    "matryoshka_batchtopk": {},
    "standard": {"l1_coefficient": 5.0},
    "bricken": {"l1_coefficient": 0.01},
    "jumprelu": {},
}
REFERENCE = "SAELens float32"

Trained = Callable[[torch.Tensor], float]


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, repeats=30)
    options.add_argument("--architectures", nargs="+", default=["topk", "batchtopk", "standard"])
    options.add_argument("--d-in", type=int, default=576)
    options.add_argument("--d-sae", type=int, default=4608)
    options.add_argument("--batch", type=int, default=4096)
    options.add_argument("--k", type=int, default=32)
    options.add_argument("--batches", type=int, default=8, help="different batches, gone through in turn")
    options.add_argument("--warm-up", type=int, default=3, help="steps that are not timed")
    options.add_argument("--dead-window", type=int, default=1000, help="steps without firing until dead")
    options.add_argument("--device", default="cpu")
    args = options.parse_args()
    warnings.filterwarnings("ignore", module="sae_lens")
    batches = draw(args)
    rows: list[dict[str, Any]] = []
    figures: dict[str, Any] = {}
    for name in args.architectures:
        figures[name] = compare(name, args, batches)
        rows += [{"architecture": name, "variant": variant, **line} for variant, line in table(figures[name])]
    title = f"d_in {args.d_in}, d_sae {args.d_sae}, batch {args.batch}, k {args.k}, {described(args.device)}"
    show(rows, title)
    print("ratio: tokens/s over SAELens's in float32. loss off: largest |ours / SAELens's - 1| on the curve.")
    write(args, {"architectures": figures})


def draw(args: Any) -> list[torch.Tensor]:
    """Batches `[batch, d_in]`: each row a sum of about k/2 of d_sae directions, and noise."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(args.d_sae, args.d_in, generator=generator)
    directions /= directions.norm(dim=1, keepdim=True)
    # frequencies fall as those of words do, so that some latents are rare
    chance = 1 / torch.arange(1.0, args.d_sae + 1)
    chance *= args.k / 2 / chance.sum()
    made: list[torch.Tensor] = []
    for _ in range(args.batches):
        uniform = torch.rand(args.batch, args.d_sae, generator=generator)
        acts = (uniform < chance.clamp_max(0.5)) * (0.5 + torch.rand(args.batch, 1, generator=generator))
        noise = 0.05 * torch.randn(args.batch, args.d_in, generator=generator)
        made.append((acts @ directions + noise).to(args.device))
    return made


def make_sae(name: str, args: Any) -> Any:
    """The same SAE every time."""
    given = dict(SETTINGS[name])
    if "topk" in name:
        given["k"] = args.k
    if name == "matryoshka_batchtopk":
        given["matryoshka_widths"] = [args.d_sae // 4, args.d_sae // 2, args.d_sae]
    cls, config = get_sae_training_class(name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return cls(config(d_in=args.d_in, d_sae=args.d_sae, device=args.device, **given)).to(args.device)


def saelens(name: str, args: Any, autocast: bool) -> Trained:
    """SAELens's trainer, a step at a time."""
    sae = make_sae(name, args)
    config = SAETrainerConfig(
        total_training_samples=args.batch * 10**6,
        train_batch_size_samples=args.batch,
        lr=LR,
        lr_end=LR,
        device=args.device,
        autocast=autocast,
        dead_feature_window=args.dead_window,
    )
    trainer: SAETrainer[Any, Any] = SAETrainer(config, sae, iter(()))

    def step(x: torch.Tensor) -> float:
        made = trainer.step(x)
        trainer.n_training_steps += 1
        return made.loss.item()

    return step


def ours(name: str, args: Any, compute_dtype: torch.dtype | None) -> Trained:
    """Our step with the trainer's clipping and statistics."""
    sae = make_sae(name, args)
    optimizer = make_optimizer(sae, LR)
    fast = fast_step(sae, compute_dtype=compute_dtype, dead_feature_window=args.dead_window)
    coefficients = {n: float(getattr(v, "value", v)) for n, v in sae.get_coefficients().items()}
    since = torch.zeros(args.d_sae, device=args.device)
    frequency = torch.zeros(args.d_sae, device=args.device)

    def step(x: torch.Tensor) -> float:
        made = fast(x, since, coefficients)
        since.add_(1).masked_fill_(made.fired > 0, 0)
        frequency.add_(made.fired)
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        return made.loss.item()

    return step


def product(args: Any, dtype: torch.dtype) -> Trained:
    """One dense product of a batch and the encoder."""
    weight = torch.randn(args.d_in, args.d_sae, device=args.device, dtype=dtype)
    out = torch.empty(args.batch, args.d_sae, device=args.device, dtype=dtype)

    def step(x: torch.Tensor) -> float:
        return float(torch.mm(x.to(dtype), weight, out=out)[0, 0])

    return step


def compare(name: str, args: Any, batches: list[torch.Tensor]) -> dict[str, Any]:
    """Seconds a step and loss curves of every variant of one architecture."""
    variants: dict[str, Trained] = {
        REFERENCE: saelens(name, args, False),
        "SAELens bfloat16": saelens(name, args, True),
        "graticule float32": ours(name, args, None),
        "graticule bfloat16": ours(name, args, torch.bfloat16),
        "product float32": product(args, torch.float32),
        "product bfloat16": product(args, torch.bfloat16),
    }
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    losses: dict[str, list[float]] = {variant: [] for variant in variants}
    for i in range(args.warm_up + args.repeats):
        x = batches[i % len(batches)]
        for variant, step in variants.items():
            start = time.perf_counter()
            loss = step(x)  # reads a number back, so the device has finished
            if i >= args.warm_up:
                seconds[variant].append(time.perf_counter() - start)
            losses[variant].append(loss)
    return {
        "seconds": {variant: statistics.median(values) for variant, values in seconds.items()},
        "quartiles": {variant: statistics.quantiles(values, n=4) for variant, values in seconds.items()},
        "losses": {variant: values for variant, values in losses.items() if "product" not in variant},
        "batch": args.batch,
    }


def table(figures: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """A line a variant, and the bounds."""
    seconds, batch, curves = figures["seconds"], figures["batch"], figures["losses"]
    lines: list[tuple[str, dict[str, Any]]] = []
    for variant in curves:
        off = max(abs(a / b - 1) for a, b in zip(curves[variant], curves[REFERENCE], strict=True))
        lines.append((variant, _line(seconds[variant], batch, seconds, curves[variant][-1], off)))
    for dtype in ("float32", "bfloat16"):
        for count in (6, 5, 1):
            took = count * seconds[f"product {dtype}"]
            name = f"bound: {count} dense product{'s' if count > 1 else ''} {dtype}"
            lines.append((name, _line(took, batch, seconds, "", "")))
    return lines


def _line(took: float, batch: int, seconds: dict[str, float], loss: Any, off: Any) -> dict[str, Any]:
    return {
        "ms": 1e3 * took,
        "tokens/s": batch / took,
        "ratio": seconds[REFERENCE] / took,
        "last loss": loss,
        "loss off": off,
    }


if __name__ == "__main__":
    main()
