"""The second verdict: whether the model uses what is read, in words, and by which criteria."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from graticule.probes.causes.followed import OWN
from graticule.probes.causes.readable import Readable
from graticule.probes.causes.result import LEVEL, NEGLIGIBLE
from graticule.probes.core.verdict import STRUCTURE

USED = "used"
USED_OR_CORRELATED = "used, or correlated with what is used"
NOT_SEEN = "present, no effect seen"
UNDECIDED = "not decided"
ENOUGH_ROWS = 20
STEER, ERASE = "steer ", "erase "
"""How the names of interventions on directions begin."""


def second_verdict(
    effects: pd.DataFrame,
    first: str,
    rows: int,
    readable: Sequence[Readable] = (),
    correlated: pd.DataFrame | None = None,
) -> tuple[str, str]:
    """The verdict and its reason.

    Args:
        effects: Adjusted; with `followed`, where that was asked.
        first: The first verdict's words.
        rows: Rows run.
        readable: Scores of the targets that were intervened on; none leaves the question out.
        correlated: What else is read with them.

    Returns:
        One of the four labels, and a sentence.
    """
    tested = effects[effects["tested"]]
    if not len(tested):
        return UNDECIDED, "no outcome was tested"
    beyond = tested[tested["p_holm"] < LEVEL]
    if not len(beyond):
        return _nothing_beyond(tested, first, rows)
    unread = [one for one in readable if not one.shown]
    counted = beyond[~beyond["intervention"].isin([f"{STEER}{one.target}" for one in unread])]
    if readable and len(unread) == len(readable):
        counted = counted.iloc[:0]
    best = (counted if len(counted) else beyond).sort_values("p_holm", kind="stable").iloc[0]
    own = _own(counted)
    if len(own):
        best = own.sort_values("p_holm", kind="stable").iloc[0]
    more = f", and {len(beyond) - 1} more" if len(beyond) > 1 else ""
    doubt = "" if first == STRUCTURE else f"; the findings themselves say: {first}"
    reason = (
        f"{best['intervention']} changes {best['outcome']} by {best['effect']:+.3g} {best['unit']}, its "
        f"matched controls by up to {best['limit']:.3g}{more} ({len(beyond)} of {len(tested)} outcomes)"
    )
    if not len(counted):
        scores = ", ".join(one.text for one in unread)
        return UNDECIDED, (
            f"that the direction is read at all was not shown (reading and truth on test rows, correlation "
            f"{scores}), though {reason}: of a direction that is fitted to luck that says nothing{doubt}"
        )
    if rows < ENOUGH_ROWS:
        few = f"; on {rows} rows alone ({ENOUGH_ROWS} are needed to say more)"
        return UNDECIDED, f"{reason}{doubt}{few}"
    if len(own):
        return USED, f"{reason}{doubt}"
    return USED_OR_CORRELATED, f"{reason}{_why_not_plain(counted, tested, correlated)}{doubt}"


def _own(beyond: pd.DataFrame) -> pd.DataFrame:
    """Outcomes that follow the direction itself; all where that was not asked."""
    if "followed" not in beyond:
        return beyond
    neurons = ~beyond["intervention"].str.startswith((STEER, ERASE))
    return beyond[neurons | (beyond["followed"] >= OWN)]


def _nothing_beyond(tested: pd.DataFrame, first: str, rows: int) -> tuple[str, str]:
    if first != STRUCTURE:
        return UNDECIDED, f"no outcome beyond its controls, and the findings themselves say: {first}"
    if rows < ENOUGH_ROWS:
        few = f"on {rows} rows alone ({ENOUGH_ROWS} are needed to say more)"
        return UNDECIDED, f"no outcome beyond its controls, {few}"
    if not (tested["limit"] > NEGLIGIBLE).any():
        return UNDECIDED, "nothing that was measured moves at all, not even with the controls"
    near = int((tested["p"] < LEVEL).sum())
    counted = f" once all are counted (Holm; {near} by itself)" if near else ""
    reason = (
        f"none of {len(tested)} outcomes lies beyond its matched controls{counted}; their detection limits "
        "are below"
    )
    answers = tested[tested["sensitivity"].notna()]
    if len(answers) and not (answers["sensitivity_p"] < LEVEL).any():
        reason += (
            " (the stated answers do not follow the truth in this model as it is: another prompt may "
            "show more)"
        )
    return NOT_SEEN, reason


def _why_not_plain(beyond: pd.DataFrame, tested: pd.DataFrame, correlated: pd.DataFrame | None) -> str:
    """That it may be another feature's effect, whether steering and erasing agree, and what is correlated."""
    shares = beyond["followed"].dropna()
    most = "could not be measured" if not len(shares) else f"is {shares.max():.0%} at most"
    words = (
        "; but this moves all that is correlated with the direction, too, and of its reading the part on the "
        f"lines that these outcomes follow {most} ({OWN:.0%} are needed to call the direction itself used)"
    )
    moved = {kind: int(beyond["intervention"].str.startswith(kind).sum()) for kind in (STEER, ERASE)}
    asked = {kind: int(tested["intervention"].str.startswith(kind).sum()) for kind in (STEER, ERASE)}
    if all(asked.values()) and not all(moved.values()):
        does, does_not = (ERASE, STEER) if moved[ERASE] else (STEER, ERASE)
        gerund = {STEER: "steering", ERASE: "erasing"}
        words += (
            f"; {gerund[does]} and {gerund[does_not]} disagree: {gerund[does]} moves {moved[does]} of "
            f"{asked[does]} outcomes, {gerund[does_not]} none of {asked[does_not]}"
        )
    if correlated is not None and len(correlated):
        pairs = correlated.sort_values("correlation", key=lambda c: -c.abs()).head(4).to_dict("records")
        words += "; read with it: " + ", ".join(
            f"{line['beside']} ({line['correlation']:+z.2f})" for line in pairs
        )
    return words
