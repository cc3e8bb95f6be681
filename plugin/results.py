"""Which class reads which folder, by the name in its manifest; and the folders that commands leave."""

from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from graticule.hooks.artifact import ArtifactError, as_damaged, read_json
from graticule.hooks.kinds import FolderKind
from graticule.hooks.names import place_of
from graticule.hooks.result import Result

RESULTS: dict[str, str] = {
    "ablation": "graticule.probes.causes.ablate:Ablation",
    "attribution": "graticule.probes.attribution.result:Attribution",
    "calibration": "graticule.probes.calibration.result:Calibration",
    "carried": "graticule.probes.generalisation.carried:Carried",
    "causes": "graticule.probes.causes.causes:Causes",
    "certificate": "graticule.certificate.result:Certificate",
    "certificate_part": "graticule.certificate.result:Part",
    "classes": "graticule.probes.beyond.classes:ClassProbes",
    "comparison": "graticule.probes.compare:Comparison",
    "controls": "graticule.probes.controls.result:Controls",
    "cross_fitted": "graticule.probes.generalisation.crossfitted:CrossFitted",
    "directions": "graticule.probes.directions.result:Directions",
    "erasure": "graticule.probes.causes.erase:Erasure",
    "family": "graticule.probes.families.result:Family",
    "findings": "graticule.probes.core.findings:Findings",
    "holdouts": "graticule.probes.generalisation.holdouts_result:Holdouts",
    "latents": "graticule.probes.latents.result:LatentFindings",
    "layer_band": "graticule.probes.layer_band:LayerBand",
    "mlp": "graticule.probes.beyond.mlp:MLPFindings",
    "monitor": "graticule.probes.beyond.monitor:Monitor",
    "neurons": "graticule.probes.neurons.result:Neurons",
    "paper_compat": "graticule.probes.papers.compat:PaperCompat",
    "pca": "graticule.probes.beyond.pca:PCACurve",
    "popularity": "graticule.probes.generalisation.popularity:Popularity",
    "prompts": "graticule.probes.generalisation.prompts_result:Prompts",
    "retest": "graticule.probes.generalisation.retest_result:Retest",
    "sae_evaluation": "graticule.saes.evaluation.result:SaeEvaluation",
    "sae_features": "graticule.saes.features.result:SaeFeatures",
    "sae_recovery": "graticule.saes.features.recovered:SaeRecovery",
    "sae_run": "graticule.saes.training.run:Run",
    "sim": "graticule.sims.papers.simulation:Simulation",
    "sphere": "graticule.probes.beyond.sphere:Sphere",
    "steering": "graticule.probes.causes.steer:Steering",
    "theorems": "graticule.sims.papers.theorems:Theorems",
    "trace": "graticule.probes.attribution.trace:Trace",
    "transfer": "graticule.probes.generalisation.transfer:Transfer",
    "word_contexts": "graticule.probes.words.ambiguous:Ambiguous",
    "word_languages": "graticule.probes.words.languages:Languages",
    "words": "graticule.probes.words.words:Words",
}
"""Kind → `module:Class`."""

ENTRY_POINTS = "graticule.results"
"""The group of entry points in which other packages register their kinds, in the same form."""

SIM = FolderKind("simulation", "folder of a simulation", "sim.json", ("parts", "result", "report.html"))
"""What `sim` leaves."""
CERTIFICATE = FolderKind(
    "certificate_run", "folder of a certificate", "request.json", ("parts", "result", "report.html")
)
"""What `certify` leaves."""
DEMO = FolderKind("demo", "folder of the demo", "", ("world_cities", "historical_figures", "report.html"))
"""What `demo` leaves."""
FAMILY = FolderKind("family_run", "folder of 'family'", "", ("family", "report.html"))
"""What `family` leaves."""
MONITOR = FolderKind("monitor_run", "folder of 'monitor'", "", ("monitor", "report.html"))
"""What `monitor` leaves."""
WORDS = FolderKind("words_run", "folder of 'words'", "", ("words*", "languages*", "ambiguous*"))
"""What `words` leaves."""


BESIDE_RESULTS: dict[str, str] = {
    "activations": "graticule.hooks.store:Store",
    "baselines": "graticule.probes.surface.baselines:Baselines",
}
"""The same of what is saved and is no result."""


def load_saved(path: Path | str) -> Any:
    """Whatever a `save` of ours left in a folder: a result of any kind, findings, activations, baselines.

    Args:
        path: The folder, or its url of fsspec.

    Returns:
        An object of the class that wrote it; activations as a `Store`, which reads them from disk.

    Raises:
        ArtifactError: There is none, or this graticule knows no such kind.
    """
    return _loaded(path, {**RESULTS, **BESIDE_RESULTS})


def load_result(path: Path | str) -> Result:
    """The result in a folder, or behind a url of fsspec, whatever it is.

    Raises:
        ArtifactError: if there is none, or if this graticule knows no such kind.
    """
    return _loaded(path, RESULTS)


def _loaded(path: Path | str, ours: dict[str, str]) -> Any:
    place = place_of(path)
    names = ("findings.json", "run.json", "manifest.json")
    manifest = place / next((n for n in names if (place / n).is_file()), names[-1])
    kind = read_json(manifest).get("kind")
    kinds = {**{one.name: one.value for one in entry_points(group=ENTRY_POINTS)}, **ours}
    if not isinstance(kind, str) or kind not in kinds:
        raise ArtifactError(f"{path} holds {kind!r}; this graticule reads {', '.join(sorted(kinds))}")
    module, name = kinds[kind].split(":")
    with as_damaged(path, "write it again", also=()):
        owner = getattr(import_module(module), name)
        return owner(place) if kind == "activations" else owner.load(path)
