"""Many findings at once, neurons of unlike size, untrained SAEs: how often luck is named.

`python benchmarks/attack_family.py --trials 200 --seed 1`: families of 500 concepts of which 50 are there,
half as many as trials; searches of a target that no neuron carries, among neurons of which eight are a
hundred times larger; SAEs of random weights on activations that hold the target. Beside each the same where
there is something to find. `--only family` runs one part.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from _timing import parser, show, write

from graticule.probes.core.resample import wilson
from graticule.probes.core.verdict import STRUCTURE, label_of
from graticule.probes.families.family import adjusted_members
from graticule.probes.families.gain_tests import GainTest

TRAIN, TEST, FOLDS = 240, 120, 5
SURFACE, HIDDEN = 0.4, (0.03, 0.3)
STRENGTHS = np.geomspace(1e-2, 1e2, 6)
WAYS = {
    "by its own verdict": "alone",
    "Benjamini-Hochberg": "q_bh",
    "Benjamini-Yekutieli": "q_by",
    "max-T": "p_max",
    "Bonferroni": "bonferroni",
}


# Families ----------------------------------------------------------------------------------------------
def concepts(sharing: bool, yes_no: bool, rng: np.random.Generator, of: int, real: int) -> tuple[Any, ...]:
    """Activations and words `[concept or 1, row, column]`, targets `[concept, row]`, clusters.

    The words are six numbers a row that the surface reads; the hidden part of a real concept is one direction
    of the activations (of twelve that 50 real ones share, where all concepts have the same rows). Rows come
    in clusters of four that share half of whatever the words do not say, where targets are yes or no.
    """
    n, size = TRAIN + TEST, 4 if yes_no else 1
    clusters = np.arange(n) // size
    sets, width, factors = (1, 64, 12) if sharing else (of, 16, 1)

    def values(*shape: int) -> np.ndarray:
        """Normal numbers `[set, row, …]`, half of their variance of the cluster."""
        own, shared = rng.normal(size=shape), rng.normal(size=(shape[0], n // size, *shape[2:]))
        return own if size == 1 else np.sqrt(0.5) * (own + shared[:, clusters])

    words, hidden = rng.normal(size=(sets, n, 6)), values(sets, n, factors)
    noise = rng.normal(size=(sets, n, width))
    x = words @ rng.normal(size=(sets, 6, width)) + hidden @ rng.normal(size=(sets, factors, width)) + noise
    said = rng.normal(size=(of, 6))
    part = np.einsum("crw,cw->cr", np.broadcast_to(words, (of, n, 6)), said)
    mixed = rng.normal(size=(of, factors))
    deep = np.einsum("crf,cf->cr", np.broadcast_to(hidden, (of, n, factors)), mixed)
    share = np.where(np.arange(of) < real, rng.uniform(*HIDDEN, of), 0.0)[:, None]
    rest = values(of, n)
    if sharing:  # what is left of the targets is alike, too
        common = np.einsum("rf,cf->cr", values(1, n, 10)[0], rng.normal(size=(of, 10)))
        rest = np.sqrt(0.5) * (rest + unit(common))
    y = np.sqrt(SURFACE) * unit(part) + np.sqrt(share) * unit(deep) + np.sqrt(1 - SURFACE - share) * rest
    if yes_no:
        at = np.quantile(y, 0.5, axis=1) + rng.uniform(-1.2, 1.2, of)
        y = (y > at[:, None]).astype(np.float64)
    return x, words, y, clusters


def unit(values: np.ndarray) -> np.ndarray:
    """Rows of mean 0 and standard deviation 1."""
    values = values - values.mean(axis=1, keepdims=True)
    return values / values.std(axis=1, keepdims=True)


def ridge(x: np.ndarray, y: np.ndarray, fit: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Predictions `[concept, strength, row]` of `rows` by ridge on the rows `fit`."""
    inside = x[:, fit]
    centre, offset = inside.mean(axis=1, keepdims=True), y[:, fit].mean(axis=1, keepdims=True)
    inside = inside - centre
    values, axes = np.linalg.eigh(inside.transpose(0, 2, 1) @ inside)
    along = axes.transpose(0, 2, 1) @ inside.transpose(0, 2, 1)
    right = np.einsum("swr,cr->cw" if len(x) == 1 else "cwr,cr->cw", along, y[:, fit] - offset)
    weights = right[:, None] / (values[:, None] + STRENGTHS[:, None] * values.mean(axis=1)[:, None, None])
    seen = (x[:, rows] - centre) @ axes
    equation = "srw,caw->car" if len(x) == 1 else "crw,caw->car"
    return np.einsum(equation, seen, weights) + offset[:, None]


