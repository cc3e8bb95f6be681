"""Conversations as the tokenizer's own chat template writes them, and which tokens a turn of theirs has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from graticule.hooks.messages import brief
from graticule.hooks.offsets import character_offsets, touched
from graticule.hooks.tokens import TokenRows

Part = Literal["all", "last", "reasoning", "answer", "end"]
"""What of a turn: all that is said, its last token, what stands between think tags, what comes after them, or
the tokens by which the template ends the turn."""
_PARTS = ("all", "last", "reasoning", "answer", "end")
_THINK = ("<think>", "</think>")


@dataclass(frozen=True)
class Turn:
    """Tokens of one turn of every conversation, or of all turns of a role.

    Turns are those of the tokenizer's chat template, found in the text as it was written: in conversations
    that `capture` writes itself, and in texts that were written by `tokenizer.apply_chat_template`. A turn
    without think tags has no reasoning, and gives no row there.
    """

    role: str = "assistant"
    """Whose turn."""
    index: int | None = -1
    """Which of the role's turns, negative from the end; None is all of them."""
    part: Part = "all"
    """What of it."""

    def __post_init__(self) -> None:
        if self.part not in _PARTS:
            raise ValueError(f"Turn(part={self.part!r}): expected one of {', '.join(_PARTS)}")


def written(model: Any, inputs: Any) -> Any:
    """Conversations as texts, by the tokenizer's own chat template; any other inputs as they are.

    Raises:
        ValueError: the tokenizer has no chat template, or it does not take a conversation.
    """
    first = inputs[0] if len(inputs) else None
    if not isinstance(first, list | tuple) or not first or not isinstance(first[0], Mapping):
        return inputs
    tokenizer = getattr(model, "tokenizer", None)
    return [_written(tokenizer, conversation, f"conversation {i}") for i, conversation in enumerate(inputs)]


def turn_positions(turn: Turn, rows: TokenRows) -> list[Int[np.ndarray, " position"]]:
    """The positions of a turn's tokens in every row.

    Args:
        turn: which, and what of it.
        rows: made of texts that the tokenizer's chat template wrote.

    Returns:
        Positions from the start of each row; none where a turn lacks the part.

    Raises:
        ValueError: rows of token ids, or a template that does not mark such turns.
        IndexError: naming the first text without such a turn.
    """
    if rows.origin is None:
        raise ValueError(
            f"pos={turn!r} needs conversations, or texts that a chat template wrote, not token rows"
        )
    tokenizer, texts = rows.origin
    marks = _marks(tokenizer)
    if turn.role not in marks:
        raise ValueError(f"pos={turn!r}: the chat template marks turns of {', '.join(marks) or 'nobody'}")
    out: list[np.ndarray] = []
    for i, (text, ranges) in enumerate(zip(texts, character_offsets(tokenizer, texts, rows), strict=True)):
        spans = [span for role, *span in _turns(text, marks) if role == turn.role]
        if turn.index is not None:
            if not -len(spans) <= turn.index < len(spans):
                raise IndexError(f"pos={turn!r}: text {i} has {len(spans)} turns of {turn.role}")
            spans = [spans[turn.index]]
        chosen = np.zeros(len(ranges), bool)
        for start, end in spans:
            chosen |= _of_part(turn.part, text, ranges, (start, end), marks[turn.role][1])
        out.append(np.flatnonzero(chosen))
    return out


def _of_part(part: Part, text: str, ranges: np.ndarray, span: tuple[int, int], tail: str) -> np.ndarray:
    start, end = span
    if part == "end":
        blank = len(tail) - len(tail.lstrip())
        return touched(ranges, end + blank, end + blank + len(tail.strip()))
    opens, closes = text.find(_THINK[0], start, end), text.find(_THINK[1], start, end)
    if part == "reasoning":
        first = start if opens < 0 else opens + len(_THINK[0])
        last = first if opens < 0 and closes < 0 else end if closes < 0 else closes
        return touched(ranges, first, last) & (last > first)
    if part == "answer":
        start = closes + len(_THINK[1]) if closes >= 0 else end if opens >= 0 else start
    chosen = touched(ranges, start, end) & (end > start)
    if part == "last":
        chosen[np.flatnonzero(chosen)[:-1]] = False
    return chosen


