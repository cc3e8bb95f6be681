"""What every intervention of one call shares: the probe, the test rows in their prompts, what is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from graticule.hooks.artifact import library_versions
from graticule.hooks.capture_spec import pos_to_data
from graticule.hooks.imports import load
from graticule.hooks.messages import NotApplicable, UnknownNameError
from graticule.hooks.model_view import at_border
from graticule.hooks.points import layer_of, several
from graticule.hooks.protocols import HookedModel
from graticule.hooks.result import captured_as
from graticule.hooks.rows import PointKey
from graticule.hooks.tokens import TokenRows, tokenize
from graticule.probes.causes.edited_runs import EditedRuns, Outputs, Span, check_span, edited_tokens
from graticule.probes.causes.outcomes import VOCAB_ROWS, Outcome, check_outcomes, default_outcomes, log_odds
from graticule.probes.causes.result import EffectRows, adjusted
from graticule.probes.core.findings import Findings
from graticule.probes.core.replay import replay_spec
from graticule.probes.linear.edits import unit_moves
from graticule.probes.linear.leace import Covariance

_MOMENT_ROWS = 20_000

_TEXTS = "{}"
"""The prompt where no outcome states one: the table's own texts."""


class Experiment:
    """A probe, its point, some test rows, the prompts that they are set into, and what was measured."""

    def __init__(
        self,
        model: HookedModel,
        findings: Findings,
        outcomes: Sequence[Outcome] | None,
        *,
        point: PointKey | None,
        rows: int,
        span: Span,
        seed: int,
        include_bos: bool | None = None,
    ) -> None:
        """Draw the rows, and look up the answers' tokens; nothing is run yet.

        Raises:
            NotApplicable: for a table without texts.
            ValueError: for outcomes that do not fit the table or the tokenizer, a `span` of no tokens, or
                activations of other tokens than the table's texts give here.
            KeyError: for a point without a probe.
        """
        check_span(span)
        inputs, table = findings.inputs, findings.inputs.table
        if table.texts is None:
            raise NotApplicable(f"table {table.name!r} has no texts: there is nothing to run the model on")
        self.model, self.findings, self.seed = model, findings, seed
        self.span: Span = span
        self.include_bos = bool(include_bos)
        self.outcomes = default_outcomes(table) if outcomes is None else tuple(outcomes)
        check_outcomes(self.outcomes, findings.target_names)
        self.answers = _answers(model, self.outcomes, packaged=outcomes is None)
        self.point = findings.point_of(point)
        self.probe = findings.probes[self.point]
        self.prepend_bos = replay_spec(findings, model).prepend_bos
        problem, rng = inputs.problem, np.random.default_rng(seed)
        train = some_rows(problem.train, _MOMENT_ROWS, rng)
        self.X, self.y = inputs.rows(self.point, train), problem.y[train]
        self.moments = Covariance.of(self.X)
        self.sd = self.probe.predict(self.X).std(axis=0)
        self.moves = unit_moves(self.probe.read_direction, self.probe.write_direction)
        self.sources = some_rows(np.unique(problem.source[problem.test]), rows, rng)
        self.truth = table.y[self.sources]
        self.later = self._later()
        self.measured = EffectRows(seed)
        self._runs: dict[str, EditedRuns] = {}
        self._bases: dict[str, Outputs] = {}

    def _later(self) -> str | None:
        """The last probed residual point beyond the edited one."""
        here = layer_of(self.point)
        if here is None or not at_border(self.point):
            return None
        kind = self.point.rsplit(".", 1)[1]
        after = [p for p in self.findings.probes if p.endswith(kind) and (layer_of(p) or 0) > here]
        return after[-1] if after else None

    def fields(self, **settings: Any) -> dict[str, Any]:
        """What the results of all interventions have in common, by field; `settings` besides the shared ones.

        Raises:
            NotApplicable: there is no outcome at all.
        """
        made = self.findings.provenance
        shared = {"pos": pos_to_data(self.span), "seed": self.seed, "include_bos": self.include_bos}
        return {
            "model": self.findings.model,
            "table": self.findings.table,
            "span": str(self.span),
            "rows": len(self.sources),
            "effects": adjusted(pd.DataFrame(self.measured.effects)),
            "controls": pd.DataFrame(self.measured.controls),
            "doses": pd.DataFrame(self.measured.doses),
            "outcomes": self.outcomes,
            "provenance": {
                "model": dict(made.get("activations", {}).get("model", {})),
                "table": dict(made.get("table", {})),
                **captured_as(made),
                "settings": {**settings, **shared},
                "versions": library_versions(),
            },
        }

    # Prompts -----------------------------------------------------------------------------------------
    @property
    def prompts(self) -> tuple[str, ...]:
        """The outcomes' prompts, each once; without outcomes the bare texts."""
        return tuple(dict.fromkeys(o.prompt for o in self.outcomes)) or (_TEXTS,)

    def tokens(self, prompt: str) -> TokenRows:
        """The rows' texts in a prompt."""
        texts = self.findings.inputs.table.texts
        assert texts is not None
        return tokenize(self.model, [texts[i] for i in self.sources], prompt, self.prepend_bos)

    def runs_at(self, prompt: str, point: str, span: Span, later: Sequence[str]) -> EditedRuns:
        """Runs of a prompt edited at a point; `later` is read at the entity's last token."""
        rows = self.tokens(prompt)
        read = np.array([end - 1 for _, end in rows.spans])
        edited = edited_tokens(rows, span, self.include_bos)
        return EditedRuns(self.model, rows, point, edited, read, later)

    def runs(self, prompt: str) -> EditedRuns:
        """Runs of a prompt edited at the probe's point, laid out once."""
        if prompt not in self._runs:
            later = () if self.later is None else (self.later,)
            self._runs[prompt] = self.runs_at(prompt, self.point, self.span, later)
        return self._runs[prompt]

    def base(self, prompt: str) -> Outputs:
        """What comes out of a prompt in the model as it is."""
        if prompt not in self._bases:
            self._bases[prompt] = self.runs(prompt).run()
        return self._bases[prompt]

    # Outcomes ----------------------------------------------------------------------------------------
    def odds(
        self, prompt: str, outputs: Outputs, runs: EditedRuns | None = None
    ) -> dict[str, Float[np.ndarray, " row"]]:
        """Outcome of this prompt → log-odds of its answers, row by row; `runs` gave the outputs."""
        runs = self.runs(prompt) if runs is None else runs
        out: dict[str, np.ndarray] = {}
        for outcome in self.outcomes:
            if outcome.prompt == prompt:
                high, low = self.answers[outcome.name]
                logits = runs.scores(outputs.final, [*high, *low])
                out[outcome.name] = log_odds(logits.double(), len(high)).cpu().numpy()
        return out

    def readings(
        self, outputs: Outputs, shift: Float[np.ndarray, " width"]
    ) -> Float[np.ndarray, "row target"]:
        """The later probe's readings, in standard deviations of its targets, less how far the displacement
        moves them by the skip path alone."""
        assert self.later is not None
        probe = self.findings.probes[self.later]
        scale = probe.weights.y_scale
        return probe.predict(outputs.later[self.later]) / scale - (shift @ probe.read_direction) / scale

    def sensitivity(self, outcome: Outcome) -> tuple[float, float]:
        """Spearman correlation of an outcome with the truth in the model as it is, and its p-value: an answer
        that does not follow the truth cannot show that the truth is used."""
        load("scipy.stats")
        from scipy.stats import spearmanr

        truth = self.truth[:, self.findings.target_names.index(outcome.target)]
        odds = self.odds(outcome.prompt, self.base(outcome.prompt))[outcome.name]
        if np.ptp(truth) == 0 or np.ptp(odds) == 0:
            return float("nan"), 1.0
        correlation: Any = spearmanr(truth, odds)
        return float(correlation.statistic), float(correlation.pvalue)

    # The table's own texts ---------------------------------------------------------------------------
    @cached_property
    def text_runs(self) -> tuple[EditedRuns, Tensor] | None:
        """The texts without their last token, all tokens edited, and those last tokens; None where fewer than
        two texts have two tokens."""
        whole = self.tokens("")
        longer = [
            (ids[:end], start)
            for ids, (start, end) in zip(whole.ids, whole.own, strict=True)
            if end - start >= 2
        ][:VOCAB_ROWS]
        if len(longer) < 2:
            return None
        own = [(start, len(ids) - 1) for ids, start in longer]
        cut = TokenRows([ids[:-1] for ids, _ in longer], own, own, whole.framed)
        read = np.array([len(ids) - 1 for ids in cut.ids])
        edited = edited_tokens(cut, "all", self.include_bos)
        runs = EditedRuns(self.model, cut, self.point, edited, read)
        return runs, torch.tensor([int(ids[-1]) for ids, _ in longer])

    @cached_property
    def text_base(self) -> Outputs:
        """What comes out of the cut texts in the model as it is."""
        assert self.text_runs is not None
        return self.text_runs[0].run()


def asked_targets(
    findings: Findings, targets: str | Sequence[str] | None, most: int | None = None
) -> list[str]:
    """The targets asked for, by default all, or the first `most`.

    Raises:
        KeyError: for an unknown one.
    """
    names = list(findings.target_names)
    if targets is None:
        return names[:most]
    targets = several(targets)
    if unknown := [t for t in targets if t not in names]:
        raise UnknownNameError(f"no target {unknown[0]!r}; these findings have {', '.join(names)}")
    return targets


def some_rows(rows: np.ndarray, limit: int, rng: np.random.Generator) -> np.ndarray:
    """At most `limit` of the rows, drawn and in order."""
    return rows if len(rows) <= limit else np.sort(rng.choice(rows, limit, replace=False))


def _answers(
    model: HookedModel, outcomes: Sequence[Outcome], packaged: bool
) -> Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Answer tokens by outcome; packaged outcomes that this tokenizer cannot speak of do not apply."""
    try:
        return {o.name: o.tokens(model) for o in outcomes}
    except ValueError as reason:
        if packaged:
            raise NotApplicable(f"{reason}; give outcomes= of your own") from reason
        raise
