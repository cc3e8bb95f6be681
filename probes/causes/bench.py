"""What every intervention of one call shares: rows, prompts, the probe's directions, and what is measured."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from graticule.hooks.imports import load
from graticule.hooks.messages import UnknownNameError
from graticule.hooks.points import layer_of
from graticule.hooks.protocols import HookedModel
from graticule.hooks.special import asked_bos
from graticule.hooks.tokens import TokenRows, tokenize
from graticule.probes.applicable import NotApplicable
from graticule.probes.causes.leace import Moments
from graticule.probes.causes.outcomes import (
    NextToken,
    Outcome,
    check_outcomes,
    default_outcomes,
    log_odds,
)
from graticule.probes.causes.rig import Ran, Rig, Span, edited_tokens
from graticule.probes.estimators.edits import unit_moves
from graticule.probes.findings import Findings

_log = logging.getLogger(__name__)

_MOMENT_ROWS = 20_000
_VOCAB_ROWS = 24
"""Rows at most whose next-token distributions over the whole vocabulary are compared."""
_LOGIT_ROWS = 256
"""Rows whose logits over the whole vocabulary are held at once."""

TEXTS = "{}"
"""The prompt of outcomes on the table's own texts: the text without its last token."""

KL, LOSS = "next-token KL", "loss of the text's last token"
"""Names of the outcomes on the table's own texts."""


class Bench:
    """A probe, its point, some test rows, and the prompts that they are set into."""

    def __init__(
        self,
        model: HookedModel,
        findings: Findings,
        outcomes: Sequence[Outcome] | None,
        *,
        point: str | None,
        rows: int,
        span: Span,
        seed: int,
        include_bos: bool = False,
    ) -> None:
        """**Raises** `ValueError` for a table without texts, `KeyError` for a point without a probe."""
        material, table = findings.material, findings.material.table
        if table.texts is None:
            raise NotApplicable(f"table {table.name!r} has no texts: there is nothing to run the model on")
        self.model, self.findings, self.seed = model, findings, seed
        self.span: Span = span
        self.include_bos = include_bos
        self.outcomes = default_outcomes(table) if outcomes is None else tuple(outcomes)
        check_outcomes(self.outcomes, findings.target_names)
        self.answers = _answers(model, self.outcomes, packaged=outcomes is None)
        self.point = findings.chosen_point if point is None else point
        if self.point not in findings.probes:
            raise UnknownNameError(
                f"no probe at {self.point}; these findings have {', '.join(findings.probes)}"
            )
        self.probe = findings.probes[self.point]
        problem, rng = material.problem, np.random.default_rng(seed)
        train = _some(problem.train, _MOMENT_ROWS, rng)
        self.X, self.y = material.rows(self.point, train), problem.y[train]
        self.moments = Moments.of(self.X)
        self.sd = self.probe.predict(self.X).std(axis=0)
        self.moves = unit_moves(self.probe.read_direction, self.probe.write_direction)
        self.sources = _some(np.unique(problem.source[problem.test]), rows, rng)
        self.truth = table.y[self.sources]
        self.later = self._later()
        self._rigs: dict[str, Rig] = {}
        self._bases: dict[str, Ran] = {}
        self._texts: tuple[Rig, Tensor] | None = None
        self._no_texts = False
        self._text_base: Ran | None = None

    def _later(self) -> str | None:
        """The last probed residual point beyond the edited one."""
        here = layer_of(self.point)
        if here is None or not self.point.endswith(("hook_resid_pre", "hook_resid_post")):
            return None
        kind = self.point.rsplit(".", 1)[1]
        after = [p for p in self.findings.probes if p.endswith(kind) and (layer_of(p) or 0) > here]
        return after[-1] if after else None

    # Prompts -----------------------------------------------------------------------------------------
    @property
    def prompts(self) -> tuple[str, ...]:
        """The outcomes' prompts, each once; without outcomes the bare texts."""
        return tuple(dict.fromkeys(o.prompt for o in self.outcomes)) or (TEXTS,)

    def tokens(self, prompt: str) -> TokenRows:
        """The rows' texts in a prompt."""
        texts = self.findings.material.table.texts
        assert texts is not None
        bos = asked_bos(self.findings.material.activations.provenance)
        return tokenize(self.model, [texts[i] for i in self.sources], prompt, bos)

    def rig(self, prompt: str) -> Rig:
        """The rig of a prompt, made once."""
        if prompt not in self._rigs:
            rows = self.tokens(prompt)
            edited = edited_tokens(rows, self.span, include_bos=self.include_bos)
            read = np.array([end - 1 for _, end in rows.spans])
            later = () if self.later is None else (self.later,)
            self._rigs[prompt] = Rig(self.model, rows, self.point, edited, read, later)
        return self._rigs[prompt]

    def base(self, prompt: str) -> Ran:
        """What comes out of a prompt in the model as it is."""
        if prompt not in self._bases:
            self._bases[prompt] = self.rig(prompt).run()
        return self._bases[prompt]

    # Outcomes ----------------------------------------------------------------------------------------
    def odds(self, prompt: str, ran: Ran, rig: Rig | None = None) -> dict[str, Float[np.ndarray, " row"]]:
        """Outcome of this prompt → log-odds of its answers, row by row; `rig` is the one that ran."""
        rig = self.rig(prompt) if rig is None else rig
        out: dict[str, np.ndarray] = {}
        for outcome in self.outcomes:
            if outcome.prompt == prompt:
                high, low = self.answers[outcome.name]
                logits = rig.scores(ran.final, [*high, *low])
                out[outcome.name] = log_odds(logits.double(), len(high)).cpu().numpy()
        return out

    def readings(self, ran: Ran) -> Float[np.ndarray, "row target"]:
        """The later probe's readings, in standard deviations of its targets."""
        assert self.later is not None
        probe = self.findings.probes[self.later]
        return probe.predict(ran.later[self.later]) / probe.weights.y_scale

    def skipped(self, shift: Float[np.ndarray, " width"]) -> Float[np.ndarray, " target"]:
        """How far a displacement moves the later readings by the skip path alone, in the same units."""
        assert self.later is not None
        probe = self.findings.probes[self.later]
        return (shift @ probe.read_direction) / probe.weights.y_scale

    def sensitivity(self, outcome: Outcome) -> tuple[float, float]:
        """Spearman correlation of an outcome with the truth in the model as it is, and its p-value: an answer
        that does not follow the truth cannot show that the truth is used."""
        load("scipy.stats")
        from scipy.stats import spearmanr

        truth = self.truth[:, self.findings.target_names.index(outcome.target)]
        odds = self.odds(outcome.prompt, self.base(outcome.prompt))[outcome.name]
        if np.ptp(truth) == 0 or np.ptp(odds) == 0:
            return float("nan"), 1.0
        found: Any = spearmanr(truth, odds)
        return float(found.statistic), float(found.pvalue)

    # The table's own texts ---------------------------------------------------------------------------
    def text_rig(self) -> tuple[Rig, Tensor] | None:
        """The texts without their last token, all tokens edited, and those last tokens; None where fewer than
        two texts have two tokens."""
        if self._texts is None and not self._no_texts:
            whole = self.tokens("")
            longer = [(ids[:end], start) for ids, (start, end) in zip(whole.ids, whole.own, strict=True)
                      if end - start >= 2][:_VOCAB_ROWS]  # fmt: skip
            self._no_texts = len(longer) < 2
            if not self._no_texts:
                own = [(start, len(ids) - 1) for ids, start in longer]
                cut = TokenRows([ids[:-1] for ids, _ in longer], own, own, whole.framed)
                read = np.array([len(ids) - 1 for ids in cut.ids])
                rig = Rig(self.model, cut, self.point, edited_tokens(cut, "all", self.include_bos), read)
                self._texts = rig, torch.tensor([int(ids[-1]) for ids, _ in longer])
        return self._texts

    def text_base(self) -> Ran:
        """What comes out of the cut texts in the model as it is."""
        if self._text_base is None:
            held = self.text_rig()
            assert held is not None
            self._text_base = held[0].run()
        return self._text_base


