"""The tables of latents as people read them."""

from __future__ import annotations

import pandas as pd


def arms_table(arms: pd.DataFrame) -> pd.DataFrame:
    """A line a predictor, several SAEs one after another."""
    shown = (
        pd.DataFrame({"SAE": arms["sae"]}) if arms["sae"].nunique() > 1 else pd.DataFrame(index=arms.index)
    )
    shown["predictor"] = arms["arm"]
    shown["k"] = arms["k"].astype("Int64")
    shown["validation R²"] = arms["validation"]
    shown["test R²"] = arms["score"]
    shown["gain"] = arms["gain"]
    shown["from"] = arms["low"]
    shown["to"] = arms["high"]
    shown["verdict"] = arms["words"]
    return shown.reset_index(drop=True)


def top_table(top: pd.DataFrame) -> pd.DataFrame:
    """The listed latents with their scores and decoder cosines."""
    names = {
        "target": "target",
        "latent": "latent",
        "train_r2": "train R²",
        "test_r2": "test R²",
        "test_spearman": "test Spearman",
        "test_auroc": "test AUROC",
        "frequency": "active on",
        "p_bh_test": "p (BH)",
        "cos_read": "cosine, read",
        "p_bh_read": "p (BH), read",
        "cos_write": "cosine, write",
        "p_bh_write": "p (BH), write",
    }
    kept = [name for name in names if name in top]
    return top[kept].rename(columns=names).reset_index(drop=True)


def saes_table(saes: pd.DataFrame) -> pd.DataFrame:
    """A line an SAE."""
    names = {
        "sae": "SAE",
        "point": "hook point",
        "architecture": "architecture",
        "d_sae": "latents",
        "l0": "active a row (L0)",
        "alive": "latents ever active",
        "explained_variance": "variance explained (test rows)",
    }
    return saes[list(names)].rename(columns=names)
