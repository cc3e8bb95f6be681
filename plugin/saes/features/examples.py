"""The tokens on which each latent fires most, kept while activations go by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

AROUND = 4
"""Tokens shown on each side, as in the paper's dashboards."""


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
            rows, found = columns.indices[part], columns.data[part].astype(np.float64)
            if not len(rows):
                continue
            order = np.lexsort((place[rows], -np.abs(found)))
            # one token a context: the same phrase a few tokens on is not another example
            _, first = np.unique(context[rows][order], return_index=True)
            best = order[np.sort(first)][: self.keep]
            value = np.concatenate([self._value.get(latent, np.zeros(0)), found[best]])
            where = np.concatenate([self._place.get(latent, np.zeros(0, np.int64)), place[rows[best]]])
            kept = np.lexsort((where, -np.abs(value)))[: self.keep]
            self._value[latent], self._place[latent] = value[kept], where[kept]

    def of(self, latent: int) -> tuple[Float[np.ndarray, " example"], Int[np.ndarray, " example"]]:
        """Activations, the strongest first, and the tokens' numbers; empty where it never fired."""
        return self._value.get(latent, np.zeros(0)), self._place.get(latent, np.zeros(0, np.int64))


def example_table(
    found: TopExamples,
    latents: Sequence[int],
    tokens: Int[np.ndarray, "context pos"],
    tokenizer: Any,
    hidden: Sequence[int] = (),
) -> pd.DataFrame:
    """A line an example: `latent`, `rank`, `activation`, `before`, `token`, `after` (texts), `context`,
    `position`, `token_id`. Special tokens (`hidden`) are left out of the texts around."""
    lines: list[dict[str, Any]] = []
    size = tokens.shape[1]
    for latent in latents:
        for rank, (value, place) in enumerate(zip(*found.of(latent), strict=True)):
            context, position = divmod(int(place), size)
            ids = tokens[context]
            low, high = max(0, position - AROUND), position + AROUND + 1
            lines.append(
                {
                    "latent": int(latent),
                    "rank": rank,
                    "activation": float(value),
                    "before": _text(tokenizer, ids[low:position], hidden),
                    "token": _text(tokenizer, ids[position : position + 1], ()),
                    "after": _text(tokenizer, ids[position + 1 : high], hidden),
                    "context": context,
                    "position": position,
                    "token_id": int(ids[position]),
                }
            )
    return pd.DataFrame(lines, columns=list(_COLUMNS)).astype(_COLUMNS)


_COLUMNS = {
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


def _text(tokenizer: Any, ids: np.ndarray, hidden: Sequence[int]) -> str:
    kept = [int(i) for i in ids if int(i) not in hidden]
    if tokenizer is None:
        return " ".join(map(str, kept))
    return str(tokenizer.decode(kept, clean_up_tokenization_spaces=False)) if kept else ""


def in_words(before: str, token: str, after: str) -> str:
    """An example on one line, the token in angle quotes."""
    held = token.strip("\n") or "↵"
    gap = " " if held.startswith(" ") else ""
    return f"{before}{gap}«{held.strip() or '␣'}»{after}".replace("\n", "↵").strip()
