"""An eraser put into the model at one layer: can later layers read the concept again?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int

from graticule.hooks.bars import bar
from graticule.hooks.points import layer_of
from graticule.hooks.protocols import HookedModel
from graticule.hooks.running.session import packed, undisturbed
from graticule.hooks.special import asked_bos
from graticule.hooks.tokens import TokenRows, tokenize
from graticule.probes.causes.leace import Eraser
from graticule.probes.causes.rig import Rig
from graticule.probes.estimators.solvers import ridge_cv
from graticule.probes.findings import Findings
from graticule.probes.scores.metrics import r2


def reprobe_later(
    model: HookedModel,
    findings: Findings,
    point: str,
    erased: list[int],
    *,
    rows: int = 1500,
    seed: int = 0,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Test R² of ridge probes at every later point, in the model as it is and with the concept erased.

    The eraser is fitted on all training rows at `point` and applied at the captured positions; probes are
    fitted on at most `rows` training rows and scored on at most a third as many test rows, the same ones with
    and without. Empty where no captured point lies later.

    **Raises** `ValueError` for activations whose rows are not single tokens of the table's texts.
    """
    material, names = findings.material, findings.target_names
    layer = layer_of(point)
    later = [p for p in findings.probes if (layer_of(p) or 0) > (-1 if layer is None else layer)]
    if not later:
        return pd.DataFrame(columns=["layer", "point"])
    problem = material.problem
    rng = np.random.default_rng(seed)
    train, test = _some(problem.train, rows, rng), _some(problem.test, max(rows // 3, 2), rng)
    eraser = Eraser.fit(material.rows(point, problem.train), problem.y[problem.train][:, erased])
    chosen = np.concatenate([train, test])
    ids, position = captured_tokens(model, findings, chosen)
    with undisturbed(model), packed(model):
        rig = Rig(model, ids, point, [np.array([p]) for p in position], position, later, logits=False)
        runs = {"before": rig.run().later, "after": rig.run(eraser.edit).later}
    y, fitted = problem.y[chosen], slice(0, len(train))
    lines: list[dict[str, Any]] = []
    with bar(len(later) * len(runs), "probing later layers", "probe", progress) as done:
        for place in later:
            line: dict[str, Any] = {"layer": layer_of(place), "point": place}
            for arm, held in runs.items():
                X = held[place].to(torch.float64).numpy()
                probe = ridge_cv(X[fitted], y[fitted], clusters=problem.clusters[train], names=names)
                scores = r2(y[len(train) :], probe.predict(X[len(train) :]))
                line |= {f"{arm}_{n}": float(v) for n, v in zip(names, scores, strict=True)}
                done.update()
            lines.append(line)
    return pd.DataFrame(lines)


def captured_tokens(
    model: HookedModel, findings: Findings, rows: Int[np.ndarray, " row"]
) -> tuple[TokenRows, Int[np.ndarray, " row"]]:
    """Tokens and position of some activation rows, as they were captured.

    **Raises** `ValueError` where they do not belong to texts of the table, or to other tokens than these.
    """
    material = findings.material
    frame = material.activations.rows
    if material.table.texts is None or "position" not in frame or "token" not in frame:
        raise ValueError("these activations do not say which token of which text they are: capture them anew")
    source = material.problem.source[rows]
    prompt = str(material.activations.provenance.get("prompt", ""))
    bos = asked_bos(material.activations.provenance)
    tokens = tokenize(model, [material.table.texts[i] for i in source], prompt, bos)
    position = frame["position"].to_numpy(np.int64)[rows]
    expected = frame["token"].to_numpy(np.int64)[rows]
    for i, (ids, at, token) in enumerate(zip(tokens.ids, position, expected, strict=True)):
        if at >= len(ids) or ids[at] != token:
            raise ValueError(
                f"text {source[i]} has other tokens in this model than in the one the activations are from"
            )
    return tokens, position


def _some(rows: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
    return rows if len(rows) <= limit else np.sort(rng.choice(rows, limit, replace=False))
