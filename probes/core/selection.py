"""How much too large a gain is that is told because it passed: its estimate without that selection."""

from __future__ import annotations

from graticule.hooks.imports import load


def unselected_gain(gain: float, se: float, df: float, min_gain: float) -> float:
    """The median-unbiased estimate of a gain that was called structure.

    Only gains above a bar are called so, and those just above it are mostly those that luck lifted there. Of
    all true gains, this is the one of which half of the gains *that pass the same bar* would be larger than
    the one measured (Student's t about the true gain, cut at the bar; Zhong & Prentice, Biostatistics 2008).

    Args:
        gain: as measured.
        se: its standard error.
        df: degrees of freedom of that.
        min_gain: the smallest gain called structure.

    Returns:
        At most `gain`; 0 where even a true gain of 0 would pass with as large a one half of the time.
    """
    if not se > 0:
        return gain
    load("scipy.stats")
    from scipy.stats import t as student

    bar = min(gain, max(min_gain, float(student.ppf(0.975, df)) * se))

    def larger(true: float) -> float:
        passing = student.sf((bar - true) / se, df)
        return float(student.sf((gain - true) / se, df) / passing) - 0.5

    if larger(0.0) >= 0:
        return 0.0
    low, high = 0.0, gain
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if larger(middle) < 0 else (low, middle)
    return high
