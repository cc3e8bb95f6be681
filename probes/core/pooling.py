"""Tokens of a text pooled into one row: each way a point of its own, so that a sweep chooses among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, overload

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from graticule.hooks.activations import Activations
from graticule.hooks.alignment import sources
from graticule.hooks.doors import TABLE, Kind, door, of_class
from graticule.hooks.limits import check_limits
from graticule.hooks.messages import bar
from graticule.hooks.rows import Rows
from graticule.probes.core.inputs import paired_rows
from graticule.probes.surface.baselines import Baselines
from graticule.probes.tables.groups import group_folds
from graticule.probes.tables.table import Table

Way = Literal["last", "mean", "max", "rolling", "attention"]
"""How the tokens of a text become one row."""
_FOLDS = 5
_RANK, _STEPS, _RATE, _DECAY = 64, 150, 0.05, 1e-2


@overload
def pool(
    activations: Baselines, table: Table | None = ..., *, how: Any = ..., window: int = ..., seed: int = ...,
    progress: bool | None = ...,
) -> Baselines: ...  # fmt: skip


@overload
def pool(
    activations: Rows, table: Table | None = ..., *, how: Any = ..., window: int = ..., seed: int = ...,
    progress: bool | None = ...,
) -> Activations: ...  # fmt: skip


@door(
    activations=Kind(
        "Activations, a Store or baselines of every token", of_class("Activations", "Store", "Baselines"),
        lambda _: "graticule.capture(model, table.texts, pos='all', include_bos=False)",
    ),
    table=TABLE.or_none(),
)  # fmt: skip
def pool(
    activations: Rows | Baselines,
    table: Table | None = None,
    *,
    how: Way | Sequence[Way] = ("last", "mean", "max", "rolling"),
    window: int = 8,
    seed: int = 0,
    progress: bool | None = None,
) -> Activations | Baselines:
    """Every text's tokens pooled into one row, in several ways, each of which is a point of its own.

    ```python
    every = {"pos": "all", "include_bos": False}
    activations = graticule.pool(graticule.capture(model, table.texts, **every))
    beside = graticule.pool(graticule.baselines(model, table, **every))
    findings = graticule.sweep(activations, table, baselines=beside)
    ```

    A point `blocks.7.hook_resid_post` becomes `blocks.7.hook_resid_post.mean` and so on: the sweep chooses
    layer and way at once, on training rows alone (in every fold anew, where it is cross-fitted), and the
    point that it names says both. Block 0 and the twins are pooled alike and choose likewise.

    - `last`: the last token. `mean`, `max`: over all tokens, column by column.
    - `rolling`: the mean of `window` tokens that follow each other, and its maximum over the text.
    - `attention`: one query, learned with a linear readout of the table's target, by which tokens are
      weighted. Each training row is pooled by a query that was learned without its fold of clusters, test
      rows by that of all training rows.

    Args:
        activations: with a row for each token, or baselines captured so.
        table: whose target `attention` learns from.
        how: one way or several.
        window: tokens of `rolling`; texts that are shorter are one window.
        seed: of the folds of `attention`.
        progress: whether a bar is drawn.

    Returns:
        One row a text; or baselines with such rows.

    Raises:
        ValueError: no such way, `attention` without a table, or one row a text already.
    """
    check_limits(window=window)
    ways: tuple[Way, ...] = (how,) if isinstance(how, str) else tuple(how)
    if not ways:
        raise ValueError(f"how={how!r} is no way: expected some of {', '.join((*_PLAIN, 'attention'))}")
    if "attention" in ways and table is None:
        raise ValueError("how='attention' learns from a target: pool(activations, table, how='attention')")
    if isinstance(activations, Baselines):
        made = {
            name: rows if rows.rows["source"].is_unique else pool(
                rows, table, how=how, window=window, seed=seed, progress=progress
            )
            for name, rows in activations.features.items()
        }  # fmt: skip
        return replace(activations, features=made)
    texts = _Texts.of(activations)
    if len(texts.starts) == len(texts.order):
        raise ValueError(
            "pool: every text has one row, and nothing to pool: graticule.capture(model, texts, pos='all', "
            "include_bos=False) captures each token"
        )
    tensors: dict[str, Tensor] = {}
    with bar(len(activations.points), "pool", "point", progress) as advance:
        for point in activations.points:
            values = activations[point].float()[torch.from_numpy(texts.order)]
            for way in ways:
                if way == "attention":
                    assert table is not None
                    pooled = _attended(values, texts, activations, table, seed)
                else:
                    pooled = texts.each(values, lambda x, way=way: _PLAIN[way](x, window))
                tensors[f"{point}.{way}"] = pooled
            advance.update()
    columns = [c for c in activations.rows.columns if c not in ("position", "token", "call")]
    rows = activations.rows[columns].iloc[texts.order[texts.starts]].reset_index(drop=True)
    pooled_by = {"how": list(ways), "window": window}
    return Activations(tensors, rows, {**activations.provenance, "pooled": pooled_by})


@dataclass(frozen=True)
class _Texts:
    """Rows text by text, each in the order of its tokens."""

    order: Int[np.ndarray, " row"]
    starts: Int[np.ndarray, " text"]
    """Where in `order` every text begins."""

    @classmethod
    def of(cls, activations: Rows) -> _Texts:
        source, frame = sources(activations.rows), activations.rows
        position = frame["position"].to_numpy(np.int64) if "position" in frame else np.arange(len(frame))
        order = np.lexsort((position, source))
        return cls(order, np.flatnonzero(np.diff(source[order], prepend=-1)))

    @property
    def ends(self) -> np.ndarray:
        return np.append(self.starts[1:], len(self.order))

    def each(self, values: Tensor, one: Callable[[Tensor], Tensor]) -> Tensor:
        """What `one` makes of every text's rows."""
        return torch.stack([one(values[a:b]) for a, b in zip(self.starts, self.ends, strict=True)])


