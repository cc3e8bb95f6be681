"""Which lines of the activations an outcome follows, and how much of a probe's reading lies on them.

An eraser takes away whatever is correlated with a target, and a write direction holds all of it: where they
move an outcome, the model uses the direction, or something that is correlated with it. The activations alone
cannot tell the two apart, for a change of basis turns one into the other; the model's own axes can, as far as
it reads a feature along the line that it writes it in. With g the gradient of an outcome, r what the probe
reads and v a displacement along its write direction, r·v = 1, the part of that reading which stands on the
outcome's own line is (r·ĝ)(ĝ·v). It is 1 where the outcome follows r or v, and near 0 where it follows a
feature that only shares its ups and downs with the target: then the reading moves by other lines, which the
outcome does not follow.

Where an outcome follows many lines (a next-token distribution), ĝĝ' becomes G (G'G + λ)⁻¹ G', the columns of
G being gradients and λ three times what an average line is followed: a line that is followed as an average
one counts a quarter.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from graticule.probes.causes.edited_runs import EditedRuns, Outputs
from graticule.probes.causes.experiment import Experiment
from graticule.probes.causes.outcomes import KL, LOSS, READING, VOCAB_ROWS, log_odds
from graticule.probes.causes.result import LEVEL

_log = logging.getLogger(__name__)

LINES = 48
"""Gradients that stand for a next-token distribution."""
_STIFF = 3.0
OWN = 0.25
"""Share of a reading on the lines that an outcome follows, from which the direction itself counts as used."""

Lines = Float[np.ndarray, "width line"]


def followed(
    experiment: Experiment, effects: pd.DataFrame, columns: Mapping[str, list[int]]
) -> Float[np.ndarray, " effect"]:
    """For every row of `effects` that lies beyond its controls, how much of the readings that the
    intervention moves stands on the lines that the outcome follows; NaN elsewhere, and where the model cannot
    be differentiated.

    Args:
        experiment: Of these effects.
        effects: Adjusted.
        columns: Intervention → its targets.
    """
    out, lines = np.full(len(effects), np.nan), dict[str, Lines]()
    for place, (name, outcome, p) in enumerate(
        zip(effects["intervention"], effects["outcome"], effects["p_holm"], strict=True)
    ):
        if p < LEVEL and name in columns:
            try:
                if outcome not in lines:
                    lines[outcome] = _lines_of(experiment, outcome, columns[name][0])
                read, moves = experiment.probe.read_direction, experiment.moves
                out[place] = share_on(lines[outcome], read[:, columns[name]], moves[:, columns[name]])
            except RuntimeError as error:
                _log.info("what %s follows is not known: %s", outcome, error)
    return out


def _lines_of(experiment: Experiment, outcome: str, column: int) -> Lines:
    width, rng = experiment.X.shape[1], np.random.default_rng([experiment.seed, 5])
    first = experiment.prompts[0]
    if outcome.startswith(READING):
        assert experiment.reader is not None
        coef = experiment.reader.coef[:, column]
        return reading_line(experiment.runs(first), experiment.reader.point, coef, width)
    if outcome.startswith(KL):
        return next_token_lines(experiment.runs(first), experiment.base(first), width, rng)
    if outcome.startswith(LOSS):
        assert experiment.text_runs is not None
        return next_token_lines(experiment.text_runs[0], experiment.text_base, width, rng)
    stated = next(o for o in experiment.outcomes if outcome.startswith(o.name))
    return answer_line(experiment.runs(stated.prompt), experiment.answers[stated.name], width)


def share_on(lines: Lines, read: Float[np.ndarray, "width k"], moves: Float[np.ndarray, "width k"]) -> float:
    """How much of the readings that `moves` move by one stands on the lines, mean over the readings.

    Args:
        lines: Gradients of an outcome in columns.
        read: What is read.
        moves: Displacements, each of which moves its own reading by one.

    Returns:
        A share, NaN where the outcome follows nothing.
    """
    gram = lines.T @ lines
    level = _STIFF * float(np.trace(gram)) / len(lines)
    if not level > 0:
        return float("nan")
    on = np.linalg.solve(gram + level * np.eye(len(gram)), lines.T @ moves)
    return float(((read * (lines @ on)).sum(axis=0) / (read * moves).sum(axis=0)).mean())


def answer_line(runs: EditedRuns, answers: tuple[tuple[int, ...], tuple[int, ...]], width: int) -> Lines:
    """The gradient of the log-odds of answers, mean over rows.

    Raises:
        RuntimeError: the model cannot be differentiated.
    """
    high, low = answers

    def score(final: torch.Tensor, _later: object, _rows: object) -> torch.Tensor:
        return log_odds(runs.scores(final, [*high, *low]), len(high)).sum()

    return runs.slope(score, width)[:, None]


def reading_line(runs: EditedRuns, point: str, coef: Float[np.ndarray, " later"], width: int) -> Lines:
    """The gradient of a later reading, mean over rows, less what the skip path carries there.

    Raises:
        RuntimeError: the model cannot be differentiated.
    """
    weight = torch.from_numpy(np.ascontiguousarray(coef)).float()

    def score(_final: object, later: dict[str, torch.Tensor], _rows: object) -> torch.Tensor:
        return (later[point] @ weight).sum()

    return (runs.slope(score, width) / runs.n_rows - coef)[:, None]


def next_token_lines(runs: EditedRuns, base: Outputs, width: int, rng: np.random.Generator) -> Lines:
    """Gradients whose products are, on average, the Fisher information of the next token: logits weighed by
    draws with the covariance diag(p) − pp' of each of the first rows.

    Raises:
        RuntimeError: the model cannot be differentiated.
    """
    p = torch.softmax(runs.scores(base.final[:VOCAB_ROWS]), 1)
    seed = torch.Generator(device="cpu").manual_seed(int(rng.integers(2**31)))
    columns: list[np.ndarray] = []
    for _ in range(LINES):
        drawn = torch.randn(p.shape, generator=seed).to(p.device) * p.sqrt()
        weight = drawn - p * drawn.sum(1, keepdim=True)

        def score(
            final: torch.Tensor, _later: object, rows: np.ndarray, weight: torch.Tensor = weight
        ) -> torch.Tensor:
            inside = torch.from_numpy(np.flatnonzero(rows < len(weight)))
            chosen = weight[torch.from_numpy(rows)[inside]]
            return (runs.scores(final[inside]) * chosen).sum()

        columns.append(runs.slope(score, width))
    return np.stack(columns, axis=1)
