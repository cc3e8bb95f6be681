"""The sequence learner: a small transformer that reads known concepts one by one and says the whole vector.

Where the lookup learner has a row for every context, this one reads `[start, "C_3 = 1", "C_0 = 0", …]`, the
concepts in random order, and after every token gives a distribution over the completing token, which is a
full concept vector as in Jiang et al. (2403.03867), section 2. The context after a token is the set of values
told so far, so its posterior is known exactly at every position (`SequenceTokens.truth`).
"""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from graticule.hooks.artifact import as_damaged
from graticule.hooks.calls import renamed_fields
from graticule.sims.contexts import Contexts
from graticule.sims.learners import hooked, load_learner, save_learner
from graticule.sims.training.settings import SequenceShape
from graticule.sims.truth.optimal import truth_table
from graticule.sims.world import UNKNOWN, World

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

KIND = "sequence_learner"
_MOST_TEXTS = 1 << 24


@renamed_fields(shown="concepts")
@dataclass(frozen=True, eq=False)
class SequenceTokens:
    """The learner's language: token ids, texts, and the truth at every position."""

    world: World
    """Where concepts come from."""
    concepts: tuple[int, ...]
    """Concepts that texts tell, in ascending order; the others are never known."""

    @classmethod
    def of(cls, contexts: Contexts) -> SequenceTokens:
        """The language of contexts: a concept is told where any mask shows it."""
        return cls(contexts.world, tuple(np.flatnonzero(contexts.masks.any(axis=0)).tolist()))

    @property
    def start(self) -> int:
        """First token of every text; before it come the completing tokens, after it the concept tokens."""
        return len(self.world.vectors)

    @property
    def first(self) -> Int[np.ndarray, " m"]:
        """Token id of every concept's value 0; value v is v later."""
        return self.start + 1 + np.concatenate([[0], np.cumsum(self.world.values)[:-1]])

    @property
    def d_vocab(self) -> int:
        """Token ids in all."""
        return self.start + 1 + sum(self.world.values)

    @property
    def names(self) -> list[str]:
        """A word for every token id."""
        values = [f"C_{i}={v}" for i, size in enumerate(self.world.values) for v in range(size)]
        return ["".join(map(str, v)) for v in self.world.vectors.tolist()] + ["start", *values]

    # Texts -------------------------------------------------------------------------------------------
    def texts(
        self, vectors: Int[np.ndarray, "text m"], order: Int[np.ndarray, "text concept"]
    ) -> Int[Tensor, "text pos"]:
        """Token ids `[start, concept, …]`: of each concept vector the concepts in `order`, in that order."""
        values = np.take_along_axis(vectors, order, axis=1)
        start = np.full((len(vectors), 1), self.start)
        return torch.from_numpy(np.concatenate([start, self.first[order] + values], axis=1).astype(np.int64))

    def draw(
        self, n: int, rng: np.random.Generator
    ) -> tuple[Int[Tensor, "text pos"], Int[np.ndarray, " text"]]:
        """n texts, and the token that completes each."""
        vectors = self.world.sample(n, rng)
        order = rng.permuted(np.tile(self.concepts, (n, 1)), axis=1)
        return self.texts(vectors, order), self.world.token(vectors)

    def every(self, orders: int | None = None, seed: int = 0) -> Int[Tensor, "text pos"]:
        """Every text that occurs: all values of the shown concepts, in every order or in `orders` of them.

        Some orders are drawn as random orders and all their rotations, so that each concept stands equally
        often at every position where `orders` is a multiple of the number of shown concepts.

        Raises:
            ValueError: For no order, or more than 2²⁴ texts.
        """
        marginal = self.world.marginal(self.concepts)
        possible = np.argwhere(marginal > 0)
        ways = math.factorial(len(self.concepts)) if orders is None else orders
        if not 1 <= ways * len(possible) <= _MOST_TEXTS:
            raise ValueError(
                f"{len(possible):,} settings of the concepts in {ways:,} orders: from 1 to {_MOST_TEXTS:,} "
                "texts; say orders="
            )
        vectors = np.zeros((len(possible), self.world.m), np.int64)
        vectors[:, self.concepts] = possible
        if orders is None:
            ways = np.array(list(itertools.permutations(self.concepts)))
        else:
            rng, size = np.random.default_rng(seed), len(self.concepts)
            drawn = [rng.permutation(self.concepts) for _ in range(-(-orders // size))]
            ways = np.array([np.roll(way, k) for way in drawn for k in range(size)])[:orders]
        return self.texts(np.repeat(vectors, len(ways), axis=0), np.tile(ways, (len(vectors), 1)))

    def chances(self, texts: Int[Tensor, "text pos"]) -> Float[np.ndarray, " text"]:
        """P of the values that each whole text tells, whatever their order: the rows' weights when texts are
        enumerated by `every`."""
        values = self.known(texts)[:, -1, self.concepts]
        return self.world.marginal(self.concepts)[tuple(values.T)]

    # Truth -------------------------------------------------------------------------------------------
    def known(self, texts: Int[Tensor, "text pos"]) -> Int[np.ndarray, "text pos m"]:
        """What is known after every token: concept values, −1 where not yet told.

        Raises:
            ValueError: For tokens that are no concept's and do not start a text, or a concept told twice.
        """
        ids = texts.cpu().numpy()
        if (ids[:, 0] != self.start).any() or not (
            (ids[:, 1:] > self.start) & (ids[:, 1:] < self.d_vocab)
        ).all():
            raise ValueError(
                f"texts are [{self.start}, concept tokens {self.start + 1} to {self.d_vocab - 1} …]; see "
                "SequenceTokens.texts"
            )
        concept = np.searchsorted(self.first, ids[:, 1:], side="right") - 1
        ordered = np.sort(concept, axis=1)
        if (ordered[:, 1:] == ordered[:, :-1]).any():
            raise ValueError("a text tells a concept twice; see SequenceTokens.texts")
        out = np.full((*ids.shape, self.world.m), UNKNOWN)
        text = np.arange(len(ids))
        for pos in range(1, ids.shape[1]):
            out[:, pos] = out[:, pos - 1]
            out[text, pos, concept[:, pos - 1]] = ids[:, pos] - self.first[concept[:, pos - 1]]
        return out

    def truth(self, texts: Int[Tensor, "text pos"], rows: pd.DataFrame | None = None) -> pd.DataFrame:
        """The truth of activations' rows: `source`, `position`, and the columns of `truth_table`.

        `rows` is the row table of a capture of these texts; without it one row per token, in order, as
        `capture(model, texts, pos="all")` gives them.
        """
        values = self.known(texts)
        if rows is None:
            n, length = texts.shape
            source, position = np.repeat(np.arange(n), length), np.tile(np.arange(length), n)
        else:
            source, position = rows["source"].to_numpy(), rows["position"].to_numpy()
        table = truth_table(self.world, values[source, position])
        table.insert(0, "source", source)
        table.insert(1, "position", position)
        return table


def sequence_model(tokens: SequenceTokens, shape: SequenceShape, sae: bool = False) -> HookedTransformer:
    """A hooked transformer for a language, weights zero: `train_sequence` or `load_sequence` fill them.

    `d_vocab_out` counts the completing tokens only, which come first among the ids. So the model's own
    `return_type="loss"`, which asks for every next id, is not defined within a text: use
    `SequenceLearned.gap`, or the cross-entropy of `model(texts)` with the completing tokens.
    """
    model = hooked(_config(tokens, shape), sae)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model.eval()


def _config(tokens: SequenceTokens, shape: SequenceShape) -> dict[str, Any]:
    return {
        "n_layers": shape.n_layers,
        "d_model": shape.d_model,
        "n_heads": shape.n_heads,
        "d_head": max(2, shape.d_model // shape.n_heads),
        "d_mlp": shape.mlp_ratio * shape.d_model or None,
        "attn_only": shape.mlp_ratio == 0,
        "act_fn": "gelu" if shape.mlp_ratio else None,
        "normalization_type": shape.normalization,
        "positional_embedding_type": "standard",
        "n_ctx": len(tokens.concepts) + 2,
        "d_vocab": tokens.d_vocab,
        "d_vocab_out": tokens.start,
        "default_prepend_bos": False,
        "init_weights": False,
        "device": "cpu",
        "model_name": "sequence-learner",
    }


def save_sequence(
    path: Path | str,
    model: HookedTransformer,
    contexts: Contexts,
    shape: SequenceShape,
    overwrite: bool = False,
) -> None:
    """Write a learner and its world as a folder of JSON and safetensors.

    Without graticule: `HookedTransformer(HookedTransformerConfig(**manifest["settings"]["config"]))`, and
    `load_state_dict` of `learner.safetensors` with `strict=False`.

    Raises:
        FileExistsError: If the folder exists and is not to be overwritten.
        ValueError: For a model of another shape or another world's language.
    """
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    wanted = sequence_model(SequenceTokens.of(contexts), shape).named_parameters()
    for name, parameter in wanted:
        if shapes.get(name) != tuple(parameter.shape):
            raise ValueError(
                f"{name} is {shapes.get(name)}, not {tuple(parameter.shape)} as of {shape} and these contexts"
            )
    settings = {"shape": asdict(shape), "config": _config(SequenceTokens.of(contexts), shape)}
    save_learner(path, KIND, contexts, dict(model.named_parameters()), settings, overwrite)


def load_sequence(path: Path | str, sae: bool = False) -> tuple[HookedTransformer, Contexts]:
    """The hooked model that `save_sequence` wrote, frozen, and the contexts whose truth is known.

    Raises:
        ArtifactError: If the folder is missing, damaged or something else.
    """
    contexts, tensors, settings = load_learner(path, KIND)
    with as_damaged(path, "save the learner again"), torch.no_grad():
        model = sequence_model(SequenceTokens.of(contexts), SequenceShape(**settings["shape"]), sae)
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[name]).requires_grad_(False)
    return model, contexts
