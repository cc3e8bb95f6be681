"""What latents hold of a target, beside the dense probe and what the SAE loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from graticule.hooks.meant import UnknownNameError
from graticule.hooks.result import Part
from graticule.hooks.saved import SavedResult
from graticule.probes.material import Predicted
from graticule.probes.scores.in_words import count_of, plain, signed, with_interval

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

DENSE, LATENTS, ALL = "dense probe", "latents", "all latents"
RECONSTRUCTION, ERROR = "reconstruction", "error term"
COORDINATES, RANDOM = "coordinates", "random latents"


@dataclass(frozen=True)
class LatentFindings(SavedResult):
    """The result of `graticule.latents`."""

    KIND: ClassVar[str] = "latents"

    model: str
    """The model's name."""
    table: str
    """The table's name."""
    kind: str
    """`numeric`, `binary` or `categorical`."""
    target_names: tuple[str, ...]
    """A name a target."""
    units: tuple[str | None, ...]
    """A unit a target."""
    ks: tuple[int, ...]
    """How many latents were tried."""
    chosen_sae: str
    """The SAE whose largest k has the best out-of-fold R² on training rows."""
    saes: pd.DataFrame
    """A line an SAE: `sae`, `point`, `layer`, `architecture`, `d_sae`, `l0`, `alive` (share of latents active
    on any row), `explained_variance` (on test rows)."""
    arms: pd.DataFrame
    """A line an SAE and arm: `sae`, `arm`, `k` (at most: see `selected`), `validation`, `score`, `gain`,
    `low`, `high`, `words`. Of random latents these are the mean over draws, `low` and `high` the range."""
    top: pd.DataFrame
    """The latents that go with each target best on training rows, scored on test rows: see `top_latents`."""
    selected: pd.DataFrame
    """A line an SAE and step of the forward selection on all training rows: `sae`, `order`, `latent`."""
    cosines: pd.DataFrame
    """Decoder cosines of every latent to both directions of every target: see `decoder_cosines`."""
    levels: pd.DataFrame
    """`sae`, `target`, `direction`, `level`: the |cos| that the largest of as many random decoders stays
    below with probability .95."""
    scatter: pd.DataFrame
    """Test rows of each target's best latent: `sae`, `target`, `latent`, `source`, `activation`, `value`."""
    predictions: Float[np.ndarray, "arm test target"]
    """Test predictions of every line of `arms` (the first draw of random latents), in target units."""
    y: Float[np.ndarray, "test target"]
    """Targets of the test rows."""
    source: Int[np.ndarray, " test"]
    """The table row of each test row."""
    clusters: Int[np.ndarray, " test"]
    """Dependent rows share one."""
    provenance: Mapping[str, Any]
    """Model, table, SAEs, settings and versions."""

    @property
    def title(self) -> str:
        """Model, table and SAEs."""
        names = self.saes["sae"]
        held = names.iloc[0] if len(names) == 1 else f"{len(names)} SAEs"
        return f"Latents of {held} on {self.model}, {self.table}"

    def arm(self, arm: str, k: int | None = None, sae: str | None = None) -> Mapping[str, Any]:
        """One line of `arms`; of the chosen SAE unless another is named.

        **Raises** `KeyError` naming the arms there are.
        """
        return dict(self.arms.iloc[self._line(arm, k, sae)])

    def at(self, arm: str, k: int | None = None, sae: str | None = None) -> Predicted:
        """The test predictions of one arm, for `compare`. **Raises** `KeyError` as `arm`."""
        line = self._line(arm, k, sae)
        count = "" if k is None else f"{k} "
        return Predicted(
            name=f"{count}{arm}, {sae or self.chosen_sae}",
            target_names=self.target_names,
            units=self.units,
            source=self.source,
            clusters=self.clusters,
            y=self.y,
            predictions=self.predictions[line],
        )

    def _line(self, arm: str, k: int | None, sae: str | None) -> int:
        wanted = (self.arms["sae"] == (sae or self.chosen_sae)) & (self.arms["arm"] == arm)
        wanted &= self.arms["k"].isna() if k is None else (self.arms["k"] == k)
        found = np.flatnonzero(wanted.to_numpy())
        if not len(found):
            held = [
                f"{a}{'' if pd.isna(k) else f' (k={int(k)})'}" for a, k in zip(*self._names(), strict=True)
            ]
            raise UnknownNameError(
                f"no arm {arm!r} with k={k} of SAE {sae or self.chosen_sae!r}; there are {held}"
            )
        return int(found[0])

    def _names(self) -> tuple[list[str], list[Any]]:
        held = self.arms.drop_duplicates(["arm", "k"])
        return held["arm"].to_list(), held["k"].to_list()

    def summary(self) -> str:
        """What the most latents give against the dense probe, then what the SAE keeps and loses."""
        largest = max(self.ks)
        few, dense = self.arm(LATENTS, largest), self.arm(DENSE)
        sae = self.saes[self.saes["sae"] == self.chosen_sae].iloc[0]
        there = min(largest, int((self.selected["sae"] == self.chosen_sae).sum()))
        why = count_of(len(self.y), "test row")
        fewer = f" ({largest} were asked for, and no other adds anything)" if there < largest else ""
        lines = [
            f"{few['words']}: {_count(there)} of {self.chosen_sae}{fewer} {_gain(few, why)}; "
            f"the dense probe {_gain(dense, why)}",
            f"at {sae['point']}: {int(sae['d_sae']):,} latents, {sae['l0']:.1f} active a row, "
            f"{sae['explained_variance']:.3f} of the variance reconstructed",
        ]
        if len(self.saes) > 1:
            lines[1] += f"; chosen among {len(self.saes)} SAEs on training rows"
        rest: list[str] = []
        for name in (ALL, RECONSTRUCTION, ERROR):
            line = self.arm(name)
            rest.append(f"{name} {_gain(line, why)}, {line['words']}")
        lines.append("; ".join(rest))
        for k in self.ks:
            line, other, luck = (self.arm(a, k) for a in (LATENTS, COORDINATES, RANDOM))
            lines.append(
                f"{_count(k)}: R² {plain(line['score'])}, gain {signed(line['gain'], why)}, {line['words']} "
                f"(as many coordinates R² {plain(other['score'])}, random latents {plain(luck['score'])})"
            )
        return "\n".join([*lines, *self._best()])

    def _best(self) -> list[str]:
        lines: list[str] = []
        for target in self.target_names:
            of = (self.top["sae"] == self.chosen_sae) & (self.top["target"] == target)
            if not of.any():
                continue
            best = self.top[of].iloc[0]
            level = self.levels[
                (self.levels["sae"] == self.chosen_sae) & (self.levels["target"] == target)
            ].set_index("direction")["level"]
            lines.append(
                f"{target}: latent {int(best['latent'])}, test Spearman {best['test_spearman']:+.3f}; "
                f"decoder cosine {best['cos_read']:+.2f} to read (the largest of random decoders "
                f"{level['read']:.2f}), {best['cos_write']:+.2f} to write ({level['write']:.2f})"
            )
        return lines if len(lines) <= 6 else [*lines[:5], f"… and {len(lines) - 5} targets more"]

    def figures(self) -> dict[str, Figure]:
        """Gain of every arm, R² by k, the best latent against the target, decoder cosines against chance."""
        from graticule.probes.plots.latents import arms_figure, cosine_figure, count_figure, latent_figure

        out = {"What each predictor adds to the surface on test rows": arms_figure(self.arms)}
        out["Test R² by the number of latents"] = count_figure(self.arms[self.arms["sae"] == self.chosen_sae])
        for target, unit in list(zip(self.target_names, self.units, strict=True))[:4]:
            of = (self.scatter["sae"] == self.chosen_sae) & (self.scatter["target"] == target)
            if of.any():
                caption = f"The latent that goes with {target} best on training rows, on test rows"
                out[caption] = latent_figure(self.scatter[of], target, unit)
        held = self.cosines[self.cosines["sae"] == self.chosen_sae]
        levels = self.levels[self.levels["sae"] == self.chosen_sae]
        for target in self.target_names[:2]:
            of = held["target"] == target
            if of.any():
                caption = f"Decoder cosines with the directions of {target}, and where chance ends"
                out[caption] = cosine_figure(held[of], levels[levels["target"] == target])
        return out

    def tables(self) -> dict[str, pd.DataFrame]:
        """The arms, the top latents of the chosen SAE, and the SAEs."""
        from graticule.probes.latents.tables import arms_table, saes_table, top_table

        held = self.top[self.top["sae"] == self.chosen_sae]
        return {
            "Every predictor against the same surface": arms_table(self.arms),
            "Latents chosen on training rows, scored on test rows": top_table(held),
            "The SAEs": saes_table(self.saes),
        }

    def layout(self, figures: Sequence[str], tables: Sequence[str]) -> list[Part]:
        """Gain and its table first, then single latents."""
        return self.figure_then_table(figures, tables)


def _count(k: int) -> str:
    return "1 latent" if k == 1 else f"{k} latents"


def _gain(line: Mapping[str, Any], why: str) -> str:
    gain = with_interval(line["gain"], (line["low"], line["high"]), why)
    return f"gain {gain} (R² {plain(line['score'])})"
