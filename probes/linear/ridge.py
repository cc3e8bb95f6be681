"""`RidgeProbe`: a linear probe as an object that predicts, gives its two directions, and is saved.

The solvers are in `graticule.probes.linear.ridge_cv`. A probe has two directions and no single one:

- `read_direction`, the ridge weights: how to read the concept out of an activation;
- `write_direction`, the regression of the activations on the target: how the model writes the concept.

They differ wherever the activations' other causes are correlated with the concept's (Haufe et al. 2014);
on language models their cosine is often near .1. Steer with the second, read with the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from graticule.hooks.artifact import (
    SCHEMA,
    ArtifactError,
    as_damaged,
    check_schema,
    json_ready,
    library_versions,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)
from graticule.hooks.calls import renamed
from graticule.hooks.kinds import write_folder
from graticule.hooks.limits import LIMITS, LimitError
from graticule.hooks.names import place_of
from graticule.hooks.places import Place
from graticule.probes.linear.edits import AffineEdit, EditOp, EditPos, Erases, HookFn, ridge_edit
from graticule.probes.linear.ridge_cv import RidgeFit, RidgeWeights, ridge_cv
from graticule.probes.linear.rows import as_targets

if TYPE_CHECKING:
    from graticule.probes.core.findings import Findings

_KIND = "ridge_probe"
_ARRAYS = ("alpha_by_target", "coef", "intercept", "write", "x_mean", "y_mean", "y_scale")


def cosines(
    a: Float[np.ndarray, "width target"], b: Float[np.ndarray, "width target"]
) -> Float[np.ndarray, " target"]:
    """Cosine of each column of `a` with the same column of `b`; NaN where one of them is zero."""
    norms = np.linalg.norm(a, axis=0) * np.linalg.norm(b, axis=0)
    return np.divide((a * b).sum(axis=0), norms, out=np.full(norms.shape, np.nan), where=norms > 0)


class RidgeProbe:
    """A ridge probe at one hook point (Gurnee & Tegmark 2023, section 3).

    Args:
        hook_name: Where the activations come from.
        target_names: One for each column of `y`.
        units: One for each, or none.
        alphas: The grid of strengths; by default relative to the data's scale.
    """

    def __init__(
        self,
        hook_name: str | None = None,
        target_names: Sequence[str] = (),
        units: Sequence[str | None] = (),
        alphas: Shaped[np.ndarray, ...] | Sequence[float] | None = None,
    ) -> None:
        self.hook_name = hook_name
        self.target_names = tuple(map(str, target_names))
        self.units = tuple(units)
        self.alphas = alphas
        self._weights: RidgeWeights | None = None
        self._selection: dict[str, Any] = {}
        if self.units and len(self.units) != len(self.target_names):
            raise ValueError(
                f"units {self.units} for target_names {self.target_names}: give one each, or none"
            )

    def fit(
        self,
        X: Shaped[np.ndarray, ...] | Shaped[Tensor, ...],
        y: Shaped[np.ndarray, ...] | Shaped[Tensor, ...],
        clusters: Shaped[np.ndarray, ...] | None = None,
    ) -> RidgeProbe:
        """Fit on training rows `X` `[row, width]`, `y` `[row]` or `[row, target]`; see `ridge_cv`."""
        return self._take(ridge_cv(X, y, alphas=self.alphas, clusters=clusters, names=self.target_names))

    @classmethod
    def from_fit(
        cls,
        fit: RidgeWeights,
        hook_name: str | None = None,
        target_names: Sequence[str] = (),
        units: Sequence[str | None] = (),
    ) -> RidgeProbe:
        """A probe from what `ridge_cv`, `ridge_cv_stream` or `ridge_fit` returned."""
        return cls(hook_name, target_names, units)._take(fit)

    def _take(self, fit: RidgeWeights) -> RidgeProbe:
        n_targets = fit.coef.shape[1]
        if self.target_names and len(self.target_names) != n_targets:
            raise ValueError(f"target_names {self.target_names} for {n_targets} targets: give one each")
        self.target_names = self.target_names or tuple(f"target {i}" for i in range(n_targets))
        self.units = self.units or (None,) * n_targets
        # The out-of-fold predictions stay with the fit: a probe is as large as its directions, not its rows.
        self._weights = RidgeWeights(**{name: getattr(fit, name) for name in (*_ARRAYS, "n_rows")})
        self._selection = {}
        if isinstance(fit, RidgeFit):
            self.alphas = fit.alphas
            self._selection = {
                "alphas": fit.alphas.tolist(),
                "validation": fit.validation.tolist(),
                "score": fit.score,
                "alpha_at_edge": fit.alpha_at_edge,
                "scheme": fit.scheme,
            }
        return self

    @property
    def weights(self) -> RidgeWeights:
        """The fitted ridge; raises `ValueError` before `fit`."""
        if self._weights is None:
            raise ValueError(
                f"this probe ({self.hook_name or 'no hook name'}) is not fitted: call fit(X, y) first"
            )
        return self._weights

    @property
    def alpha(self) -> float:
        """Chosen strength, on sklearn's scale."""
        return self.weights.alpha

    @property
    def coef(self) -> Float[np.ndarray, "width target"]:
        """Ridge weights, target units per activation unit."""
        return self.weights.coef

    @property
    def intercept(self) -> Float[np.ndarray, " target"]:
        """Intercept, target units."""
        return self.weights.intercept

    @property
    def read_direction(self) -> Float[np.ndarray, "width target"]:
        """Ridge weights in activation units: how to *read* the concept. Not the way the model writes it."""
        return self.weights.coef

    @property
    def write_direction(self) -> Float[np.ndarray, "width target"]:
        """How the model *writes* the concept: activation units per target unit, the other targets held fixed.

        Least squares of the activations on all targets jointly; with one target Cov(x, y) / Var(y), the
        pattern of Haufe et al. (2014).
        """
        return self.weights.write

    @property
    def read_write_cosine(self) -> Float[np.ndarray, " target"]:
        """Cosine between the two directions of each target."""
        return cosines(self.read_direction, self.write_direction)

    @property
    def selection(self) -> dict[str, Any]:
        """How the strength was chosen (`alphas`, `validation`, `score`, `alpha_at_edge`, `scheme`)."""
        return dict(self._selection)

    def predict(self, X: Shaped[np.ndarray, ...] | Shaped[Tensor, ...]) -> Float[np.ndarray, "row target"]:
        """Predictions in target units; raises `ValueError` if not fitted or of another width."""
        return self.weights.predict(X)

    def score(
        self,
        X: Shaped[np.ndarray, ...] | Shaped[Tensor, ...],
        y: Shaped[np.ndarray, ...] | Shaped[Tensor, ...],
    ) -> float:
        """R² on these rows, mean over targets; raises `ValueError` as `ridge_cv` does for its `y`."""
        predicted = self.predict(X)
        truth = as_targets(y, len(predicted), self.target_names)
        errors = truth.standard - (predicted - truth.mean) / truth.scale
        return float(1.0 - (errors**2).mean())

    def edit(
        self,
        op: EditOp,
        scale: float = 1.0,
        *,
        target: int | str | None = None,
        sd: Shaped[np.ndarray, ...] | Sequence[float] | None = None,
        eraser: Erases | None = None,
    ) -> AffineEdit:
        """The edit behind `fwd_hooks`, as a function of arrays (`edit.apply(X)`)."""
        if not LIMITS["scale_of_edit"].takes(scale):
            raise LimitError("scale", scale, "a finite number of standard deviations, or of target units")
        return ridge_edit(self.weights, self.target_names, op, scale, target=target, sd=sd, eraser=eraser)

    def fwd_hooks(
        self,
        op: EditOp,
        scale: float = 1.0,
        pos: EditPos = None,
        *,
        target: int | str | None = None,
        sd: Shaped[np.ndarray, ...] | Sequence[float] | None = None,
        eraser: Erases | None = None,
    ) -> list[tuple[str, HookFn]]:
        """TransformerLens `(hook_name, fn)` pairs, for `run_with_hooks(…, fwd_hooks=…)` and `model.hooks`.

        All but "ablate" move activations within the span of the **write** directions, by as much as the
        **read** directions say: with D = write·(readᵀ write)⁻¹, a displacement D·r changes the readings
        (`predict`) by exactly r target units, and the readings of targets that are not named by nothing. Its
        norm is |D·r|, in activation units (`edit("add", scale).shift` is the vector itself).

        Args:
            op: "add" or "steer" moves the reading by `scale` standard deviations; "clamp" sets it to `scale`
                target units; "erase" sets it to the training mean (or applies `eraser`); "ablate" sets the
                component along the unit write direction to its training mean, whatever is read.
            scale: How much.
            pos: None for all tokens, an index, a slice, one position a row, several a row, a boolean mask.
            target: A name or column; None is all targets at once.
            sd: Of every target's reading; by default the target's own over the training rows.
            eraser: A LEACE `Eraser`.

        Raises:
            ValueError: An unknown op, a probe without hook name or not fitted.
            KeyError: An unknown target.
        """
        if self.hook_name is None:
            raise ValueError("this probe has no hook_name: set probe.hook_name to where its rows come from")
        return [(self.hook_name, self.edit(op, scale, target=target, sd=sd, eraser=eraser).hook(pos))]

    def as_saved(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What a saved probe holds: its manifest and its arrays (float64)."""
        weights = self.weights
        arrays = {name: torch.from_numpy(np.ascontiguousarray(getattr(weights, name))) for name in _ARRAYS}
        manifest = {
            "schema": SCHEMA,
            "kind": _KIND,
            "hook_name": self.hook_name,
            "target_names": self.target_names,
            "units": self.units,
            "n_rows": weights.n_rows,
            "selection": self._selection,
            "versions": library_versions(),
        }
        return manifest, arrays

    @renamed("overwrite")
    def save(self, path: Place | str, *, overwrite: bool = False) -> Place:
        """Write the probe as a folder: `manifest.json` and `probe.safetensors`; returns where it is."""
        manifest, arrays = self.as_saved()
        with write_folder(path, overwrite, kind=_KIND) as folder:
            write_tensors(folder / "probe.safetensors", arrays)
            write_json(folder / "manifest.json", manifest)
        return place_of(path)

    @classmethod
    def load(cls, path: Place | str) -> RidgeProbe:
        """Read a probe that `save` wrote; raises `ArtifactError` if missing, damaged or no probe."""
        folder = place_of(path)
        manifest = read_json(folder / "manifest.json")
        check_schema(manifest, _KIND, folder)
        tensors = read_tensors(folder / "probe.safetensors")
        if missing := [name for name in _ARRAYS if name not in tensors]:
            raise ArtifactError(
                f"{folder / 'probe.safetensors'} lacks {', '.join(missing)}; write the probe again"
            )
        arrays = {name: tensors[name].numpy() for name in _ARRAYS}
        with as_damaged(folder / "manifest.json", "write the probe again"):
            selection: dict[str, Any] = manifest["selection"]
            probe = cls(
                manifest["hook_name"], manifest["target_names"], manifest["units"], selection.get("alphas")
            )
            probe._take(RidgeWeights(**arrays, n_rows=manifest["n_rows"]))
            probe._selection = selection
            return probe

    def save_pretrained(self, path: Path | str, judged: Mapping[str, Any] | None = None) -> None:
        """Write the probe as a folder for the Hub, in place of an earlier probe there.

        Args:
            path: The folder, or its url.
            judged: What `judged_by` says; written beside the probe as `verdict.json`, for the card.

        Raises:
            FileExistsError: `path` holds something other than a probe.
            ValueError: Before `fit`.
        """
        folder = place_of(path)
        self.save(folder, overwrite=True)
        if judged is not None:
            write_json(folder / "verdict.json", judged)

    @classmethod
    def from_pretrained(
        cls, name_or_path: Path | str, probe_id: str | None = None, revision: str | None = None
    ) -> RidgeProbe:
        """A probe from a local folder, or from a repository on the Hub.

        Args:
            name_or_path: A folder, its url, or `owner/name`.
            probe_id: The probe's folder in the repository (its card names it).
            revision: A branch, tag or commit.

        Raises:
            ArtifactError: There is no whole probe; and what `hf_hub_download` raises if the repository cannot
                be reached or read.
        """
        local = place_of(name_or_path)
        if local.is_dir():
            return cls.load(local / probe_id if probe_id else local)
        repo = str(name_or_path)
        if repo.count("/") != 1 or repo.startswith(("/", ".", "~")):
            raise ArtifactError(f"{repo} is neither a folder here nor a repository's name (owner/name)")
        from huggingface_hub import hf_hub_download

        folder = f"{probe_id}/" if probe_id else ""
        files = ("manifest.json", "probe.safetensors")
        paths = [hf_hub_download(repo, f"{folder}{name}", revision=revision) for name in files]
        return cls.load(Path(paths[0]).parent)


def judged_by(findings: Findings) -> dict[str, Any]:
    """What findings say about their chosen probe, in JSON's own types: verdict, baselines, split and the
    smallest detectable gain, seen 80% of the time (`limit_of_detection`, None before `calibrate`)."""
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
