"""Signed figures with their intervals in words: what is undefined is called so, and why."""

from __future__ import annotations

FEW = "so few test rows"
"""What there is too little of, where the number is not at hand."""


def count_of(number: int, what: str) -> str:
    """`2 test rows`, `1 test row`: the plural is of the last word."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def number_text(value: float, digits: int = 3) -> str:
    """`0.123`, or `undefined`."""
    return "undefined" if value != value else f"{value:.{digits}f}"


def signed(value: float, why: str, digits: int = 3) -> str:
    """`+0.123`, or that it is undefined with what there is: `why` is `2 test rows`."""
    return f"undefined with {why}" if value != value else f"{value:+.{digits}f}"


def with_interval(value: float, interval: tuple[float, float], why: str, digits: int = 3) -> str:
    """`+0.123 [+0.100, +0.150]`, or what of it is undefined.

    Args:
        value: The figure.
        interval: Its ends.
        why: What there is too little of, `2 test rows`.
        digits: Behind the point.

    Returns:
        Words without a NaN.
    """
    low, high = interval
    if value != value:
        return signed(value, why)
    if low != low or high != high:
        return f"{value:+.{digits}f}, its interval undefined with {why}"
    return f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
