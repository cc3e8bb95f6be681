"""What `causes` says of a direction that is used and hardly read, and of a decoy that is read alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from graticule.certificate.requirements import DECOY, HARDLY
from graticule.hooks.capture import capture
from graticule.probes.causes.causes import causes
from graticule.probes.causes.outcomes import Outcome
from graticule.probes.causes.readable import readable_targets
from graticule.probes.causes.second_verdict import USED, USED_OR_CORRELATED
from graticule.probes.core.resample import wilson
from graticule.probes.core.sweep import sweep
from graticule.probes.surface.baselines import Baselines, text_digest
from graticule.sims.uses import ANSWERS, POINT, planted_use

ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    DECOY: ("decoy", {"correlation": 0.6, "readable": 0.8, "cut": True}),
    HARDLY: ("used", {"correlation": 0.6, "readable": 0.8, "label": 0.35}),
}
"""Arm → the target that is asked of, and its world."""
_TEXTS, _WIDTH, _ROWS, _CONTROLS = 480, 64, 40, 60
_ASKED = Outcome("high or low", "{}", {"high": (ANSWERS[0],), "low": (ANSWERS[1],)}, "used")


def uses(count: int, seed: int, progress: bool | None = None) -> pd.DataFrame:
    """How often each arm was called used, in so many planted worlds.

    Args:
        count: Worlds of each arm.
        seed: Of the worlds.
        progress: Whether a bar is shown.

    Returns:
        One row per arm: `arm`, `trials`, `used`, its `rate` with the interval `low` … `high`,
        `or_correlated` (a rate), and `readable`, the mean correlation of reading and truth on test rows.
    """
    lines: list[dict[str, Any]] = []
    for place, (arm, (target, world)) in enumerate(ARMS.items()):
        labels, read = list[str](), list[float]()
        steps = tqdm(range(count), desc=arm, unit="world", disable=progress is False, leave=False)
        for trial in steps:
            label, correlation = _asked(target, world, seed=1000 * (2 * seed + place) + trial)
            labels.append(label)
            read.append(correlation)
        used = labels.count(USED)
        low, high = wilson(used, count)
        lines.append(
            {
                "arm": arm,
                "trials": count,
                "used": used,
                "rate": used / count,
                "low": low,
                "high": high,
                "or_correlated": labels.count(USED_OR_CORRELATED) / count,
                "readable": float(np.mean(read)),
            }
        )
    return pd.DataFrame(lines)


def _asked(target: str, world: dict[str, Any], seed: int) -> tuple[str, float]:
    """The second verdict on a target of one planted world, and how it is read."""
    made = planted_use(n_rows=_TEXTS, width=_WIDTH, others=0.3, seed=seed, **world)
    table = made.targets(target)
    assert table.texts is not None
    activations = capture(made.model, table.texts, points="resid_post", pos="last", progress=False)
    none = Baselines(text_digest(table), {}, strings=False)
    findings = sweep(activations, table, baselines=none, n_bootstrap=200, progress=False)
    (read,) = readable_targets(findings, POINT, [target])
    result = causes(
        findings,
        made.model,
        outcomes=[replace(_ASKED, target=target)],
        hook_name=POINT,
        rows=_ROWS,
        controls=_CONTROLS,
        scales=(-2.0, 2.0),
        progress=False,
    )
    return result.label, read.correlation
