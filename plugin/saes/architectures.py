"""What SAELens lacks of Bricken et al. 2023, "Towards Monosemanticity": the sparse autoencoder, registered as
an architecture on import, and where its decoder's bias starts.

x̄ = x - b_dec;  f = ReLU(x̄ W_enc + b_enc);  x̂ = f W_dec + b_dec, with decoder rows of unit norm. The loss of a
batch is the mean over rows of

    mean_i (x_i - x̂_i)²  +  λ ‖f‖₁         (the paper: mean over the d_in elements, sum over latents)

where SAELens's own losses *sum* over the d_in elements. d_in times the paper's loss is SAELens's, with
λ' = d_in λ: `sum_convention` and `mean_convention` convert. The paper's λ = 0.004 at d_in = 512 is 2.05
there.

It saves as SAELens's `standard`, which any SAELens loads: the two differ only in how they are trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from sae_lens import StandardSAEConfig, TrainingSAE, TrainingSAEConfig, register_sae_training_class
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY
from sae_lens.saes.sae import TrainCoefficientConfig, TrainStepInput, TrainStepOutput
from torch import Tensor, nn

ARCHITECTURE = "bricken"
BiasStart = Literal["geometric_median", "mean", "zeros"]
"""What a decoder's bias starts at."""


def sum_convention(l1_coefficient: float, d_in: int) -> float:
    """The paper's λ (squared error averaged over elements) as SAELens's `l1_coefficient` (summed)."""
    return l1_coefficient * d_in


def mean_convention(l1_coefficient: float, d_in: int) -> float:
    """SAELens's `l1_coefficient` (squared error summed over elements) as the paper's λ (averaged)."""
    return l1_coefficient / d_in


@dataclass
class BrickenTrainingSAEConfig(TrainingSAEConfig):
    """Settings of the paper's autoencoder.

    `l1_coefficient` is the paper's λ, beside a squared error *averaged* over the d_in elements; it warms up
    over `l1_warm_up_steps` (the paper: none). The decoder's unit norm and the bias tied to the input are the
    method: other values of `decoder_init_norm` and `apply_b_dec_to_input` are refused.

    Raises:
        ValueError: for those, for a negative λ, or for a normalisation at run time.
    """

    l1_coefficient: float = 0.004
    l1_warm_up_steps: int = 0
    decoder_init_norm: float | None = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decoder_init_norm != 1.0:
            raise ValueError(
                f"decoder_init_norm={self.decoder_init_norm}: a bricken SAE's decoder has unit norm; leave "
                "it at 1.0, or train architecture 'standard'"
            )
        if not self.apply_b_dec_to_input:
            raise ValueError(
                "apply_b_dec_to_input=False: a bricken SAE subtracts its decoder bias from the input; leave "
                "it True, or train architecture 'standard'"
            )
        if self.l1_coefficient < 0:
            raise ValueError(f"l1_coefficient={self.l1_coefficient}: expected a number of 0 or more")
        if self.normalize_activations in ("layer_norm", "constant_norm_rescale"):
            raise ValueError(
                f"normalize_activations={self.normalize_activations!r}: the loss is of the activations "
                "themselves; use 'none' or 'expected_average_only_in'"
            )

    @classmethod
    def architecture(cls) -> str:
        return ARCHITECTURE

    def get_inference_config_class(self) -> type[StandardSAEConfig]:
        return StandardSAEConfig


class _Tangent(torch.autograd.Function):
    """The decoder as it is; backward, its gradient without the part along each row.

    That part would only change a norm that is restored after the step; taken out here, before Adam, it does
    not enter Adam's moments either.
    """

    @staticmethod
    def forward(ctx: Any, W_dec: Tensor) -> Tensor:
        ctx.save_for_backward(W_dec)
        return W_dec.view_as(W_dec)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        (W_dec,) = ctx.saved_tensors
        return without_parallel(grad_outputs[0], W_dec)


def without_parallel(
    gradient: Float[Tensor, "d_sae d_in"], W_dec: Float[Tensor, "d_sae d_in"]
) -> Float[Tensor, "d_sae d_in"]:
    """`gradient` minus, row by row, its component along the decoder's row."""
    along = (gradient * W_dec).sum(1, keepdim=True) / W_dec.square().sum(1, keepdim=True)
    return gradient - along * W_dec


