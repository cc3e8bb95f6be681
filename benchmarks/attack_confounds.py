"""What tells the label without the concept: `python benchmarks/attack_confounds.py`.

*declared*: worlds whose target follows a confounder that the activations hold and no baseline does; the
concept is not in the activations. Once the confounder is declared the verdict should not be *structure*; with
a concept in the activations beside it, of the size `--concept`, it should. *kept back* is what would be
structure if the gain did not have to be shown among rows that are alike.

- `two sources`, `five sources`: words;
- `source of a cluster`: the five rows of a document have one of eight sources;
- `number, bent`: the target follows the square of a number, the activations hold the square;
- `product`: a word and a number, the target follows the product of their signs, which the activations hold;
- of 200 rows, each of which is tested: `product of numbers`, two of them; `many periods`, four of the sine of
  a number; `forty levels`, a word with a score each.

*unasked*: worlds of texts whose target follows a property of the text (number of words, case, digits,
punctuation, script, template) or the place in the table, which the activations hold; nothing is declared. The
warning must name it. In worlds whose target follows a concept, and texts are made alike but have nothing to
do with it, none must be given.

Numbers and yes/no take turns; the verdict of 500 rows is that of one held-out part.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from _timing import parser, rate, show, write

from graticule import Activations, Findings, Table, sweep
from graticule.probes.core.labels import STRUCTURE
from graticule.probes.surface.baselines import Baselines, text_digest

POINT = "blocks.0.hook_resid_post"
ROWS, FEW, WIDTH = 500, 200, 24
OF_FEW = ("product of numbers", "many periods", "forty levels")
DECLARED = ("two sources", "five sources", "source of a cluster", "number, bent", "product", *OF_FEW)
ALIKE = "rows that are alike"
UNASKED = ("length", "case", "digits", "punctuation", "script", "template", "position")
LETTERS, CYRILLIC = [*"abcdefghijklmnop"], [*"абвгдежзийклмноп"]


def swept(
    frame: pd.DataFrame, of: np.ndarray, rng: np.random.Generator, binary: bool, **how: Any
) -> Findings:
    """Of a column `value` and what the activations hold, beside six columns of nothing."""
    value = frame.pop("value")
    frame["y"] = np.where(value > value.median(), "yes", "no") if binary else value
    table = Table(frame, target="y", seed=int(rng.integers(2**31)), **how)
    n = len(frame)
    rows = np.column_stack([of, rng.normal(size=(n, 6))])
    x = rows @ rng.normal(size=(rows.shape[1], WIDTH)) + 0.5 * rng.normal(size=(n, WIDTH))
    activations = Activations.from_tensors({POINT: x.astype(np.float32)}, texts=table.texts)
    blind = {"mean_embedding": Activations.from_tensors({"hook_embed": rng.normal(size=(n, 4))})}
    return sweep(
        activations,
        table,
        baselines=Baselines(text_digest(table), blind, False),
        crossfit=None if n == FEW else False,
        progress=False,
    )


def confounded(
    world: str, rng: np.random.Generator, binary: bool, concept: float, declared: bool
) -> Findings:
    """A world whose target follows a confounder, and a concept by so much."""
    n = FEW if world in OF_FEW else ROWS
    cluster, names = np.arange(n), ["source"]
    number, other = rng.normal(size=(2, n))
    if world == "source of a cluster":
        cluster = cluster // 5
        source = rng.integers(0, 8, n // 5)[cluster]
    else:
        source = rng.integers(0, {"five sources": 5, "forty levels": 40}.get(world, 2), n)
    effect = rng.normal(size=40)[source]
    if world in ("two sources", "product"):
        effect = 2.0 * source - 1
    if world == "number, bent":
        effect, names = (np.square(number) - 1) / np.sqrt(2), ["number"]
    elif world == "product":
        effect, names = effect * np.sign(number), ["source", "number"]
    elif world == "product of numbers":
        effect, names = number * other, ["number", "other"]
    elif world == "many periods":
        number = rng.uniform(size=n)
        effect, names = np.sin(8 * np.pi * number), ["number"]
    effect = effect / effect.std()
    hidden = rng.normal(size=n)
    frame = pd.DataFrame({
        "source": [f"source {one}" for one in source], "number": number, "other": other, "cluster": cluster,
        "value": effect + concept * hidden + 0.6 * rng.normal(size=n),
    })  # fmt: skip
    of = np.column_stack([effect, hidden] if concept else [effect])
    return swept(frame, of, rng, binary, cluster="cluster", confounds=names if declared else ())


def text_of(world: str, sign: float, rng: np.random.Generator) -> str:
    """Letters by chance, with the property or without."""
    letters = CYRILLIC if world == "script" and sign > 0 else LETTERS
    count = int(rng.integers(2, 6)) + (2 if world == "length" and sign > 0 else 0)
    words = ["".join(rng.choice(letters, rng.integers(3, 8))) for _ in range(count)]
    if world == "case" and sign > 0:
        words = [word.title() for word in words]
    elif world == "digits" and sign > 0:
        words.append(str(rng.integers(10, 1000)))
    elif world == "punctuation" and sign > 0:
        words[-1] += str(rng.choice([*".!?"]))
    elif world == "template":
        words = ["about", words[0], "we" if sign > 0 else "they", "say", *words[1:]]
    return " ".join(words)


def of_texts(world: str, rng: np.random.Generator, binary: bool, planted: bool) -> Findings:
    """Texts that have a property or not, and a target that follows it, or follows a concept."""
    sign, hidden = rng.choice([-1.0, 1.0], ROWS), rng.normal(size=ROWS)
    texts = [text_of(world, one, rng) for one in sign]
    effect = np.linspace(-1.7, 1.7, ROWS) if world == "position" else sign
    if world == "length":
        effect = np.array([float(len(text.split())) for text in texts])
        effect = (effect - effect.mean()) / effect.std()
    followed = effect if planted else hidden
    frame = pd.DataFrame({"text": texts, "value": followed + 0.6 * rng.normal(size=ROWS)})
    return swept(frame, followed[:, None], rng, binary, text="text")


def declared_lines(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A line for each world whose confounder is declared."""
    for place, world in enumerate(DECLARED):
        if world not in args.worlds:
            continue
        seen = ("undeclared", "declared", "kept back", "warned", "within", "rest", "with a concept")
        counts = dict.fromkeys((*seen, "concept kept back"), 0)
        for trial in range(args.trials):
            binary = trial % 2 == 1
            seeds = [args.seed, place, trial]
            bare = confounded(world, np.random.default_rng(seeds), binary, 0.0, declared=False)
            made = confounded(world, np.random.default_rng(seeds), binary, 0.0, declared=True)
            real = confounded(world, np.random.default_rng([*seeds, 1]), binary, args.concept, declared=True)
            counts["undeclared"] += bare.verdict.label == STRUCTURE
            counts["declared"] += made.verdict.label == STRUCTURE
            counts["kept back"] += ALIKE in made.verdict.label
            counts["concept kept back"] += ALIKE in real.verdict.label
            counts["warned"] += any("alone" in warning for warning in made.verdict.warnings)
            counts["within"] += any(line.low > 0 for line in made.confounders)
            counts["rest"] += made.residualised is not None and made.residualised.label == STRUCTURE
            counts["with a concept"] += real.verdict.label == STRUCTURE
        yield {"world": world, **{what: rate(count, args.trials) for what, count in counts.items()}}


