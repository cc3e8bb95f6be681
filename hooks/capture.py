"""Capture: a model and texts in, activations out, in memory or streamed to a store."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, overload

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from graticule.hooks.activations import Activations
from graticule.hooks.alignment import DIGEST, named_by_text, text_digests
from graticule.hooks.artifact import ArtifactError, frame_digest, is_as_sealed, library_versions, read_json
from graticule.hooks.calls import renamed
from graticule.hooks.capture_spec import CaptureSpec, Pos, check_pos, pos_to_data, select_positions
from graticule.hooks.chats import written
from graticule.hooks.doors import FRAME, INPUTS, MODEL, door, several_inputs, several_texts, texts_of
from graticule.hooks.identity import check_unhooked, model_identity
from graticule.hooks.kinds import working_folder
from graticule.hooks.messages import visible
from graticule.hooks.names import place_of
from graticule.hooks.places import Place
from graticule.hooks.points import LayerSpec, PointSpec, resolve
from graticule.hooks.processor import described, tell_if_slow
from graticule.hooks.protocols import HookedModel, device_of, dtype_of
from graticule.hooks.running.forward import check_compilable, compiled_blocks
from graticule.hooks.running.runner import ROW_COLUMNS, TOKEN_BUDGET, Job, Runner, row_table, shards
from graticule.hooks.running.session import packed, undisturbed
from graticule.hooks.same_model import answer_of
from graticule.hooks.store import Store, check_going_on, of_texts, shards_say_texts
from graticule.hooks.store_files import STORE, read_manifest
from graticule.hooks.store_writer import StoreWriter, is_finished, with_widths
from graticule.hooks.token_digests import RewrittenTexts, check_strings, check_tokens
from graticule.hooks.tokens import Inputs, TokenRows, tokenize
from graticule.hooks.values import NonFiniteError, dtype_name, dtype_named

__all__ = ["NonFiniteError", "capture"]


@overload
def capture(
    model: HookedModel,
    inputs: Inputs | pd.Series,
    *,
    points: PointSpec = ...,
    layers: LayerSpec = ...,
    pos: Pos = ...,
    prompt: str = ...,
    dtype: torch.dtype | str | None = ...,
    token_budget: int | None = ...,
    store: None = ...,
    rows: pd.DataFrame | None = ...,
    texts: Sequence[str] | None = ...,
    prepend_bos: bool | None = ...,
    include_bos: bool | None = ...,
    compile: bool = ...,
    share_prefix: bool = ...,
    progress: bool | None = ...,
) -> Activations: ...


@overload
def capture(
    model: HookedModel,
    inputs: Inputs | pd.Series,
    *,
    points: PointSpec = ...,
    layers: LayerSpec = ...,
    pos: Pos = ...,
    prompt: str = ...,
    dtype: torch.dtype | str | None = ...,
    token_budget: int | None = ...,
    store: Path | str,
    rows: pd.DataFrame | None = ...,
    texts: Sequence[str] | None = ...,
    prepend_bos: bool | None = ...,
    include_bos: bool | None = ...,
    compile: bool = ...,
    share_prefix: bool = ...,
    progress: bool | None = ...,
) -> Store: ...


@renamed("points", "layers", "pos", "prompt", "dtype", "token_budget", "store")
@door(model=MODEL, inputs=INPUTS, rows=FRAME)
def capture(
    model: HookedModel,
    inputs: Inputs | pd.Series,
    *,
    points: PointSpec = "resid_post",
    layers: LayerSpec = "all",
    pos: Pos = "last",
    prompt: str = "",
    dtype: torch.dtype | str | None = None,
    token_budget: int | None = None,
    store: Place | str | None = None,
    rows: pd.DataFrame | None = None,
    texts: Sequence[str] | None = None,
    prepend_bos: bool | None = None,
    include_bos: bool | None = None,
    compile: bool = False,
    share_prefix: bool = True,
    progress: bool | None = None,
) -> Activations | Store:
    """Run `model` on `inputs` and keep its activations at some hook points and token positions.

    The model's own forward runs, no further than the last wanted point and without logits. Texts are put in
    length buckets, identical token rows run once, and the keys and values of a prefix that all rows share
    (BOS, a prompt) are computed once. Rows come back in input order; batching moves them by float rounding
    at most.

    Args:
        model: a hooked model.
        inputs: texts, ragged lists of token ids, a `[text, pos]` tensor of ids, or conversations, lists of
            `{"role": …, "content": …}`, which the tokenizer's own chat template writes. Token rows are read
            without the padding around them, as `record` reads them: pad tokens at either end are no tokens
            of a text, unless `texts` has them. Where the pad token is BOS or EOS too, `texts` tells it, and
            rows that end in it again and again are refused without.
        points: hook points, as in `graticule.hooks.points.resolve`.
        layers: see `points`.
        pos: which tokens become rows (`graticule.hooks.capture_spec.Pos`).
        prompt: text before every input, or a template with one slot `{}`; a trailing space counts.
        dtype: of the activations kept; by default, and for `"auto"`, the model's own, in which it computes. A
            model in bfloat16 is slow on a CPU without AMX: that is warned of, and the provenance names the
            processor.
        token_budget: padded tokens a batch, 1,024 by default.
        store: a folder or url to stream to, in shards, with bounded memory; a killed run called again goes on
            after its last whole shard, a finished one is opened without running the model (its files are
            verified where their sizes or times have changed, and as they are used; damaged shards are
            captured anew). One whose rows say other texts than are given now is refused; one that says none
            is taken to be of these.
        rows: one line an input, whose columns are added to the row table (`source`, `position`, `token` and
            the others that are its own are refused).
        texts: what the inputs are of, where they are not a table's texts themselves (token rows, texts
            written otherwise), in the inputs' order: a table's rows are compared with them, and an input that
            is another of them is refused. By default the inputs, if they are texts.
        prepend_bos: None follows the model's `default_prepend_bos`, and a tokenizer that puts more than BOS
            around a text (an encoder's `[CLS] … [SEP]`); False leaves special tokens out. A text that begins
            with BOS gets no second one.
        include_bos: whether special tokens (BOS, `[CLS]`, `[SEP]`) may become rows. By default they do, as
            one of `"all"` or as the `"last"` token, but for `Sample`; `causes`, `steer` and `ablate` leave
            them out by default.
        compile: run blocks through `torch.compile` (slow to start, faster on long jobs; block borders only).
        share_prefix: compute a common token prefix once.
        progress: a progress bar; by default for more than 2,000 inputs.

    Returns:
        `Activations`, or the `Store` where `store` is given.

    Raises:
        PointError: for unknown points.
        ValueError: for inputs, prompts or positions that do not fit.
        NonFiniteError: for NaN or infinite activations.
        ArtifactError: for a store of another capture.
    """
    check_pos(pos)
    if store is not None:
        store = place_of(store)
        check_unhooked(model, str(store))
    names = resolve(model, points, layers)
    if compile:
        check_compilable(names)
    given = several_inputs("capture", inputs)
    if (chats := written(model, given)) is not given:
        inputs = given = chats
    stored_as = dtype_named(dtype, auto=True) or dtype_of(model)
    token_rows = tokenize(model, given, prompt, prepend_bos, None if texts is None else texts_of(texts))
    of = _texts(inputs, texts, token_rows, prompt, getattr(model, "tokenizer", None))
    columns = _columns(inputs, len(token_rows.ids), rows, of)
    positions = select_positions(pos, token_rows, include_bos)
    job = Job(token_rows, positions, pos == "entity_mean", names, stored_as)
    if job.counts.sum() == 0:
        raise ValueError(f"pos={pos!r} selects no token of any text")
    spec = CaptureSpec(
        model=model_identity(model),
        inputs=token_rows.digest(),
        n_inputs=len(token_rows.ids),
        prompt=prompt,
        positions=pos_to_data(pos),
        points=names,
        dtype=dtype_name(stored_as),
        framed=token_rows.framed,
        prepend_bos=prepend_bos,
        include_bos=include_bos,
    )
    request: dict[str, Any] = {
        **spec.request(),
        "compile": compile,
        "token_budget": token_budget or TOKEN_BUDGET,
        "share_prefix": share_prefix,
    }
    if rows is not None:
        request["row_columns"] = list(map(str, rows.columns))
        request["rows"] = frame_digest(rows)
    if store is not None and is_finished(store, request, names, dtype_name(stored_as)):
        return of_texts(Store(store), shards_say_texts(store, read_manifest(store), of), of)
    tell_if_slow(dtype_of(model), device_of(model), "capture: this model")
    started = time.time()
    bar = tqdm(
        total=len(token_rows.ids),
        desc=visible(f"capture {request['model']['name']}, {len(names)} point{'s' * (len(names) > 1)}"),
        unit="text",
        disable=not (progress if progress is not None else len(token_rows.ids) > 2000),
    )
    with ExitStack() as stack:
        if store is not None:
            stack.enter_context(working_folder(store, STORE, "capturing into"))
            if (verified := _verified(model, store, spec, request, started)) is not None:
                return of_texts(verified, shards_say_texts(store, read_manifest(store), of), of)
        made = {**request, "answer": answer_of(model)}
        stack.enter_context(bar)
        stack.enter_context(undisturbed(model))
        stack.enter_context(packed(model))
        if compile:
            stack.enter_context(compiled_blocks(model))
        runner = Runner(model, job, token_budget or TOKEN_BUDGET, share_prefix, compile, bar)
        if store is None:
            everything = np.arange(len(token_rows.ids))
            tensors = runner.shard(everything)
            table = row_table(job, everything, columns)
            return Activations(tensors, table, {**made, **_when(started, model)})
        writer = StoreWriter(store, request, runner.widths, dtype_name(stored_as))
        say = shards_say_texts(store, writer.manifest, of, writer.damaged)
        check_going_on(store, say, of)
        if say == {False}:  # the rows that are added say no texts either
            columns = _columns(inputs, len(token_rows.ids), rows, None)
        parts = shards(job.counts, sum(runner.widths.values()) * stored_as.itemsize)
        lacking = writer.lacking([int(job.counts[part].sum()) for part in parts])
        bar.update(sum(len(part) for i, part in enumerate(parts) if i not in set(lacking)))
        for part in (parts[i] for i in lacking):
            writer.append(runner.shard(part), row_table(job, part, columns))
        return of_texts(Store(writer.finish({**made, **_when(started, model)})), say, of)


def _texts(
    inputs: Inputs | pd.Series, texts: Any, token_rows: TokenRows, prompt: str, tokenizer: Any
) -> list[str] | None:
    """The text that each input is of, or None where nothing says it.

    Raises:
        ValueError: For more or fewer texts than inputs.
        AlignmentError: For texts in another order.
    """
    strings = texts_of(inputs)
    if texts is None:
        return strings
    several, n_inputs = several_texts("texts", texts), len(token_rows.ids)
    if len(several) != n_inputs:
        raise ValueError(f"texts= has {len(several)} entries for {n_inputs} inputs; one for each")
    of = texts_of(several)
    if of is not None and of != strings and not isinstance(several, RewrittenTexts):
        if strings is not None:
            check_strings(strings, of)
        check_tokens(tokenizer, token_rows.own_digests, of, prompt)
    return of


def _columns(
    inputs: Inputs | pd.Series, n_inputs: int, rows: pd.DataFrame | None, of: list[str] | None
) -> pd.DataFrame | None:
    """The caller's columns and the digest of each input's text, one line an input."""
    if rows is not None and len(rows) != n_inputs:
        raise ValueError(f"rows= has {len(rows)} lines for {n_inputs} inputs; they must agree")
    if rows is not None and isinstance(inputs, pd.Series) and not inputs.index.equals(rows.index):
        raise ValueError("inputs and rows= have different indices; give both in one order, inputs.tolist()")
    rows = None if rows is None else named_by_text(rows)
    taken = [] if rows is None else [c for c in rows.columns if c in (*ROW_COLUMNS, DIGEST)]
    if taken:
        raise ValueError(
            f"rows= has a column {taken[0]!r}, which capture writes itself: rename it, "
            f"rows.rename(columns={{{taken[0]!r}: {'own_' + taken[0]!r}}})"
        )
    if of is None:
        return rows
    digests = pd.DataFrame({DIGEST: text_digests(of)})
    return digests if rows is None else rows.reset_index(drop=True).assign(**{DIGEST: digests[DIGEST]})


def _when(started: float, model: HookedModel) -> dict[str, Any]:
    stamp = datetime.datetime.fromtimestamp(started, datetime.UTC).isoformat(timespec="seconds")
    return {
        "captured_at": stamp,
        "seconds": round(time.time() - started, 1),
        "processor": described(device_of(model)),
        "versions": library_versions(),
    }


def _verified(
    model: HookedModel, store: Place, spec: CaptureSpec, request: dict[str, Any], started: float
) -> Store | None:
    """A complete store whose files have been touched since they were verified, if all of them are whole."""
    if not (store / "manifest.json").is_file() or not read_manifest(store)["complete"]:
        return None
    widths = {p["name"]: p["width"] for p in with_widths(store, spec.points)}
    writer = StoreWriter(store, request, widths, str(spec.dtype))
    if writer.damaged:
        return None
    try:  # a capture by an earlier version tells none
        provenance = read_json(store / "provenance.json")
    except ArtifactError:
        provenance = {"answer": answer_of(model)}
    answer = provenance.get("answer") or {} if is_as_sealed(provenance) else answer_of(model)
    return Store(writer.finish({**request, "answer": answer, **_when(started, model)}))
