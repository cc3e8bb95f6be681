"""`recovery(saes, truth)`: how many of a world's true atoms a dictionary holds, beside what chance gives."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int

from graticule.hooks.artifact import library_versions
from graticule.hooks.coders import SparseCoder, as_published, describe
from graticule.hooks.doors import door
from graticule.hooks.messages import bar
from graticule.saes.features.recovered import BASELINES, SaeRecovery
from graticule.saes.features.truth import Truth

FOUND = 0.9
"""Cosine from which an atom counts as found."""
IMPLIES = 0.9
"""Share of a latent's firings on which an atom is there, from which the latent implies the atom."""
LIFT = 2.0
"""And how many times its base rate that must be: a common atom is there by chance."""
_ROWS = 4096
_SHARES = ("caught", "split", "absorbed", "missed")


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A dictionary on the rows of a world."""

    name: str
    decoder: Float[np.ndarray, "latent d_in"]
    """What each latent writes."""
    latents: Float[np.ndarray, "row latent"]
    """How strongly each fires on each row."""
    explained_variance: float = float("nan")
    """Of the rows; NaN where nothing is reconstructed."""


@dataclass(frozen=True)
class Firing:
    """How latents detect each atom; shares are of the test rows that hold the atom and add up to 1."""

    latent: Int[np.ndarray, " atom"]
    """The latent with the best F1 on the choosing rows; −1 where none ever fires."""
    f1: Float[np.ndarray, " atom"]
    """F1 of that latent above its threshold, on test rows."""
    f1_floor: Float[np.ndarray, " atom"]
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


@door()
def recovery(
    saes: SparseCoder | Mapping[str, SparseCoder],
    truth: Truth,
    *,
    test_share: float = 0.5,
    seed: int = 0,
    progress: bool | None = None,
) -> SaeRecovery:
    """How many of the true atoms one or several SAEs recover, beside the same SAE untrained, as many random
    directions, and PCA: in few dimensions chance alone comes close to every direction.

    An atom's cosine is that with the nearest decoder vector, *signed*, as a latent fires one way only.
    Mean correlation, uniqueness and classification are SAELens's own (`sae_lens.synthetic.evals`; unsigned).

    Args:
        saes: one SAE, or several by name.
        truth: rows with their true atoms.
        test_share: share of the groups of rows that latents are scored on; which latents tell an atom, and
            from which threshold on, is chosen on the others.
        seed: The seed of the split and of what is drawn for comparison.
        progress: whether a bar is drawn; by default where it takes long.

    Raises:
        ValueError: for no SAE, an SAE of another width, or a share outside (0, 1).
    """
    if not 0 < test_share < 1:
        raise ValueError(f"test_share={test_share}: of the groups, between 0 and 1")
    named = {"SAE": saes} if isinstance(saes, SparseCoder) else dict(saes)
    if not named:
        raise ValueError("no SAE: give one, or a {name: SAE} mapping")
    groups, place = np.unique(truth.groups, return_inverse=True)
    test = (np.random.default_rng([seed, 7]).random(len(groups)) < test_share)[place.reshape(-1)]
    scored: list[tuple[dict[str, Any], pd.DataFrame]] = []
    candidates = list(_candidates(named, truth, seed))
    with bar(len(candidates), "atoms", "dictionary", progress) as advance:
        for candidate in candidates:
            scored.append(_score(candidate, truth, test))
            advance.update()
    return SaeRecovery(
        dictionaries=pd.DataFrame([line for line, _ in scored]),
        atoms=pd.concat([atoms for _, atoms in scored], ignore_index=True),
        provenance={
            truth.name: {
                "saes": {name: describe(sae) for name, sae in named.items()},
                "n_rows": len(truth.rows),
                "n_test": int(test.sum()),
                "n_atoms": len(truth.atoms),
                "d_in": truth.d_in,
                "firing": {"least": float(truth.firing.min()), "most": float(truth.firing.max())},
                "seed": seed,
            },
            "versions": library_versions(),
        },
    )


def _score(candidate: _Candidate, truth: Truth, test: np.ndarray) -> tuple[dict[str, Any], pd.DataFrame]:
    """One line of the dictionaries' table, and its lines of the atoms'."""
    home = {"world": truth.name, "arm": candidate.name}
    cosine = best_cosines(candidate.decoder, truth.atoms)
    firing = vars(tell(candidate.latents, truth.fires, test))
    atoms = pd.DataFrame(
        {**home, "atom": list(truth.names), "firing": truth.firing, "cosine": cosine, **firing}
    )
    means = atoms[["f1", "f1_floor", *_SHARES]].mean()
    fires = candidate.latents > 0
    line: dict[str, Any] = {
        **home,
        "latents": len(candidate.decoder),
        "cosine": float(cosine.mean()),
        "cosine_median": float(np.median(cosine)),
        "found": float((cosine >= FOUND).mean()),
        **_saelens(candidate, truth, test),
        **{str(name): float(value) for name, value in means.items()},
        "l0": float(fires.sum(axis=1).mean()),
        "dead": float((~fires.any(axis=0)).mean()),
        "explained_variance": candidate.explained_variance,
    }
    return line, atoms


# Dictionaries to be compared ---------------------------------------------------------------------------
def _candidates(saes: Mapping[str, SparseCoder], truth: Truth, seed: int) -> list[_Candidate]:
    """Every SAE, then, of the first one's size: that SAE untrained, random directions, and PCA.

    Random directions and principal components (each with both signs, as latents have one) fire with what is
    positive of a centred row's projection.
    """
    coded = [_coded(name, as_published(sae), truth) for name, sae in saes.items()]
    first = next(iter(saes.values()))
    rng = np.random.default_rng(seed)
    centred = truth.rows - truth.rows.mean(axis=0)
    drawn = rng.normal(size=(int(first.cfg.d_sae), truth.d_in))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    axes = np.linalg.svd(centred.astype(np.float64), full_matrices=False)[2]
    signed = np.concatenate([axes, -axes])
    return [
        *coded,
        _coded(BASELINES[0], untrained(first, seed), truth),
        _Candidate(BASELINES[1], drawn, np.maximum(centred @ drawn.T, 0.0)),
        _Candidate(BASELINES[2], signed, np.maximum(centred @ signed.T, 0.0)),
    ]


def untrained(sae: SparseCoder, seed: int) -> SparseCoder:
    """The same SAE before training, its weights drawn anew; the caller's random state is left as it is."""
    make: Any = type(as_published(sae))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make(copy.deepcopy(as_published(sae).cfg))