# The template ------------------------------------------------------------------------------------------
def _written(tokenizer: Any, conversation: Sequence[Any], what: str) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"{what} needs the tokenizer's chat template, and there is none: give texts, or set "
            "model.tokenizer.chat_template"
        )
    for turn in conversation:
        if not isinstance(turn, Mapping) or not {"role", "content"} <= set(turn):
            raise ValueError(f"{what} has {brief(turn)}; expected {{'role': …, 'content': …}}")
    try:
        return str(tokenizer.apply_chat_template([dict(turn) for turn in conversation], tokenize=False))
    except Exception as error:  # whatever a template raises
        raise ValueError(f"{what}: the chat template does not take it: {error}") from error


_SAID = ("zqsysqz", "zqusrqz", "zqasnqz", "zqagnqz", "zqendqz")
"""What is said in conversations that are written to see what the template puts around it."""


def _marks(tokenizer: Any) -> dict[str, tuple[str, str]]:
    """Role → what the template writes before and behind a turn of it."""
    system, user, assistant, again, last = _SAID

    def made(*turns: tuple[str, str]) -> str:
        return _written(tokenizer, [{"role": r, "content": c} for r, c in turns], "pos=Turn")

    whole = made(("user", user), ("assistant", assistant), ("user", again), ("assistant", last))
    between = [_between(whole, *pair) for pair in ((user, assistant), (assistant, again), (last, None))]
    ends = {"assistant": between[2], "user": _between(made(("user", user)), user, None)}
    heads = {"assistant": _without(between[0], ends["user"]), "user": _without(between[1], ends["assistant"])}
    if not heads["assistant"].strip():  # the mark behind a user's turn is the one before the assistant's
        heads["assistant"], ends["user"] = between[0], ""
    marks = {role: (heads[role], ends[role]) for role in ("user", "assistant") if heads[role].strip()}
    head = heads["user"].replace("user", "system")
    if "user" in heads["user"]:
        try:
            opened = made(("system", system), ("user", user))
        except ValueError:
            return marks
        if opened.partition(system)[0].endswith(head):
            marks["system"] = (head, _without(_between(opened, system, user), heads["user"], behind=True))
    return marks


def _between(text: str, first: str, second: str | None) -> str:
    after = text.partition(first)[2]
    return after if second is None else after.partition(second)[0]


def _without(text: str, part: str, behind: bool = False) -> str:
    """The text without a part at its start (or its end), as far as that is there."""
    if behind:
        return text.removesuffix(part)
    same = next((i for i in range(len(part), 0, -1) if text.startswith(part[:i])), 0)
    return text[same:]


def _turns(text: str, marks: Mapping[str, tuple[str, str]]) -> list[tuple[str, int, int]]:
    """Role, start and end in characters of what is said in every turn."""
    heads: list[tuple[int, int, str]] = []
    for role, (head, _) in marks.items():
        at = text.find(head)
        while at >= 0:
            heads.append((at, at + len(head), role))
            at = text.find(head, at + len(head))
    heads.sort()
    out: list[tuple[str, int, int]] = []
    for (_, start, role), following in zip(heads, [*heads[1:], (len(text), 0, "")], strict=True):
        tail = marks[role][1].strip()
        end = text.rfind(tail, start, following[0]) if tail else following[0]
        if end < 0:  # a turn that is still open
            end = following[0]
        elif tail:
            blank = len(marks[role][1]) - len(marks[role][1].lstrip())
            end -= blank if text[max(start, end - blank) : end].isspace() else 0
        out.append((role, start, max(start, end)))
    return out
