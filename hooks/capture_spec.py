"""What a capture was asked, its positions among it: as plain data, saved with what it gave, and replayed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from graticule.hooks.chats import Turn, turn_positions
from graticule.hooks.messages import brief

if TYPE_CHECKING:
    from graticule.hooks.tokens import TokenRows


Named = Literal["last", "all", "entity", "entity_last", "entity_mean"]


@dataclass(frozen=True)
class Sample:
    """k tokens of every text, drawn without replacement (all of them where a text has fewer); never BOS.

    The draw depends on the seed and the text's tokens alone: the same text gives the same positions wherever
    it stands, in all of a table's texts or in some of them.
    """

    k: int
    """Tokens a text."""
    seed: int = 0
    """Seed of the draws."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"Sample(k={self.k}): k is at least 1")
        if self.seed < 0:
            raise ValueError(f"Sample(seed={self.seed}): seed is at least 0")

    def of(self, row: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """The positions drawn among `candidates` of a row of token ids, sorted."""
        if len(candidates) <= self.k:
            return candidates
        digest = hashlib.blake2b(row.astype("<i8").tobytes(), digest_size=16).digest()
        rng = np.random.default_rng([self.seed, int.from_bytes(digest, "little")])
        return np.sort(rng.choice(candidates, self.k, replace=False))


@dataclass(frozen=True)
class Places:
    """Positions of every text, one by one: those that have labels (`TokenTable.pos`)."""

    of_texts: tuple[tuple[int, ...], ...]
    """Of every text, from the start of its row, BOS included."""

    def __repr__(self) -> str:
        return f"Places({sum(map(len, self.of_texts))} tokens of {len(self.of_texts)} texts)"

    def of(self, lengths: Sequence[int]) -> list[np.ndarray]:
        """The positions, for rows of such lengths.

        Raises:
            ValueError: For another number of texts.
            IndexError: Naming the first text that is too short.
        """
        if len(lengths) != len(self.of_texts):
            raise ValueError(f"pos={self!r}: there are {len(lengths)} texts; give those that it is of")
        for text, (places, length) in enumerate(zip(self.of_texts, lengths, strict=True)):
            if places and not 0 <= min(places) <= max(places) < length:
                raise IndexError(f"pos={self!r}: text {text} has {length} tokens, asked for is {max(places)}")
        return [np.array(places, dtype=np.int64) for places in self.of_texts]


Pos = Named | int | slice | Sample | Places | Turn
"""`"last"`, `"all"`, an index (negative from the end), a slice, `Sample(k)`, a chat's `Turn(role)`, `Places`,
or the entity inside a prompt: all its tokens (`"entity"`), the last one (`"entity_last"`) or their mean
(`"entity_mean"`)."""

_NAMES = ("last", "all", "entity", "entity_last", "entity_mean")


def check_pos(pos: Any, *more: str) -> None:
    """Refuse what is none of the forms of `Pos`, whatever its type.

    Args:
        pos: What was given.
        more: Names that the caller takes besides, for the message.

    Raises:
        ValueError: for such a `pos`.
    """
    if isinstance(pos, Sample | Places | Turn) or (isinstance(pos, str) and pos in _NAMES):
        return
    if isinstance(pos, int) and not isinstance(pos, bool):
        return
    if isinstance(pos, slice) and all(
        part is None or (isinstance(part, int) and not isinstance(part, bool))
        for part in (pos.start, pos.stop, pos.step)
    ):
        return
    raise ValueError(
        f"pos={brief(pos)}: expected one of {', '.join(map(repr, (*_NAMES, *more)))}, an index such as -1, a "
        "slice of indices, Sample(k), or Turn(role) of a chat"
    )


# As plain data ---------------------------------------------------------------------------------------
def pos_to_data(pos: Pos | str) -> Any:
    """`pos` as JSON: a name, an index, `{"slice": [start, stop, step]}`, `{"places": [[position, …], …]}`,
    `{"turn": role, "index": …, "part": …}`, or `{"sample": k, "seed": seed}` with `"by": "tokens"`, what the
    draws follow."""
    if isinstance(pos, slice):
        return {"slice": [pos.start, pos.stop, pos.step]}
    if isinstance(pos, Sample):
        return {"sample": pos.k, "seed": pos.seed, "by": "tokens"}
    if isinstance(pos, Places):
        return {"places": [list(places) for places in pos.of_texts]}
    if isinstance(pos, Turn):
        return {"turn": pos.role, "index": pos.index, "part": pos.part}
    return pos


def pos_from_data(value: Any) -> Pos:
    """What `pos_to_data` wrote, or what 0.1 did: `"'last'"`, `"slice(1, None, None)"`.

    Raises:
        ValueError: It is anything else, or a `Sample` of 0.1: that was drawn by a text's place in the input,
            so that a part of the texts would be read elsewhere than they were captured.
    """
    drawn = value.get("by") is None and "sample" in value if isinstance(value, Mapping) else None
    if drawn or re.fullmatch(r"Sample\(k=\d+, seed=\d+\)", str(value)):
        raise ValueError(
            f"pos={brief(value)} was drawn by each text's place in the input, as earlier versions did; "
            "capture again, or pass pos= yourself"
        )
    try:
        pos = _from_mapping(value) if isinstance(value, Mapping) else _from_text(value)
        check_pos(pos)
        return pos
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"pos={brief(value)} is no position that was saved; pass pos= yourself") from None


