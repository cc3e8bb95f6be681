"""What is pushed: the files of one SAE or probe under its id, from a folder, several, or an object."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from graticule.hooks.artifact import ArtifactError, read_json, read_table, read_tensors
from graticule.hub.cards.density import density_png
from graticule.hub.facts import ProbeFacts, SaeFacts, histogram, hub_dataset, look
from graticule.hub.outgoing import (
    as_published,
    digest,
    json_bytes,
    own_file,
    own_folders,
    own_tree,
    public_json,
)
from graticule.hub.private import is_path, without_secrets

if TYPE_CHECKING:
    import numpy as np

    from graticule.probes.estimators.ridge import RidgeProbe
    from graticule.probes.findings import Findings
    from graticule.saes import Run

    One = str | Path | Run | RidgeProbe | Findings
    Pushed = One | Mapping[str, One]

SAE_FILES = ("cfg.json", "sae_weights.safetensors", "sparsity.safetensors", "runner_cfg.json")
"""SAELens's own files; only the first two are needed."""
RUN_FILES = ("run.json", "evaluation.json", "history.parquet", "events.json")
"""What a graticule run has beside its `sae` folder."""
PROBE_FILES = ("manifest.json", "probe.safetensors", "verdict.json")
DENSITY = "density.png"
NAMES = frozenset((*SAE_FILES, *RUN_FILES, *PROBE_FILES, DENSITY))
"""All that a push may put into a folder: what it does not put there any more is deleted."""

_LONGEST = 200
"""Bytes of a folder's name."""
_ID = re.compile(r"[A-Za-z0-9_][\w.=+-]*(/[A-Za-z0-9_][\w.=+-]*)*")


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


def gather(what: Pushed, sae_id: str | None = None) -> list[Subject]:
    """The SAEs and probes in `what`; nothing is written.

    A folder is a SAELens folder, a run (with `sae/`), a probe, findings, or holds several of these. Of a
    folder only what lies in it is read: a link in it is refused.

    **Raises** `FileNotFoundError` if there is none, `ValueError` for an id that cannot be a folder of a
    repository, an `sae_id` for several, or a run that is not finished.
    """
    if isinstance(what, Mapping):
        if sae_id is not None:
            raise ValueError(f"sae_id={sae_id!r} for a mapping, whose keys are the ids: leave it out")
        found = [s for name, one in what.items() for s in _found(one, check_id(str(name)))]
    else:
        found = _found(what, None if sae_id is None else check_id(sae_id))
    ids = [subject.id for subject in found]
    if clash := sorted({i for i in ids if ids.count(i) > 1 or any(o.startswith(f"{i}/") for o in ids)}):
        raise ValueError(f"several would lie in {', '.join(clash)} of the repository: give each its own id")
    if not found:
        raise ValueError("nothing to push: the mapping is empty")
    return found


def check_id(name: str) -> str:
    """`name`, if it can be a folder of a repository.

    **Raises** `ValueError` otherwise.
    """
    if not _ID.fullmatch(name):
        raise ValueError(
            f"sae_id={without_secrets(name)!r}: expected letters, digits, '_', '-', '.', '=' and '+', '/' "
            "between folders, e.g. blocks.9.hook_resid_post"
        )
    if long := [part for part in name.split("/") if len(part.encode()) > _LONGEST]:
        raise ValueError(f"sae_id={name[:40]!r}…: {long[0][:20]!r}… is longer than {_LONGEST} bytes")
    if name.split("/")[0].casefold() == "readme.md":
        raise ValueError(f"sae_id={name!r}: README.md is the repository's card; choose another folder")
    return name


def _found(what: Any, wanted: str | None) -> list[Subject]:
    if isinstance(what, str | Path):
        return _from_path(Path(what), wanted)
    folder = getattr(what, "path", None)  # a Run's
    if isinstance(folder, Path):
        return _from_path(folder, wanted)
    return [_from_object(what, wanted)]


def _from_path(path: Path, wanted: str | None) -> list[Subject]:
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is no folder: name a SAELens folder, a run, a probe, or findings")
    if own_file(path, "findings.json") is not None:
        from graticule.probes.findings import Findings

        own_tree(path)
        return [_from_object(Findings.load(path), wanted)]
    if found := _one(path, wanted):
        return found
    several = [replace(s, id=check_id(p.name)) for p in own_folders(path) for s in _one(p, None)]
    if not several:
        raise FileNotFoundError(
            f"{path} holds neither a SAELens folder (cfg.json, sae_weights.safetensors), a run (sae/), a "
            "probe nor findings"
        )
    if wanted is not None:
        raise ValueError(f"sae_id={wanted!r}, but {path} holds {len(several)}: push one, or leave it out")
    return several


def _one(path: Path, name: str | None) -> list[Subject]:
    """The SAE or probe in `path`, in a list; an empty one if there is none."""
    state = read_json(told).get("state", "complete") if (told := own_file(path, "run.json")) else "complete"
    if state != "complete":
        raise ValueError(f"{path} is not finished (state {state!r}): run the same training again, it goes on")
    if own_file(path, "sae", "cfg.json") is not None:
        return [_sae(path, ("sae",), name)]
    if own_file(path, "cfg.json") is not None:
        return [_sae(path, (), name)]
    manifest = own_file(path, "manifest.json")
    if manifest is not None and read_json(manifest).get("kind") == "ridge_probe":
        return [_probe(path, name)]
    return []


def _sae(run: Path, below: tuple[str, ...], name: str | None) -> Subject:
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


def _probe(folder: Path, name: str | None) -> Subject:
    from graticule.probes.estimators.ridge import RidgeProbe

    paths = {n: path for n in PROBE_FILES if (path := own_file(folder, n)) is not None}
    probe = RidgeProbe.load(folder)
    files = {n: as_published(path) for n, path in paths.items()}
    return _probe_subject(probe, files, name or check_id(probe.hook_name or folder.resolve().name))


def _probe_subject(probe: RidgeProbe, files: Mapping[str, Path | bytes], name: str) -> Subject:
    facts = ProbeFacts(
        manifest=_json(files["manifest.json"]),
        judged=_json(files["verdict.json"]) if "verdict.json" in files else {},
        cosines=tuple(float(c) for c in probe.read_write_cosine),
        digest=digest(files["probe.safetensors"]),
    )
    return Subject(name, None, files, facts, probe)


def _from_object(what: Any, wanted: str | None) -> Subject:
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
