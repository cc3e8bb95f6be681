"""Lists of words and contexts, and what a model's vocabulary makes of them: tokens, rows, inner products."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from graticule.hooks.activations import Activations
from graticule.hooks.artifact import library_versions
from graticule.hooks.capture import capture
from graticule.hooks.identity import model_identity
from graticule.hooks.imports import load
from graticule.hooks.messages import check_whole
from graticule.hooks.model_view import ModelView
from graticule.hooks.names import user_path
from graticule.hooks.points import several
from graticule.hooks.protocols import HookedModel
from graticule.hooks.streams.files import plain_lines
from graticule.probes.geometry import Metric, causal, column_covariance, covariance, euclidean, whitened

LEAST = 3
"""Single-token pairs that a concept needs to be analysed."""
METRICS = ("euclidean", "whitened", "causal")
"""The inner products: plain, by the covariance of final residuals, by that of the unembedding rows."""
ARROW = " ⇒ "

PairLists = Mapping[str, Sequence[tuple[str, str]]]
"""Concept (`male ⇒ female`) → its pairs of words."""

_HERE = Path(__file__).parent
_ORDER = ("verb", "Ving", "3pSg", "adj", "noun", "male", "pronoun", "small", "thing", "country", "lower")
_SPACE = "▁"  # how SentencePiece writes a space


# Lists ------------------------------------------------------------------------------------------------
def pair_lists(given: PairLists | Path | str | None) -> PairLists:
    """The lists as given, those in a folder, or for None the packaged ones."""
    if given is None:
        return packaged_pairs()
    return read_pairs(given) if isinstance(given, str | Path) else given


def packaged_pairs() -> dict[str, tuple[tuple[str, str], ...]]:
    """The packaged lists: 30 concepts of 19 to 86 common words, word forms first and languages last."""

    def place(concept: str) -> int:
        first = concept.split(ARROW)[0]
        return _ORDER.index(first) if first in _ORDER else len(_ORDER) + (first[0].isupper())

    lists = read_pairs(_HERE / "pairs")
    return {concept: lists[concept] for concept in sorted(lists, key=place)}


def read_pairs(folder: Path | str) -> dict[str, tuple[tuple[str, str], ...]]:
    """Every `*.txt` of a folder as one concept, in the order of file names.

    `[male - female].txt` becomes `male ⇒ female`; other names are taken as they are. Empty lines and lines
    that begin with `#` are skipped, as are repeated pairs.

    Raises:
        FileNotFoundError: There is no such folder, or no list in it.
        ValueError: A line is not two words with a tab between; file and line are named.
    """
    folder = user_path(folder)
    files = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    if not files:
        raise FileNotFoundError(f"{folder} holds no word lists: expected files such as '[male - female].txt'")
    lists: dict[str, tuple[tuple[str, str], ...]] = {}
    for file in files:
        bracketed = re.fullmatch(r"\[(.*?) - (.*)\]", file.stem, re.DOTALL)
        concept = ARROW.join(bracketed.groups()) if bracketed else file.stem
        lists[concept] = tuple(dict.fromkeys((a, b) for a, b in _fields(file, 2)))
    return lists


def _fields(file: Path, fields: int | None) -> list[list[str]]:
    """Tab-separated fields of non-empty lines, `fields` of them (None: as many as in the first)."""
    out: list[list[str]] = []
    for number, line in enumerate(plain_lines(file), 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = [part.strip() for part in line.split("\t")]
        fields = len(parts) if fields is None else fields
        if len(parts) != fields or not all(parts):
            raise ValueError(
                f"{file.name}, line {number}: {line!r} has {len(parts)} fields; expected {fields}, none of "
                f"them empty, with a tab between"
            )
        out.append(parts)
    if not out:
        raise ValueError(f"{file} is empty: expected one line a pair, with a tab between")
    return out


def parallel_contexts(path: Path | str | None = None) -> dict[str, tuple[str, ...]]:
    """Language → contexts, line by line the same sentence in each: the packaged 32, or a file of the user's.

    A file begins with a line of the languages' names; every further line holds one context per language,
    tabs between. Contexts should break off where the next token is a word.

    Raises:
        ValueError: There are fewer than two languages, a repeated name, or a line that is not complete.
    """
    file = _HERE / "contexts" / "parallel.txt" if path is None else user_path(path)
    names, *rows = _fields(file, None)
    if len(names) < 2 or len(set(names)) != len(names):
        raise ValueError(f"{file.name} begins with {names}: expected two or more different languages' names")
    if len(rows) < 2:
        raise ValueError(f"{file.name} has {len(rows)} lines of contexts; at least 2 are needed")
    return {name: tuple(row[i] for row in rows) for i, name in enumerate(names)}


@dataclass(frozen=True)
class ContextPair:
    """Two contexts that differ in a word and force different completions."""

    first: str
    """A context, up to just before the completing word."""
    second: str
    """The same context with another word."""
    first_word: str
    """What completes the first."""
    second_word: str
    """What completes the second."""


def ambiguous_contexts(path: Path | str | None = None) -> tuple[ContextPair, ...]:
    """Winograd-like pairs of contexts: the packaged 44, or a file of the user's.

    One line per pair: first context, second context, first completion, second completion, tabs between.

    Raises:
        ValueError: A line has another number of fields.
    """
    file = _HERE / "contexts" / "ambiguous.txt" if path is None else user_path(path)
    return tuple(ContextPair(*row) for row in _fields(file, 4))


# Tokens -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class TokenPairs:
    """The pairs of single, different tokens, concept after concept."""

    concepts: tuple[str, ...]
    """Analysed concepts, each with `LEAST` pairs or more."""
    pairs: pd.DataFrame
    """One row per pair of these: `concept`, `start`, `end` (words), `start_id`, `end_id` (tokens)."""
    counts: pd.DataFrame
    """One row per concept, analysed or not: `concept`, `given` and `kept` pairs."""
    dropped: pd.DataFrame
    """One row per pair left out: `concept`, `start`, `end`, `why`."""

    @cached_property
    def sizes(self) -> Int[np.ndarray, " concept"]:
        """Kept pairs of each analysed concept."""
        return self.counts.set_index("concept")["kept"].loc[list(self.concepts)].to_numpy(np.int64)

    @property
    def ids(self) -> Int[np.ndarray, "pair 2"]:
        """Token ids of every kept pair, start and end."""
        return self.pairs[["start_id", "end_id"]].to_numpy(np.int64)

    @cached_property
    def shared(self) -> Int[np.ndarray, "entry 2"]:
        """Every two pairs that have a token in common, in both orders, and each pair with itself."""
        return shared_tokens(self.ids)


def shared_tokens(ids: Int[np.ndarray, "pair 2"]) -> Int[np.ndarray, "entry 2"]:
    """Every two rows that have a token in common, in both orders, and each row with itself."""
    load("scipy.sparse")
    from scipy.sparse import csr_array

    column = np.unique(ids, return_inverse=True)[1].reshape(-1)
    entries = np.ones(len(column), np.float32), (np.repeat(np.arange(len(ids)), 2), column)
    tokens = csr_array(entries, shape=(len(ids), int(column.max()) + 1))
    return np.stack((tokens @ tokens.T).nonzero(), axis=1).astype(np.int64)


def single_token(model: HookedModel, word: str) -> int | None:
    """The id of ` word` (with a leading space) if that is one token, else None.

    Tokenizers that put a space before every text themselves (SentencePiece's dummy prefix) make two of
    ` word` and one of `word`, which then begins with `▁`.

    Raises:
        ValueError: The model has no tokenizer.
    """
    tokenizer: Any = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise ValueError("word pairs need model.tokenizer; this model has none")
    unknown = getattr(tokenizer, "unk_token_id", None)
    check_whole(word, "a word")
    for text in (" " + word, word):
        ids: Sequence[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or ids[0] == unknown:
            continue
        if text != word or str(tokenizer.convert_ids_to_tokens(int(ids[0]))).startswith(_SPACE):
            return int(ids[0])
    return None


def keep_pairs(model: HookedModel, pairs: PairLists) -> TokenPairs:
    """The pairs of `pairs` whose words are single, different tokens of `model`'s tokenizer.

    Words are read with a leading space: the encoding of ` word` is BOS and one token, as in Park et al.
    (2311.03658, appendix), where pairs of several tokens are left out.

    Raises:
        ValueError: No concept keeps `LEAST` pairs.
    """
    rows: list[tuple[Any, ...]] = []
    for concept, start, end in ((concept, *pair) for concept, listed in pairs.items() for pair in listed):
        first, second = single_token(model, start), single_token(model, end)
        several = " and ".join(w for w, t in ((start, first), (end, second)) if t is None)
        why = f"not one token: {several}" if several else "the same token" if first == second else ""
        rows.append((concept, start, end, first, second, why))
    table = pd.DataFrame(rows, columns=["concept", "start", "end", "start_id", "end_id", "why"])
    single = table[table["why"] == ""].drop(columns="why").astype({"start_id": np.int64, "end_id": np.int64})
    number = single["concept"].value_counts()
    counts = pd.DataFrame({"concept": list(pairs), "given": [len(listed) for listed in pairs.values()]})
    counts["kept"] = [int(number.get(concept, 0)) for concept in pairs]
    enough = tuple(counts["concept"][counts["kept"] >= LEAST])
    if not enough:
        raise ValueError(
            f"no concept keeps {LEAST} pairs of single tokens (of {len(table)} pairs in {len(counts)} "
            "concepts): this tokenizer needs shorter or commoner words"
        )
    return TokenPairs(
        concepts=enough,
        pairs=single[single["concept"].isin(enough)].reset_index(drop=True),
        counts=counts,
        dropped=table.loc[table["why"] != "", ["concept", "start", "end", "why"]].reset_index(drop=True),
    )


@dataclass(frozen=True)
class Readout:
    """The unembedding γ of a model: logits are γ(y)ᵀλ, λ the residual *after* the final norm.

    Where a model was loaded with the norm's gain folded into `W_U`, λ is what its norm then gives: products
    γᵀλ and causal cosines are the same either way, Euclidean ones are not.
    """

    weights: Tensor
    """`W_U`, `[d_model, d_vocab]`."""

    @classmethod
    def of(cls, model: HookedModel) -> Readout:
        """The model's own.

        Raises:
            ValueError: It has no `W_U` of `[d_model, d_vocab]`.
        """
        try:
            return cls(ModelView(model).unembedding())
        except ValueError as reason:
            raise ValueError(f"word pairs need {reason}") from None

    @property
    def vocabulary(self) -> int:
        """How many tokens have a row."""
        return int(self.weights.shape[1])

    def rows(self, ids: Int[np.ndarray, " token"]) -> Float[np.ndarray, "token d_model"]:
        """γ of some tokens.

        Raises:
            IndexError: A token that the unembedding has no row for.
        """
        if len(ids) and (ids.min() < 0 or ids.max() >= self.vocabulary):
            raise IndexError(f"token {int(ids.max())}: the unembedding has {self.vocabulary} rows")
        picked = self.weights[:, torch.tensor(ids, device=self.weights.device)]
        return picked.to("cpu", torch.float64).numpy().T.copy()


def final_residuals(
    model: HookedModel,
    texts: Sequence[str],
    pos: Literal["last", "all"] = "last",
    *,
    progress: bool | None = None,
) -> Activations:
    """λ, the residual after the final norm (`ln_final`), at the last token of each text or all but BOS."""
    view = ModelView(model)
    where: dict[str, Any] = {"points": "resid_post", "layers": [view.n_layers - 1]}
    where["pos"] = slice(1, None) if pos == "all" else "last"
    captured = capture(model, texts, dtype="float32", progress=progress, **where)
    rows = captured[captured.points[0]]
    parameter = next(iter(model.parameters()))
    with torch.no_grad():
        rows = view.final(rows[:, None].to(parameter.device, parameter.dtype))[:, 0].float().cpu()
    return Activations({"ln_final": rows}, captured.rows, captured.provenance)


def last_residuals(
    model: HookedModel, texts: Sequence[str], progress: bool | None
) -> Float[np.ndarray, "text d_model"]:
    """λ at the last token of each text, in float64."""
    return final_residuals(model, texts, progress=progress)["ln_final"].double().numpy()


def default_texts() -> list[str]:
    """The packaged contexts: what the whitened product is measured on unless rows are given."""
    pairs = [(pair.first, pair.second) for pair in ambiguous_contexts()]
    return list(dict.fromkeys(text for texts in (*parallel_contexts().values(), *pairs) for text in texts))


def make_metrics(
    model: HookedModel,
    readout: Readout,
    names: Sequence[str],
    residuals: Float[np.ndarray, "row d_model"] | None = None,
    *,
    progress: bool | None = None,
) -> dict[str, Metric]:
    """The inner products by name; the whitened one from `residuals`, or from λ on the packaged contexts.

    Raises:
        ValueError: A name is outside `METRICS`, there is none, or the residuals have another width.
    """
    names = several(names)
    if not names or not set(names) <= set(METRICS):
        raise ValueError(f"metrics={tuple(names)}: expected some of {', '.join(METRICS)}")
    width = int(readout.weights.shape[0])
    if residuals is not None and residuals.shape[1] != width:
        raise ValueError(f"residuals have width {residuals.shape[1]}, the model {width}")
    out: dict[str, Metric] = {}
    for name in dict.fromkeys(names):
        if name == "euclidean":
            out[name] = euclidean(width)
        elif name == "causal":
            out[name] = causal(column_covariance(readout.weights))
        else:
            if residuals is None:
                captured = final_residuals(model, default_texts(), "all", progress=progress)
                residuals = captured["ln_final"].double().numpy()
            out[name] = whitened(covariance(np.asarray(residuals, np.float64)))
    return out


def words_provenance(model: HookedModel, settings: Mapping[str, Any], **sources: str) -> dict[str, Any]:
    """The model, where lists and rows came from, settings and versions."""
    named = {"model": model_identity(model), **sources}
    return {**named, "settings": settings, "versions": library_versions()}
