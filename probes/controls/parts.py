"""Controls on parts of the rows: inside blocks, a block by itself, digit-only names, repeated texts."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from graticule.hooks.imports import load
from graticule.probes.controls.inputs import ControlInputs, Line, Question
from graticule.probes.core.fit import stack
from graticule.probes.core.resample import Sampled, resamples
from graticule.probes.tables.groups import block_oracle_predictions

LETTERS_ASKS = "the probe and the surface without names that are digits alone (zip codes)"
DIGITS_ASKS = "those names by themselves, whose digits tell the place linearly"
MINIMUM = 10
"""Test rows that a block needs to be scored within; rows of each part of the split that a subset needs."""
SURFACE, PROBE, BASELINE = "surface", "probe", "best baseline"
REFITTED, BOTH = "surface, refitted within", "surface and probe, refitted within"
_BLOCK_COLUMNS = ("block", "predictor", "r", "r2", "r_low", "r_high", "r2_low", "r2_high", "blocks", "rows")


# Names and texts --------------------------------------------------------------------------------------
def digit_only(texts: Sequence[str]) -> Bool[np.ndarray, " row"]:
    """Names with a digit and without a letter of any script."""
    return np.array([any(c.isdigit() for c in t) and not any(c.isalpha() for c in t) for t in texts], bool)


def bare_text(text: str) -> str:
    """Lower case without accents, punctuation and doubled spaces: what makes near-duplicates equal.

    A text that has nothing but such marks stays as it is.
    """
    letters = unicodedata.normalize("NFKD", text.casefold())
    plain_letters = "".join(c if c.isalnum() else " " for c in letters if not unicodedata.combining(c))
    return " ".join(plain_letters.split()) or text


def digit_lines(inputs: ControlInputs) -> list[Line]:
    """Names with letters and digit-only names apart, each with stacks refitted on its own training rows.

    The probe and the baselines are those fitted on all training rows: what is fitted anew is how they are
    stacked.
    """
    questions = (
        Question("subset", "names with letters", LETTERS_ASKS),
        Question("subset", "digit-only names", DIGITS_ASKS),
    )
    if inputs.texts is None:
        return [question.not_applicable("there are no texts") for question in questions]
    digits, problem = digit_only(inputs.texts), inputs.swept.problem
    train, test = digits[problem.train], digits[problem.test]
    if not train.any() and not test.any():
        return [question.not_applicable("no name is digits alone") for question in questions]
    share = f"{digits.mean():.0%} of all rows are digit-only names"
    lines: list[Line] = []
    for question, of_train, of_test in zip(questions, (~train, train), (~test, test), strict=True):
        few = min(int(of_train.sum()), int(of_test.sum()))
        if few < MINIMUM:
            why = f"{few} rows in one part of the split, {MINIMUM} are needed"
            lines.append(question.not_applicable(why))
        else:
            name, asks = question.control, question.asks
            lines.append(inputs.gain_line("subset", name, asks, of_train, of_test, share))
    return lines


def repeated_lines(inputs: ControlInputs) -> list[Line]:
    """Test rows whose text, title or near-duplicate is in training rows too: set aside, and alone."""
    table, problem = inputs.swept.table, inputs.swept.problem
    kinds: dict[str, pd.Series] = {}
    if inputs.texts is not None:
        kinds["text"] = pd.Series(inputs.texts)
        kinds["text but for case, accents and punctuation"] = kinds["text"].map(bare_text)
    for column in table.frame:
        if str(column).lower() == "title":
            titles = table.frame[column].iloc[problem.source].reset_index(drop=True)
            kinds["title"] = titles.map(lambda t: bare_text(str(t)), na_action="ignore")
    if not kinds:
        asks = "the score on texts that training rows do not have"
        return [Question("subset", "repeated texts set aside", asks).not_applicable("there are no texts")]
    lines: list[Line] = []
    last: Bool[np.ndarray, " test"] | None = None
    everything = np.ones(len(problem.train), bool)
    for kind, values in kinds.items():
        train = values.iloc[problem.train].dropna()
        recur = values.iloc[problem.test].isin(train).to_numpy()
        if last is not None and np.array_equal(last, recur):
            continue  # the looser key finds the very same rows
        last = recur
        aside, asks = f"repeated {kind} set aside", f"the score on test rows whose {kind} no training row has"
        question = Question("subset", aside, asks)
        count = f"{int(recur.sum()):,} of {len(recur):,} test rows recur in training rows"
        if not recur.any():
            lines.append(question.not_applicable("no test row's recurs"))
            continue
        if (~recur).sum() >= MINIMUM:
            lines.append(inputs.gain_line("subset", aside, asks, everything, ~recur, count))
        else:
            lines.append(question.not_applicable(count))
        if recur.sum() >= MINIMUM:
            alone, asks = f"repeated {kind} alone", f"the score on test rows whose {kind} training rows have"
            lines.append(inputs.gain_line("subset", alone, asks, everything, recur, count))
    return lines


# Scores inside blocks ---------------------------------------------------------------------------------
@dataclass(frozen=True)
class Within:
    """Scores inside blocks, pooled over blocks."""

    r: Mapping[str, Sampled]
    """Predictor → correlation of what is left after every block's mean is taken out of both sides."""
    r2: Mapping[str, Sampled]
    """Predictor → 1 − Σ(residual error)² / Σ(residual truth)², likewise."""


