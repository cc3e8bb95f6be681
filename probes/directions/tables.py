"""The tables of directions as people read them."""

from __future__ import annotations

import pandas as pd


def angles_table(angles: pd.DataFrame) -> pd.DataFrame:
    """A line a pair, kind and geometry, the closest first."""
    held = angles.sort_values(["p", "kind", "geometry"], kind="stable")
    names = {
        "a": "concept",
        "b": "other concept",
        "kind": "direction",
        "geometry": "inner product",
        "cosine": "cosine",
        "degrees": "angle (degrees)",
        "level": "shuffled, 95% below",
        "p": "p",
        "p_bh": "p (BH)",
    }
    return held[list(names)].rename(columns=names).reset_index(drop=True)


def alone_table(alone: pd.DataFrame) -> pd.DataFrame:
    """How well each direction is pinned down, and its cosine with its own counterpart."""
    names = {
        "concept": "concept",
        "kind": "direction",
        "geometry": "inner product",
        "split_half": "cosine of two halves",
        "read_write": "cosine of read and write",
    }
    return alone[list(names)].rename(columns=names)


def ranks_table(ranks: pd.DataFrame) -> pd.DataFrame:
    """Effective rank beside that of shuffled targets."""
    names = {
        "set": "targets of",
        "kind": "direction",
        "targets": "targets",
        "effective_rank": "effective rank",
        "shuffled": "shuffled",
        "shuffled_low": "shuffled, from",
        "shuffled_high": "to",
    }
    return ranks[list(names)].rename(columns=names).reset_index(drop=True)
