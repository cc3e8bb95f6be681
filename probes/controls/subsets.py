"""Rows that may make a score easy: names of digits alone, and texts that training rows have already."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool

from graticule.probes.controls.lines import Line, not_applicable
from graticule.probes.controls.setting import Setting

LETTERS_ASKS = "the probe and the surface without names that are digits alone (zip codes)"
DIGITS_ASKS = "those names by themselves, whose digits tell the place linearly"
MINIMUM = 10
"""Rows of each part of the split that a subset needs."""


def digit_only(texts: Sequence[str]) -> Bool[np.ndarray, " row"]:
    """Names with a digit and without a letter of any script."""
    return np.array([any(c.isdigit() for c in t) and not any(c.isalpha() for c in t) for t in texts], bool)


def plain(text: str) -> str:
    """Lower case without accents, punctuation and doubled spaces: what makes near-duplicates equal.

    A text that has nothing but such marks stays as it is.
    """
    letters = unicodedata.normalize("NFKD", text.casefold())
    kept = "".join(c if c.isalnum() else " " for c in letters if not unicodedata.combining(c))
    return " ".join(kept.split()) or text


def digit_lines(setting: Setting) -> list[Line]:
    """Names with letters and digit-only names apart, each with stacks refitted on its own training rows.

    The probe and the baselines are those fitted on all training rows: what is fitted anew is how they are
    stacked.
    """
    names = ("names with letters", "digit-only names")
    if setting.texts is None:
        return [_no_texts(names[0], LETTERS_ASKS), _no_texts(names[1], DIGITS_ASKS)]
    digits, problem = digit_only(setting.texts), setting.material.problem
    train, test = digits[problem.train], digits[problem.test]
    if not train.any() and not test.any():
        why = "no name is digits alone"
        both = zip(names, (LETTERS_ASKS, DIGITS_ASKS), strict=True)
        return [not_applicable("subset", name, asks, why) for name, asks in both]
    share = f"{digits.mean():.0%} of all rows are digit-only names"
    lines: list[Line] = []
    parts = ((names[0], LETTERS_ASKS, ~train, ~test), (names[1], DIGITS_ASKS, train, test))
    for name, asks, of_train, of_test in parts:
        few = min(int(of_train.sum()), int(of_test.sum()))
        if few < MINIMUM:
            why = f"{few} rows in one part of the split, {MINIMUM} are needed"
            lines.append(not_applicable("subset", name, asks, why))
        else:
            lines.append(setting.gain_line("subset", name, asks, of_train, of_test, share))
    return lines


def repeated_lines(setting: Setting) -> list[Line]:
    """Test rows whose text, title or near-duplicate is in training rows too: set aside, and alone."""
    table, problem = setting.material.table, setting.material.problem
    kinds: dict[str, pd.Series] = {}
    if setting.texts is not None:
        kinds["text"] = pd.Series(setting.texts)
        kinds["text but for case, accents and punctuation"] = kinds["text"].map(plain)
    for column in table.frame:
        if str(column).lower() == "title":
            titles = table.frame[column].iloc[problem.source].reset_index(drop=True)
            kinds["title"] = titles.map(lambda t: plain(str(t)), na_action="ignore")
    if not kinds:
        return [_no_texts("repeated texts set aside", "the score on texts that training rows do not have")]
    lines: list[Line] = []
    done: Bool[np.ndarray, " test"] | None = None
    everything = np.ones(len(problem.train), bool)
    for kind, values in kinds.items():
        train = values.iloc[problem.train].dropna()
        again = values.iloc[problem.test].isin(train).to_numpy()
        if done is not None and np.array_equal(done, again):
            continue  # the looser key finds the very same rows
        done = again
        name = f"repeated {kind}"
        asks = f"the score on test rows whose {kind} no training row has"
        count = f"{int(again.sum()):,} of {len(again):,} test rows recur in training rows"
        if not again.any():
            lines.append(not_applicable("subset", f"{name} set aside", asks, "no test row's recurs"))
            continue
        if (~again).sum() >= MINIMUM:
            lines.append(setting.gain_line("subset", f"{name} set aside", asks, everything, ~again, count))
        else:
            lines.append(not_applicable("subset", f"{name} set aside", asks, count))
        if again.sum() >= MINIMUM:
            only = f"the score on test rows whose {kind} training rows have"
            lines.append(setting.gain_line("subset", f"{name} alone", only, everything, again, count))
    return lines


def _no_texts(name: str, asks: str) -> Line:
    return not_applicable("subset", name, asks, "there are no texts")
