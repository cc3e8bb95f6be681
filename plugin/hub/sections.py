"""A card's parts, one per SAE or probe: what it is, how to load it, what was measured, where it is from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from graticule.hub.evaluation import EVALUATION, FURTHER, costs_nothing, defined_figures
from graticule.hub.markdown import code, is_number, number, python, setting, table, text
from graticule.hub.remote import MAIN
from graticule.hub.uploads import ProbeFacts, SaeFacts
from graticule.probes.core.members import member_line

_NAMES = {
    "standard": "standard (ReLU, L1)",
    "bricken": "standard, trained as in Towards Monosemanticity",
    "topk": "TopK",
    "batchtopk": "BatchTopK",
    "jumprelu": "JumpReLU",
    "gated": "gated",
    "matryoshka_batchtopk": "Matryoshka BatchTopK",
}
_PAPERS = {
    "standard": "Bricken et al. 2023, [Towards Monosemanticity](https://transformer-circuits.pub/2023/monosemantic-features/index.html)",
    "topk": "Gao et al. 2024, [Scaling and evaluating sparse autoencoders](https://arxiv.org/abs/2406.04093)",
    "batchtopk": "Bussmann et al. 2024, [BatchTopK Sparse Autoencoders](https://arxiv.org/abs/2412.06410)",
    "jumprelu": "Rajamanoharan et al. 2024, [Jumping Ahead](https://arxiv.org/abs/2407.14435)",
    "gated": "Rajamanoharan et al. 2024, [Improving Dictionary Learning with Gated Sparse Autoencoders](https://arxiv.org/abs/2404.16014)",
    "matryoshka_batchtopk": "Bussmann et al. 2025, [Learning Multi-Level Features with Matryoshka Sparse Autoencoders](https://arxiv.org/abs/2503.17547)",
}
_PAPERS["bricken"] = _PAPERS["standard"]
_RIDGE = (
    "Gurnee and Tegmark 2024, [Language Models Represent Space and Time](https://arxiv.org/abs/2310.02207)"
)
_SAELENS = "Bloom, Tigges, Duong and Chanin 2024, [SAELens](https://github.com/decoderesearch/SAELens)"

_TRAINING: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("dataset", ("dataset_path", "dataset", "corpus")),
    ("context size", ("context_size",)),
    ("BOS prepended", ("prepend_bos",)),
    ("special tokens left out", ("exclude_special_tokens", "exclude_special")),
    ("activations scaled", ("normalize_activations", "normalize")),
    ("width of the activations (d_in)", ("d_in",)),
    ("latents (d_sae)", ("d_sae",)),
    ("k", ("k",)),
    ("L1 coefficient", ("l1_coefficient",)),
    ("L0 coefficient", ("l0_coefficient",)),
    ("training tokens", ()),
    ("batch, tokens", ("train_batch_size_tokens", "train_batch_size_samples", "batch_size")),
    ("learning rate", ("lr", "learning_rate")),
    ("seed", ("seed",)),
    ("dtype of the weights", ("dtype",)),
)


def sae_summary(facts: SaeFacts) -> str:
    """One line for the list of what a repository holds."""
    parts = [f"{_kind(facts)} SAE, {number(facts.find('d_sae'))} latents", _sae_hook(facts)]
    if model := facts.find("model_name"):
        parts[1] += f" of {code(model)}"
    figures = [
        f"{name} {number(facts.evaluation[key])}"
        for key, name, _ in EVALUATION[:2]
        if is_number(facts.evaluation.get(key))
    ]
    return "; ".join([", ".join(parts), *([", ".join(figures)] if figures else [])])


def sae_section(
    repo: str, sae_id: str, facts: SaeFacts, revision: str = MAIN, licence: str | None = None
) -> str:
    """The SAE's part of the card as Markdown, from its facts alone."""
    dataset = facts.find("dataset_path")
    trained = f", trained on {number(facts.tokens)} tokens" if is_number(facts.tokens) else ", trained"
    name = facts.find("model_name")
    model = code(name) if name else "a model that `cfg.json` does not name"
    if facts.base_model is not None:
        model = f"[{code(name or facts.base_model)}](https://huggingface.co/{facts.base_model})"
    lines = [
        f"## {text(sae_id)}",
        "",
        f"A sparse autoencoder ({_kind(facts)}, {number(facts.find('d_sae'))} latents) on "
        f"{_sae_hook(facts)} of {model}, {number(facts.find('d_in'))} wide{trained}"
        f"{f' of {_dataset(dataset, facts)}' if dataset else ''}.",
        "",
        *_loading(repo, sae_id, facts, revision),
        *_titled("Training", table(("setting", "value"), _training(facts))),
        *_titled("Evaluation", _evaluation(facts)),
        *(_titled("Firing frequency", _density(sae_id, facts)) if facts.density else []),
        *_titled("Citation", _citation(facts)),
        *_titled("Provenance", _sae_provenance(facts, licence)),
    ]
    return "\n".join(lines)


def _titled(title: str, lines: Sequence[str]) -> list[str]:
    return ["", f"### {title}", "", *lines]


