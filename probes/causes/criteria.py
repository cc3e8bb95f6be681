"""What must be said of a direction: is it read, stable, more than the baselines, and what moves with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from graticule.probes.causes.experiment import Experiment
from graticule.probes.causes.followed import OWN
from graticule.probes.causes.readable import Readable, halves_agree
from graticule.probes.causes.result import LEVEL
from graticule.probes.causes.second_verdict import ERASE, STEER
from graticule.probes.scores.metrics import signed

_COLUMNS = ["criterion", "what", "figure"]


def criteria_table(
    experiment: Experiment, effects: pd.DataFrame, names: Sequence[str], readable: Sequence[Readable]
) -> pd.DataFrame:
    """One row per criterion: `criterion`, `what` and `figure`.

    Args:
        experiment: Of the interventions.
        effects: Adjusted, with `followed`.
        names: Targets that were intervened on.
        readable: Their scores.
    """
    findings = experiment.findings
    columns = [findings.target_names.index(name) for name in names]
    alpha = float(experiment.probe.weights.alpha_by_target.mean())
    write, read = halves_agree(
        experiment.X, experiment.y[:, columns], experiment.clusters, alpha, experiment.seed
    )
    verdict, limit = findings.verdict, findings.limit_of_detection
    tested = effects[effects["tested"]]
    lines = [
        ("readable", "reading and truth on test rows, correlation", "; ".join(one.text for one in readable)),
        ("reliable", "write direction of two halves of the training clusters, cosine", _listed(names, write)),
        ("reliable", "read direction likewise", _listed(names, read)),
        (
            "more than the baselines",
            "the findings' verdict",
            f"{verdict.label}: gain {signed(verdict.gain, 'undefined')}",
        ),
        (
            "calibrated",
            "smallest gain seen 80% of the time",
            "not measured: calibrate(findings)" if limit is None else f"{limit:z.3f}",
        ),
        ("moves something", "steered: outcomes beyond their controls", _count(tested, STEER)),
        ("moves something", "erased: outcomes beyond their controls", _count(tested, ERASE)),
        (
            "moves it itself",
            f"share of the reading on the lines that these outcomes follow ({OWN:.0%} are asked for)",
            _most(tested["followed"].to_numpy(np.float64)),
        ),
    ]
    return pd.DataFrame(lines, columns=_COLUMNS)


def _listed(names: Sequence[str], values: np.ndarray) -> str:
    return "; ".join(f"{name} {signed(float(v), 'undefined')}" for name, v in zip(names, values, strict=True))


def _count(tested: pd.DataFrame, kind: str) -> str:
    rows = tested[tested["intervention"].str.startswith(kind)]
    return f"{int((rows['p_holm'] < LEVEL).sum())} of {len(rows)}"


def _most(shares: np.ndarray) -> str:
    seen = shares[~np.isnan(shares)]
    return f"up to {seen.max():.0%}" if len(seen) else "not asked: none lies beyond its controls"