def _from_mapping(value: Mapping[str, Any]) -> Pos:
    if "slice" in value:
        start, stop, step = value["slice"]
        return slice(start, stop, step)
    if "places" in value:
        return Places(tuple(tuple(map(int, places)) for places in value["places"]))
    if "turn" in value:
        return Turn(value["turn"], value["index"], value["part"])
    if value["by"] != "tokens":
        raise ValueError(value["by"])
    return Sample(int(value["sample"]), int(value["seed"]))


def _from_text(value: Any) -> Any:
    """A position itself, or one as 0.1 wrote it."""
    if not isinstance(value, str) or value in _NAMES:
        return value
    if (cut := re.fullmatch(r"slice\((.+), (.+), (.+)\)", value)) is not None:
        return slice(*(None if part == "None" else int(part) for part in cut.groups()))
    return value[1:-1] if value[1:-1] in _NAMES else int(value)


# Selection -------------------------------------------------------------------------------------------
def select_positions(pos: Pos, rows: TokenRows, include_bos: bool | None = None) -> list[np.ndarray]:
    """Token positions (from the start of the row, BOS included) of every text.

    `include_bos=False` leaves the special tokens out of what `pos` selects (`"last"` is then the last of the
    text's own); by default only `Sample` does.

    Raises:
        IndexError: naming the first text that is too short for an index.
        ValueError: for an index that is a special token where these are left out.
    """
    if pos in ("entity", "entity_mean"):
        return [np.arange(*span) for span in rows.spans]
    if pos == "entity_last":
        return [np.array([end - 1]) for _, end in rows.spans]
    if isinstance(pos, Places):
        return pos.of(rows.lengths)
    if isinstance(pos, Turn):
        return turn_positions(pos, rows)
    within = rows.within(not isinstance(pos, Sample) if include_bos is None else include_bos)
    return [_of_text(pos, rows, text, *bounds) for text, bounds in enumerate(within)]


def _of_text(pos: Pos, rows: TokenRows, text: int, start: int, end: int) -> np.ndarray:
    length, candidates = len(rows.ids[text]), np.arange(start, end)
    if pos == "all":
        return candidates
    if pos == "last":
        return candidates[-1:]
    if isinstance(pos, Sample):
        return pos.of(rows.ids[text], candidates)
    if isinstance(pos, slice):
        chosen = np.arange(length)[pos]
        return chosen[(chosen >= start) & (chosen < end)]
    assert isinstance(pos, int)
    if not -length <= pos < length:
        raise IndexError(f"pos={pos}: text {text} has {length} tokens (BOS included)")
    if not start <= pos % length < end:
        raise ValueError(f"pos={pos} is a special token of text {text}, and include_bos=False leaves it out")
    return np.array([pos % length])


