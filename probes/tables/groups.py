"""Rows that belong together: clusters, folds and splits that never take one apart, means of blocks."""

from __future__ import annotations

import heapq
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from graticule.hooks.alignment import by_place
from graticule.hooks.imports import load
from graticule.probes.tables.columns import Kind


def link_clusters(labels: Sequence[pd.Series | None], n_rows: int) -> Int[np.ndarray, " row"]:
    """Union-find of rows that share a value in any of `labels`, as dense codes in row order.

    A missing value links its row to no other.
    """
    load("scipy.sparse", "scipy.sparse.csgraph")
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows, hubs, size = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], n_rows
    for values in labels:
        if values is None:
            continue
        codes = pd.factorize(values)[0]
        linked = np.flatnonzero(codes >= 0)
        rows.append(linked)
        hubs.append(codes[linked] + size)
        size += int(codes.max(initial=-1)) + 1
    ends = (np.concatenate(rows), np.concatenate(hubs))
    graph = coo_array((np.ones(len(ends[0]), np.int8), ends), shape=(size, size))
    components = connected_components(graph, directed=False)[1][:n_rows]
    return dense_codes(components)


def row_clusters(
    texts: Sequence[str] | None, labels: pd.Series | None, n_rows: int
) -> tuple[Int[np.ndarray, " row"], list[str] | None, str]:
    """Clusters of rows that share a label or a text (white space at the ends aside), linked transitively.

    Returns:
        The clusters; where there are texts and no labels, the plain forms by which texts are linked instead;
        and a note where these link more than the texts themselves would.
    """
    stripped = None if texts is None else pd.Series([t.strip() for t in texts], dtype=object)
    clusters = link_clusters([labels, stripped], n_rows)
    if texts is None or labels is not None:
        return clusters, None, ""
    forms = [plain_form(t) for t in texts]
    linked = link_clusters([pd.Series(forms, dtype=object)], n_rows)
    more = linked.max() < clusters.max()
    note = ", texts alike but for case, blanks, punctuation or Unicode form together" if more else ""
    return linked, forms, note


def plain_form(text: str) -> str:
    """What texts share that differ in Unicode form, capitals, blanks or punctuation alone (NFKC, folded).

    What says something of its own stays: signs and operators (`_CONTENT`), a minus before a number, a mark
    between two digits, the case of a text's only letter. Other hyphens count as blanks; a text of marks alone
    is its own form.
    """
    form = unicodedata.normalize("NFKC", text)
    if sum(map(str.isalpha, form)) != 1:  # C is not c
        form = unicodedata.normalize("NFKC", form.casefold())
    words = form.split()
    if not all(word.isalnum() for word in words):
        seen = "".join(c for c in form if unicodedata.category(c) != "Cf")
        padded = f" {seen}  "
        words = "".join(_plain_character(*padded[i : i + 4]) for i in range(len(seen))).split()
    return " ".join(words) or form.strip()


_CONTENT, _MINUS = "#%‰@&*/\\", "\N{MINUS SIGN}"


def _plain_character(before: str, character: str, after: str, next_after: str) -> str:
    """What the plain form has for a character between others."""
    kind = unicodedata.category(character)
    prefixed = after == "." or unicodedata.category(after) == "Sc"  # .5 and $5
    in_number = after.isdigit() or (prefixed and next_after.isdigit())
    if (kind == "Pd" or character == _MINUS) and in_number and not before.isalnum():
        return "-"
    if kind in ("Pd", "Pc"):
        return " "
    if kind[0] != "P" or character in _CONTENT or (before.isdigit() and after.isdigit()):
        return character
    point = character == "." and after.isdigit() and not before.isalnum() and before != "."
    return character if point or character + after == "!=" else ""


def across(
    forms: Sequence[str], texts: Sequence[str], is_test: Bool[np.ndarray, " row"]
) -> list[tuple[str, str]]:
    """Pairs of a training and a test text of one plain form that are not the same text; one pair a form."""
    train = {form: text for form, text, test in zip(forms, texts, is_test, strict=True) if not test}
    pairs = {
        form: (train[form], text)
        for form, text, test in zip(forms, texts, is_test, strict=True)
        if test and form in train and train[form].strip() != text.strip()
    }
    return list(pairs.values())


def dense_codes(labels: Int[np.ndarray, " row"]) -> Int[np.ndarray, " row"]:
    """The same partition as 0, 1, 2, … in the order of first appearance."""
    return pd.factorize(labels)[0].astype(np.int64)


def by_content(clusters: Int[np.ndarray, " row"], texts: Sequence[str]) -> Int[np.ndarray, " row"]:
    """The same partition, numbered in the alphabetical order of each cluster's first text.

    So the same rows in another order have the same numbers, and what is drawn by number is drawn alike.
    """
    order = np.argsort(np.array(texts, dtype=object), kind="stable")
    numbers = np.empty(len(order), np.int64)
    numbers[order] = dense_codes(clusters[order])
    return numbers


def group_folds(clusters: Int[np.ndarray, " row"], folds: int, seed: int) -> Int[np.ndarray, " row"]:
    """A fold 0 … folds − 1 for each row: whole clusters, seeded, of sizes as equal as clusters allow.

    With fewer clusters than folds there is a fold for each cluster.

    Raises:
        ValueError: There are fewer than two folds.
    """
    if folds < 2:
        raise ValueError(f"cross-validation needs at least 2 folds, got {folds}")
    codes = np.unique(clusters, return_inverse=True)[1]  # by label: the order of rows decides nothing
    sizes = np.bincount(codes)
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    heap = [(0, k) for k in range(min(folds, len(sizes)))]
    fold_of = np.zeros(len(sizes), np.int64)
    for cluster in order:  # the largest first, each to the fold that is smallest so far
        size, fold = heapq.heappop(heap)
        fold_of[cluster] = fold
        heapq.heappush(heap, (size + int(sizes[cluster]), fold))
    return fold_of[codes]


