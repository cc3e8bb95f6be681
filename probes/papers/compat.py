"""The space-and-time paper's own entity strings and scoring, bugs included, so that tables can be compared.

Off everywhere by default, and named `paper_compat` wherever it appears. Gurnee & Tegmark (2310.02207)

- read longitude as latitude wherever a distance on the globe is taken (targets are (lon, lat), their
  haversine takes (lat, lon)), which distorts Tables 3 and 4: where longitudes lie about −90, that is a pole;
- count a prediction as closer only if it is strictly so, without a share for ties: a constant scores 0.

Use it to compare with the paper, never to say how good a probe is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Float

from graticule.hooks.artifact import library_versions
from graticule.hooks.messages import NotApplicable
from graticule.hooks.saved import SavedResult
from graticule.probes.core.inputs import Predicted
from graticule.probes.scores.geo import (
    haversine_km,
    proximity_counts,
    proximity_counts_1d,
    proximity_error,
    proximity_error_1d,
)
from graticule.probes.scores.metrics import coordinate_columns
from graticule.probes.tables.checks import need_column
from graticule.probes.tables.columns import TableError

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


PAPER_ALPHAS: Mapping[str, float] = {"7B": 3000.0, "13B": 6000.0, "70B": 18000.0}
"""Ridge strengths that the paper fixed for its hold-outs, by size of Llama-2; for `holdouts(alpha=…)`.

They suit those models' activations: on others of another scale they shrink nothing, or everything."""


def compat_proximity_error(
    true: Float[np.ndarray, "row axis"],
    pred: Float[np.ndarray, "row axis"],
    among: Float[np.ndarray, "other axis"] | None = None,
) -> Float[np.ndarray, " row"]:
    """Proximity error as the paper's code has it; axes are latitude, longitude (read swapped), or one time.

    Raises:
        ValueError: As `proximity_error`.
    """
    n = len(pred if among is None else among)
    if true.shape[1] == 1:
        others = None if among is None else among[:, 0]
        return proximity_counts_1d(true[:, 0], pred[:, 0], others)[0] / n
    swapped = [None if a is None else np.ascontiguousarray(a[:, ::-1]) for a in (true, pred, among)]
    assert swapped[0] is not None and swapped[1] is not None
    return proximity_counts(swapped[0], swapped[1], swapped[2])[0] / n


