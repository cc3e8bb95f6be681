"""Confounders: what could tell the target without the concept, by columns that are named or by the texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from graticule.hooks.messages import brief, did_you_mean
from graticule.probes.surface.spelling import spelling
from graticule.probes.tables.checks import ColumnError
from graticule.probes.tables.columns import TableError

SPELLED: dict[str, tuple[str, ...]] = {
    "length": ("characters", "words", "letters", "longest_word", "mean_word"),
    "case": ("upper_share", "upper_characters", "capital_words", "lower_words", "capitals_only",
             "inner_capitals", "place_of_second_capital"),
    "digits": ("digit_characters", "digit_share", "place_of_digit", "first_number"),
    "punctuation": ("punctuation_characters", "symbol_characters", "place_of_mark", "last_kind",
                    *(f"count_{mark}" for mark in "-'’.,()\"&/:")),
    "script": ("beyond_ascii", "accented"),
}  # fmt: skip
"""Built-in confounders → the features of a text's spelling that they are."""
BUILT_IN = (*SPELLED, "position", "template")
"""Confounders that need no column: five of a text's spelling, its place in the table, and what is left of it
where rare words are cut out."""
_SCRIPT = "script_"
_SLOT = "_"
_FEWEST, _OFTEN = 5, 0.05
_PIECES = 12
_AFFIX = 8
_OTHER = "other"


def confounder_frames(
    names: Sequence[str],
    frame: pd.DataFrame,
    texts: Sequence[str] | None,
    place: Float[np.ndarray, " row"],
    targets: Sequence[str] = (),
) -> dict[str, pd.DataFrame]:
    """Confounder → its columns, the first of which stands for it; a column goes before a built-in one.

    Args:
        names: Columns of `frame`, or some of `BUILT_IN`.
        frame: The rows.
        texts: Of the rows, where there are texts.
        place: Of the rows in the data, from 0 to 1.
        targets: Columns that are to be read out.

    Returns:
        Numbers, or words: what is missing is a word of its own, or NaN. Times, spans of time and periods are
        numbers of days.

    Raises:
        ColumnError: There is no such column, and no built-in confounder.
        TableError: It is the target, needs texts that are not there, or tells no two rows alike or apart.
    """
    built = None if texts is None or not {*names} & {*BUILT_IN} else built_in(texts, place)
    out: dict[str, pd.DataFrame] = {}
    for name in names:
        if name in targets:
            raise TableError(f"confounds {name!r} is the target: name what could tell it without the concept")
        if name in frame:
            values = _times_as_days(frame[name])
            number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
            _check_values(name, values, number)
            column = values.astype(np.float64) if number else values.astype(object).map(str, "ignore")
            out[name] = pd.DataFrame({name: column if number else column.fillna("missing")})
            count = values.nunique(dropna=False)
            if count < 2 or (not number and count == len(values)):
                what = "the same in all rows" if count < 2 else "another word in every row"
                raise TableError(f"confounds {name!r} is {what}: it can tell nothing of other rows")
        elif name not in BUILT_IN:
            near = did_you_mean(name, [*map(str, frame), *BUILT_IN])
            raise ColumnError(
                f"confounds: no column {name!r} in the table, which has {', '.join(map(str, frame))}; "
                f"computed from the texts are {', '.join(BUILT_IN)}{near}"
            )
        elif name == "position":
            out[name] = pd.DataFrame({name: place})
        elif built is None:
            raise TableError(f"confounds {name!r} is computed from the texts: name them, text=")
        else:
            out[name] = built[name]
    return out


def _times_as_days(values: pd.Series) -> pd.Series:
    """Times since the first, spans, and periods by their beginning, in days; all else as it is."""
    kind = pd.api.types.infer_dtype(values, skipna=True)
    if kind.startswith("period"):
        values, kind = pd.Series(pd.PeriodIndex(values).to_timestamp(), values.index), "datetime"
    if kind in ("date", "datetime", "datetime64"):
        values = pd.to_datetime(values, utc=True)
        values, kind = values - values.min(), "timedelta"
    return values if not kind.startswith("timedelta") else pd.to_timedelta(values) / pd.Timedelta(days=1)


