"""A stack that is worse than its best member, and the verdict: `python benchmarks/attack_stack.py`.

Seven baselines read the same part of a target (.4 of its variance) through more or less noise and width, as
string readers, embeddings and a twin do; the probe reads it as well as the best of them, and a hidden part
that none of them has. A stack of seven from few training rows may be worse than one of them: then a gain over
it is not yet one over the baselines. Asked: how often is the verdict *structure* where nothing is hidden, and
where something is, with the rule that baselines and probe together must beat the strongest baseline alone,
and without it; and how often is it structure although some baseline alone is better on the test rows than
the whole stack.

`--only suppressors`: one baseline holds c + u, another c (a baseline, the length of the texts, a declared
confounder), the activations a rotation of both and nothing else, and the target is u and noise; columns
of one's own in unlike units, and honest worlds: two baselines with a part each, and a hidden part in the
activations. Structure with the member `joint`, which reads all columns together, and without it, on the same
predictions otherwise; whether `judge_on` says that a pair of such tables carries.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from _timing import parser, rate, show, write

import graticule
from graticule.probes.core.findings import Findings
from graticule.probes.core.fit import Predictions
from graticule.probes.core.labels import NO_BETTER_THAN_BEST, STRUCTURE
from graticule.probes.core.verdict import Verdict, verdict
from graticule.probes.generalisation.carried import CARRIES
from graticule.probes.linear.ridge_cv import ridge_cv
from graticule.probes.scores.metrics import mean_r2
from graticule.probes.surface.joint import JOINT

READERS = ((0.3, 16), (0.8, 16), (1.0, 64), (1.5, 64), (1.5, 200), (2.0, 200), (2.0, 200))
"""Noise and width of every baseline."""
SEEN = 0.4
ROWS = ((60, 40), (100, 40), (100, 200), (200, 60), (400, 200))
"""Training and test rows."""
HIDDEN = (0.0, 0.1, 0.3)


def judged(rng: np.random.Generator, rows: tuple[int, int], hidden: float) -> tuple[Verdict, float]:
    """The verdict on one world, and the best test R² of a baseline alone."""
    n = sum(rows)
    train, test = np.arange(rows[0]), np.arange(rows[0], n)
    base, own = rng.normal(size=(n, 10)), rng.normal(size=(n, 1))
    y = np.sqrt(SEEN / 3) * base[:, :3].sum(axis=1, keepdims=True) + np.sqrt(hidden) * own
    y = y + np.sqrt(1 - SEEN - hidden) * rng.normal(size=(n, 1))

    def read(columns: np.ndarray, noise: float, width: int) -> Predictions:
        mixing = rng.normal(size=(columns.shape[1], width)) / np.sqrt(columns.shape[1])
        x = columns @ mixing + noise * rng.normal(size=(n, width))
        fit = ridge_cv(x[train], y[train])
        return Predictions(fit.out_of_fold, fit.predict(x[test]))

    beside = {f"reader {i}": read(base, *how) for i, how in enumerate(READERS)}
    probe = read(np.concatenate([base, own], axis=1), *READERS[0])
    made, _ = verdict(
        y[train], y[test], probe, beside, test_clusters=np.arange(len(test)), target_names=["y"],
        model_baselines=list(beside), min_gain=0.01, n_bootstrap=20, seed=0,
    )  # fmt: skip
    return made, max(mean_r2(y[test], one.test) for one in beside.values())


def trials(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A line for every number of rows and hidden part."""
    for place, rows in enumerate(ROWS):
        for hidden in HIDDEN:
            counts = dict.fromkeys(("structure", "without the rule", "a baseline alone better", "then"), 0)
            for trial in range(args.trials):
                rng = np.random.default_rng([args.seed, place, int(100 * hidden), trial])
                made, alone = judged(rng, rows, hidden)
                worse = alone > made.surface + made.gain
                counts["structure"] += made.label == STRUCTURE
                counts["without the rule"] += made.label in (STRUCTURE, NO_BETTER_THAN_BEST)
                counts["a baseline alone better"] += worse and made.label in (STRUCTURE, NO_BETTER_THAN_BEST)
                counts["then"] += worse and made.label == STRUCTURE
            line = {"training, test rows": f"{rows[0]}, {rows[1]}", "hidden": hidden}
            yield {**line, **{what: rate(count, args.trials) for what, count in counts.items()}}


# Two baselines together ------------------------------------------------------------------------------
_WORDS = ("alpha", "beta", "gamma", "delta", "omega", "sigma", "kappa")


def suppressed(
    rng: np.random.Generator, n: int, spread: float, where: str, turn: np.ndarray | None = None
) -> Findings:
    """`c + u` in one baseline, `c`, of that spread, in another place, and u the target; no structure."""
    u, noise = rng.normal(size=n), rng.normal(size=(n, 14))
    words = rng.integers(2, 14, n)
    c = spread * ((words - words.mean()) / words.std() if where == "text" else rng.normal(size=n))
    one, two = np.c_[c + u, noise[:, :7]], np.c_[c, noise[:, 7:]]
    frame = pd.DataFrame({"y": u + 0.7 * rng.normal(size=n), "c": c})
    if where == "yes or no":
        frame["y"] = np.where(frame["y"] > 0, "yes", "no")
    frame["text"] = [f"{' '.join(rng.choice(_WORDS, k))} {i}" for i, k in enumerate(words)]
    texts: dict[str, Any] = {"text": "text", "cluster": None} if where == "text" else {}
    table = graticule.Table(frame, target="y", confounds=["c"] if where == "confounder" else (), **texts)
    beside = {"one": one} if where in ("text", "confounder") else {"one": one, "two": two}
    x = np.c_[one, two]
    return swept(x @ (turned(rng, x.shape[1]) if turn is None else turn), table, beside)


