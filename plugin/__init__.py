"""graticule: which concepts a language model represents linearly, where, and how far to believe it.

The face of the package. Every name is loaded on first use, so that importing graticule loads
neither TransformerLens nor SAELens.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str
    from graticule import hub as hub
    from graticule import saes as saes
    from graticule.certificate.certify import certify as certify
    from graticule.hooks.activations import Activations as Activations
    from graticule.hooks.capture import capture as capture
    from graticule.hooks.capture_spec import Sample as Sample
    from graticule.hooks.chats import Turn as Turn
    from graticule.hooks.record import record as record
    from graticule.hooks.store import Store as Store
    from graticule.models import load_model as load_model
    from graticule.probes.attribution.attribute import attribute as attribute
    from graticule.probes.attribution.trace import trace as trace
    from graticule.probes.beyond.classes import classes as classes
    from graticule.probes.beyond.mlp import mlp as mlp
    from graticule.probes.beyond.monitor import monitor as monitor
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
    from graticule.probes.core.pooling import pool as pool
    from graticule.probes.core.sweep import sweep as sweep
    from graticule.probes.core.verdict import JudgeSettings as JudgeSettings
    from graticule.probes.directions.directions import directions as directions
    from graticule.probes.families.family import judge_family as judge_family
    from graticule.probes.generalisation.carried import judge_on as judge_on
    from graticule.probes.generalisation.crossfitted import cross_fit as cross_fit
    from graticule.probes.generalisation.holdouts import holdouts as holdouts
    from graticule.probes.generalisation.popularity import popularity as popularity
    from graticule.probes.generalisation.prompts import prompts as prompts
    from graticule.probes.generalisation.retest import retest as retest
    from graticule.probes.generalisation.transfer import transfer as transfer
    from graticule.probes.latents.latents import latents as latents
    from graticule.probes.linear.ridge import RidgeProbe as RidgeProbe
    from graticule.probes.neurons.neurons import neurons as neurons
    from graticule.probes.probe import probe as probe
    from graticule.probes.surface.baselines import Baselines as Baselines
    from graticule.probes.surface.baselines import baselines as baselines
    from graticule.probes.tables.table import Table as Table
    from graticule.probes.tables.tokens import token_table as token_table
    from graticule.probes.words.ambiguous import ambiguous as ambiguous
    from graticule.probes.words.languages import languages as languages
    from graticule.probes.words.words import words as words
    from graticule.results import load_saved as load_saved
    from graticule.sims.contexts import Contexts as Contexts
    from graticule.sims.papers.reproduce import reproduce as reproduce
    from graticule.sims.papers.simulate import simulate as simulate
    from graticule.sims.papers.theorems import theorems as theorems
    from graticule.sims.sequence import SequenceTokens as SequenceTokens
    from graticule.sims.training.settings import Training as Training
    from graticule.sims.world import World as World
    from graticule.studies.running import study as study
else:
    from graticule.lazy import lazy_names

    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "certificate.certify": "certify",
            "hooks.activations": "Activations",
            "hooks.capture": "capture",
            "hooks.capture_spec": "Sample",
            "hooks.chats": "Turn",
            "hooks.record": "record",
            "hooks.store": "Store",
            "models": "load_model",
            "probes.attribution.attribute": "attribute",
            "probes.attribution.trace": "trace",
            "probes.beyond.classes": "classes",
            "probes.beyond.mlp": "mlp",
            "probes.beyond.monitor": "monitor",
            "probes.beyond.pca": "pca",
            "probes.beyond.sphere": "sphere",
            "probes.calibration.calibrate": "calibrate",
            "probes.causes.ablate": "ablate",
            "probes.causes.causes": "causes",
            "probes.causes.erase": "erase",
            "probes.causes.outcomes": "Outcome",
            "probes.causes.steer": "steer",
            "probes.compare": "compare",
            "probes.controls.controls": "controls",
            "probes.core.findings": "Findings",
            "probes.core.verdict": "JudgeSettings",
            "probes.core.pooling": "pool",
            "probes.core.sweep": "sweep",
            "probes.directions.directions": "directions",
            "probes.families.family": "judge_family",
            "probes.generalisation.carried": "judge_on",
            "probes.generalisation.crossfitted": "cross_fit",
            "probes.generalisation.holdouts": "holdouts",
            "probes.generalisation.popularity": "popularity",
            "probes.generalisation.prompts": "prompts",
            "probes.generalisation.retest": "retest",
            "probes.generalisation.transfer": "transfer",
            "probes.latents.latents": "latents",
            "probes.linear.ridge": "RidgeProbe",
            "probes.neurons.neurons": "neurons",
            "probes.probe": "probe",
            "probes.surface.baselines": "Baselines baselines",
            "probes.tables.table": "Table",
            "probes.tables.tokens": "token_table",
            "probes.words.ambiguous": "ambiguous",
            "probes.words.languages": "languages",
            "probes.words.words": "words",
            "sims.contexts": "Contexts",
            "sims.papers.reproduce": "reproduce",
            "sims.papers.simulate": "simulate",
            "sims.sequence": "SequenceTokens",
            "sims.papers.theorems": "theorems",
            "sims.training.settings": "Training",
            "sims.world": "World",
            "results": "load_saved",
            "studies.running": "study",
        },
        packages=("hub", "saes"),
    )
