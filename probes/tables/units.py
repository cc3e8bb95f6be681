"""What targets are measured in: units, and ranks."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import pandas as pd

from graticule.hooks.messages import brief
from graticule.probes.tables.columns import TableError
from graticule.probes.tables.entries import numbers_of

Units = str | Sequence[str | None] | Mapping[Any, str] | None
"""One unit for each target, or by target."""
LIMITS = {"lat": 90.0, "lon": 360.0}
"""Unit → degrees that a place cannot be beyond."""
MEASURED = (*LIMITS, "year")
"""Units that say how a target is judged and drawn: degrees on the globe, years without separators."""
_MEANT = {
    "latitude": "lat", "longitude": "lon", "long": "lon", "lng": "lon",
    **{unit: unit for unit in MEASURED},
}  # fmt: skip
_PLAIN_WORDS = """
g kg mg t lb oz u m km cm mm nm mi ft in yd yard yards ly pc s ms min h hr d day days week weeks
month months years yr k c f hz khz mhz ghz w kw mw j kj ev n pa kpa hpa bar atm v a mol cd l ml
ha eur usd gbp people persons pages views words tokens points degrees degree deg rad percent
ratio rank score count unit units item items meter meters metre metres kilometer kilometers
kilometre kilometres mile miles gram grams kilogram kilograms second seconds minute minutes hour
hours kelvin celsius fahrenheit dollar dollars euro euros decade decades century centuries
"""
_PLAIN = frozenset(_PLAIN_WORDS.split())
RANK = "rank"
"""The unit of a target that is its rank among the training rows."""

logger = logging.getLogger(__name__)


def read_units(
    units: Units,
    targets: Sequence[str],
    names: Sequence[str],
    kind: str,
) -> tuple[str | None, ...]:
    """One unit per column of y (`names`), from one for each target or by target; empty ones are None.

    Raises:
        TableError: They do not fit the targets, the targets are classes, or one is nearly a unit that is
            measured by.
    """
    if units is None:
        return (None,) * len(names)
    if isinstance(units, Mapping):
        units = {str(key): unit for key, unit in units.items()}
        unknown = [key for key in units if key not in targets]
        if unknown:
            raise TableError(f"units for {unknown}, which are no targets; targets: {list(targets)}")
        given: tuple[Any, ...] = tuple(units.get(target) for target in targets)
    elif not isinstance(units, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TableError(f"units={brief(units)}: expected a unit, or one for each target, units=['km', None]")
    else:
        given = (units,) if isinstance(units, str) else tuple(units)
    if len(given) != len(targets):
        raise TableError(
            f"{len(given)} units {given} for {len(targets)} targets {list(targets)}: one for each"
        )
    checked = tuple(check_unit(unit, target) for unit, target in zip(given, targets, strict=True))
    if kind == "numeric":
        return checked
    for unit, target in zip(checked, targets, strict=True):
        if unit is not None:
            raise TableError(
                f"target {target!r} has the unit {unit!r} and holds classes ({kind}), which have none: leave "
                "the unit out, or name a column of numbers"
            )
    return (None,) * len(names)


def check_unit(unit: Any, target: str) -> str | None:
    """A unit as given, None for none; TableError if it is no text, or nearly one of `MEASURED`."""
    if unit is None or unit == "":
        return None
    if not isinstance(unit, str):
        raise TableError(
            f"target {target!r} has the unit {brief(unit)}: expected a word, 'lat', 'lon', 'year', 'kg'"
        )
    word = unit.strip().lower()
    if unit in MEASURED or word in _PLAIN or not word.isalpha():
        return unit
    near = get_close_matches(word, _MEANT, n=1, cutoff=0.75)
    if near:
        raise TableError(f"target {target!r} has the unit {unit!r}: did you mean {_MEANT[near[0]]!r}?")
    logger.warning(
        "target %r has the unit %r, which is written on axes and changes nothing else; lat, lon and year do",
        target,
        unit,
    )
    return unit


def with_grades(frame: pd.DataFrame, targets: Sequence[str], units: Units) -> pd.DataFrame:
    """A frame whose target columns are numbers in order: of categories with an order, their places in it.

    Raises:
        TableError: Units are given, which ranks do not have, or a target has no order.
    """
    if units is not None:
        raise TableError(f"units={brief(units)}: ranks have none; leave units out with kind='ordinal'")
    frame = frame.copy()
    for column in targets:
        values = frame[column]
        if isinstance(values.dtype, pd.CategoricalDtype):
            if not values.cat.ordered:
                raise TableError(
                    f"kind='ordinal': the categories of {column!r} have no order; give one, "
                    f"df[{column!r}].cat.as_ordered()"
                )
            frame[column] = values.cat.codes.astype(float).where(values.notna())
        elif numbers_of(values) is None:
            raise TableError(
                f"kind='ordinal': {column!r} holds no numbers; write them, or an ordered pandas.Categorical"
            )
    return frame
