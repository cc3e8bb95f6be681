"""What is pushed: the SAEs and probes under a path, their files, and what a card says of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from graticule.hooks.artifact import ArtifactError, as_damaged, read_json, read_table, read_tensors
from graticule.hooks.model_view import official_name
from graticule.hooks.names import user_path
from graticule.hub.evaluation import density_png, histogram
from graticule.hub.outgoing import (
    digest,
    is_path,
    json_bytes,
    own_file,
    own_folders,
    own_tree,
    public_json,
    publishable,
)
from graticule.hub.remote import check_id

if TYPE_CHECKING:
    from graticule.probes.core.findings import Findings
    from graticule.probes.linear.ridge import RidgeProbe
    from graticule.saes import Run

    One = str | Path | Run | RidgeProbe | Findings
    Pushed = One | Mapping[str, One]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILE = re.compile(r"\.(txt|parquet|jsonl?|csv|arrow|gz|zst|safetensors|gguf)$", re.IGNORECASE)

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
class SaeFacts:
    """A SAE as its files describe it."""

    cfg: Mapping[str, Any]
    """`cfg.json`."""
    runner: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """SAELens's `runner_cfg.json`; empty without one."""
    run: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """`run.json` of a graticule run; empty without one."""
    evaluation: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """`evaluation.json`; empty if the SAE was not evaluated."""
    last: Mapping[str, float] = field(default_factory=dict[str, float])
    """The last line of the training history."""
    density: tuple[tuple[float, int], ...] = ()
    """Left edge in log10 of a latent's firing frequency, and how many latents lie in that bin."""
    digest: str = ""
    """SHA-256 of the weights file."""
    dataset: str | None = None
    """The training text's id on the Hub, if it is there."""
    local_model: bool = False
    """Whether the model was named by a local path, so that its name says nothing about the Hub."""
    base_model: str | None = None
    """The model's id on the Hub, if it is known."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """SAELens's metadata in `cfg.json`."""
        return cast("Mapping[str, Any]", self.cfg.get("metadata") or {})

    @property
    def tokens(self) -> Any:
        """How many tokens it was trained on: a run's own count before what was asked for; None if unknown."""
        trained = look((self.metadata,), ("graticule",)) or {}
        counted = look((self.run, trained.get("training") or {}), ("tokens", "training_tokens"))
        return counted or self.find("tokens", "training_tokens", "n_tokens", "total_training_samples")

    def find(self, *names: str) -> Any:
        """The first setting of one of these names, in the SAE's own files before the run's; else None."""
        return look((self.metadata, self.cfg, self.runner, self.run), names)


@dataclass(frozen=True)
class ProbeFacts:
    """A ridge probe as its manifest and its verdict describe it."""

    manifest: Mapping[str, Any]
    """`manifest.json`."""
    judged: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """`verdict.json`: model, table, verdict, baselines, limit of detection; empty if never judged."""
    cosines: tuple[float, ...] = ()
    """Between the read and the write direction, a target each."""
    digest: str = ""
    """SHA-256 of the tensors' file."""
    base_model: str | None = None
    """The model's id on the Hub, if it is known."""


def look(sources: Iterable[Mapping[str, Any]], names: Sequence[str]) -> Any:
    """The first value that is not None under one of `names`: each source's own level first, then below."""
    for source in sources:
        level: list[Mapping[str, Any]] = [source]
        while level:
            for settings in level:
                for name in names:
                    if settings.get(name) is not None:
                        return settings[name]
            below = [value for settings in level for value in settings.values()]
            level = [cast("Mapping[str, Any]", value) for value in below if isinstance(value, Mapping)]
    return None


def hub_dataset(name: Any) -> str | None:
    """`name` if it can be a dataset's id on the Hub (`owner/name`, no file), else None."""
    return name if isinstance(name, str) and _is_hub_id(name) and not user_path(name).exists() else None


def _is_hub_id(name: str) -> bool:
    return _HUB_ID.fullmatch(name) is not None and not _FILE.search(name)