def _check_values(name: str, values: pd.Series, number: bool) -> None:
    if number:
        endless = np.flatnonzero(np.isinf(values.to_numpy(np.float64, na_value=np.nan)))
        if len(endless):
            raise TableError(f"confounds {name!r} is infinite in row {endless[0]}: expected finite numbers")
    elif nested := [value for value in values if not isinstance(value, Hashable)]:
        raise TableError(f"confounds {name!r} holds {brief(nested[0])}: expected a word or a number a row")


def built_in(texts: Sequence[str], place: Float[np.ndarray, " row"]) -> dict[str, pd.DataFrame]:
    """Every built-in confounder of some texts.

    Args:
        texts: A row each.
        place: Of each row in its data, from 0 to 1.

    Returns:
        Name → columns, the first of which stands for it.
    """
    features = spelling(texts)
    of = dict(zip(features.names, features.values.T, strict=True))
    out = {name: pd.DataFrame({one: of[one] for one in columns}) for name, columns in SPELLED.items()}
    scripts = [name for name in of if name.startswith(_SCRIPT)]
    counts = np.stack([of[name] for name in scripts], axis=1)
    most = np.array([name.removeprefix(_SCRIPT) for name in scripts], object)[counts.argmax(axis=1)]
    main = np.where(counts.any(axis=1), most, "none")
    out["script"].insert(0, "script", main)
    out["position"] = pd.DataFrame({"position": place})
    out["template"] = _templates(texts)
    return {name: out[name] for name in BUILT_IN}


def joined_frames(
    parts: Sequence[tuple[Mapping[str, pd.DataFrame], Int[np.ndarray, " _"]]],
) -> dict[str, pd.DataFrame]:
    """Some rows of several tables' confounders, one below the other: of those that all tables have."""
    names = [name for name in parts[0][0] if all(name in frames for frames, _ in parts)]
    return {
        name: pd.concat([frames[name].iloc[rows] for frames, rows in parts], ignore_index=True)
        for name in names
    }


def _templates(texts: Sequence[str]) -> pd.DataFrame:
    """What is the same in many texts: the frequent words with slots between them, how it begins, how it ends.

    Words, beginnings and endings count that one in twenty of the different texts has, five at least.
    """
    words = [text.split() for text in texts]
    different = list(dict(zip(texts, words, strict=True)).values())
    least = max(float(_FEWEST), _OFTEN * len(different))
    number = Counter(word for own in different for word in set(own))
    often = {word for word, count in number.items() if count >= least}
    return pd.DataFrame({
        "template": _shared([_skeleton(own, often) for own in words]),
        "begins": _shared(_affixes(words, different, least)),
        "ends": _shared(_affixes([own[::-1] for own in words], [own[::-1] for own in different], least)),
    })  # fmt: skip


def _skeleton(words: Sequence[str], often: set[str]) -> str:
    pieces: list[str] = []
    for word in words:
        piece = word if word in often else _SLOT
        if piece != _SLOT or not pieces or pieces[-1] != _SLOT:
            pieces.append(piece)
    return " ".join(pieces[:_PIECES])


def _affixes(words: Sequence[Sequence[str]], different: Sequence[Sequence[str]], least: float) -> list[str]:
    """The longest beginning of each text, short of all of it, that many texts share."""
    number = Counter(tuple(own[:k]) for own in different for k in range(1, min(_AFFIX, len(own) - 1) + 1))
    out: list[str] = []
    for own in words:
        lengths = range(min(_AFFIX, len(own) - 1), 0, -1)
        out.append(next((" ".join(own[:k]) for k in lengths if number[tuple(own[:k])] >= least), _SLOT))
    return out


def _shared(values: Sequence[str]) -> list[str]:
    number = Counter(values)
    return [value if number[value] >= _FEWEST else _OTHER for value in values]
