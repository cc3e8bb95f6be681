"""Where gradient descent takes steering vectors: Theorems 4, 12 and 14, step by step.

Theorem 4's loss is a separable binary classification, so descent goes to the hard-margin direction
(Soudry et al. 2018, arXiv 1710.10345), here in closed form. Plain descent gets there as 1 / ln t; descent on
ln L, whose steps do not shrink with the loss, gets there in a thousand steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from graticule.sims.papers.tables import JIANG, Check

SOUDRY = "Soudry et al., arXiv 1710.10345, Theorem 3"
_TURNED = "largest distance of its unit vector from the start's"
_FAR = 300.0  # exp of more, times anything, may leave float64's range
_SAME = 1e-9  # of the longer vector: a min-norm point shorter than this is 0


@dataclass(frozen=True, eq=False)
class Descent:
    """Cosines and losses along one descent."""

    steps: Int[np.ndarray, " log"]
    """Updates done at each point: 0, then about evenly spaced in the logarithm."""
    limit: Float[np.ndarray, "log pair"]
    """Cosine of every steering vector with the direction the theorem names."""
    mutual: Float[np.ndarray, " log"]
    """The least cosine between two of them (NaN for one alone)."""
    loss: Float[np.ndarray, " log"]
    """ln of the loss: the loss itself leaves float64's range."""


def hard_margin(a: Float[np.ndarray, " dim"], b: Float[np.ndarray, " dim"]) -> Float[np.ndarray, " dim"]:
    """The unit w of largest margin min(wᵀa, −wᵀb): towards the point of the segment [a, −b] nearest to 0.

    Raises:
        ValueError: Where none separates: b = αa with α > 0, or a zero vector. (That a ≠ b, as Theorem 4 has
            it, is not enough.)
    """
    nearest, share = _nearest(a, b)
    if not share > _SAME:
        raise ValueError(
            "a and b do not separate: b is a positive multiple of a, or one of them is zero, and no "
            "direction has aᵀw > 0 > bᵀw; give contexts whose embeddings differ in direction"
        )
    return _unit(nearest)


def separation(a: Float[np.ndarray, " dim"], b: Float[np.ndarray, " dim"]) -> float:
    """The largest margin over the longer vector's length: 0 where nothing separates."""
    return _nearest(a, b)[1]


def _nearest(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, float]:
    one, other = np.asarray(a, np.float64), -np.asarray(b, np.float64)
    longest = max(float(np.linalg.norm(one)), float(np.linalg.norm(other)))
    along = other - one
    length = float(along @ along)
    share = min(max(float(-one @ along) / length, 0.0), 1.0) if length > 0 else 0.0
    nearest = one + share * along
    return nearest, float(np.linalg.norm(nearest)) / longest if longest > 0 else 0.0


def margin_descent(
    a: Float[np.ndarray, " dim"],
    b: Float[np.ndarray, " dim"],
    start: Float[np.ndarray, "pair dim"],
    steps: int = 1000,
    rate: float | None = None,
    normalised: bool = True,
) -> Descent:
    """Theorem 4: descent of every Δ on L = exp(−Δᵀa) + exp(Δᵀb), a and b fixed.

    The update of Δ = g(c_(i→1)) − g(c_(i→0)) is twice that of g. `normalised` follows the gradient of ln L of
    each pair, whose weights are a softmax, so nothing underflows however small L is. With R the longer of a
    and b, a `rate` of None is 4 / R², or, for plain descent, 1 / 2R²L at the start, below which L only falls.

    Raises:
        ValueError: Where a and b do not separate, the widths differ, or plain descent diverges.
    """
    if start.shape[1:] != a.shape or a.shape != b.shape:
        raise ValueError(f"a {a.shape}, b {b.shape}, start {start.shape}: one width for all three")
    limit = hard_margin(a, b)
    vectors, ends = np.array(start, np.float64), np.stack([a, -b]).astype(np.float64)
    log, square = _Log(steps), float((ends**2).sum(axis=1).max())
    if rate is None:
        rate = 4 / square if normalised else 0.5 / square / float(np.exp(-vectors @ ends.T).sum(axis=1).max())
    for step in range(steps + 1):
        scores = -vectors @ ends.T
        top = scores.max(axis=1, keepdims=True)
        if not np.isfinite(top).all() or (not normalised and float(top.max()) > _FAR):
            raise ValueError(f"plain descent left float64's range at step {step}; give a smaller rate")
        weights = np.exp(scores - top)
        if step in log:
            log.add(vectors, limit, float((top[:, 0] + np.log(weights.sum(axis=1))).max()))
        weights *= 1 / weights.sum(axis=1, keepdims=True) if normalised else np.exp(top)
        vectors += 2 * rate * (weights @ ends)
    return log.done()