def hub_model(name: Any) -> str | None:
    """The Hub's id of a model by TransformerLens's name for it; None if it is a local one."""
    if not isinstance(name, str) or not name or "://" in name or user_path(name).exists():
        return None
    return official_name(name) or (name if _is_hub_id(name) else None)


@dataclass(frozen=True)
class Upload:
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

    def of(self, base_model: str | None) -> Upload:
        """The same with the model's id on the Hub."""
        return replace(self, facts=replace(self.facts, base_model=base_model))


def sae_in(run: Path, below: tuple[str, ...], name: str | None) -> Upload:
    """The SAE in `run`, or in its folder `below`."""
    folder = run.joinpath(*below)
    paths = {n: own_file(run, *below, n) for n in SAE_FILES}
    paths |= {n: own_file(run, n) for n in RUN_FILES} if below else {}
    for needed in SAE_FILES[:2]:
        if paths[needed] is None:
            raise FileNotFoundError(f"{folder / needed} is missing: {folder} is no whole SAELens folder")
    files: dict[str, Path | bytes] = {n: publishable(p) for n, p in paths.items() if p is not None}
    read = {n: _json(content) for n, content in files.items() if n.endswith(".json")}
    density: tuple[tuple[float, int], ...] = ()
    if "sparsity.safetensors" in files:
        density = histogram(_sparsity(folder / "sparsity.safetensors"))
        files[DENSITY] = density_png(density)
    facts = SaeFacts(
        cfg=read["cfg.json"],
        runner=read.get("runner_cfg.json", {}),
        run=read.get("run.json", {}),
        evaluation=read.get("evaluation.json", {}),
        last=_last_line(run / "history.parquet") if "history.parquet" in files else {},
        density=density,
        digest=digest(files["sae_weights.safetensors"]),
    )
    local = is_path(look((read_json(folder / "cfg.json"),), ("model_name",)))
    facts = replace(facts, dataset=hub_dataset(facts.find("dataset_path")), local_model=local)
    hook = facts.metadata.get("hook_name") or run.resolve().name
    return Upload(name or check_id(str(hook)), folder, files, facts)


def _sparsity(path: Path) -> np.ndarray:
    tensors = read_tensors(path)
    if "sparsity" not in tensors:
        raise ArtifactError(f"{path} holds {', '.join(tensors) or 'nothing'}, expected 'sparsity'")
    return tensors["sparsity"].float().numpy()


def probe_in(folder: Path, name: str | None) -> Upload:
    from graticule.probes.linear.ridge import RidgeProbe

    paths = {n: path for n in PROBE_FILES if (path := own_file(folder, n)) is not None}
    probe = RidgeProbe.load(folder)
    files = {n: publishable(path) for n, path in paths.items()}
    return _probe_upload(probe, files, name or check_id(probe.hook_name or folder.resolve().name))


def _judged(content: Path | bytes) -> dict[str, Any]:
    """`verdict.json`.

    Raises:
        ArtifactError: if its verdict lacks what a card says.
    """
    judged = _json(content)
    verdict = judged.get("verdict")
    lacking = [name for name in VERDICT if name not in verdict] if isinstance(verdict, dict) else []
    if lacking or not isinstance(verdict, dict | None):
        where = content if isinstance(content, Path) else "verdict.json"
        raise ArtifactError(f"{where}: the verdict lacks {', '.join(lacking) or 'its words'}; judge again")
    return judged


def _probe_upload(probe: RidgeProbe, files: Mapping[str, Path | bytes], name: str) -> Upload:
    facts = ProbeFacts(
        manifest=_json(files["manifest.json"]),
        judged=_judged(files["verdict.json"]) if "verdict.json" in files else {},
        cosines=tuple(float(c) for c in probe.read_write_cosine),
        digest=digest(files["probe.safetensors"]),
    )
    return Upload(name, None, files, facts, probe)


