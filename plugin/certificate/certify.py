"""`graticule.certify`: every instrument pointed at worlds whose truth is known, condition by condition."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from graticule.certificate.learners import Learners, Plan, Subject, least_linear
from graticule.certificate.probes import found_in_nothing, readings
from graticule.certificate.requirements import marks_of
from graticule.certificate.result import USES, Certificate, Part
from graticule.certificate.uses import uses
from graticule.hooks.artifact import ArtifactError, fingerprint, json_ready, library_versions
from graticule.hooks.doors import FOLDER, PLAN, WORLD, door
from graticule.hooks.kinds import set_aside
from graticule.hooks.limits import LIMITS
from graticule.hooks.locks import only_here
from graticule.hooks.names import user_path
from graticule.sims.training.settings import SequenceShape, SequenceTraining, Training
from graticule.sims.world import World

_log = logging.getLogger(__name__)

QUICK = Plan(
    dimensions=(0.5, 1.0, 2.0),
    sequence_dimensions=(2.0,),
    noises=(1.0,),
    masks=(16,),
    lookup=Training(optimizer="population", steps=8000),
    sequence=SequenceTraining(shape=SequenceShape(n_layers=1), steps=600, log_every=300),
    decoys=40,
)
"""What `certify(quick=True)` does."""
_CERTIFIED = LIMITS["certify.concepts"]
LEAST, MOST = int(_CERTIFIED.lowest), int(_CERTIFIED.highest)
"""Concepts: of three, parities are read by a linear reader of as many dimensions; of more than ten, contexts
are too many."""


@door(world=WORLD.or_none(), plan=PLAN.or_none(), out=FOLDER.or_none())
def certify(
    world: World | None = None,
    *,
    concepts: int = 6,
    quick: bool = False,
    plan: Plan | None = None,
    seed: int | None = None,
    out: Path | str | None = None,
    say: Callable[[str], None] | None = None,
    progress: bool | None = None,
) -> Certificate:
    """Point ridge, logistic, MLP and PCA probes at learners of a world whose concepts are known.

    Two learners (the two tables of Jiang et al. 2403.03867 as a model, and a small transformer) are trained
    on the world. Instruments see sampled activations, split by context; they are judged by the whole truth:
    posteriors, the best linear reader over all contexts, and the mean steering vector. Conditions vary the
    dimensions (below the number of concepts: superposition), noise on activations and, for the lookup
    learner, the completeness of contexts. Random labels of contexts give the false-positive rate, and
    parities of two concepts stand for what is present but not linear. In worlds planted for it, `causes` is
    asked of a decoy (as readable as what is used, correlated with it, cut before the output) and of a
    direction that is used and hardly readable.

    Args:
        world: of two-valued concepts; by default a random one of `concepts` concepts, drawn with `seed`.
        concepts: of a random world.
        quick: one block, fewer widths and levels.
        plan: everything in detail, in place of `quick`.
        seed: The seed of world, learners, samples and labels; by default the plan's.
        out: a folder for learners and conditions, each kept once it is done: the same call goes on there.
        say: called with a line when a condition is done.
        progress: a bar; by default on a terminal.

    Raises:
        ValueError: for a world of other values, fewer than four concepts or more than ten, or a plan that
            cannot be.
    """
    if world is None:
        world = World.random(concepts, seed=(0 if plan is None else plan.seed) if seed is None else seed)
    if set(world.values) != {2} or not LEAST <= world.m <= MOST:
        raise ValueError(
            f"a world of {world.m} concepts with {world.values} values: a certificate needs {LEAST} to "
            f"{MOST} concepts, two values each"
        )
    chosen = plan or (QUICK if quick else Plan())
    seed = chosen.seed if seed is None else seed
    chosen = replace(chosen, seed=seed)
    chosen.check()
    if plan is None:
        training = (replace(chosen.lookup, seed=seed), replace(chosen.sequence, seed=seed))
        chosen = replace(chosen, lookup=training[0], sequence=training[1])
    fingerprint = _fingerprint(world, chosen)
    folder = None if out is None else user_path(out) / "parts" / fingerprint[:12]
    learners = Learners(world, chosen, None if folder is None else folder / "learners", progress)
    parts: list[Part] = []
    with nullcontext() if out is None else only_here(out, "certifying into"):
        steps = levels(chosen)
        for step in tqdm(steps, desc="certificate", unit="condition", disable=progress is False, leave=False):
            part = _part(learners, chosen, *step, folder, fingerprint)
            parts.append(part)
            if say is not None:
                say(part.summary())
        if chosen.decoys:
            parts.append(_use_part(chosen, folder, fingerprint, progress))
            if say is not None:
                say(parts[-1].summary())
    return _assembled(world, chosen, parts)


def _part(
    learners: Learners,
    plan: Plan,
    learner: str,
    condition: str,
    level: float,
    folder: Path | None,
    fingerprint: str,
) -> Part:
    """One condition, from disk if it is there."""
    name = f"{learner}-{condition}-{level:g}"
    place = None if folder is None else folder / name
    if place is not None:
        try:
            return Part.load(place)
        except ArtifactError:
            _log.info("%s: not done yet", name)
    widest = base(plan, learner)
    if condition == "noise":
        subject = learners.subject(learner, "dimension", widest).with_noise(level)
    else:
        subject = learners.subject(learner, condition, level)
    main = condition == "dimension" and level == widest
    part = _made(subject, plan, name, main, fingerprint)
    if place is not None:
        set_aside(place)
        part.save(place)
    return part


def _use_part(plan: Plan, folder: Path | None, fingerprint: str, progress: bool | None) -> Part:
    """What is called used in planted worlds, from disk if it is there."""
    place = None if folder is None else folder / USES
    if place is not None:
        try:
            return Part.load(place)
        except ArtifactError:
            _log.info("%s: not done yet", USES)
    provenance = {"fingerprint": fingerprint, "versions": library_versions()}
    none = dict.fromkeys(("concepts", "parities", "components", "verdicts", "nothing"), pd.DataFrame())
    part = Part(USES, **none, provenance=provenance, uses=uses(plan.decoys, plan.seed, progress))
    if place is not None:
        set_aside(place)
        part.save(place)
    return part


def _made(subject: Subject, plan: Plan, name: str, main: bool, fingerprint: str) -> Part:
    """All points of the widest learner and the last one of the others; random labels on the widest."""
    pairs = least_linear(subject.every, plan.pairs)
    last = subject.points[-1]
    tables = readings(subject, pairs, None if main else (last,))
    nothing = found_in_nothing(subject, last, plan.labellings) if main else pd.DataFrame()
    provenance = {"fingerprint": fingerprint, "versions": library_versions()}
    return Part(name, **tables, nothing=nothing, provenance=provenance)


def _assembled(world: World, plan: Plan, parts: list[Part]) -> Certificate:
    def joined(name: str) -> pd.DataFrame:
        frames = [frame for part in parts if len(frame := getattr(part, name))]
        return pd.concat(frames, ignore_index=True)

    names = ("concepts", "parities", "components", "verdicts", "nothing")
    tables: dict[str, pd.DataFrame] = {name: joined(name) for name in names}
    used = joined("uses") if any(len(part.uses) for part in parts) else pd.DataFrame()
    provenance: dict[str, Any] = {"plan": json_ready(plan), "versions": library_versions()}
    return Certificate(
        marks_of(tables["concepts"], tables["parities"], tables["verdicts"], tables["nothing"], used),
        world=f"{world.m} two-valued concepts, {world.graph.number_of_edges()} edges",
        covers=_covers(plan),
        **tables,
        provenance=provenance,
        uses=used,
    )


def _covers(plan: Plan) -> str:
    def listed(values: Sequence[float] | Sequence[int]) -> str:
        return ", ".join(f"{v:g}" for v in sorted(values))

    parts: list[str] = []
    if "lookup" in plan.learners:
        few = f"; {listed(plan.masks)} drawn masks" if plan.masks else ""
        parts.append(f"lookup tables at {listed(plan.dimensions)} dimensions a concept{few}")
    if "sequence" in plan.learners:
        blocks, widths = plan.sequence.shape.n_layers, listed(plan.sequence_dimensions)
        parts.append(
            f"transformers of {blocks} block{'s' if blocks > 1 else ''} at {widths}, from the first concept "
            "told on"
        )
    return "; ".join([*parts, f"noise {listed(plan.noises)}"] if plan.noises else parts)


def _fingerprint(world: World, plan: Plan) -> str:
    return fingerprint({**world.described(), "plan": dataclasses.asdict(plan)})


def levels(plan: Plan) -> Sequence[tuple[str, str, float]]:
    """Every (learner, condition, level) of a plan, those first that bounds hold for."""
    out: list[tuple[str, str, float]] = []
    for learner in plan.learners:
        wide = plan.dimensions if learner == "lookup" else plan.sequence_dimensions
        out += [(learner, "dimension", d) for d in sorted(wide, reverse=True)]
        out += [(learner, "noise", level) for level in plan.noises]
        if learner == "lookup":
            out += [(learner, "masks", float(n)) for n in plan.masks]
    return out


def base(plan: Plan, learner: str) -> float:
    """The width over concepts of the learner that noise is added to: the widest."""
    return float(np.max(plan.dimensions if learner == "lookup" else plan.sequence_dimensions))