class BrickenTrainingSAE(TrainingSAE[BrickenTrainingSAEConfig]):
    """The paper's autoencoder in training.

    Every training pass starts by giving the decoder unit norm again, so that SAELens's own trainer trains it
    properly; `graticule.saes.steps.fast.make_optimizer` does so after each step as well. Start the bias
    with `start_bias`. Resampling is `graticule.saes.resampling.Resampler`'s.
    """

    b_enc: nn.Parameter

    def __init__(self, cfg: BrickenTrainingSAEConfig, use_error_term: bool = False) -> None:
        super().__init__(cfg, use_error_term)
        self.mse_loss_fn = self._element_share

    def _element_share(self, out: Tensor, x: Tensor) -> Tensor:
        """Squared errors which, summed over elements as SAELens does, give the paper's mean over them."""
        return (out - x).square() / self.cfg.d_in

    def initialize_weights(self) -> None:
        """Encoder and decoder Kaiming-uniform and untied, decoder rows of unit norm, biases zero."""
        super().initialize_weights()
        with torch.no_grad():
            self.W_dec.div_(self.W_dec.norm(dim=-1, keepdim=True))
            nn.init.kaiming_uniform_(self.W_enc.t())  # fan-in d_in, as torch reads [out, in]
        self.b_enc = nn.Parameter(torch.zeros(self.cfg.d_sae, dtype=self.dtype, device=self.device))

    @torch.no_grad()
    def renormalize_decoder(self) -> None:
        """Give every decoder row unit norm again."""
        self.W_dec.div_(self.get_W_dec_norm()[:, None])

    def get_coefficients(self) -> dict[str, float | TrainCoefficientConfig]:
        return {"l1": TrainCoefficientConfig(self.cfg.l1_coefficient, self.cfg.l1_warm_up_steps)}

    def encode_with_hidden_pre(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden_pre = self.hook_sae_acts_pre(self.process_sae_in(x) @ self.W_enc + self.b_enc)
        return self.hook_sae_acts_post(self.activation_fn(hidden_pre)), hidden_pre

    def decode(self, feature_acts: Tensor) -> Tensor:
        W_dec: Any = _Tangent.apply(self.W_dec)
        recons = self.hook_sae_recons(feature_acts @ W_dec + self.b_dec)
        return self.reshape_fn_out(recons, self.d_head)

    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        self.renormalize_decoder()
        return super().training_forward_pass(step_input)

    def calculate_aux_loss(
        self,
        step_input: TrainStepInput,
        feature_acts: Tensor,
        hidden_pre: Tensor,  # noqa: ARG002 SAELens's signature
        sae_out: Tensor,  # noqa: ARG002
    ) -> dict[str, Tensor]:
        return {"l1_loss": step_input.coefficients["l1"] * feature_acts.sum(-1).mean()}

    def process_state_dict_for_saving_inference(self, state_dict: dict[str, Any]) -> None:
        """A decoder that is not of unit norm (a folded scaling factor) gives its norms to the encoder."""
        super().process_state_dict_for_saving_inference(state_dict)
        norms = self.get_W_dec_norm()
        if bool((norms - 1).abs().max() > 1e-6):
            state_dict["W_dec"] = state_dict["W_dec"] / norms[:, None]
            state_dict["W_enc"] = state_dict["W_enc"] * norms
            state_dict["b_enc"] = state_dict["b_enc"] * norms


if ARCHITECTURE not in SAE_TRAINING_CLASS_REGISTRY:  # the module may be reloaded
    register_sae_training_class(ARCHITECTURE, BrickenTrainingSAE, BrickenTrainingSAEConfig)


# Where the bias starts -------------------------------------------------------------------------------


@torch.no_grad()
def start_bias(sae: Any, rows: Float[Tensor, "row d_in"], method: BiasStart = "geometric_median") -> None:
    """Set `sae.b_dec` to the centre of `rows`, which are scaled as the SAE will see them.

    Left as it is where `method` is `"zeros"`, and in an SAE that does not subtract it from its input: the
    encoder would not know. Rows that are not finite do not count.

    Raises:
        ValueError: where none is left.
    """
    if method == "zeros" or not (hasattr(sae, "b_dec") and sae.cfg.apply_b_dec_to_input):
        return
    rows = rows[rows.isfinite().all(dim=1)]  # the step that meets the others says so
    centre = geometric_median(rows) if method == "geometric_median" else rows.double().mean(0)
    sae.b_dec.copy_(centre.to(sae.b_dec))


@torch.no_grad()
def geometric_median(
    rows: Float[Tensor, "row d_in"], tolerance: float = 1e-6, max_iterations: int = 200
) -> Float[Tensor, " d_in"]:
    """The point that minimises Σ‖row - point‖, by Weiszfeld's iteration in float64.

    Started at the mean; stops when a step is shorter than `tolerance` times the rows' mean distance. A row
    that the iteration runs into is handled after Vardi & Zhang (2000), so that it is not stuck there.

    Raises:
        ValueError: without rows, or where a value is not finite.
    """
    if not len(rows):
        raise ValueError("the geometric median of no rows: give at least one")
    rows = rows.double()
    point = rows.mean(0)
    if not bool(point.isfinite().all()):
        raise ValueError("rows hold values that are not finite; leave them out first")
    for _ in range(max_iterations):
        distance = torch.linalg.vector_norm(rows - point, dim=1)
        scale = distance.mean()
        if scale == 0:
            return point
        away = distance > 1e-12 * scale
        pull = torch.where(away, 1 / distance.clamp_min(1e-300), torch.zeros_like(distance))
        target = (pull @ rows) / pull.sum()
        at_point = int((~away).sum())  # rows at the point itself, which pull with at most their number
        if at_point:
            force = torch.linalg.vector_norm(pull.sum() * (target - point))
            target = point + max(0.0, 1 - at_point / float(force.clamp_min(1e-300))) * (target - point)
        step = torch.linalg.vector_norm(target - point)
        point = target
        if step <= tolerance * scale:
            break
    return point
