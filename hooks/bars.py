"""A progress bar with an estimate of what is left, for work that can take minutes."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm

PATIENCE = 3.0
"""Seconds of work before a bar that nobody asked for appears."""
EVERY = 0.1
"""Seconds between two drawings of a bar, at least."""


def bar(total: int, what: str, unit: str, progress: bool | None) -> Any:
    """A bar of `total` units on standard error, gone once the work is done; use it in a `with`.

    Args:
        total: how many units the work has; each is a second or less where that can be.
        what: the work, before the bar.
        unit: what is counted.
        progress: True for a bar at once, False for none; None for one as soon as the work has taken
            `PATIENCE` seconds, however little it looked beforehand.

    Returns:
        A tqdm bar, which says how much is done and about how long the rest will take.
    """
    return tqdm(
        total=total,
        desc=what,
        unit=unit,
        disable=progress is False,
        leave=False,
        delay=0.0 if progress else PATIENCE,
        mininterval=EVERY,
        miniters=1,
    )
