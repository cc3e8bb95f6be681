"""One SAE or probe, ready to be pushed: its files as they are published, and what the card says of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from graticule.hooks.artifact import ArtifactError, read_json, read_table, read_tensors
from graticule.hub.cards.density import density_png
from graticule.hub.checks import check_id
from graticule.hub.facts import ProbeFacts, SaeFacts, histogram, hub_dataset, look
from graticule.hub.outgoing import as_published, digest, json_bytes, own_file, public_json
from graticule.hub.private import is_path

if TYPE_CHECKING:
    import numpy as np

    from graticule.probes.estimators.ridge import RidgeProbe

SAE_FILES = ("cfg.json", "sae_weights.safetensors", "sparsity.safetensors", "runner_cfg.json")
"""SAELens's own files; only the first two are needed."""
RUN_FILES = ("run.json", "evaluation.json", "history.parquet", "events.json")
"""What a graticule run has beside its `sae` folder."""
PROBE_FILES = ("manifest.json", "probe.safetensors", "verdict.json")
VERDICT = ("words", "score", "surface", "gain", "ci95", "min_gain", "clusters")
"""What a card says of a verdict."""
DENSITY = "density.png"
NAMES = frozenset((*SAE_FILES, *RUN_FILES, *PROBE_FILES, DENSITY))
"""All that a push may put into a folder: what it does not put there any more is deleted."""


@dataclass(frozen=True)
class Subject:
    """One SAE or probe, ready to be pushed."""

    id: str
    """Its folder in the repository: SAELens's `sae_id`."""
    folder: Path | None
    """Where a SAE lies here: what SAELens reads; None for a probe."""
    files: Mapping[str, Path | bytes]
    """File name → where it lies, or its content."""
    facts: SaeFacts | ProbeFacts
    """What the card says of it."""
    probe: RidgeProbe | None = None
    """The probe, if it is one."""

    @property
    def in_repo(self) -> dict[str, Path | bytes]:
        """Path in the repository → content."""
        return {f"{self.id}/{name}": content for name, content in self.files.items()}

    @property
    def model_name(self) -> str | None:
        """The model that it reads, by the name it was made with; None where that is a local path."""
        if isinstance(self.facts, SaeFacts):
            return None if self.facts.local_model else cast("str | None", self.facts.find("model_name"))
        name = self.facts.judged.get("model")
        return name if isinstance(name, str) else None

    def of(self, base_model: str | None) -> Subject:
        """The same with the model's id on the Hub."""
        return replace(self, facts=replace(self.facts, base_model=base_model))


def sae_in(run: Path, below: tuple[str, ...], name: str | None) -> Subject:
    """The SAE in `run`, or in its folder `below`."""
    folder = run.joinpath(*below)
    paths = {n: own_file(run, *below, n) for n in SAE_FILES}
    paths |= {n: own_file(run, n) for n in RUN_FILES} if below else {}
    for needed in SAE_FILES[:2]:
        if paths[needed] is None:
            raise FileNotFoundError(f"{folder / needed} is missing: {folder} is no whole SAELens folder")
    files: dict[str, Path | bytes] = {n: as_published(p) for n, p in paths.items() if p is not None}
    words = {n: _json(content) for n, content in files.items() if n.endswith(".json")}
    density: tuple[tuple[float, int], ...] = ()
    if "sparsity.safetensors" in files:
        density = histogram(_sparsity(folder / "sparsity.safetensors"))
        files[DENSITY] = density_png(density)
    facts = SaeFacts(
        cfg=words["cfg.json"],
        runner=words.get("runner_cfg.json", {}),
        run=words.get("run.json", {}),
        evaluation=words.get("evaluation.json", {}),
        last=_last_line(run / "history.parquet") if "history.parquet" in files else {},
        density=density,
        digest=digest(files["sae_weights.safetensors"]),
    )
    local = is_path(look((read_json(folder / "cfg.json"),), ("model_name",)))
    facts = replace(facts, dataset=hub_dataset(facts.find("dataset_path")), local_model=local)
    hook = facts.metadata.get("hook_name")
    fallback = run.resolve().name
    return Subject(name or check_id(str(hook or fallback)), folder, files, facts)


def _sparsity(path: Path) -> np.ndarray:
    tensors = read_tensors(path)
    if "sparsity" not in tensors:
        raise ArtifactError(f"{path} holds {', '.join(tensors) or 'nothing'}, expected 'sparsity'")
    return tensors["sparsity"].float().numpy()


def probe_in(folder: Path, name: str | None) -> Subject:
    from graticule.probes.estimators.ridge import RidgeProbe

    paths = {n: path for n in PROBE_FILES if (path := own_file(folder, n)) is not None}
    probe = RidgeProbe.load(folder)
    files = {n: as_published(path) for n, path in paths.items()}
    return _probe_subject(probe, files, name or check_id(probe.hook_name or folder.resolve().name))


def _judged(content: Path | bytes) -> dict[str, Any]:
    """`verdict.json`. **Raises** `ArtifactError` if its verdict lacks what a card says."""
    judged = _json(content)
    verdict = judged.get("verdict")
    lacking = [name for name in VERDICT if name not in verdict] if isinstance(verdict, dict) else []
    if lacking or not isinstance(verdict, dict | None):
        where = content if isinstance(content, Path) else "verdict.json"
        raise ArtifactError(f"{where}: the verdict lacks {', '.join(lacking) or 'its words'}; judge again")
    return judged


def _probe_subject(probe: RidgeProbe, files: Mapping[str, Path | bytes], name: str) -> Subject:
    facts = ProbeFacts(
        manifest=_json(files["manifest.json"]),
        judged=_judged(files["verdict.json"]) if "verdict.json" in files else {},
        cosines=tuple(float(c) for c in probe.read_write_cosine),
        digest=digest(files["probe.safetensors"]),
    )
    return Subject(name, None, files, facts, probe)


def from_object(what: Any, wanted: str | None) -> Subject:
    """A probe, or the chosen one of findings with its verdict: the files that saving it would write."""
    from safetensors.torch import save

    from graticule.probes.estimators.pretrained import judged_by
    from graticule.probes.estimators.ridge import RidgeProbe
    from graticule.probes.findings import Findings

    probe = what.probe if isinstance(what, Findings) else what
    if not isinstance(probe, RidgeProbe):
        raise TypeError(
            f"cannot push a {type(what).__name__}: expected a folder, {{id: folder}}, a Run, a RidgeProbe or "
            "Findings; a SAE object is saved first, with save_inference_model"
        )
    manifest, arrays = probe.as_saved()
    words = {"manifest.json": manifest}
    if isinstance(what, Findings):
        words["verdict.json"] = judged_by(what)
    files: dict[str, Path | bytes] = {n: public_json(w, n) or json_bytes(w) for n, w in words.items()}
    files["probe.safetensors"] = save(arrays)
    return _probe_subject(probe, files, wanted or check_id(probe.hook_name or "probe"))


def _json(content: Path | bytes) -> dict[str, Any]:
    return read_json(content) if isinstance(content, Path) else cast("dict[str, Any]", json.loads(content))


def _last_line(path: Path) -> dict[str, float]:
    """The last line of a training history; nothing where it cannot be read: no reason not to push."""
    try:
        table = read_table(path)
    except ArtifactError:
        return {}
    if table.empty:
        return {}
    line: Any = table.iloc[-1].to_dict()
    return {str(k): float(v) for k, v in line.items() if isinstance(v, int | float)}