@dataclass(frozen=True, eq=False)
class Joint:
    """What stays and what moves when both sides are trained: deviations along the whole run."""

    curve: Descent
    """Cosines and loss."""
    direction: float
    """Largest distance of the conserved direction from its start (unit vectors)."""
    recursion: float
    """Largest relative deviation from the exact relation that the theorem's proof rests on."""
    slowest: float
    """Least change of a cosine from one step to the next: ≥ 0 to rounding if they all increase."""


def pair_descent(
    u: Float[np.ndarray, " dim"],
    v: Float[np.ndarray, " dim"],
    steps: int = 1000,
    rate: float | None = None,
    ratio: float = 1.0,
) -> Joint:
    """Theorem 12: joint descent on L = exp(−uᵀv). None is the rate ½ / L(u0, v0).

    u + v keeps its direction; the recursion is (u − v)_{t+1} = (1 − rate · L_t)(u − v)_t.

    `ratio` is v's rate over u's; anything but 1 is outside the theorem.

    Raises:
        ValueError: For u0 = −αv0 with α > 0, a zero vector, or a rate not below 1 / L(u0, v0).
    """
    u, v = np.array(u, np.float64), np.array(v, np.float64)
    if cosine(u, v) < -1 + 1e-12 or not (u.any() and v.any()):
        raise ValueError("u0 = −αv0, or a zero vector: the theorem leaves this start out; give another")
    first = float(np.exp(-u @ v))
    eta = 0.5 / first if rate is None else rate
    if not 0 < eta < 1 / first:
        raise ValueError(
            f"rate {eta:g}: the theorem needs one above 0 and below 1 / L(u0, v0) = {1 / first:g}"
        )
    start, log = _unit(u + v), _Log(steps)
    away = recursion = 0.0
    slowest, before = np.inf, cosine(u, v)
    for step in range(steps + 1):
        loss = float(np.exp(-u @ v))
        if step in log:
            log.add(u[None], v, -float(u @ v))
        wanted = (1 - eta * loss) * (u - v)
        u, v = u + eta * loss * v, v + ratio * eta * loss * u
        scale = float(np.linalg.norm(u) + np.linalg.norm(v))
        recursion = max(recursion, float(np.linalg.norm((u - v) - wanted)) / scale)
        away = max(away, float(np.linalg.norm(_unit(u + v) - start)))
        now = cosine(u, v)
        slowest, before = min(slowest, now - before), now
    return Joint(log.done(), away, recursion, slowest)


