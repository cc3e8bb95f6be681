"""The part of a card that tells of one ridge probe: the verdict, its surface, its limit, its directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from graticule.hub.cards.markdown import code, is_number, number, python, table, text
from graticule.hub.facts import ProbeFacts
from graticule.hub.remote import MAIN


def summary(facts: ProbeFacts) -> str:
    """One line for the list of what a repository holds."""
    verdict = cast("Mapping[str, Any]", facts.judged.get("verdict") or {})
    judged = (
        f"; {text(verdict['words'])}, gain {number(verdict.get('gain'))} R²" if verdict else "; not judged"
    )
    return f"ridge probe of {_targets(facts)} at {_hook(facts)}{judged}"


def section(
    repo: str, probe_id: str, facts: ProbeFacts, revision: str = MAIN, licence: str | None = None
) -> str:
    """The probe's part of the card as Markdown, from its facts alone."""
    judged = facts.judged
    model = code(judged["model"]) if judged.get("model") else "a model that its folder does not name"
    if facts.base_model is not None:
        model = f"[{model}](https://huggingface.co/{facts.base_model})"
    on = f", fitted on {number(facts.manifest.get('n_rows'))} rows"
    on += f" of the table {code(judged['table'])}" if judged.get("table") else ""
    at = f', revision="{revision}"' if revision != MAIN else ""
    lines = [
        f"## {text(probe_id)}",
        "",
        f"A linear (ridge) probe that reads {_targets(facts)} from {_hook(facts)} of {model}{on}.",
        "",
        *python(
            "from graticule import RidgeProbe",
            f'probe = RidgeProbe.from_pretrained("{repo}", "{probe_id}"{at})',
            "predicted = probe.predict(activations)  # [row, d_model] to [row, target]",
        ),
        "",
        "### Verdict",
        "",
        *_verdict(facts),
        "",
        *_surface(facts),
        "### Directions",
        "",
        *_directions(facts),
        "",
        "### Citation",
        "",
        "- the method: Gurnee and Tegmark 2024, [Language Models Represent Space and Time]"
        "(https://arxiv.org/abs/2310.02207)",
        "",
        "### Provenance",
        "",
        *_provenance(facts, licence),
    ]
    return "\n".join(lines)


def _hook(facts: ProbeFacts) -> str:
    name = facts.manifest.get("hook_name")
    return code(name) if name else "a hook point that its manifest does not name"


def _targets(facts: ProbeFacts) -> str:
    names = list(facts.manifest.get("target_names") or [])
    units = [*(facts.manifest.get("units") or []), *([None] * len(names))]
    shown = [text(f"{n} ({u})" if u else n) for n, u in zip(names, units, strict=False)]
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")


def _verdict(facts: ProbeFacts) -> list[str]:
    verdict = cast("Mapping[str, Any]", facts.judged.get("verdict") or {})
    if not verdict:
        return [
            "Not judged: nothing says whether it reads more than the text itself gives away. `graticule."
            "probe` gives a verdict."
        ]
    low, high = verdict["ci95"]
    rows = [
        ("the probe alone", number(verdict["score"]), "R² on test rows"),
        ("the surface", number(verdict["surface"]), "all baselines stacked: what the text gives away"),
        (
            "gain",
            f"{number(verdict['gain'])} [{number(low)}, {number(high)}]",
            "what the probe adds to the surface, with a 95% interval over clusters of dependent rows",
        ),
        ("smallest gain called structure", number(verdict["min_gain"]), ""),
        ("limit of detection", *_limit(facts)),
        ("clusters of test rows", number(verdict["clusters"]), ""),
    ]
    warned = [f"- warning: {text(w)}" for w in verdict.get("warnings") or []]
    return [
        f"**{text(verdict['words'])}**",
        "",
        *table(("figure", "value", "what it is"), rows),
        *(["", *warned] if warned else []),
    ]


def _limit(facts: ProbeFacts) -> tuple[str, str]:
    limit = facts.judged.get("limit_of_detection")
    if is_number(limit):
        return number(limit), "a true gain of this size would have been seen 80% of the time"
    if facts.judged.get("calibrated"):
        return "beyond what was tried", "no gain tried would have been seen 80% of the time"
    return "not measured", "`graticule.calibrate` measures it"


def _surface(facts: ProbeFacts) -> list[str]:
    baselines = cast("Mapping[str, Mapping[str, Any]]", facts.judged.get("baselines") or {})
    rows = [
        (
            text(name.replace("_", " ")),
            code(line["point"]) if line.get("point") else "",
            number(line["test"]["r2"]),
        )
        for name, line in baselines.items()
    ]
    return ["### The surface", "", *table(("baseline", "at", "test R²"), rows), ""] if rows else []


def _directions(facts: ProbeFacts) -> list[str]:
    names = list(facts.manifest.get("target_names") or [])
    pairs = list(zip(names, facts.cosines, strict=False))
    return [
        "`probe.read_direction` reads the concept out, `probe.write_direction` is how the model writes it: "
        "steer with the second.",
        "",
        *table(("target", "cosine between the two"), [(text(n), number(round(c, 3))) for n, c in pairs[:20]]),
    ]


def _provenance(facts: ProbeFacts, licence: str | None) -> list[str]:
    versions = cast("Mapping[str, Any]", facts.manifest.get("versions") or {})
    lines = [
        f"- licence: {text(licence or 'none was given; ask before you use it for more than reading')}",
        f"- SHA-256 of `probe.safetensors`: {code(facts.digest)}",
    ]
    if facts.judged.get("split"):
        lines.append(f"- rows: {text(facts.judged['split'])}")
    if versions:
        lines.append(f"- made with {', '.join(text(f'{k} {v}') for k, v in versions.items())}")
    return lines