def within_scores(
    y: Float[np.ndarray, "row target"],
    predictions: Mapping[str, Float[np.ndarray, "row target"]],
    codes: Int[np.ndarray, " row"],
    clusters: Int[np.ndarray, " row"],
    n_bootstrap: int,
    seed: int,
) -> Within:
    """Pooled scores of every predictor inside the blocks 0, 1, … that `codes` names, mean over targets.

    Blocks' means are those of the scored rows (of the resample, where it is one), weights being the number
    of rows. Targets that do not vary inside any block are left out of the mean.
    """
    _, cluster = np.unique(clusters, return_inverse=True)
    size, blocks = int(cluster.max()) + 1, int(codes.max()) + 1
    # about their own means, so that no digits cancel
    centred = {
        name: np.stack([column - column.mean() for column in p.T], axis=1)
        for name, p in {"": y, **predictions}.items()
    }
    cells = _Cells(cluster, codes, size, blocks)
    point = _scores(centred, cells, np.ones((1, size)))
    if size > 1:
        parts = [_scores(centred, cells, weights) for weights in resamples(size, n_bootstrap, seed)]
        samples = np.concatenate(parts, axis=2)
    else:
        samples = np.full((2, len(predictions), n_bootstrap), np.nan)
    r, r2 = (
        {name: Sampled(float(point[m, i, 0]), samples[m, i]) for i, name in enumerate(predictions)}
        for m in range(2)
    )
    return Within(r, r2)