def unasked_lines(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A line for each built-in confounder."""
    for place, world in enumerate(UNASKED):
        counts = dict.fromkeys(("warned of it", "of anything, without cause"), 0)
        for trial in range(args.trials):
            binary = trial % 2 == 1
            seeds = [args.seed, 100 + place, trial]
            planted = of_texts(world, np.random.default_rng(seeds), binary, True).confounders
            others = of_texts(world, np.random.default_rng([*seeds, 1]), binary, False).confounders
            counts["warned of it"] += world in [line.name for line in planted]
            counts["of anything, without cause"] += len(others) > 0
        yield {"world": world, **{what: rate(count, args.trials) for what, count in counts.items()}}


def main() -> None:
    """Run it."""
    options = parser(__doc__)
    options.add_argument("--trials", type=int, default=200)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--concept", type=float, default=1.0)
    options.add_argument("--worlds", nargs="*", choices=DECLARED, default=DECLARED)
    options.add_argument("--only", choices=("declared", "unasked"))
    args = options.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    for name, lines_of in (("declared", declared_lines), ("unasked", unasked_lines)):
        if args.only in (None, name):
            figures[name] = []
            for line in lines_of(args):
                figures[name].append(line)
                show([line])
            show(figures[name], f"{name}, {args.trials} worlds each, seed {args.seed}")
    write(args, figures)


if __name__ == "__main__":
    main()
