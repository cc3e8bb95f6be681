"""Distances on the globe, and the proximity error of the space-and-time paper."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

EARTH_RADIUS_KM = 6371.0
"""Mean radius of the Earth, as in Gurnee & Tegmark (2310.02207)."""

_BLOCK = 1 << 18  # float32 products held at once: they stay in the second-level cache
_MANY = 0.2  # share of a row's pairs above which picking them out costs more than doing all again


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
    true: Float[np.ndarray, "row 2"],
    pred: Float[np.ndarray, "row 2"],
    among: Float[np.ndarray, "other 2"] | None = None,
) -> Float[np.ndarray, " row"]:
    """For each row, the share of all predictions that lie closer to its true place than its own does.

    Columns are **latitude, longitude** in degrees. Gurnee & Tegmark (2310.02207), section 3.2:
    ``e_i = (1/n) #{j : d(y_i, ŷ_j) < d(y_i, ŷ_i)}``, here with half a count for every tie other than the row
    itself, without which a constant predictor would score a perfect 0 in place of (n − 1)/2n. The paper's
    code reads longitude as latitude; this does not.

    ``among`` are the predictions to rank against, ``pred`` itself if not given; with the predictions of all
    rows it is the paper's *combined* error of some rows. Each row's own prediction must be among them, and
    counts once as the row itself.

    Raises:
        ValueError: If a value is not finite, or a row's own prediction is not in ``among``.
    """
    closer, ties = proximity_counts(true, pred, among)
    return (closer + ties / 2) / max(len(pred if among is None else among), 1)


def proximity_counts(
    true: Float[np.ndarray, "row 2"],
    pred: Float[np.ndarray, "row 2"],
    among: Float[np.ndarray, "other 2"] | None = None,
) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"]]:
    """How many of all predictions lie closer than the row's own, and how many others exactly as far.

    On the unit sphere "closer" is "larger dot product". What decides is the dot product written out in
    float64, rounded in the same way wherever an element stands, so that equal predictions give equal bits
    and ties are exact. Nearly all pairs are decided by a float32 matrix product before: only those that it
    cannot tell from the row's own, by the bound on its rounding, are looked at again.

    Raises:
        ValueError: As `proximity_error`.
    """
    _need_finite(true, pred)
    own = unit_sphere(pred[:, 0], pred[:, 1])
    if among is None:
        others = own
    else:
        _need_finite(true, among)
        others = unit_sphere(among[:, 0], among[:, 1])
    field = _Field.of(unit_sphere(true[:, 0], true[:, 1]), own, others)
    step = max(1, _BLOCK // max(len(others), 1))
    closer, ties = np.zeros(len(true), np.int64), np.zeros(len(true), np.int64)
    buffer = np.empty((step, len(others)), np.float32)
    for start in range(0, len(true), step):
        rows = slice(start, min(start + step, len(true)))
        closer[rows], ties[rows] = field.count(rows, buffer)
    if (ties < 0).any():
        row = int(np.flatnonzero(ties < 0)[0])
        raise ValueError(
            f"row {row}'s own prediction {pred[row]} is not in among: give all rows' predictions"
        )
    return closer, ties


@dataclass(frozen=True)
class _Field:
    """Places and predictions on the unit sphere, in both precisions."""

    places: Float[np.ndarray, "row 3"]
    others: Float[np.ndarray, "3 other"]
    own: Float[np.ndarray, " row"]
    """Dot product of each place with its own prediction, as the loop of the definition rounds it."""
    near_places: Float[np.ndarray, "row 4"]
    near_others: Float[np.ndarray, "4 other"]
    """Both less the centre of the predictions, and what this leaves out: so a city's few kilometres are not
    lost in float32."""
    low: Float[np.ndarray, " row"]
    high: Float[np.ndarray, " row"]
    """Float32 values below which is surely further, and above which surely closer, than the row's own."""
    own_is_there: bool
    """Each row's own prediction is among the others, so that one undecided pair is no tie."""

    @classmethod
    def of(
        cls,
        places: Float[np.ndarray, "row 3"],
        own: Float[np.ndarray, "row 3"],
        others: Float[np.ndarray, "other 3"],
    ) -> _Field:
        """p·q less p·c, which a whole row shares: p·(q − c) = (p − c)·(q − c) + c·(q − c)."""
        centre = others.mean(axis=0) if len(others) else np.zeros(3)
        shifted, mine, moved = others - centre, own - centre, places - centre
        rest = shifted @ centre
        level = (moved * mine).sum(axis=1) + mine @ centre
        reach = np.abs(moved) @ np.abs(shifted).max(axis=0, initial=0.0) + np.abs(rest).max(initial=0.0)
        # rounding of both factors, four products, three sums and the bounds themselves; then float64's own
        slack = 12 * 2.0**-24 * reach + 1e-15
        return cls(
            places=places,
            others=np.ascontiguousarray(others.T),
            own=_dot(places.T, own.T),
            near_places=np.column_stack([moved, np.ones(len(moved))]).astype(np.float32),
            near_others=np.ascontiguousarray(np.column_stack([shifted, rest]).T.astype(np.float32)),
            low=(level - slack).astype(np.float32),
            high=(level + slack).astype(np.float32),
            own_is_there=own is others,
        )

    def count(
        self, rows: slice, buffer: Float[np.ndarray, "_ other"]
    ) -> tuple[Int[np.ndarray, " chunk"], Int[np.ndarray, " chunk"]]:
        """Closer predictions, and ties besides the row itself, of some rows."""
        rough = buffer[: rows.stop - rows.start]
        np.matmul(self.near_places[rows], self.near_others, out=rough)
        near, maybe = rough > self.high[rows, None], rough >= self.low[rows, None]
        closer = np.array([np.count_nonzero(line) for line in near], np.int64)
        ties = np.array([np.count_nonzero(line) for line in maybe], np.int64) - closer - 1
        for i in np.flatnonzero(ties != 0) if self.own_is_there else range(len(rough)):
            place, own = self.places[rows.start + i], self.own[rows.start + i]
            if ties[i] < _MANY * len(self.others.T):
                unsure = np.flatnonzero(near[i] != maybe[i])
                exact = _dot(place, self.others[:, unsure])
                closer[i] += np.count_nonzero(exact > own)
            else:
                exact = _dot(place, self.others)
                closer[i] = np.count_nonzero(exact > own)
            ties[i] = np.count_nonzero(exact == own) - 1
        return closer, ties


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of vectors along the first axis, rounded alike wherever they stand."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def proximity_error_1d(
    true: Float[np.ndarray, " row"],
    pred: Float[np.ndarray, " row"],
    among: Float[np.ndarray, " other"] | None = None,
) -> Float[np.ndarray, " row"]:
    """Proximity error on a line (time): distance ``|y_i − ŷ_j|``, ties counted half; O(n log n).

    ``among`` as in :func:`proximity_error`.

    Raises:
        ValueError: As `proximity_error`.
    """
    closer, ties = proximity_counts_1d(true, pred, among)
    return (closer + ties / 2) / max(len(pred if among is None else among), 1)


