"""Affine edits of low rank: every way of moving activations along a probe's directions is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, Protocol, cast, overload, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from graticule.hooks.messages import UnknownNameError, brief
from graticule.probes.linear.ridge_cv import RidgeWeights

EditPos = int | slice | Sequence[int] | Sequence[Sequence[int]] | Tensor | None
"""Which tokens are edited: all (None), an index, a slice, one position a row, several a row (ragged), or a
boolean `[batch, pos]` mask."""

HookFn = Callable[..., Tensor]
"""A TransformerLens hook function: `fn(value, hook=…)`."""


@dataclass(frozen=True)
class AffineEdit:
    """x ↦ x + shift + (offset − x·right)·left, in float64: rank `right.shape[1]` plus a translation."""

    shift: Float[np.ndarray, " width"]
    """Added to every row, in activation units."""
    right: Float[np.ndarray, "width rank"]
    """What is read of a row."""
    offset: Float[np.ndarray, " rank"]
    """What those readings are set to, where `left` undoes `right`."""
    left: Float[np.ndarray, "rank width"]
    """How a missing unit of each reading is written."""

    @classmethod
    def translation(cls, shift: Float[np.ndarray, " width"]) -> AffineEdit:
        """Add the same vector to every row."""
        return cls(shift, np.zeros((len(shift), 0)), np.zeros(0), np.zeros((0, len(shift))))

    @classmethod
    def setting(
        cls,
        right: Float[np.ndarray, "width rank"],
        offset: Float[np.ndarray, " rank"],
        left: Float[np.ndarray, "rank width"],
    ) -> AffineEdit:
        """Set the readings x·right to `offset`, writing the difference along `left`."""
        return cls(np.zeros(len(right)), right, offset, left)

    @property
    def width(self) -> int:
        """Width of the activations."""
        return len(self.shift)

    @overload
    def apply(self, X: Tensor) -> Tensor: ...

    @overload
    def apply(self, X: np.ndarray | Sequence[Any]) -> Float[np.ndarray, "row width"]: ...

    def apply(self, X: Any) -> Float[np.ndarray, "row width"] | Tensor:
        """The edited rows.

        Args:
            X: `[row, width]`, an array or a tensor.

        Returns:
            The same kind of thing: an array in float64, or a tensor of the dtype and device of `X`.

        Raises:
            ValueError: if it has another shape.
        """
        shape = tuple(np.shape(X))
        if len(shape) != 2 or shape[1] != self.width:
            raise ValueError(f"X has shape {shape}, this edit is for [row, {self.width}]")
        if isinstance(X, Tensor):
            return self.on(X[None], torch.ones(1, len(X), dtype=torch.bool))[0]
        rows = np.asarray(X, dtype=np.float64)
        return rows + self.shift + (self.offset - rows @ self.right) @ self.left

    def on(self, value: Tensor, mask: Bool[Tensor, "batch pos"]) -> Tensor:
        """A copy of `value` `[batch, pos, …]` with the tokens of `mask` edited.

        Sums are in float64 (float32 on devices without it) and rounded to `value`'s dtype once.

        Raises:
            ValueError: The width differs.
        """
        if int(np.prod(value.shape[2:])) != self.width:
            raise ValueError(
                f"the hook's activation has shape {tuple(value.shape)}, this edit is for "
                f"[batch, pos, …] with {self.width} numbers per token; hook the point of the probe"
            )
        work = torch.float32 if value.device.type == "mps" else torch.float64
        shift, right, offset, left = (
            torch.from_numpy(np.ascontiguousarray(a)).to(value.device, work)
            for a in (self.shift, self.right, self.offset, self.left)
        )
        mask = mask.to(value.device)
        rows = value[mask]
        x = rows.reshape(len(rows), -1).to(work)
        edited = value.clone()
        edited[mask] = (x + shift + (offset - x @ right) @ left).to(value.dtype).reshape(rows.shape)
        return edited

    def hook(self, pos: EditPos = None) -> HookFn:
        """A TransformerLens hook function that edits the tokens of `pos`."""

        def fn(value: Tensor, hook: Any = None) -> Tensor:  # noqa: ARG001
            return self.on(value, mask_of(pos, value.shape[0], value.shape[1]))

        return fn


def mask_of(pos: EditPos, batch: int, length: int) -> Bool[Tensor, "batch pos"]:
    """Which tokens of a `[batch, pos]` input `pos` means.

    Raises:
        ValueError: As many entries as there are no rows.
        IndexError: A position outside.
    """
    mask = torch.zeros(batch, length, dtype=torch.bool)
    if pos is None:
        return ~mask
    pos = _plain(pos)
    if isinstance(pos, Tensor) and pos.dtype == torch.bool:
        if tuple(pos.shape) != (batch, length):
            raise ValueError(f"pos is a mask of shape {tuple(pos.shape)}, the input is {(batch, length)}")
        return pos.to("cpu")
    if isinstance(pos, slice):
        mask[:, pos] = True
        return mask
    if isinstance(pos, int):
        pos = [pos] * batch
    rows = cast("Sequence[Any]", pos.tolist() if isinstance(pos, Tensor) else pos)
    if len(rows) != batch:
        raise ValueError(
            f"pos holds positions of {len(rows)} rows, the batch has {batch}; give one entry per row, an "
            "index, a slice, or None for all tokens"
        )
    for row, entry in enumerate(rows):
        for position in [entry] if isinstance(entry, int) else cast("Sequence[int]", entry):
            if not -length <= position < length:
                raise IndexError(f"pos={position} for row {row}: the input has {length} tokens")
            mask[row, position] = True
    return mask


def _plain(pos: Any) -> Any:
    """Arrays as tensors, and one number as a number.

    Raises:
        TypeError: It is nothing that says where.
    """
    if isinstance(pos, np.ndarray | np.generic):
        pos = torch.as_tensor(np.asarray(pos))
    if isinstance(pos, Tensor):
        if pos.ndim == 0 and not pos.is_floating_point() and pos.dtype != torch.bool:
            return int(pos)
        if pos.ndim > 0 and not pos.is_floating_point():
            return pos
    elif (isinstance(pos, int | slice) and not isinstance(pos, bool)) or _are_rows(pos):
        return pos
    raise TypeError(
        f"pos={brief(pos)}: expected an index, a slice, positions for each row, a mask [batch, pos] or None"
    )


def _are_rows(pos: Any) -> bool:
    """Whether these are positions of rows: one of each, or several."""
    if not isinstance(pos, Sequence) or isinstance(pos, str | bytes):
        return False
    entries = [
        one for row in pos for one in (row if isinstance(row, Sequence | np.ndarray | Tensor) else [row])
    ]
    return all(not isinstance(one, str | bool | float) for one in entries)


def unit_moves(
    read: Float[np.ndarray, "width target"], write: Float[np.ndarray, "width target"]
) -> Float[np.ndarray, "width target"]:
    """For every target the displacement, in the span of the write directions, that moves its reading by one
    target unit and leaves the other readings where they are: write·(readᵀ write)⁻¹.

    Where readings depend on each other (indicator columns of classes add up to one) none can move alone:
    then each column is its own write direction, scaled to move its own reading by one.

    Raises:
        ValueError: A write direction does not move its reading.
    """
    gains = read.T @ write
    norms = np.linalg.norm(read, axis=0)[:, None] * np.linalg.norm(write, axis=0)[None]
    cosine = gains / np.where(norms > 0, norms, 1.0)
    if float(np.linalg.cond(cosine)) < 1e8:
        return write @ np.linalg.inv(gains)
    for i in np.flatnonzero(np.abs(np.diag(cosine)) < 1e-8):
        raise ValueError(
            f"moving along the write direction of target {i} does not move its reading (cosine "
            f"{cosine[i, i]:.1e}): this probe reads nothing that the target is written in"
        )
    return write / np.diag(gains)


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

    Raises:
        ValueError: An unknown op, or an `sd` of the wrong length.
        KeyError: An unknown target.
    """
    chosen = target_columns(names, target)
    if op == "ablate":
        left, values, _ = np.linalg.svd(weights.write[:, chosen], full_matrices=False)
        basis = left[:, values > 1e-10 * values.max(initial=0.0)]
        return AffineEdit.setting(basis, weights.x_mean @ basis, basis.T)
    if op == "erase" and eraser is not None:
        if not isinstance(eraser, Erases):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"eraser={brief(eraser)}: expected a LEACE Eraser, graticule.Eraser.fit(X, y)")
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


def target_columns(names: Sequence[str], target: int | str | None) -> list[int]:
    """Columns that `target` means, all for None; raises `KeyError` for an unknown one."""
    if target is None:
        return list(range(len(names)))
    if isinstance(target, bool) or not isinstance(target, str | Integral):
        raise UnknownNameError(f"no target {brief(target)}; this probe has {', '.join(names)}")
    if isinstance(target, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        if target not in names:
            raise UnknownNameError(f"no target {target!r}; this probe has {', '.join(names)}")
        return [list(names).index(target)]
    if not -len(names) <= target < len(names):
        raise UnknownNameError(f"no target {target}; this probe has {len(names)}: {', '.join(names)}")
    return [int(target) % len(names)]
