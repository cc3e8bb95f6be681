"""What an evaluation of an SAE found, in words, tables and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

from graticule.hooks.names import user_path
from graticule.hooks.saved import SavedResult
from graticule.probes.plots.primitives import bar_trace, dots_trace, line_trace, new_figure, panels
from graticule.probes.plots.style import ACCENT, BLOCKS, FAINT, INK, MUTED, SURFACE, need_columns, style
from graticule.saes.evaluation.losses import CONDITIONS, Losses
from graticule.saes.evaluation.reconstruction import Reconstruction
from graticule.saes.features.dictionary import ALIKE, ALWAYS_ON, Dictionary

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_CAPTION_TABLE = "What was measured, and the figure of SAELens's run_evals that it equals"
_CAPTION_DENSITY = "How often latents fire"
_CAPTION_ULTRALOW = f"{_CAPTION_DENSITY}; the ultralow-density cluster apart"
_CAPTION_CLUSTERS = "Density, encoder bias and encoder·decoder cosine of every living latent"
_CAPTION_POSITION = "Reconstruction and loss by token position"
_CAPTION_STATE = "The dictionary"
# what is said of a measure, its attribute, and SAELens's name for it
_OF_ROWS = (
    ("L0", "l0", "l0"),
    ("explained variance", "explained_variance", "explained_variance"),
    ("explained variance without the top {n_top} directions", "explained_variance_without_top", ""),
    ("cosine a token, median", "cosine_median", ""),
    ("cosine a token, mean", "cosine_mean", "cossim"),
    ("squared error a token", "mse", "mse"),
    ("norm of the reconstruction over the row's", "norm_ratio", "l2_ratio"),
)
_OF_LOSSES = (
    ("loss, clean (nats)", "clean", "ce_loss_without_sae"),
    ("loss with the SAE", "sae", "ce_loss_with_sae"),
    ("loss zeroed", "zero", "ce_loss_with_ablation"),
    ("loss at the mean", "mean", ""),
    ("loss recovered against zeros", "recovered_zero", "ce_loss_score"),
    ("loss recovered against the mean", "recovered_mean", ""),
    ("KL from the clean model (nats)", "kl", "kl_div_with_sae"),
    ("KL zeroed", "kl_zero", "kl_div_with_ablation"),
    ("KL at the mean", "kl_mean", ""),
)
_BINS_A_DECADE = 5
_MOST_POINTS = 8000
_CLUSTERS = {"alive": "alive", "ultralow": "ultralow cluster"}


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
    """One row per latent: `latent`, `density` (share of rows on which it fires; `training_density` where a
    run counted it), `b_enc`, `encoder_decoder` (cosine), `decoder_norm`, `nearest` (living latent with the
    most alike decoder vector), `nearest_cosine`, `cluster` (`dead`, `ultralow` or `alive`)."""
    positions: pd.DataFrame
    """One row per token position: `position`, `rows`, `explained_variance`, `cosine` (median), `l0` (mean)
    and, with losses, `ce_clean`, `ce_sae`, `ce_zero`, `ce_mean`, `kl` (nats)."""
    provenance: Mapping[str, Any]
    """SAE, model, corpus, sample and versions."""

    @property
    def title(self) -> str:
        """SAE and model."""
        return f"SAE: {self.name} at {self.hook_name} of {self.model}"

    @property
    def l0(self) -> float:
        """Mean number of active latents per row."""
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
            **_attributes(self, "l0", "explained_variance", "loss_recovered_zero", "loss_recovered_mean"),
            **_attributes(self, "kl", "dead_fraction"),
            **_attributes(r, "explained_variance_without_top", "n_top", "top_share", "cosine_median"),
            **_attributes(r, "norm_ratio", "mse"),
            "large_rows": r.large.n,
            "large_rows_share": r.large.share,
            "rows_left_out": r.left_out or None,
            **{f"ce_{name}": getattr(lost, name) if lost else None for name in CONDITIONS},
            **_attributes(d, "dead", "ultralow", "always_on", "alive", "copies"),
            "n_rows": r.n_rows,
            "n_loss_tokens": lost.n_tokens if lost else 0,
            **_attributes(self, "d_in", "d_sae", "hook_name", "model", "architecture"),
            "corpus": self._corpus(),
        }
        return {k: None if isinstance(v, float) and np.isnan(v) else v for k, v in named.items()}

    def _corpus(self) -> str | None:
        """The corpus's name; of a file its own, as where it lies here is nobody's business."""
        name = self.provenance.get("corpus", {}).get("name")
        if name is None or "://" in str(name):
            return name
        return user_path(name).name if user_path(name).exists() else str(name)

    def summary(self) -> str:
        """Variance and loss, then sparsity, then the dictionary."""
        r, d = self.reconstruction, self.dictionary
        lines = [
            f"explains {r.explained_variance:.1%} of the variance with {r.l0:.1f} latents a token"
            + (f", {_headline(self.losses)}" if self.losses else "")
            + f"; {d.dead_fraction:.1%} of {self.d_sae:,} latents fire on none of {r.n_rows:,} tokens"
        ]
        lines.append(
            f"without the {r.n_top} largest directions, which hold {r.top_share:.0%} of the variance, it "
            f"explains {r.explained_variance_without_top:.1%}; median cosine {r.cosine_median:z.3f}, "
            f"norm ratio {r.norm_ratio:z.3f} ({r.n_rows:,} tokens, special ones left out)"
        )
        lines += filter(None, (r.left_out, r.large.words))
        if lost := self.losses:
            zero = _share(lost.recovered_zero, lost.recovered_zero_ci95)
            mean = _share(lost.recovered_mean, lost.recovered_mean_ci95)
            lines.append(
                f"loss {lost.clean:z.3f} nats clean, {lost.sae:z.3f} with the SAE, {lost.zero:z.3f} zeroed, "
                f"{lost.mean:z.3f} at the mean: recovered {zero} against zeros, {mean} against the mean; "
                f"KL {lost.kl:z.3f} nats ({lost.n_tokens:,} tokens)"
            )
        low = f", {d.ultralow:,} in an ultralow cluster below {d.ultralow_below:.1e}" if d.ultralow else ""
        lines.append(
            f"{d.alive:,} latents alive{low}, {d.dead:,} dead, {d.always_on:,} always on "
            f"(over {ALWAYS_ON:.0%}); {d.copies:,} copies (decoder cosine ≥ {ALIKE}); "
            f"median nearest cosine {d.nearest_cosine:z.2f}, "
            f"chance {d.nearest_cosine_random:z.2f}"
        )
        return "\n".join(lines)

    def figures(self) -> dict[str, Figure]:
        """Densities, clusters, and reconstruction by position."""
        caption = _CAPTION_ULTRALOW if (self.latents["cluster"] == "ultralow").any() else _CAPTION_DENSITY
        out = {
            caption: density_figure(self.latents, self.reconstruction.n_rows),
            _CAPTION_POSITION: _position_figure(self.positions),
        }
        living = self.latents[self.latents["cluster"] != "dead"]
        if living["b_enc"].notna().any() or living["encoder_decoder"].notna().any():
            out[_CAPTION_CLUSTERS] = _cluster_figure(living)
        return out

    def tables(self) -> dict[str, pd.DataFrame]:
        """The figures with SAELens's names for them, and the dictionary's."""
        return {_CAPTION_TABLE: self._measures(), _CAPTION_STATE: self._state()}

    def _measures(self) -> pd.DataFrame:
        r, lost = self.reconstruction, self.losses
        values = [(label, getattr(r, name), theirs) for label, name, theirs in _OF_ROWS]
        values += [(label, getattr(lost, name), theirs) for label, name, theirs in _OF_LOSSES if lost]
        return pd.DataFrame(
            {
                "measure": [label.format(n_top=r.n_top) for label, _, _ in values],
                "value": [_number(value) for _, value, _ in values],
                "in SAELens": [theirs or "–" for _, _, theirs in values],
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
        nats = f"{lost.zero:z.3f} nats, clean {lost.clean:z.3f}"
        return f"loss recovered is undefined (zeros cost this model nothing: {nats})"
    return f"recovers {lost.recovered_zero:.1%} of the loss"


def _share(share: float, interval: tuple[float, float]) -> str:
    """A share of the loss with its interval, or that there is none."""
    if np.isnan(share):
        return "undefined (no loss to recover)"
    bounds = "no interval" if np.isnan(interval[0]) else f"{interval[0]:.1%}, {interval[1]:.1%}"
    return f"{share:.1%} [{bounds}]"


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.4g}"


def _attributes(value: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(value, name) for name in names}


_DECADES = {"type": "log", "exponentformat": "power", "dtick": 1}


# Figures -----------------------------------------------------------------------------------------------
def density_figure(latents: pd.DataFrame, n_rows: int) -> Figure:
    """Histogram of log densities (those of the training where a run counted them), the ultralow cluster in
    its own colour; dead latents are counted in the note."""
    need_columns(latents, "density", "cluster")
    counted = "training_density" in latents
    density = latents["training_density" if counted else "density"]
    ultralow = (latents["cluster"] == "ultralow")[density > 0].to_numpy()
    log = np.log10(density[density > 0].to_numpy(np.float64))
    low = min(-1, int(np.floor(log.min()))) if len(log) else -6
    edges = np.linspace(low, 0.0, -low * _BINS_A_DECADE + 1)
    fig = new_figure()
    middles, widths = 10 ** ((edges[1:] + edges[:-1]) / 2), 10 ** edges[1:] - 10 ** edges[:-1]
    for name, picked, colour in (("alive", ~ultralow, SURFACE), ("ultralow", ultralow, ACCENT)):
        counts = np.histogram(log[picked], edges)[0]
        if counts.sum():
            marker = {"color": colour, "line": {"color": "white", "width": 0.5}}
            more: dict[str, Any] = {"hover": "density %{x:.1e}: %{y} latents<extra></extra>"}
            more |= {"width": widths, "marker": marker}
            fig.add_trace(bar_trace(middles, counts, _CLUSTERS[name], colour, **more))
    dead = int((latents["cluster"] == "dead").sum())
    note = f"{dead:,} of {len(latents):,} latents fired on none of {n_rows:,} tokens and are not drawn."
    if counted:
        note += " Densities are those that training counted."
    across = {"title_text": "share of tokens on which the latent fires", **_DECADES}
    return style(fig, height=340, aspect=0.36, extra=60, note=note, x=across, y="latents", barmode="stack")


def _cluster_figure(latents: pd.DataFrame) -> Figure:
    """Encoder bias, and encoder·decoder cosine, against density: where the paper's two clusters part."""
    need_columns(latents, "latent", "density", "b_enc", "encoder_decoder", "cluster")
    column = "training_density" if "training_density" in latents else "density"
    firing = latents[latents[column] > 0]
    step = max(1, -(-len(firing) // _MOST_POINTS))
    drawn = firing.iloc[::step]
    fig, cells = panels(columns=2, horizontal_spacing=0.12)
    hover = "latent %{customdata}: %{x:.1e}, %{y:.3f}<extra></extra>"
    for y, cell in zip(("b_enc", "encoder_decoder"), cells, strict=True):
        for name, colour in (("alive", SURFACE), ("ultralow", ACCENT)):
            rows = drawn[(drawn["cluster"] == "ultralow") == (name == "ultralow")]
            if len(rows):
                more: dict[str, Any] = {"legendgroup": name, "showlegend": cell == cells[0], "hover": hover}
                more |= {"look": {"opacity": 0.5}, "customdata": rows["latent"]}
                fig.add_trace(dots_trace(rows[column], rows[y], _CLUSTERS[name], colour, 4, **more), **cell)
    note = "" if step == 1 else f"One in {step} latents is drawn."
    style(fig, height=360, aspect=0.4, extra=60, note=note, x={"title_text": "density", **_DECADES})
    for title, cell in zip(("encoder bias", "cosine of encoder and decoder"), cells, strict=True):
        fig.update_yaxes(title_text=title, **cell)
    return fig


def _position_figure(positions: pd.DataFrame) -> Figure:
    """Explained variance and cosine along a context, and the losses where they were taken."""
    need_columns(positions, "position", "explained_variance", "cosine")
    curves = [
        ("explained_variance", "explained variance", INK, 1),
        ("cosine", "median cosine", SURFACE, 1),
        ("ce_clean", "loss, clean", INK, 2),
        ("ce_sae", "loss, SAE", ACCENT, 2),
        ("ce_mean", "loss, mean", BLOCKS[4], 2),
        ("ce_zero", "loss, zero", FAINT, 2),
    ]
    losses = "ce_clean" in positions
    fig, cells = panels(columns=2 if losses else 1, horizontal_spacing=0.12)
    for name, label, colour, col in curves:
        if name in positions and (losses or col == 1):
            hover = f"%{{y:.3f}}<extra>{label}</extra>"
            curve = line_trace(positions["position"], positions[name], label, colour, 1.5, hover=hover)
            fig.add_trace(curve, **cells[col - 1])
    # no further down than −.5: a bad position must not flatten the rest
    least = np.nanmin(positions[["explained_variance", "cosine"]].to_numpy())
    low = max(-0.5, min(0.0, float(least) - 0.05))
    layout: dict[str, Any] = {"hovermode": "x", "legend_font_color": MUTED}
    style(fig, height=340, aspect=0.38, extra=80, x="token position", **layout)
    fig.update_yaxes(title_text="share or cosine, rows at the position", range=(low, 1.02), col=1)
    fig.update_yaxes(title_text="nats a token", rangemode="tozero", col=2)
    return fig
