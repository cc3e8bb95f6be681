"""A pair of tables with the world they are about: the pairs of tokens and contexts that checks compare,
what a check is, and what holds of any learner, however trained (Proposition 11, the entropy floor)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from graticule.hooks.calls import renamed
from graticule.sims.contexts import UNKNOWN, Contexts
from graticule.sims.learners import NEVER
from graticule.sims.training.lookup import Learned
from graticule.sims.worlds import tokens_of

JIANG = "Jiang et al., arXiv 2403.03867"
PARK = "Park et al., arXiv 2311.03658"


def largest(values: Iterable[float]) -> float:
    """The largest of some numbers; NaN if one of them is, wherever it stands."""
    return float(np.max(list(values)))


@dataclass(frozen=True)
class Check:
    """One statement about tables f and g, decided by one number (and by its premise, where it has one)."""

    name: str
    """`Theorem 3`, say."""
    statement: str
    """What is claimed, in words."""
    source: str
    """Paper and theorem."""
    quantity: str
    """What `measured` is, in words, with its unit."""
    measured: float
    """The deciding number."""
    tolerance: float
    """The bar."""
    relation: Literal["≤", "≥"] = "≤"
    """On which side of the bar `measured` must lie."""
    premise: float = 0.0
    """How far the tables are from what the theorem presupposes; 0 where it presupposes nothing."""
    premise_tolerance: float = 0.0
    """How far they may be."""
    details: Mapping[str, float] = field(default_factory=dict[str, float])
    """Further numbers, by name."""
    note: str = ""
    """What a reader should know beside the number."""
    undecided: str = ""
    """Why the number decides nothing yet, and what would make it; empty where it decides."""

    @property
    def premise_holds(self) -> bool:
        """Whether the tables meet what the theorem presupposes."""
        return self.premise <= self.premise_tolerance

    @property
    def holds(self) -> bool:
        """Whether premise and conclusion are both met; NaN is never."""
        return self.premise_holds and self._clears_bar and not self.undecided

    @property
    def fails(self) -> bool:
        """Whether it is decided, and does not hold."""
        return not self.holds and not self.undecided

    @property
    def _clears_bar(self) -> bool:
        if self.relation == "≤":
            return self.measured <= self.tolerance
        return self.measured >= self.tolerance

    @property
    def verdict(self) -> str:
        """One line."""
        sign = {"≤": (">", "≤"), "≥": ("<", "≥")}[self.relation]
        line = f"{self.quantity} {self.measured:.3g} {sign[self._clears_bar]} {self.tolerance:.3g}"
        if not self.premise_holds:
            line += f"; its premise is off by {self.premise:.3g} (at most {self.premise_tolerance:.3g})"
        label = "not decided" if self.undecided else "holds" if self.holds else "FAILS"
        return "; ".join(
            part for part in (f"{self.name}: {label}, {line}", self.undecided, self.note) if part
        )


@dataclass(frozen=True, eq=False)
class Tables:
    """Embeddings f, one row per context, unembeddings g, one per token: p̂(c | d) = softmax_c(f(d)ᵀg(c))."""

    contexts: Contexts
    """World and contexts; rows of f and g are in its order."""
    f: Float[np.ndarray, "context dim"]
    """One row per context id, [`contexts.n`, k]."""
    g: Float[np.ndarray, "token dim"]
    """One row per concept vector, [`len(world.vectors)`, k]."""

    def __post_init__(self) -> None:
        """Raises:
        ValueError: For tables of other lengths or widths, or that hold NaN or infinity.
        """
        wanted = (self.contexts.n, len(self.contexts.world.vectors))
        if (len(self.f), len(self.g)) != wanted or self.f.shape[1] != self.g.shape[1]:
            raise ValueError(
                f"f is {self.f.shape} and g {self.g.shape}: expected {wanted[0]} contexts and {wanted[1]} "
                "tokens in the order of `contexts`, of equal widths"
            )
        if not (np.isfinite(self.f).all() and np.isfinite(self.g).all()):
            raise ValueError("the tables hold NaN or infinity; give trained or constructed ones")
        for name in ("f", "g"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))

    @classmethod
    def of(cls, learned: Learned, run: int = 0) -> Tables:
        """The tables of one training run."""
        contexts = learned.contexts[run]
        return cls(contexts, learned.f[run, : contexts.n].double().numpy(), learned.g[run].double().numpy())

    @property
    def m(self) -> int:
        """How many concepts."""
        return self.contexts.world.m

    # Predictions -------------------------------------------------------------------------------------
    @cached_property
    def met(self) -> Int[np.ndarray, " some"]:
        """Contexts of positive probability, the set that tables are trained on."""
        return np.flatnonzero(self.contexts.probabilities)

    @cached_property
    def log_p(self) -> Float[np.ndarray, "some token"]:
        """ln p̂(c | d) of the contexts `met`; −10⁹ for tokens outside 𝒞̂, over which no softmax runs."""
        logits = self.f[self.met] @ self.g.T
        outside = np.ones(logits.shape[1], bool)
        outside[tokens_of(self.contexts.world)] = False
        logits[:, outside] = NEVER
        return log_softmax(logits)

    @cached_property
    def truth(self) -> Float[np.ndarray, "some token"]:
        """p(c | d) of the contexts `met`."""
        return self.contexts.conditional(self.met)

    @cached_property
    def error(self) -> float:
        """max |p̂ − p| over tokens and contexts met."""
        return float(np.abs(np.exp(self.log_p) - self.truth).max())

    # Pairs -------------------------------------------------------------------------------------------
    def token_pairs(self, concept: int) -> Int[np.ndarray, "pair 2"]:
        """Tokens (c_(i→0), c_(i→1)), a row for every setting of the other concepts that leaves both in 𝒞̂.

        Raises:
            ValueError: For a concept that is not binary: the theorems are about 0 and 1.
        """
        world = self.contexts.world
        if world.values[concept] != 2:
            raise ValueError(
                f"concept {concept} has {world.values[concept]} values; the theorems are about binary ones"
            )
        low = np.flatnonzero(world.vectors[:, concept] == 0)
        high = world.vectors[low].copy()
        high[:, concept] = 1
        pairs = np.stack([low, world.token(high)], axis=1)
        return pairs[np.isin(pairs, tokens_of(world)).all(axis=1)]

    def differences(self, concept: int) -> Float[np.ndarray, "pair dim"]:
        """Steering vectors Δ_{c,i} = g(c_(i→1)) − g(c_(i→0)), a row for every `token_pairs`."""
        pairs = self.token_pairs(concept)
        return self.g[pairs[:, 1]] - self.g[pairs[:, 0]]

    @renamed(known="determined")
    def where(self, unknown: Sequence[int] = (), determined: Sequence[int] = ()) -> Int[np.ndarray, " some"]:
        """Ids of the contexts met in which these concepts are ⋄ and those are not."""
        values = self.contexts.vectors[self.met]
        left_open = (values[:, list(unknown)] == UNKNOWN).all(axis=1)
        return self.met[left_open & (values[:, list(determined)] != UNKNOWN).all(axis=1)]

    def changed(
        self, ids: Int[np.ndarray, " some"], concept: int, value: int
    ) -> tuple[Int[np.ndarray, " kept"], Int[np.ndarray, " kept"]]:
        """Those of `ids` whose d_(i→value) is met too, and the ids of these; `value` may be `UNKNOWN`."""
        vectors = self.contexts.vectors[ids].copy()
        vectors[:, concept] = value
        wanted = self.contexts.world.context_code(vectors)
        codes, numbers = self._codes
        place = np.minimum(np.searchsorted(codes, wanted), len(codes) - 1)
        met = codes[place] == wanted
        return ids[met], numbers[place[met]]

    def agrees(
        self, ids: Int[np.ndarray, " some"], tokens: Int[np.ndarray, " token"], ignoring: int | None = None
    ) -> Bool[np.ndarray, "some token"]:
        """Whether every known value of a context is the token's, with one concept left out of account."""
        compared = [i for i in range(self.m) if i != ignoring]
        values = self.contexts.vectors[ids][:, None, compared]
        of_tokens = self.contexts.world.vectors[tokens][None, :, compared]
        return ((values == UNKNOWN) | (values == of_tokens)).all(axis=2)

    @cached_property
    def _codes(self) -> tuple[np.ndarray, np.ndarray]:
        codes = self.contexts.world.context_code(self.contexts.vectors[self.met])
        order = np.argsort(codes)
        return codes[order], self.met[order]


