"""What is pushed: the files of one SAE or probe under its id, from a folder, several, or an object."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from graticule.hooks.artifact import ArtifactError, read_json, read_table, read_tensors, sha256
from graticule.hub.cards.density import density_png
from graticule.hub.facts import ProbeFacts, SaeFacts, histogram, hub_dataset, is_path, look, shorten

if TYPE_CHECKING:
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

_ID = re.compile(r"[A-Za-z0-9_][\w.=+-]*(/[A-Za-z0-9_][\w.=+-]*)*")


@dataclass(frozen=True)
class Subject:
    """One SAE or probe, ready to be pushed."""

    id: str
    """Its folder in the repository: SAELens's `sae_id`."""
    folder: Path
    """Where it lies here: what SAELens, or `RidgeProbe.load`, reads."""
    files: Mapping[str, Path | bytes]
    """File name → where it lies, or its content."""
    facts: SaeFacts | ProbeFacts
    """What the card says of it."""

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


def gather(what: Pushed, scratch: Path, sae_id: str | None = None) -> list[Subject]:
    """The SAEs and probes in `what`; objects are written to `scratch` first.

    A folder is a SAELens folder, a run (with `sae/`), a probe, findings, or holds several of these.

    **Raises** `FileNotFoundError` if there is none, `ValueError` for an id that cannot be a folder of a
    repository, an `sae_id` for several, or a run that is not finished.
    """
    if isinstance(what, Mapping):
        if sae_id is not None:
            raise ValueError(f"sae_id={sae_id!r} for a mapping, whose keys are the ids: leave it out")
        found = [s for name, one in what.items() for s in _found(one, scratch, check_id(str(name)))]
    else:
        found = _found(what, scratch, None if sae_id is None else check_id(sae_id))
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
            f"sae_id={name!r}: expected letters, digits, '_', '-', '.', '=' and '+', '/' between folders, "
            "e.g. blocks.9.hook_resid_post"
        )
    return name


def _found(what: Any, scratch: Path, wanted: str | None) -> list[Subject]:
    if isinstance(what, str | Path):
        return _from_path(Path(what), scratch, wanted)
    folder = getattr(what, "path", None)  # a Run's
    if isinstance(folder, Path):
        return _from_path(folder, scratch, wanted)
    return [_saved(what, scratch, wanted)]


def _from_path(path: Path, scratch: Path, wanted: str | None) -> list[Subject]:
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is no folder: name a SAELens folder, a run, a probe, or findings")
    if (path / "findings.json").is_file():
        from graticule.probes.findings import Findings

        return [_saved(Findings.load(path), scratch, wanted)]
    if found := _one(path, wanted):
        return found
    inside = [p for p in sorted(path.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    several = [replace(s, id=check_id(p.name)) for p in inside for s in _one(p, None)]
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
    run = read_json(path / "run.json") if (path / "run.json").is_file() else {}
    if run.get("state", "complete") != "complete":
        raise ValueError(
            f"{path} is not finished (state {run['state']!r}): run the same training again, it goes on"
        )
    if (path / "sae" / "cfg.json").is_file():
        return [_sae(path / "sae", path, name)]
    if (path / "cfg.json").is_file():
        return [_sae(path, path, name)]
    if (path / "manifest.json").is_file() and read_json(path / "manifest.json").get("kind") == "ridge_probe":
        return [_probe(path, name)]
    return []


def _sae(folder: Path, run: Path, name: str | None) -> Subject:
    for needed in SAE_FILES[:2]:
        if not (folder / needed).is_file():
            raise FileNotFoundError(f"{folder / needed} is missing: {folder} is no whole SAELens folder")
    paths = {n: folder / n for n in SAE_FILES} | ({n: run / n for n in RUN_FILES} if run != folder else {})
    files: dict[str, Path | bytes] = {n: _published(p) for n, p in paths.items() if p.is_file()}
    held = {n: _json(content) for n, content in files.items() if n.endswith(".json")}
    density: tuple[tuple[float, int], ...] = ()
    if "sparsity.safetensors" in files:
        density = histogram(read_tensors(paths["sparsity.safetensors"])["sparsity"].float().numpy())
        files[DENSITY] = density_png(density)
    facts = SaeFacts(
        cfg=held["cfg.json"],
        runner=held.get("runner_cfg.json", {}),
        run=held.get("run.json", {}),
        evaluation=held.get("evaluation.json", {}),
        last=_last_line(paths["history.parquet"]) if "history.parquet" in files else {},
        density=density,
        digest=sha256(paths["sae_weights.safetensors"]),
    )
    local = is_path(look((read_json(folder / "cfg.json"),), ("model_name",)))
    facts = replace(facts, dataset=hub_dataset(facts.find("dataset_path")), local_model=local)
    hook = facts.metadata.get("hook_name")
    fallback = folder.parent.name if folder.name == "sae" else folder.resolve().name
    return Subject(name or check_id(str(hook or fallback)), folder, files, facts)


def _probe(folder: Path, name: str | None) -> Subject:
    from graticule.probes.estimators.ridge import RidgeProbe

    probe = RidgeProbe.load(folder)
    files: dict[str, Path | bytes] = {
        n: _published(folder / n) for n in PROBE_FILES if (folder / n).is_file()
    }
    facts = ProbeFacts(
        manifest=_json(files["manifest.json"]),
        judged=_json(files["verdict.json"]) if "verdict.json" in files else {},
        cosines=tuple(float(c) for c in probe.read_write_cosine),
        digest=sha256(folder / "probe.safetensors"),
    )
    return Subject(name or check_id(probe.hook_name or folder.resolve().name), folder, files, facts)


def _saved(what: Any, scratch: Path, wanted: str | None) -> Subject:
    """A probe or findings, saved under `scratch`."""
    from graticule.probes.estimators.pretrained import judged_by
    from graticule.probes.estimators.ridge import RidgeProbe
    from graticule.probes.findings import Findings

    scratch.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=scratch))
    if isinstance(what, Findings):
        what.probe.save_pretrained(folder, judged_by(what))
    elif isinstance(what, RidgeProbe):
        what.save_pretrained(folder)
    else:
        raise TypeError(
            f"cannot push a {type(what).__name__}: expected a folder, {{id: folder}}, a Run, a RidgeProbe or "
            "Findings; a SAE object is saved first, with save_inference_model"
        )
    return _probe(folder, wanted)


def _published(path: Path) -> Path | bytes:
    """The file itself, or its content where local paths had to be cut."""
    if path.suffix != ".json":
        return path
    held = read_json(path)
    public = shorten(held)
    return path if public == held else (json.dumps(public, indent=1) + "\n").encode()


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
