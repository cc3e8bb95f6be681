"""What a page says of findings under the verdict: lines, the figures that fit the target, tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from graticule.hooks.alignment import BY_PLACE
from graticule.hooks.points import layer_of
from graticule.hooks.result import with_decimals
from graticule.probes.core.class_lines import reading
from graticule.probes.core.detection import detection
from graticule.probes.core.findings_figures import rows_shown, rows_tested, worst_rows
from graticule.probes.core.labels import BETTER_BY_LITTLE, NO_BETTER, NOT_DECIDED, STRUCTURE
from graticule.probes.core.members import ALL_ROWS, member_line
from graticule.probes.core.verdict import score_unit
from graticule.probes.scores.metrics import count_of, number_text, signed, with_interval
from graticule.probes.surface.joint import JOINT

if TYPE_CHECKING:
    from graticule.probes.core.findings import Findings


_TOLD = 0.01
"""What a member adds to a surface is told from here on."""
_CARRIES = 0.5
"""A member that says less than this share of what the strongest says carries nothing, whatever the stack
loses without it."""
_NEARLY_ALL = 0.9
"""A member that says this share of the surface alone says nearly all of it."""
ON_TRUST = "baselines_on_trust"
"""In the provenance where the activations say of no model, and baselines of a model stand against them."""
_CAPTION_LAYERS = "Every layer; test scores of layers that were not chosen are exploratory"
_CAPTION_BASELINES = "The baselines, each with its layer and strength chosen on training rows"
_CAPTION_CONFOUNDERS = "Confounders: by themselves, and the gain among rows alike in them"
_CAPTION_BALANCE = "Confounders by class: shares of the class's rows, means, or correlation with a number"


def count_of_test_rows(findings: Findings) -> str:
    """`16 test rows`."""
    return count_of(int((findings.predictions["split"] == "test").sum()), "test row")


def summary_lines(findings: Findings) -> list[str]:
    """The verdict, where it was found, what it stands against, and the checks."""
    lines_of_verdict = findings.verdict.summary().splitlines()  # the verdict is the first line everywhere
    first, rest = lines_of_verdict[: findings.in_banner], lines_of_verdict[findings.in_banner :]
    of_classes = reading(findings)
    lines = [
        *first,
        *part_of_table(findings),
        *(of_classes if findings.kind != "numeric" else ()),  # what a reader of labels asks first
        *rest,
        *carried(findings),
        *_confounders(findings),
        *_detection(findings),
        *([] if findings.retest is None else [findings.retest]),
        *_against_itself(findings),
        *_pairing(findings),
        *(of_classes if findings.kind == "numeric" else ()),
        _where(findings),
        *one_part(findings),
    ]
    why = count_of_test_rows(findings)
    for name, check in findings.checks.items():
        gain = check.gain_text(why)
        label = check.label
        if label.startswith(NOT_DECIDED):
            label = f"this check could not tell{label.removeprefix(NOT_DECIDED)}"
        lines.append(f"check, {name}: {label} (gain {gain})")
    if "shuffled" in findings.baselines:
        metric = findings.verdict.metric
        value = float(findings.baselines["shuffled"]["test"][metric])
        lines.append(f"check, shuffled targets: test {score_unit(metric)} {signed(value, why)}")
    return lines


def _where(findings: Findings) -> str:
    """The layer that stands for the findings, and of a verdict on all rows which ones its folds chose."""
    point, dealing = findings.chosen_point, findings.verdict.dealing
    name = point if findings.chosen_layer is None else f"layer {findings.chosen_layer}"
    if dealing is None:
        return f"at {name} ({point}), chosen on training rows; {findings.split_note}"
    point += "" if point in dealing.points else ", which no fold chose"
    return (
        f"each fold chose its own layer, {dealing.chosen}; the saved probe and what is drawn by layer are "
        f"{name}'s ({point}), chosen on the training rows of one held-out part; {findings.split_note}"
    )


def one_part(findings: Findings) -> list[str]:
    """The verdict on the one test part, which what goes on from here is judged on."""
    split = findings.split_verdict
    if split is None:
        return []
    gain = split.gain_text(count_of_test_rows(findings))
    return [
        f"for comparison, one held-out part alone: {split.label} (gain {gain}); the checks, the scores of "
        f"layers{'' if members_of_all(findings) else ' and of single baselines'}, and what goes on from here "
        "are of it"
    ]


def _detection(findings: Findings) -> list[str]:
    """The limit of detection and what an undecided gain would take."""
    limit, few = findings.limit_of_detection, count_of_test_rows(findings)
    return detection(findings.verdict, limit, findings.largest_gain_tried, few)


def carried(findings: Findings) -> list[str]:
    """Which member of the surface carries it: the one without which its test R² would fall most.

    Where it hardly falls without any, those that say nearly all of it alone. What the columns of all of them
    together add is told by itself.
    """
    scores = {name: member_line(line) for name, line in findings.baselines.items()}
    adds = {name: float(line["adds"]) for name, line in scores.items() if "adds" in line}
    joint = adds.pop(JOINT, 0.0)
    more = f"{JOINT}, the columns of all of them together, adds {number_text(joint)} {squares_unit(findings)}"
    return _carried_by(findings, scores, adds) + [more] * (joint >= _TOLD)


def _carried_by(
    findings: Findings, scores: Mapping[str, Mapping[str, float]], adds: Mapping[str, float]
) -> list[str]:
    name = max(adds, key=lambda one: adds[one], default="")
    if len(adds) < 2 or not (whole := scores[name]["without"] + adds[name]) > 0.01:
        return []
    alone = {one: float(scores[one]["r2"]) for one in adds}
    unit = squares_unit(findings)
    if adds[name] >= _TOLD and alone[name] >= _CARRIES * max(alone.values()):
        without = f"without it {number_text(float(scores[name]['without']))} {unit}"
        return [f"the surface is carried by {name} (alone {number_text(alone[name])}, {without})"]
    falls = f"without any one of them the surface falls by less than {number_text(_above(adds[name]))} {unit}"
    first = sorted(alone, key=lambda one: -alone[one])
    nearly = [one for one in first if alone[one] >= _NEARLY_ALL * whole]
    if len(nearly) < 2:
        return [
            f"no member carries the surface by itself, {first[0]} most ({number_text(alone[first[0]])}); "
            f"{falls}"
        ]
    each = ", ".join(f"{one} {number_text(alone[one])}" for one in nearly[:3])
    more = f" and {len(nearly) - 3} more" if len(nearly) > 3 else ""
    return [f"several members carry the surface, each alone nearly all of it: {each}{more}; {falls}"]


def members_of_all(findings: Findings) -> bool:
    """Whether the scores of members of the surface are of all rows, as the verdict is."""
    return any(ALL_ROWS in line for line in findings.baselines.values())


def squares_unit(findings: Findings) -> str:
    """What R² is called: of classes' 0 and 1 it is the Brier skill."""
    return "R²" if findings.verdict.metric == "r2" else "Brier skill"


