"""Prompts run once up to an edited point, then again and again from there with edited activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from graticule.hooks.capture_spec import Pos, check_pos, select_positions
from graticule.hooks.messages import NotApplicable
from graticule.hooks.model_view import Restart, start_of
from graticule.hooks.points import layer_of
from graticule.hooks.protocols import HookedModel, device_of
from graticule.hooks.running.grouping import batches, grouping_of
from graticule.hooks.tokens import TokenRows
from graticule.probes.linear.edits import AffineEdit

Span = Literal["from_entity"] | Pos
"""Which tokens of a prompt are edited: those that `graticule.capture` means by the same `pos`, or the
entity's last one and everything after it; BOS and an encoder's special tokens only with `include_bos`."""


@dataclass(frozen=True)
class Outputs:
    """What came out of one run, one row per prompt."""

    final: Tensor
    """At the last token, in float32: the unembedding's input `[row, d_model]`, or logits `[row, d_vocab]`."""
    later: dict[str, Tensor]
    """Later point → activations `[row, width]` at the position read, on the CPU."""


@dataclass(frozen=True)
class _Batch:
    tokens: Tensor
    members: np.ndarray
    last: Tensor
    read: Tensor
    mask: Bool[Tensor, "row pos"]
    residual: Tensor | None = None


Score = Callable[[Tensor, dict[str, Tensor], Int[np.ndarray, " row"]], Tensor]
"""What some rows end with, what is read of them at later points, and which rows they are → a number."""


class _Push:
    """An edit that adds a tensor which can be differentiated by."""

    def __init__(self, shift: Tensor) -> None:
        self.shift = shift

    def on(self, value: Tensor, mask: Bool[Tensor, "batch pos"]) -> Tensor:
        """`value` with the tokens of `mask` displaced."""
        shift = self.shift.to(value.device, value.dtype).reshape(value.shape[2:])
        return value + mask.to(value.device).reshape(*mask.shape, *(1,) * shift.ndim) * shift


_Stacked = tuple[Sequence[Tensor], dict[str, tuple[Tensor, ...]]]
"""What a forward pass of several edits ends with, edit by edit, and what was read at the later points."""


def edited_tokens(rows: TokenRows, span: Span, include_bos: bool = False) -> list[np.ndarray]:
    """Positions of every row that `span` means; special tokens among them only with `include_bos`.

    Raises:
        IndexError: for an index that a row is too short for.
        ValueError: for a special token's index without `include_bos`, or where no row has such a token.
    """
    if span == "from_entity":
        starts = [end - 1 for _, end in rows.spans]
        return [np.arange(at, end) for at, (_, end) in zip(starts, rows.within(include_bos), strict=True)]
    chosen = select_positions(span, rows, include_bos)
    if not any(map(len, chosen)):
        raise ValueError(f"pos={span!r} means no token of any prompt: there is nothing to edit")
    return chosen


def check_span(span: Any) -> None:
    """Refuse what means no tokens that could be edited.

    Raises:
        ValueError: for such a `pos`.
    """
    if span == "entity_mean":
        raise ValueError(
            "pos='entity_mean' is a mean over tokens, which no forward pass holds: edit 'entity', all of "
            "them, or 'entity_last'"
        )
    if span != "from_entity":
        check_pos(span, "from_entity")


