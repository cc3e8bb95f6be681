"""The model card, a pure function of what is pushed and of the card that is there.

A repository holds several SAEs and probes, pushed one after another: each has its own part between two marks,
and what people wrote outside of the marks stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graticule.hooks.artifact import as_damaged
from graticule.hooks.messages import visible
from graticule.hub import markdown
from graticule.hub.evaluation import EVALUATION, defined_figures
from graticule.hub.markdown import code, is_number, table
from graticule.hub.remote import MAIN, check_licence
from graticule.hub.sections import probe_section, probe_summary, sae_section, sae_summary
from graticule.hub.uploads import ProbeFacts, SaeFacts, Upload

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

TAGS = ("sparse-autoencoder", "linear-probe", "mechanistic-interpretability", "graticule")
_PART = re.compile(
    r"^<!-- graticule:begin (?P<id>\S+) \| (?P<line>[^\n]*) -->\n.*?^<!-- graticule:end (?P=id) -->(?:\n|\Z)",
    re.DOTALL | re.MULTILINE,
)
_LIST = re.compile(
    r"^<!-- graticule:list -->\n.*?^<!-- graticule:end-list -->(?:\n|\Z)", re.DOTALL | re.MULTILINE
)


def card(
    repo: str,
    uploads: Sequence[Upload],
    *,
    licence: str | None = None,
    revision: str = MAIN,
    existing: str | None = None,
) -> str:
    """`README.md` for `repo` once it holds `uploads`: front matter, the list, a part each.

    `existing` is the card that is there: parts of other ids and everything outside the marks are kept, and
    the front matter is added to.

    Raises:
        ValueError: for a licence that is no Hub identifier, or front matter that cannot be read.
    """
    from huggingface_hub import ModelCard

    old = _parsed(existing)
    front = _front(repo, uploads, licence, old.data if old is not None else None)
    text = old.text if old is not None else f"\n# {markdown.text(repo.split('/')[1])}\n\n"
    stated_licence = str(front.license) if front.license else None
    for upload in uploads:
        with as_damaged(upload.id, "write it again", also=()):
            line, part = _part(repo, upload, revision, stated_licence)
        text = _put(text, upload.id, line, part)
    text = _listed(text)
    made = f"---\n{front.to_yaml()}\n---\n{text}"
    return str(ModelCard(made))  # the Hub's own class reads it: what it cannot read is not pushed


def _parsed(existing: str | None) -> Any:
    import yaml
    from huggingface_hub import ModelCard

    if existing is None or not existing.strip():
        return None
    try:
        return ModelCard(existing.replace("\r\n", "\n"))
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise ValueError(
            f"the front matter of the README.md that is there cannot be read ({error}): mend it first"
        ) from error


def _part(repo: str, upload: Upload, revision: str, licence: str | None) -> tuple[str, str]:
    """The upload's line in the list, and its part."""
    if isinstance(upload.facts, SaeFacts):
        section = sae_section(repo, upload.id, upload.facts, revision, licence)
        return sae_summary(upload.facts), section
    section = probe_section(repo, upload.id, upload.facts, revision, licence)
    return probe_summary(upload.facts), section


def _put(text: str, name: str, line: str, part: str) -> str:
    hidden = line.replace("&", "&amp;").replace(">", "&gt;")  # so that it ends no comment
    block = f"<!-- graticule:begin {name} | {hidden} -->\n{part}\n<!-- graticule:end {name} -->\n"
    for match in _PART.finditer(text):
        if match["id"] == name:
            return text[: match.start()] + block + text[match.end() :]
    return f"{text.rstrip()}\n\n{block}"


def _listed(text: str) -> str:
    """The list of parts, brought up to date; put before the first part if there is none yet."""
    rows = [(code(match["id"]), _line(match["line"])) for match in _PART.finditer(text)]
    lines = "\n".join(table(("id", "what it is"), rows))
    block = f"<!-- graticule:list -->\n{lines}\n<!-- graticule:end-list -->\n"
    if match := _LIST.search(text):
        return text[: match.start()] + block + text[match.end() :]
    first = _PART.search(text)
    at = first.start() if first is not None else len(text)
    return f"{text[:at].rstrip()}\n\n{block}\n{text[at:]}"


def _line(hidden: str) -> str:
    """What a part's own mark says of it, as the list shows it."""
    return hidden.replace("&gt;", ">").replace("&amp;", "&")


# Front matter -------------------------------------------------------------------------------------
def _front(
    repo: str, uploads: Sequence[Upload], licence: str | None, old: ModelCardData | None
) -> ModelCardData:
    from huggingface_hub import ModelCardData

    if licence is not None:
        check_licence(licence)
    front = ModelCardData() if old is None else old
    saes = [s for s in uploads if isinstance(s.facts, SaeFacts)]
    probes = len(saes) < len(uploads)
    if front.library_name in (None, "graticule"):
        front.library_name = "saelens" if saes else "graticule"
    tags = [*([TAGS[0]] if saes else []), *([TAGS[1]] if probes else []), *TAGS[2:]]
    front.tags = _merged(front.tags, tags)
    front.base_model = _merged(front.base_model, [s.facts.base_model for s in uploads]) or None
    front.datasets = _merged(front.datasets, [_dataset(s) for s in uploads]) or None
    front.license = licence or front.license
    results = list(front.eval_results or [])
    for upload in uploads:  # in place, so that a push of what is there changes nothing
        mine = [i for i, r in enumerate(results) if str(r.metric_name).endswith(f" ({upload.id})")]
        at = mine[0] if mine else len(results)
        others = [r for i, r in enumerate(results) if i not in mine]
        results = [*others[:at], *_results(upload), *others[at:]]
    front.eval_results = results or None
    if results and front.model_name is None:
        front.model_name = repo.split("/")[1]
    return front


def _merged(old: Any, new: Sequence[str | None]) -> list[str]:
    before = [old] if isinstance(old, str) else list(old or [])
    return list(dict.fromkeys([*before, *(n for n in new if n is not None)]))


def _dataset(upload: Upload) -> str | None:
    return upload.facts.dataset if isinstance(upload.facts, SaeFacts) else None


def _results(upload: Upload) -> list[EvalResult]:
    """The figures that the Hub shows beside a model; their names say which SAE or probe they are of."""
    from huggingface_hub import EvalResult

    facts = upload.facts
    if isinstance(facts, SaeFacts):
        on = facts.evaluation.get("corpus") or facts.evaluation.get("dataset") or facts.find("dataset_path")
        evaluation = defined_figures(facts.evaluation)
        figures = [(key, name, evaluation.get(key)) for key, name, _ in EVALUATION]
    else:
        on, figures = facts.judged.get("table"), _probe_figures(facts)
    name = (visible(on) if isinstance(on, str) else "") or "text"
    dataset = name if name == _dataset(upload) else "custom"
    return [
        EvalResult(
            task_type="feature-extraction",
            dataset_type=dataset,
            dataset_name=name,
            metric_type=key,
            metric_name=f"{label} ({upload.id})",
            metric_value=value,
        )
        for key, label, value in figures
        if is_number(value)
    ]


def _score_of(verdict: Mapping[str, Any]) -> tuple[str, str, Any]:
    if verdict.get("metric") == "bits":
        return ("bits", "bits a row that the probe saves", verdict.get("score"))
    return ("r2", "R² of the probe", verdict.get("score"))


def _probe_figures(facts: ProbeFacts) -> list[tuple[str, str, Any]]:
    verdict = facts.judged.get("verdict") or {}
    return [
        _score_of(verdict),
        ("gain", "gain over the surface", verdict.get("gain")),
    ]
