"""What an option may be, read off its annotation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch
from jaxtyping import Float

from graticule.hooks.doors import door
from graticule.hooks.forms import WrongKindError, forms
from graticule.hooks.limits import LimitError, check_limits
from graticule.hooks.messages import brief

NAMES = {
    "Sequence": Sequence, "Mapping": Mapping, "Callable": Callable, "Literal": Literal, "Any": Any,
    "Float": Float, "np": np, "torch": torch,
}  # fmt: skip
FRAME = pd.DataFrame({"a": [1.0, 2.0]})


@pytest.mark.parametrize(
    ("written", "good", "bad"),
    [
        ("int", [1, np.int64(1), -3], [1.0, True, "1", [1], (1, 2), None, FRAME]),
        ("float", [1, 0.5, np.float32(1)], ["1", True, [], (1.0,), object(), b"x"]),
        ("str | None", ["", "a", None], [0, [], {}, b"x", FRAME, float("nan")]),
        ("bool | Sequence[int]", [True, np.True_, [1], np.arange(2)], ["no", [1.5], ["a"], {}]),
        ("Sequence[str]", [["a"], ("a", "b"), np.array(["a"])], ["a", b"a", [1], {"a": 1}, FRAME, 3, None]),
        ("Sequence[float] | None", [None, [0.1], (1,), np.ones(2)], [0.1, "x", b"x", [None], {}]),
        ("Sequence[tuple[int, int]]", [[(1, 2)], [[1, 2]]], [[1, 2], (1, 2), [(1,)], [("a", 2)]]),
        ("Mapping[str, str]", [{}, {"a": "b"}], [[], "a", {"a": 1}, FRAME]),
        ("Literal['a', 'b']", ["a", "b"], ["c", None, 1, FRAME, ["a"]]),
        ("Float[np.ndarray, ' row'] | None", [np.ones(2), None, torch.ones(2)], [FRAME, "a", 1]),
        ("torch.device | str", ["cpu", torch.device("cpu")], [None, -1, 1.5, FRAME]),
        ("Findings | None", [None], ["x", 1, {}, FRAME, [None]]),
        ("Pos | None", [None, "last", -1, slice(1), np.int64(1)], [FRAME, np.ones(3), torch.ones(2)]),
    ],
)
def test_a_form_takes_its_own_kinds_alone(written: str, good: list, bad: list) -> None:
    form = forms(written, NAMES)
    assert form is not None
    assert [value for value in good if not form.fits(value)] == []
    assert [value for value in bad if form.fits(value)] == []


def test_words_of_several_lists_are_one_list() -> None:
    kind = forms("Literal['a', 'b'] | Literal['c'] | None", NAMES)
    assert kind is not None and kind.words == "'a', 'b' or 'c' or None"


@pytest.mark.parametrize(
    "written", ["Any", "Unheard | None", "Unheard[int]", "Callable[[int], str]", "PointSpec"]
)
def test_an_annotation_that_nobody_can_read_takes_everything(written: str) -> None:
    assert forms(written, NAMES) is None


@door()
def call(
    one: int = 1, several: int | Sequence[int] = 1, seed: int = 0, ks: int | Sequence[int] = 1, word: str = ""
):
    """Some options."""
    return one, several, seed, ks, word


def test_a_scalar_option_takes_a_scalar_and_several_where_several_are_written() -> None:
    for number in (np.int64(3), np.array(3), torch.tensor(3)):
        assert call(one=number, seed=number) == (3, 1, 3, 1, "")
        assert all(type(value) is int for value in call(one=number, seed=number)[:3])
    assert call(several=[1, 2], ks=(4, 5))[1:4] == ([1, 2], 0, (4, 5))
    for several in ([], [1], (1, 2, 3), {1}, np.arange(2), range(2)):
        with pytest.raises(LimitError, match=r"^seed=.*: expected a whole number of at least 0$"):
            call(seed=several)
        with pytest.raises(LimitError, match=r"^seed="):
            check_limits(seed=several)
        with pytest.raises(WrongKindError, match=r"^call: one=.*: expected a whole number$"):
            call(one=several)
    with pytest.raises(LimitError, match=r"^ks=0: "):
        call(ks=[1, 0])
    with pytest.raises(WrongKindError, match=r"^call: word=a DataFrame: expected text$"):
        call(word=FRAME)


def test_a_value_in_a_message_is_short_and_one_line() -> None:
    assert [brief(v) for v in ("a\nb", (1, 2), None, np.int64(3))] == [
        r"'a\nb'",
        "(1, 2)",
        "None",
        repr(np.int64(3)),
    ]
    for odd in (FRAME, object(), list(range(1000)), torch.nn.Linear(2, 2), "x" * 1000, np.ones((9, 9))):
        assert len(brief(odd)) < 90
        assert "\n" not in brief(odd)