class EditedRuns:
    """Token rows in batches, with the residual stream that enters the edited block kept for every one.

    A `HookedTransformer` is restarted from there and its logits are taken at the last token alone; any other
    model, or one whose restart does not reproduce its own pass, is run whole every time.
    """

    def __init__(
        self,
        model: HookedModel,
        rows: TokenRows,
        point: str,
        edited: Sequence[np.ndarray],
        read: Int[np.ndarray, " row"],
        later: Sequence[str] = (),
        *,
        logits: bool = True,
        token_budget: int = 2048,
    ) -> None:
        """Lay out the batches, run them up to the edited block, and compare a restart with a whole pass.

        Args:
            model: with hooks.
            rows: the prompts' tokens.
            point: where edits are made.
            edited: the positions of every row that are edited.
            read: the position of every row at which the points of `later` are read.
            later: points.
            logits: False leaves the end of the model out.
            token_budget: of one forward pass.
        """
        if start_of(point) is None:
            raise NotApplicable(
                f"{point} lies outside the blocks; causes are looked for at points inside them"
            )
        self.later, self.logits, self.token_budget = tuple(later), logits, token_budget
        self.n_rows = len(rows.ids)
        self.restart = Restart(model, point)
        self.view = self.restart.view
        self.stop = None if logits else 1 + max(layer_of(p) or 0 for p in (point, *later))
        # small buckets pad little; edits fill the budget
        last = f"blocks.{self.view.n_layers - 1}.hook_resid_post"
        grouping = grouping_of(model, [last if last in model.hook_dict else point], rows.ids)
        self.batches: list[_Batch] = []
        for b in batches(rows.ids, 0, token_budget // 8, grouping, device_of(model)):
            mask = torch.zeros(b.tokens.shape, dtype=torch.bool)
            for row, member in enumerate(b.members):
                mask[row, torch.from_numpy(edited[member])] = True
            ends, at = torch.from_numpy(b.lengths - 1), torch.from_numpy(read[b.members])
            self.batches.append(_Batch(b.tokens, b.members, ends, at, mask))
        self.restarts = self._can_restart()

    # Running -----------------------------------------------------------------------------------------
    def run(self, edit: AffineEdit | None = None) -> Outputs:
        """Run all rows with the point edited, or as they are."""
        return self.runs([edit])[0]

    def runs(self, edits: Sequence[AffineEdit | None]) -> list[Outputs]:
        """One run per edit; as many edits as the token budget holds share a forward pass."""
        final: list[list[Tensor]] = [[] for _ in edits]
        later: list[dict[str, list[Tensor]]] = [{p: [] for p in self.later} for _ in edits]
        for batch in self.batches:
            step = max(1, self.token_budget // batch.tokens.numel())
            for start in range(0, len(edits), step):
                some = edits[start : start + step]
                ends, read = self._pass(batch, some, self.restarts)
                for k in range(len(some)):
                    final[start + k].append(ends[k])
                    for point in self.later:
                        later[start + k][point].append(read[point][k])
        order = torch.from_numpy(np.argsort(np.concatenate([b.members for b in self.batches])))
        return [
            Outputs(
                torch.cat(ends)[order.to(ends[0].device)], {p: torch.cat(v)[order] for p, v in read.items()}
            )
            for ends, read in zip(final, later, strict=True)
        ]

    def slope(self, score: Score, width: int) -> Float[np.ndarray, " width"]:
        """The gradient of a score, summed over batches, by one displacement of all edited tokens.

        Raises:
            RuntimeError: This model cannot be differentiated.
        """
        shift = torch.zeros(width, requires_grad=True)
        total = torch.zeros(width, dtype=torch.float64)
        for batch in self.batches:
            with torch.enable_grad():
                (end,), read = self._pass(batch, [_Push(shift)], self.restarts, graph=True)
                value = score(end, {p: rows[0] for p, rows in read.items()}, batch.members)
                total += torch.autograd.grad(value, shift)[0].double()
        return total.numpy()

    def scores(self, final: Tensor, tokens: Sequence[int] | None = None) -> Tensor:
        """Logits `[row, token]` in float32 of what a run ended with: of some tokens, or of all."""
        if self.restarts:
            return self.view.logits(final, tokens, bias_in_float32=False)
        return final if tokens is None else final[:, torch.tensor(list(tokens), device=final.device)]

    def _pass(
        self, batch: _Batch, edits: Sequence[AffineEdit | _Push | None], restart: bool, graph: bool = False
    ) -> _Stacked:
        """One forward pass of all edits, from the edited block on or of the whole model; with `graph` what
        comes out can be differentiated."""
        n = len(edits)
        read: dict[str, tuple[Tensor, ...]] = {}

        def edited(value: Tensor) -> Tensor:
            parts = zip(edits, value.chunk(n), strict=True)
            return torch.cat([v if e is None else e.on(v, batch.mask) for e, v in parts])

        def reader(point: str) -> tuple[str, Any]:
            def fn(value: Tensor, hook: Any = None) -> None:  # noqa: ARG001
                rows = rearrange(_at(value, batch.read, n), "row ... -> row (...)")
                read[point] = (rows if graph else rows.detach()).cpu().float().chunk(n)

            return point, fn

        source = batch.residual if restart else batch.tokens
        assert source is not None
        start = repeat(source, "row ... -> (edit row) ...", edit=n)
        hooks = [reader(p) for p in self.later]
        if not restart:
            logits = self.restart.whole(start, edited, hooks)
            ends = _at(logits, batch.last, n).float()
            return (ends if graph else ends.detach()).chunk(n), read
        out = self.restart.onward(start, edited, hooks, self.stop)
        if not self.logits:
            return out.new_zeros(len(out), 0).chunk(n), read
        final = self.view.final(_at(out, batch.last, n)[:, None])
        return (final[:, 0] if graph else final[:, 0].detach()).chunk(n), read

    # Restarting --------------------------------------------------------------------------------------
    def _can_restart(self) -> bool:
        whole, self.restarts = (
            self.batches,
            True,
        )  # `scores` must take what the trial ends with for what it is
        if self.restart.agrees(self._trial):
            return True
        self.batches = whole
        return False

    def _trial(self) -> tuple[Tensor, Tensor]:
        """Logits or later points of two rows, restarted and whole; the batches then have their residuals."""
        start = self.restart.start or 0
        self.batches = [replace(b, residual=self.view.run_to(b.tokens, start)) for b in self.batches]
        b = self.batches[0]
        assert b.residual is not None
        small = _Batch(b.tokens[:2], b.members[:2], b.last[:2], b.read[:2], b.mask[:2], b.residual[:2])
        (started,), read = self._pass(small, [None], restart=True)
        (whole,), expected = self._pass(small, [None], restart=False)
        if self.logits:
            return self.scores(started), whole
        started, whole = (torch.cat([values[p][0] for p in self.later]) for values in (read, expected))
        return started, whole


def _at(value: Tensor, position: Tensor, copies: int) -> Tensor:
    """`value` `[copy · row, pos, …]` at one position of every row."""
    rows = torch.arange(len(value), device=value.device)
    return value[rows, repeat(position.to(value.device), "row -> (copy row)", copy=copies)]