def from_object(what: Any, wanted: str | None) -> Upload:
    """A probe, or the chosen one of findings with its verdict: the files that saving it would write."""
    from safetensors.torch import save

    from graticule.probes.core.findings import Findings
    from graticule.probes.linear.ridge import RidgeProbe, judged_by

    probe = what.probe if isinstance(what, Findings) else what
    if not isinstance(probe, RidgeProbe):
        raise TypeError(
            f"cannot push a {type(what).__name__}: expected a folder, {{id: folder}}, a Run, a RidgeProbe or "
            "Findings; a SAE object is saved first, with save_inference_model"
        )
    manifest, arrays = probe.as_saved()
    saved = {"manifest.json": manifest}
    if isinstance(what, Findings):
        saved["verdict.json"] = judged_by(what)
    files: dict[str, Path | bytes] = {n: public_json(v, n) or json_bytes(v) for n, v in saved.items()}
    files["probe.safetensors"] = save(arrays)
    return _probe_upload(probe, files, wanted or check_id(probe.hook_name or "probe"))


def _json(content: Path | bytes) -> dict[str, Any]:
    return read_json(content) if isinstance(content, Path) else cast("dict[str, Any]", json.loads(content))


def _last_line(path: Path) -> dict[str, float]:
    """The last line of a training history; nothing where it cannot be read: no reason not to push."""
    try:
        table = read_table(path)
    except ArtifactError:
        return {}
    line: Any = {} if table.empty else table.iloc[-1].to_dict()
    return {str(k): float(v) for k, v in line.items() if isinstance(v, int | float)}


def gather(what: Pushed, sae_id: str | None = None) -> list[Upload]:
    """The SAEs and probes in `what`; nothing is written.

    A folder is a SAELens folder, a run (with `sae/`), a probe, findings, or holds several of these. Of a
    folder only what lies in it is read: a link in it is refused.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: for an id that cannot be a folder of a repository, an `sae_id` for several, or a run that
            is not finished.
    """
    if isinstance(what, Mapping):
        if sae_id is not None:
            raise ValueError(f"sae_id={sae_id!r} for a mapping, whose keys are the ids: leave it out")
        uploads = [s for name, one in what.items() for s in _uploads(one, check_id(str(name)))]
    else:
        uploads = _uploads(what, None if sae_id is None else check_id(sae_id))
    ids = [upload.id for upload in uploads]
    if clash := sorted({i for i in ids if ids.count(i) > 1 or any(o.startswith(f"{i}/") for o in ids)}):
        raise ValueError(f"several would lie in {', '.join(clash)} of the repository: give each its own id")
    if not uploads:
        raise ValueError("nothing to push: the mapping is empty")
    return uploads


def _uploads(what: Any, wanted: str | None) -> list[Upload]:
    path = user_path(what) if isinstance(what, str | Path) else getattr(what, "path", None)  # a Run's
    if not isinstance(path, Path):
        return [from_object(what, wanted)]
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is no folder: name a SAELens folder, a run, a probe, or findings")
    if own_file(path, "findings.json") is not None:
        from graticule.probes.core.findings import Findings

        own_tree(path)
        with as_damaged(path, "write it again", also=()):
            return [from_object(Findings.load(path), wanted)]
    if single := _one(path, wanted):
        return single
    several = [replace(s, id=check_id(p.name)) for p in own_folders(path) for s in _one(p, None)]
    if not several:
        raise FileNotFoundError(
            f"{path} holds neither a SAELens folder (cfg.json, sae_weights.safetensors), a run (sae/), a "
            "probe nor findings"
        )
    if wanted is not None:
        raise ValueError(f"sae_id={wanted!r}, but {path} holds {len(several)}: push one, or leave it out")
    return several


def _one(path: Path, name: str | None) -> list[Upload]:
    """The SAE or probe in `path`, in a list; an empty one if there is none."""
    with as_damaged(path, "write it again", also=()):
        run = own_file(path, "run.json")
        state = "complete" if run is None else read_json(run).get("state", "complete")
        if state != "complete":
            raise ValueError(
                f"{path} is not finished (state {state!r}): run the same training again, it goes on"
            )
        if own_file(path, "sae", "cfg.json") is not None:
            return [sae_in(path, ("sae",), name)]
        if own_file(path, "cfg.json") is not None:
            return [sae_in(path, (), name)]
        manifest = own_file(path, "manifest.json")
        if manifest is not None and read_json(manifest).get("kind") == "ridge_probe":
            return [probe_in(path, name)]
    return []
