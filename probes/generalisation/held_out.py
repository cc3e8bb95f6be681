"""What probe and baselines say of blocks that they were refitted without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from tqdm.auto import tqdm

from graticule.probes.estimators.ridge_rows import as_rows, chunk_rows_for, chunks
from graticule.probes.estimators.solvers import ridge_fit
from graticule.probes.estimators.sparse_ridge import dual_ridge
from graticule.probes.findings import Findings
from graticule.probes.generalisation.blocks import Blocks
from graticule.probes.generalisation.downdate import BlockFits, leave_blocks_out
from graticule.probes.material import Material
from graticule.probes.scores.verdict import stack
from graticule.probes.surface.fitted import served_by
from graticule.probes.surface.string_ridge import TermCounts

_TOLERANCE = 1e-4  # of the sparse solves, in standard deviations: far below any error of the strings
_STRING_WORK = 2_000_000
_VALUES_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class ProbeWithout:
    """The probe of one point with every block inside, and without each."""

    alpha: float
    """Strength, the same in all fits."""
    nominal: Float[np.ndarray, "row target"]
    """Of every row, by the fit on the training rows of the table's own split."""
    fits: BlockFits
    """A fit a block, on all other rows, test rows too."""
    held_out: Float[np.ndarray, "held target"]
    """Of every held-out row, block by block, by the fit without its block."""


def probe_without(findings: Findings, point: str, blocks: Blocks, alpha: float | None = None) -> ProbeWithout:
    """Refit the probe of `point` without each block, at its own strength or at `alpha`."""
    material, probe = findings.material, findings.probes[point]
    X, problem = material.activations[point], material.problem
    if alpha is None:
        strength, nominal = probe.alpha, probe.predict(X)
    else:
        strength = float(alpha)
        nominal = ridge_fit(material.rows(point, problem.train), problem.y[problem.train], strength).predict(
            X
        )
    (fits,) = leave_blocks_out(X, problem.y, blocks.taken_out, [strength])
    held = [fits.predict(i, material.rows(point, rows)) for i, rows in enumerate(blocks.rows)]
    return ProbeWithout(strength, nominal, fits, np.concatenate(held))


def everywhere(material: Material, point: str, fits: BlockFits, first: int, last: int) -> np.ndarray:
    """What the fits without blocks `first` to `last` − 1 say of all rows, `[block, row, target]`."""
    rows = as_rows(material.activations[point])
    n, width = rows.shape
    coef = fits.coef[first:last].transpose(1, 0, 2).reshape(width, -1)
    out = np.empty((n, coef.shape[1]))
    for index in chunks(np.arange(n), chunk_rows_for(width)):
        out[index] = rows.gather(index) @ coef
    shaped = out.reshape(n, last - first, -1).transpose(1, 0, 2)
    return np.ascontiguousarray(shaped + fits.intercept[first:last, None])


def at_once(n_rows: int, n_targets: int) -> int:
    """How many blocks `everywhere` should be asked for in one go."""
    return max(1, _VALUES_AT_ONCE // (n_rows * n_targets))


def rivals_without(
    findings: Findings, blocks: Blocks, strings: bool | None, progress: bool | None
) -> tuple[dict[str, Float[np.ndarray, "held target"]], tuple[str, ...]]:
    """Baseline → its predictions of the held-out rows, refitted like the probe; and baselines left out.

    Each keeps the layer and the strength that it was given on training rows. `surface` is their stack, with
    the weights of the nominal split. TF-IDF needs a sparse solve a block: without being asked for
    (`strings=True`) it is left out where these would take minutes, and the stack is then made without it.
    """
    material = findings.material
    problem, activations = material.problem, material.activations
    out: dict[str, np.ndarray] = {}
    for name, feature in material.baselines.features.items():
        line = findings.baselines[name]
        rows = served_by(feature, activations, problem.source)
        X = as_rows(feature[line["point"]])
        same = np.array_equal(rows, np.arange(X.shape[0]))
        values = X.values if same else X.gather(rows)
        (fits,) = leave_blocks_out(values, problem.y, blocks.taken_out, [line["alpha"]])
        held = [fits.predict(i, X.gather(rows[r])) for i, r in enumerate(blocks.rows)]
        out[name] = np.concatenate(held)
    left_out: tuple[str, ...] = ()
    if "tfidf" in material.rivals:
        if strings is None:
            strings = len(blocks.rows) * len(problem.y) <= _STRING_WORK
        if strings:
            out["tfidf"] = _strings_without(findings, blocks, progress)
        else:
            left_out = ("tfidf",)
    if out:
        folds = {name: material.rivals[name].out_of_fold for name in out}
        out["surface"] = stack(folds, problem.y[problem.train]).predict(out)
    return out, left_out


def _strings_without(findings: Findings, blocks: Blocks, progress: bool | None) -> np.ndarray:
    """TF-IDF of the rows outside each block, through ridge at the strength chosen on training rows."""
    material = findings.material
    table, problem = material.table, material.problem
    texts = [(table.texts or [])[i] for i in problem.source]
    counts = TermCounts.of(texts, len(texts))
    min_df = counts.usable_df(2)
    alpha = float(findings.baselines["tfidf"]["alpha"])
    every, out = np.arange(len(texts)), []
    quiet = progress is False or (progress is None and len(texts) * len(blocks.rows) < 100_000)
    pairs = zip(blocks.rows, blocks.taken_out, strict=True)
    for rows, gone in tqdm(
        pairs, desc="TF-IDF", total=len(blocks.rows), unit="block", disable=quiet, leave=False
    ):
        kept = np.setdiff1d(every, gone)
        matrix = counts.matrix(kept, min_df)
        middle, spread = problem.y[kept].mean(axis=0), problem.y[kept].std(axis=0)
        if matrix.shape[1] == 0:
            out.append(np.tile(middle, (len(rows), 1)))
            continue
        inside = matrix[kept]
        z = (problem.y[kept] - middle) / np.where(spread > 0, spread, 1.0)
        dual = dual_ridge(inside, z, [alpha], tol=_TOLERANCE)[0]
        coef = np.asarray(inside.T @ dual, np.float64)
        means = np.asarray(inside.mean(axis=0)).ravel()
        out.append((matrix[rows] @ coef - means @ coef) * spread + middle)
    return np.concatenate(out)


def by_layer(findings: Findings, blocks: Blocks, progress: bool | None) -> Mapping[str, ProbeWithout]:
    """`probe_without` at every point, each at its own strength."""
    quiet = progress is False or (progress is None and len(findings.probes) * len(blocks.every) < 50_000)
    points = tqdm(findings.probes, desc="hold-outs", unit="layer", disable=quiet, leave=False)
    return {point: probe_without(findings, point, blocks) for point in points}
