"""The edits that a ridge probe's two directions define: steer, clamp, erase, ablate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Shaped

from graticule.hooks.messages import UnknownNameError
from graticule.probes.estimators.edits import AffineEdit, unit_moves
from graticule.probes.estimators.solvers import RidgeWeights

EditOp = Literal["add", "steer", "clamp", "erase", "ablate"]
"""What `RidgeProbe.edit` and `fwd_hooks` do."""


@runtime_checkable
class Erases(Protocol):
    """Something that gives an edit which removes a concept, such as a LEACE `Eraser`."""

    @property
    def edit(self) -> AffineEdit:
        """The removal."""
        ...


def ridge_edit(
    weights: RidgeWeights,
    names: Sequence[str],
    op: EditOp,
    scale: float,
    *,
    target: int | str | None = None,
    sd: Shaped[np.ndarray, ...] | Sequence[float] | None = None,
    eraser: Erases | None = None,
) -> AffineEdit:
    """The edit that `RidgeProbe.fwd_hooks` makes; see there.

    **Raises** `ValueError` for an unknown op or an `sd` of the wrong length, `KeyError` for an unknown
    target.
    """
    chosen = columns_of(names, target)
    if op == "ablate":
        left, values, _ = np.linalg.svd(weights.write[:, chosen], full_matrices=False)
        basis = left[:, values > 1e-10 * values.max(initial=0.0)]
        return AffineEdit.setting(basis, weights.x_mean @ basis, basis.T)
    if op == "erase" and eraser is not None:
        return eraser.edit
    moves = unit_moves(weights.coef, weights.write)[:, chosen]
    if op in ("add", "steer"):
        spread = weights.y_scale if sd is None else np.asarray(sd, np.float64)
        if spread.shape != (len(names),):
            raise ValueError(f"sd has shape {spread.shape}, expected one of each of {', '.join(names)}")
        return AffineEdit.translation(moves @ (scale * spread[chosen]))
    if op == "clamp":
        goal = np.full(len(chosen), float(scale))
    elif op == "erase":
        goal = weights.y_mean[chosen]
    else:
        raise ValueError(f"op={op!r}: expected 'add' (or 'steer'), 'clamp', 'erase' or 'ablate'")
    return AffineEdit.setting(weights.coef[:, chosen], goal - weights.intercept[chosen], moves.T)


def columns_of(names: Sequence[str], target: int | str | None) -> list[int]:
    """Columns that `target` means: all for None. **Raises** `KeyError` for an unknown one."""
    if target is None:
        return list(range(len(names)))
    if isinstance(target, str):
        if target not in names:
            raise UnknownNameError(f"no target {target!r}; this probe has {', '.join(names)}")
        return [list(names).index(target)]
    if not -len(names) <= target < len(names):
        raise UnknownNameError(f"no target {target}; this probe has {len(names)}: {', '.join(names)}")
    return [target % len(names)]
