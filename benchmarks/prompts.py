"""Five prompts on the same names: shared prefixes against five captures that run every token again.

    python benchmarks/prompts.py --count 10000 --repeats 1 --json prompts.json

Every run is the whole job of one `capture` a prompt, last token of the name, all layers, float32. "Separate"
is `share_prefix=False`; length buckets, packing and deduplication are the same on both sides, so the ratio is
that of the shared prefix alone. `--short` takes the paper's own prompts of 3 to 9 tokens too.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from _timing import add_names, drawn_names, measure, medians, parser, show, write

import graticule
from graticule.hooks.tokens import tokenize
from graticule.probes.tables.prompts import PROMPTS

LONG = {
    "coords": "Tell me, what are the lat/lon coordinates of ",
    "where": "Where in the world, and in which country, is ",
    "map": "On a map of the world, the place to look for is ",
    "travel": "I have never been there, but I would like to travel to ",
    "quiz": "Question: what are the latitude and the longitude of ",
}
"""Ten tokens or more each, in Gemma's tokens, BOS and the space before the name aside."""


def run_all(model: Any, names: list[str], prompts: dict[str, str], share: bool) -> None:
    """One capture a prompt."""
    for prompt in prompts.values():
        graticule.capture(model, names, prompt=prompt, pos="entity_last", share_prefix=share, progress=False)


def agreement(model: Any, names: list[str], prompts: dict[str, str]) -> float:
    """The largest relative difference between both routes, over prompts and layers."""
    worst = 0.0
    for prompt in prompts.values():
        a, b = (
            graticule.capture(model, names, prompt=prompt, pos="entity_last", share_prefix=share)
            for share in (True, False)
        )
        for point in a.points:
            worst = max(worst, float((a[point] - b[point]).norm() / b[point].norm()))
    return worst


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, repeats=3)
    add_names(options, count=500)
    options.add_argument("--model", default="gemma-3-270m")
    options.add_argument("--dtype", default="float32")
    options.add_argument("--device", default="cpu")
    options.add_argument("--short", action="store_true", help="the paper's own shorter prompts too")
    args = options.parse_args()
    names = drawn_names(args)
    model = graticule.load_model(args.model, dtype=args.dtype, device=args.device)
    sets = {"five prompts of 10 tokens or more": LONG}
    if args.short:
        sets["the paper's prompts of places"] = {
            p.name: p.template
            for table in ("world_place", "us_place", "nyc_place")
            for p in PROMPTS[table].values()
            if p.template
        }
    rows: list[dict[str, Any]] = []
    for title, prompts in sets.items():
        lengths = {k: tokenize(model, names, p).shared_prefix() for k, p in prompts.items()}
        runs: dict[str, Callable[[], object]] = {
            "separate": lambda p=prompts: run_all(model, names, p, False),
            "shared": lambda p=prompts: run_all(model, names, p, True),
        }
        run_all(model, names[:8], prompts, True)  # weights paged in, threads started
        run_all(model, names[:8], prompts, False)
        seconds = medians(measure(runs, args.repeats, warm_up=False))
        own = float(np.mean(tokenize(model, names).lengths)) - 1
        rows.append(
            {
                "prompts": title,
                "names": len(names),
                "tokens a name": own,
                "shared tokens": " ".join(str(n) for n in lengths.values()),
                "separate s": seconds["separate"],
                "shared s": seconds["shared"],
                "ratio": seconds["separate"] / seconds["shared"],
                "names/s": len(names) * len(prompts) / seconds["shared"],
                "largest difference": agreement(model, names[:8], prompts),
            }
        )
    show(rows, f"{args.model}, {args.dtype}, {args.device}, medians of {args.repeats}")
    print(f"ratio {rows[0]['ratio']:.2f} (required: 2 for prompts of 10 tokens or more)")
    write(args, {"prompts": rows})


if __name__ == "__main__":
    main()
