"""The part of a card that tells of one SAE: what it is, how to load it, training, evaluation, provenance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from graticule.hub.cards.markdown import code, is_number, number, python, said, table, text
from graticule.hub.facts import SaeFacts
from graticule.hub.remote import MAIN

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
EVALUATION: tuple[tuple[str, str, str], ...] = (
    ("l0", "L0", "latents active a token"),
    ("explained_variance", "explained variance", "1 − Σ‖x − x̂‖² / Σ‖x − x̄‖²"),
    (
        "loss_recovered_zero",
        "loss recovered, against zero ablation",
        "(L zero − L SAE) / (L zero − L clean); a flattering floor",
    ),
    (
        "loss_recovered_mean",
        "loss recovered, against mean ablation",
        "(L mean − L SAE) / (L mean − L clean)",
    ),
    ("kl", "KL to the clean model", "nats a token"),
    ("dead_fraction", "dead latents", "share of latents that never fired on the sample"),
)
"""Key in `evaluation.json`, its name on the card, what it is; these are in the front matter too."""
_MORE = {
    "explained_variance_without_top": "explained variance without the largest principal directions",
    "cosine_median": "cosine of row and reconstruction, median",
    "norm_ratio": "norm of the reconstruction over the row's",
    "mse": "squared error a token",
    "ce_clean": "loss of the clean model, nats",
    "ce_sae": "loss with the SAE, nats",
    "ce_zero": "loss with zeros, nats",
    "ce_mean": "loss with the mean, nats",
    "alive": "latents alive",
    "dead": "latents dead",
    "ultralow": "latents in the ultralow-density cluster",
    "always_on": "latents always on",
    "copies": "latents that copy another",
}


def summary(facts: SaeFacts) -> str:
    """One line for the list of what a repository holds."""
    parts = [f"{_kind(facts)} SAE, {number(facts.find('d_sae'))} latents", _hook(facts)]
    if model := facts.find("model_name"):
        parts[1] += f" of {code(model)}"
    shown = [
        f"{name} {number(facts.evaluation[key])}"
        for key, name, _ in EVALUATION[:2]
        if is_number(facts.evaluation.get(key))
    ]
    return "; ".join([", ".join(parts), *([", ".join(shown)] if shown else [])])


def section(repo: str, sae_id: str, facts: SaeFacts, revision: str = MAIN, licence: str | None = None) -> str:
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
        f"{_hook(facts)} of {model}, {number(facts.find('d_in'))} wide{trained}"
        f"{f' of {_dataset(dataset, facts)}' if dataset else ''}.",
        "",
        *_loading(repo, sae_id, facts, revision),
        "",
        "### Training",
        "",
        *table(("setting", "value"), _training(facts)),
        "",
        "### Evaluation",
        "",
        *_evaluation(facts),
        "",
    ]
    if facts.density:
        lines += ["### Firing frequency", "", *_density(sae_id, facts), ""]
    lines += ["### Citation", "", *_citation(facts), "", "### Provenance", "", *_provenance(facts, licence)]
    return "\n".join(lines)


def _hook(facts: SaeFacts) -> str:
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
    found = [(label, facts.find(*names) if names else facts.tokens) for label, names in _TRAINING]
    rows += [(label, said(value)) for label, value in found if value is not None]
    rows += [
        (f"at the end: {text(key)}", number(value)) for key, value in facts.last.items() if _shown(key, value)
    ]
    return rows


def _shown(key: str, value: float) -> bool:
    return math.isfinite(value) and key not in ("step", "tokens", "seconds", "lr")


def _evaluation(facts: SaeFacts) -> list[str]:
    held = measured(facts.evaluation)
    known = [(name, number(held[key]), what) for key, name, what in EVALUATION if is_number(held.get(key))]
    more = [(name, number(held[key]), "") for key, name in _MORE.items() if is_number(held.get(key))]
    if not known and not more:
        return ["Not evaluated."]
    n, losses, on = held.get("n_rows"), held.get("n_loss_tokens"), held.get("corpus")
    sample = f"On {number(n)} tokens" if is_number(n) else "On a sample"
    sample += f" (losses on {number(losses)})" if is_number(losses) and losses else ""
    sample += f" of {_dataset(on, facts)}." if isinstance(on, str) else "."
    costless = [name for name in ("zero", "mean") if _costs_nothing(held, name)]
    if costless:
        named = " and ".join(costless)
        sample += f" Loss recovered is undefined against {named} ablation, which cost the model nothing."
    return [sample, "", *table(("figure", "value", "what it is"), known + more)]


def measured(evaluation: Mapping[str, Any]) -> Mapping[str, Any]:
    """The figures of an evaluation without shares of a loss that was not there to be recovered."""
    return {
        key: value
        for key, value in evaluation.items()
        if not _costs_nothing(evaluation, key.removeprefix("loss_recovered_"))
    }


def _costs_nothing(evaluation: Mapping[str, Any], ablation: str) -> bool:
    clean, ablated = (evaluation.get(f"ce_{arm}") for arm in ("clean", ablation))
    return is_number(clean) and is_number(ablated) and float(ablated or 0) <= float(clean or 0)


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


def _provenance(facts: SaeFacts, licence: str | None) -> list[str]:
    versions = facts.run.get("versions") or facts.run.get("request", {}).get("versions") or {}
    lines = [
        f"- licence: {text(licence or 'none was given; ask before you use it for more than reading')}",
        f"- SHA-256 of `sae_weights.safetensors`: {code(facts.digest or 'unknown')}",
        f"- saved by SAELens {text(facts.metadata.get('sae_lens_version') or '(version unknown)')}",
    ]
    if isinstance(versions, Mapping) and versions:
        lines.append(f"- made with {', '.join(text(f'{k} {v}') for k, v in versions.items())}")
    held = [n for n, there in (("run.json", facts.run), ("runner_cfg.json", facts.runner)) if there]
    if held:
        lines.append(f"- every setting: {', '.join(f'`{n}`' for n in held)}, beside the weights")
    return lines


def _dataset(name: Any, facts: SaeFacts) -> str:
    linked = facts.dataset is not None and name == facts.dataset
    return f"[{text(name)}](https://huggingface.co/datasets/{name})" if linked else code(name)