def _rolled(x: Tensor, window: int) -> Tensor:
    size = min(window, len(x))
    sums = torch.cat([torch.zeros_like(x[:1], dtype=torch.float64), x.double().cumsum(0)])
    return ((sums[size:] - sums[:-size]) / size).amax(0).to(x.dtype)


_PLAIN: dict[str, Callable[[Tensor, int], Tensor]] = {
    "last": lambda x, _: x[-1],
    "mean": lambda x, _: x.mean(0),
    "max": lambda x, _: x.amax(0),
    "rolling": _rolled,
}


# One learned query -------------------------------------------------------------------------------------
def _attended(values: Tensor, texts: _Texts, activations: Rows, table: Table, seed: int) -> Tensor:
    """Rows weighted by a query that has not seen them: of the other folds, or of all training rows."""
    row = paired_rows(activations, table)[0][texts.order[texts.starts]]
    y, is_test, clusters = table.y[row], table.is_test[row], table.clusters[row]
    fold = np.full(len(row), -1)
    fold[~is_test] = group_folds(clusters[~is_test], _FOLDS, seed)
    out = torch.empty(len(row), values.shape[1])
    for k in np.unique(fold):
        weights = _weights(values, texts, y, np.flatnonzero((fold >= 0) & (fold != k)))
        for text in np.flatnonzero(fold == k):
            span = slice(texts.starts[text], texts.ends[text])
            out[text] = weights[span] @ values[span]
    return out


def _weights(
    values: Tensor, texts: _Texts, y: Float[np.ndarray, "text target"], learned: Int[np.ndarray, " some"]
) -> Float[Tensor, " row"]:
    """The weight of every token in its text, by the query that serves a linear readout of some texts best.

    Query and readout live in the first principal components of these texts' tokens, scaled to one variance,
    and are found by gradient descent from the mean (a query of 0).
    """
    text = torch.from_numpy(np.repeat(np.arange(len(texts.starts)), texts.ends - texts.starts))
    inside = torch.isin(text, torch.from_numpy(learned))
    own = values[inside].double()
    middle = own.mean(0)
    spread, ways = torch.linalg.eigh((own - middle).T @ (own - middle) / len(own))
    rank = int(min(_RANK, len(learned) // 2, (spread > 1e-9 * spread[-1]).sum()))
    z = (values.double() - middle) @ (ways[:, -rank:] / spread[-rank:].sqrt())
    own, place = z[inside], torch.unique(text[inside], return_inverse=True)[1]
    target = torch.from_numpy(y[learned])
    target = (target - target.mean(0)) / target.std(0).clamp_min(1e-12)
    count = len(learned)
    mean = torch.zeros(count, rank, dtype=torch.float64).index_add(0, place, own)
    mean = mean / torch.bincount(place, minlength=count)[:, None]
    gram = mean.T @ mean + 0.1 * count * torch.eye(rank, dtype=torch.float64)
    readout = torch.linalg.solve(gram, mean.T @ target)
    query = torch.zeros(rank, dtype=torch.float64)
    with torch.enable_grad():
        parts = [query.requires_grad_(), readout.requires_grad_()]
        steps = torch.optim.Adam(parts, lr=_RATE)
        for _ in range(_STEPS):
            steps.zero_grad()
            share = _softmax(own @ query, place, count)
            pooled = torch.zeros_like(mean).index_add(0, place, share[:, None] * own)
            loss = (pooled @ readout - target).square().mean()
            loss = loss + _DECAY * (query.square().sum() + readout.square().sum())
            loss.backward()
            steps.step()
    return _softmax(z @ query.detach(), text, len(texts.starts)).to(values.dtype)


def _softmax(logits: Tensor, text: Tensor, count: int) -> Tensor:
    """Over the rows of every text."""
    most = torch.full((count,), -torch.inf, dtype=logits.dtype).scatter_reduce(
        0, text, logits.detach(), "amax"
    )
    powers = (logits - most[text]).exp()
    return powers / torch.zeros(count, dtype=logits.dtype).index_add(0, text, powers)[text]