def _sae_hook(facts: SaeFacts) -> str:
    name = facts.find("hook_name")
    return code(name) if name else "a hook point that `cfg.json` does not name"


def _kind(facts: SaeFacts) -> str:
    name = str(facts.metadata.get("training_architecture") or facts.cfg.get("architecture", "standard"))
    return _NAMES.get(name) or text(name)


def _loading(repo: str, sae_id: str, facts: SaeFacts, revision: str) -> list[str]:
    use = "latents = sae.encode(activations)  # [..., d_in] to [..., d_sae]"
    if revision == MAIN:
        code = ["from sae_lens import SAE", f'sae = SAE.from_pretrained("{repo}", "{sae_id}")', use]
    else:  # from_pretrained reads main only
        code = [
            "from huggingface_hub import snapshot_download; from sae_lens import SAE",
            f'folder = snapshot_download("{repo}", revision="{revision}", allow_patterns="{sae_id}/*")',
            f'sae = SAE.load_from_disk(f"{{folder}}/{sae_id}")',
        ]
    notes: list[str] = []
    bos = facts.find("prepend_bos")
    if bos is not None:
        notes.append(f"It was trained on contexts {'with' if bos else 'without'} a BOS token in front.")
    if facts.find("exclude_special_tokens", "exclude_special"):
        notes.append("Special tokens were left out: what it says at them means nothing.")
    if facts.cfg.get("normalize_activations", "none") == "expected_average_only_in":
        notes.append(
            "It expects activations scaled to a mean norm of √d_in (`expected_average_only_in`); SAELens "
            "does not do that by itself."
        )
    return [*python(*code), *(["", " ".join(notes)] if notes else [])]


def _training(facts: SaeFacts) -> list[tuple[str, str]]:
    trained, saved = facts.metadata.get("training_architecture"), facts.cfg.get("architecture")
    kind = code(trained or saved) + (f", saved as {code(saved)}" if trained and trained != saved else "")
    rows = [("architecture", kind)]
    values = [(label, facts.find(*names) if names else facts.tokens) for label, names in _TRAINING]
    rows += [(label, setting(value)) for label, value in values if value is not None]
    last = {
        key: value
        for key, value in facts.last.items()
        if math.isfinite(value) and key not in ("step", "tokens", "seconds", "lr")
    }
    return rows + [(f"at the end: {text(key)}", number(value)) for key, value in last.items()]


def _evaluation(facts: SaeFacts) -> list[str]:
    figures = defined_figures(facts.evaluation)
    main = [
        (name, number(figures[key]), what) for key, name, what in EVALUATION if is_number(figures.get(key))
    ]
    more = [(name, number(figures[key]), "") for key, name in FURTHER.items() if is_number(figures.get(key))]
    if not main and not more:
        return ["Not evaluated."]
    n, losses, on = figures.get("n_rows"), figures.get("n_loss_tokens"), figures.get("corpus")
    sample = f"On {number(n)} tokens" if is_number(n) else "On a sample"
    sample += f" (losses on {number(losses)})" if is_number(losses) and losses else ""
    sample += f" of {_dataset(on, facts)}." if isinstance(on, str) else "."
    costless = [name for name in ("zero", "mean") if costs_nothing(figures, name)]
    if costless:
        named = " and ".join(costless)
        sample += f" Loss recovered is undefined against {named} ablation, which cost the model nothing."
    return [sample, "", *table(("figure", "value", "what it is"), main + more)]


def _density(sae_id: str, facts: SaeFacts) -> list[str]:
    total = sum(n for _, n in facts.density)
    never = facts.density[0][1]
    rare = sum(n for edge, n in facts.density[1:] if edge < -5)
    often = sum(n for edge, n in facts.density if edge >= -1)
    return [
        f"![How often latents fire]({sae_id}/density.png)",
        "",
        f"Latents (up) by the share of tokens on which they fire (across, log scale), from "
        f"`sparsity.safetensors`. Of {number(total)} latents {number(never)} never fired there, "
        f"{number(rare)} fired on fewer than 1 in 100,000 tokens and {number(often)} on more than 1 in 10.",
    ]


def _citation(facts: SaeFacts) -> list[str]:
    name = str(facts.metadata.get("training_architecture") or facts.cfg.get("architecture"))
    method = [f"- the method: {_PAPERS[name]}"] if name in _PAPERS else []
    return [*method, f"- the format and the library: {_SAELENS}"]


def _sae_provenance(facts: SaeFacts, licence: str | None) -> list[str]:
    versions = facts.run.get("versions") or facts.run.get("request", {}).get("versions") or {}
    by = f"- saved by SAELens {text(facts.metadata.get('sae_lens_version') or '(version unknown)')}"
    settings = [n for n, there in (("run.json", facts.run), ("runner_cfg.json", facts.runner)) if there]
    beside = f"- every setting: {', '.join(f'`{n}`' for n in settings)}, beside the weights"
    lines = _provenance(licence, "sae_weights.safetensors", facts.digest or "unknown", [by], versions)
    return [*lines, *([beside] if settings else [])]


