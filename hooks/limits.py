"""One table of what numbers an argument takes, for Python calls and the command line alike.

A name means the same everywhere, so that its range stands here once: `check_limits(seed=seed)` in a call or
a settings class, `graticule.hooks.doors.door` for every argument of a function at once, and the command line
for every option before anything is loaded.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from graticule.hooks.messages import brief

_SEEDS = 2**63 - 1


class LimitError(ValueError):
    """A number that an argument does not take; the message says which it takes.

    Attributes:
        name: The argument.
        value: What was given.
        expected: What it takes, in words.
    """

    def __init__(self, name: str, value: object, expected: str) -> None:
        """The message is `name=value: expected …`."""
        super().__init__(f"{name}={brief(value)}: expected {expected}")
        self.name, self.value, self.expected = name, value, expected


@dataclass(frozen=True)
class Range:
    """Finite numbers from `lowest` to `highest`, both included."""

    lowest: int | float = -math.inf
    """The smallest."""
    highest: int | float = math.inf
    """The largest that does not run for ever or fill the memory."""
    whole: bool = True
    """Whether only whole numbers will do."""
    above: bool = False
    """Whether `lowest` itself is left out."""

    def takes(self, value: object) -> bool:
        """Whether `value` is such a number; booleans and words are none."""
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            return False
        number = float(value)
        if not math.isfinite(number) or number > self.highest:
            return False
        return number > self.lowest if self.above else number >= self.lowest

    @property
    def words(self) -> str:
        """The range for people."""
        kind = "a whole number" if self.whole else "a number"
        if self.lowest == -math.inf:
            return f"a finite {kind.removeprefix('a ')}"
        start = f"above {self.lowest:g}" if self.above else f"of at least {self.lowest:g}"
        limited = math.isfinite(self.highest) and self.highest < _SEEDS
        return f"{kind} {start}" + (f" and at most {_plain(self.highest)}" if limited else "")


def _plain(number: int | float) -> str:
    return f"{int(number):,}" if float(number).is_integer() else f"{number:g}"


_COUNT = Range(1, 10**9)
_DRAWS = Range(1, 10**6)
_COUNT_OR_NONE = Range(0, 10**9)
_POSITIVE = Range(0, whole=False, above=True)
_NOT_NEGATIVE = Range(0, whole=False)
_SHARE = Range(0, 1, whole=False)

LIMITS: Mapping[str, Range] = {
    # drawing and repeating
    "seed": Range(0, _SEEDS),
    "draws": _DRAWS,
    "n_bootstrap": _DRAWS,
    "n_noise": _DRAWS,
    "n_random": _DRAWS,
    "n_untrained": Range(2, 1000),
    "rotations": _DRAWS,
    "permutations": _DRAWS,
    "repeats": Range(1, 10_000),
    "retests": Range(0, 1000),
    "twins": Range(0, 100),
    "seeds": Range(1, 1000),
    "controls": Range(1, 10**5),
    "synthetic_targets": Range(2, 10**5),
    "calibrate.targets": Range(2, 10**5),
    "calibrate.string_step": Range(1, 1000),
    "calibrate": Range(0, 10**5),
    "nulls": Range(0, 10**5),
    "runs": Range(1, 1000),
    "concepts": Range(1, 16),
    "certify.concepts": Range(4, 10),
    "m": Range(1, 10**6),
    "trees": _COUNT,
    "max_parents": _COUNT_OR_NONE,
    "edge_probability": _SHARE,
    "low": _SHARE,
    "high": _SHARE,
    "known": Range(0, 1, whole=False, above=True),
    "steps": Range(0, 10**9),
    "strengths": Range(2, 1000),
    "folds": Range(2, 1000),
    "strata": Range(2, 1000),
    "minimum": _COUNT_OR_NONE,
    # how much
    "rows": _COUNT,
    "prompt_rows": _COUNT,
    "top": _COUNT,
    "n_tokens": _COUNT,
    "n_activation_tokens": _COUNT,
    "token_budget": _COUNT,
    "n_examples": _COUNT_OR_NONE,
    "n_effects": _COUNT_OR_NONE,
    "at_once": _COUNT,
    # judging
    "min_gain": _SHARE,
    "level": Range(0, 1, whole=False, above=True),
    "share": _SHARE,
    "test_share": _SHARE,
    "dose": _POSITIVE,
    "edge": _POSITIVE,
    "scale_of_edit": Range(whole=False),
    "alpha": _NOT_NEGATIVE,
    # fitting
    "hidden": Range(1, 2**20),
    "epochs": Range(1, 10**6),
    "patience": Range(1, 10**6),
    "batch": Range(1, 2**30),
    "window": Range(1, 2**20),
    "batch_size": Range(1, 2**30),
    "learning_rate": _POSITIVE,
    # sparse autoencoders and their data
    "max_norm": Range(1, whole=False, above=True),
    "d_sae": Range(1, 2**28),
    "k": _POSITIVE,
    "ks": Range(1, 2**28),
    "l1": _NOT_NEGATIVE,
    "l1_coefficient": _NOT_NEGATIVE,
    "l0_coefficient": _NOT_NEGATIVE,
    "l1_warm_up_steps": _COUNT_OR_NONE,
    "l0_warm_up_steps": _COUNT_OR_NONE,
    "lr": _POSITIVE,
    "lr_end": _NOT_NEGATIVE,
    "lr_warm_up_steps": _COUNT_OR_NONE,
    "lr_decay_steps": _COUNT_OR_NONE,
    "sparsity_warm_up_steps": _COUNT_OR_NONE,
    "n_restart_cycles": _COUNT,
    "adam_beta1": Range(0, 0.999999, whole=False),
    "adam_beta2": Range(0, 0.999999999, whole=False),
    "clip_grad_norm": _NOT_NEGATIVE,
    "dead_feature_window": _COUNT,
    "feature_sampling_window": _COUNT,
    "checkpoint_minutes": _NOT_NEGATIVE,
    "checkpoint_every": _COUNT,
    "log_every": _COUNT,
    "context_size": _COUNT,
    "tokens_per_context": _COUNT,
    "buffer_tokens": _COUNT,
    "scale": _POSITIVE,
    "resample_tokens": _COUNT,
}
"""Argument → the numbers it takes, `call.argument` where a call takes others than the rest.

