"""Distances on the globe, and the proximity error of the space-and-time paper."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

EARTH_RADIUS_KM = 6371.0
"""Mean radius of the Earth, as in Gurnee & Tegmark (2310.02207)."""

_BLOCK = 1 << 17  # products held at once: a few of these stay in the second-level cache


def haversine_km(
    lat: Float[np.ndarray, "*row"],
    lon: Float[np.ndarray, "*row"],
    other_lat: Float[np.ndarray, "*row"],
    other_lon: Float[np.ndarray, "*row"],
) -> Float[np.ndarray, "*row"]:
    """Great-circle distance in km between points given in degrees, **latitude first**.

    Angles outside the usual range (a linear probe can predict latitude 97) mean the point they reach over
    the pole or round the globe, so the result always agrees with :func:`unit_sphere`.
    """
    phi, other_phi = np.radians(lat), np.radians(other_lat)
    half_lat = np.sin((other_phi - phi) / 2)
    half_lon = np.sin((np.radians(other_lon) - np.radians(lon)) / 2)
    inside = half_lat**2 + np.cos(phi) * np.cos(other_phi) * half_lon**2
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.clip(inside, 0.0, 1.0)))


def unit_sphere(lat: Float[np.ndarray, " row"], lon: Float[np.ndarray, " row"]) -> Float[np.ndarray, "row 3"]:
    """Points in degrees as vectors of length 1 (x towards 0°N 0°E, z towards the north pole)."""
    phi, lam = np.radians(np.asarray(lat, np.float64)), np.radians(np.asarray(lon, np.float64))
    return np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], axis=1)


def proximity_error(
    true: Float[np.ndarray, "row 2"], pred: Float[np.ndarray, "row 2"]
) -> Float[np.ndarray, " row"]:
    """For each row, the share of all predictions that lie closer to its true place than its own does.

    Columns are **latitude, longitude** in degrees. Gurnee & Tegmark (2310.02207), section 3.2:
    ``e_i = (1/n) #{j : d(y_i, ŷ_j) < d(y_i, ŷ_i)}``, here with half a count for every tie other than the row
    itself, without which a constant predictor would score a perfect 0 in place of (n − 1)/2n. The paper's
    code reads longitude as latitude; this does not.

    On the unit sphere "closer" is "larger dot product", so the inner loop is three products and a
    comparison. They are written out in float64, not as a matrix product: there each element is rounded in
    the same way wherever it stands, so equal predictions give equal bits and ties are exact.

    **Raises** ValueError if a value is not finite.
    """
    _need_finite(true, pred)
    places = unit_sphere(true[:, 0], true[:, 1])
    guesses = np.ascontiguousarray(unit_sphere(pred[:, 0], pred[:, 1]).T)
    n = len(places)
    rows = max(1, min(n, _BLOCK // max(n, 1)))
    product, part = np.empty((rows, n)), np.empty((rows, n))
    errors = np.empty(n)
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        dot, spare = product[: stop - start], part[: stop - start]
        np.multiply(places[start:stop, 0, None], guesses[0], out=dot)
        for axis in (1, 2):
            np.multiply(places[start:stop, axis, None], guesses[axis], out=spare)
            np.add(dot, spare, out=dot)
        own = dot[np.arange(stop - start), np.arange(start, stop), None]
        closer = np.count_nonzero(dot > own, axis=1)
        not_further = np.count_nonzero(dot >= own, axis=1)
        errors[start:stop] = (closer + (not_further - closer - 1) / 2) / n
    return errors


def proximity_error_1d(
    true: Float[np.ndarray, " row"], pred: Float[np.ndarray, " row"]
) -> Float[np.ndarray, " row"]:
    """Proximity error on a line (time): distance ``|y_i − ŷ_j|``, ties counted half; O(n log n).

    **Raises** ValueError if a value is not finite.
    """
    _need_finite(true, pred)
    ordered = np.sort(pred)
    # Predictions closer than one's own lie strictly between it and its mirror image in the truth
    mirror = 2 * true - pred
    low, high = np.minimum(pred, mirror), np.maximum(pred, mirror)
    low_left, low_right = np.searchsorted(ordered, low, "left"), np.searchsorted(ordered, low, "right")
    high_left, high_right = np.searchsorted(ordered, high, "left"), np.searchsorted(ordered, high, "right")
    exact = low == high
    closer = np.where(exact, 0, high_left - low_right)
    ties = (low_right - low_left) + np.where(exact, 0, high_right - high_left) - 1
    return (closer + ties / 2) / max(len(true), 1)


def _need_finite(true: np.ndarray, pred: np.ndarray) -> None:
    for what, values in (("true values", true), ("predictions", pred)):
        bad = ~np.isfinite(values)
        if bad.any():
            row = int(np.argwhere(bad)[0][0])
            raise ValueError(
                f"proximity error needs finite {what}; row {row} holds {values[row]}. "
                "Drop such rows, or look at the activations they came from."
            )
