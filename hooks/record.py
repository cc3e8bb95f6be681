"""Record activations during the user's own forward passes and `generate`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from graticule.hooks.activations import Activations
from graticule.hooks.identity import model_identity
from graticule.hooks.points import LayerSpec, PointSpec, resolve
from graticule.hooks.protocols import HookedModel


class Recording:
    """What was recorded so far; `activations` is available inside and after the `with` block."""

    def __init__(self, model: HookedModel, points: tuple[str, ...], pos: int | slice) -> None:
        self._model, self._points, self._pos = model, points, pos
        self._parts: dict[str, list[Tensor]] = {p: [] for p in points}
        self._rows: list[pd.DataFrame] = []
        self._calls = 0

    def _read(self, point: str, value: Tensor) -> None:
        if value.ndim < 3:
            raise ValueError(f"{point} has shape {tuple(value.shape)}; expected [batch, pos, …]")
        batch, length = value.shape[:2]
        kept = (
            np.arange(length)[self._pos] if isinstance(self._pos, slice) else np.array([self._pos % length])
        )
        part = value[:, torch.from_numpy(kept).to(value.device)].detach()
        self._parts[point].append(part.reshape(batch * len(kept), -1).to("cpu", copy=True))
        if point == self._points[0]:
            table = {"call": self._calls, "source": np.repeat(np.arange(batch), len(kept))}
            self._rows.append(pd.DataFrame({**table, "position": np.tile(kept, batch)}))
            self._calls += 1

    @property
    def activations(self) -> Activations:
        """The rows of all calls, one call after another; `call` counts them, `source` is the batch row, and
        `position` counts within the call (a `generate` step with a cache sees one position).

        **Raises** `ValueError` if the model was not run, or some points were reached more often than others.
        """
        counts = {p: len(parts) for p, parts in self._parts.items()}
        if not any(counts.values()):
            raise ValueError("nothing was recorded: run the model inside the `with record(...)` block")
        if len(set(counts.values())) != 1:
            raise ValueError(f"points were reached a different number of times ({counts}); record them apart")
        tensors = {p: torch.cat(parts) for p, parts in self._parts.items()}
        provenance = {"model": model_identity(self._model), "pos": repr(self._pos), "captured_by": "record"}
        return Activations(tensors, pd.concat(self._rows, ignore_index=True), provenance)


@contextmanager
def record(
    model: HookedModel,
    points: PointSpec = "resid_post",
    pos: int | slice = slice(None),
    layers: LayerSpec = "all",
) -> Generator[Recording]:
    """Record `points` during every forward pass of `model` inside the block, `generate` included.

    ```python
    with graticule.record(model, points="resid_post", pos=-1) as recording:
        model.generate("The capital of France is", max_new_tokens=5)
    recording.activations
    ```

    The passes themselves are untouched: gradients, caches and the user's own hooks work as without it.

    **Raises** `PointError` for unknown points, `ValueError` for attention patterns.
    """
    names = resolve(model, points, layers)
    recording = Recording(model, names, pos)

    def hook(point: str) -> tuple[str, Callable[..., None]]:
        def fn(tensor: Tensor, hook: Any) -> None:  # noqa: ARG001
            recording._read(point, tensor)  # pyright: ignore[reportPrivateUsage]

        return point, fn

    with model.hooks(fwd_hooks=[hook(p) for p in names]):
        yield recording
