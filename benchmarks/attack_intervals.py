"""The interval of the gain where clusters are few, unequal or heavy-tailed, and the words that hang on it.

    python benchmarks/attack_intervals.py --trials 200 --seed 1

A surface and a probe are known functions of a synthetic world; both stacks are fitted to 400 training rows,
and the truth is the gain of these very predictors, in closed form from the moments of two million rows. Rows
of a cluster share half of the variance of everything. "from" and "to" are Wilson's 95% interval of a rate.
"""

import argparse

import numpy as np
from _timing import parser, show, write
from scipy import stats

from graticule.probes.core.fit import Predictions
from graticule.probes.core.intervals import mean_r2_estimate
from graticule.probes.core.labels import NOT_DECIDED, STRUCTURE, label_of, standing
from graticule.probes.core.power import RowsNeeded
from graticule.probes.core.resample import (
    cluster_sums,
    effective_clusters,
    interval,
    resampled_r2,
    wilson,
)
from graticule.probes.core.selection import unselected_gain
from graticule.probes.core.undecided import largest_share
from graticule.probes.core.verdict import verdict

KINDS = ("normal", "lognormal 1.5", "t 2", "t 3", "binary 5%")
CLUSTERS = (3, 5, 10, 20, 30, 100)
ROWS = (50, 100, 400, 1500)
GAINS = (0.0, 0.1)
SURFACE, TRAIN, PER = 0.3, 400, 20
MIN_GAIN = 0.01


def target(latent: np.ndarray, kind: str) -> np.ndarray:
    """A standard normal number turned into a target of this kind."""
    name, _, number = kind.partition(" ")
    if name == "lognormal":
        return np.exp(float(number) * latent)
    if name == "t":
        return stats.t.ppf(stats.norm.cdf(latent), float(number))
    if name == "binary":
        return (latent > stats.norm.isf(float(number.rstrip("%")) / 100)).astype(np.float64)
    return latent


