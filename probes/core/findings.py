"""What a sweep found: scores by layer, the chosen layer, directions, baselines and the verdict."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Int, Shaped

from graticule.hooks.artifact import (
    SCHEMA,
    as_damaged,
    is_as_sealed,
    json_ready,
    library_versions,
    read_json,
    sealed,
)
from graticule.hooks.calls import renamed_fields
from graticule.hooks.doors import ACTIVATIONS, BASELINES, door
from graticule.hooks.kinds import FolderKind
from graticule.hooks.names import place_of
from graticule.hooks.places import Place
from graticule.hooks.result import Part, captured_as
from graticule.hooks.rows import Rows
from graticule.hooks.saved import SavedResult
from graticule.probes.core.at_points import AtPoints
from graticule.probes.core.class_scores import ClassScores
from graticule.probes.core.confounding import Confounder
from graticule.probes.core.findings_display import (
    members_of_all,
    scores_by_layer,
    summary_lines,
    tables_of,
)
from graticule.probes.core.findings_figures import power_figures, rows_tested, target_figures
from graticule.probes.core.fit import Predictions, Problem
from graticule.probes.core.gates import Gates
from graticule.probes.core.inputs import SweepInputs
from graticule.probes.core.judge import judge_predictions
from graticule.probes.core.members import member_line
from graticule.probes.core.own_folder import take_inputs_beside
from graticule.probes.core.reread import (
    as_of_today,
    check_findings,
    saved_problem,
    score_alike,
    supposed_settings,
    sweep_inputs_of,
)
from graticule.probes.core.verdict import JudgeSettings, Verdict
from graticule.probes.linear.ridge import RidgeProbe
from graticule.probes.surface.baselines import Baselines

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from graticule.probes.core.inputs import Target

_log = logging.getLogger(__name__)

_AXIS = {"r2": "R²", "bits": "bits a row"}

KIND = "findings"
_BESIDE = "rivals"  # the name of 0.1
FINDINGS = FolderKind(
    KIND,
    "folder of findings",
    "findings.json",
    (
        *("activations", "baselines", "calibration", "report.html", "pages"),
        *("predictions.parquet", f"{_BESIDE}.safetensors", "point_predictions.safetensors"),
        *("arrays.safetensors", "probes"),
    ),
)
"""The folder of findings, and of what `probe` keeps beside them."""
_IN_FILES = {
    "probes",
    "predictions",
    "baseline_predictions",
    "point_predictions",
    "table_rows",
    "swept",
    "folder",
}


@renamed_fields(
    material="inputs", made_of="swept", rivals="baseline_predictions", with_material="with_inputs"
)
@dataclass(frozen=True)
class Findings(AtPoints, SavedResult):
    """The result of `graticule.sweep`.

    It is saved as `findings.json`, tables and arrays, and `probes/`, beside what `probe` and a page left.
    All of it takes the place of earlier findings of the same question at once; whatever is killed when, the
    earlier ones or these can be loaded.
    """

    KIND: ClassVar[str] = KIND
    MARK: ClassVar[str] = "findings.json"
    BESIDE: ClassVar[FolderKind | None] = FINDINGS
    REMEDY: ClassVar[str] = "run the sweep again"

    model: str
    """The model's name."""
    table: str
    """The table's name."""
    kind: str = field(metadata={"saved_as": "kind_of_target"})
    """`numeric`, `binary` or `categorical`."""
    target_names: tuple[str, ...]
    """One name per target; the classes for categories."""
    units: tuple[str | None, ...]
    """One unit per target."""
    classes: tuple[str, ...]
    """Class names; empty for numbers."""
    block_names: tuple[str, ...]
    """Columns of `predictions` that hold levels of the target."""
    split_note: str = field(metadata={"saved_as": "split"})
    """Where the split comes from, and its sizes."""
    layer_scores: tuple[Mapping[str, Any], ...] = field(metadata={"saved_as": "layers"})
    """A layer each, as in `findings.json`; `layers` is the same as a DataFrame."""
    chosen_point: str
    """The hook point that adds most to the baselines, out of fold on training rows (`choose_point`)."""
    baselines: Mapping[str, Mapping[str, Any]]
    """Baseline → `validation`, `alpha`, `point`, `test`; where the verdict is of all rows, `all_rows` holds
    its scores on these."""
    verdict: Verdict
    """At the chosen layer, on test rows."""
    checks: Mapping[str, Verdict]
    """The same judgement with something in the probe's place that knows nothing: it must find nothing."""
    probes: Mapping[str, RidgeProbe]
    """Hook name → the probe fitted there."""
    predictions: pd.DataFrame
    """One row per activation row: `source`, `text`, `split`, blocks, and `true_`, `pred_`, `surface_` for
    every target; where every row was tested `crossfit_`, what fits without the row say (in bits a
    probability)."""
    provenance: Mapping[str, Any]
    """Model, table, settings and versions."""
    baseline_predictions: Mapping[str, Predictions] = field(
        default_factory=dict[str, Predictions], repr=False, metadata={"saved_as": _BESIDE}
    )
    """Baseline → its predictions, out of fold on training rows and plain on test rows."""
    point_predictions: Mapping[str, Predictions] = field(default_factory=dict[str, Predictions], repr=False)
    """Hook name → its probe's predictions, out of fold on training rows and plain on test rows; empty for
    findings that were saved before they held them."""
    table_rows: Int[np.ndarray, " row"] | None = field(default=None, repr=False)
    """The row of the table, among those that it uses, of every line of `predictions`; None likewise."""
    settings: JudgeSettings | None = None
    """How they were judged; None for findings that graticule 0.1 saved."""
    gates: Gates | None = None
    """What keeps a verdict on these rows open, whatever predictor it is on; None likewise."""
    limit_of_detection: float | None = None
    """The smallest detectable gain (seen 80% of the time), once `calibrate` has measured it."""
    largest_gain_tried: float | None = None
    """The largest gain that `calibrate` tried."""
    class_scores: ClassScores | None = None
    """Of classes, the probe as a classifier on test rows; None for numbers, in R², and in older findings."""
    split_verdict: Verdict | None = None
    """On the one test part, where `verdict` is cross-fitted; None where the verdict itself is that."""
    retest: str | None = None
    """What `retest` says of other splits, in one line; None where it was not asked."""
    confounders: tuple[Confounder, ...] = ()
    """The table's confounders, and built-in ones that reach most of what the probe reaches by themselves."""
    residualised: Verdict | None = None
    """The verdict in R² on the target less what the table's confounders predict; None without any."""
    swept: SweepInputs | None = field(default=None, repr=False, compare=False, metadata={"saved": False})
    """The activations, table and baselines; not saved, see `with_inputs`."""
    folder: Place | None = field(default=None, repr=False, compare=False, metadata={"saved": False})
    """Where they were read from; `inputs` are taken from there, where `probe` left them."""

    @property
    def inputs(self) -> SweepInputs:
        """What these findings were made from.

        Raises:
            ValueError: If they were read from disk and not given it since.
        """
        why = take_inputs_beside(self)
        if self.swept is None:
            raise ValueError(
                f"these findings of {self.table!r} were loaded without their activations: call "
                "probe(model, table, out=folder) again, or give them, findings.with_inputs("
                f"load_saved(folder/activations), table, load_saved(folder/baselines)){why}"
            )
        return self.swept

    @door(activations=ACTIVATIONS, baselines=BASELINES)
    def with_inputs(
        self,
        activations: Rows,
        table: Target,
        baselines: Baselines | None = None,
        *,
        split: str | Shaped[np.ndarray, " row"] | None = None,
        cluster: str | Shaped[np.ndarray, " row"] | None = None,
        settings: JudgeSettings | None = None,
    ) -> Findings:
        """The same findings with what they were made from, to go on with after `load`.

        Args:
            activations: what was swept.
            table: the target, as `sweep` was given it.
            baselines: as `sweep` was given them.
            split: as `sweep` was given it.
            cluster: as `sweep` was given it.
            settings: how they were judged, for findings that do not say so themselves.

        Returns:
            Findings that judge exactly as those that `sweep` returned.

        Raises:
            ValueError: if rows, targets, split, clusters, baselines or points are others than theirs.
        """
        one = self if self.settings is not None else replace(self, settings=settings)
        return replace(one, swept=sweep_inputs_of(one, activations, table, baselines, split, cluster))

    @property
    def judged_by(self) -> JudgeSettings:
        """What the verdict was reached with; for findings that were saved without it, a warned guess."""
        return self.settings or supposed_settings(self)

    @property
    def verdict_in_r2(self) -> Verdict:
        """The verdict on the test part by R², for what is not measured in bits and goes on from that part."""
        if self.verdict.metric == "r2":
            return self.verdict_of_split
        return judge_predictions(
            self.problem,
            self.predictions_at(),
            self.baseline_predictions,
            replace(self.judged_by, score="r2", min_gain=None),
            model_baselines=[n for n, b in self.baselines.items() if b["point"] and n != "shuffled"],
        )

    @property
    def verdict_of_split(self) -> Verdict:
        """The verdict on the one test part, which other predictors of these rows are judged on."""
        return self.split_verdict or self.verdict

    @property
    def problem(self) -> Problem:
        """Targets, split and clusters of the rows; read from disk, as `predictions` has them."""
        return saved_problem(self) if self.swept is None else self.swept.problem

    def provenance_of(self, **settings: Any) -> dict[str, Any]:
        """Of an analysis that goes on from here: model and table, what was asked for, and versions."""
        activations: Mapping[str, Any] = self.provenance.get("activations", {})
        return {
            "model": activations.get("model", {"name": self.model}),
            "table": self.provenance.get("table", {"name": self.table}),
            **captured_as(self.provenance),
            "findings_point": self.chosen_point,
            "settings": settings,
            "versions": library_versions(),
        }

    # Looking -----------------------------------------------------------------------------------------
    @property
    def layers(self) -> pd.DataFrame:
        """One row per layer: `layer`, `point`, `depth`, `alpha`, `validation`, `validation_gain` (over the
        stacked baselines, out of fold), and its test scores."""
        return scores_by_layer(self)

    @property
    def title(self) -> str:
        """Model, table and target."""
        names = self.target_names if len(self.target_names) <= 3 else (*self.target_names[:2], "…")
        return f"{self.model} on {self.table}: {', '.join(names)}"

    @property
    def in_banner(self) -> int:
        """The verdict, and where the baselines are saturated, that it is no evidence."""
        return 1 + self.verdict.saturated

    def summary(self) -> str:
        """The verdict, where it was found, what it stands against, and the checks."""
        return "\n".join(summary_lines(self))

    def plot(self) -> Figure:
        """Score against depth, with the baselines."""
        from graticule.probes.plots import depth_figure

        metric, layers = self.verdict.metric, self.layers
        if metric == "bits":
            layers = layers.assign(validation=layers["validation_bits"], test_r2=layers["test_bits"])
        lines = {k: float(member_line(v)[metric]) for k, v in self.baselines.items() if k != "shuffled"}
        if every := members_of_all(self):
            lines["probe"] = self.verdict.score
        surface = (self.verdict if every else self.verdict_of_split).surface
        return depth_figure(layers, lines, self.chosen_point, surface, _AXIS[metric])

    def figures(self) -> dict[str, Figure]:
        """Score against depth; the map, time scatter or classes; the error by block."""
        across = "; the lines across (the probe's as well) are of all rows" if members_of_all(self) else ""
        depth = f"Score against depth: chosen on training rows, scored once on {rows_tested(self)}{across}"
        return {depth: self.plot(), **target_figures(self), **power_figures(self.verdict)}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Baselines, layers, and the rows that are most wrong."""
        return tables_of(self)

    def layout(self, figures: Sequence[str], tables: Sequence[str]) -> list[Part]:
        """Depth, the baselines behind it, the target's own figures, then the tables."""
        return self.figure_then_table(figures, tables)

    # Writing -----------------------------------------------------------------------------------------
    def to_json(self) -> dict[str, Any]:
        """`findings.json`."""
        names = {f.name: f.metadata.get("saved_as", f.name) for f in fields(self) if f.name not in _IN_FILES}
        values = {saved_as: getattr(self, name) for name, saved_as in names.items()}
        optional = ("split_verdict", "retest", "confounders", "residualised")
        values = {name: value for name, value in values.items() if value or name not in optional}
        calibrated = self.limit_of_detection is not None
        return json_ready({**values, "chosen_layer": self.chosen_layer, "calibrated": calibrated})

    def differs_from(self, before: Any) -> list[str]:
        """`name: before → now` for what two findings ask, and whether their activations hold other values."""
        then, now = ([str(s["point"]) for s in one.layer_scores] for one in (before, self))
        apart = super().differs_from(before)
        if then != now:
            apart.append(f"points: {', '.join(then)} → {', '.join(now)}")
        if not apart and before.settings == self.settings and not score_alike(self, before):
            apart.append("activations: other values, though nothing names them otherwise")
        return apart

    def _manifest(self, files: Mapping[str, str]) -> dict[str, Any]:
        """The fields beside the files, under the names of `to_json`, and all of it sealed."""
        manifest = {"kind": KIND, "schema": SCHEMA, "files": files, "points": list(self.probes)}
        return sealed({**manifest, **self.to_json()})

    @classmethod
    def load(cls, path: Place | str) -> Findings:
        """Read what `save` wrote; warns where it is not as it was written.

        Raises:
            ArtifactError: If the folder is missing, incomplete, damaged or of another kind or schema.
        """
        findings, whole = cls.load_with_seal(path)
        if not whole:
            _log.warning(
                "%s is not as it was written: its figures may be another's", place_of(path) / cls.MARK
            )
        return findings

    @classmethod
    def load_with_seal(cls, path: Place | str) -> tuple[Findings, bool]:
        """What `load` reads, and whether it is as it was written."""
        findings = super().load(path)
        return findings, is_as_sealed(read_json(place_of(path) / cls.MARK))

    @classmethod
    def _read(cls, path: Place, manifest: Mapping[str, Any]) -> Findings:
        with as_damaged(path / cls.MARK, cls.REMEDY):
            values = cls._in_files(path, manifest)
            values |= cls._in_json({"settings": None, "largest_gain_tried": None, "gates": None, **manifest})
            findings = cls(**as_of_today(values, path, manifest), folder=path)
            check_findings(findings)
        return findings
