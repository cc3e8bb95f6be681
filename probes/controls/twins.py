"""Untrained twins, several of them: what the architecture and the weights' statistics give by themselves."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from graticule.hooks.capture import capture
from graticule.hooks.names import inside
from graticule.hooks.positions import from_plain
from graticule.hooks.protocols import HookedModel
from graticule.hooks.same_model import check_model
from graticule.probes.controls.lines import Line, line, not_applicable
from graticule.probes.controls.scoring import Pair, average
from graticule.probes.controls.setting import Setting
from graticule.probes.scores.verdict import Predictions, stack
from graticule.probes.surface.baselines import Baselines, text_digest
from graticule.probes.surface.fitted import fit_baselines
from graticule.probes.surface.twin import make_twin

_log = logging.getLogger(__name__)

TWIN_ASKS = "what an untrained network of the same weights' statistics gives"
PLACE_ASKS = "what such a twin adds to the other baselines: must be nothing"


def twin_lines(
    setting: Setting, model: HookedModel | None, store: Path | None, progress: bool | None
) -> list[Line]:
    """The twins' scores, and what each adds to the other baselines in the probe's place.

    Twins beyond those of the findings' baselines are made from `model` and captured at two points, the
    probe's and the first twin's own best; the better one out of fold is taken.

    **Raises** `ValueError` if `model` is not the one that the baselines were captured from.
    """
    twins, note = _twins(setting, model, store, progress)
    names = ("untrained twin", "untrained twin in the probe's place")
    if not twins:
        return [
            not_applicable("control", names[0], TWIN_ASKS, note),
            not_applicable("check", names[1], PLACE_ASKS, note),
        ]
    y, count = setting.y_test, len(setting.y_test)
    others = {n: p for n, p in setting.material.rivals.items() if not n.startswith("twin_")}
    folds, tests = {n: p.out_of_fold for n, p in others.items()}, {n: p.test for n, p in others.items()}
    base = stack(folds, setting.y_train).predict(tests, count)
    pairs: dict[str, Pair] = {"probe": (y, setting.probe.test), "base": (y, base)}
    for name, twin in twins.items():
        full = stack({**folds, name: twin.out_of_fold}, setting.y_train)
        pairs |= {name: (y, twin.test), f"with {name}": (y, full.predict({**tests, name: twin.test}, count))}
    found = setting.scores(pairs)
    alone = [found[name] for name in twins]
    added = [found[f"with {name}"] for name in twins]
    gains = [a.value - found["base"].value for a in added]
    place = f"the gain of each seed: {', '.join(f'{gain:+.4f}' for gain in gains)}"
    by_seed = [a.value for a in alone]
    return [
        line(
            "control",
            names[0],
            TWIN_ASKS,
            average(alone),
            found["probe"],
            count,
            by_seed=by_seed,
            note=note,
        ),
        line("check", names[1], PLACE_ASKS, found["base"], average(added), count, metric="gain", note=place),
    ]


def _twins(
    setting: Setting, model: HookedModel | None, store: Path | None, progress: bool | None
) -> tuple[dict[str, Predictions], str]:
    """Predictions of every twin, and what to say about where they come from."""
    material, rows = setting.material, setting.findings.baselines
    twins = {n: p for n, p in material.rivals.items() if n.startswith("twin_")}
    missing = range(len(twins), setting.seeds)
    if not missing:
        return twins, "the twins of the baselines"
    made: dict[str, Any] = dict(material.baselines.provenance)
    why = _why_not(setting, model, made)
    if why:
        have = f"{len(twins)} of {setting.seeds} seeds" if twins else "no twin among the baselines"
        return twins, f"{have}: {why}"
    assert model is not None and material.table.texts is not None
    points = list(dict.fromkeys([setting.findings.chosen_point, *(rows[n]["point"] for n in twins)]))
    for i in missing:
        name = f"twin_{i}"
        copy = make_twin(
            model, int(made.get("seed", 0)) + i, made.get("twin", "permuted"), keep=("unembed.",)
        )
        settings: dict[str, Any] = {
            "points": points,
            "pos": from_plain(made["pos"]),
            "prompt": made["prompt"],
            "prepend_bos": made.get("prepend_bos"),
            "include_bos": made.get("include_bos"),
            "dtype": material.activations[points[0]].dtype,
            "progress": progress,
        }
        texts = material.table.texts
        acts = capture(copy, texts, store=inside(store, name), **settings) if store else None
        acts = acts if acts is not None else capture(copy, texts, **settings)
        del copy
        feature = Baselines(text_digest(material.table), {name: acts}, strings=False)
        fitted, _ = fit_baselines(
            feature, material.activations, material.table, material.problem, material.alphas, progress
        )
        twins[name] = fitted[name]
        _log.info("%s captured at %s", name, ", ".join(points))
    return twins, f"seeds {', '.join(map(str, missing))} captured here, at {', '.join(points)}"


def _why_not(setting: Setting, model: HookedModel | None, made: dict[str, Any]) -> str:
    """Why no further twins can be made; empty where they can."""
    if model is None:
        return "give controls(findings, model) to make more"
    if setting.material.table.texts is None:
        return "there are no texts to run a twin on"
    if "unembed" in setting.findings.chosen_point:
        return "further twins are not made of points behind the unembedding"
    if "pos" not in made or "prompt" not in made:
        return "the baselines do not say at which positions they were captured: use baselines(model, table)"
    try:
        from_plain(made["pos"])
    except ValueError:
        return f"positions {made['pos']} cannot be repeated here: use baselines(model, table, twins=…)"
    check_model("controls: the baselines of these findings", made, model)
    return ""