@dataclass(frozen=True)
class PaperCompat(SavedResult):
    """The result of `score_paper_compat`."""

    KIND: ClassVar[str] = "paper_compat"

    name: str
    """The predictor."""
    rows: int
    """Test rows."""
    scores: pd.DataFrame
    """One row per score: `score`, `graticule`, `paper_compat`."""
    provenance: Mapping[str, Any]
    """Versions."""

    @property
    def title(self) -> str:
        """What was scored."""
        return f"{self.name}: scored as the paper's code does (paper_compat)"

    def summary(self) -> str:
        """Every score both ways."""
        lines = [
            "paper_compat: longitude read as latitude, ties not counted; for comparison with the paper only"
        ]
        for line in self.scores.to_dict("records"):
            lines.append(f"{line['score']}: {line['paper_compat']:.4g} (rightly {line['graticule']:.4g})")
        return "\n".join(lines)

    def figures(self) -> dict[str, Figure]:
        """None."""
        return {}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Every score both ways."""
        renamed = self.scores.rename(
            columns={"graticule": "as it should be", "paper_compat": "as in the paper"}
        )
        return {"paper_compat: the paper's own scoring beside the right one, test rows": renamed}


def score_paper_compat(predicted: Predicted) -> PaperCompat:
    """Scores of some predictions of test rows (`findings.at()`) as the paper's tables have them.

    Raises:
        ValueError: Unless the target is a pair of coordinates or one number.
    """
    columns = coordinate_columns(predicted.units)
    y, pred = predicted.y, predicted.predictions
    if columns is None and y.shape[1] != 1:
        raise NotApplicable(
            f"paper_compat scores coordinates or one number; units are {predicted.units} for "
            f"{', '.join(predicted.target_names)}"
        )
    lines: list[dict[str, Any]] = []
    if columns is None:
        right = proximity_error_1d(y[:, 0], pred[:, 0])
        theirs = compat_proximity_error(y, pred)
    else:
        order = list(columns)
        y, pred = np.ascontiguousarray(y[:, order]), np.ascontiguousarray(pred[:, order])
        right, theirs = proximity_error(y, pred), compat_proximity_error(y, pred)
        km = haversine_km(y[:, 0], y[:, 1], pred[:, 0], pred[:, 1])
        swapped = haversine_km(y[:, 1], y[:, 0], pred[:, 1], pred[:, 0])
        centre = np.broadcast_to(y.mean(axis=0), y.shape)
        spread = haversine_km(y[:, 0], y[:, 1], centre[:, 0], centre[:, 1])
        swapped_spread = haversine_km(y[:, 1], y[:, 0], centre[:, 1], centre[:, 0])
        for name, a, b in (
            ("haversine MAE (km)", km.mean(), swapped.mean()),
            ("haversine RMSE (km)", (km**2).mean() ** 0.5, (swapped**2).mean() ** 0.5),
            ("haversine R²", 1 - (km**2).sum() / (spread**2).sum(),
             1 - (swapped**2).sum() / (swapped_spread**2).sum()),
        ):  # fmt: skip
            lines.append({"score": name, "graticule": float(a), "paper_compat": float(b)})
    first = {"score": "proximity error", "graticule": right.mean(), "paper_compat": theirs.mean()}
    return PaperCompat(
        predicted.name, len(y), pd.DataFrame([first, *lines]), {"versions": library_versions()}
    )


_PARENTHESES = re.compile(r"\((.*?)\)")
SMALL_WORDS = frozenset({"AND", "OR", "OF", "THE", "A", "AT", "&", "IN", "TO"})
"""Words that the New York names have in lower case, wherever they stand."""
ABBREVIATIONS = frozenset({"FDNY", "NYCT", "YMCA", "LGA", "US", "NYC", "PS", "IS", "NYS", "UN", "NY", "EMS",
                           "JCC", "NYU", "CC", "NYPD", "NYPA", "DHS"})  # fmt: skip
"""Words that stay in capitals."""


def possessive_place(name: str) -> str:
    """ "X (Y)" as "Y's X", or else "A, B, C" as "C's A, B"; other names as they are.

    The first parenthesis counts, all are taken out, and white space at the ends is stripped (the paper's own
    strings end in a space there, which costs a token). A name with nothing on one side stays as it is.
    """
    if inner := _PARENTHESES.search(name):
        head, rest = inner.group(1).strip(), _PARENTHESES.sub("", name).strip()
    elif "," in name:
        rest, _, head = (part.strip() for part in name.rpartition(","))
    else:
        return name
    return f"{head}'s {rest}" if head and rest else name


def possessive_work(creator: str, title: str) -> str:
    """ "Stephen King's It"; after an s a bare apostrophe: "The Beatles' Help!"."""
    return f"{creator}{chr(39) if creator.endswith('s') else chr(39) + 's'} {title}"


def title_case_place(name: str) -> str:
    """ "CHURCH OF THE PS 1" as "Church of the PS 1": small words lower, abbreviations upper, runs of white
    space as one space."""
    return " ".join(_cased(word) for word in name.split())


def _cased(word: str) -> str:
    if word in SMALL_WORDS:
        return word.lower()
    return word if word in ABBREVIATIONS else word.capitalize()


@dataclass(frozen=True)
class EntityString:
    """A named way from a row to what the model reads."""

    columns: tuple[str, ...]
    """Columns that it needs, in the order of `make`'s arguments; none for the table's own text column."""
    make: Callable[..., str]
    """From the values of the columns to the string."""
    description: str
    """A line for the command line and the docs."""


ENTITY_STRINGS: Mapping[str, EntityString] = {
    "raw": EntityString((), str, "the text column as it stands"),
    "possessive_place": EntityString((), possessive_place, "X (Y) as Y's X, and A, B as B's A"),
    "possessive_work": EntityString(("creator", "title"), possessive_work, "creator's title"),
    "title_case_place": EntityString((), title_case_place, "NAME OF A PLACE as Name of a Place"),
}
"""Name → rewriting; any of them can be asked for on any table that has its columns."""


def entity_strings(frame: pd.DataFrame, text: str, how: str) -> list[str | None]:
    """What the model reads for every row of `frame`; None where a needed column is missing.

    Raises:
        TableError: There is no such way.
        ColumnError: A needed column is not there.
    """
    if how not in ENTITY_STRINGS:
        options = "; ".join(f"{name!r} ({e.description})" for name, e in ENTITY_STRINGS.items())
        raise TableError(f"no entity string {how!r}; there are {options}")
    option = ENTITY_STRINGS[how]
    columns = option.columns or (text,)
    for column in columns:
        need_column(frame, column, f"the entity string {how!r}")
    rows = zip(*(frame[column] for column in columns), strict=True)
    return [option.make(*map(str, row)) if not any(map(_gone, row)) else None for row in rows]


def _gone(value: object) -> bool:
    return value is None or (isinstance(value, float) and value != value) or not str(value).strip()