class _Cells:
    """Sums by (cluster, block), and their sums by block under any weights of the clusters."""

    def __init__(self, cluster: np.ndarray, codes: np.ndarray, size: int, blocks: int) -> None:
        self._place, self._shape = (cluster, codes), (size, blocks)

    def sums(self, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """[draw, block]."""
        load("scipy.sparse")
        from scipy.sparse import csr_array

        table = csr_array((values, self._place), shape=self._shape)
        return np.asarray(weights @ table)


def _scores(
    centred: Mapping[str, np.ndarray], cells: _Cells, weights: np.ndarray
) -> Float[np.ndarray, "metric predictor draw"]:
    """r and R² of every predictor, mean over the targets that vary; the truth goes by no name."""
    truth = centred[""]
    predictions = [p for name, p in centred.items() if name]
    out = np.full((truth.shape[1], 2, len(predictions), len(weights)), np.nan)
    count = np.maximum(cells.sums(np.ones(len(truth)), weights), 1e-300)
    for t, y in enumerate(truth.T):
        sum_y = cells.sums(y, weights)
        total_y = (cells.sums(y * y, weights) - sum_y**2 / count).sum(axis=1)
        defined = total_y > 1e-12 * max(float((y * y).sum()), 1e-300)
        for i, p in enumerate(prediction[:, t] for prediction in predictions):
            sum_p = cells.sums(p, weights)
            total_p = (cells.sums(p * p, weights) - sum_p**2 / count).sum(axis=1)
            both = (cells.sums(y * p, weights) - sum_y * sum_p / count).sum(axis=1)
            error = total_y - 2 * both + total_p
            out[t, 1, i] = np.where(defined, 1 - error / np.where(defined, total_y, 1.0), np.nan)
            varied = defined & (total_p > 1e-12 * max(float((p * p).sum()), 1e-300))
            scale = np.sqrt(np.where(varied, total_y, 1.0)) * np.sqrt(np.where(varied, total_p, 1.0))
            out[t, 0, i] = np.where(varied, both / scale, np.nan)
    varying = ~np.isnan(out)
    number = varying.sum(axis=0)
    return np.where(number > 0, np.where(varying, out, 0.0).sum(axis=0) / np.maximum(number, 1), np.nan)


def scored_blocks(labels: pd.Series, minimum: int = MINIMUM) -> Int[np.ndarray, " row"]:
    """A code per row for its block; −1 where the block is missing or has fewer than `minimum` rows."""
    codes = pd.factorize(labels)[0]
    counts = np.bincount(codes[codes >= 0], minlength=codes.max(initial=-1) + 1)
    scored = (codes >= 0) & (np.concatenate([counts, [0]])[codes] >= minimum)
    out = np.full(len(codes), -1, np.int64)
    out[scored] = pd.factorize(codes[scored])[0]
    return out


# Lines about blocks -----------------------------------------------------------------------------------
def block_lines(inputs: ControlInputs) -> tuple[list[Line], pd.DataFrame]:
    """Within-block scores and the block oracle for every block column of the table.

    The second value has one row per block column and predictor: `block`, `predictor`, `r`, `r_low`,
    `r_high`, `r2`, `r2_low`, `r2_high`, `blocks`, `rows`.
    """
    table, problem = inputs.swept.table, inputs.swept.problem
    lines: list[Line] = []
    frames: list[dict[str, object]] = []
    for block, labels in table.blocks.items():
        of_rows = labels.iloc[problem.source].reset_index(drop=True)
        lines += _within_lines(inputs, block, of_rows, frames)
        lines.append(_oracle_line(inputs, block, of_rows))
    if not table.blocks:
        why = "the table has no block columns: give blocks= when making it"
        lines = [
            Question("within blocks", "within blocks", _within_asks("block")).not_applicable(why),
            Question("oracle", "block oracle", _oracle_asks("block")).not_applicable(why),
        ]
    if frames:
        return lines, pd.DataFrame(frames)
    kinds = {column: object if column in _BLOCK_COLUMNS[:2] else np.float64 for column in _BLOCK_COLUMNS}
    return lines, pd.DataFrame({column: pd.Series(dtype=kind) for column, kind in kinds.items()})


def _within_lines(
    inputs: ControlInputs, block: str, labels: pd.Series, frames: list[dict[str, object]]
) -> list[Line]:
    name, problem = f"within {block}", inputs.swept.problem

    def question(what: str = "", asks: str = _within_asks(block)) -> Question:
        return Question("within blocks", name + what, asks)

    codes = scored_blocks(labels.iloc[problem.test])
    rows = np.flatnonzero(codes >= 0)
    if not len(rows):
        return [question().not_applicable(f"no {block} has {MINIMUM} test rows")]
    of_train = scored_blocks(labels.iloc[problem.train], 2)
    if not (of_train >= 0).any():
        return [question().not_applicable(f"no {block} has two training rows")]
    predictions = {k: p[rows] for k, p in _predictors(inputs, of_train).items()}
    clusters = inputs.clusters_test[rows]
    scores = within_scores(
        inputs.y_test[rows], predictions, codes[rows], clusters, inputs.n_bootstrap, inputs.seed
    )
    if np.isnan(scores.r2[PROBE].value):
        return [question().not_applicable(f"the target is constant in every {block}")]
    n, blocks = len(rows), int(codes.max()) + 1
    for key, r in scores.r.items():
        r2 = scores.r2[key]
        ends = dict(zip(("r_low", "r_high", "r2_low", "r2_high"), (*r.ci95, *r2.ci95), strict=True))
        counts = {"blocks": blocks, "rows": n}
        frames.append({"block": block, "predictor": key, "r": r.value, "r2": r2.value, **ends, **counts})
    note = f"{blocks:,} blocks of {MINIMUM} test rows or more, pooled"
    beside = {SURFACE: "the surface", BASELINE: inputs.findings.verdict.strongest_baseline}
    lines = [
        question(f", {what}").line(scores.r[key], scores.r[PROBE], n, metric="r", note=note)
        for key, what in beside.items()
        if what is not None
    ]
    gain = question(", gain", f"does the probe add to the surface once the {block} is known")
    refitted, both = scores.r2[REFITTED], scores.r2[BOTH]
    gain_note = f"stacks refitted on what is left within; {note}"
    return [*lines, gain.line(refitted, both, n, metric="gain", note=gain_note)]


def _predictors(
    inputs: ControlInputs, codes: Int[np.ndarray, " train"]
) -> dict[str, Float[np.ndarray, "test target"]]:
    """Test predictions of probe, surface and strongest baseline, and of stacks refitted within blocks.

    A stack fitted across blocks has the spread of whole blocks, many times that inside one: its R² inside
    would say only that. So two more are fitted on training rows with every block's means taken out.
    """
    baselines, best = inputs.swept.baseline_predictions, inputs.findings.verdict.strongest_baseline
    rows = np.flatnonzero(codes >= 0)
    left = {n: _residual(p.out_of_fold[rows], codes[rows]) for n, p in baselines.items()}
    tests = {n: p.test for n, p in baselines.items()}
    y, count = _residual(inputs.y_train[rows], codes[rows]), len(inputs.y_test)
    refitted = stack(left, y).predict(tests, count)
    left[PROBE] = _residual(inputs.probe.out_of_fold[rows], codes[rows])
    both = stack(left, y).predict({**tests, PROBE: inputs.probe.test}, count)
    out = {PROBE: inputs.probe.test, SURFACE: inputs.surface.test, REFITTED: refitted, BOTH: both}
    return out if best is None else {**out, BASELINE: baselines[best].test}


def _residual(
    values: Float[np.ndarray, "row target"], codes: Int[np.ndarray, " row"]
) -> Float[np.ndarray, "row target"]:
    """Values about the mean of their block."""
    counts = np.bincount(codes)
    means = np.stack([np.bincount(codes, weights=column) / counts for column in values.T], axis=1)
    return values - means[codes]


def _oracle_line(inputs: ControlInputs, block: str, labels: pd.Series) -> Line:
    problem, question = inputs.swept.problem, Question("oracle", f"oracle: {block}", _oracle_asks(block))
    train = labels.iloc[problem.train].dropna()
    if train.empty:
        return question.not_applicable(f"no training row has a {block}")
    predicted = block_oracle_predictions(problem.y, labels, problem.is_test)
    pairs = {"oracle": (inputs.y_test, predicted), "probe": (inputs.y_test, inputs.probe.test)}
    scores = inputs.scores(pairs)
    in_training = labels.iloc[problem.test].isin(train.unique())
    note = (
        f"{train.nunique():,} training means; {int(in_training.sum()):,} of {len(in_training):,} test rows "
        "have one"
    )
    return question.line(scores["oracle"], scores["probe"], len(in_training), note=note)


def _within_asks(block: str) -> str:
    return f"how rows of one {block} are ordered, the mean of every {block} taken out"


def _oracle_asks(block: str) -> str:
    return f"what a predictor reaches that knows the {block} and nothing else"
