"""`recovery(saes, truth)`: how many of a world's true atoms a dictionary holds, beside what chance gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float

from graticule.hooks.artifact import library_versions
from graticule.hooks.coders import SparseCoder, describe
from graticule.saes.atoms.arms import Arm, make_arms
from graticule.saes.atoms.firing import tell
from graticule.saes.atoms.result import SaeRecovery
from graticule.saes.atoms.truth import Truth

FOUND = 0.9
"""Cosine from which an atom counts as found."""


def recovery(
    saes: SparseCoder | Mapping[str, SparseCoder], truth: Truth, *, test_share: float = 0.5, seed: int = 0
) -> SaeRecovery:
    """How many of the true atoms one or several SAEs recover, beside the same SAE untrained, as many random
    directions, and PCA: in few dimensions chance alone comes close to every direction.

    An atom's cosine is that with the nearest decoder vector, *signed*, as a latent fires one way only.
    Latents and thresholds that tell an atom are chosen on some groups of rows and scored on the others
    (`test_share`). Mean correlation, uniqueness and classification are SAELens's own
    (`sae_lens.synthetic.evals`; unsigned).

    **Raises** `ValueError` for an SAE of another width, or a share outside (0, 1).
    """
    if not 0 < test_share < 1:
        raise ValueError(f"test_share={test_share}: of the groups, between 0 and 1")
    named = {"SAE": saes} if isinstance(saes, SparseCoder) else dict(saes)
    if not named:
        raise ValueError("no SAE: give one, or a {name: SAE} mapping")
    test = _test_rows(truth, test_share, seed)
    found = [_judge(arm, truth, test) for arm in make_arms(named, truth, seed)]
    return SaeRecovery(
        arms=pd.DataFrame([line for line, _ in found]),
        atoms=pd.concat([atoms for _, atoms in found], ignore_index=True),
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


def _test_rows(truth: Truth, share: float, seed: int) -> Bool[np.ndarray, " row"]:
    """Rows of a random share of the groups."""
    names, place = np.unique(truth.groups, return_inverse=True)
    return (np.random.default_rng([seed, 7]).random(len(names)) < share)[place.reshape(-1)]


def _judge(arm: Arm, truth: Truth, test: np.ndarray) -> tuple[dict[str, Any], pd.DataFrame]:
    cosine = best_cosines(arm.decoder, truth.atoms)
    firing = tell(arm.latents, truth.fires, test)
    atoms = pd.DataFrame(
        {
            "world": truth.name,
            "arm": arm.name,
            "atom": list(truth.names),
            "firing": truth.firing,
            "cosine": cosine,
            "latent": firing.latent,
            "f1": firing.f1,
            "f1_floor": firing.floor,
            "caught": firing.caught,
            "split": firing.split,
            "absorbed": firing.absorbed,
            "missed": firing.missed,
        }
    )
    means = atoms[["f1", "f1_floor", "caught", "split", "absorbed", "missed"]].mean()
    line: dict[str, Any] = {
        "world": truth.name,
        "arm": arm.name,
        "latents": len(arm.decoder),
        "cosine": float(cosine.mean()),
        "cosine_median": float(np.median(cosine)),
        "found": float((cosine >= FOUND).mean()),
        **_saelens(arm, truth, test),
        **{str(name): float(value) for name, value in means.items()},
        "l0": float((arm.latents > 0).sum(axis=1).mean()),
        "dead": float((~(arm.latents > 0).any(axis=0)).mean()),
        "explained_variance": arm.explained_variance,
    }
    return line, atoms


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


def _saelens(arm: Arm, truth: Truth, test: np.ndarray) -> dict[str, float]:
    """SAELens's metrics: mean correlation coefficient, uniqueness, mean F1 of latents for their atoms."""
    from sae_lens.synthetic.evals import (
        compute_classification_metrics,
        feature_uniqueness,
        mean_correlation_coefficient,
    )

    decoder, atoms = torch.from_numpy(arm.decoder), torch.from_numpy(truth.atoms.astype(np.float64))
    acts, fires = torch.from_numpy(arm.latents[test]), torch.from_numpy(truth.fires[test]).double()
    return {
        "mcc": mean_correlation_coefficient(decoder, atoms),
        "uniqueness": feature_uniqueness(decoder, atoms),
        "f1_saelens": compute_classification_metrics(acts, fires, decoder, atoms).f1_score,
    }
