"""The first features of an SAE, in words, tables and a figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd

from graticule.hooks.saved import SavedResult
from graticule.saes.features.examples import in_words

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_SHOWN = 5
_SHOWN_EXAMPLES = 3
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
    """A line a feature: `latent`, `density` (share of tokens on which it fires), `maximum`, `mean` (of its
    activations where it fires)."""
    examples: pd.DataFrame
    """A line an example, at most one a context: `latent`, `rank`, `activation`, `before`, `token`, `after`,
    `context`, `position`, `token_id`."""
    effects: pd.DataFrame
    """A line a token raised or lowered: `latent`, `sign`, `rank`, `token`, `token_id`, `effect` (logits a
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
        from graticule.saes.features.figures import effects_figure

        if self.effects.empty:
            return {}
        return {_CAPTION_EFFECTS: effects_figure(self.effects, self.features)}

    def tables(self) -> dict[str, pd.DataFrame]:
        """A line a feature, in words."""
        examples = self.examples[self.examples["rank"] < _SHOWN_EXAMPLES]
        words = examples.assign(
            words=[in_words(b, t, a) for b, t, a in examples[["before", "token", "after"]].to_numpy(str)]
        )
        where = words.groupby("latent")["words"].agg("  ·  ".join)
        latents = self.features["latent"]
        shown: dict[str, Any] = {
            "latent": latents.astype(str),
            "density": [f"{x:.1e}" for x in self.features["density"]],
            "max": [f"{x:.3g}" for x in self.features["maximum"]],
            "fires most at": latents.map(where).fillna("–"),
        }
        if not self.effects.empty:
            for sign, name in ((1, "raises"), (-1, "lowers")):
                few = self.effects[(self.effects["sign"] == sign) & (self.effects["rank"] < _SHOWN)]
                told = (
                    few.assign(token=[quoted(t) for t in few["token"]])
                    .groupby("latent")["token"]
                    .agg(", ".join)
                )
                shown[name] = latents.map(told).fillna("–")
        return {_CAPTION: pd.DataFrame(shown)}


def quoted(token: str) -> str:
    """A token as it reads: its leading space and line breaks made visible."""
    text = token.replace("\n", "↵")
    return "␣" * (len(text) - len(text.lstrip(" "))) + text.lstrip(" ") if text else "''"
