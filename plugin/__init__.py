"""graticule: which concepts a language model represents linearly, where, and how far to believe it.

The face of the package. Every name is loaded on first use, so that importing graticule loads
neither TransformerLens nor SAELens.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graticule import hub as hub
    from graticule import saes as saes
    from graticule.certificate.certify import certify as certify
    from graticule.hooks.activations import Activations as Activations
    from graticule.hooks.capture import capture as capture
    from graticule.hooks.positions import Sample as Sample
    from graticule.hooks.record import record as record
    from graticule.hooks.store import Store as Store
    from graticule.models import load_model as load_model
    from graticule.probes.attribution.attribute import attribute as attribute
    from graticule.probes.attribution.trace import trace as trace
    from graticule.probes.beyond.classes import classes as classes
    from graticule.probes.beyond.mlp import mlp as mlp
    from graticule.probes.beyond.pca import pca as pca
    from graticule.probes.beyond.sphere import sphere as sphere
    from graticule.probes.calibration.calibrate import calibrate as calibrate
    from graticule.probes.causes.ablate import ablate as ablate
    from graticule.probes.causes.causes import causes as causes
    from graticule.probes.causes.erase import erase as erase
    from graticule.probes.causes.outcomes import Outcome as Outcome
    from graticule.probes.causes.steer import steer as steer
    from graticule.probes.compare import compare as compare
    from graticule.probes.controls.controls import controls as controls
    from graticule.probes.core.findings import Findings as Findings
    from graticule.probes.core.sweep import sweep as sweep
    from graticule.probes.core.verdict import JudgeSettings as JudgeSettings
    from graticule.probes.directions.directions import directions as directions
    from graticule.probes.generalisation.holdouts import holdouts as holdouts
    from graticule.probes.generalisation.popularity import popularity as popularity
    from graticule.probes.generalisation.prompts import prompts as prompts
    from graticule.probes.generalisation.transfer import transfer as transfer
    from graticule.probes.latents.latents import latents as latents
    from graticule.probes.linear.ridge import RidgeProbe as RidgeProbe
    from graticule.probes.neurons.neurons import neurons as neurons
    from graticule.probes.probe import probe as probe
    from graticule.probes.surface.baselines import baselines as baselines
    from graticule.probes.tables.table import Table as Table
    from graticule.probes.words.ambiguous import ambiguous as ambiguous
    from graticule.probes.words.languages import languages as languages
    from graticule.probes.words.words import words as words
    from graticule.sims.contexts import Contexts as Contexts
    from graticule.sims.papers.reproduce import reproduce as reproduce
    from graticule.sims.papers.simulate import simulate as simulate
    from graticule.sims.papers.theorems import theorems as theorems
    from graticule.sims.sequence import SequenceTokens as SequenceTokens
    from graticule.sims.training.settings import Training as Training
    from graticule.sims.world import World as World
    from graticule.studies.running import study as study

__all__ = [
    "Activations",
    "Contexts",
    "Findings",
    "JudgeSettings",
    "Outcome",
    "RidgeProbe",
    "Sample",
    "SequenceTokens",
    "Store",
    "Table",
    "Training",
    "World",
    "ablate",
    "ambiguous",
    "attribute",
    "baselines",
    "calibrate",
    "capture",
    "causes",
    "certify",
    "classes",
    "compare",
    "controls",
    "directions",
    "erase",
    "holdouts",
    "hub",
    "languages",
    "latents",
    "load_model",
    "mlp",
    "neurons",
    "pca",
    "popularity",
    "probe",
    "prompts",
    "record",
    "reproduce",
    "saes",
    "simulate",
    "sphere",
    "steer",
    "study",
    "sweep",
    "theorems",
    "trace",
    "transfer",
    "words",
]

_HOMES = {
    "Activations": "graticule.hooks.activations",
    "Contexts": "graticule.sims.contexts",
    "Findings": "graticule.probes.core.findings",
    "JudgeSettings": "graticule.probes.core.verdict",
    "Outcome": "graticule.probes.causes.outcomes",
    "RidgeProbe": "graticule.probes.linear.ridge",
    "Sample": "graticule.hooks.positions",
    "SequenceTokens": "graticule.sims.sequence",
    "Store": "graticule.hooks.store",
    "Table": "graticule.probes.tables.table",
    "Training": "graticule.sims.training.settings",
    "World": "graticule.sims.world",
    "ablate": "graticule.probes.causes.ablate",
    "ambiguous": "graticule.probes.words.ambiguous",
    "attribute": "graticule.probes.attribution.attribute",
    "baselines": "graticule.probes.surface.baselines",
    "calibrate": "graticule.probes.calibration.calibrate",
    "capture": "graticule.hooks.capture",
    "causes": "graticule.probes.causes.causes",
    "certify": "graticule.certificate.certify",
    "classes": "graticule.probes.beyond.classes",
    "compare": "graticule.probes.compare",
    "controls": "graticule.probes.controls.controls",
    "directions": "graticule.probes.directions.directions",
    "erase": "graticule.probes.causes.erase",
    "holdouts": "graticule.probes.generalisation.holdouts",
    "languages": "graticule.probes.words.languages",
    "latents": "graticule.probes.latents.latents",
    "load_model": "graticule.models",
    "mlp": "graticule.probes.beyond.mlp",
    "neurons": "graticule.probes.neurons.neurons",
    "pca": "graticule.probes.beyond.pca",
    "popularity": "graticule.probes.generalisation.popularity",
    "probe": "graticule.probes.probe",
    "prompts": "graticule.probes.generalisation.prompts",
    "record": "graticule.hooks.record",
    "reproduce": "graticule.sims.papers.reproduce",
    "simulate": "graticule.sims.papers.simulate",
    "sphere": "graticule.probes.beyond.sphere",
    "steer": "graticule.probes.causes.steer",
    "study": "graticule.studies.running",
    "sweep": "graticule.probes.core.sweep",
    "theorems": "graticule.sims.papers.theorems",
    "trace": "graticule.probes.attribution.trace",
    "transfer": "graticule.probes.generalisation.transfer",
    "words": "graticule.probes.words.words",
}

_ROOMS = ("hub", "saes")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value  # a second look-up does not come here
        return value
    if name in _ROOMS:
        return import_module(f"graticule.{name}")  # which makes it an attribute
    from graticule.hooks.messages import did_you_mean

    near = did_you_mean(name, __all__) or f"; it has {', '.join(__all__)}"
    raise AttributeError(f"module 'graticule' has no attribute {name!r}{near}")


def __dir__() -> list[str]:
    return sorted(__all__)
