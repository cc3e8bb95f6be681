"""What a study found: the two verdicts, the smallest detectable gain, and one page per part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from graticule.hooks.artifact import (
    SCHEMA,
    ArtifactError,
    as_damaged,
    check_schema,
    json_ready,
    read_json,
    write_json,
)
from graticule.hooks.calls import renamed
from graticule.hooks.kinds import working_folder
from graticule.hooks.names import inside, place_of, user_path
from graticule.hooks.places import Place
from graticule.hooks.replacing import recover
from graticule.hooks.result import Part, Result, check_same_question
from graticule.hooks.saved import SavedResult
from graticule.probes.causes.causes import Causes
from graticule.probes.compare import holm_verdicts
from graticule.probes.core.findings import Findings
from graticule.probes.core.findings_display import count_of_test_rows
from graticule.probes.scores.metrics import with_interval
from graticule.results import load_result
from graticule.studies.steps import STEPS, STUDY

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_VERDICTS = "The two verdicts: what the activations hold, and what the model does with it"
_PARTS = "The parts of the study, a page each"
_TOGETHER = "Both verdicts' p-values, raw and Holm-adjusted for asking two questions"


@dataclass(frozen=True)
class Study(Result):
    """The result of `graticule.studies.running.study`."""

    findings: Findings
    """Of the first step."""
    results: Mapping[str, Mapping[str, SavedResult]]
    """Step → its results by name, in the order they were made."""
    failures: Mapping[str, str]
    """Step → why it has no results: not applicable, or its error."""

    @property
    def title(self) -> str:
        """Model, table and target."""
        return f"Study: {self.findings.title}"

    @property
    def failed(self) -> dict[str, str]:
        """The steps that ended in an error, apart from those that did not apply."""
        return {step: why for step, why in self.failures.items() if not why.startswith("not applicable")}

    def summary(self) -> str:
        """Both verdicts, the limit of detection, what the controls say, and which parts are missing."""
        verdict, *rest = self.findings.summary().splitlines()
        used, controls = self._first("causes"), self._first("controls")
        lines = [verdict, f"used by the model: {self._line(used) if used else 'not asked'}"]
        lines += [f"controls: {self._line(controls)}"] if controls else []
        lines += rest
        lines += [f"{step}: {why}" for step, why in self.failures.items()]
        return "\n".join(lines)

    def figures(self) -> dict[str, Figure]:
        """Score against depth, the controls, and the map or scatter of the target."""
        controls = self._first("controls")
        mine = self.findings.figures()
        first = next(iter(mine))
        return {first: mine.pop(first), **(controls.figures() if controls else {}), **mine}

    def tables(self) -> dict[str, pd.DataFrame]:
        """The two verdicts, the parts with their first lines, and the controls beside the probe."""
        controls = self._first("controls")
        return {
            _VERDICTS: self._verdicts(),
            _TOGETHER: self._together(),
            _PARTS: self._parts(),
            **(controls.tables() if controls else {}),
        }

    def layout(self, figures: Sequence[str], tables: Sequence[str]) -> list[Part]:
        """The verdicts, score against depth, the parts, the controls, then the other figures."""
        listed: list[Part] = [("table", caption) for caption in tables]
        drawn: list[Part] = [("figure", caption) for caption in figures]
        return [*listed[:2], drawn[0], *listed[2:], *drawn[1:]]

    def to_json(self) -> dict[str, Any]:
        """Findings and every part."""
        parts = {s: {n: r.to_json() for n, r in of.items()} for s, of in self.results.items()}
        findings = self.findings.to_json()
        return json_ready({"findings": findings, "parts": parts, "failures": self.failures,
                           "provenance": findings["provenance"]})  # fmt: skip

    def report(self, path: Path | str) -> Place:
        """The first page at `path`, and beside it one page per part; returns where the first is."""
        from graticule.report import write_page

        page = place_of(path)
        asked = {step.name: step.title for step in STEPS}
        back = {"The study": f"../{page.name}"}
        pages = {"The probe in full": "pages/probe.html"}
        write_page(self.findings, page.parent / "pages" / "probe.html", links=back)
        for step, results in self.results.items():
            name = step.upper() if step in ("mlp", "pca") else step.capitalize()
            pages[f"{name}: {asked.get(step, step)}"] = f"pages/{step}.html"
            listed = list(results.values())
            title = listed[0].title if len(listed) == 1 else f"{step}: {self.findings.title}"
            write_page(listed, page.parent / "pages" / f"{step}.html", title, links=back)
        return write_page(self, page, self.title, links=pages)

    @renamed("overwrite")
    def save(self, path: Path | str, *, overwrite: bool = False) -> Path:
        """Write `study.json`; the findings and every part are saved by their steps, beside it.

        Args:
            path: The folder.
            overwrite: Whether it may take the place of a study that asks something else.

        Returns:
            Where it is.

        Raises:
            FileExistsError: `path` holds something else, or a study that asks something else; or another
                process writes there.
        """
        index = {"kind": STUDY.kind, "schema": SCHEMA, "steps": list(self.results), **self.to_json()}
        with working_folder(path, STUDY, "saving a study into") as folder:
            check_same_question(folder, self, overwrite)
            write_json(folder / "study.json", index)
        return user_path(path)

    def differs_from(self, before: Any) -> list[str]:
        """`name: before → now` for what the two studies' findings ask."""
        return self.findings.differs_from(before.findings)

    @classmethod
    def load(cls, path: Path | str) -> Study:
        """Read a study's folder.

        Raises:
            ArtifactError: if it is no whole study.
        """
        path = user_path(path)
        index = read_json(path / "study.json")
        check_schema(index, STUDY.kind, path)
        with as_damaged(path / "study.json", "run the study again"):
            for step in index["steps"]:
                place = inside(path, step)
                recover(place)
                if not (place / "step.json").is_file():
                    raise ArtifactError(f"{path} lacks the results of the step {step!r}; run the study again")
            results = {step: read_step(path / step) for step in index["steps"]}
            failures = {str(step): str(why) for step, why in index["failures"].items()}
        return cls(Findings.load(path / "probe"), results, failures)

    def _first(self, step: str) -> SavedResult | None:
        return next(iter(self.results.get(step, {}).values()), None)

    @staticmethod
    def _line(result: Result) -> str:
        return result.summary().splitlines()[0]

    def _verdicts(self) -> pd.DataFrame:
        verdict, used = self.findings.verdict, self._first("causes")
        limit = self.findings.limit_of_detection
        seen = (
            "not measured" if limit is None else "none of those tried" if limit != limit else f"{limit:z.4f}"
        ) + (" bits" if verdict.metric == "bits" and limit else "")
        lines = [
            ("Held beyond the baselines?", verdict.label),
            (
                "Gain over the surface",
                with_interval(verdict.gain, verdict.ci95, count_of_test_rows(self.findings), 4)
                + (" bits a row" if verdict.metric == "bits" else ""),
            ),
            ("Smallest detectable gain", seen),
            ("Used by the model?", "not asked" if used is None else self._line(used)),
        ]
        return pd.DataFrame(lines, columns=["question", "answer"])

    def _together(self) -> pd.DataFrame:
        used = self._first("causes")
        asked: dict[str, Findings | float] = {"held beyond the baselines": self.findings}
        if isinstance(used, Causes) and used.effects["p_holm"].notna().any():
            asked["used by the model"] = used.p_used
        return holm_verdicts(asked).rename(columns={"name": "question", "p": "raw p", "holm": "Holm p"})[
            ["question", "raw p", "Holm p"]
        ]

    def _parts(self) -> pd.DataFrame:
        lines = [
            {"part": step if len(results) == 1 else f"{step}: {name}", "answer": self._line(result)}
            for step, results in self.results.items()
            for name, result in results.items()
        ]
        lines += [{"part": step, "answer": why} for step, why in self.failures.items()]
        return pd.DataFrame(lines, columns=["part", "answer"])


def read_step(folder: Path) -> dict[str, SavedResult]:
    """The saved results of a step, by name.

    Raises:
        ArtifactError: if they are not whole.
    """
    out: dict[str, SavedResult] = {}
    index = read_json(folder / "step.json")
    with as_damaged(folder / "step.json", "run the study again"):
        for name in index["results"]:
            result = load_result(inside(folder, name))
            if not isinstance(result, SavedResult):
                raise TypeError(f"{name} is no result of a step")
            out[name] = result
    return out