def next_tokens(
    rig: Rig, base: Ran, runs: Sequence[Ran], truth: Tensor | None = None
) -> dict[str, Float[np.ndarray, "run row"]]:
    """`KL` (nats, base ‖ run) and, with the true next tokens, `LOSS` (nats, run less base), run by run.

    On the first 24 rows: logits over the vocabulary are most of a small model's work.
    """
    n = min(len(base.final), _VOCAB_ROWS)
    out = {KL: np.empty((len(runs), n))}
    if truth is not None:
        out[LOSS] = np.empty((len(runs), n))
    for start in range(0, n, _LOGIT_ROWS):
        rows = slice(start, min(start + _LOGIT_ROWS, n))
        plain = NextToken.of(rig.scores(base.final[rows]))
        step = max(1, _LOGIT_ROWS // (rows.stop - rows.start))
        for first in range(0, len(runs), step):
            some = runs[first : first + step]
            logits = rig.scores(torch.cat([r.final[rows] for r in some]))
            shaped = logits.view(len(some), rows.stop - rows.start, -1)
            for k, held in enumerate(shaped):
                out[KL][first + k, rows] = plain.kl(held).cpu().double().numpy()
                if truth is not None:
                    change = plain.loss_change(held, truth[rows].to(held.device))
                    out[LOSS][first + k, rows] = change.cpu().double().numpy()
    return out


def row_interval(values: Float[np.ndarray, " row"], seed: int, draws: int = 2000) -> tuple[float, float]:
    """95% percentile interval of the mean, rows resampled."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (draws, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def provenance_of(findings: Findings, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a result on causes records of where it comes from."""
    from graticule.hooks.artifact import library_versions

    made = findings.provenance
    return {
        "model": dict(made.get("activations", {}).get("model", {})),
        "table": dict(made.get("table", {})),
        "settings": dict(settings),
        "versions": library_versions(),
    }


def _some(rows: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
    return rows if len(rows) <= limit else np.sort(rng.choice(rows, limit, replace=False))


def _answers(
    model: HookedModel, outcomes: Sequence[Outcome], packaged: bool
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Answer tokens by outcome; packaged outcomes that this tokenizer cannot speak of do not apply."""
    try:
        return {o.name: o.tokens(model) for o in outcomes}
    except ValueError as reason:
        if packaged:
            raise NotApplicable(f"{reason}; give outcomes= of your own") from reason
        raise
