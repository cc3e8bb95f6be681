"""An SAE's lines in the table of arms: what each arm says against the surface, and the arms of k columns."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from graticule.hooks.latents import Latents
from graticule.probes.latents.arms import gain_of
from graticule.probes.latents.findings import COORDINATES, LATENTS, RANDOM
from graticule.probes.latents.selection import Selected, fixed, select
from graticule.probes.material import Material
from graticule.probes.scores.metrics import mean_r2
from graticule.probes.scores.verdict import Predictions

_log = logging.getLogger(__name__)
_NEIGHBOURS = 50


@dataclass(frozen=True)
class Settings:
    """How latents are judged; the arguments of `latents`."""

    ks: tuple[int, ...]
    """Numbers of latents, ascending."""
    top: int
    """Latents listed a target."""
    null: str
    """Whose covariance the random vectors have: `decoder` or `activations`."""
    draws: int
    """Random latents, so many times."""
    folds: int
    """Folds of clusters in which latents are chosen anew."""
    seed: int
    """Of folds and draws."""


class Judged:
    """The lines of one SAE as they come in."""

    def __init__(self, sae: str, material: Material) -> None:
        self.sae, self.material = sae, material
        self.lines: list[dict[str, Any]] = []
        self.tests: list[np.ndarray] = []

    def add(
        self,
        arm: str,
        predictions: Predictions,
        validation: float,
        k: int | None = None,
        *,
        width: int | None = None,
    ) -> None:
        """A line of predictions, judged against the surface; `width` as `Material.judge` has it."""
        verdict = self.material.judge(predictions, width=width)
        self.append(
            arm, k, validation, verdict.score, (verdict.gain, *verdict.ci95), verdict.words, predictions.test
        )

    def append(
        self,
        arm: str,
        k: int | None,
        validation: float,
        score: float,
        gain: tuple[float, float, float],
        words: str,
        test: np.ndarray,
    ) -> None:
        """A line as it is: R² on training folds and test rows, gain over the surface with its range."""
        line = {"sae": self.sae, "arm": arm, "k": float("nan") if k is None else float(k)}
        line |= {"validation": validation, "score": score, "gain": gain[0], "low": gain[1], "high": gain[2]}
        self.lines.append({**line, "words": words})
        self.tests.append(test)


def few_columns(held: Latents, judged: Judged, settings: Settings) -> Selected:
    """The arms with k columns: latents, coordinates, random latents."""
    material, problem = judged.material, judged.material.problem
    train, y, clusters = problem.train, problem.y[problem.train], problem.clusters[problem.train]
    folds: dict[str, Any] = {"folds": settings.folds, "seed": settings.seed}
    X, X_test = held.values[train].astype(np.float64), held.values[problem.test].astype(np.float64)
    chosen = select(X, X_test, y, clusters, settings.ks, **folds)
    _tell_fewer(judged.sae, len(chosen.chosen), settings.ks)
    for k in settings.ks:
        judged.add(LATENTS, chosen.predictions[k], chosen.validation[k], k, width=X.shape[1])
    dense, dense_test = held.inputs(train), held.inputs(problem.test)
    coordinates = select(dense, dense_test, y, clusters, settings.ks, **folds)
    for k in settings.ks:
        judged.add(COORDINATES, coordinates.predictions[k], coordinates.validation[k], k)
    active = np.bincount(X.indices, minlength=X.shape[1])
    others = int((active > 0).sum()) - len(chosen.chosen)
    if others < len(chosen.chosen):
        _log.warning(
            "%s: %d other latents are ever active: random ones are so many at most", judged.sae, others
        )
    rng = np.random.default_rng(settings.seed)
    for k in settings.ks:
        lucky = [
            fixed(X, X_test, y, clusters, matched(active, chosen.chosen[:k], rng), **folds)
            for _ in range(settings.draws)
        ]
        gains = [gain_of(material, p) for p in lucky]
        judged.append(
            RANDOM,
            k,
            float(np.mean([mean_r2(y, p.out_of_fold) for p in lucky])),
            float(np.mean([mean_r2(problem.y[problem.test], p.test) for p in lucky])),
            (float(np.mean(gains)), min(gains), max(gains)),
            f"mean and range of {settings.draws} draws",
            lucky[0].test,
        )
    return chosen


def _tell_fewer(sae: str, there: int, ks: tuple[int, ...]) -> None:
    """Warn of every k above the number of latents that add anything: its line is of as many as there are."""
    if more := [k for k in ks if k > there]:
        _log.warning(
            "%s: %d latents are all that add anything on training rows; what is said of k=%s is of these",
            sae,
            there,
            ", ".join(map(str, more)),
        )


def matched(
    active: Int[np.ndarray, " d_sae"], chosen: Int[np.ndarray, " k"], rng: np.random.Generator
) -> Int[np.ndarray, " drawn"]:
    """For each chosen latent another one, drawn among the hundred that are active about as often; fewer where
    there are not as many others."""
    living = np.flatnonzero(active)
    order = living[np.argsort(active[living], kind="stable")]
    others = order[~np.isin(order, chosen)]
    taken: list[int] = []
    for latent in chosen:
        at = int(np.searchsorted(active[others], active[latent]))
        near = others[max(0, at - _NEIGHBOURS) : at + _NEIGHBOURS]
        near = near[~np.isin(near, taken)]
        if len(near):
            taken.append(int(rng.choice(near)))
    return np.array(taken, np.int64)
