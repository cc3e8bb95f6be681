"""How a verdict was reached, kept with it so that anything judged later is judged alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graticule.hooks.limits import check_limits


@dataclass(frozen=True)
class JudgeSettings:
    """What `sweep` was asked to judge by."""

    alphas: tuple[float, ...] | None = None
    """Ridge strengths asked for; None is the default grid."""
    min_gain: float = 0.01
    """The smallest gain called structure."""
    draws: int = 2000
    """Of the bootstrap."""
    seed: int = 0
    """Of the bootstrap and of the shuffled targets."""

    def __post_init__(self) -> None:
        """**Raises** `LimitError` for a setting out of its range."""
        check_limits(alpha=self.alphas, min_gain=self.min_gain, draws=self.draws, seed=self.seed)

    @classmethod
    def read(cls, saved: Mapping[str, Any]) -> JudgeSettings:
        """Settings out of JSON, where a tuple is a list."""
        alphas = saved["alphas"]
        return cls(
            None if alphas is None else tuple(float(a) for a in alphas),
            float(saved["min_gain"]),
            int(saved["draws"]),
            int(saved["seed"]),
        )
