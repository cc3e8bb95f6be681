"""Two hundred words or sentences on Gemma: one answer over dealings, and scikit-learn on the same folds.

    python benchmarks/small_tables.py animals --seeds 30
    python benchmarks/small_tables.py sentences
    python benchmarks/small_tables.py claims
    python benchmarks/small_tables.py cost

`animals`: words and things of `examples/own_activations.ipynb`, the verdict by `sweep` and by as many
dealings. `sentences`: 100 pairs of one frame each, of a living thing and of a thing; `claims`: 100
cities, each with its own country and with another's; ten folds of whole
pairs, the probe beside scikit-learn's logistic regression at the layer chosen in each fold. `cost`: CPU
seconds of `sweep` with and without dealing, beside those of `baselines`.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _timing import parser, show, write
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import graticule
from graticule import Findings, Table
from graticule.probes.core.crossfit import cross_fitted
from graticule.probes.core.crossfit_verdict import crossfit_class_scores, crossfit_verdict
from graticule.probes.core.gates import Gates
from graticule.probes.surface.baselines import text_digest
from graticule.probes.tables.groups import group_folds

_NOTEBOOK = Path(__file__).parents[1] / "examples" / "own_activations.ipynb"
_CODE = "".join("".join(cell["source"]) for cell in json.loads(_NOTEBOOK.read_text())["cells"])
ANIMALS, THINGS = (block.split() for block in re.findall('"{3}(.*?)"{3}', _CODE, re.DOTALL))
FRAMES = [
    "Yesterday we saw a {} near the old house and told our neighbours about it.",
    "My uncle keeps a {} and will not give it away at any price.",
    "There is a {} in this picture, although few people notice it.",
    "The story begins with a {} that everybody in the village remembers.",
    "Nobody had expected a {} there, so they called for help.",
    "She drew a {} on the wall and wrote her name beside it.",
    "For his birthday he was given a {} that was older than he was.",
    "A {} stood in the way, and the driver had to wait for an hour.",
    "They talked about a {} all evening and forgot what they had come for.",
    "The museum has a {} in its first room, and children like it most.",
]


def animals() -> Table:
    """The words of README's example in 0.1."""
    frame = pd.DataFrame(
        {"word": ANIMALS + THINGS, "animal": [True] * len(ANIMALS) + [False] * len(THINGS)}
    ).drop_duplicates("word")
    return Table(frame, text="word", target="animal", name="animals and things")


def sentences(pairs: int = 100) -> Table:
    """Two sentences a pair, of one frame: of a living thing and of a thing."""
    lines: list[dict[str, Any]] = []
    for i in range(pairs):
        for word, alive in ((ANIMALS[i], "alive"), (THINGS[i], "thing")):
            lines.append({"sentence": FRAMES[i % len(FRAMES)].format(word), "of": alive, "pair": i})
    return Table(
        pd.DataFrame(lines), text="sentence", target="of", cluster="pair", positive="alive", name="sentences"
    )


def claims(pairs: int = 100) -> Table:
    """A city and a country, its own and another's; every country stands in as many true as false ones."""
    cities = Table.packaged("world_cities").frame.sort_values("population", ascending=False)
    some = cities.drop_duplicates("country").head(pairs)
    names, countries = some["name"].tolist(), some["country"].tolist()
    lines: list[dict[str, Any]] = []
    for i, name in enumerate(names):
        for country, true in ((countries[i], "true"), (countries[(i + 37) % len(names)], "false")):
            lines.append({"sentence": f"The city of {name} is in {country}.", "is": true, "pair": i})
    return Table(
        pd.DataFrame(lines), text="sentence", target="is", cluster="pair", positive="true", name="claims"
    )


def swept(table: Table, **options: Any) -> Findings:
    """Every layer of Gemma, its baselines, a sweep."""
    model = graticule.load_model("gemma-3-270m")
    activations = graticule.capture(model, table.texts, points="resid_post", pos="last", progress=False)
    beside = graticule.baselines(model, table, progress=False)
    return graticule.sweep(activations, table, baselines=beside, progress=False, **options)


