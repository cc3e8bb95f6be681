"""A real, small result: seeded places read by a noisy reader, with every kind of figure and table."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pytest

from graticule.hooks.artifact import read_json, read_table, write_json, write_table
from graticule.hooks.kinds import write_folder
from graticule.hooks.result import Result


@dataclass(frozen=True)
class Places(Result):
    words: str
    predictions: pd.DataFrame

    @property
    def title(self) -> str:
        return "Places & <em>years</em> in a toy"

    def summary(self) -> str:
        return f"{self.words}\n{len(self.predictions)} rows, <script>alert('summary')</script>"

    def figures(self) -> dict[str, Any]:
        from graticule.probes import plots

        rows = self.predictions
        layers = pd.DataFrame(
            {
                "layer": range(6),
                "point": [f"blocks.{k}.hook_resid_post" for k in range(6)],
                "validation": [0.1, 0.3, 0.45, 0.5, 0.52, 0.51],
                "test_r2": [0.12, 0.28, 0.46, 0.49, 0.51, 0.5],
            }
        )
        classes = np.where(rows["true_year"] > 1500, "late", "early")
        guess = np.where(rows["pred_year"] > 1500, "late", "early")
        baselines = {"TF-IDF": 0.42, "mean embedding": 0.41, "twin 0": 0.415, "shuffled targets": -0.01}
        return {
            "Score against <b>depth</b>.": plots.depth_figure(
                layers, baselines, "blocks.4.hook_resid_post", 0.44
            ),
            "Places.": plots.map_figure(rows, "lat", "lon", "country"),
            "Years.": plots.time_figure(rows, "true_year", "pred_year", "century"),
            "Error by country.": plots.block_error_figure(rows, "country", error="error_km"),
            "Classes.": plots.confusion_figure(classes, guess, ["early", "late"]),
            "Scores of two classes.": plots.class_score_figure(
                rows["pred_year"].to_numpy(np.float64), rows["true_year"].to_numpy() > 1500, ("early", "late")
            ),
        }

    def tables(self) -> dict[str, pd.DataFrame]:
        worst = self.predictions.sort_values("error_km", ascending=False).head(12)
        return {"Worst rows.": worst[["text", "country", "true_lat", "pred_lat", "error_km"]]}

    def to_json(self) -> dict[str, Any]:
        run = {"model": {"name": "toy <i>v1</i>"}, "seeds": [0, 1], "versions": {"torch": "2"}}
        return {"words": self.words, "provenance": run}

    def save(self, path: Path | str) -> None:
        with write_folder(path, kind="toy") as folder:
            write_table(folder / "predictions.parquet", self.predictions)
            write_json(folder / "findings.json", self.to_json())

    @classmethod
    def load(cls, path: Path | str) -> Self:
        words = read_json(Path(path) / "findings.json")["words"]
        return cls(words, read_table(Path(path) / "predictions.parquet"))


def make_predictions(n: int = 300, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    lat, lon, year = rng.uniform(-50, 65, n), rng.uniform(-170, 175, n), rng.uniform(-500, 2000, n)
    rows = pd.DataFrame(
        {
            "text": [f"Place {k}" for k in range(n)],
            "split": np.where(np.arange(n) % 3 == 0, "test", "train"),
            "country": rng.choice(["Alba", "Beria", "Very_Long_Country_Name_Indeed"], n),
            "century": np.floor(year / 100).astype(int),
            "true_lat": lat,
            "true_lon": lon,
            "true_year": year,
            "pred_lat": 0.8 * lat + rng.normal(0, 8, n),
            "pred_lon": 0.8 * lon + rng.normal(0, 20, n),
            "pred_year": 0.7 * year + 300 + rng.normal(0, 120, n),
            "error_km": rng.gamma(2.0, 800.0, n),
        }
    )
    rows.loc[0, "text"] = "</script><script>alert('row')</script>"
    rows.loc[0, "error_km"] = 19_999.0  # so that the hostile row is among the worst
    return rows


@pytest.fixture
def places() -> Places:
    return Places("structure beyond the baselines", make_predictions())
