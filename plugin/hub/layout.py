"""What is pushed: the SAEs and probes under a path, in a mapping or an object, each under its id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graticule.hooks.artifact import as_damaged, read_json
from graticule.hooks.names import user_path
from graticule.hub.checks import check_id
from graticule.hub.outgoing import own_file, own_folders, own_tree
from graticule.hub.subject import Subject, from_object, probe_in, sae_in

if TYPE_CHECKING:
    from graticule.probes.estimators.ridge import RidgeProbe
    from graticule.probes.findings import Findings
    from graticule.saes import Run

    One = str | Path | Run | RidgeProbe | Findings
    Pushed = One | Mapping[str, One]


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


def _found(what: Any, wanted: str | None) -> list[Subject]:
    if isinstance(what, str | Path):
        return _from_path(user_path(what), wanted)
    folder = getattr(what, "path", None)  # a Run's
    if isinstance(folder, Path):
        return _from_path(folder, wanted)
    return [from_object(what, wanted)]


def _from_path(path: Path, wanted: str | None) -> list[Subject]:
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is no folder: name a SAELens folder, a run, a probe, or findings")
    if own_file(path, "findings.json") is not None:
        from graticule.probes.findings import Findings

        own_tree(path)
        with as_damaged(path, "write it again", also=()):
            return [from_object(Findings.load(path), wanted)]
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
    with as_damaged(path, "write it again", also=()):
        return _either(path, name)


def _either(path: Path, name: str | None) -> list[Subject]:
    state = read_json(told).get("state", "complete") if (told := own_file(path, "run.json")) else "complete"
    if state != "complete":
        raise ValueError(f"{path} is not finished (state {state!r}): run the same training again, it goes on")
    if own_file(path, "sae", "cfg.json") is not None:
        return [sae_in(path, ("sae",), name)]
    if own_file(path, "cfg.json") is not None:
        return [sae_in(path, (), name)]
    manifest = own_file(path, "manifest.json")
    if manifest is not None and read_json(manifest).get("kind") == "ridge_probe":
        return [probe_in(path, name)]
    return []
