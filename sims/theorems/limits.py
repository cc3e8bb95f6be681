"""Checks of gradient descent: Theorem 4 against its closed form, 12 and 14 against their invariants."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from graticule.sims.theorems.descent import (
    Descent,
    Joint,
    margin_descent,
    pair_descent,
    separation,
    star_descent,
)
from graticule.sims.theorems.result import JIANG, Check
from graticule.sims.theorems.tables import Tables

SOUDRY = "Soudry et al., arXiv 1710.10345, Theorem 3"
_TURNED = "largest distance of its unit vector from the start's"


def ends(tables: Tables, concept: int) -> tuple[Float[np.ndarray, " dim"], Float[np.ndarray, " dim"]]:
    """Theorem 4's a and b: the embeddings of the contexts that know this concept alone, as 1 and as 0.

    Raises:
        ValueError: If they are not met.
    """
    alone = tables.where([i for i in range(tables.m) if i != concept], [concept])
    context = {int(tables.contexts.vectors[k, concept]): k for k in alone}
    if not {0, 1} <= set(context):
        raise ValueError(f"no context met knows concept {concept} alone; Theorem 4 is about those two")
    return tables.f[context[1]], tables.f[context[0]]


def theorem_4(
    a: Float[np.ndarray, " dim"],
    b: Float[np.ndarray, " dim"],
    start: Float[np.ndarray, "pair dim"],
    steps: int = 1000,
    times: int = 10,
) -> tuple[Check, ...]:
    """Theorem 4: normalised descent takes every Δ_{c,i} to the hard-margin direction of a and b.

    Plain descent of `times` as many steps is put beside it.

    Raises:
        ValueError: Where a and b do not separate.
    """
    fast = margin_descent(a, b, start, steps)
    return margin_checks(fast, margin_descent(a, b, start, steps * times, normalised=False))


def margin_checks(
    fast: Descent, slow: Descent, tolerance: float = 1e-4, ratio: float = 10.0
) -> tuple[Check, ...]:
    """Theorem 4's checks of a normalised and a plain descent from one start."""
    away, left = float(1 - fast.limit[-1].min()), float(1 - slow.limit[-1].min())
    return (
        Check(
            name="Theorem 4",
            statement="with embeddings fixed, descent takes all steering vectors of C_i to one direction, "
            "that of the point of the segment [a, −b] nearest to 0",
            source=f"{JIANG}, Theorem 4; {SOUDRY}",
            quantity=f"1 − cosine with the closed form after {fast.steps[-1]:,} normalised steps",
            measured=away,
            tolerance=tolerance,
            details={
                "1 − least mutual cosine": float(1 - fast.mutual[-1]),
                "1 − least cosine at the start": float(1 - fast.limit[0].min()),
            },
        ),
        Check(
            name="Theorem 4, plain descent",
            statement="plain descent nears the same direction only as 1 / ln t",
            source=SOUDRY,
            quantity=f"1 − cosine after {slow.steps[-1]:,} plain steps over that after {fast.steps[-1]:,} "
            "normalised ones",
            measured=left / max(away, 1e-16),
            tolerance=ratio,
            relation="≥",
            details={"1 − cosine, plain": left},
        ),
    )


def collinear(a: Float[np.ndarray, " dim"], b: Float[np.ndarray, " dim"], tolerance: float = 1e-9) -> Check:
    """Whether a ≠ b fails to separate: b a positive multiple of a, which `hard_margin` refuses."""
    return Check(
        name="Theorem 4, its condition",
        statement="a ≠ b is not enough: with b = αa, α > 0, no direction separates and there is no limit",
        source=f"{JIANG}, Theorem 4 (its assumption)",
        quantity="largest margin over the longer embedding",
        measured=separation(a, b),
        tolerance=tolerance,
        premise=0.0 if (a != b).any() else 1.0,
    )


def theorem_12(
    u: Float[np.ndarray, " dim"],
    v: Float[np.ndarray, " dim"],
    steps: int = 1000,
    rate: float | None = None,
    tolerance: float = 1e-13,
) -> tuple[Check, ...]:
    """Theorem 12: joint descent on exp(−uᵀv). The cosine rises at every step; it is far from 1 for long.

    Raises:
        ValueError: For a start or rate that the theorem leaves out.
    """
    return pair_checks(pair_descent(u, v, steps, rate), tolerance)


def pair_checks(joint: Joint, tolerance: float = 1e-13) -> tuple[Check, ...]:
    """Theorem 12's checks of one descent: u + v, u − v, and the cosine."""
    return _joint_checks(
        f"{JIANG}, Theorem 12",
        tolerance,
        ("Theorem 12, sum", "u + v keeps its direction", _TURNED, joint.direction),
        (
            "Theorem 12, difference",
            "(u − v)_{t+1} = (1 − ηL_t)(u − v)_t",
            "largest difference over |u| + |v|",
            joint.recursion,
        ),
        rising=("Theorem 12, cosine", "cos(u, v) increases at every step", joint.slowest),
        details={
            "cosine at the start": float(joint.curve.limit[0, 0]),
            "at the end": float(joint.curve.limit[-1, 0]),
        },
    )


def theorem_14(pairs: int = 4, steps: int = 2000, seed: int = 0) -> tuple[Check, ...]:
    """Theorem 14 (Theorem 5 in full) from an orthogonal start in `pairs` + 2 dimensions."""
    return star_checks(star_descent(pairs, steps=steps, seed=seed))


def star_checks(joint: Joint, tolerance: float = 1e-12) -> tuple[Check, ...]:
    """Theorem 14's checks of one descent: the equal loss terms, the fixed direction, the cosines."""
    return _joint_checks(
        f"{JIANG}, Theorems 5 and 14",
        tolerance,
        (
            "Theorem 14, loss",
            "from an orthogonal start all 2K terms of the loss stay equal",
            "largest over least term, − 1",
            joint.recursion,
        ),
        ("Theorem 14, direction", "√2 Σ v_i + √K (u1 − u2) keeps its direction", _TURNED, joint.direction),
        rising=(
            "Theorem 14, cosines",
            "cos(v_i, v_j) and cos(u1 − u2, v_i) increase at every step",
            joint.slowest,
        ),
        details={
            "cos(v_i, v_j) at the end": float(joint.curve.mutual[-1]),
            "cos(u1 − u2, v_i) at the end": float(joint.curve.limit[-1].min()),
        },
    )


def _joint_checks(
    source: str,
    tolerance: float,
    *invariants: tuple[str, str, str, float],
    rising: tuple[str, str, float],
    details: dict[str, float],
) -> tuple[Check, ...]:
    """Checks of what stays the same (name, statement, quantity, measured), and of the cosines that rise."""
    name, statement, slowest = rising
    return (
        *(Check(*claim[:2], source, *claim[2:], tolerance) for claim in invariants),
        Check(name, statement, source, "least change in a step", slowest, -1e-15, "≥", details=details),
    )
