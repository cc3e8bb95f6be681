"""SAELens's trainer with a faster step, optional clipping, resampling, and a state that holds no pickle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from sae_lens import SAETrainer, TrainingSAE
from sae_lens.config import SAETrainerConfig
from sae_lens.training.activation_scaler import ActivationWhitening
from sae_lens.training.optim import get_lr_scheduler
from torch import Tensor

from graticule.saes.architectures import BiasStart, start_bias
from graticule.saes.steps.step import StepOutput, fast_step, make_optimizer

_COUNTERS = ("n_training_steps", "n_training_samples", "n_frac_active_samples", "started_fine_tuning")
_COUNTS = ("act_freq_scores", "n_forward_passes_since_fired")


class DivergedError(ValueError):
    """The loss is no longer a number."""


class Trainer(SAETrainer[Any, Any]):
    """One SAE's optimiser, schedules and statistics: SAELens's `SAETrainer`, driven by public `step`.

    The loss, its gradients and the update are SAELens's to rounding; only the way they are computed differs
    (`graticule.saes.steps`). Norm clipping, built into SAELens's step at 1, is a setting.
    """

    def __init__(
        self,
        cfg: SAETrainerConfig,
        sae: TrainingSAE[Any],
        data_provider: Iterator[Tensor] | None = None,
        *,
        clip_grad_norm: float = 1.0,
        compute_dtype: torch.dtype | None = None,
        b_dec_init_method: BiasStart = "geometric_median",
    ) -> None:
        """A trainer of `sae` on `cfg.device`; `data_provider` only serves SAELens's own `fit`.

        Arguments:
            clip_grad_norm: the norm that gradients are clipped to; 0 leaves them.
            compute_dtype: dtype of the dense products, None for the SAE's own.
            b_dec_init_method: what `first_look` starts the decoder's bias at.
        """
        if cfg.lr_end is None:
            cfg.lr_end = cfg.lr / 10  # SAELens's runner sets it, its trainer only asserts that somebody did
        super().__init__(cfg, sae.to(cfg.device), data_provider or iter(()))
        self.clip_grad_norm = clip_grad_norm
        self.b_dec_init_method: BiasStart = b_dec_init_method
        self.optimizer = make_optimizer(sae, cfg.lr, (cfg.adam_beta1, cfg.adam_beta2))
        self.lr_scheduler = get_lr_scheduler(
            cfg.lr_scheduler_name,
            lr=cfg.lr,
            optimizer=self.optimizer,
            warm_up_steps=cfg.lr_warm_up_steps,
            decay_steps=cfg.lr_decay_steps,
            training_steps=cfg.total_training_steps,
            lr_end=cfg.lr_end,
            num_cycles=cfg.n_restart_cycles,
        )
        self._forward_backward = fast_step(
            sae, compute_dtype=compute_dtype, dead_feature_window=cfg.dead_feature_window
        )
        self._finite = torch.ones((), dtype=torch.bool, device=cfg.device)

    def step(self, batch: Float[Tensor, "row d_in"]) -> Any:
        """One update on rows as the stream gives them; returns a `StepOutput`."""
        # a stream in half precision is scaled in the SAE's own
        return super().step(batch.to(self.sae.device, self.sae.dtype))

    def _train_step(self, sae: TrainingSAE[Any], sae_in: Tensor) -> Any:
        """One update on a scaled batch, in SAELens's order; returns a `StepOutput`."""
        sae.train()
        output = self._forward_backward(sae_in, self.n_forward_passes_since_fired, self.get_coefficients())
        self._count(output, len(sae_in))
        if self.clip_grad_norm:
            torch.nn.utils.clip_grad_norm_(sae.parameters(), self.clip_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.lr_scheduler.step()
        for scheduler in self.coefficient_schedulers.values():
            scheduler.step()
        return output

    @torch.no_grad()
    def _count(self, output: StepOutput, rows: int) -> None:
        self.n_forward_passes_since_fired += 1
        self.n_forward_passes_since_fired.masked_fill_(output.fired > 0, 0)  # waits for no device
        self.act_freq_scores += output.fired.to(self.act_freq_scores.dtype)
        self.n_frac_active_samples += rows
        self._finite &= output.loss.isfinite()

    def check_finite(self, weights: bool = False) -> None:
        """**Raises** `DivergedError` if any loss so far was no number (or any weight is none); this waits for
        the device."""
        what = "" if bool(self._finite) else "loss"
        if not what and weights and not all(bool(p.isfinite().all()) for p in self.sae.parameters()):
            what = "SAE"
        if what:
            lr = self.optimizer.param_groups[0]["lr"]
            raise DivergedError(f"the {what} is no longer finite at step {self.n_training_steps} (lr {lr:g})")

    def maybe_reset_sparsity(self) -> dict[str, Any]:
        """As SAELens's, but its histograms are drawn only where they are logged."""
        if self.cfg.logger.log_to_wandb:
            return super().maybe_reset_sparsity()
        if self.n_training_steps and self.n_training_steps % self.cfg.feature_sampling_window == 0:
            self._reset_running_sparsity_stats()
        return {}

    @torch.no_grad()
    def first_look(self, rows: Float[Tensor, "row d_in"]) -> None:
        """Estimate norms from `rows`, and start the decoder's bias at their centre."""
        self.estimate_scale(rows)
        start_bias(self.sae, self.activation_scaler(rows), self.b_dec_init_method)

    def estimate_scale(self, rows: Float[Tensor, "row d_in"]) -> None:
        """Estimate what `normalize_activations` asks for from `rows`, with SAELens's own estimators."""
        kind = self.sae.cfg.normalize_activations
        given: dict[str, Any] = {
            "d_in": self.sae.cfg.d_in,
            "data_provider": iter([rows]),
            "n_batches_for_norm_estimate": 1,
        }
        if kind == "expected_average_only_in" and self.activation_scaler.scaling_factor is None:
            self.activation_scaler.estimate_scaling_factor(**given)
        elif kind == "covariance_whitening" and self.activation_scaler.whitening is None:
            self.activation_scaler.estimate_whitening(**given)

    def unbias_threshold(self) -> None:
        """Take out what is left of the 0 that BatchTopK's running mean of thresholds starts at, as Adam does
        with its moments. SAELens leaves it: after 64 steps at its rate of .01 half of the threshold is
        missing, and the saved SAE lets many times k latents fire."""
        sae: Any = self.sae
        rate = getattr(sae.cfg, "topk_threshold_lr", None)
        if rate and self.n_training_steps:
            sae.topk_threshold = sae.topk_threshold / (1 - (1 - rate) ** self.n_training_steps)

    def fold_scale(self) -> None:
        """Fold the scaling into the weights, as `fit` does at its end."""
        scaler = self.activation_scaler
        if scaler.scaling_factor is not None:
            self.sae.fold_activation_norm_scaling_factor(scaler.scaling_factor)
            scaler.scaling_factor = None
        if scaler.whitening is not None:
            white = scaler.whitening
            self.sae.fold_activation_whitening(
                mean=white.mean, whitening_matrix=white.matrix, unwhitening_matrix=white.inverse_matrix
            )
            scaler.whitening = None

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        white = self.activation_scaler.whitening
        return {
            "sae": dict(self.sae.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": self.lr_scheduler.state_dict(),
            "coefficients": {n: s.state_dict() for n, s in self.coefficient_schedulers.items()},
            "scaling_factor": self.activation_scaler.scaling_factor,
            "whitening": None if white is None else [white.mean, white.matrix, white.inverse_matrix],
            **{name: getattr(self, name) for name in (*_COUNTERS, *_COUNTS)},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, to the bit on the same device and versions."""
        self.sae.load_state_dict(state["sae"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.lr_scheduler.load_state_dict(state["lr_scheduler"])
        for name, held in state["coefficients"].items():
            self.coefficient_schedulers[name].load_state_dict(held)
        self.activation_scaler.scaling_factor = state["scaling_factor"]
        if state["whitening"] is not None:
            self.activation_scaler.whitening = ActivationWhitening(*state["whitening"])
        for name in _COUNTERS:
            setattr(self, name, state[name])
        for name in _COUNTS:
            setattr(self, name, state[name].to(self.cfg.device))

    def line(self, output: StepOutput) -> dict[str, float]:
        """What the history keeps of a step: loss and its terms, L0, explained variance, dead latents;
        learning rate and coefficients as SAELens logs them, after the schedulers' step."""
        found: dict[str, Any] = {
            "step": self.n_training_steps,
            "tokens": self.n_training_samples,
            "loss": output.loss,
            **output.losses,
            "l0": output.l0,
            "explained_variance": output.explained_variance,
            "dead": self.dead_neurons.sum(),
            "lr": self.optimizer.param_groups[0]["lr"],
            **{f"{name}_coefficient": value for name, value in self.get_coefficients().items()},
        }
        return {name: float(value) for name, value in found.items()}
