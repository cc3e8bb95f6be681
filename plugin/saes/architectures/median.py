"""Where a decoder's bias starts: at the geometric median of the data, as in Bricken et al. 2023."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

BiasStart = Literal["geometric_median", "mean", "zeros"]
"""What a decoder's bias starts at."""


@torch.no_grad()
def start_bias(sae: Any, rows: Float[Tensor, "row d_in"], method: BiasStart = "geometric_median") -> None:
    """Set `sae.b_dec` to the centre of `rows`, which are scaled as the SAE will see them.

    Left as it is where `method` is `"zeros"`, and in an SAE that does not subtract it from its input: the
    encoder would not know. Rows that are not finite do not count.

    **Raises** `ValueError` where none is left.
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

    **Raises** `ValueError` without rows, or where a value is not finite.
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
        held = int((~away).sum())  # rows at the point itself, which pull with at most their number
        if held:
            force = torch.linalg.vector_norm(pull.sum() * (target - point))
            target = point + max(0.0, 1 - held / float(force.clamp_min(1e-300))) * (target - point)
        step = torch.linalg.vector_norm(target - point)
        point = target
        if step <= tolerance * scale:
            break
    return point