def _provenance(licence: str | None, file: str, digest: str, more: list[str], versions: Any) -> list[str]:
    lines = [
        f"- licence: {text(licence or 'none was given; ask before you use it for more than reading')}",
        f"- SHA-256 of `{file}`: {code(digest)}",
        *more,
    ]
    if isinstance(versions, Mapping) and versions:
        pairs = cast("Mapping[str, Any]", versions).items()
        lines.append(f"- made with {', '.join(text(f'{k} {v}') for k, v in pairs)}")
    return lines


def _dataset(name: Any, facts: SaeFacts) -> str:
    linked = facts.dataset is not None and name == facts.dataset
    return f"[{text(name)}](https://huggingface.co/datasets/{name})" if linked else code(name)


_METRIC = {"R²": "r2", "bits a row": "bits"}


def probe_summary(facts: ProbeFacts) -> str:
    """One line for the list of what a repository holds."""
    verdict = cast("Mapping[str, Any]", facts.judged.get("verdict") or {})
    judged = (
        f"; {text(verdict['words'])}, gain {number(verdict.get('gain'))} {judged_unit(verdict)}"
        if verdict
        else "; not judged"
    )
    return f"ridge probe of {_targets(facts)} at {_probe_hook(facts)}{judged}"


def probe_section(
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
    rows = [f"- rows: {text(judged['split'])}"] if judged.get("split") else []
    versions = facts.manifest.get("versions")
    provenance = _provenance(licence, "probe.safetensors", facts.digest, rows, versions)
    lines = [
        f"## {text(probe_id)}",
        "",
        f"A linear (ridge) probe that reads {_targets(facts)} from {_probe_hook(facts)} of {model}{on}.",
        "",
        *python(
            "from graticule import RidgeProbe",
            f'probe = RidgeProbe.from_pretrained("{repo}", "{probe_id}"{at})',
            "predicted = probe.predict(activations)  # [row, d_model] to [row, target]",
        ),
        *_titled("Verdict", _verdict(facts)),
        *(_titled("The surface", _surface(facts)) if facts.judged.get("baselines") else []),
        *_titled("Directions", _directions(facts)),
        *_titled("Citation", [f"- the method: {_RIDGE}"]),
        *_titled("Provenance", provenance),
    ]
    return "\n".join(lines)


def _probe_hook(facts: ProbeFacts) -> str:
    name = facts.manifest.get("hook_name")
    return code(name) if name else "a hook point that its manifest does not name"


def _targets(facts: ProbeFacts) -> str:
    names = list(facts.manifest.get("target_names") or [])
    units = [*(facts.manifest.get("units") or []), *([None] * len(names))]
    targets = [text(f"{n} ({u})" if u else n) for n, u in zip(names, units, strict=False)]
    return ", ".join(targets[:8]) + (f" and {len(targets) - 8} more" if len(targets) > 8 else "")


def _verdict(facts: ProbeFacts) -> list[str]:
    verdict = cast("Mapping[str, Any]", facts.judged.get("verdict") or {})
    if not verdict:
        return [
            "Not judged: nothing says whether it reads more than the text itself gives away. `graticule."
            "probe` gives a verdict."
        ]
    low, high = verdict["ci95"]
    rows = [
        ("the probe alone", number(verdict["score"]), f"{judged_unit(verdict)} on test rows"),
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


def judged_unit(verdict: Mapping[str, Any]) -> str:
    """What a verdict's scores are in, as a card says it."""
    return "bits a row" if verdict.get("metric") == "bits" else "R²"


def _limit(facts: ProbeFacts) -> tuple[str, str]:
    limit = facts.judged.get("limit_of_detection")
    if is_number(limit):
        of = " of R²" if judged_unit(facts.judged.get("verdict") or {}) != "R²" else ""
        return number(limit) + of, "a true gain of this size would have been seen 80% of the time"
    if facts.judged.get("calibrated"):
        return "beyond what was tried", "no gain tried would have been seen 80% of the time"
    return "not measured", "`graticule.calibrate` measures it"


def _surface(facts: ProbeFacts) -> list[str]:
    baselines = cast("Mapping[str, Mapping[str, Any]]", facts.judged["baselines"])
    unit = judged_unit(cast("Mapping[str, Any]", facts.judged.get("verdict") or {}))
    rows = [
        (
            text(name.replace("_", " ")),
            code(line["point"]) if line.get("point") else "",
            number(member_line(line).get(_METRIC[unit], line["test"]["r2"])),
        )
        for name, line in baselines.items()
    ]
    return table(("baseline", "at", f"test {unit}"), rows)


def _directions(facts: ProbeFacts) -> list[str]:
    names = list(facts.manifest.get("target_names") or [])
    pairs = list(zip(names, facts.cosines, strict=False))
    return [
        "`probe.read_direction` reads the concept out, `probe.write_direction` is how the model writes it: "
        "steer with the second.",
        "",
        *table(("target", "cosine between the two"), [(text(n), number(round(c, 3))) for n, c in pairs[:20]]),
    ]
