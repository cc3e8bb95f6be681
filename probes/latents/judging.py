"""Every predictor of every SAE against one surface: the tables of `LatentFindings` as they come in."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from graticule.hooks.artifact import library_versions
from graticule.hooks.coders import describe
from graticule.hooks.latents import Latents
from graticule.hooks.points import layer_of
from graticule.hooks.result import captured_as
from graticule.probes.core.findings import Findings
from graticule.probes.core.fit import Predictions
from graticule.probes.core.inputs import SweepInputs
from graticule.probes.core.judge import score_and_gain
from graticule.probes.core.verdict import STRUCTURE
from graticule.probes.geometry import RandomVectors, covariance
from graticule.probes.latents.predictors import all_latents, dense_ridge, fixed, matched, select
from graticule.probes.latents.result import (
    ALL,
    COORDINATES,
    DENSE,
    ERROR,
    LATENTS,
    NOT_OF_THE_SAE,
    RANDOM,
    RECONSTRUCTION,
    UNTRAINED,
    LatentFindings,
)
from graticule.probes.latents.single import decoder_cosines, scatter_rows, top_latents, univariate
from graticule.probes.latents.untrained import LEVEL, chance_of, turned
from graticule.probes.linear.ridge_cv import RidgeWeights
from graticule.probes.scores.metrics import mean_r2
from graticule.probes.scores.significance import benjamini_hochberg

_log = logging.getLogger(__name__)

_COVARIANCE_ROWS = 20_000


@dataclass
class JudgedSaes:
    """What was asked for, and the tables of all SAEs as they come in: those of `LatentFindings`."""

    findings: Findings
    ks: tuple[int, ...]
    n_top: int
    null: str
    n_random: int
    n_untrained: int
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
        self._untrained(sae, latents, step)
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
        nan = float("nan")
        self.predictors.append(
            {"sae": sae, "arm": name, "k": nan if k is None else float(k), **columns, "p": nan}
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
            self._append(sae, RANDOM, k, random[0].test, **self._drawn(random)[0])

    def _untrained(self, sae: str, latents: Latents, step: Callable[[], Any]) -> None:
        """The k latents of untrained SAEs, and what is said of the SAE's own beside them."""
        problem, rng = self.inputs.problem, np.random.default_rng([self.seed, 1])
        train, test = problem.train, problem.test
        y, clusters = problem.y[train], problem.clusters[train]
        drawn: list[Mapping[int, Predictions]] = []
        for _ in range(self.n_untrained):
            values = turned(latents, train, rng).values
            X, X_test = (values[rows].astype(np.float64) for rows in (train, test))
            selected = select(X, X_test, y, clusters, self.ks, folds=self.folds, seed=self.seed)
            drawn.append(selected.predictions)
            step()
        more: dict[int, float] = {}
        own = {line["k"]: line for line in self.predictors if line["sae"] == sae and line["arm"] == LATENTS}
        for k in self.ks:
            columns, gains = self._drawn([one[k] for one in drawn])
            self._append(sae, UNTRAINED, k, drawn[0][k].test, **columns)
            own[k]["p"] = chance_of(own[k]["gain"], gains)
            more[k] = own[k]["gain"] - columns["gain"]
        adjusted = benjamini_hochberg([own[k]["p"] for k in self.ks])
        for k, q in zip(self.ks, adjusted, strict=True):
            beyond = q <= LEVEL and more[k] >= self.inputs.min_gain
            if own[k]["words"] == STRUCTURE and not beyond:
                own[k]["words"] = NOT_OF_THE_SAE

    def _drawn(self, random: Sequence[Predictions]) -> tuple[dict[str, Any], list[float]]:
        """The columns of what was drawn several times, mean and range; and every gain."""
        inputs, problem = self.inputs, self.inputs.problem
        y, beside = problem.y[problem.train], inputs.baseline_predictions
        judged = [score_and_gain(problem, p, beside, inputs.settings) for p in random]
        scores, gains = [score for score, _ in judged], [gain for _, gain in judged]
        columns: dict[str, Any] = {
            "validation": float(np.mean([mean_r2(y, p.out_of_fold) for p in random])),
            "score": float(np.mean(scores)),
            "gain": float(np.mean(gains)),
            "low": min(gains),
            "high": max(gains),
            "words": f"mean and range of {len(random)} draws",
        }
        return columns, gains

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
        settings = {
            "ks": self.ks,
            "null": self.null,
            "draws": self.n_random,
            "untrained": self.n_untrained,
            "folds": self.folds,
        }
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
                "judged_in": self.findings.verdict.metric,
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
