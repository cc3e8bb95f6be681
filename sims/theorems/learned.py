"""What holds of any learner, however trained (Proposition 11, the entropy floor), and Table 1's band."""

from __future__ import annotations

import numpy as np
import pandas as pd

from graticule.sims.theorems.checks import JIANG, Check, largest
from graticule.sims.theorems.tables import Tables


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
        note=f"loss {reported:.4f}, floor {floor:.4f}, gap {reported - floor:.4f}",
    )


def table_1_band(settings: pd.DataFrame, least: float = 0.95) -> Check:
    """Whether steering vectors of one concept are parallel in every view, from four concepts on.

    `settings` is `Simulation.settings` of Table 1's protocol: complete contexts and concept sets, d = m.

    **Raises** `ValueError` if no line has from four to seven concepts.
    """
    held = settings[settings["concepts"].between(4, 7)]
    if not len(held):
        raise ValueError("no line of four to seven concepts: the band is about these")
    means = {
        f"{view}, m = {line['concepts']}": float(line[view])
        for line in held.to_dict("records")
        for view in ("unembedding", "embedding", "mixed")
    }
    return Check(
        name="Table 1's band",
        statement="mean cosines within a concept in all three views are high from four concepts to seven",
        source=f"{JIANG}, Table 1",
        quantity="least mean cosine",
        measured=float(np.min(list(means.values()))),
        tolerance=least,
        relation="≥",
        details=means,
    )
