"""Functions of the string alone as targets: the verdict must not be structure.

`python benchmarks/attack_strings.py --rows 2000 --folder captures --table historical_figures`: names of a
table, the packaged model's own activations and baselines, and a sweep for every function, none of which the
model can know any better than the text says it. `--sets blind` takes functions that were written after the
readers were; `--sets drawn --trials 16 --seed 1` draws them at random. `--real` sweeps the table's own
target, and says which member of the surface carries it. Layers are every `--step`-th.
"""

import re
import time
import unicodedata
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from _timing import parser, show, write

import graticule
from graticule import Table, sweep
from graticule.probes.calibration.oddities import odd_functions
from graticule.probes.core.resample import wilson
from graticule.probes.core.verdict import STRUCTURE


def letters(text: str) -> str:
    """Its letters a to z, lower case, without accents."""
    return "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if "a" <= c <= "z") or "a"


def rank(letter: str) -> int:
    """Its place in the alphabet."""
    return ord(letter) - 96


def vowels(text: str) -> list[int]:
    """Places of the vowels among its letters."""
    return [i for i, c in enumerate(letters(text)) if c in "aeiou"]


POINTS = dict(zip("abcdefghijklmnopqrstuvwxyz", (1, 3, 3, 2, 1, 4, 2, 4, 1, 8, 5, 1, 3, 1, 1, 3, 10, 1, 1, 1,
                                                 1, 4, 4, 8, 4, 10), strict=True))  # fmt: skip

NAMED = {
    "characters": len,
    "words": lambda t: len(t.split()),
    "capitals": lambda t: sum(map(str.isupper, t)),
    "rank of the first letter": lambda t: rank(letters(t)[0]),
    "rank of the last letter": lambda t: rank(letters(t)[-1]),
    "distinct letters": lambda t: len(set(letters(t))),
    "length of the first word": lambda t: len(t.split()[0]),
    "length of the last word": lambda t: len(t.split()[-1]),
    "count of e": lambda t: letters(t).count("e"),
    "share of vowels": lambda t: len(vowels(t)) / len(letters(t)),
    "sum of ranks": lambda t: sum(map(rank, letters(t))),
    "product of first and last rank": lambda t: rank(letters(t)[0]) * rank(letters(t)[-1]),
    "syllables": lambda t: len(re.findall("[aeiouy]+", " ".join(letters(w) for w in t.split()))),
    "longest word": lambda t: max(map(len, t.split())),
    "letters that first and last word share": lambda t: len(
        {*letters(t.split()[0])} & {*letters(t.split()[-1])}
    ),
}
"""Beside the number of tokens."""


def pairs(text: str) -> list[str]:
    """Letters beside each other."""
    return [a + b for a, b in pairwise(letters(text))]


def lengths(text: str) -> list[int]:
    """Of its words."""
    return [len(word) for word in text.split()]


