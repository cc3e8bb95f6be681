"""The tables of a hold-out as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from graticule.probes.generalisation.holdouts import Holdouts


def readable(result: Holdouts, scores: str, rivals: str) -> dict[str, pd.DataFrame]:
    """The tables of a page, in words."""
    from graticule.probes.plots.style import label

    first = pd.DataFrame(
        {
            "figure": result.scores["measure"],
            # words, as kilometres and shares in one column would share their decimals
            "block in training": [_number(v) for v in result.scores["nominal"]],
            "block held out": [_number(v) for v in result.scores["held_out"]],
            "95% interval": [
                f"{_number(a)} to {_number(b)}" if a == a else ""
                for a, b in zip(result.scores["low"], result.scores["high"], strict=True)
            ],
            "chance": [_number(v) for v in result.scores["chance"]],
            "chance is": result.scores["chance_is"],
        }
    )
    second = pd.DataFrame(
        {
            "predictor": [label(p) for p in result.rivals["predictor"]],
            "R² held out": result.rivals["r2"],
            "95% from": result.rivals["low"],
            "to": result.rivals["high"],
            "the probe adds": result.rivals["probe_adds"],
            "adds from": result.rivals["adds_low"],
            "adds to": result.rivals["adds_high"],
            "centroid cosine": result.rivals["cosine"],
            "distance moved": result.rivals["ratio"],
        }
    )
    b = result.blocks
    third = pd.DataFrame(
        {
            result.by: b["block"],
            "rows": b["rows"],
            "test rows": b["test_rows"],
            f"{result.measure}, in": b["nominal"],
            "held out": b["held_out"],
            "95% from": b["held_out_low"],
            "to": b["held_out_high"],
            "training mean": b["mean_level"],
            "R²": b["r2"],
            "centroid cosine": b["cosine"],
            "distance moved": b["ratio"],
        }
    )
    if "error_held_out" in b:
        third["median error, in"], third["held out (error)"] = b["error_nominal"], b["error_held_out"]
    out = {scores: first, rivals: second, f"Every {result.by} that was held out": third}
    if len(result.layers):
        out["Every layer; exploratory but for the chosen one"] = result.layers.drop(columns=["point"])
    return out


def _number(value: float) -> str:
    return "" if value != value else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}"