def predicted(x: np.ndarray, y: np.ndarray, fold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Out-of-fold and test predictions of every concept, its strength chosen by the former."""
    train, test = np.arange(TRAIN), np.arange(TRAIN, TRAIN + TEST)
    out = np.empty((len(y), len(STRENGTHS), TRAIN))
    for f in range(FOLDS):
        out[:, :, fold == f] = ridge(x, y, train[fold != f], train[fold == f])
    best = np.square(out - y[:, None, :TRAIN]).sum(axis=2).argmin(axis=1)
    pick = np.arange(len(y))
    return out[pick, best], ridge(x, y, train, test)[pick, best]


def stacked(y: np.ndarray, *predictors: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Test predictions of least squares on predictors that go with the target out of fold."""
    inside = np.stack([p[0] for p in predictors], axis=2)
    outside = np.stack([p[1] for p in predictors], axis=2)
    centre, offset = inside.mean(axis=1, keepdims=True), y.mean(axis=1, keepdims=True)
    design, right = inside - centre, y - offset
    used = np.einsum("crp,cr->cp", design, right) > 0
    design = design * used[:, None]
    weights = np.linalg.pinv(design, rcond=1e-9) @ right[:, :, None]
    return ((outside - centre) * used[:, None] @ weights)[:, :, 0] + offset


def judged(
    sharing: bool, yes_no: bool, rng: np.random.Generator, seed: int, of: int, real: int
) -> pd.DataFrame:
    """One family's members, the real ones marked."""
    x, words, y, clusters = concepts(sharing, yes_no, rng, of, real)
    fold = rng.permutation(clusters[TRAIN - 1] + 1)[clusters[:TRAIN]] % FOLDS
    surface, probe = predicted(words, y, fold), predicted(x, y, fold)
    y_train, y_test = y[:, :TRAIN], y[:, TRAIN:]
    without, whole = stacked(y_train, surface), stacked(y_train, surface, probe)
    saved = np.square(y_test - without) - np.square(y_test - whole)
    total = np.square(y_test - y_test.mean(axis=1, keepdims=True)).sum(axis=1)
    codes = clusters[TRAIN:] - clusters[TRAIN]
    tests: list[GainTest] = []
    labels: list[str] = []
    for c in range(of):
        parts = np.bincount(codes, weights=saved[c]) / max(total[c], 1e-9)
        test = GainTest.of_parts(parts, "the same" if sharing else f"{c}")
        reach = 1.984 * parts.std(ddof=1) * np.sqrt(len(parts))
        labels.append(label_of(test.gain, (test.gain - reach, test.gain + reach), 0.01, True))
        tests.append(test)
    lines = pd.DataFrame({"name": range(of), "alone": labels, "real": np.arange(of) < real})
    return adjusted_members(lines, tests, "benjamini-hochberg", 0.05, 1000, seed)


def families(count: int, seed: int, of: int, real: int) -> list[dict[str, Any]]:
    """False share and power of every way to name, over families of every kind."""
    lines: list[dict[str, Any]] = []
    for sharing in (False, True):
        for yes_no in (False, True):
            false: dict[str, list[float]] = {way: [] for way in WAYS}
            power: dict[str, list[float]] = {way: [] for way in WAYS}
            for number in range(count):
                rng = np.random.default_rng([seed, number, sharing, yes_no])
                members = judged(sharing, yes_no, rng, number, of, real)
                for way, column in WAYS.items():
                    stands = (members["alone"] == STRUCTURE).to_numpy(bool)
                    named = stands if column == "alone" else stands & (members[column] <= 0.05).to_numpy(bool)
                    there = members["real"].to_numpy(bool)
                    false[way].append(float((named & ~there).sum() / max(named.sum(), 1)))
                    power[way].append(float((named & there).sum() / max(real, 1)))
            for way in WAYS:
                mean, reach = np.mean(false[way]), 1.96 * np.std(false[way], ddof=1) / np.sqrt(count)
                any_false = int(np.sum(np.array(false[way]) > 0))
                low, high = wilson(any_false, count)
                lines.append(
                    {
                        "rows": "shared" if sharing else "each its own",
                        "target": "yes/no, clusters of 4" if yes_no else "numbers",
                        "named by": way,
                        "false share": f"{mean:.4f} [{max(mean - reach, 0):.4f}, {mean + reach:.4f}]",
                        "any false": f"{any_false / count:.2f} [{low:.2f}, {high:.2f}]",
                        "power": float(np.mean(power[way])),
                    }
                )
    return lines


# Neurons -----------------------------------------------------------------------------------------------
def neuron_worlds(trials: int, seed: int) -> Iterator[tuple[str, int]]:
    """How often a basis is called special, eight of 64 neurons a hundred times larger."""
    for kind in ("dense target", "dense target, neurons mixed and rectified", "a neuron's target"):
        yield kind, sum(_special(np.random.default_rng([seed, n]), kind, n) for n in range(trials))


def _special(rng: np.random.Generator, kind: str, seed: int) -> bool:
    from graticule.probes.neurons.result import SPECIAL, Search, counted_together
    from graticule.probes.neurons.rotations import best_over_layers, search_layer

    n, width = 400, 64
    x = rng.normal(size=(n, width))
    if "mixed" in kind:
        x = np.maximum(x @ (np.eye(width) + rng.normal(size=(width, width)) / 8) - 0.3, 0.0)
    x = x / x.std(axis=0)
    signal = x[:, 20] if "neuron's" in kind else x @ rng.normal(size=width)
    y = ((signal - signal.mean()) / signal.std() + rng.normal(size=n))[:, None]
    x = x * np.where(np.arange(width) < 8, 100.0, 1.0)
    half = n // 2
    searched = search_layer(
        0, x[:half], x[half:], y[:half], y[half:], rotations=499, permutations=1, seed=seed
    )
    best, rotated = int(np.abs(searched.train[:, 0]).argmax()), best_over_layers([searched])[:, 0]
    r = float(searched.test[best, 0])
    p = float((1 + (rotated >= abs(r)).sum()) / (1 + len(rotated)))
    edge = float(np.quantile(rotated, 0.95))
    one = Search(
        "y", 0, best, float(searched.train[best, 0]), r, r, float(np.median(rotated)), edge, p, 0.0, 0.0
    )
    return counted_together([one])[0].label == SPECIAL


# Latents -----------------------------------------------------------------------------------------------
def sae_worlds(trials: int, seed: int) -> Iterator[tuple[str, int]]:
    """How often latents are called structure of the SAE, on activations that hold the target.

    Of random SAEs twenty latents, or any number tried; of one with the concept in two latents, these.
    """
    for kind, k in (("random SAE, top-k", 20), ("random SAE, ReLU", 20), ("the concept in two latents", 2)):
        called = [_of_the_sae(1000 * seed + n, kind, k) for n in range(trials)]
        yield f"{kind}, k = {k}", sum(one for one, _ in called)
        yield f"{kind}, any k", sum(one for _, one in called)


def _of_the_sae(seed: int, kind: str, k: int) -> tuple[bool, bool]:
    from graticule import latents, sweep
    from graticule.probes.latents.result import LATENTS
    from graticule.sims.planted import planted

    world = planted(n_rows=500, width=48, n_layers=2, surface=0.4, hidden=0.4, seed=seed)
    options: dict[str, Any] = {"baselines": world.baselines, "n_bootstrap": 500, "progress": False}
    findings = sweep(world.activations, world.table, **options)
    sae = _sae(world, kind, np.random.default_rng([seed, 1]))
    judged = latents(findings, sae, ks=(1, 2, 20), top=2, n_random=1, seed=seed, progress=False)
    words = {n: judged.predictor(LATENTS, n)["words"] for n in (1, 2, 20)}
    return words[k] == STRUCTURE, STRUCTURE in words.values()


def _sae(world: Any, kind: str, rng: np.random.Generator, d_sae: int = 192) -> Any:
    """An SAE of random unit vectors; in the last kind two of its latents read and write the hidden part."""
    import torch
    from sae_lens import StandardSAE, StandardSAEConfig, TopKSAE, TopKSAEConfig

    point = "blocks.1.hook_resid_post"
    rows = world.activations[point].double().numpy()
    width = rows.shape[1]
    top_k = "top-k" in kind
    settings = TopKSAEConfig(d_in=width, d_sae=d_sae, k=8) if top_k else StandardSAEConfig(width, d_sae)
    settings.metadata.hook_name = point
    sae = (TopKSAE if top_k else StandardSAE)(settings)
    decoder = rng.normal(size=(d_sae, width))
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    encoder, bias = decoder.T.copy(), np.full(d_sae, 0.0 if top_k else -2.0)
    if "the concept" in kind:
        train = ~world.table.is_test
        words = world.baselines.features["mean_embedding"]["hook_embed"].double().numpy()
        plain = np.column_stack([words, np.ones(len(words))])
        rest = rows - plain @ np.linalg.lstsq(plain[train], rows[train], rcond=None)[0]
        hidden = rest @ np.linalg.pinv(world.write).T[:, 0]
        design = np.column_stack([rows[train], np.ones(int(train.sum()))])
        reads = np.linalg.lstsq(design, hidden[train], rcond=None)[0]
        for j, sign in enumerate((1.0, -1.0)):
            encoder[:, j], bias[j], decoder[j] = sign * reads[:-1], sign * reads[-1], sign * world.write[:, 0]
    with torch.no_grad():
        for name, values in (("W_dec", decoder), ("W_enc", encoder), ("b_enc", bias)):
            getattr(sae, name).copy_(torch.from_numpy(values))
    return sae


def rates(
    worlds: Callable[[int, int], Iterator[tuple[str, int]]], trials: int, seed: int
) -> list[dict[str, Any]]:
    """A line for each kind of world, with Wilson's interval."""
    lines: list[dict[str, Any]] = []
    for kind, count in worlds(trials, seed):
        low, high = wilson(count, trials)
        lines.append({"world": kind, "called so": f"{count / trials:.3f} [{low:.3f}, {high:.3f}]"})
    return lines


def main() -> None:
    """Run it."""
    options = parser(__doc__, repeats=1)
    options.add_argument("--trials", type=int, default=200)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--concepts", type=int, default=500, help="of a family")
    options.add_argument("--real", type=int, default=50, help="of them")
    options.add_argument("--only", choices=("family", "neurons", "latents"))
    given = options.parse_args()
    figures: dict[str, Any] = {}
    trials, seed = given.trials, given.seed
    count = max(trials // 2, 2)
    parts: dict[str, tuple[str, Callable[[], list[dict[str, Any]]]]] = {
        "family": (
            f"{count} families of {given.concepts} concepts, {given.real} real",
            lambda: families(count, seed, given.concepts, given.real),
        ),
        "neurons": (f"special basis, {trials} worlds", lambda: rates(neuron_worlds, trials, seed)),
        "latents": (f"structure of the SAE, {trials} worlds", lambda: rates(sae_worlds, trials, seed)),
    }
    for name, (title, run) in parts.items():
        if given.only in (None, name):
            began = time.perf_counter()
            figures[name] = run()
            show(figures[name], f"{title} ({time.perf_counter() - began:.0f} s)")
    write(given, figures)


if __name__ == "__main__":
    main()