def _above(value: float) -> float:
    """The next thousandth above a fall, which may be none."""
    return (np.floor(1000 * max(value, 0.0)) + 1) / 1000


def _confounders(findings: Findings) -> list[str]:
    """What is left of the gain among rows alike in a confounder, and of the target without them all."""
    unit, lines = score_unit(findings.verdict.metric), list[str]()
    declared = [line for line in findings.confounders if line.declared]
    part = "" if findings.verdict.dealing is None else "on the one held-out part, "
    names = ", ".join(line.name for line in declared)
    if declared:
        lines.append(f"{names}, or the concept? {_beside(findings.verdict.label)}")
    for line in declared:
        why = f"{count_of(line.rows, 'test row')} in levels of several"
        gain = with_interval(line.gain, (line.low, line.high), why)
        lines.append(
            f"{part}within {count_of(line.levels, 'level')} of {line.name}: gain {gain} {unit}; out of fold "
            f"{line.name} alone {number_text(line.alone)} {unit}, the probe {number_text(line.probe)}"
        )
    if (rest := findings.residualised) is not None:
        gain = with_interval(rest.gain, rest.ci95, count_of_test_rows(findings))
        say = f"predict{'s' * (len(declared) == 1)}"
        lines.append(f"{part}of the target less what {names} {say}, as numbers: gain {gain} R²")
    return lines


def _beside(label: str) -> str:
    """What a verdict answers of confounders that stand in the surface."""
    if label == STRUCTURE:
        return "the probe reads what none of these say, also among rows that are alike in them"
    if label == BETTER_BY_LITTLE:
        return "the probe reads hardly more than these and the other baselines say"
    if label == NO_BETTER:
        return "the probe reads no more than these and the other baselines say"
    return "these rows do not tell them apart"


def _against_itself(findings: Findings) -> list[str]:
    """A baseline that reads at the chosen point what the probe reads."""
    test = findings.predictions[findings.predictions["split"] == "test"]
    ours = test[[f"pred_{name}" for name in findings.target_names]].to_numpy(np.float64)
    return [
        f"the baseline {name} reads what the probe reads at {findings.chosen_point}: the gain is 0 by "
        "construction, since no later point was better on training rows"
        for name, one in findings.baseline_predictions.items()
        if one.test.shape == ours.shape
        and (np.abs(one.test - ours) <= 1e-6 * np.ptp(ours, axis=0)).all()
        and np.ptp(ours) > 0
    ]


def _pairing(findings: Findings) -> list[str]:
    lines: list[str] = []
    if findings.provenance.get("pairing") == BY_PLACE:
        lines.append(
            "rows were paired with the table by place: nothing says which texts the activations are of, "
            "and their order cannot be checked"
        )
    if findings.provenance.get(ON_TRUST):
        lines.append(
            "nothing says which model the activations are of: that the baselines are of it is on trust"
        )
    return lines


