"""Which word pairs a tokenizer keeps: both words single tokens, and two different ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int

from graticule.hooks.imports import load
from graticule.hooks.messages import check_whole
from graticule.hooks.protocols import HookedModel
from graticule.probes.words.lists import PairLists

LEAST = 3
"""Kept pairs that a concept needs to be analysed."""
_SPACE = "▁"  # how SentencePiece writes a space


@dataclass(frozen=True)
class TokenPairs:
    """The pairs that a tokenizer keeps, concept after concept."""

    concepts: tuple[str, ...]
    """Analysed concepts, each with `LEAST` pairs or more."""
    kept: pd.DataFrame
    """A line a pair of these concepts: `concept`, `start`, `end` (words), `start_id`, `end_id` (tokens)."""
    counts: pd.DataFrame
    """A line a concept, analysed or not: `concept`, `given` and `kept` pairs."""
    dropped: pd.DataFrame
    """A line a pair left out: `concept`, `start`, `end`, `why`."""

    @property
    def sizes(self) -> Int[np.ndarray, " concept"]:
        """Kept pairs of each analysed concept."""
        counts = self.counts.set_index("concept")["kept"]
        return np.array([int(counts[c]) for c in self.concepts], np.int64)

    @property
    def ids(self) -> Int[np.ndarray, "pair 2"]:
        """Token ids of every kept pair, start and end."""
        return self.kept[["start_id", "end_id"]].to_numpy(np.int64)

    @property
    def shared(self) -> Int[np.ndarray, "entry 2"]:
        """Every two pairs that have a token in common, in both orders, and each pair with itself."""
        return shared_tokens(self.ids)


def shared_tokens(ids: Int[np.ndarray, "pair 2"]) -> Int[np.ndarray, "entry 2"]:
    """Every two rows that have a token in common, in both orders, and each row with itself."""
    load("scipy.sparse")
    from scipy.sparse import csr_array

    _, column = np.unique(ids, return_inverse=True)
    flat = column.reshape(-1)
    rows = np.repeat(np.arange(len(ids)), 2)
    holds = csr_array((np.ones(len(flat), np.float32), (rows, flat)), shape=(len(ids), int(flat.max()) + 1))
    first, second = (holds @ holds.T).nonzero()
    return np.stack([first, second], axis=1).astype(np.int64)


def single_token(model: HookedModel, word: str) -> int | None:
    """The id of ` word` (with a leading space) if that is one token, else None.

    Tokenizers that put a space before every text themselves (SentencePiece's dummy prefix) make two of
    ` word` and one of `word`, which then begins with `▁`.

    **Raises** `ValueError` for a model without a tokenizer.
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

    **Raises** `ValueError` if no concept keeps `LEAST` pairs.
    """
    kept: list[dict[str, Any]] = []
    dropped: list[dict[str, Any]] = []
    counts: list[dict[str, Any]] = []
    for concept, rows in pairs.items():
        before = len(kept)
        for start, end in rows:
            first, second = single_token(model, start), single_token(model, end)
            line: dict[str, Any] = {"concept": concept, "start": start, "end": end}
            if first is None or second is None:
                which = " and ".join(w for w, t in ((start, first), (end, second)) if t is None)
                dropped.append({**line, "why": f"not one token: {which}"})
            elif first == second:
                dropped.append({**line, "why": "the same token"})
            else:
                kept.append({**line, "start_id": first, "end_id": second})
        counts.append({"concept": concept, "given": len(rows), "kept": len(kept) - before})
    enough = tuple(str(c["concept"]) for c in counts if c["kept"] >= LEAST)
    if not enough:
        raise ValueError(
            f"no concept keeps {LEAST} pairs of single tokens (of {sum(c['given'] for c in counts)} pairs in "
            f"{len(counts)} concepts): this tokenizer needs shorter or commoner words"
        )
    table = pd.DataFrame(kept)
    return TokenPairs(
        concepts=enough,
        kept=table[table["concept"].isin(enough)].reset_index(drop=True),
        counts=pd.DataFrame(counts),
        dropped=pd.DataFrame(dropped, columns=["concept", "start", "end", "why"]),
    )