def draw_split(
    clusters: Int[np.ndarray, " row"], y: Float[np.ndarray, "row target"], kind: Kind, size: float, seed: int
) -> Bool[np.ndarray, " row"]:
    """A test part of about ``size`` of the rows in whole clusters, seeded.

    Every class of two clusters or more is in both parts.
    """
    sizes = np.bincount(clusters)
    order = np.random.default_rng(seed).permutation(len(sizes))
    goal = size * len(clusters)
    chosen, drawn = np.zeros(len(sizes), bool), 0
    for cluster in order:
        grown = drawn + int(sizes[cluster])
        if abs(grown - goal) < abs(drawn - goal):  # a cluster that overshoots further than it helps stays out
            chosen[cluster], drawn = True, grown
    if kind != "numeric":
        indicators = np.concatenate([y, 1 - y], axis=1) if kind == "binary" else y
        _spread(chosen, clusters, indicators > 0.5, order)
    return chosen[clusters]


def _spread(
    chosen: Bool[np.ndarray, " cluster"],
    clusters: Int[np.ndarray, " row"],
    classes: Bool[np.ndarray, "row class"],
    order: Int[np.ndarray, " cluster"],
) -> None:
    """Move clusters over, as few as need be, until every class with two of them is in both parts.

    A cluster moves only if no class loses its last one where it was.
    """
    has = np.stack([np.bincount(clusters, column, len(chosen)) > 0 for column in classes.T], axis=1)
    for part in (False, True):
        for column in range(has.shape[1]):
            if (has[:, column] & (chosen == part)).any():
                continue
            for cluster in order[has[order, column]]:
                left = has & (chosen != part)[:, None]
                left[cluster] = False
                if left.any(axis=0)[has[cluster]].all():
                    chosen[cluster] = part
                    break


def draw_rows(
    clusters: Int[np.ndarray, " row"],
    is_test: Bool[np.ndarray, " row"],
    n: int,
    minimum: tuple[int, int],
    seed: int,
) -> Bool[np.ndarray, " row"]:
    """At most ``n`` rows in whole clusters, seeded.

    They are drawn from all rows, or, where that leaves training or test rows fewer than half their share or
    than there must be, from each of the two parts by its share.

    Args:
        clusters: Cluster of each row: 0, 1, 2, …
        is_test: The split.
        n: How many rows.
        minimum: Training and test rows that there must be.
        seed: Seed of the draw.
    """
    order = np.random.default_rng(seed).permutation(int(clusters.max()) + 1)
    sizes = np.stack([np.bincount(clusters[part], minlength=len(order)) for part in (~is_test, is_test)], 1)
    share = n * sizes.sum(axis=0) / len(clusters)
    chosen = _that_fit(order, sizes.sum(axis=1, keepdims=True), np.array([n]))
    if (sizes[chosen].sum(axis=0) < np.maximum(share / 2, minimum)).any():
        test = int(np.clip(round(float(share[1])), minimum[1], max(n - minimum[0], minimum[1])))
        chosen = _that_fit(order, sizes, np.array([n - test, test]))
    return chosen[clusters]


def _that_fit(
    order: Int[np.ndarray, " cluster"],
    sizes: Int[np.ndarray, "cluster part"],
    rooms: Int[np.ndarray, " part"],
) -> Bool[np.ndarray, " cluster"]:
    """Clusters, in this order, for which there is still room in every part."""
    chosen, left = np.zeros(len(order), bool), rooms.copy()
    for cluster in order:
        if (sizes[cluster] <= left).all():
            chosen[cluster], left = True, left - sizes[cluster]
        if not left.any():
            break
    return chosen


def block_oracle_predictions(
    y: Float[np.ndarray, "row target"],
    blocks: Sequence[Any] | np.ndarray | pd.Series,
    is_test: Bool[np.ndarray, " row"],
) -> Float[np.ndarray, "test target"]:
    """Training mean of the row's block, for every test row, in row order.

    A test row whose block is missing or has no training row gets the mean of all training rows.

    Raises:
        ValueError: Lengths differ, a part of the split is empty, or no training row has a block.
    """
    labels = pd.Series(by_place("blocks", blocks).astype(object))
    if not len(y) == len(labels) == len(is_test):
        raise ValueError(
            f"{len(y)} rows of y, {len(labels)} of blocks and {len(is_test)} of is_test; "
            "one entry per row each"
        )
    if is_test.all() or not is_test.any():
        raise ValueError("is_test leaves no training row or no test row; a block oracle needs both")
    codes, names = pd.factorize(labels)
    train = ~is_test
    if len(names) == 0:
        raise ValueError("every block is missing; name a column that has values")
    labelled = train & (codes >= 0)
    counts = np.bincount(codes[labelled], minlength=len(names))
    sums = np.stack(
        [np.bincount(codes[labelled], weights=c[labelled], minlength=len(names)) for c in y.T], axis=1
    )
    overall = y[train].mean(axis=0)
    means = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], overall)
    return np.concatenate([means, overall[None]])[codes[is_test]]  # code -1, missing, is the last row
