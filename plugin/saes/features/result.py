"""The first features of an SAE, in words, tables and a figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from graticule.hooks.saved import SavedResult
from graticule.probes.plots.primitives import dots_trace, level, new_figure
from graticule.probes.plots.style import ACCENT, FAINT, SURFACE, need_columns, style

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_N_TOKENS = 5  # written out a feature and sign
_N_EXAMPLES = 3
_N_DRAWN = 12
_CAPTION_EFFECTS = "Effects on the vocabulary's logits of the strongest features drawn"
_CAPTION = "Features: where they fire most, and the tokens that they make likelier and less likely"


@dataclass(frozen=True)
class SaeFeatures(SavedResult):
    """Some features of an SAE: top tokens in context, and logit effects."""

    KIND: ClassVar[str] = "sae_features"

    name: str
    """The SAE's name."""
    model: str
    """The model's name."""
    hook_name: str
    """The hook point."""
    d_sae: int
    """Latents that the SAE has."""
    n_tokens: int
    """Tokens that examples were looked for in, special ones left out."""
    features: pd.DataFrame
    """One row per feature: `latent`, `density` (share of tokens on which it fires), `maximum`, `mean` (of its
    activations where it fires)."""
    examples: pd.DataFrame
    """One row per example, at most one per context: `latent`, `rank`, `activation`, `before`, `token`,
    `after`, `context`, `position`, `token_id`."""
    effects: pd.DataFrame
    """One row per token raised or lowered: `latent`, `sign`, `rank`, `token`, `token_id`, `effect` (logits a
    unit of activation, median of the vocabulary at 0, up to the final norm's scale). Empty where the hook
    point does not write to the residual stream."""
    provenance: Mapping[str, Any]
    """SAE, model, corpus and versions."""

    @property
    def title(self) -> str:
        """SAE and model."""
        return f"Features: {self.name} at {self.hook_name} of {self.model}"

    def summary(self) -> str:
        """How many, how they were chosen, what is shown of each."""
        f = self.features
        if f.empty:
            return f"none of {self.d_sae:,} latents fires on {self.n_tokens:,} tokens"
        lines = [
            f"{len(f)} of {self.d_sae:,} features, from latent {f['latent'].iloc[0]} to "
            f"{f['latent'].iloc[-1]}: those asked for, by default the first that fire",
            f"they fire on {f['density'].min():.1e} to {f['density'].max():.1e} of {self.n_tokens:,} tokens, "
            f"median {f['density'].median():.1e}",
        ]
        if self.effects.empty:
            lines.append("no logit effects: this hook point does not write to the residual stream")
        return "\n".join(lines)

    def figures(self) -> dict[str, Figure]:
        """The largest logit effects."""
        if self.effects.empty:
            return {}
        return {_CAPTION_EFFECTS: _effects_figure(self.effects, self.features)}

    def tables(self) -> dict[str, pd.DataFrame]:
        """One row per feature, in words."""
        examples = self.examples[self.examples["rank"] < _N_EXAMPLES]
        texts = [in_words(*parts) for parts in examples[["before", "token", "after"]].to_numpy(str)]
        latents = self.features["latent"]
        table: dict[str, Any] = {
            "latent": latents.astype(str),
            "density": [f"{x:.1e}" for x in self.features["density"]],
            "max": [f"{x:.3g}" for x in self.features["maximum"]],
            "fires most at": _joined(latents, examples, texts, "  ·  "),
        }
        if not self.effects.empty:
            for sign, name in ((1, "raises"), (-1, "lowers")):
                few = self.effects[(self.effects["sign"] == sign) & (self.effects["rank"] < _N_TOKENS)]
                table[name] = _joined(latents, few, [quoted(t) for t in few["token"]], ", ")
        return {_CAPTION: pd.DataFrame(table)}


def quoted(token: str) -> str:
    """A token as it reads: its leading space and line breaks made visible."""
    text = token.replace("\n", "↵")
    return "␣" * (len(text) - len(text.lstrip(" "))) + text.lstrip(" ") if text else "''"


def in_words(before: str, token: str, after: str) -> str:
    """An example on one line, the token in angle quotes."""
    word = token.strip("\n") or "↵"
    gap = " " if word.startswith(" ") else ""
    return f"{before}{gap}«{word.strip() or '␣'}»{after}".replace("\n", "↵").strip()


def _joined(latents: pd.Series, table: pd.DataFrame, texts: list[str], gap: str) -> pd.Series:
    """For each latent the texts of its rows in `table`, or a dash."""
    return latents.map(table.assign(text=texts).groupby("latent")["text"].agg(gap.join)).fillna("–")


def _effects_figure(effects: pd.DataFrame, features: pd.DataFrame) -> Figure:
    """For the features with the largest effects, the tokens raised and lowered most, as words at their
    effect, at the feature's strongest activation."""
    need_columns(effects, "latent", "sign", "rank", "token", "effect")
    need_columns(features, "latent", "maximum")
    most = features.set_index("latent")["maximum"]
    drawn = effects.assign(logits=effects["effect"] * effects["latent"].map(most))
    size = drawn[drawn["sign"] == 1].groupby("latent")["logits"].max().sort_values(ascending=False)
    fig = new_figure()
    names = [str(latent) for latent in size.index[:_N_DRAWN]][::-1]
    for sign, colour in ((1, SURFACE), (-1, ACCENT)):
        rows = drawn[(drawn["sign"] == sign) & drawn["latent"].astype(str).isin(names) & (drawn["rank"] < 5)]
        name, where = "raised" if sign == 1 else "lowered", rows["latent"].astype(str)
        more: dict[str, Any] = {"look": {"symbol": "line-ns-open"}, "customdata": rows["token"]}
        more["hover"] = "%{customdata}: %{x:.2f}<extra>latent %{y}</extra>"
        fig.add_trace(dots_trace(rows["logits"], where, name, colour, 7, **more))
        best = rows[rows["rank"] == 0]
        fig.add_trace(
            {
                "type": "scatter", "x": best["logits"], "y": best["latent"].astype(str), "mode": "text",
                "text": [f" {t.strip() or '␣'} " for t in best["token"]], "showlegend": False,
                "textposition": "middle right" if sign == 1 else "middle left", "hoverinfo": "skip",
                "textfont": {"color": colour, "size": 11}, "cliponaxis": False,
            }
        )  # fmt: skip
    level(fig, x=0.0, colour=FAINT, dash=None)
    low, high = float(drawn["logits"].min()), float(drawn["logits"].max())
    note = f"The {len(names)} features with the largest effects; the token moved most is written out."
    return style(
        fig, height=140 + 24 * len(names), aspect=0.05 * len(names), extra=110, note=note,
        x={"title_text": "effect at the strongest activation, before the final norm (median 0)",
           "range": [1.25 * low - 0.05 * high, 1.25 * high - 0.05 * low]},
        y={"type": "category", "categoryorder": "array", "categoryarray": names, "title_text": "latent"},
    )  # fmt: skip