def _coded(name: str, sae: SparseCoder, truth: Truth) -> _Candidate:
    if int(sae.cfg.d_in) != truth.d_in:
        raise ValueError(f"{name} has d_in {sae.cfg.d_in}, the world's rows have width {truth.d_in}")
    latents: list[np.ndarray] = []
    left, device = 0.0, sae.W_dec.device
    with torch.no_grad():
        for start in range(0, len(truth.rows), _ROWS):
            x = torch.from_numpy(truth.rows[start : start + _ROWS]).to(device, sae.W_dec.dtype)
            acts = sae.encode(x)
            left += float((x - sae.decode(acts)).double().square().sum())
            latents.append((acts.to_dense() if acts.is_sparse else acts).cpu().double().numpy())
    spread = float(np.square(truth.rows.astype(np.float64) - truth.rows.mean(axis=0, dtype=np.float64)).sum())
    decoder = sae.W_dec.detach().to("cpu", torch.float64).numpy()
    return _Candidate(name, decoder, np.concatenate(latents), 1 - left / spread)


# Directions --------------------------------------------------------------------------------------------
def best_cosines(
    decoder: Float[np.ndarray, "latent d_in"], atoms: Float[np.ndarray, "atom d_in"]
) -> Float[np.ndarray, " atom"]:
    """The greatest signed cosine of each atom with a decoder vector; vectors of length 0 count as far
    away."""
    length = np.linalg.norm(decoder, axis=1)
    unit = decoder[length > 1e-12] / length[length > 1e-12, None]
    if not len(unit):
        return np.full(len(atoms), -1.0)
    return (atoms @ unit.T / np.linalg.norm(atoms, axis=1, keepdims=True)).max(axis=1)


def _saelens(candidate: _Candidate, truth: Truth, test: np.ndarray) -> dict[str, float]:
    """SAELens's metrics: mean correlation coefficient, uniqueness, mean F1 of latents for their atoms."""
    from sae_lens.synthetic.evals import (
        compute_classification_metrics,
        feature_uniqueness,
        mean_correlation_coefficient,
    )

    decoder = torch.from_numpy(candidate.decoder)
    atoms = torch.from_numpy(truth.atoms.astype(np.float64))
    acts, fires = torch.from_numpy(candidate.latents[test]), torch.from_numpy(truth.fires[test]).double()
    return {
        "mcc": mean_correlation_coefficient(decoder, atoms),
        "uniqueness": feature_uniqueness(decoder, atoms),
        "f1_saelens": compute_classification_metrics(acts, fires, decoder, atoms).f1_score,
    }


# Firing ------------------------------------------------------------------------------------------------
def tell(
    latents: Float[np.ndarray, "row latent"],
    fires: Bool[np.ndarray, "row atom"],
    test: Bool[np.ndarray, " row"],
) -> Firing:
    """How latents detect each atom: which one, from which threshold on, and what happens where it is silent.
    Everything is chosen on the other rows and scored on `test`."""
    f1, threshold = best_thresholds(latents[~test], fires[~test])
    main = f1.argmax(axis=1)
    values, true = latents[test], fires[test]
    rate = true.mean(axis=0)
    above = values[:, main] >= threshold[np.arange(len(main)), main]
    never = f1.max(axis=1) == 0
    above[:, never] = False
    owner, own = f1.argmax(axis=0), f1.max(axis=0)
    limit = np.where(own > 0, threshold[owner, np.arange(latents.shape[1])], np.inf)
    active = values >= limit
    implies = _implies(latents[~test] >= limit, fires[~test])
    shares = {name: np.full(len(main), np.nan) for name in _SHARES}
    for a in np.flatnonzero(rate > 0):
        rows = true[:, a]
        mine = np.flatnonzero((owner == a) & (np.arange(len(owner)) != main[a]))
        others = np.flatnonzero((owner != a) & implies[:, a])
        caught = above[rows, a]
        split = ~caught & active[np.ix_(rows, mine)].any(axis=1)
        absorbed = ~caught & ~split & active[np.ix_(rows, others)].any(axis=1)
        means = [part.mean() for part in (caught, split, absorbed)]
        for name, share in zip(_SHARES, [*means, 1 - sum(map(float, means))], strict=True):
            shares[name][a] = share
    both = (above & true).sum(axis=0)
    size = above.sum(axis=0) + true.sum(axis=0)
    return Firing(
        latent=np.where(never, -1, main),
        f1=np.where(size > 0, 2 * both / np.maximum(size, 1), np.nan),
        f1_floor=2 * rate / (1 + rate),
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