def proximity_counts_1d(
    true: Float[np.ndarray, " row"],
    pred: Float[np.ndarray, " row"],
    among: Float[np.ndarray, " other"] | None = None,
) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"]]:
    """:func:`proximity_counts` on a line."""
    _need_finite(true, pred)
    if among is not None:
        _need_finite(true, among)
    ordered = np.sort(pred if among is None else among)
    # Predictions closer than one's own lie strictly between it and its mirror image in the truth
    mirror = 2 * true - pred
    low, high = np.minimum(pred, mirror), np.maximum(pred, mirror)
    low_left, low_right = np.searchsorted(ordered, low, "left"), np.searchsorted(ordered, low, "right")
    high_left, high_right = np.searchsorted(ordered, high, "left"), np.searchsorted(ordered, high, "right")
    exact = low == high
    closer = np.where(exact, 0, high_left - low_right)
    ties = (low_right - low_left) + np.where(exact, 0, high_right - high_left) - 1
    if among is not None and (bad := np.flatnonzero(~np.isin(pred, among))).size:
        raise ValueError(
            f"row {bad[0]}'s own prediction {pred[bad[0]]} is not in among: give all rows' predictions"
        )
    return closer, ties


def _need_finite(true: np.ndarray, pred: np.ndarray) -> None:
    for what, values in (("true values", true), ("predictions", pred)):
        bad = ~np.isfinite(values)
        if bad.any():
            row = int(np.argwhere(bad)[0][0])
            raise ValueError(
                f"proximity error needs finite {what}; row {row} holds {values[row]}. "
                "Drop such rows, or look at the activations they came from."
            )
