"""Texts of findings run again as their activations were captured, which is compared before it is done.

What made the activations may not say all of it: token rows have the special tokens that they were given, and
recorded or ready activations may be of texts that were set into a prompt before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from graticule.hooks.alignment import TOKEN_DIGEST, whole_column
from graticule.hooks.capture_spec import CaptureSpec, Pos, pos_to_data
from graticule.hooks.protocols import HookedModel, dtype_of
from graticule.hooks.running.runner import run_in_parts
from graticule.hooks.tokens import TokenRows, tokenize
from graticule.probes.core.findings import Findings
from graticule.probes.core.own_folder import take_inputs_beside

_TOKEN_ROWS = 64
"""Activation rows whose tokens are compared."""
_READ_TEXTS = 8
"""Texts that are read again where the activations do not say their tokens."""
_TOLERANCE = {True: 0.5, False: 0.02}
"""By how much they may be read otherwise, root mean square in standard deviations of the readings: whether in
half precision, which another batch rounds otherwise. Another prompt, or no BOS, moves them by about 1."""
_REMEDY = (
    "the activations are of other tokens or another model (a prompt written into the texts?): capture "
    "them from the table's texts, capture(model, table.texts, prompt=…, prepend_bos=…)"
)


def spec_of(findings: Findings | None) -> CaptureSpec:
    """How the findings' activations say that they were captured."""
    if findings is None:
        return CaptureSpec()
    saved = findings.provenance.get("activations") or {}
    return CaptureSpec.from_json(saved if findings.swept is None else findings.swept.activations.provenance)


def replay_spec(
    findings: Findings | None, model: HookedModel, prompt: str | None = None, pos: Pos | None = None
) -> CaptureSpec:
    """How the findings' texts are run again, after some were compared with the activations.

    Args:
        findings: A sweep's, or None: nothing is compared, as without texts.
        model: That they are of.
        prompt: Instead of their own.
        pos: Instead of their own.

    Returns:
        What the activations say of their capture, with special tokens as they have them.

    Raises:
        ValueError: The activations are of other tokens than the table's texts give here.
    """
    if findings is not None:
        take_inputs_beside(findings)
    saved = spec_of(findings)
    asked = replace(
        saved,
        prompt=saved.prompt if prompt is None else prompt,
        positions=saved.positions if pos is None else pos_to_data(pos),
    )
    if findings is None or findings.swept is None or findings.swept.table.texts is None:
        return asked
    reason: str | None = None
    for spec in _candidates(saved, asked):
        difference = _difference(findings, model, spec)
        if difference is None:
            return replace(asked, prepend_bos=spec.prepend_bos)
        reason = difference if reason is None else reason
    raise ValueError(reason)


def _candidates(saved: CaptureSpec, asked: CaptureSpec) -> Iterator[CaptureSpec]:
    """What is said first; then other special tokens: of those of token rows nothing is said."""
    for spec in (saved,) if saved == asked else (saved, asked):
        yield spec
        for prepend_bos in (False, True):
            if prepend_bos != spec.prepend_bos:
                yield replace(spec, prepend_bos=prepend_bos)


def _difference(findings: Findings, model: HookedModel, spec: CaptureSpec) -> str | None:
    """What tells some activations from those that this capture would give; None where nothing does."""
    frame, inputs = findings.inputs.activations.rows, findings.inputs
    if {"position", "token"} <= set(frame):
        every = len(frame)
        rows = np.unique(np.linspace(0, every - 1, min(every, _TOKEN_ROWS)).astype(np.int64))
        try:
            tokens = row_tokens(findings, model, spec, rows)
        except ValueError as error:  # no BOS to put in front, too long in a prompt
            return str(error)
        return other_token(tokens, frame.iloc[rows], inputs.problem.source[rows], spec.framed)
    if findings.chosen_point not in model.hook_dict:
        return None
    return _other_reading(findings, model, spec)


