"""What an evaluation of an SAE found, in words, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from graticule.hooks.names import user_path
from graticule.hooks.saved import SavedResult
from graticule.saes.evaluation.dictionary import ALIKE, ALWAYS_ON, Dictionary
from graticule.saes.evaluation.losses import Losses
from graticule.saes.evaluation.rows import Reconstruction

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_CAPTION_TABLE = "What was measured, and the figure of SAELens's run_evals that it equals"
_CAPTION_DENSITY = "How often latents fire; the ultralow-density cluster apart"
_CAPTION_CLUSTERS = "Density, encoder bias and encoder·decoder cosine of every living latent"
_CAPTION_POSITION = "Reconstruction and loss by token position"
_CAPTION_STATE = "The dictionary"


@dataclass(frozen=True)
class SaeEvaluation(SavedResult):
    """How good an SAE is: its reconstruction, what the model loses by it, and the state of its dictionary."""

    KIND: ClassVar[str] = "sae_evaluation"

    name: str
    """The SAE's name."""
    model: str
    """The model's name."""
    hook_name: str
    """The hook point."""
    architecture: str
    """SAELens's name of the SAE's kind."""
    d_in: int
    """Width of what it reads."""
    d_sae: int
    """Latents."""
    reconstruction: Reconstruction
    """How well it reconstructs rows; special tokens are left out."""
    losses: Losses | None
    """What the model loses by it; None where that was not asked for."""
    dictionary: Dictionary
    """Dead, ultralow and always-on latents, and copies."""
    latents: pd.DataFrame
    """A line a latent: `latent`, `density` (share of rows on which it fires; `training_density` where a run
    counted it), `b_enc`, `encoder_decoder` (cosine), `decoder_norm`, `nearest` (living latent with the most
    alike decoder vector), `nearest_cosine`, `cluster` (`dead`, `ultralow` or `alive`)."""
    positions: pd.DataFrame
    """A line a token position: `position`, `rows`, `explained_variance`, `cosine` (median), `l0` (mean) and,
    with losses, `ce_clean`, `ce_sae`, `ce_zero`, `ce_mean`, `kl` (nats)."""
    provenance: Mapping[str, Any]
    """SAE, model, corpus, sample and versions."""

    @property
    def title(self) -> str:
        """SAE and model."""
        return f"SAE: {self.name} at {self.hook_name} of {self.model}"

    @property
    def l0(self) -> float:
        """Mean number of active latents a row."""
        return self.reconstruction.l0

    @property
    def explained_variance(self) -> float:
        """1 − Σ‖x − x̂‖² / Σ‖x − x̄‖²."""
        return self.reconstruction.explained_variance

    @property
    def loss_recovered_zero(self) -> float:
        """Share of loss recovered against zero ablation; NaN without losses."""
        return self.losses.recovered_zero if self.losses else float("nan")

    @property
    def loss_recovered_mean(self) -> float:
        """Share of loss recovered against mean ablation; NaN without losses."""
        return self.losses.recovered_mean if self.losses else float("nan")

    @property
    def kl(self) -> float:
        """KL from the clean model's predictions, nats; NaN without losses."""
        return self.losses.kl if self.losses else float("nan")

    @property
    def dead_fraction(self) -> float:
        """Share of latents that fired on no row."""
        return self.dictionary.dead_fraction

    def figures_by_name(self) -> dict[str, float | int | str | None]:
        """The figures under their names, flat: what `evaluation.json` holds and a model card quotes."""
        r, d, lost = self.reconstruction, self.dictionary, self.losses
        named: dict[str, Any] = {
            "l0": r.l0,
            "explained_variance": r.explained_variance,
            "loss_recovered_zero": self.loss_recovered_zero,
            "loss_recovered_mean": self.loss_recovered_mean,
            "kl": self.kl,
            "dead_fraction": self.dead_fraction,
            "explained_variance_without_top": r.explained_variance_without_top,
            "n_top": r.n_top,
            "top_share": r.top_share,
            "cosine_median": r.cosine_median,
            "norm_ratio": r.norm_ratio,
            "mse": r.mse,
            "large_rows": r.large.n,
            "large_rows_share": r.large.share,
            "rows_left_out": r.left_out or None,
            "ce_clean": lost.clean if lost else None,
            "ce_sae": lost.sae if lost else None,
            "ce_zero": lost.zero if lost else None,
            "ce_mean": lost.mean if lost else None,
            "dead": d.dead,
            "ultralow": d.ultralow,
            "always_on": d.always_on,
            "alive": d.alive,
            "copies": d.copies,
            "n_rows": r.n_rows,
            "n_loss_tokens": lost.n_tokens if lost else 0,
            "d_in": self.d_in,
            "d_sae": self.d_sae,
            "hook_name": self.hook_name,
            "model": self.model,
            "architecture": self.architecture,
            "corpus": self._corpus(),
        }
        return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in named.items()}

    def _corpus(self) -> str | None:
        """The corpus's name; of a file its own, as where it lies here is nobody's business."""
        name = self.provenance.get("corpus", {}).get("name")
        return None if name is None else user_path(name).name if user_path(name).exists() else str(name)

    def summary(self) -> str:
        """Variance and loss, then sparsity, then the dictionary."""
        r, d = self.reconstruction, self.dictionary
        lines = [
            f"explains {r.explained_variance:.1%} of the variance with {r.l0:.1f} latents a token"
            + (f", {_headline(self.losses)}" if self.losses else "")
            + f"; {d.dead_fraction:.1%} of {self.d_sae:,} latents fire on none of {r.n_rows:,} tokens"
        ]
        without = (
            f"without the {r.n_top} largest directions, which hold {r.top_share:.0%} of the variance, it "
            f"explains {r.explained_variance_without_top:.1%}; median cosine {r.cosine_median:.3f}, "
            f"norm ratio {r.norm_ratio:.3f} ({r.n_rows:,} tokens, special ones left out)"
        )
        lines.append(without)
        lines += [words for words in (r.left_out, r.large.words) if words]
        if self.losses:
            lost = self.losses
            zero = _share(lost.recovered_zero, lost.recovered_zero_ci95)
            mean = _share(lost.recovered_mean, lost.recovered_mean_ci95)
            lines.append(
                f"loss {lost.clean:.3f} nats clean, {lost.sae:.3f} with the SAE, {lost.zero:.3f} zeroed, "
                f"{lost.mean:.3f} at the mean: recovered {zero} against zeros, {mean} against the mean; "
                f"KL {lost.kl:.3f} nats ({lost.n_tokens:,} tokens)"
            )
        low = f", {d.ultralow:,} in an ultralow cluster below {d.ultralow_below:.1e}" if d.ultralow else ""
        lines.append(
            f"{d.alive:,} latents alive{low}, {d.dead:,} dead, {d.always_on:,} always on "
            f"(over {ALWAYS_ON:.0%}); {d.copies:,} copies (decoder cosine ≥ {ALIKE}); "
            f"median nearest cosine {d.nearest_cosine:.2f}, "
            f"chance {d.nearest_cosine_random:.2f}"
        )
        return "\n".join(lines)

    def figures(self) -> dict[str, Figure]:
        """Densities, clusters, and reconstruction by position."""
        from graticule.saes.evaluation.figures import cluster_figure, density_figure, position_figure

        out = {
            _CAPTION_DENSITY: density_figure(self.latents, self.reconstruction.n_rows),
            _CAPTION_POSITION: position_figure(self.positions),
        }
        shown = self.latents[self.latents["cluster"] != "dead"]
        if shown["b_enc"].notna().any() or shown["encoder_decoder"].notna().any():
            out[_CAPTION_CLUSTERS] = cluster_figure(shown)
        return out

    def tables(self) -> dict[str, pd.DataFrame]:
        """The figures with SAELens's names for them, and the dictionary's."""
        return {_CAPTION_TABLE: self._measures(), _CAPTION_STATE: self._state()}

    def _measures(self) -> pd.DataFrame:
        r = self.reconstruction
        lines: list[tuple[str, float, str]] = [
            ("L0", r.l0, "l0"),
            ("explained variance", r.explained_variance, "explained_variance"),
            (
                f"explained variance without the top {r.n_top} directions",
                r.explained_variance_without_top,
                "",
            ),
            ("cosine a token, median", r.cosine_median, ""),
            ("cosine a token, mean", r.cosine_mean, "cossim"),
            ("squared error a token", r.mse, "mse"),
            ("norm of the reconstruction over the row's", r.norm_ratio, "l2_ratio"),
        ]
        if self.losses:
            lost = self.losses
            lines += [
                ("loss, clean (nats)", lost.clean, "ce_loss_without_sae"),
                ("loss with the SAE", lost.sae, "ce_loss_with_sae"),
                ("loss zeroed", lost.zero, "ce_loss_with_ablation"),
                ("loss at the mean", lost.mean, ""),
                ("loss recovered against zeros", lost.recovered_zero, "ce_loss_score"),
                ("loss recovered against the mean", lost.recovered_mean, ""),
                ("KL from the clean model (nats)", lost.kl, "kl_div_with_sae"),
                ("KL zeroed", lost.kl_zero, "kl_div_with_ablation"),
                ("KL at the mean", lost.kl_mean, ""),
            ]
        return pd.DataFrame(
            {
                "measure": [line[0] for line in lines],
                "value": [_number(line[1]) for line in lines],
                "in SAELens": [line[2] or "–" for line in lines],
            }
        )

    def _state(self) -> pd.DataFrame:
        d = self.dictionary
        lines = {
            "latents": f"{self.d_sae:,}",
            "alive": f"{d.alive:,}",
            f"dead (never on {self.reconstruction.n_rows:,} tokens)": f"{d.dead:,}",
            "in the ultralow cluster": f"{d.ultralow:,}",
            "always on (more than half of the tokens)": f"{d.always_on:,}",
            "on more than 1 % of the tokens": f"{d.dense:,}",
            "lowest density outside the cluster": _number(d.lowest),
            f"copies of another (decoder cosine ≥ {ALIKE})": f"{d.copies:,}",
            "nearest decoder cosine, median": _number(d.nearest_cosine),
            "the same of random directions": _number(d.nearest_cosine_random),
        }
        return pd.DataFrame({"measure": list(lines), "value": list(lines.values())})


def _headline(lost: Losses) -> str:
    if np.isnan(lost.recovered_zero):
        return (
            f"loss recovered is undefined (zeros cost this model nothing: {lost.zero:.3f} nats, clean "
            f"{lost.clean:.3f})"
        )
    return f"recovers {lost.recovered_zero:.1%} of the loss"


def _share(share: float, interval: tuple[float, float]) -> str:
    """A share of the loss with its interval, or that there is none."""
    if np.isnan(share):
        return "undefined (no loss to recover)"
    bounds = "no interval" if np.isnan(interval[0]) else f"{interval[0]:.1%}, {interval[1]:.1%}"
    return f"{share:.1%} [{bounds}]"


def _number(value: float) -> str:
    """Four significant digits, as words: one column holds nats, shares and counts."""
    return "–" if np.isnan(value) else f"{value:.4g}"
