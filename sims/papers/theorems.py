"""All exact checks on one world, as one result."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from graticule.hooks.artifact import library_versions
from graticule.hooks.calls import renamed
from graticule.hooks.doors import LEARNED, TRAINING, WORLD, door
from graticule.hooks.saved import SavedResult
from graticule.sims.contexts import Contexts
from graticule.sims.papers import log_odds, oracle, products
from graticule.sims.papers.descents import (
    Descent,
    collinear,
    margin_checks,
    margin_descent,
    pair_checks,
    pair_descent,
    star_checks,
    star_descent,
)
from graticule.sims.papers.tables import Check, Tables, entropy_floor, proposition_11
from graticule.sims.training.lookup import Learned, train_tables
from graticule.sims.training.settings import Training
from graticule.sims.world import World

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_log = logging.getLogger(__name__)

LARGEST = 8
"""Concepts at most: 3⁸ contexts by 2⁸ tokens."""
_STEPS = 1000
_GAUGES = 5
_ROUGHLY: tuple[Callable[[Tables], Check], ...] = (
    log_odds.theorem_3,
    log_odds.theorem_10,
    products.theorem_7,
    products.corollary_8,
    products.causal_diagonal,
    products.unification,
    products.theorem_2_5,
)
_CURVES = "Descent of Theorems 4, 12 and 14: cosine with the direction that each theorem names"
_TABLE = "Every check"
_TRAINED = "The same quantities on a trained learner, which meets the premises roughly at best: no verdict"
_STATEMENTS = "What is claimed"


@dataclass(frozen=True)
class Theorems(SavedResult):
    """The result of `theorems`."""

    KIND: ClassVar[str] = "theorems"

    m: int
    """Binary concepts of the world."""
    edges: tuple[tuple[int, int], ...]
    """Its graph, parents first."""
    checks: tuple[Check, ...]
    """Every check, in the order of the groups."""
    trained: pd.DataFrame
    """The theorems' quantities on a trained learner: `check`, `quantity`, `measured`, `premise` (how far it
    is from what the theorem presupposes). No verdict: it meets the premises roughly at best."""
    curves: pd.DataFrame
    """One row per point of a descent: `theorem`, `series`, `step`, `cosine`."""
    seed: int
    """Seed of gauges, noise, starts and training."""
    provenance: Mapping[str, Any]
    """Settings and versions."""

    @property
    def title(self) -> str:
        """What was checked."""
        return f"The paper's theorems as exact checks, {self.m} concepts"

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that do not hold; those that decide nothing are not among them."""
        return tuple(c for c in self.checks if c.fails)

    @property
    def undecided(self) -> tuple[Check, ...]:
        """The checks that decide nothing: descents that had not converged."""
        return tuple(c for c in self.checks if c.undecided)

    def summary(self) -> str:
        """How many hold, then one line per check."""
        failed, open_ = (", ".join(c.name for c in some) for some in (self.failed, self.undecided))
        n = len(self.checks)
        if failed:
            first = f"{len(self.failed)} of {n} exact checks FAIL: {failed}"
        else:
            first = (
                f"{n - len(self.undecided)} of {n} exact checks hold"
                if open_
                else f"all {n} exact checks hold"
            )
        first += f"; not decided: {open_}" if open_ else ""
        where = f"{self.m} concepts, {len(self.edges)} edges, seed {self.seed}"
        return "\n".join([f"{first} ({where})", *(c.verdict for c in self.checks)])

    def figures(self) -> dict[str, Figure]:
        """The descents."""
        from graticule.sims.papers.curves import descent_figure

        return {_CURVES: descent_figure(self.curves)}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Numbers and bars; what a trained learner keeps of them; statements and sources."""
        numbers = pd.DataFrame(
            {
                "check": c.name,
                "holds": "not decided" if c.undecided else "yes" if c.holds else "NO",
                "measured": f"{c.measured:.3g}",
                "bar": f"{c.relation} {c.tolerance:.3g}",
                "what is measured": c.quantity,
                "further": _further(c),
            }
            for c in self.checks
        )
        claims = pd.DataFrame(
            {"check": c.name, "statement": c.statement, "source": c.source} for c in self.checks
        )
        trained = pd.DataFrame(
            {
                "check": self.trained["check"],
                "measured": [f"{x:.3g}" for x in self.trained["measured"]],
                "premise off by": [f"{x:.3g}" for x in self.trained["premise"]],
                "what is measured": self.trained["quantity"],
            }
        )
        return {_TABLE: numbers, **({_TRAINED: trained} if len(trained) else {}), _STATEMENTS: claims}

    def to_json(self) -> dict[str, Any]:
        """All fields, and of every check whether it holds and its line."""
        out = super().to_json()
        out["checks"] = [
            {**check, "holds": c.holds, "verdict": c.verdict}
            for check, c in zip(out["checks"], self.checks, strict=True)
        ]
        return {**out, "holds": all(c.holds for c in self.checks)}


def _further(check: Check) -> str:
    details = [f"{name} {value:.3g}" for name, value in check.details.items()]
    return "; ".join([*details, *(part for part in (check.undecided, check.note) if part)])


@renamed("seed")
@door(world=WORLD.or_none(), learned=LEARNED.or_none(), training=TRAINING.or_none())
def theorems(
    world: World | None = None,
    *,
    seed: int = 0,
    learned: Learned | None = None,
    training: Training | None = None,
    steps: int = _STEPS,
    progress: bool | None = None,
) -> Theorems:
    """Run every exact check on a world of 2 to 8 binary concepts (None: a random graph on four).

    Oracle tables are built for the world, for its independent twin of the same marginals and for a fully
    joined one. What holds of any learner is checked on run 0 of `learned`, which is trained here if None (as
    `training` says, by default 2,000 steps of the population gradient); the quantities of the other theorems
    are reported for it too, without a verdict. `steps` are those of the normalised descents; plain descent
    takes ten times as many, and that from a star twice as many. Where they are so few that a descent has not
    converged, Theorem 4 is not decided.

    The tolerances are for conditional probabilities from .01 to .99, and away from ½ by 10⁻⁴ or more: nearer
    to certainty, a contradiction's price (50 nats) no longer dwarfs ln p; nearer to ½, log-odds are
    themselves rounding.

    Args:
        world: Its concepts.
        seed: Of the world drawn and of the descents.
        learned: Tables that were trained on it.
        training: How they are trained here, without `learned`.
        steps: Of the normalised descents.
        progress: Whether a bar is drawn; by default where it takes long.

    Raises:
        ValueError: For a world of other concepts, one with a concept vector of probability 0, or a learner of
            another world.
    """
    if world is None:
        world = World.random(4, seed=seed) if learned is None else learned.contexts[0].world
    if set(world.values) != {2} or not 2 <= world.m <= LARGEST:
        raise ValueError(f"values {world.values}: the theorems are checked on 2 to {LARGEST} binary concepts")
    if learned is not None and not world.same_as(learned.contexts[0].world):
        raise ValueError("`learned` was trained on another world; leave `world` out, or train on this one")
    if learned is None:
        training = training or Training(optimizer="population", steps=2000, log_every=2000, seed=seed)
        _log.info("training a learner of %d concepts, %d steps", world.m, training.steps)
        learned = train_tables([Contexts.complete(world)], training, progress=False)
    groups = {
        "oracle": lambda: _oracle(world, seed),
        "log-odds": lambda: _log_odds(world, learned, seed),
        "products": lambda: product_checks(world, seed),
        "learned": lambda: _learned(learned),
    }
    checks: list[Check] = []
    with tqdm(total=len(groups) + 1, desc="theorems", unit="group", disable=progress is False) as bar:
        for make in groups.values():
            checks += make()
            bar.update()
        more, curves = _descents(world.m, steps, seed)
        bar.update()
    return Theorems(
        m=world.m,
        edges=tuple((int(a), int(b)) for a, b in sorted(world.graph.edges)),
        checks=(*checks, *more),
        trained=_trained(learned),
        curves=curves,
        seed=seed,
        provenance={
            "steps": steps,
            "optimizer": learned.settings.optimizer,
            "training_steps": learned.settings.steps,
            "versions": library_versions(),
        },
    )


def _oracle(world: World, seed: int) -> Iterator[Check]:
    contexts = Contexts.complete(world)
    logits = oracle.imposed_logits(contexts)
    tables = oracle.factor(contexts, logits, seed=seed)
    yield oracle.fit(tables, logits)
    yield oracle.fits_probabilities(tables)
    yield oracle.conflict_limit(contexts)


def _log_odds(world: World, learned: Learned, seed: int) -> Iterator[Check]:
    apart = Contexts.complete(oracle.product_world(world))
    independent = oracle.factor(apart, oracle.imposed_logits(apart), seed=seed)
    yield log_odds.theorem_2_2(Tables.of(learned))
    yield log_odds.theorem_3(independent)
    yield log_odds.projection_needed(independent)
    logits = oracle.compatible_logits(apart, 80.0, spread=0.5, seed=seed)
    yield log_odds.conflicts_needed(oracle.factor(apart, logits, seed=seed))
    contexts = Contexts.complete(world)
    markov = oracle.factor(contexts, oracle.imposed_logits(contexts), seed=seed)
    yield log_odds.theorem_10(markov)
    yield log_odds.theorem_10_equal(markov)


def product_checks(world: World, seed: int) -> Iterator[Check]:
    """Theorem 7, Corollary 8, the causal inner product and gauges, on tables made for a world."""
    contexts, dense = Contexts.complete(world), Contexts.complete(World.dense(world.m, seed=seed))
    fitted = oracle.factor(contexts, oracle.compatible_logits(contexts), seed=seed)
    joined = oracle.factor(dense, oracle.compatible_logits(dense), seed=seed)
    yield products.theorem_7(fitted)
    yield replace(products.theorem_7(joined), name="Theorem 7, dense joint")
    apart, rng = Contexts.complete(oracle.product_world(world)), np.random.default_rng(seed)
    skewed = oracle.linear_tables(apart, oracle.random_gauge(world.m, rng))
    yield products.corollary_8(oracle.linear_tables(apart))
    yield products.causal_diagonal(skewed)
    yield products.unification(skewed)
    yield products.theorem_2_5(skewed)
    anything = Tables(
        contexts, *(rng.standard_normal((n, world.m)) for n in (contexts.n, len(world.vectors)))
    )
    shift = rng.standard_normal(world.m)
    # of some gauges the one that turns g's cosines most: in two dimensions its axes may lie along theirs
    drawn = [oracle.random_gauge(world.m, rng) for _ in range(_GAUGES)]
    others = [Tables(contexts, *oracle.regauge(anything.f, anything.g, a, shift)) for a in drawn]
    yield from max(
        (products.gauge(anything, other) for other in others), key=lambda checks: checks[-1].measured
    )


def _learned(learned: Learned) -> Iterator[Check]:
    tables = Tables.of(learned)
    yield proposition_11(tables)
    yield entropy_floor(tables, float(learned.loss[-1, 0]))


def _trained(learned: Learned) -> pd.DataFrame:
    """What the other theorems' quantities are on a trained learner, whose premises hold roughly at best."""
    tables = Tables.of(learned)
    lines: list[tuple[str, str, float, float]] = []
    for make in _ROUGHLY:
        try:
            check = make(tables)
        except ValueError as error:  # contexts that a theorem compares may never be met
            _log.info("%s: not on this learner: %s", make.__name__, error)
        else:
            lines.append((check.name, check.quantity, check.measured, check.premise))
    return pd.DataFrame(lines, columns=["check", "quantity", "measured", "premise"])


