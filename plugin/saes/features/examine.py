"""`examine(model, sae, corpus)`: the first features of an SAE, as they look: where each fires most, and which
tokens it makes likelier."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from graticule.hooks.coders import SparseCoder, head_of
from graticule.hooks.doors import MODEL, SAE, door
from graticule.hooks.limits import check_indices
from graticule.hooks.messages import bar
from graticule.hooks.model_view import ModelView
from graticule.hooks.points import layer_of
from graticule.hooks.protocols import HookedModel
from graticule.hooks.values import finite
from graticule.hooks.weights import output_weight
from graticule.saes.evaluation.measurement import LONGEST, Measurement, measuring
from graticule.saes.features.result import SaeFeatures

_log = logging.getLogger(__name__)

AROUND = 4
"""Tokens shown on each side, as in the paper's dashboards."""
_EXAMPLES = {
    "latent": "int64",
    "rank": "int64",
    "activation": "float64",
    "before": "str",
    "token": "str",
    "after": "str",
    "context": "int64",
    "position": "int64",
    "token_id": "int64",
}

_RESIDUAL = (
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_resid_post",
    "hook_mlp_out",
    "hook_attn_out",
    "hook_embed",
)
_HIDDEN = ("mlp.hook_post", "mlp.hook_post_linear")
_EFFECTS = {
    "latent": "int64",
    "sign": "int64",
    "rank": "int64",
    "token": "str",
    "token_id": "int64",
    "effect": "float64",
}


@door(model=MODEL, sae=SAE, max_norm=LONGEST)
def examine(
    model: HookedModel,
    sae: Any,
    corpus: Any,
    *,
    n: int = 50,
    latents: Sequence[int] | None = None,
    n_tokens: int = 20_000,
    n_examples: int = 20,
    n_effects: int = 10,
    hook_name: str | None = None,
    column: str | None = None,
    context_size: int | None = None,
    prepend_bos: bool | None = None,
    exclude_special: bool | Sequence[int] = True,
    max_norm: float | int | Literal["trained"] | None = "trained",
    scale: float | None = None,
    progress: bool | None = None,
) -> SaeFeatures:
    """Where some features fire most and which tokens they make likelier; nothing is picked for its looks.

    Args:
        model: The model that the SAE reads.
        sae: A SAELens SAE, its folder, a run, or a run's folder.
        corpus: What `Corpus.read` takes: files, `datasets`, texts, token rows; as in `evaluate`.
        n: the first so many latents that fire on the sample.
        latents: these latents instead, in this order, whether they fire or not.
        n_tokens: tokens that are looked at (whole contexts, special tokens included).
        n_examples: examples kept a feature, at most one a context.
        n_effects: tokens kept a feature that it raises, and as many that it lowers.
        hook_name: The hook point, where the SAE's metadata names none.
        column: The corpus's column of texts.
        context_size: Tokens per context; by default what the SAE's metadata names.
        prepend_bos: Whether a context begins with BOS; by default likewise.
        exclude_special: Leaves out BOS, EOS, PAD, SEP and the decoder's start, or the ids given.
        max_norm: Leaves out rows whose norm is over so many times the median; by default as in training.
        scale: What activations are multiplied with, as in `evaluate`.
        progress: Whether a bar is drawn; by default where it takes long.

    Raises:
        IndexError: for a latent that the SAE does not have.
        LimitError: for one named twice, and whatever `evaluate` raises.
    """
    with measuring(
        model,
        sae,
        corpus,
        n_tokens,
        hook_name=hook_name,
        max_norm=max_norm,
        scale=scale,
        goes_on=False,
        column=column,
        context_size=context_size,
        prepend_bos=prepend_bos,
        exclude_special=exclude_special,
    ) as m:
        asked = None
        if latents is not None:
            asked = np.array(check_indices("latents", latents, m.coder.d_sae, "this SAE"), np.int64)
        top = TopExamples(n_examples)
        fired, total = _look(m, asked, n, top, progress)
        chosen = np.flatnonzero(fired)[:n] if asked is None else asked
        head = head_of(m.coder.sae)
        directions = residual_directions(model, m.coder.sae, m.point, chosen.tolist(), head)
        effects = None if directions is None else logit_effects(model, directions)
    tokenizer: Any = getattr(model, "tokenizer", None)
    n_rows = int(m.sample.counted.sum())
    if effects is None:
        _log.info("no logit effects: %s does not write to the residual stream, or there is no W_U", m.point)
        effects = torch.zeros(0, 1)
    features = pd.DataFrame(
        {
            "latent": chosen,
            "density": fired[chosen] / max(n_rows, 1),
            "maximum": [float(np.max(top.of(i)[0], initial=0.0)) for i in chosen.tolist()],
            "mean": total[chosen] / np.maximum(fired[chosen], 1),
        }
    )
    return SaeFeatures(
        name=m.source.name,
        model=str(m.identity["name"]),
        hook_name=m.point,
        d_sae=m.coder.d_sae,
        n_tokens=n_rows,
        features=features,
        examples=_example_table(top, chosen.tolist(), m.sample.tokens, tokenizer, m.sample.excluded),
        effects=effect_table(effects, chosen.tolist()[: len(effects)], tokenizer, n_effects),
        provenance=m.provenance(),
    )