BLIND = {
    "vowels at even places": lambda t: sum(i % 2 == 0 for i in vowels(t)),
    "letters after m": lambda t: sum(rank(c) > 13 for c in letters(t)),
    "third letter of the last word": lambda t: rank((letters(t.split()[-1]) + "aaa")[2]),
    "characters after the first word": lambda t: len(t) - lengths(t)[0],
    "points of a word game": lambda t: sum(POINTS[c] for c in letters(t)),
    "letters of the top row of keys": lambda t: sum(c in "qwertyuiop" for c in letters(t)),
    "longest over shortest word": lambda t: max(lengths(t)) / min(lengths(t)),
    "pairs that come twice": lambda t: len(pairs(t)) - len({*pairs(t)}),
    "logarithm of words' lengths": lambda t: float(np.log(lengths(t)).sum()),
    "letters from first to last vowel": lambda t: max(vowels(t), default=0) - min(vowels(t), default=0),
    "letters shared with gemma": lambda t: len({*letters(t)} & {*"gemma"}),
    "largest step between neighbours": lambda t: max(
        (abs(ord(p[0]) - ord(p[1])) for p in pairs(t)), default=0
    ),
    "words that begin as the first does": lambda t: sum(w[0].lower() == t[0].lower() for w in t.split()),
    "more than three words": lambda t: float(len(t.split()) > 3),
    "vowels of the second half": lambda t: sum(c in "aeiou" for c in t.lower()[len(t) // 2 :]),
}
"""Beside the share of tokens in words; written when the readers stood, and run once."""


def read(args: object) -> pd.DataFrame:
    """So many rows of the table, each text once."""
    path = Path(args.table)
    frame = pd.read_csv(path, keep_default_na=False) if path.exists() else Table.packaged(args.table).frame
    frame = frame.drop_duplicates(args.column)
    picked = np.random.default_rng(args.seed).permutation(len(frame))[: args.rows]
    return frame.iloc[np.sort(picked)].reset_index(drop=True)


def main() -> None:
    """Run it."""
    options = parser(__doc__, repeats=1)
    options.add_argument("--table", default="historical_figures", help="a packaged table, or a CSV file")
    options.add_argument("--column", default="name")
    options.add_argument("--real", nargs="*", default=[], help="the table's own targets, beside functions")
    options.add_argument("--rows", type=int, default=2000)
    options.add_argument("--step", type=int, default=3, help="every so many layers are swept")
    options.add_argument("--sets", nargs="*", choices=("named", "blind", "drawn"), default=["named"])
    options.add_argument("--trials", type=int, default=16, help="functions of a set, at most")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--folder", type=Path, required=True, help="for the captures, which are resumed")
    args = options.parse_args()
    frame = read(args)
    frame["length"] = frame[args.column].str.len().astype(float)
    own = {"split": "is_test"} if "is_test" in frame else {}
    table = Table(frame, text=args.column, target="length", name=Path(args.table).stem, **own)
    model = graticule.load_model("gemma-3-270m")
    layers = slice(1, None, args.step)
    everything = graticule.capture(model, table.texts, store=args.folder / "activations", progress=False)
    beside = graticule.baselines(model, table, store=args.folder / "baselines", progress=False)
    points = everything.points[layers]
    activations = everything.select(points=points)
    twins = {
        name: one.select(points=points) if name in beside.twins else one
        for name, one in beside.features.items()
    }
    beside = type(beside)(beside.table_digest, twins, True, beside.provenance, beside.tokens)
    tokens = dict(zip(beside.tokens.names, beside.tokens.values.T, strict=True))
    sets = {
        "named": {"tokens": tokens["tokens"]} | {n: list(map(f, table.texts)) for n, f in NAMED.items()},
        "blind": {"tokens of a word": tokens["tokens"] / [len(t.split()) for t in table.texts]}
        | {n: list(map(f, table.texts)) for n, f in BLIND.items()},
        "drawn": {f"drawn {i}": v for i, v in enumerate(
            odd_functions(table.texts, args.trials, np.random.default_rng([args.seed, 99])))},
    }  # fmt: skip
    targets = [(which, *one) for which in args.sets for one in list(sets[which].items())[: args.trials]]
    targets += [("real", name, frame[name].to_numpy()) for name in args.real]
    rows: list[dict[str, object]] = []
    for which, name, values in targets:
        began = time.process_time()
        found = sweep(
            activations, table.with_target(np.asarray(values, np.float64)), baselines=beside, progress=False
        )
        verdict, lines = found.verdict, found.summary().splitlines()
        carried = [line for line in lines if "carrie" in line]
        rows.append({
            "set": which, "target": name[:46], "probe": verdict.score,
            "surface": verdict.surface, "gain": verdict.gain,
            "low": verdict.ci95[0], "high": verdict.ci95[1], "verdict": verdict.label[:24],
            "carried by": carried[0].split(" by ")[-1][:60] if carried else "",
            "seconds": time.process_time() - began,
        })  # fmt: skip
        print(rows[-1], flush=True)
    show(rows, f"{table.name}, {len(table)} names")
    counts: dict[str, tuple[int, int]] = {}
    for which in args.sets:
        own = [row["verdict"] == STRUCTURE[:24] for row in rows if row["set"] == which]
        counts[which] = sum(own), len(own)
        low, high = wilson(*counts[which])
        print(f"{which}: structure in {sum(own)} of {len(own)} [{low:.2f}, {high:.2f}]")
    write(args, {"rows": rows, "structure": counts})


if __name__ == "__main__":
    main()