def unlike_units(rng: np.random.Generator, n: int) -> Findings:
    """Columns of one's own a million times as large as others, which alone say something of the target."""
    z = rng.normal(size=(n, 6))
    frame = pd.DataFrame({"y": z[:, 4] + z[:, 5] + rng.normal(size=n)})
    x = np.c_[z, rng.normal(size=(n, 10))]
    own = z * np.array([1e6, 1e3, 1.0, 1.0, 1.0, 1.0])
    return swept(x @ turned(rng, 16), graticule.Table(frame, target="y"), {"own": own})


def honest(rng: np.random.Generator, n: int, hidden: float) -> Findings:
    """Two baselines with a fifth of the variance each, among 48 columns, and a hidden part."""
    parts, noise = rng.normal(size=(n, 3)), rng.normal(size=(n, 96))
    y = np.sqrt(0.2) * parts[:, :2].sum(axis=1) + np.sqrt(hidden) * parts[:, 2]
    y = y + np.sqrt(0.6 - hidden) * rng.normal(size=n)
    beside = {"one": np.c_[parts[:, 0], noise[:, :47]], "two": np.c_[parts[:, 1], noise[:, 47:94]]}
    x = np.c_[parts, noise]
    return swept(x @ turned(rng, 99), graticule.Table(pd.DataFrame({"y": y}), target="y"), beside)


def turned(rng: np.random.Generator, width: int) -> np.ndarray:
    """A rotation."""
    return np.linalg.qr(rng.normal(size=(width, width)))[0]


def swept(x: np.ndarray, table: graticule.Table, beside: dict[str, np.ndarray]) -> Findings:
    """One held-out part."""
    texts = {} if table.texts is None else {"texts": table.texts}
    rows = graticule.Activations.from_tensors({"resid_post": x.astype(np.float32)}, **texts)
    made = graticule.Baselines.of(table, beside)
    return graticule.sweep(rows, table, baselines=made, crossfit=False, progress=False)


def together(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A line for every kind of world."""
    worlds: dict[str, Any] = {
        f"c of spread {spread} in another baseline, 800 rows": lambda rng, s=spread: suppressed(
            rng, 800, s, "two"
        )
        for spread in (0.3, 0.5, 1.0, 3.0)
    }
    worlds |= {
        f"c of spread 1 in {name}": lambda rng, w=where, n=n: suppressed(rng, n, 1.0, w)
        for where, name, n in (
            ("yes or no", "another baseline, yes or no, 800 rows", 800),
            ("confounder", "a declared confounder, 400 rows", 400),
            ("text", "the number of words, 400 rows", 400),
        )
    }
    worlds["own columns in unlike units, 400 rows"] = lambda rng: unlike_units(rng, 400)
    for n in (200, 1000):
        for hidden in (0.0, 0.05, 0.1):
            worlds[f"honest, {n} rows, hidden {hidden}"] = lambda rng, n=n, h=hidden: honest(rng, n, h)
    for place, (name, world) in enumerate(worlds.items()):
        counts = {"structure": 0, "without joint": 0}
        for trial in range(args.trials):
            findings = world(np.random.default_rng([args.seed, 100 + place, trial]))
            alone = findings.inputs.judge(findings.predictions_at(), [JOINT])
            counts["structure"] += findings.verdict.label == STRUCTURE
            counts["without joint"] += alone.label == STRUCTURE
        yield {"world": name, **{what: rate(count, args.trials) for what, count in counts.items()}}
    count = 0
    for trial in range(args.trials):
        rng = np.random.default_rng([args.seed, 99, trial])
        turn = turned(rng, 16)
        one, other = (suppressed(rng, 500, 1.0, "two", turn) for _ in range(2))
        count += graticule.judge_on(one, other, progress=False).scored["label"][0] == CARRIES
    yield {
        "world": "carried to another such table, 500 rows",
        "structure": rate(count, args.trials),
        "without joint": "not taken",
    }


def main() -> None:
    """Run it."""
    options = parser(__doc__)
    options.add_argument("--trials", type=int, default=200)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", choices=("stack", "suppressors"))
    args = options.parse_args()
    out: dict[str, Any] = {}
    if args.only != "suppressors":
        out["stack"] = list(trials(args))
        show(
            out["stack"],
            "Structure, and structure that a baseline alone speaks against, without the rule and then with",
        )
    if args.only != "stack":
        out["suppressors"] = list(together(args))
        show(out["suppressors"], "Structure with the member that reads all columns together, and without it")
    write(args, out)


if __name__ == "__main__":
    main()