def star_descent(
    pairs: int,
    width: int | None = None,
    embedding_norm: float = 1.0,
    vector_norm: float = 1.0,
    steps: int = 5000,
    rate: float = 0.1,
    seed: int = 0,
    start: tuple[Float[np.ndarray, "2 dim"], Float[np.ndarray, "pair dim"]] | None = None,
) -> Joint:
    """Theorem 14: joint descent on L = Σ_i exp(−⟨u1, v_i⟩) + exp(⟨u2, v_i⟩) from an orthogonal start.

    All 2·`pairs` terms stay equal (`recursion` is their largest relative difference), √2 Σv_i + √pairs (u1 −
    u2) keeps its direction, and the cosines of v_i with u1 − u2 and with each other increase. `start`
    (u1 and u2, then the v_i) takes the place of the orthogonal one; the theorem says nothing about it then.

    Raises:
        ValueError: For a descent that diverges, or a width below `pairs` + 2, in which so many vectors cannot
            be orthogonal: at m binary concepts the theorem needs 2^(m−1) + 2 dimensions, more than m.
    """
    u, v = _orthogonal(pairs, width, embedding_norm, vector_norm, seed) if start is None else start
    u, v = np.array(u, np.float64), np.array(v, np.float64)
    n, log = len(v), _Log(steps)
    first = _conserved(u, v)
    away = uneven = 0.0
    slowest, before = np.inf, _cosines(u, v)
    for step in range(steps + 1):
        scores = np.stack([-v @ u[0], v @ u[1]])
        if float(scores.max()) > _FAR:
            raise ValueError(f"the descent left float64's range at step {step}; give a smaller rate")
        terms = np.exp(scores)
        uneven = max(uneven, float(terms.max() / terms.min() - 1))
        if step in log:
            log.add(v, u[0] - u[1], float(np.log(terms.sum())))
        du = np.stack([terms[0] @ v, -(terms[1] @ v)])
        u, v = u + rate * du, v + rate * (terms[0][:, None] * u[0] - terms[1][:, None] * u[1])
        away = max(away, float(np.linalg.norm(_conserved(u, v) - first)))
        now = _cosines(u, v)
        slowest, before = min(slowest, float((now - before)[: n + n * (n - 1) // 2].min())), now
    return Joint(log.done(), away, uneven, slowest)


def cosine(a: Float[np.ndarray, " dim"], b: Float[np.ndarray, " dim"]) -> float:
    """NaN if one is zero."""
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms > 0 else float("nan")


def _orthogonal(
    pairs: int, width: int | None, embedding_norm: float, vector_norm: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    least = pairs + 2
    width = least if width is None else width
    if width < least:
        few = f"{pairs} pairs and two contexts cannot start orthogonal in {width} dimensions"
        raise ValueError(f"{few}: give {least} or more")
    axes = np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))[0]
    return embedding_norm * axes[:2], vector_norm * axes[2 : pairs + 2]


def _conserved(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The direction that stays."""
    return _unit(np.sqrt(2) * v.sum(axis=0) + np.sqrt(len(v)) * (u[0] - u[1]))


def _cosines(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Of every v_i with u1 − u2, then of every two v_i."""
    units = v / np.linalg.norm(v, axis=1, keepdims=True)
    both = (units @ units.T)[np.triu_indices(len(v), 1)]
    return np.concatenate([units @ _unit(u[0] - u[1]), both])


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


class _Log:
    """Points of a curve: the start, and some sixty steps about evenly spaced in the logarithm."""

    def __init__(self, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"steps={steps}: one or more")
        self._at = np.unique(np.concatenate([[0], np.geomspace(1, steps, 60).round()])).astype(np.int64)
        self._wanted = set(self._at.tolist())
        self._points: list[tuple[np.ndarray, float, float]] = []

    def __contains__(self, step: int) -> bool:
        return step in self._wanted

    def add(self, vectors: np.ndarray, limit: np.ndarray, loss: float) -> None:
        units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        both = (units @ units.T)[np.triu_indices(len(units), 1)]
        mutual = float(both.min()) if len(both) else float("nan")
        self._points.append((units @ _unit(limit), mutual, loss))

    def done(self) -> Descent:
        limit, mutual, loss = zip(*self._points, strict=True)
        return Descent(self._at, np.stack(limit), np.array(mutual), np.array(loss))


def margin_checks(
    fast: Descent, slow: Descent, tolerance: float = 1e-4, ratio: float = 10.0
) -> tuple[Check, ...]:
    """Theorem 4's checks of a normalised and a plain descent from one start.

    Beyond the tolerance they are not decided as long as the normalised descent still nears the closed form:
    where over the second half of its steps 1 − cosine has fallen by a tenth or more.
    """
    steps, aways, left = fast.steps[-1], 1 - fast.limit.min(axis=1), float(1 - slow.limit[-1].min())
    away, half = float(aways[-1]), float(aways[np.searchsorted(fast.steps, steps / 2, side="right") - 1])
    slower, undecided = left / max(away, 1e-16), ""
    if tolerance < away < 0.9 * half:
        undecided = f"the descent had not converged after {steps:,} steps: give more steps="
    return (
        Check(
            name="Theorem 4",
            statement="with embeddings fixed, descent takes all steering vectors of C_i to one direction, "
            "that of the point of the segment [a, −b] nearest to 0",
            source=f"{JIANG}, Theorem 4; {SOUDRY}",
            quantity=f"1 − cosine with the closed form after {steps:,} normalised steps",
            measured=away,
            tolerance=tolerance,
            details={
                "1 − least mutual cosine": float(1 - fast.mutual[-1]),
                "1 − least cosine at the start": float(aways[0]),
            },
            undecided=undecided,
        ),
        Check(
            name="Theorem 4, plain descent",
            statement="plain descent nears the same direction only as 1 / ln t",
            source=SOUDRY,
            quantity=f"1 − cosine after {slow.steps[-1]:,} plain steps over that after {steps:,} normalised "
            "ones",
            measured=slower,
            tolerance=ratio,
            relation="≥",
            details={"1 − cosine, plain": left},
            undecided=undecided if slower < ratio else "",
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


def pair_checks(joint: Joint, tolerance: float = 1e-13) -> tuple[Check, ...]:
    """Theorem 12's checks of one descent: u + v, u − v, and the cosine."""
    source, recursion = f"{JIANG}, Theorem 12", "(u − v)_{t+1} = (1 − ηL_t)(u − v)_t"
    size = "largest difference over |u| + |v|"
    first, last = (float(cosines[0]) for cosines in joint.curve.limit[[0, -1]])
    details = {"cosine at the start": first, "at the end": last}
    return (
        Check("Theorem 12, sum", "u + v keeps its direction", source, _TURNED, joint.direction, tolerance),
        Check("Theorem 12, difference", recursion, source, size, joint.recursion, tolerance),
        _rising("Theorem 12, cosine", "cos(u, v) increases at every step", source, joint, details),
    )


def star_checks(joint: Joint, tolerance: float = 1e-12) -> tuple[Check, ...]:
    """Theorem 14's checks of one descent: the equal loss terms, the fixed direction, the cosines."""
    source, size = f"{JIANG}, Theorems 5 and 14", "largest over least term, − 1"
    equal = "from an orthogonal start all 2K terms of the loss stay equal"
    fixed = "√2 Σ v_i + √K (u1 − u2) keeps its direction"
    rising = "cos(v_i, v_j) and cos(u1 − u2, v_i) increase at every step"
    details = {
        "cos(v_i, v_j) at the end": float(joint.curve.mutual[-1]),
        "cos(u1 − u2, v_i) at the end": float(joint.curve.limit[-1].min()),
    }
    return (
        Check("Theorem 14, loss", equal, source, size, joint.recursion, tolerance),
        Check("Theorem 14, direction", fixed, source, _TURNED, joint.direction, tolerance),
        _rising("Theorem 14, cosines", rising, source, joint, details),
    )


def _rising(name: str, statement: str, source: str, joint: Joint, details: dict[str, float]) -> Check:
    """Whether all cosines rise."""
    return Check(
        name, statement, source, "least change in a step", joint.slowest, -1e-15, "≥", details=details
    )