def row_tokens(
    findings: Findings, model: HookedModel, spec: CaptureSpec, rows: Int[np.ndarray, " row"]
) -> TokenRows:
    """The tokens of the texts of some activation rows."""
    texts = findings.inputs.table.texts
    assert texts is not None
    some = [texts[i] for i in findings.inputs.problem.source[rows]]
    return tokenize(model, some, spec.prompt or "", spec.prepend_bos)


def other_token(
    tokens: TokenRows, frame: pd.DataFrame, source: Int[np.ndarray, " row"], framed: bool | None = None
) -> str | None:
    """The first row whose text has other tokens than its activations are of, in words; None without one.

    Args:
        tokens: Of each row's text.
        frame: The rows, with `position`, `token` and, where it is known, a digest of all tokens.
        source: The table row of each.
        framed: Whether special tokens stood around every text, where that is known.
    """
    wrong = framed is not None and framed != tokens.framed
    other = np.full(len(frame), wrong)
    positions, expected = (frame[column].to_numpy(np.int64) for column in ("position", "token"))
    for i, (ids, at, token) in enumerate(zip(tokens.ids, positions, expected, strict=True)):
        other[i] |= at >= len(ids) or ids[at] != token
    if (digests := whole_column(frame, TOKEN_DIGEST)) is not None:
        other |= digests != tokens.own_digests
    if not other.any():
        return None
    return (
        f"text {source[int(other.argmax())]} has other tokens in this model than in the one the activations "
        f"are from, or than they were captured with: {_REMEDY}"
    )


def _other_reading(findings: Findings, model: HookedModel, spec: CaptureSpec) -> str | None:
    """Some test rows, read again at the chosen point: what differs, in words."""
    inputs, names = findings.inputs, findings.target_names
    problem, frame, texts = inputs.problem, inputs.activations.rows, inputs.table.texts or []
    some = np.unique(problem.source[problem.test])
    some = some[np.unique(np.linspace(0, len(some) - 1, min(len(some), _READ_TEXTS)).astype(np.int64))]
    point, parts = findings.chosen_point, list[tuple[Tensor, pd.DataFrame]]()

    def take(values: dict[str, Tensor], table: pd.DataFrame) -> None:
        parts.append((values[point], table))

    try:
        with tqdm(disable=True) as hidden:
            run_in_parts(model, [texts[i] for i in some], [point], take, len(some), hidden, spec)
    except (ValueError, IndexError) as error:
        return str(error)
    table = pd.concat([part for _, part in parts], ignore_index=True)
    saved = findings.predictions[[f"pred_{name}" for name in names]].to_numpy(np.float64)
    spread = np.maximum(saved[problem.test].std(axis=0), 1e-9 * np.maximum(problem.y.std(axis=0), 1e-12))
    now = _read(findings, torch.cat([values for values, _ in parts]))
    dtypes = {dtype_of(model), inputs.activations[point].dtype}
    allowed = _TOLERANCE[bool(dtypes & {torch.float16, torch.bfloat16})]
    gaps: list[np.ndarray] = []
    for place, text in enumerate(some):
        ours, theirs = np.flatnonzero(problem.source == text), np.flatnonzero(table["source"] == place)
        if "position" in frame:
            at = pd.Index(table["position"].iloc[theirs]).get_indexer(pd.Index(frame["position"].iloc[ours]))
            theirs = theirs[at] if (at >= 0).all() else theirs[:0]
        if len(ours) != len(theirs) or now is None:
            return f"text {text}, run again, gives other rows than its activations are: {_REMEDY}"
        gaps.append((now[theirs] - saved[ours]) / spread)
    off = np.sqrt(np.square(np.concatenate(gaps)).mean(axis=0))
    if (off <= allowed).all():
        return None
    worst = int(off.argmax())
    return (
        f"{names[worst]} is read otherwise of {len(some)} texts run again than of the activations, by "
        f"{off[worst]:.2g} standard deviations of the readings: {_REMEDY}"
    )


def _read(findings: Findings, values: Tensor) -> Float[np.ndarray, "row target"] | None:
    """What the chosen probe reads; None of activations of another width."""
    probe = findings.probe
    return probe.predict(values) if values.shape[1] == probe.coef.shape[0] else None
