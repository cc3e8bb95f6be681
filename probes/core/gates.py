"""What keeps a verdict open, whatever predictor it is on: one place, which every judgement passes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from graticule.probes.core.labels import AT_MEAN, BETTER_BY_LITTLE, NO_BETTER, NOT_DECIDED
from graticule.probes.core.undecided import of_few_rows
from graticule.probes.core.verdict import Verdict


@dataclass(frozen=True)
class Gates:
    """Why nothing may be said, of one side or the other: a sweep finds it, and all that goes on keeps it."""

    structure: tuple[str, ...] = ()
    """Why a gain may be none: null checks that find something, near neighbours, hindered baselines."""
    no_better: tuple[str, ...] = ()
    """Why there may be more than was read: a hindered probe."""

    def through(self, judged: Verdict) -> Verdict:
        """The verdict, or one that is not decided, with the first reason.

        Args:
            judged: by gain and interval.

        Returns:
            The same numbers.
        """
        at_mean = f"{NOT_DECIDED}: {AT_MEAN}"
        against = self.no_better if judged.label in (NO_BETTER, at_mean) else self.structure
        if judged.label == BETTER_BY_LITTLE:  # which says both, that there is a gain and that it is small
            against = (*self.structure, *self.no_better)
        if judged.label.startswith(NOT_DECIDED) and judged.label != at_mean:
            if judged.label != NOT_DECIDED and not of_few_rows(judged.label):
                return judged
            # an interval or test rows that say nothing, and the cell that is why
            against = tuple(reason for reason in self.structure if reason in self.no_better)
        return replace(judged, label=f"{NOT_DECIDED}: {against[0]}") if against else judged

    def __or__(self, other: Gates) -> Gates:
        """Both, these first."""
        return Gates(
            tuple(dict.fromkeys((*self.structure, *other.structure))),
            tuple(dict.fromkeys((*self.no_better, *other.no_better))),
        )
