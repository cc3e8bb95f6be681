"""What an intervention may change, stated beforehand: answers to a prompt, next tokens, later readings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from graticule.hooks.messages import NotApplicable, brief, check_whole
from graticule.hooks.protocols import HookedModel
from graticule.probes.causes.edited_runs import EditedRuns, Outputs
from graticule.probes.tables.table import Table

KL, LOSS = "next-token KL", "loss of the text's last token"
READING = "reading of "
"""How the names of outcomes begin that are what a later probe reads, not what the model does."""
"""Names of the outcomes that need no stated answers."""

VOCAB_ROWS = 24
"""Rows at most whose next-token distributions over the whole vocabulary are compared."""
_LOGIT_ROWS = 256
"""Rows whose logits over the whole vocabulary are in memory at once."""


@dataclass(frozen=True)
class Outcome:
    """A prompt about an entity and two sets of answers: the log-odds between them is what is measured.

    Args:
        name: For tables: `"north or south"`.
        prompt: With one slot `{}` for the entity; the answer is the next token.
        answers: Two sets of tokens by name, the one that a high target speaks for first; spaces count:
            `{"north": (" north", " North"), "south": (" south", " South")}`.
        target: The target that the answer is about.

    Raises:
        ValueError: There are not two sets, or not one slot.
    """

    name: str
    """For tables: `north or south`."""
    prompt: str
    """With one slot `{}` for the entity; the answer is the next token."""
    answers: Mapping[str, tuple[str, ...]]
    """Two sets by name, the one that a **high** target speaks for first; spaces count: `" north"`."""
    target: str
    """The target that the answer is about."""

    def __post_init__(self) -> None:
        if not isinstance(self.answers, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(
                f"outcome {self.name!r} has answers {brief(self.answers)}: give two sets by name, high "
                "first, {'high': (' good',), 'low': (' bad',)}"
            )
        if len(self.answers) != 2 or not all(self.answers.values()):
            raise ValueError(
                f"outcome {self.name!r} has answers {dict(self.answers)}: give two sets of tokens, high first"
            )
        if self.prompt.count("{}") != 1:
            raise ValueError(f"outcome {self.name!r}: prompt {self.prompt!r} needs one slot {{}}")

    def tokens(self, model: HookedModel) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """First token of every answer, set by set.

        Raises:
            NotApplicable: for a model without a tokenizer.
            ValueError: where both sets begin with the same token, or an answer with an unknown one.
        """
        tokenizer: Any = getattr(model, "tokenizer", None)
        if tokenizer is None:
            raise NotApplicable("answers need the model's tokenizer; this model has none")
        sets: list[tuple[int, ...]] = []
        for answers in self.answers.values():
            for answer in answers:
                check_whole(answer, f"outcome {self.name!r}: an answer")
            rows = [tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in answers]
            unknown = getattr(tokenizer, "unk_token_id", None)
            if bad := [a for a, r in zip(answers, rows, strict=True) if not r or r[0] == unknown]:
                raise ValueError(f"outcome {self.name!r}: the tokenizer does not know {bad[0]!r}")
            sets.append(tuple(dict.fromkeys(int(row[0]) for row in rows)))
        if shared := set(sets[0]) & set(sets[1]):
            first = tokenizer.decode([min(shared)])
            raise ValueError(
                f"outcome {self.name!r}: both sets of answers begin with {first!r}; choose words whose "
                "first tokens differ"
            )
        return sets[0], sets[1]


_COUNTRY = "{} is in the country of"
# Countries, not "north" and "south": on 120 training rows of world_cities the packaged model's log-odds
# follow latitude and longitude with a Spearman correlation of .72 and .76, those words' with -.03 and .12.
_DEFAULTS: dict[str, tuple[str, str, dict[str, tuple[str, ...]]]] = {
    "lat": (
        "a northern or a southern country",
        _COUNTRY,
        {"northern": (" Germany", " Russia", " Sweden", " Finland", " Poland", " Ukraine", " Norway",
                      " Canada"),
         "southern": (" Brazil", " Argentina", " Australia", " Indonesia", " Nigeria", " Kenya", " Peru",
                      " Tanzania")},
    ),
    "lon": (
        "an eastern or a western country",
        _COUNTRY,
        {"eastern": (" China", " India", " Japan", " Indonesia", " Thailand", " Vietnam", " Pakistan",
                     " Australia"),
         "western": (" Mexico", " Brazil", " Argentina", " Canada", " Colombia", " Peru", " Chile",
                     " Venezuela")},
    ),
    "year": (
        "late or early in the millennium",
        "{} died in the year 1",
        {"late": ("7", "8", "9"), "early": ("0", "1", "2", "3", "4", "5", "6")},
    ),
}  # fmt: skip


def default_outcomes(table: Table) -> tuple[Outcome, ...]:
    """The packaged outcomes of targets in `lat`, `lon` and `year`; none for other units."""
    return tuple(
        Outcome(*_DEFAULTS[unit], name)
        for name, unit in zip(table.target_names, table.units, strict=True)
        if unit in _DEFAULTS
    )


def check_outcomes(outcomes: Sequence[Outcome], names: Sequence[str]) -> None:
    """Refuse outcomes about targets that there are not, and two of one name.

    Raises:
        ValueError: for either.
    """
    for outcome in outcomes:
        if outcome.target not in names:
            raise ValueError(
                f"outcome {outcome.name!r} is about {outcome.target!r}; targets: {', '.join(names)}"
            )
    if len({o.name for o in outcomes}) < len(outcomes):
        raise ValueError(f"outcomes share a name: {', '.join(o.name for o in outcomes)}")


def log_odds(logits: Tensor, n_high: int) -> Tensor:
    """log(Σ p of the first `n_high` tokens / Σ p of the rest) for each row of `logits` `[row, token]`."""
    return torch.logsumexp(logits[:, :n_high], 1) - torch.logsumexp(logits[:, n_high:], 1)


def next_tokens(
    runs: EditedRuns, base: Outputs, edited: Sequence[Outputs], truth: Tensor | None = None
) -> dict[str, Float[np.ndarray, "run row"]]:
    """`KL` (nats, base ‖ run) and, with the true next tokens, `LOSS` (nats, run less base), run by run.

    On the first 24 rows: logits over the vocabulary are most of a small model's work.
    """
    n = min(len(base.final), VOCAB_ROWS)
    out = {name: np.empty((len(edited), n)) for name in ([KL] if truth is None else [KL, LOSS])}
    log_p = torch.log_softmax(runs.scores(base.final[:n]), 1)
    p = log_p.exp()
    step = max(1, _LOGIT_ROWS // n)
    for first in range(0, len(edited), step):
        some = edited[first : first + step]
        logits = runs.scores(torch.cat([r.final[:n] for r in some]))
        by_run = rearrange(logits, "(run row) token -> run row token", run=len(some))
        for k, rows in enumerate(by_run, start=first):
            total = torch.logsumexp(rows, 1)
            out[KL][k] = (total + torch.linalg.vecdot(p, log_p - rows)).cpu().double().numpy()
            if truth is not None:
                at = truth[:n].to(rows.device)[:, None]
                change = log_p.gather(1, at)[:, 0] - rows.gather(1, at)[:, 0] + total
                out[LOSS][k] = change.cpu().double().numpy()
    return out