def rows_of(
    rng: np.random.Generator, sizes: np.ndarray, kind: str, gain: float, surface: float = SURFACE
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns 1, what the surface reads, what the probe reads; the target; the cluster of each row."""
    codes = np.repeat(np.arange(len(sizes)), sizes)
    shared = 0.5 if (sizes > 1).any() else 0.0
    draws = np.sqrt(shared) * rng.normal(size=(4, len(sizes)))[:, codes]
    s, hidden, luck, error = draws + np.sqrt(1 - shared) * rng.normal(size=(4, len(codes)))
    latent = np.sqrt(surface) * s + np.sqrt(gain) * hidden + np.sqrt(1 - surface - gain) * error
    x = np.column_stack([np.ones(len(codes)), s, hidden if gain else luck])
    return x, target(latent, kind), codes


def moments(kind: str, gain: float, surface: float = SURFACE) -> np.ndarray:
    """Mean products of the columns and the target."""
    rng, total = np.random.default_rng([99, int(1000 * gain)]), np.zeros((4, 4))
    for _ in range(8):
        x, y, _ = rows_of(rng, np.ones(250_000, np.int64), kind, gain, surface)
        both = np.column_stack([x, y])
        total += both.T @ both
    return total / 2_000_000


def own_gain(products: np.ndarray, before: np.ndarray, after: np.ndarray) -> float:
    """The gain of two linear predictors on rows without end."""
    errors = [np.array([*(-w), 1.0]) @ products @ np.array([*(-w), 1.0]) for w in (before, after)]
    return float((errors[0] - errors[1]) / (products[3, 3] - products[0, 3] ** 2))


def sizes_of(rng: np.random.Generator, clusters: int, per: int, equal: bool) -> np.ndarray:
    if per == 1 or equal:
        return np.full(clusters, per)
    weights = rng.lognormal(0, 1, clusters)
    return np.maximum(1, np.round(weights / weights.sum() * clusters * per)).astype(np.int64)


def fitted(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the surface alone and of both."""
    before = np.array([*np.linalg.lstsq(x[:, :2], y, rcond=None)[0], 0.0])
    return before, np.linalg.lstsq(x, y, rcond=None)[0]


def coverage(rng: np.random.Generator, setting: dict, trials: int) -> dict:
    """How often the new interval and the percentile interval hold the truth, and lie above 0."""
    kind, gain, clusters, per = (setting[name] for name in ("target", "gain", "clusters", "per"))
    products, equal = setting.pop("products"), setting["sizes"] == "equal"
    held = dict.fromkeys(("t", "t above 0", "percentile", "percentile above 0"), 0)
    wrong, undecided, structure, done, undefined = 0, 0, 0, 0, 0
    while done < trials:
        x, y, _ = rows_of(rng, sizes_of(rng, TRAIN // per, per, equal), kind, gain)
        before, after = fitted(x, y)
        truth = own_gain(products, before, after)
        x, y, codes = rows_of(rng, sizes_of(rng, clusters, per, equal), kind, gain)
        if np.ptp(y) == 0:
            continue
        done += 1
        predictions = {"surface": (x @ before)[:, None], "full": (x @ after)[:, None]}
        sums = cluster_sums(y[:, None], predictions, codes)
        found = mean_r2_estimate(sums, "full", "surface")
        samples = resampled_r2(sums, 400, done)
        for name, (low, high) in (
            ("t", found.ci95),
            ("percentile", interval(samples[:, 1] - samples[:, 0])),
        ):
            held[name] += low <= truth <= high
            held[f"{name} above 0"] += low > 0
        label = standing(
            label_of(float(found.value), found.ci95, MIN_GAIN, True),
            len(y),
            effective_clusters(sums.n),
            largest_share(y[:, None]),
            0.0,
            ["y"],
        )
        low, high = found.ci95
        without = bool(np.isnan([low, high]).any())  # all that varies is in one cluster: not decided
        undefined += without
        undecided += label.startswith(f"{NOT_DECIDED}:")
        structure += label == STRUCTURE
        wrong += not (without or low <= truth <= high or label.startswith(f"{NOT_DECIDED}:"))
    line = {name: setting[name] for name in ("target", "gain", "clusters", "sizes")}
    line |= {name: count / trials for name, count in held.items()}
    defined = max(trials - undefined, 1)
    line["t"] = held["t"] / defined
    low, high = wilson(held["t"], defined)
    return line | {
        "t from": low,
        "t to": high,
        "undefined": undefined / trials,
        "not decided": undecided / trials,
        "structure": structure / trials,
        "covered or not decided": 1 - wrong / trials,
    }


def judged(rng: np.random.Generator, rows: int, gain: float, surface: float, train: int = TRAIN):
    """The package's own verdict on independent rows, and the truth."""
    x, y, _ = rows_of(rng, np.ones(train + rows, np.int64), "normal", gain, surface)
    predictions = {}
    for name, column in (("embedding", x[:, 1:2]), ("probe", x[:, 2:3])):
        predictions[name] = Predictions(column[:train], column[train:])
    settings = {"min_gain": MIN_GAIN, "n_bootstrap": 50, "seed": 0, "model_baselines": ["embedding"]}
    return verdict(
        y[:train, None],
        y[train:, None],
        predictions.pop("probe"),
        predictions,
        test_clusters=np.arange(rows),
        target_names=["y"],
        **settings,
    )[0]


def few_rows(seed: int, trials: int) -> list[dict]:
    lines = []
    for rows in (6, 9, 10, 20):
        for gain in (0.0, 0.3):
            rng = np.random.default_rng([seed, 2, rows, int(10 * gain)])
            labels = [judged(rng, rows, gain, SURFACE).label for _ in range(trials)]
            line = {"test rows": rows, "gain": gain}
            for name in ("structure", "no better", "better", "not decided"):
                line[name] = sum(label.startswith(name) for label in labels) / trials
            lines.append(line)
    return lines


def small_gains(seed: int, trials: int) -> list[dict]:
    """A gain of .0016 over a surface of .9, its interval above 0."""
    rng = np.random.default_rng([seed, 3])
    found = [judged(rng, 20_000, 0.0016, 0.9, 20_000) for _ in range(max(20, trials // 4))]
    above = [f for f in found if f.ci95[0] > 0]
    line = {"trials": len(found), "interval above 0": len(above) / len(found)}
    line["better, by less"] = sum(f.label.startswith("better") for f in above) / max(1, len(above))
    line["no better"] = sum(f.label.startswith("no better") for f in above) / max(1, len(above))
    return [line]


def exaggeration(seed: int, trials: int) -> list[dict]:
    """Gains called structure beside the true ones, as measured and without their selection."""
    lines = []
    for rows in (50, 200, 1000):
        for gain in (0.02, 0.05, 0.1, 0.2):
            rng = np.random.default_rng([seed, 4, rows, int(1000 * gain)])
            found = [judged(rng, rows, gain, SURFACE) for _ in range(3 * trials)]
            passed = [f for f in found if f.label == STRUCTURE]
            if len(passed) < 20:
                continue
            measured = np.array([f.gain for f in passed])
            own = np.array([unselected_gain(f.gain, f.se, f.df, MIN_GAIN) for f in passed])
            lines.append(
                {
                    "test rows": rows,
                    "true gain": gain,
                    "structure": len(passed) / len(found),
                    "mean measured / true": measured.mean() / gain,
                    "median measured / true": np.median(measured) / gain,
                    "median without selection / true": np.median(own) / gain,
                    "mean without selection / true": own.mean() / gain,
                    "share of these above the true": np.mean(own > gain),
                }
            )
    return lines


def power(seed: int, trials: int) -> list[dict]:
    """The closed form beside simulation."""
    lines = []
    for surface, gain in ((0.1, 0.1), (0.3, 0.05), (0.6, 0.02), (0.3, 0.2)):
        needs = RowsNeeded(surface, 1.0, 1.0)
        for share in (0.5, 0.8, 0.95):
            rows = needs.rows(gain, share)
            rng = np.random.default_rng([seed, 5, rows, int(1000 * gain)])
            seen = 0
            for _ in range(trials):
                x, y, codes = rows_of(rng, np.ones(rows, np.int64), "normal", gain, surface)
                own, hidden = np.sqrt(surface) * x[:, 1:2], np.sqrt(gain) * x[:, 2:3]
                sums = cluster_sums(y[:, None], {"full": own + hidden, "surface": own}, codes)
                seen += mean_r2_estimate(sums, "full", "surface").ci95[0] > 0
            low, high = wilson(seen, trials)
            lines.append(
                {
                    "surface": surface,
                    "gain": gain,
                    "rows": rows,
                    "said": share,
                    "seen": seen / trials,
                    "from": low,
                    "to": high,
                }
            )
    return lines


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--trials", type=int, default=200)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--targets", default=",".join(KINDS), help="of the coverage (default: all)")
    options.add_argument("--words", action=argparse.BooleanOptionalAction, default=True)
    args = options.parse_args()
    groups: dict[str, list[dict]] = {"few clusters": [], "independent rows": []}
    for kind in filter(None, args.targets.split(",")):
        k = KINDS.index(kind)
        for gain in GAINS:
            products = moments(kind, gain)
            of_clusters = [(n, PER, s) for n in CLUSTERS for s in ("equal", "unequal")]
            for group, cells in (
                ("few clusters", of_clusters),
                ("independent rows", [(n, 1, "one row") for n in ROWS]),
            ):
                for count, per, sizes in cells:
                    given = {"target": kind, "gain": gain, "clusters": count, "per": per, "sizes": sizes}
                    rng = np.random.default_rng([args.seed, k, int(10 * gain), count, per, sizes == "equal"])
                    groups[group].append(coverage(rng, {**given, "products": products}, args.trials))
    if args.words:
        groups["few test rows"] = few_rows(args.seed, args.trials)
        groups["small gains"] = small_gains(args.seed, args.trials)
        groups["exaggeration"] = exaggeration(args.seed, args.trials)
        groups["power"] = power(args.seed, args.trials)
    for title, lines in groups.items():
        if lines:
            show(lines, title)
    write(args, groups)


if __name__ == "__main__":
    main()