def part_of_table(findings: Findings) -> list[str]:
    """How many of the table's rows were used, where they were not all."""
    count, used = findings.provenance.get("table", {}).get("rows"), findings.predictions["source"].nunique()
    if count is None or used >= count:
        return []
    return [f"of {used} of the table's {count} rows alone: there are activations of no others"]


# Tables ---------------------------------------------------------------------------------------------
def layer_table(findings: Findings) -> pd.DataFrame:
    """Every layer's scores, those that are read first in front, the ridge strengths at the end."""
    layers = findings.layers.drop(columns=["point", "exploratory", "depth"])
    if layers["validation_gain"].isna().all():  # without baselines of the model, and in earlier findings
        layers = layers.drop(columns="validation_gain")
    of_bits = ["test_bits", "validation_bits"] if findings.verdict.metric == "bits" else []
    if len(findings.target_names) == 1:  # what the mean over one target says
        layers = layers.drop(columns=f"test_r2_{findings.target_names[0]}", errors="ignore")
    ends = ["alpha", "alpha_at_edge"]
    scores = ["test_r2", "validation"]
    first = ["layer", *of_bits, *(["validation_gain", *scores] if of_bits else [*scores, "validation_gain"])]
    columns = [c for c in layers.columns if c not in (*first, *ends)]
    return layers[[c for c in (*first, *columns, *ends) if c in layers]]


def scores_by_layer(findings: Findings) -> pd.DataFrame:
    """`Findings.layers`."""
    lines: list[dict[str, Any]] = []
    count = max((s["layer"] or 0 for s in findings.layer_scores), default=0) + 1
    for scores in findings.layer_scores:
        line = {k: v for k, v in scores.items() if k != "test"}
        gain = line.get("validation_gain")
        line["validation_gain"] = float("nan") if gain is None else gain
        line["depth"] = None if scores["layer"] is None else (scores["layer"] + 1) / count
        for name, value in scores["test"].items():
            key = f"test_{name}" if name in ("r2", "bits") else name
            if isinstance(value, Mapping):
                prefix = "test_r2" if name == "r2_by_target" else name
                line |= {f"{prefix}_{target}": v for target, v in value.items()}
            else:
                line[key] = value
        lines.append(line)
    return pd.DataFrame(lines)


def _in_bits(findings: Findings, line: Mapping[str, Any]) -> dict[str, float]:
    """Of a baseline, where the verdict is in bits."""
    if findings.verdict.metric != "bits":
        return {}
    return {"test bits": member_line(line)["bits"], "validation bits": line["validation_bits"]}


def _confounder_tables(findings: Findings) -> dict[str, pd.DataFrame]:
    """Caption → table, where there are confounders: the gain beside each, and how each is shared out."""
    if not findings.confounders:
        return {}
    unit = score_unit(findings.verdict.metric)
    within = f"gain within levels, {unit}"
    gains = [
        {
            "confounder": line.name,
            "in the surface": "yes" if line.declared else "no",
            f"alone, out of fold, {unit}": line.alone,
            f"the probe, {unit}": line.probe,
            within: line.gain,
            "low": line.low,
            "high": line.high,
            "levels": line.levels,
            "test rows": line.rows,
        }
        for line in findings.confounders
    ]
    balance = [
        {"confounder": line.name, "level": level, **by_class}
        for line in findings.confounders
        for level, by_class in line.balance.items()
    ]
    table = with_decimals(pd.DataFrame(gains), (within, "low", "high"))
    return {_CAPTION_CONFOUNDERS: table, _CAPTION_BALANCE: pd.DataFrame(balance)}


def tables_of(findings: Findings) -> dict[str, pd.DataFrame]:
    """Caption → table: baselines, the rows that are most wrong, layers."""
    from graticule.probes.plots.style import label

    unit = squares_unit(findings)
    rows = [
        {
            "baseline": label(name),
            **_in_bits(findings, line),
            f"test {unit}": member_line(line)["r2"],
            f"surface without it, {unit}": member_line(line).get("without"),
            f"validation {unit}": line["validation"],
            "layer": layer_of(line["point"]) if line["point"] else None,
            "alpha": line["alpha"],
        }
        for name, line in findings.baselines.items()
    ]
    worst, which = worst_rows(findings), rows_shown(findings)[1]
    part = "" if findings.verdict.dealing is None else f"; test scores are of {rows_tested(findings)}"
    of_members = part
    if members_of_all(findings):
        every = f"; test scores are of all {len(findings.predictions):,} rows, each by fits without it"
        of_members = f"{every}, but of shuffled targets of {count_of_test_rows(findings)}"
    return {
        f"{_CAPTION_BASELINES}{of_members}": pd.DataFrame(rows),
        **_confounder_tables(findings),
        **({f"Rows that the probe gets most wrong, of {which}": worst} if len(worst) else {}),
        f"{_CAPTION_LAYERS}{part}": layer_table(findings),
    }
