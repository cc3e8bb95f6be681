"""A ridge probe as a folder that can be published: saved with what judged it, loaded from disk or the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graticule.hooks.artifact import ArtifactError, json_ready, write_json
from graticule.hooks.names import user_path

if TYPE_CHECKING:
    from graticule.probes.core.findings import Findings
    from graticule.probes.linear.ridge import RidgeProbe

FILES = ("manifest.json", "probe.safetensors")
VERDICT = "verdict.json"


def judged_by(findings: Findings) -> dict[str, Any]:
    """What findings say about their chosen probe, in JSON's own types: verdict, baselines, split and the gain
    that would have been seen 80% of the time (`limit_of_detection`, None before `calibrate`)."""
    chosen = next(line for line in findings.layer_scores if line["point"] == findings.chosen_point)
    return json_ready(
        {
            "model": findings.model,
            "table": findings.table,
            "kind_of_target": findings.kind,
            "target_names": findings.target_names,
            "units": findings.units,
            "chosen_point": findings.chosen_point,
            "scores": chosen,
            "split": findings.split_note,
            "verdict": findings.verdict,
            "baselines": findings.baselines,
            "checks": findings.checks,
            "calibrated": findings.limit_of_detection is not None,
            "limit_of_detection": findings.limit_of_detection,
            "provenance": findings.provenance,
        }
    )


def save_pretrained(probe: RidgeProbe, path: Path | str, judged: Mapping[str, Any] | None = None) -> None:
    """Write `probe` as a folder for the Hub, in place of an earlier probe there.

    `judged` (from `judged_by`) is written beside it as `verdict.json`, for the card.

    **Raises** `FileExistsError` if `path` holds something other than a probe; `ValueError` before `fit`.
    """
    path = user_path(path)
    probe.save(path, overwrite=True)
    if judged is not None:
        write_json(path / VERDICT, judged)


def from_pretrained(
    kind: type[RidgeProbe], name_or_path: Path | str, probe_id: str | None = None, revision: str | None = None
) -> RidgeProbe:
    """A probe from a local folder, or from a repository on the Hub.

    **Arguments:** `probe_id` is the probe's folder in the repository (its card names it), `revision` a
    branch, tag or commit.

    **Raises** `ArtifactError` if there is no whole probe; what `hf_hub_download` raises if the repository
    cannot be reached or read.
    """
    local = user_path(name_or_path)
    if local.is_dir():
        return kind.load(local / (probe_id or ""))
    repo = str(name_or_path)
    if repo.count("/") != 1 or repo.startswith(("/", ".", "~")):
        raise ArtifactError(f"{repo} is neither a folder here nor a repository's name (owner/name)")
    from huggingface_hub import hf_hub_download

    folder = f"{probe_id}/" if probe_id else ""
    files = [hf_hub_download(repo, f"{folder}{name}", revision=revision) for name in FILES]
    return kind.load(Path(files[0]).parent)
