"""What a text says by its spelling alone: lengths, case, letters, words, each as a number."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

_CHARACTERS_AT_ONCE = 1 << 21
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_VOWELS = "aeiou"
_FOLDED = {"ß": "s", "æ": "a", "œ": "o", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "t", "ı": "i", "ħ": "h"}
_MARKS = "-'’.,()\"&/:"
"""Marks that are counted one by one."""
_SCRIPTS = ("LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "CJK", "HANGUL", "HIRAGANA", "KATAKANA",
            "DEVANAGARI", "BENGALI", "TAMIL", "THAI")  # fmt: skip
_WORDS = 4
"""Words, from the first on, of which each has features of its own."""
_ENDS = 4
"""Letters, from either end, each of which is a feature."""


@dataclass(frozen=True)
class TextFeatures:
    """Numbers that stand for texts."""

    names: tuple[str, ...]
    """One per column."""
    values: Float[np.ndarray, "row feature"]
    """0 where a text has no such thing (a second word, a letter)."""

    def beside(self, other: TextFeatures) -> TextFeatures:
        """These columns and those of others, of the same rows."""
        return TextFeatures((*self.names, *other.names), np.concatenate([self.values, other.values], axis=1))


def spelling(texts: Sequence[str]) -> TextFeatures:
    """The spelling of every text.

    Letters are Latin ones without accents and case, 1 to 26; other alphabets have their characters' class,
    script and code. Words lie between white space.

    Args:
        texts: any number of them, of any length.

    Returns:
        Lengths in characters, bytes, letters, words; counts of classes of characters, of marks, scripts and
        letters, and whether a letter is there; ranks of letters at either end, of words' first and last
        letters, and their sums; lengths of words; vowels, their groups (about syllables) and runs; repeats;
        places of first vowels; the place in the alphabet; palindromes; codes of the first and last character.
    """
    lengths = np.array([len(text) for text in texts], np.int64)
    parts: list[np.ndarray] = []
    names: tuple[str, ...] = ()
    start, filled = 0, 0
    for end, length in enumerate(lengths, 1):
        filled += int(length)
        if filled >= _CHARACTERS_AT_ONCE or end == len(texts):
            columns = _columns(texts[start:end], lengths[start:end])
            names = tuple(columns)
            parts.append(np.stack([c.astype(np.float64) for c in columns.values()], axis=1))
            start, filled = end, 0
    if not parts:
        return TextFeatures((), np.zeros((0, 0)))
    return TextFeatures(names, np.concatenate(parts))


@dataclass(frozen=True)
class _Characters:
    """The characters of some texts, one after the other."""

    code: Int[np.ndarray, " character"]
    row: Int[np.ndarray, " character"]
    place: Int[np.ndarray, " character"]
    kind: Int[np.ndarray, " character"]
    """Number of the first letter of the Unicode category in `_KINDS`; upper case by itself."""
    rank: Int[np.ndarray, " character"]
    """1 to 26 for Latin letters, else 0."""
    script: Int[np.ndarray, " character"]
    n: int

    def count(self, where: Bool[np.ndarray, " character"]) -> Int[np.ndarray, " row"]:
        return np.bincount(self.row[where], minlength=self.n)


_KINDS = ("space", "upper", "lower", "letter", "mark", "digit", "punctuation", "symbol", "other")


def _properties(code: int) -> tuple[int, int, int]:
    character = chr(code)
    category = unicodedata.category(character)
    if character.isspace():
        kind = 0
    elif category in ("Lu", "Lt"):
        kind = 1
    elif category == "Ll":
        kind = 2
    else:
        kind = {"L": 3, "M": 4, "N": 5, "P": 6, "S": 7}.get(category[0], 8)
    low = character.lower()[:1]
    base = _FOLDED.get(low) or unicodedata.normalize("NFKD", low)[:1]
    rank = ord(base) - 96 if base and "a" <= base <= "z" else 0
    script = 0
    if kind in (1, 2, 3):
        word = unicodedata.name(character, "").split(" ")[0]
        script = _SCRIPTS.index(word) + 1 if word in _SCRIPTS else len(_SCRIPTS) + 1
    return kind, rank, script


def _characters(texts: Sequence[str], lengths: np.ndarray) -> _Characters:
    joined = "".join(texts)
    code = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)
    row = np.repeat(np.arange(len(texts)), lengths)
    starts = np.cumsum(lengths) - lengths
    unique, inverse = np.unique(code, return_inverse=True)
    table = np.array([_properties(int(c)) for c in unique], np.int64).reshape(-1, 3)
    kind, rank, script = table[inverse].T
    return _Characters(code, row, np.arange(len(code)) - starts[row], kind, rank, script, len(texts))


def _columns(texts: Sequence[str], lengths: np.ndarray) -> dict[str, np.ndarray]:
    """Name → one number per text."""
    chars = _characters(texts, lengths)
    letters = _Letters.of(chars)
    return {**_of_characters(chars), **_of_letters(chars, letters), **_of_words(chars), **_of_texts(texts)}


def _share(part: np.ndarray, of: np.ndarray) -> np.ndarray:
    return part / np.maximum(of, 1)


def _first_place(row: np.ndarray, place: np.ndarray, n: int) -> Int[np.ndarray, " row"]:
    """The first of some places of every row; −1 where it has none."""
    out = np.full(n, -1)
    out[row[::-1]] = place[::-1]
    return out


def _of_characters(chars: _Characters) -> dict[str, np.ndarray]:
    n, code = chars.n, chars.code
    size = np.bincount(chars.row, minlength=n)
    out: dict[str, np.ndarray] = {"characters": size, "log_characters": np.log1p(size)}
    out["bytes"] = size + sum(chars.count(code > limit) for limit in (0x7F, 0x7FF, 0xFFFF))
    for i, kind in enumerate(_KINDS):
        out[f"{kind}_characters"] = chars.count(chars.kind == i)
    for mark in _MARKS:
        out[f"count_{mark}"] = chars.count(code == ord(mark))
    for i, script in enumerate((*_SCRIPTS, "other")):
        out[f"script_{script.lower()}"] = chars.count(chars.script == i + 1)
    out["beyond_ascii"] = chars.count(code > 0x7F)
    out["accented"] = chars.count((code > 0x7F) & (chars.rank > 0))
    out["distinct_characters"] = np.bincount(np.unique(chars.row * 0x110000 + code) // 0x110000, minlength=n)
    ends = np.cumsum(size) - 1
    some = size > 0
    for name, at in (("first", ends - size + 1), ("last", ends)):
        place = np.where(some, at, 0)
        for what, values in (("code", code), ("kind", chars.kind)):
            out[f"{name}_{what}"] = np.where(some, values[place], 0) if len(code) else np.zeros(n)
    for name, ours in (
        ("second_capital", (chars.kind == 1) & (chars.place > 0)),
        ("digit", chars.kind == 5),
        ("mark", chars.kind == 6),
        ("space", chars.kind == 0),
    ):
        out[f"place_of_{name}"] = _first_place(chars.row[ours], chars.place[ours], n)
    out["upper_share"] = _share(out["upper_characters"], size)
    out["digit_share"] = _share(out["digit_characters"], size)
    out["characters_mod_2"], out["characters_mod_3"] = size % 2, size % 3
    return out


@dataclass(frozen=True)
class _Letters:
    """The Latin letters among some characters."""

    row: Int[np.ndarray, " letter"]
    rank: Int[np.ndarray, " letter"]
    size: Int[np.ndarray, " row"]
    start: Int[np.ndarray, " row"]

    @classmethod
    def of(cls, chars: _Characters) -> _Letters:
        where = chars.rank > 0
        size = chars.count(where)
        return cls(chars.row[where], chars.rank[where], size, np.cumsum(size) - size)

    def at(self, place: np.ndarray) -> Int[np.ndarray, " row"]:
        """The rank of the letter at a place of every row; 0 where there is none."""
        there = (place >= 0) & (place < self.size)
        return np.where(there, np.append(self.rank, 0)[np.where(there, self.start + place, -1)], 0)


def _of_letters(chars: _Characters, letters: _Letters) -> dict[str, np.ndarray]:
    n, size, rank, row = chars.n, letters.size, letters.rank, letters.row
    counts = np.bincount(row * 27 + rank, minlength=27 * n).reshape(n, 27)[:, 1:]
    out: dict[str, np.ndarray] = {"letters": size, "letters_mod_2": size % 2}
    for i, letter in enumerate(_LETTERS):
        out[f"count_{letter}"] = counts[:, i]
    vowel = np.isin(np.arange(27), [_LETTERS.index(v) + 1 for v in _VOWELS])
    out["vowels"] = np.bincount(row[vowel[rank]], minlength=n)
    out["vowel_share"] = _share(out["vowels"], size)
    long = np.bincount(chars.row, minlength=n)
    out["vowels_of_characters"], out["letters_of_characters"] = (
        _share(out["vowels"], long),
        _share(size, long),
    )
    out["distinct_letters"] = (counts > 0).sum(axis=1)
    out["repeated_letters"] = (counts > 1).sum(axis=1)
    out["single_letters"] = (counts == 1).sum(axis=1)
    out["most_of_a_letter"] = counts.max(axis=1, initial=0)
    shares = counts / np.maximum(size, 1)[:, None]
    out["letter_entropy"] = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(axis=1)
    total = np.bincount(row, rank, n)
    out["rank_sum"], out["rank_mean"] = total, _share(total, size)
    squares = _share(np.bincount(row, rank * rank, n), size)
    out["rank_spread"] = np.sqrt(np.maximum(squares - np.square(out["rank_mean"]), 0))
    there = counts > 0
    out["rank_least"] = np.where(size > 0, there.argmax(axis=1) + 1, 0)
    out["rank_most"] = np.where(size > 0, 26 - there[:, ::-1].argmax(axis=1), 0)
    for i in range(_ENDS):
        out[f"letter_{i}"], out[f"letter_{-1 - i}"] = letters.at(np.full(n, i)), letters.at(size - 1 - i)
    out["letter_middle"] = letters.at(size // 2)
    out["first_is_vowel"], out["last_is_vowel"] = vowel[out["letter_0"]], vowel[out["letter_-1"]]
    out["ends_alike"] = (out["letter_0"] == out["letter_-1"]) & (size > 0)
    places = range(6)
    out["in_alphabet"] = np.sum([letters.at(np.full(n, i)) / 27.0**i for i in places], axis=0)
    out["in_reversed_alphabet"] = np.sum([letters.at(size - 1 - i) / 27.0**i for i in places], axis=0)
    place = np.arange(len(row)) - letters.start[row]
    for v in (*_VOWELS, ""):
        ours = vowel[rank] if v == "" else rank == _LETTERS.index(v) + 1
        out[f"place_of_{v or 'vowel'}"] = _first_place(row[ours], place[ours], n)
    return {**out, **_of_neighbours(chars, vowel)}


def _of_neighbours(chars: _Characters, vowel: np.ndarray) -> dict[str, np.ndarray]:
    """What characters that follow each other make: runs, doubles, groups of vowels."""
    n, rank, row = chars.n, chars.rank, chars.row
    before = np.concatenate([[0], rank[:-1]])[: len(rank)] * (chars.place > 0)
    out: dict[str, np.ndarray] = {}
    out["doubles"] = chars.count((rank > 0) & (rank == before))
    out["steps_up"], out["steps_down"] = (
        chars.count((rank > before) & (before > 0)),
        chars.count((rank < before) & (rank > 0)),
    )
    kind = np.where(rank == 0, 0, np.where(vowel[rank], 1, 2))
    begins = (np.concatenate([[-1], kind[:-1]])[: len(kind)] != kind) | (chars.place == 0)
    run = np.cumsum(begins) - 1
    long, kinds, rows = np.bincount(run), kind[begins], row[begins]
    for i, name in ((1, "vowel"), (2, "consonant")):
        ours = kinds == i
        out[f"{name}_groups"] = np.bincount(rows[ours], minlength=n)
        most = np.zeros(n, np.int64)
        np.maximum.at(most, rows[ours], long[ours])
        out[f"{name}_run"] = most
    return out


def _of_words(chars: _Characters) -> dict[str, np.ndarray]:
    n, inside = chars.n, chars.kind > 0
    follows = np.concatenate([[False], inside[:-1]])[: len(inside)] & (chars.place > 0)
    begins = inside & ~follows
    word = np.cumsum(begins)[inside] - 1
    row, length = chars.row[begins], np.bincount(word, minlength=int(begins.sum()))
    many = len(length)
    size = np.bincount(row, minlength=n)
    start = np.cumsum(size) - size
    rank = chars.rank[inside]
    lettered = rank > 0
    own = np.bincount(word[lettered], minlength=many)
    first, second, last = (np.zeros(many, np.int64) for _ in range(3))
    first[word[lettered][::-1]] = rank[lettered][::-1]
    last[word[lettered]] = rank[lettered]
    next_to = np.concatenate([rank[1:], [0]])[: len(rank)]
    second[word[begins[inside]]] = next_to[begins[inside]] * (length > 1)
    upper = np.bincount(word[chars.kind[inside] == 1], minlength=many)
    initial = chars.kind[begins]

    def at(values: np.ndarray, place: np.ndarray) -> np.ndarray:
        there = (place >= 0) & (place < size)
        return np.where(there, np.append(values, 0)[np.where(there, start + place, -1)], 0)

    def count(where: np.ndarray) -> np.ndarray:
        return np.bincount(row[where], minlength=n)

    places = {str(i): np.full(n, i) for i in range(_WORDS)} | {"last": size - 1}
    out: dict[str, np.ndarray] = {"words": size, "words_mod_2": size % 2}
    for name, place in places.items():
        out[f"word_{name}_characters"], out[f"word_{name}_letters"] = at(length, place), at(own, place)
        out[f"word_{name}_first"], out[f"word_{name}_last"] = at(first, place), at(last, place)
        out[f"word_{name}_second"] = at(second, place)
    longest, shortest = np.zeros(n, np.int64), np.full(n, np.iinfo(np.int64).max)
    np.maximum.at(longest, row, length)
    np.minimum.at(shortest, row, length)
    out["longest_word"], out["shortest_word"] = longest, np.where(size > 0, shortest, 0)
    mean = _share(np.bincount(row, length, n), size)
    out["mean_word"] = mean
    out["word_spread"] = np.sqrt(np.maximum(_share(np.bincount(row, length**2, n), size) - mean**2, 0))
    out["place_of_longest"] = _place_of(longest, row, length, np.arange(many) - start[row])
    out["initials_sum"], out["finals_sum"] = np.bincount(row, first, n), np.bincount(row, last, n)
    out["initials_mean"] = _share(out["initials_sum"], size)
    out["distinct_initials"] = np.bincount(np.unique(row * 27 + first) // 27, minlength=n)
    out["capital_words"], out["lower_words"] = count(initial == 1), count(initial == 2)
    out["capitals_only"] = count((upper == length) & (upper > 1))
    out["inner_capitals"] = np.bincount(row, upper, n) - out["capital_words"]
    for most in (1, 2, 3):
        out[f"words_of_{most}"] = count(length <= most)
    out["long_words"] = count(length > 7)
    return out


def _place_of(most: np.ndarray, row: np.ndarray, values: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Where in its row the first of the largest values stands."""
    out = np.zeros(len(most), np.int64)
    ours = values == most[row]
    out[row[ours][::-1]] = place[ours][::-1]
    return out


def _of_texts(texts: Sequence[str]) -> dict[str, np.ndarray]:
    """What is easier to say one text at a time: words that are palindromes or repeated, the first number."""
    rows: list[tuple[int, int, int, float]] = []
    for text in texts:
        words = text.lower().split()
        letters = "".join(c for c in text.lower() if c.isalnum()) if len(text) < 200 else "ab"
        digits = (
            "".join(c if c.isdecimal() else " " for c in text).split()
            if any(map(str.isdecimal, text))
            else []
        )
        rows.append((
            sum(len(w) > 2 and w == w[::-1] for w in words),
            int(letters == letters[::-1]),
            len(words) - len(set(words)),
            float(np.log1p(float(digits[0][:12]))) if digits else -1.0,
        ))  # fmt: skip
    names = ("palindromes", "is_palindrome", "repeated_words", "first_number")
    return dict(zip(names, np.array(rows, np.float64).reshape(-1, 4).T, strict=True))
