"""Whether baselines stand against the activations they are given with: one model, prompt and positions."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from graticule.hooks.alignment import sources
from graticule.hooks.rows import Rows
from graticule.hooks.same_model import check_one_model
from graticule.probes.surface.baselines import Baselines
from graticule.probes.surface.fitted import served_by

ANY_PROMPT = "any_prompt"
"""In the provenance of baselines of the entity alone, which stand against any prompt: `prompts` says it."""


class PairError(ValueError):
    """Baselines that were captured otherwise than the activations that they are given with."""


def check_pair(baselines: Baselines, activations: Rows) -> bool:
    """Refuse baselines of another model, prompt, position or layers than the activations.

    Args:
        baselines: What stands against the probe.
        activations: What is probed.

    Returns:
        Whether the activations say of no model: that the baselines are of it is then taken on trust.

    Raises:
        OtherModelError: They are of another model.
        PairError: They were captured otherwise.
    """
    ours = activations.provenance
    of, model = baselines.provenance.get("model") or {}, ours.get("model") or {}
    check_one_model(
        "sweep", ("the activations are", ours), ("the baselines", baselines.provenance),
        "capture both of one model, baselines(model, table)",
    )  # fmt: skip
    for name, feature in baselines.features.items():
        if (name == "block_0" or name in baselines.twins) and not baselines.provenance.get(ANY_PROMPT):
            _check_reading(name, feature, activations)
    for name in baselines.twins:
        if lacking := [point for point in activations.points if point not in baselines.features[name]]:
            raise PairError(
                f"sweep: {name} of the baselines lacks {lacking[0]}, which the activations hold: give both "
                "the same points= and layers=, or activations.select(points=…)"
            )
    return bool(of.get("digest")) and not model.get("digest")


def _check_reading(name: str, feature: Rows, activations: Rows) -> None:
    """**Raises** `PairError` for another prompt, special tokens or other positions."""
    theirs, ours = feature.provenance, activations.provenance
    if "prompt" in theirs and "prompt" in ours and theirs["prompt"] != ours["prompt"]:
        raise _other(name, "prompt", theirs["prompt"], ours["prompt"])
    if "bos" in theirs and "bos" in ours and theirs["bos"] != ours["bos"]:
        raise PairError(
            f"sweep: {name} of the baselines was captured with{'' if theirs['bos'] else 'out'} special "
            f"tokens, the activations with{'' if ours['bos'] else 'out'}: give both one prepend_bos="
        )
    if "pos" not in theirs or "pos" not in ours or _plain(theirs["pos"]) == _plain(ours["pos"]):
        return
    means = "entity_mean" in (theirs["pos"], ours["pos"])  # of several tokens, whatever place it is put at
    if means or not _same_places(feature, activations):
        raise _other(name, "pos", theirs["pos"], ours["pos"])


def _same_places(feature: Rows, activations: Rows) -> bool:
    """Whether rows that were asked for in other words are of the same tokens."""
    theirs, ours = feature.rows, activations.rows
    if "position" not in theirs or "position" not in ours:
        return False
    serving = served_by(feature, activations, sources(ours))
    return np.array_equal(theirs["position"].to_numpy()[serving], ours["position"].to_numpy())


def _other(name: str, what: str, theirs: Any, ours: Any) -> PairError:
    return PairError(
        f"sweep: {name} of the baselines was captured with {what}={theirs!r}, the activations with "
        f"{what}={ours!r}: give both one, baselines(model, table, {what}={ours!r})"
    )


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
