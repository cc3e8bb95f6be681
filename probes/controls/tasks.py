"""Control tasks (Hewitt & Liang 2019, 1909.03368): random targets that a probe can only memorise."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from graticule.probes.controls.lines import Line, line, not_applicable
from graticule.probes.controls.scoring import Pair, Sampled, average
from graticule.probes.controls.setting import Setting
from graticule.probes.scores.bootstrap import effective_clusters
from graticule.probes.tables.groups import link_clusters

TOKEN_ASKS = "how much of the score a random target fixed per last token would reach too"
ENTITY_ASKS = "how much a random target per text could be fitted on training rows"
HELD_OUT_ASKS = "the same target on test rows: 0 by construction, every text being new"
_TRIES = 20


def token_keys(setting: Setting) -> tuple[Int[np.ndarray, " row"] | None, str]:
    """A code a row for the token that the activation was read at, and what the code is of.

    The last word of the text stands in where activations come without tokens, or were all read at the same
    one (a prompt that ends in a period). None where neither tells rows apart; the words then say why.
    """
    rows = setting.material.activations.rows
    if "token" in rows and bool((rows["token"] >= 0).all()) and rows["token"].nunique() > 1:
        return pd.factorize(rows["token"])[0].astype(np.int64), "last token"
    if setting.texts is None:
        return None, "activations.rows has no token column and there are no texts"
    words = pd.Series([(text.lower().split() or [""])[-1] for text in setting.texts])
    if words.nunique() < 2:
        return None, "all rows end in the same token and the same word"
    return pd.factorize(words)[0].astype(np.int64), "last word"


def control_target(
    codes: Int[np.ndarray, " row"],
    is_test: Bool[np.ndarray, " row"],
    y_train: Float[np.ndarray, "train target"],
    rng: np.random.Generator,
) -> tuple[Float[np.ndarray, "row target"], Bool[np.ndarray, " row"]]:
    """A random target that is a function of `codes`, and the rows for which it is known.

    Every code of a training row is given the target of another training row, all of them different ones
    (whole rows of targets, so that latitude and longitude stay together): the values are those of the real
    target. Rows with codes that no training row has are not known; their values are 0.

    **Raises** `ValueError` if no draw varies over the training rows.
    """
    found, place = np.unique(codes[~is_test], return_inverse=True)
    position = np.minimum(np.searchsorted(found, codes), len(found) - 1)
    known = found[position] == codes
    for _ in range(_TRIES):
        values = y_train[rng.permutation(len(y_train))[: len(found)]]
        if (np.ptp(values[place], axis=0) > 0).any():
            return np.where(known[:, None], values[position], 0.0), known
    raise ValueError(f"{_TRIES} draws of a control target for {len(found)} codes did not vary")


def token_lines(setting: Setting) -> list[Line]:
    """The control task keyed on the last token, scored on test rows whose token training rows have too.

    Selectivity is the line's difference: the probe on these rows minus the control. Resampled are sets of
    rows that share a cluster or a key, as both are dependent in the control task.
    """
    codes, what = token_keys(setting)
    name = "control task, " + (what if codes is not None else "last token")
    if codes is None:
        return [not_applicable("control", name, TOKEN_ASKS, what)]
    problem = setting.material.problem
    known = np.isin(codes[problem.test], codes[problem.train])
    coverage = f"{known.sum():,} of {len(known):,} test rows have a {what} that training rows have"
    if known.sum() < 2:
        return [not_applicable("control", name, TOKEN_ASKS, coverage)]
    y = setting.y_test[known]
    pairs: dict[str, Pair] = {"probe": (y, setting.probe.test[known])}
    for draw in range(setting.seeds):
        try:
            target, _ = control_target(codes, problem.is_test, setting.y_train, setting.rng(1, draw))
        except ValueError as error:
            return [not_applicable("control", name, TOKEN_ASKS, str(error))]
        fitted = setting.fit(target[problem.train])
        pairs[str(draw)] = target[problem.test][known], fitted.test[known]
    linked = link_clusters(
        [pd.Series(setting.clusters_test[known]), pd.Series(codes[problem.test][known])], int(known.sum())
    )
    found = setting.scores(pairs, linked)
    controls = [found[str(draw)] for draw in range(setting.seeds)]
    effective = effective_clusters(np.bincount(linked))
    kinds = len(np.unique(codes[problem.train]))
    note = f"{coverage}; {kinds:,} kinds in training rows; {effective:.0f} effective clusters"
    return [
        line(
            "control",
            name,
            TOKEN_ASKS,
            average(controls),
            found["probe"],
            int(known.sum()),
            by_seed=[c.value for c in controls],
            note=note,
        )
    ]


def entity_lines(setting: Setting) -> list[Line]:
    """The control task keyed on the text: what memorising training rows gives, beside the probe's own fit."""
    problem, texts = setting.material.problem, setting.texts
    keys = pd.Series(problem.source) if texts is None else pd.Series(texts)
    codes = pd.factorize(keys)[0].astype(np.int64)
    alpha = setting.findings.probe.alpha
    new = ~np.isin(codes[problem.test], codes[problem.train])
    train: dict[str, Pair] = {"probe": (setting.y_train, setting.fit(setting.y_train, alpha=alpha).train)}
    test: dict[str, Pair] = {"probe": (setting.y_test[new], setting.probe.test[new])}
    strengths: list[float] = []
    for draw in range(setting.seeds):
        # drawn for the test texts as well: a text of both parts has one target, a new one has its own
        y, rng = problem.y, setting.rng(2, draw)
        target = y[rng.permutation(len(y))][codes]
        try:
            same, own = setting.fit(target[problem.train], alpha=alpha), setting.fit(target[problem.train])
        except ValueError as error:
            return [not_applicable("train fit", "control task, text", ENTITY_ASKS, str(error))]
        train[f"same {draw}"] = target[problem.train], same.train
        train[f"own {draw}"] = target[problem.train], own.train
        test[f"own {draw}"] = target[problem.test][new], own.test[new]
        strengths.append(own.alpha)
    fits = setting.scores(train, setting.clusters_train)

    def made(where: Mapping[str, Sampled], kind: str, how: str, rows: int, note: str) -> Line:
        draws = [where[f"{kind} {draw}"] for draw in range(setting.seeds)]
        return line(
            "train fit" if where is fits else "check",
            f"control task, text ({how})",
            ENTITY_ASKS if where is fits else HELD_OUT_ASKS,
            average(draws),
            where["probe"],
            rows,
            by_seed=[d.value for d in draws],
            note=note,
        )

    own = f"R² on training rows, at strengths from {min(strengths):.3g}; the probe in sample too"
    same = f"R² on training rows, at the probe's strength {alpha:.3g}; the probe in sample too"
    lines = [
        made(fits, "same", "in sample, the probe's strength", len(problem.train), same),
        made(fits, "own", "in sample, its own strength", len(problem.train), own),
    ]
    if new.sum() >= 2:
        held = setting.scores(test, setting.clusters_test[new])
        note = "" if new.all() else f"{int((~new).sum()):,} test rows with a text of training rows set aside"
        lines.append(made(held, "own", "held out", int(new.sum()), note))
    return lines
