"""Word pairs and contexts on a language model with tied embeddings."""

from typing import Any

import numpy as np
import pytest

from graticule.probes.words.languages import languages
from graticule.probes.words.vocabulary import parallel_contexts
from graticule.probes.words.words import words

pytestmark = [pytest.mark.slow, pytest.mark.gemma]


def test_the_causal_product_tells_concepts_apart_where_the_euclidean_does_not(gemma: Any):
    made = words(gemma, metrics=["euclidean", "causal"], n_bootstrap=40, n_random=500, progress=False)
    assert (made.counts["kept"] >= 15).sum() >= 25
    assert made.own("causal") > made.own("euclidean")
    within, between = np.transpose([made.contrast(m) for m in made.metrics])
    assert within[1] / between[1] > 1.4 * within[0] / between[0]
    above = made.within.groupby("metric")["above"].mean()
    assert above["causal"] > 0.94 > above["euclidean"]


def test_languages_of_contexts_are_those_of_words(gemma: Any):
    contexts = {k: v for k, v in parallel_contexts().items() if k != "French"}  # three pairs, for speed
    options: dict[str, Any] = {"metrics": ["euclidean", "causal"], "n_bootstrap": 40, "n_random": 500}
    made = languages(gemma, contexts, **options, progress=False)
    first = made.matches.assign(first=made.matches["rank"] == 1).groupby("metric")["first"].sum()
    assert first["causal"] == 3 > first["euclidean"]
    assert (made.matches["positive"] > 0.95).all()