def _descents(m: int, steps: int, seed: int) -> tuple[list[Check], pd.DataFrame]:
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, max(m, 3)))
    start = rng.standard_normal((2 ** (m - 1), len(a)))
    u, v = rng.standard_normal((2, len(a)))
    v = -v if u @ v > 0 else v  # from an obtuse angle there is more to see
    pair, star = pair_descent(u, v, steps), star_descent(2 ** (m - 1), steps=2 * steps, seed=seed)
    normalised = margin_descent(a, b, start, steps)
    plain = margin_descent(a, b, start, 10 * steps, normalised=False)
    checks = [
        *margin_checks(normalised, plain),
        collinear(a, 2 * a),
        *pair_checks(pair),
        *star_checks(star),
    ]
    curves = [
        _curve("4", "Theorem 4, normalised descent", normalised, normalised.limit.min(axis=1)),
        _curve("4", "Theorem 4, plain descent", plain, plain.limit.min(axis=1)),
        _curve("12", "Theorem 12, cos(u, v)", pair.curve, pair.curve.limit[:, 0]),
        _curve("14", "Theorem 14, cos(u₁ − u₂, v)", star.curve, star.curve.limit.min(axis=1)),
        _curve("14", "Theorem 14, cos(v, v′)", star.curve, star.curve.mutual),
    ]
    return checks, pd.concat(curves, ignore_index=True)


def _curve(theorem: str, series: str, descent: Descent, cosine: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"theorem": theorem, "series": series, "step": descent.steps, "cosine": cosine})
