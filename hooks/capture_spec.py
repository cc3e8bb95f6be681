"""What a capture was asked, as plain data: saved with what it gave, replayed by whatever captures again."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from graticule.hooks.positions import Pos, pos_from_data, pos_to_data


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
