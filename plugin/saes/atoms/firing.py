"""Which latent tells that an atom is there, at which threshold, and what happens where it is silent.

Everything is chosen on one half of the rows and scored on the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

IMPLIES = 0.9
"""Share of a latent's firings on which an atom is there, from which the latent implies the atom."""
LIFT = 2.0
"""And how many times its base rate that must be: a common atom is there by chance."""


@dataclass(frozen=True)
class Firing:
    """How an atom is told, a number an atom; shares are of the test rows that hold the atom and add up to
    1."""

    latent: Int[np.ndarray, " atom"]
    """The latent with the best F1 on the choosing rows; −1 where none ever fires."""
    f1: Float[np.ndarray, " atom"]
    """F1 of that latent above its threshold, on test rows."""
    floor: Float[np.ndarray, " atom"]
    """F1 of saying that the atom is always there, 2p / (1 + p): what is worth nothing."""
    caught: Float[np.ndarray, " atom"]
    """Rows on which that latent is above its threshold."""
    split: Float[np.ndarray, " atom"]
    """Rows on which it is silent and another latent fires that tells this very atom best: splitting."""
    absorbed: Float[np.ndarray, " atom"]
    """Rows on which none of these fires, but a latent that belongs to another atom and implies this one:
    absorption (Chanin et al. 2024, by firing)."""
    missed: Float[np.ndarray, " atom"]
    """The rest."""


def tell(
    latents: Float[np.ndarray, "row latent"],
    fires: Bool[np.ndarray, "row atom"],
    test: Bool[np.ndarray, " row"],
) -> Firing:
    """How each atom is told by latents."""
    f1, threshold = best_thresholds(latents[~test], fires[~test])
    main = f1.argmax(axis=1)
    held, true = latents[test], fires[test]
    rate = true.mean(axis=0)
    above = held[:, main] >= threshold[np.arange(len(main)), main]
    never = f1.max(axis=1) == 0
    above[:, never] = False
    owner, own = f1.argmax(axis=0), f1.max(axis=0)
    limit = np.where(own > 0, threshold[owner, np.arange(latents.shape[1])], np.inf)
    active = held >= limit
    implies = _implies(latents[~test] >= limit, fires[~test])
    shares = {k: np.full(len(main), np.nan) for k in ("caught", "split", "absorbed", "missed")}
    for a in np.flatnonzero(rate > 0):
        rows = true[:, a]
        mine = np.flatnonzero((owner == a) & (np.arange(len(owner)) != main[a]))
        others = np.flatnonzero((owner != a) & implies[:, a])
        caught = above[rows, a]
        split = ~caught & active[np.ix_(rows, mine)].any(axis=1)
        absorbed = ~caught & ~split & active[np.ix_(rows, others)].any(axis=1)
        parts = {"caught": caught, "split": split, "absorbed": absorbed}
        for name, found in parts.items():
            shares[name][a] = found.mean()
        shares["missed"][a] = 1 - sum(float(found.mean()) for found in parts.values())
    both = (above & true).sum(axis=0)
    size = above.sum(axis=0) + true.sum(axis=0)
    return Firing(
        latent=np.where(never, -1, main),
        f1=np.where(size > 0, 2 * both / np.maximum(size, 1), np.nan),
        floor=2 * rate / (1 + rate),
        **shares,
    )


def best_thresholds(
    latents: Float[np.ndarray, "row latent"], fires: Bool[np.ndarray, "row atom"]
) -> tuple[Float[np.ndarray, "atom latent"], Float[np.ndarray, "atom latent"]]:
    """The best F1 of every latent for every atom, and the threshold (fires from it on) that gives it.

    Only thresholds above 0 count: a latent at 0 is silent.
    """
    n_atoms, total = fires.shape[1], fires.sum(axis=0)
    f1 = np.zeros((n_atoms, latents.shape[1]))
    threshold = np.full((n_atoms, latents.shape[1]), np.inf)
    for j in range(latents.shape[1]):
        rows = np.flatnonzero(latents[:, j] > 0)
        if not len(rows):
            continue
        rows = rows[np.argsort(-latents[rows, j], kind="stable")]
        value = latents[rows, j]
        last = np.append(value[1:] != value[:-1], True)  # rows alike in value fire together
        hits = np.cumsum(fires[rows], axis=0)[last]
        fired = np.arange(1, len(rows) + 1)[last]
        score = 2 * hits / (fired[:, None] + total[None])
        best = score.argmax(axis=0)
        f1[:, j] = score[best, np.arange(n_atoms)]
        threshold[:, j] = value[last][best]
    return f1, threshold


def _implies(
    active: Bool[np.ndarray, "row latent"], fires: Bool[np.ndarray, "row atom"]
) -> Bool[np.ndarray, "latent atom"]:
    """Which latents imply which atoms."""
    both = active.T.astype(np.float64) @ fires.astype(np.float64)
    precision = both / np.maximum(active.sum(axis=0), 1)[:, None]
    return (precision >= IMPLIES) & (precision >= LIFT * fires.mean(axis=0)[None])