def _look(
    m: Measurement, asked: np.ndarray | None, n: int, top: TopExamples, progress: bool | None
) -> tuple[np.ndarray, np.ndarray]:
    """Rows on which each latent fires and the sum of its activations; `top` takes examples of those asked
    for."""
    fired, total = np.zeros(m.coder.d_sae, np.int64), np.zeros(m.coder.d_sae)
    number = np.arange(m.sample.tokens.size).reshape(m.sample.tokens.shape)
    with bar(len(m.tokens), "looking at features", "context", progress) as progress_bar:
        for batch, _, rows in m.batches(progress_bar):
            values = m.coder.encode(rows).values
            place = number[batch][m.sample.counted[batch]]
            fired += np.bincount(values.indices, minlength=m.coder.d_sae)
            total += np.bincount(values.indices, values.data, minlength=m.coder.d_sae)
            # one that fires for the first time has no earlier examples, one that drops out never comes back
            first = np.flatnonzero(fired)[:n] if asked is None else asked
            top.add(values, first, place // m.sample.tokens.shape[1], place)
    return fired, total


# Examples ----------------------------------------------------------------------------------------------
class TopExamples:
    """The strongest activation of each context, of those the strongest few a latent."""

    def __init__(self, keep: int) -> None:
        """`keep` examples a latent."""
        self.keep = keep
        self._value: dict[int, np.ndarray] = {}
        self._place: dict[int, np.ndarray] = {}

    def add(
        self,
        values: Any,
        latents: Int[np.ndarray, " latent"],
        context: Int[np.ndarray, " row"],
        place: Int[np.ndarray, " row"],
    ) -> None:
        """Latents of some rows (SciPy, `[row, d_sae]`), those to look at, the context of each row and its
        token's number (context times context size plus position).

        Rows of one context come in one call.
        """
        columns = values[:, latents].tocsc()
        for column, latent in enumerate(latents.tolist()):
            part = slice(columns.indptr[column], columns.indptr[column + 1])
            rows, fired = columns.indices[part], columns.data[part].astype(np.float64)
            if not len(rows):
                continue
            order = np.lexsort((place[rows], -np.abs(fired)))
            # one token a context: the same phrase a few tokens on is not another example
            _, first = np.unique(context[rows][order], return_index=True)
            best = order[np.sort(first)][: self.keep]
            value = np.concatenate([self._value.get(latent, np.zeros(0)), fired[best]])
            where = np.concatenate([self._place.get(latent, np.zeros(0, np.int64)), place[rows[best]]])
            order = np.lexsort((where, -np.abs(value)))[: self.keep]
            self._value[latent], self._place[latent] = value[order], where[order]

    def of(self, latent: int) -> tuple[Float[np.ndarray, " example"], Int[np.ndarray, " example"]]:
        """Activations, the strongest first, and the tokens' numbers; empty where it never fired."""
        return self._value.get(latent, np.zeros(0)), self._place.get(latent, np.zeros(0, np.int64))


def _example_table(
    top: TopExamples,
    latents: Sequence[int],
    tokens: Int[np.ndarray, "context pos"],
    tokenizer: Any,
    hidden: Sequence[int],
) -> pd.DataFrame:
    """One row per example, `_EXAMPLES`; special tokens (`hidden`) are left out of the texts around."""
    lines: list[tuple[Any, ...]] = []
    for latent in latents:
        for rank, (value, place) in enumerate(zip(*top.of(latent), strict=True)):
            context, position = divmod(int(place), tokens.shape[1])
            ids = tokens[context]
            texts = (
                _text(tokenizer, ids[max(0, position - AROUND) : position], hidden),
                _text(tokenizer, ids[position : position + 1], ()),
                _text(tokenizer, ids[position + 1 : position + AROUND + 1], hidden),
            )
            lines.append((int(latent), rank, float(value), *texts, context, position, int(ids[position])))
    return pd.DataFrame(lines, columns=list(_EXAMPLES)).astype(_EXAMPLES)


def _text(tokenizer: Any, ids: np.ndarray, hidden: Sequence[int]) -> str:
    visible = [int(i) for i in ids if int(i) not in hidden]
    if tokenizer is None:
        return " ".join(map(str, visible))
    return str(tokenizer.decode(visible, clean_up_tokenization_spaces=False)) if visible else ""


# Effects on the vocabulary -----------------------------------------------------------------------------
def residual_directions(
    model: HookedModel, sae: SparseCoder, point: str, latents: Sequence[int], head: int | None = None
) -> Float[Tensor, "latent d_model"] | None:
    """What one unit of each latent adds to the residual stream; None where the point does not add to it so
    (queries, keys, pre-activations), or the model does not say how."""
    width = int(model.cfg.d_model)
    rows = sae.W_dec.detach()[torch.as_tensor(list(latents), device=sae.W_dec.device)].to(
        "cpu", torch.float32
    )
    if point.endswith(_RESIDUAL) or point == "hook_embed":
        return rows if rows.shape[1] == width else None
    layer = layer_of(point)
    of_heads = point.endswith("attn.hook_z")
    if layer is None or not (of_heads or point.endswith(_HIDDEN)):
        return None
    out = output_weight(model, layer, "attn" if of_heads else "mlp")
    if out is None:
        return None
    if of_heads:
        out = out.flatten(0, 1) if head is None else out[head]
    weight = out.to("cpu", torch.float32)
    return rows @ weight if weight.shape == (rows.shape[1], width) else None


def logit_effects(
    model: HookedModel, directions: Float[Tensor, "latent d_model"]
) -> Float[Tensor, "latent vocab"] | None:
    """Effect on every token's logit of one unit of each latent; None where the model has no `W_U`.

    Bricken et al. 2023, "logit weights": d · W_out · π · L · W_U, where π removes the mean and L is the final
    norm's gain; its scale, one number a token, is left out. The vocabulary's median is shifted to 0.
    """
    view = ModelView(model)
    try:
        weight = view.unembedding()
    except ValueError:
        return None
    gain, centres = view.final_gain()
    read = directions - directions.mean(dim=1, keepdim=True) if centres else directions
    read = read * torch.from_numpy(gain).float()
    out = (read.to(weight.device, weight.dtype) @ weight).to("cpu", torch.float32)
    return out - out.median(dim=1, keepdim=True).values


def effect_table(
    effects: Float[Tensor, "latent vocab"], latents: Sequence[int], tokenizer: Any, keep: int
) -> pd.DataFrame:
    """The tokens that each latent raises and lowers most: `latent`, `sign` (1 or −1), `rank`, `token`,
    `token_id`, `effect`. Special and unused tokens are left out, as the paper drops rare ones."""
    usable = finite("logit effects", effects, lambda row: f"of latent {latents[row]}").clone()
    usable[:, _unprintable(tokenizer, effects.shape[1])] = torch.nan
    lines: list[tuple[Any, ...]] = []
    for sign in (1, -1):
        signed = (sign * usable).nan_to_num(nan=-torch.inf)
        best = signed.topk(min(keep, effects.shape[1]), dim=1)
        for row, latent in enumerate(latents):
            pairs = zip(best.values[row].tolist(), best.indices[row].tolist(), strict=True)
            for rank, (value, token) in enumerate(pairs):
                if np.isfinite(value):
                    word = str(token) if tokenizer is None else str(tokenizer.decode([token]))
                    lines.append((int(latent), sign, rank, word, token, sign * value))
    return pd.DataFrame(lines, columns=list(_EFFECTS)).astype(_EFFECTS)


def _unprintable(tokenizer: Any, vocab: int) -> Tensor:
    """Ids of special and unused tokens."""
    if tokenizer is None:
        return torch.zeros(0, dtype=torch.int64)
    special = {int(i) for i in getattr(tokenizer, "all_special_ids", [])}
    names: dict[str, int] = tokenizer.get_vocab()
    special |= {i for name, i in names.items() if name.startswith(("<unused", "[unused", "<|reserved"))}
    special |= set(range(len(tokenizer), vocab))
    return torch.tensor(sorted(i for i in special if 0 <= i < vocab), dtype=torch.int64)