def over_dealings(seeds: int) -> list[dict[str, Any]]:
    """The answer of every dealing."""
    found = swept(animals())
    print(found.summary())
    labels, gains = list[str](), list[float]()
    for seed in range(seeds):
        made = cross_fitted(found.inputs, seed=seed, progress=False)
        judged = crossfit_verdict(made, found.inputs, found.verdict_of_split)
        labels.append((found.gates or Gates()).through(judged).label)
        gains.append(judged.gain)
    (label, count), *_ = Counter(labels).most_common()
    return [
        {"dealings": seeds, "most frequent": label, "share": count / seeds, "gain, least": min(gains),
         "gain, most": max(gains), "one part": found.verdict_of_split.label}
    ]  # fmt: skip


def beside_sklearn(table: Table, seeds: int) -> list[dict[str, Any]]:
    """Ten folds of whole pairs: the probe alone and logistic regression, both over all rows."""
    found = swept(table)
    print(found.summary())
    inputs, problem = found.inputs, found.inputs.problem
    y = problem.y[:, 0]
    lines: list[dict[str, Any]] = []
    for seed in range(seeds):
        made = cross_fitted(inputs, n_folds=10, n_repeats=1, seed=seed, progress=False)
        judged, scores = (
            crossfit_verdict(made, inputs, found.verdict_of_split),
            crossfit_class_scores(made, problem),
        )
        fold, theirs = group_folds(problem.clusters, 10, 7919 * seed), np.empty(len(y))
        for k, point in enumerate(made.points):
            X = inputs.rows(point)
            fit = make_pipeline(
                StandardScaler(), LogisticRegressionCV(Cs=10, cv=5, scoring="neg_log_loss", max_iter=2000)
            ).fit(X[fold != k], y[fold != k])
            theirs[fold == k] = fit.predict_proba(X[fold == k])[:, 1]
        area = float(roc_auc_score(y, theirs))
        lines.append(
            {"dealing": seed, "label": judged.label, "bits": judged.gain, "low": judged.ci95[0],
             "high": judged.ci95[1], "AUROC": scores.auroc, "from": scores.auroc_ci95[0],
             "to": scores.auroc_ci95[1], "scikit-learn": area, "less": scores.auroc - area,
             "accuracy": scores.accuracy, "its low": scores.accuracy_ci95[0],
             "its high": scores.accuracy_ci95[1], "theirs": float(((theirs > 0.5) == y).mean())}
        )  # fmt: skip
    return lines


def cost(sizes: tuple[int, ...] = (200, 600, 2000)) -> list[dict[str, Any]]:
    """CPU seconds of places by name: latitude, and whether it is in the north."""
    model = graticule.load_model("gemma-3-270m")
    frame = Table.packaged("world_cities").frame
    order, lines = np.random.default_rng(0).permutation(len(frame)), list[dict[str, Any]]()
    for rows in sizes:
        some = frame.iloc[order[:rows]].reset_index(drop=True)
        some = some.assign(north=some["latitude"] > some["latitude"].median())
        names = Table(some[["name", "latitude"]], text="name", target="latitude", name="names")
        activations = graticule.capture(model, names.texts, points="resid_post", progress=False)
        start = time.process_time()
        beside = graticule.baselines(model, names, progress=False)
        of_baselines = time.process_time() - start
        for target in ("latitude", "north"):
            table = Table(some[["name", target]], text="name", target=target, name="names")
            spent: dict[str, float] = {}
            for name, crossfit in (("one part", False), ("by default", None)):
                start = time.process_time()
                own = replace(beside, table_digest=text_digest(table))
                graticule.sweep(activations, table, baselines=own, crossfit=crossfit, progress=False)
                spent[name] = time.process_time() - start
            before, now = (of_baselines + spent[name] for name in ("one part", "by default"))
            lines.append(
                {"rows": rows, "target": target, "baselines": of_baselines, **spent, "times": now / before}
            )
            show(lines[-1:])
    return lines


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, repeats=1)
    options.add_argument("what", choices=("animals", "sentences", "claims", "cost"))
    options.add_argument("--seeds", type=int, default=30)
    args = options.parse_args()
    if args.what == "animals":
        lines = over_dealings(args.seeds)
    elif args.what in ("sentences", "claims"):
        table = sentences() if args.what == "sentences" else claims()
        lines = beside_sklearn(table, min(args.seeds, 5))
    else:
        lines = cost()
    show(lines, args.what)
    write(args, {"rows": lines})


if __name__ == "__main__":
    main()