def log_softmax(logits: Float[np.ndarray, "row token"]) -> Float[np.ndarray, "row token"]:
    """Row by row, without overflow."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


# What holds of any learner, however trained --------------------------------------------------------------
def proposition_11(tables: Tables, epsilon: float | None = None) -> Check:
    """Proposition 11: with |p̂ − p| < ε everywhere, exp(−Δ_{c,i}ᵀ[f(d_(i→1)) − f(d_(i→0))]) is below
    ε² / [(p(c_(i→0)|d_(i→0)) − ε)(p(c_(i→1)|d_(i→1)) − ε)].

    The print has the two embeddings swapped; this is the sign that its proof gives, and `as printed` in the
    details is the worst ratio of the other. `epsilon` None is max |p̂ − p| of these tables; a smaller one
    fails the premise. Pairs whose p is not above ε say nothing and are left out; where none is left, the
    proposition is vacuous and the note says so.
    """
    error = tables.error
    bound = float(np.nextafter(error, 1.0)) if epsilon is None else epsilon
    place = np.full(tables.contexts.n, -1)
    place[tables.met] = np.arange(len(tables.met))
    right: list[np.ndarray] = []
    wrong: list[np.ndarray] = []
    for i in range(tables.m):
        pairs = tables.token_pairs(i)
        low, high = tables.changed(tables.met[tables.contexts.vectors[tables.met, i] == 0], i, 1)
        one = tables.truth[place[high]][:, pairs[:, 1]] - bound
        zero = tables.truth[place[low]][:, pairs[:, 0]] - bound
        counted = (one > 0) & (zero > 0)
        product = ((tables.f[high] - tables.f[low]) @ tables.differences(i).T)[counted]
        limit = 2 * np.log(bound) - np.log(one[counted]) - np.log(zero[counted])
        right.append(-product - limit)
        wrong.append(product - limit)
    ratios, printed = np.concatenate(right), np.concatenate(wrong)
    return Check(
        name="Proposition 11",
        statement="exp(−Δ_{c,i}ᵀ[f(d_(i→1)) − f(d_(i→0))]) < ε² / [(p₀ − ε)(p₁ − ε)] with ε = max |p̂ − p| "
        "(the sign of its proof; the print has the embeddings swapped)",
        source=f"{JIANG}, Proposition 11",
        quantity="largest left side over the right",
        measured=float(np.exp(min(ratios.max(), 700.0))) if len(ratios) else 0.0,
        tolerance=1.0,
        premise=error,
        premise_tolerance=bound,
        details={
            "epsilon": bound,
            "pairs": float(len(ratios)),
            "ln of the largest ratio as printed": float(printed.max()) if len(printed) else float("nan"),
        },
        note="" if len(ratios) else f"vacuously, no probability being above ε = {bound:.3g}; train longer",
    )


def entropy_floor(tables: Tables, loss: float | None = None, tolerance: float = 1e-9) -> Check:
    """Whether the expected loss is the floor Σ p(d) H(c | d) plus Σ p(d) KL(p ‖ p̂), so never below it.

    `loss` is what training reported, in nats (None: that of the tables).
    """
    weight = tables.contexts.probabilities[tables.met]
    weight = weight / weight.sum()
    truth, log_p = tables.truth, tables.log_p
    log_truth = np.log(np.where(truth > 0, truth, 1.0))
    enumerated = -float(weight @ (truth * log_truth).sum(axis=1))
    divergence = float(weight @ (truth * (log_truth - log_p)).sum(axis=1))
    own = -float(weight @ (truth * log_p).sum(axis=1))
    floor = tables.contexts.entropy_floor
    reported = own if loss is None else loss
    return Check(
        name="Entropy floor",
        statement="the expected loss is Σ p(d) H(c|d) + Σ p(d) KL(p ‖ p̂): never below the first",
        source=f"{JIANG}, section 5 (its loss)",
        quantity="largest disagreement in nats of loss, floor and divergence",
        measured=largest((abs(reported - floor - divergence), abs(enumerated - floor), floor - reported)),
        tolerance=tolerance,
        details={"loss": reported, "floor": floor, "gap": reported - floor},
        note=f"loss {reported:z.4f}, floor {floor:z.4f}, gap {reported - floor:z.4f}",
    )