# Everything that was asked -----------------------------------------------------------------------------
@dataclass(frozen=True)
class CaptureSpec:
    """Which model read which inputs, at which positions and points, in which dtype.

    None is what nobody stated: in a call the model's or capture's own choice, in a provenance what it does
    not tell.
    """

    model: Mapping[str, Any] | None = None
    """The model's identity."""
    inputs: str | None = None
    """Digest of the token rows."""
    n_inputs: int | None = None
    """How many there are."""
    prompt: str | None = None
    """Text before every input, or a template with one slot."""
    positions: Any = None
    """The positions as plain data (`pos_to_data`)."""
    points: tuple[str, ...] = ()
    """Full hook names; empty where whoever captures says which."""
    dtype: str | None = None
    """Of the activations."""
    framed: bool | None = None
    """Whether special tokens stand around every text."""
    prepend_bos: bool | None = None
    """Whether special tokens were asked for."""
    include_bos: bool | None = None
    """Whether special tokens may become rows."""
    shard: tuple[int, int] = (0, 1)
    """Which part of the inputs this is, counted from 0, and of how many."""

    @property
    def pos(self) -> Pos:
        """The positions as `capture` takes them, its default where none are stated.

        Raises:
            ValueError: They cannot be repeated (a `Sample` of 0.1), or are none that were saved.
        """
        return "last" if self.positions is None else pos_from_data(self.positions)

    def arguments(self, **others: Any) -> dict[str, Any]:
        """The arguments with which `capture` does the same again.

        Args:
            **others: Further arguments, or values instead of the capture's own.

        Raises:
            ValueError: As `pos` does.
        """
        return {
            "pos": self.pos,
            "prompt": self.prompt or "",
            "prepend_bos": self.prepend_bos,
            "include_bos": self.include_bos,
            **({"points": list(self.points)} if self.points else {}),
            **({"dtype": self.dtype} if self.dtype else {}),
            **others,
        }

    def request(self) -> dict[str, Any]:
        """What a store compares before it goes on; points and dtype stand in its manifest by themselves."""
        saved = {name: value for name, value in self.to_json().items() if name not in ("points", "dtype")}
        return {**saved, "prepend_bos": self.prepend_bos}

    def to_json(self) -> dict[str, Any]:
        """Everything that is stated, in JSON's own types."""
        stated = {
            "model": self.model,
            "inputs": self.inputs,
            "n_inputs": self.n_inputs,
            "prompt": self.prompt,
            "pos": self.positions,
            "points": list(self.points) or None,
            "dtype": self.dtype,
            "bos": self.framed,
            "prepend_bos": self.prepend_bos,
            "include_bos": self.include_bos,
            "shard": None if self.shard == (0, 1) else list(self.shard),
        }
        return {name: value for name, value in stated.items() if value is not None}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> CaptureSpec:
        """What a provenance or a request says of its capture; other entries are passed over.

        Positions may be those of 0.1 (`"'last'"`). Its captures kept whether rows got special tokens, not
        what was asked: that is taken for what was asked.
        """
        model, framed, positions = saved.get("model"), saved.get("bos"), saved.get("pos")
        with suppress(ValueError):  # what cannot be repeated stays as it was written
            positions = None if positions is None else pos_to_data(pos_from_data(positions))
        first, last = saved.get("shard", (0, 1))
        return cls(
            model=model if isinstance(model, Mapping) else None,
            inputs=saved.get("inputs"),
            n_inputs=saved.get("n_inputs"),
            prompt=saved.get("prompt"),
            positions=positions,
            points=tuple(saved.get("points", ())),
            dtype=saved.get("dtype"),
            framed=framed,
            prepend_bos=saved.get("prepend_bos", framed),
            include_bos=saved.get("include_bos"),
            shard=(first, last),
        )
