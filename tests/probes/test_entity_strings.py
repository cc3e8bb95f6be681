"""The paper's rewritings, on names from its own tables."""

import pandas as pd
import pytest

from graticule.probes.papers.compat import (
    ENTITY_STRINGS,
    entity_strings,
    possessive_place,
    possessive_work,
    title_case_place,
)
from graticule.probes.tables.checks import ColumnError
from graticule.probes.tables.columns import TableError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Paris", "Paris"),
        ("Strathalbyn, South Australia", "South Australia's Strathalbyn"),
        ("St Mary's, Old Town, Dublin", "Dublin's St Mary's, Old Town"),
        ("Palau (island)", "island's Palau"),  # the paper's own string ends in a space here
        ("Bishopsgate (Low Level) railway station", "Low Level's Bishopsgate  railway station"),
        ("San Giorgio Maggiore (church), Venice", "church's San Giorgio Maggiore , Venice"),
        ("Palmer, ", "Palmer, "),
        ("Nowhere ()", "Nowhere ()"),
    ],
)
def test_world_places(name, expected):
    assert possessive_place(name) == expected


def test_works_of_art():
    assert possessive_work("Stephen King", "It") == "Stephen King's It"
    assert possessive_work("The Beatles", "Help!") == "The Beatles' Help!"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("CHURCH OF THE REDEEMER", "Church of the Redeemer"),
        ("PS 11  ANNEX", "PS 11 Annex"),
        ("THE NYPD AND FDNY MEMORIAL", "the NYPD and FDNY Memorial"),
        ("O'BRIEN'S DELI & GRILL", "O'brien's Deli & Grill"),
        ("JOHN F. KENNEDY", "John F. Kennedy"),
    ],
)
def test_places_in_new_york(name, expected):
    assert title_case_place(name) == expected


def test_columns_and_missing_values():
    frame = pd.DataFrame({"title": ["It", "Nan", None], "creator": ["Stephen King", "NA", "x"]})
    assert entity_strings(frame, "title", "possessive_work") == ["Stephen King's It", "NA's Nan", None]
    assert entity_strings(frame, "title", "raw") == ["It", "Nan", None]
    with pytest.raises(ColumnError, match="creator"):
        entity_strings(frame[["title"]], "title", "possessive_work")
    with pytest.raises(TableError, match="possessive_place"):
        entity_strings(frame, "title", "shouting")


def test_every_option_is_described():
    assert all(option.description for option in ENTITY_STRINGS.values())
