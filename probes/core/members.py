"""What each member of the surface says by itself, and the rest without it, of rows that no fit has seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from graticule.probes.core.fit import Predictions, Problem, stack
from graticule.probes.core.logit_stack import logit_stack, row_bits
from graticule.probes.scores.metrics import mean_r2
from graticule.probes.surface.joint import JOINT

ALL_ROWS = "all_rows"
"""In a baseline's line, beside `test` of one held-out part: its scores on all rows, where the verdict is."""
Part = tuple[Literal["alone", "odds", "without"], str]
"""A member by itself, as values or (of classes) as probabilities; or the stack without it, `""` is none."""


def members_of(
    problem: Problem, members: Mapping[str, Predictions], penalty: float | None
) -> dict[Part, Float[np.ndarray, "test target"]]:
    """What is said of the test rows of a fold.

    Args:
        problem: Targets, and the fold as its test rows.
        members: Baseline → its predictions.
        penalty: of logistic stacks; None where numbers are judged.

    Returns:
        Every part's predictions.
    """
    y, count = problem.y[problem.train], len(problem.test)
    folds, tests = ({n: getattr(p, part) for n, p in members.items()} for part in ("out_of_fold", "test"))
    out: dict[Part, np.ndarray] = {}
    for name in ("", *members):
        rest = {other: values for other, values in folds.items() if other not in _beside(name)}
        out["without", name] = stack(rest, y).predict(tests, count)
    for name, one in members.items():
        out["alone", name] = one.test
        if penalty is not None:
            out["odds", name] = logit_stack({name: folds[name]}, y, penalty).probabilities(tests)
    return out


def _beside(name: str) -> tuple[str, ...]:
    """Who is left out to see what a member adds: with any of them the one that has the columns of all."""
    return (name,) if name in ("", JOINT) else (name, JOINT)


def member_scores(
    parts: Mapping[Part, Float[np.ndarray, "repeat row target"]],
    shares: Float[np.ndarray, "repeat row target"],
    y: Float[np.ndarray, "row target"],
) -> dict[str, dict[str, float]]:
    """Scores on all rows, mean of the repeats.

    Args:
        parts: of `members_of`, in every repeat.
        shares: What the training mean says, or of classes their training shares.
        y: The targets.

    Returns:
        Member → `r2`, `without` (R² of the others, `joint` aside), `adds`, and of classes `bits`.
    """

    def r2_of(part: Part) -> float:
        return float(np.mean([mean_r2(y, one) for one in parts[part]]))

    out: dict[str, dict[str, Any]] = {}
    names = [name for what, name in parts if what == "alone"]
    for name in names:
        whole = r2_of(("without", JOINT if name != JOINT and JOINT in names else ""))
        without = r2_of(("without", name))
        out[name] = {"r2": r2_of(("alone", name)), "without": without, "adds": whole - without}
        if ("odds", name) in parts:
            out[name]["bits"] = bits_saved(y, parts["odds", name], shares)
    return out


def member_line(line: Mapping[str, Any]) -> Mapping[str, float]:
    """Of a baseline's line, `r2`, `bits`, `without`, `adds`: on all rows if it has them, or on test rows."""
    return line.get(ALL_ROWS) or {**line["test"], **{n: line[n] for n in ("without", "adds") if n in line}}


def bits_saved(
    y: Float[np.ndarray, "row column"],
    odds: Float[np.ndarray, "repeat row column"],
    shares: Float[np.ndarray, "repeat row column"],
) -> float:
    """Bits a row that probabilities save against the training shares, mean of the repeats.

    Args:
        y: Classes.
        odds: Probabilities of every repeat.
        shares: The training shares, likewise.

    Returns:
        Bits.
    """
    return float(
        np.mean([row_bits(y, less) - row_bits(y, one) for one, less in zip(odds, shares, strict=True)])
    )
