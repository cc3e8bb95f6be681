"""Findings' texts run again as their activations were captured, or refused."""

import numpy as np
import pandas as pd
import pytest
import torch

from graticule import Activations, Table, attribute, capture, record, steer, sweep, trace
from graticule.probes.core.replay import replay_spec

pytestmark = pytest.mark.slow
PROMPT = "the city of {} now"
OTHER = "of other tokens"


@pytest.fixture(scope="module")
def texts(names):
    return list(dict.fromkeys(names))


@pytest.fixture(scope="module")
def table(texts):
    lengths = [len(t) + 3.0 * len(t.split()) for t in texts]
    return Table(pd.DataFrame({"text": texts, "y": lengths}), text="text", target="y")


def swept(activations, table):
    return sweep(activations, table, n_bootstrap=20, progress=False)


def ids_of(model, texts, prepend_bos=False):
    return [model.to_tokens(text, prepend_bos=prepend_bos)[0].tolist() for text in texts]


def recorded(model, inputs, texts):
    with record(model, "resid_post", pos=-1, texts=texts) as recording:
        for one in inputs:
            model(one if isinstance(one, str) else torch.tensor([one]))
    return recording.activations


def tensors_of(activations):
    return {point: activations[point] for point in activations.points}


REPLAYED = {
    "texts": lambda model, texts: capture(model, texts),
    "texts in a prompt": lambda model, texts: capture(model, texts, prompt=PROMPT),
    "token rows without BOS": lambda model, texts: capture(model, ids_of(model, texts), texts=texts),
    "recorded": lambda model, texts: recorded(model, texts, texts),
    "recorded without BOS": lambda model, texts: recorded(model, ids_of(model, texts), texts),
    "tensors": lambda model, texts: Activations.from_tensors(tensors_of(capture(model, texts)), texts=texts),
}


@pytest.mark.parametrize("name", REPLAYED)
def test_what_is_run_again_reads_as_the_probe_did(tiny, texts, table, name):
    findings = swept(REPLAYED[name](tiny, texts), table)
    found = attribute(findings, tiny, rows=None, n_bootstrap=20, progress=False)
    predicted = findings.predictions.set_index("text")["pred_y"]
    ours = found.rows.set_index("text")["reading_y"]
    np.testing.assert_allclose(ours, predicted.loc[ours.index], atol=1e-3)
    bos = "without" not in name
    assert trace(findings, tiny, texts[0]).n_special == int(bos)


REFUSED = {
    "a prompt in the recorded texts": lambda m, t, inside: recorded(m, inside, t),
    "a prompt in captured texts": lambda m, t, inside: capture(m, inside).with_texts(t),
    "a prompt before the last token": lambda m, t, inside: capture(m, ["the " + x for x in t]).with_texts(t),
    "tensors of texts in a prompt": lambda m, t, inside: Activations.from_tensors(
        tensors_of(capture(m, inside)), texts=t
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_activations_of_other_tokens_are_refused_by_whatever_runs_the_texts(tiny, texts, table, name):
    findings = swept(REFUSED[name](tiny, texts, [PROMPT.format(text) for text in texts]), table)
    calls = [
        lambda: attribute(findings, tiny, progress=False),
        lambda: trace(findings, tiny, texts[0]),
        lambda: steer(findings, tiny, outcomes=[], rows=4, controls=20, progress=False),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=OTHER) as error:
            call()
        assert "\n" not in str(error.value)
    assert trace(findings, tiny, texts[0], prepend_bos=True).n_special == 1  # what is said needs no look


def test_a_prompt_that_is_given_is_taken_where_it_explains_the_activations(tiny, texts, table):
    inside = [PROMPT.format(text) for text in texts]
    findings = swept(capture(tiny, inside).with_texts(texts), table)
    with pytest.raises(ValueError, match=OTHER):
        replay_spec(findings, tiny, prompt="a city: {}")
    assert replay_spec(findings, tiny, prompt=PROMPT).prompt == PROMPT
    plain = swept(capture(tiny, texts), table)
    assert replay_spec(plain, tiny, prompt=PROMPT).prompt == PROMPT  # asked of another prompt on purpose


def test_findings_from_a_folder_are_traced_with_the_special_tokens_they_say(tiny, texts, table, tmp_path):
    findings = swept(capture(tiny, texts, prepend_bos=False), table)
    findings.save(tmp_path / "f")
    assert trace(type(findings).load(tmp_path / "f"), tiny, texts[0]).n_special == 0
