"""p-values of verdicts, and what is left of them when a study holds several."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.probes.findings import Findings
from graticule.probes.scores.bootstrap import cluster_sums, resampled_r2
from graticule.probes.scores.multiplicity import adjusted_table, bootstrap_p
from graticule.probes.scores.ties import difference
from graticule.probes.scores.verdict import Predictions, stack


def gain_samples(
    findings: Findings, draws: int | None = None, seed: int | None = None
) -> Float[np.ndarray, " draw"]:
    """The gain of the findings' verdict in resamples of the clusters of test rows: those of its interval.

    Nothing is refitted and no activations are needed: the findings hold all predictions. `draws` and `seed`
    are the findings' own unless others are given.

    **Raises** `ValueError` for findings saved before they held the baselines' predictions.
    """
    if findings.baselines.keys() - {"shuffled"} - findings.rivals.keys():
        raise ValueError("these findings hold no predictions of their baselines: run the sweep again")
    if draws is None or seed is None:
        judged_by = findings.judged_by
        draws = judged_by.draws if draws is None else draws
        seed = judged_by.seed if seed is None else seed
    rows = findings.predictions
    is_test = (rows["split"] == "test").to_numpy()

    def columns(kind: str) -> np.ndarray:
        named = rows[[f"{kind}_{name}" for name in findings.target_names]]
        return np.ascontiguousarray(named.to_numpy(np.float64))

    y, probe = columns("true"), columns("pred")
    held = {**findings.rivals, "probe": Predictions(probe[~is_test], probe[is_test])}
    tests = {name: p.test for name, p in held.items()}
    folds = {name: p.out_of_fold for name, p in held.items()}
    base = stack({name: folds[name] for name in findings.rivals}, y[~is_test])
    compared = {
        "surface": base.predict(tests, int(is_test.sum())),
        "full": stack(folds, y[~is_test]).predict(tests),
    }
    sums = cluster_sums(y[is_test], compared, rows["cluster"].to_numpy(np.int64)[is_test])
    samples = resampled_r2(sums, draws, seed)
    return difference(samples[:, 1], samples[:, 0])


def gain_p(findings: Findings, draws: int | None = None, seed: int | None = None) -> float:
    """One-sided p-value that the probe adds nothing to the baselines: the share of resamples with no gain."""
    return bootstrap_p(gain_samples(findings, draws, seed), two_sided=False)


def holm_verdicts(
    verdicts: Mapping[str, Findings | float], draws: int | None = None, seed: int | None = None
) -> pd.DataFrame:
    """The verdicts of a study together: `name`, raw `p`, `holm`, `benjamini_hochberg`, and for findings their
    `gain` and `words`; the smallest p first.

    **Arguments:** name → findings, or a p-value where it is known already; `draws` and `seed` as in
    `gain_samples`.

    **Raises** `ValueError` if there are none, or for p-values outside [0, 1].
    """
    if not verdicts:
        raise ValueError("no verdicts to adjust")
    p = {n: gain_p(v, draws, seed) if isinstance(v, Findings) else float(v) for n, v in verdicts.items()}
    table = adjusted_table(p)
    held = {n: v.verdict for n, v in verdicts.items() if isinstance(v, Findings)}
    if held:
        table["gain"] = [held[n].gain if n in held else float("nan") for n in table["name"]]
        table["words"] = [held[n].words if n in held else "" for n in table["name"]]
    return table