None is not judged: a call that does not take it says so itself."""


def range_of(name: str, call: str = "") -> Range:
    """The range of an argument, which a call may have of its own."""
    return LIMITS.get(f"{call}.{name}") or LIMITS[name]


_SEVERAL = ("ks",)
"""Names that stand for several numbers wherever they stand."""


def check(name: str, value: Any, call: str = "", *, several: bool = True, argument: str = "") -> None:
    """Refuse a number that an argument does not take.

    Args:
        name: An argument of `LIMITS`.
        value: A number, several of them (a list, tuple, range, set or array), or None for what was not given.
        call: Whose argument it is, where that may have a range of its own.
        several: Whether several will do; each of them is judged.
        argument: What it is called in a message, by default `name`.

    Raises:
        LimitError: It is outside its range, not whole, not finite, or no number; or several where one is
            expected.
    """
    if value is None:
        return
    limit = range_of(name, call)
    many = isinstance(value, list | tuple | range | set | frozenset) or getattr(value, "ndim", 0) == 1
    for one in value if many and several else [value]:
        if not limit.takes(one):
            raise LimitError(argument or name, one, limit.words)


def as_boolean(name: str, value: Any) -> bool:
    """True or False: a boolean of Python or numpy, or 0 or 1.

    Args:
        name: The argument, for the message.
        value: What was given.

    Raises:
        TypeError: It is anything else: any text would be taken for True.
    """
    of_numpy = type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_")
    if of_numpy or (isinstance(value, Integral) and value in (0, 1)):
        return bool(value)
    raise TypeError(f"{name}={brief(value)}: expected True or False")


def check_several(name: str, limit: str, values: Any) -> None:
    """Refuse one number where several are expected, and any that is outside its range.

    Args:
        name: The argument.
        limit: What each of them is, a name of `LIMITS`.
        values: The numbers, or None for what was not given.

    Raises:
        LimitError: It is one number, or as `check` does.
    """
    check(limit, values, argument=name)
    if values is not None and not hasattr(values, "__iter__"):
        raise LimitError(name, values, f"several numbers, {name}=[{values!r}]")


def check_limits(**arguments: Any) -> None:
    """Refuse the first of several arguments that is outside its range.

    Args:
        **arguments: As for `check`, one for each name of `LIMITS`.

    Raises:
        LimitError: As `check` does; each argument is one number, but for `ks`.
    """
    for name, value in arguments.items():
        check(name, value, several=name in _SEVERAL)


def check_indices(
    name: str, values: Iterable[Any], count: int | None = None, of: str = "", *, once: bool = True
) -> list[int]:
    """Refuse numbers of things that are none, are not there, or are named twice.

    Args:
        name: An argument, for messages.
        values: Numbers from 0.
        count: How many there are; None where nobody knows.
        of: What has them: `this SAE`.
        once: Whether one that stands there twice is a mistake.

    Returns:
        The numbers, in their order.

    Raises:
        LimitError: One is not whole, or below 0 where `count` is not known, or stands there twice.
        IndexError: One is outside 0 to below `count`.
    """
    numbers: list[int] = []
    last = math.inf if count is None else count - 1
    there = "a whole number from 0" if count is None else f"0 to {count - 1}"
    for value in values:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise LimitError(name, value, "whole numbers from 0")
        if not 0 <= int(value) <= last:
            if count is None:
                raise LimitError(name, value, there)
            raise IndexError(f"{name}={value!r}: {of or 'there'} has {there}")
        numbers.append(int(value))
    if once and len(set(numbers)) < len(numbers):
        twice = next(n for n, times in Counter(numbers).items() if times > 1)
        raise LimitError(name, twice, "each of them once, and it is there twice")
    return numbers
