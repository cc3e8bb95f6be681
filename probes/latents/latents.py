"""SAE latents as predictors of a sweep's target, against the very surface that its probe stands against."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import pandas as pd

from graticule.hooks.artifact import library_versions
from graticule.hooks.calls import renamed
from graticule.hooks.coders import SparseCoder, architecture, describe, load_sae, writes_elsewhere
from graticule.hooks.doors import FINDINGS, door
from graticule.hooks.latents import Latents, encode
from graticule.hooks.messages import bar
from graticule.hooks.points import layer_of
from graticule.hooks.result import captured_as
from graticule.hooks.rows import PointKey
from graticule.probes.core.findings import Findings
from graticule.probes.core.fit import Predictions, with_and_without
from graticule.probes.core.inputs import SweepInputs
from graticule.probes.geometry import RandomVectors, covariance
from graticule.probes.latents.predictors import all_latents, dense_ridge, fixed, matched, select
from graticule.probes.latents.result import (
    ALL,
    COORDINATES,
    DENSE,
    ERROR,
    LATENTS,
    RANDOM,
    RECONSTRUCTION,
    LatentFindings,
)
from graticule.probes.latents.single import decoder_cosines, scatter_rows, top_latents, univariate
from graticule.probes.linear.ridge_cv import RidgeWeights
from graticule.probes.scores.metrics import mean_r2

_log = logging.getLogger(__name__)

_COVARIANCE_ROWS = 20_000


@renamed("ks", point="hook_name", draws="n_random")
@door(findings=FINDINGS)
def latents(
    findings: Findings,
    saes: Any,
    *,
    ks: int | Sequence[int] = (1, 2, 5, 20),
    hook_name: PointKey | None = None,
    top: int = 20,
    null: Literal["decoder", "activations"] = "decoder",
    n_random: int = 5,
    folds: int = 5,
    seed: int = 0,
    progress: bool | None = None,
) -> LatentFindings:
    """What SAE latents hold of the findings' target: a few, all, what the SAE keeps and what it loses.

    At each SAE's own hook point, through the same surface and verdict as the sweep's probe:

    - *dense probe*: the sweep's ridge there;
    - *k latents*: least squares on the k latents of a forward selection on training rows. The out-of-fold
      predictions that the stack is fitted on come from a group k-fold which *chooses the latents anew* in
      every fold; k latents of a larger k are its first ones;
    - *k coordinates*: the same of the activations' own coordinates; *random latents*: for each
      chosen one another that is active about as often, mean and range of `n_random`;
    - *all latents*: sparse ridge, its strength chosen in the same folds;
    - *reconstruction* and *error term*: the sweep's ridge on what the SAE gives back and on the rest.

    Single latents are ranked by correlation on training rows and scored on test rows; what they write is
    compared with the dense probe's two directions against vectors drawn with the covariance (about zero) of
    the SAE's decoder, or with that of the activations (`null`), the largest of as many as there are latents.

    Args:
        findings: Of a sweep, whose targets, split and surface these are.
        saes: One SAELens SAE, its folder or a run, or several by name.
        ks: How many latents.
        hook_name: A hook point instead of the one that the SAE names.
        top: How many latents are listed per target.
        null: Whose covariance the random vectors have.
        n_random: Random latents, so many times.
        folds: Folds of clusters in which latents are chosen anew.
        seed: The seed of folds and of what is drawn.
        progress: Whether a bar is drawn; by default where it takes long.

    Raises:
        PointError: An SAE's point was not swept.
        ValueError: An SAE has another width or is a transcoder, or `ks` are not positive.
    """
    inputs, ks = findings.inputs, (ks,) if isinstance(ks, int) else ks
    several = cast("Mapping[str, Any]", saes) if isinstance(saes, Mapping) else {"": saes}
    loaded = {name: load_sae(one).sae for name, one in several.items()}
    named = {name or _name(sae): sae for name, sae in loaded.items()}
    counts = tuple(sorted(set(ks)))
    if not counts or counts[0] < 1 or not named:
        raise ValueError(
            f"ks={tuple(ks)} and {len(named)} SAEs: give at least one SAE and positive numbers of latents"
        )
    for name, sae in named.items():
        if (other := writes_elsewhere(sae)) is not None:
            raise ValueError(
                f"{name} is a transcoder (it writes to {other}): only SAEs that reconstruct what they read "
                "are judged here; activations.encode(sae) gives its latents"
            )
    judged = _Judged(findings, counts, top, null, n_random, folds, seed)
    with bar(len(named) * 5, "latents", "step", progress) as advance:
        for name, sae in named.items():
            judged.judge(name, encode(inputs.activations, sae, hook_name, progress=progress), advance.update)
    return judged.result(findings, {name: describe(sae) for name, sae in named.items()})


def _name(sae: SparseCoder) -> str:
    return f"{architecture(sae)} SAE, {int(sae.cfg.d_sae):,} latents"


@dataclass
class _Judged:
    """What was asked for, and the tables of all SAEs as they come in: those of `LatentFindings`."""

    findings: Findings
    ks: tuple[int, ...]
    n_top: int
    null: str
    n_random: int
    folds: int
    seed: int
    saes: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    predictors: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    predictions: list[np.ndarray] = field(default_factory=list[np.ndarray])
    top: list[pd.DataFrame] = field(default_factory=list[pd.DataFrame])
    selected: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    cosines: list[pd.DataFrame] = field(default_factory=list[pd.DataFrame])
    levels: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    scatter: list[pd.DataFrame] = field(default_factory=list[pd.DataFrame])

    @property
    def inputs(self) -> SweepInputs:
        return self.findings.inputs

    def judge(self, sae: str, latents: Latents, step: Callable[[], Any]) -> None:
        """Add all rows of one SAE."""
        problem, alphas = self.inputs.problem, self.inputs.alphas
        width = int(latents.sae.cfg.d_in)
        dense, predictions, score = self._dense(latents, width)
        self._add(sae, DENSE, predictions, score)
        step()
        self._few_columns(sae, latents)
        step()
        predictions, score = all_latents(latents, problem, alphas, folds=self.folds, seed=self.seed)
        self._add(sae, ALL, predictions, score, width=int(latents.sae.cfg.d_sae))
        step()
        for name, make in ((RECONSTRUCTION, latents.reconstruction), (ERROR, latents.error)):
            fit, predictions = dense_ridge(make, width, problem, alphas)
            self._add(sae, name, predictions, fit.score)
        step()
        described = describe(latents.sae)
        self.saes.append(
            {
                "sae": sae,
                "point": latents.point,
                "layer": layer_of(latents.point),
                "architecture": described["architecture"],
                "d_sae": described["d_sae"],
                "l0": latents.l0,
                "alive": float((latents.frequency > 0).mean()),
                "explained_variance": _explained(latents, problem.test),
            }
        )
        self._single_latents(sae, latents, dense)
        step()

    def _dense(self, latents: Latents, width: int) -> tuple[RidgeWeights, Predictions, float]:
        """The sweep's own probe of what the SAE reads: the saved one, unless it reads a single head."""
        point, problem = latents.point, self.inputs.problem
        probe, saved = self.findings.probes.get(point), self.findings.point_predictions.get(point)
        if probe is not None and saved is not None and len(probe.coef) == width:
            return probe.weights, saved, float(probe.selection["score"])
        fit, predictions = dense_ridge(latents.inputs, width, problem, self.inputs.alphas)
        return fit, predictions, fit.score

    def _add(
        self,
        sae: str,
        name: str,
        predictions: Predictions,
        validation: float,
        k: int | None = None,
        *,
        width: int | None = None,
    ) -> None:
        """Predictions, judged against the surface; `width` as `SweepInputs.judge` has it."""
        verdict = self.inputs.judge(predictions, width=width)
        columns = {
            "score": verdict.score,
            "gain": verdict.gain,
            "low": verdict.ci95[0],
            "high": verdict.ci95[1],
        }
        self._append(sae, name, k, predictions.test, validation=validation, **columns, words=verdict.label)

    def _append(self, sae: str, name: str, k: int | None, test: np.ndarray, **columns: Any) -> None:
        self.predictors.append(
            {"sae": sae, "arm": name, "k": float("nan") if k is None else float(k), **columns}
        )
        self.predictions.append(test)

    def _few_columns(self, sae: str, latents: Latents) -> None:
        """The predictors with k columns: latents, coordinates, random latents."""
        problem = self.inputs.problem
        train, test = problem.train, problem.test
        y, clusters = problem.y[train], problem.clusters[train]
        folds: dict[str, Any] = {"folds": self.folds, "seed": self.seed}
        X, X_test = (latents.values[rows].astype(np.float64) for rows in (train, test))
        selected = select(X, X_test, y, clusters, self.ks, **folds)
        chosen = selected.chosen
        self.selected += [{"sae": sae, "order": i + 1, "latent": int(j)} for i, j in enumerate(chosen)]
        if more := [k for k in self.ks if k > len(chosen)]:
            _log.warning(
                "%s: %d latents are all that add anything on training rows; what is said of k=%s is of these",
                sae,
                len(chosen),
                ", ".join(map(str, more)),
            )
        coordinates = select(latents.inputs(train), latents.inputs(test), y, clusters, self.ks, **folds)
        for name, few, width in ((LATENTS, selected, X.shape[1]), (COORDINATES, coordinates, None)):
            for k in self.ks:
                self._add(sae, name, few.predictions[k], few.validation[k], k, width=width)
        active = np.bincount(X.indices, minlength=X.shape[1])
        others = int((active > 0).sum()) - len(chosen)
        if others < len(chosen):
            _log.warning("%s: %d other latents are ever active: random ones are so many at most", sae, others)
        rng = np.random.default_rng(self.seed)
        for k in self.ks:
            drawn = [matched(active, chosen[:k], rng) for _ in range(self.n_random)]
            random = [fixed(X, X_test, y, clusters, columns, **folds) for columns in drawn]
            gains = [self._gain(p) for p in random]
            columns: dict[str, Any] = {
                "validation": float(np.mean([mean_r2(y, p.out_of_fold) for p in random])),
                "score": float(np.mean([mean_r2(problem.y[test], p.test) for p in random])),
                "gain": float(np.mean(gains)),
                "low": min(gains),
                "high": max(gains),
                "words": f"mean and range of {self.n_random} draws",
            }
            self._append(sae, RANDOM, k, random[0].test, **columns)

    def _gain(self, predictions: Predictions) -> float:
        """What predictions add to the surface on test rows: the verdict's gain, without its interval."""
        inputs, problem = self.inputs, self.inputs.problem
        y_train, y_test = problem.y[problem.train], problem.y[problem.test]
        surface, full = with_and_without(inputs.baseline_predictions, predictions, y_train)
        return mean_r2(y_test, full) - mean_r2(y_test, surface)

    def _single_latents(self, sae: str, latents: Latents, dense: RidgeWeights) -> None:
        """Top latents, cosines and scatters, one target after another."""
        inputs, problem, train = self.inputs, self.inputs.problem, self.inputs.problem.train
        correlations = univariate(latents.values[train].astype(np.float64), problem.y[train])
        decoder = latents.decoder
        if self.null == "decoder":
            spread = covariance(decoder, centred=False)
        else:
            spread = covariance(latents.inputs(train[:: max(1, len(train) // _COVARIANCE_ROWS)]))
        chance, classes = RandomVectors.of(spread), inputs.table.kind != "numeric"
        for t, target in enumerate(inputs.table.target_names):
            directions = {"read": dense.coef[:, t], "write": dense.write[:, t]}
            cosines = decoder_cosines(decoder, directions, chance)
            r = correlations[:, t]
            best = top_latents(latents, problem, t, r, cosines.table, count=self.n_top, classes=classes)
            label = {"sae": sae, "target": target}
            self.top.append(best.assign(**label))
            self.cosines.append(cosines.table.assign(**label))
            self.levels += [{**label, "direction": d, "level": level} for d, level in cosines.levels.items()]
            if len(best):
                first = int(best["latent"].iloc[0])
                scatter = scatter_rows(latents, problem, t, first)
                self.scatter.append(scatter.assign(**label, latent=first))

    def result(self, findings: Findings, saes: Mapping[str, Any]) -> LatentFindings:
        """All SAEs together, the best of them chosen on training rows."""
        problem, table = self.inputs.problem, self.inputs.table
        predictors = pd.DataFrame(self.predictors)
        most = predictors[(predictors["arm"] == LATENTS) & (predictors["k"] == max(self.ks))]
        settings = {"ks": self.ks, "null": self.null, "draws": self.n_random, "folds": self.folds}
        return LatentFindings(
            model=findings.model,
            table=findings.table,
            kind=findings.kind,
            target_names=findings.target_names,
            units=findings.units,
            ks=self.ks,
            chosen_sae=str(most["sae"].iloc[int(most["validation"].to_numpy().argmax())]),
            saes=pd.DataFrame(self.saes),
            predictors=predictors,
            top=_joined(self.top),
            selected=pd.DataFrame(self.selected, columns=["sae", "order", "latent"]),
            cosines=_joined(self.cosines),
            levels=pd.DataFrame(self.levels),
            scatter=_joined(self.scatter),
            predictions=np.stack(self.predictions),
            y=problem.y[problem.test],
            source=problem.source[problem.test],
            clusters=problem.clusters[problem.test],
            provenance={
                "model": findings.model,
                "table": {"name": table.name, "digest": table.digest},
                **captured_as(findings.provenance),
                "saes": saes,
                "seed": self.seed,
                "settings": settings,
                "versions": library_versions(),
            },
        )


def _explained(latents: Latents, index: np.ndarray) -> float:
    """1 − |x − x̂|² / |x − x̄|² over the rows of `index`."""
    lost = total = 0.0
    mean = latents.inputs(index).mean(axis=0)
    for part in np.array_split(index, max(1, len(index) // 4096)):
        lost += float(np.square(latents.error(part)).sum())
        total += float(np.square(latents.inputs(part) - mean).sum())
    return 1 - lost / total if total > 0 else float("nan")


def _joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"sae": [], "target": []})
