"""Controls as large as the intervention itself: matched displacements, matched erasers, ranks among them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from graticule.probes.causes.leace import Eraser, Moments
from graticule.probes.scores.ties import share_reaching

NEGLIGIBLE = 1e-6
"""Effects below this (in log-odds, nats or standard deviations) are rounding."""

_BISECTIONS = 60


def covariance_directions(
    moments: Moments,
    count: int,
    rng: np.random.Generator,
    read: Float[np.ndarray, "width target"] | None = None,
    move: Float[np.ndarray, "width target"] | None = None,
) -> Float[np.ndarray, "count width"]:
    """Unit directions drawn with the activations' own covariance, so as anisotropic as they are.

    A direction drawn with the covariance is what a probe of random targets would call its write direction.
    With `read` and `move` (`unit_moves`) what the probe reads of them is taken out, along `move`: as large a
    step, the reading left where it is.
    """
    drawn = (rng.normal(size=(count, len(moments.values))) * np.sqrt(moments.values)) @ moments.vectors.T
    if read is not None and move is not None:
        drawn = drawn - (drawn @ read) @ move.T
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def frame_of(moments: Moments, eraser: Eraser) -> Float[np.ndarray, "rank k"]:
    """An orthonormal frame, in the whitened space, of what an eraser takes away."""
    return np.linalg.qr(moments.whitened(eraser.left))[0]


def matched_erasers(
    moments: Moments, frame: Float[np.ndarray, "rank k"], count: int, rng: np.random.Generator
) -> list[Eraser]:
    """Erasers of random linear features: the rank of `frame`, the same removed variance, none of its concept.

    In the whitened space an eraser is an orthonormal frame U and removes tr(UᵀΣU). Random frames orthogonal
    to `frame` are tilted towards directions of large or small variance (by powers of Σ) until they remove
    exactly what `frame` removes; mean squared displacements are then equal too.
    """
    wanted = _removed(moments, frame)
    logs = np.log(moments.values / moments.values[-1])
    erasers: list[Eraser] = []
    for _ in range(count):
        draw = rng.normal(size=frame.shape)
        erasers.append(moments.eraser(_tilted(moments, frame, draw, logs, wanted)))
    return erasers


def _tilted(
    moments: Moments, frame: np.ndarray, draw: np.ndarray, logs: np.ndarray, wanted: float
) -> np.ndarray:
    """The frame of `draw` tilted by the power of Σ at which it removes `wanted`."""
    low, high = -8.0, 8.0
    made = draw
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        tilted = (
            draw * np.exp(middle * (logs - logs.max() * (middle > 0) - logs.min() * (middle < 0)))[:, None]
        )
        tilted -= frame @ (frame.T @ tilted)
        made = np.linalg.qr(tilted / np.linalg.norm(tilted, axis=0))[0]
        if _removed(moments, made) < wanted:
            low = middle
        else:
            high = middle
    return made


def _removed(moments: Moments, frame: np.ndarray) -> float:
    return float((moments.values[:, None] * np.square(frame)).sum())


def rank_p(effect: float, controls: Float[np.ndarray, " control"]) -> float:
    """Two-sided p of an effect by its rank among the controls' sizes: (1 + #{|c| ≥ |e|}) / (1 + n); 1 for an
    effect that is rounding."""
    if abs(effect) < NEGLIGIBLE:
        return 1.0
    return float(share_reaching(np.abs(controls), abs(effect)))


def needed(controls: int, tests: int, level: float = 0.05) -> int:
    """`controls`, or as many as one of `tests` outcomes needs to reach `level` after Holm's correction."""
    return max(controls, int(np.ceil(tests / level)))


def detection_limit(controls: Float[np.ndarray, " control"]) -> float:
    """The smallest effect that these controls could have shown: the 97.5% quantile of their sizes."""
    return float(np.quantile(np.abs(controls), 0.975)) if len(controls) else float("nan")
