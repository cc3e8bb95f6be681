"""What is put together belongs together: findings and models, baselines and activations, their rows."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import WORDS
from helpers import with_two_words_exchanged

import graticule
from graticule import Activations, Findings, Store, Table, baselines, capture, sweep
from graticule.hooks.artifact import ArtifactError
from graticule.hooks.same_model import OtherModelError
from graticule.probes.surface.baselines import Baselines

QUIET: dict[str, Any] = {"progress": False}


@pytest.fixture(scope="module")
def table() -> Table:
    rng = np.random.default_rng(0)
    texts = [f"{a} {b}" for a in WORDS[1:13] for b in WORDS[13:18]]
    y = (rng.normal(size=(12, 1)) + rng.normal(size=5)).ravel()
    return Table(pd.DataFrame({"w": texts, "y": y}), text="w", target="y", test_size=0.3)


@pytest.fixture(scope="module")
def model(load_tiny: Any) -> Any:
    return load_tiny()


@pytest.fixture(scope="module")
def other(model: Any) -> Any:
    """A model of the same name and shape, one of whose weights is another."""
    made = copy.deepcopy(model)
    with torch.no_grad():
        made.blocks[1].mlp.W_out[0, 0] += 1
    return made


@pytest.fixture(scope="module")
def acts(model: Any, table: Table) -> Any:
    return capture(model, table.texts)


@pytest.fixture(scope="module")
def beside(model: Any, table: Table) -> Any:
    return baselines(model, table, **QUIET)


@pytest.fixture(scope="module")
def findings(acts: Any, table: Table, beside: Any) -> Findings:
    return sweep(acts, table, baselines=beside, n_bootstrap=20, **QUIET)


def erase_in_the_old_order(model: Any, findings: Findings) -> Any:
    with pytest.warns(DeprecationWarning, match="findings, model"):
        return graticule.erase(model, findings)


WITH_A_MODEL: dict[str, Any] = {
    "erase": lambda m, f: graticule.erase(f, m),
    "erase, the other way round": erase_in_the_old_order,
    "steer": lambda m, f: graticule.steer(f, m),
    "ablate": lambda m, f: graticule.ablate(f, m, [(0, 1)]),
    "causes": lambda m, f: graticule.causes(f, m),
    "attribute": lambda m, f: graticule.attribute(f, m),
    "trace": lambda m, f: graticule.trace(f, m, "paris king"),
    "directions": lambda m, f: graticule.directions(f, model=m),
    "neurons": lambda m, f: graticule.neurons(f, m),
    "controls": lambda m, f: graticule.controls(f, m),
}


@pytest.mark.slow
@pytest.mark.parametrize("call", WITH_A_MODEL)
def test_findings_of_another_model_of_the_same_shape_are_refused(
    call: str, other: Any, findings: Findings
) -> None:
    with pytest.raises(OtherModelError, match=r"findings are of .*weights .*, the model given is ") as error:
        WITH_A_MODEL[call](other, findings)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_findings_of_two_models_are_not_transferred(
    model: Any, other: Any, findings: Findings, table: Table
) -> None:
    theirs = sweep(capture(other, table.texts), table, n_bootstrap=20, **QUIET)
    with pytest.raises(OtherModelError, match="give findings of one model"):
        graticule.transfer({"one": findings, "two": theirs})


STRANGERS: dict[str, Any] = {
    "tokenizers": lambda m, texts: with_two_words_exchanged(m, texts),
    "a hook": lambda m, texts: _with(m, lambda own: own.add_hook(HERE, lambda value, hook: value * 0.5)),
    "torch's own": lambda m, texts: _with(m, lambda own: own.ln_final.register_forward_pre_hook(print)),
}
"""The same weights and settings with something else about them."""
HERE = "blocks.0.hook_resid_post"


def _with(model: Any, edit: Any) -> Any:
    made = copy.deepcopy(model)
    edit(made)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("what", STRANGERS)
def test_the_same_weights_with_another_tokenizer_or_other_hooks_are_refused_at_every_door(
    what: str,
    model: Any,
    findings: Findings,
    acts: Any,
    beside: Any,
    table: Table,
    tmp_path: Any,
    capsys: Any,
) -> None:
    stranger = STRANGERS[what](model, table.texts)
    acts.save(tmp_path / "acts")
    findings.save(tmp_path / "findings")
    read = Findings.load(tmp_path / "findings")
    theirs, rivals = capture(stranger, table.texts), baselines(stranger, table, **QUIET)
    found = sweep(theirs, table, baselines=rivals, n_bootstrap=20, **QUIET)
    doors = {
        **{name: lambda call=call: call(stranger, findings) for name, call in WITH_A_MODEL.items()},
        "their findings, the model": lambda: graticule.trace(found, model, "paris king"),
        "sweep": lambda: sweep(acts, table, baselines=rivals, **QUIET),
        "sweep, the other way round": lambda: sweep(theirs, table, baselines=beside, **QUIET),
        "with_inputs": lambda: read.with_inputs(theirs, table, beside),
        "with_inputs, baselines": lambda: read.with_inputs(acts, table, rivals),
        "transfer": lambda: graticule.transfer({"one": findings, "two": found}),
        "other=": lambda: graticule.steer(findings, model, rows=2, controls=2, other=found, **QUIET),
        "Store": lambda: Store(tmp_path / "acts", model=stranger),
        "capture": lambda: capture(stranger, table.texts, store=tmp_path / "acts"),
    }
    capsys.readouterr()
    for name, call in doors.items():
        with pytest.raises((OtherModelError, ArtifactError, ValueError)) as error:
            call()
        said = str(error.value)
        assert "\n" not in said, name
        assert ("tokenizer" if what == "tokenizers" else "hooks") in said, (name, said)
    assert not capsys.readouterr().out  # no pass was run


@pytest.mark.slow
def test_hooks_that_both_have_are_on_trust(model: Any, table: Table, caplog: Any) -> None:
    hooked = STRANGERS["a hook"](model, table.texts)
    acts, beside = capture(hooked, table.texts, layers=[1]), baselines(hooked, table, layers=[1], **QUIET)
    caplog.clear()
    assert sweep(acts, table, baselines=beside, n_bootstrap=20, **QUIET).baseline_predictions
    assert f"hooks of the user's own at {HERE}, in both: that they do the same is on trust" in caplog.text


@pytest.mark.slow
def test_findings_that_say_of_no_model_go_with_the_one_that_reads_alike(
    model: Any, other: Any, acts: Any, table: Table
) -> None:
    own = Activations.from_tensors({p: acts[p] for p in acts.points}, texts=table.texts)
    found = sweep(own, table, n_bootstrap=20, **QUIET)
    assert graticule.trace(found, model, "paris king").provenance["model"]["name"]
    with pytest.raises(ValueError, match=r"y is read otherwise of 8 texts run again .* or another model"):
        graticule.trace(found, other, "paris king")
    probe = sweep(
        acts, table, n_bootstrap=20, **QUIET
    ).probe  # a direction of one's own goes where one puts it
    assert graticule.trace(probe, other, "paris king").title


# Baselines -------------------------------------------------------------------------------------------
APART: dict[str, Any] = {
    "model": (
        lambda m, o, t: baselines(o, t, **QUIET),
        r"activations are of .* the baselines of .*one model",
    ),
    "prompt": (
        lambda m, o, t: baselines(m, t, prompt="the city of ", **QUIET),
        "prompt='the city of ', the ",
    ),
    "position": (lambda m, o, t: baselines(m, t, pos="entity_mean", **QUIET), r"pos='last'\)$"),
    "layers": (lambda m, o, t: baselines(m, t, layers=[0], **QUIET), r"twin_0 .* lacks blocks\.1\."),
    "points": (
        lambda m, o, t: baselines(m, t, points="mlp_out", **QUIET),
        r"lacks blocks\.0\.hook_resid_post",
    ),
    "special tokens": (
        lambda m, o, t: baselines(m, t, prepend_bos=False, **QUIET),
        "captured without special tokens, the activations with: give both one prepend_bos=",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("apart", APART)
def test_baselines_of_another_capture_are_refused(
    apart: str, model: Any, other: Any, acts: Any, table: Table
) -> None:
    made, message = APART[apart]
    with pytest.raises(ValueError, match=message) as error:
        sweep(acts, table, baselines=made(model, other, table), **QUIET)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_baselines_of_the_same_tokens_in_other_words_stand(
    model: Any, acts: Any, table: Table, beside: Any
) -> None:
    last = capture(model, table.texts, pos=-1)
    assert "on trust" not in sweep(last, table, baselines=beside, n_bootstrap=20, **QUIET).summary()
    one = acts.select(points="blocks.1.hook_resid_post")  # fewer points than the twin has
    assert sweep(one, table, baselines=beside, n_bootstrap=20, **QUIET).chosen_layer == 1


@pytest.mark.slow
def test_own_activations_beside_a_models_baselines_are_said(acts: Any, table: Table, beside: Any) -> None:
    own = Activations.from_tensors({p: acts[p] for p in acts.points}, texts=table.texts)
    assert (
        "the baselines are of it is on trust"
        in sweep(own, table, baselines=beside, n_bootstrap=20, **QUIET).summary()
    )
    assert (
        "on trust"
        not in sweep(own, table, baselines=baselines(None, table), n_bootstrap=20, **QUIET).summary()
    )


# Findings from disk ----------------------------------------------------------------------------------
def changed(acts: Any, table: Table, point: str, row: int, by: float) -> Activations:
    tensors = {p: acts[p].clone() for p in acts.points}
    tensors[point][row:] += by * tensors[point].std()
    return Activations.from_tensors(tensors, texts=table.texts)


@pytest.mark.slow
def test_findings_take_only_the_activations_that_were_swept(
    model: Any, other: Any, findings: Findings, acts: Any, table: Table, beside: Any, tmp_path: Any
) -> None:
    findings.save(tmp_path)
    read = Findings.load(tmp_path)
    assert read.with_inputs(acts, table, beside).at().predictions.shape[1] == 1
    here = findings.chosen_point
    rival = next(p for p in acts.points if p != here)
    first = int(np.flatnonzero(table.is_test)[3])
    with pytest.raises(
        ValueError, match=rf"the probe reads .* of activation row {first}, these findings say"
    ):
        read.with_inputs(changed(acts, table, here, first, 0.3), table, beside)
    with pytest.raises(ValueError, match=rf"at {rival} the probe's test R² is"):
        read.with_inputs(changed(acts, table, rival, 0, 0.5), table, beside)
    with pytest.raises(OtherModelError, match="give those that were swept"):
        read.with_inputs(capture(other, table.texts), table, beside)
    with pytest.raises(ValueError, match="baselines of seed=0, given are those of seed=5"):
        read.with_inputs(acts, table, baselines(model, table, seed=5, **QUIET))
    with pytest.raises(OtherModelError, match="judged against baselines of"):
        read.with_inputs(acts, table, baselines(other, table, **QUIET))


OWN: dict[str, Any] = {
    "other values": lambda own, b: Baselines(b.table_digest, {"mine": changed_rows(own)}),
    "put among a model's": lambda own, b: replace(b, features={**b.features, "mine": changed_rows(own)}),
    "at another point": lambda own, b: Baselines(
        b.table_digest, {"mine": Activations.from_tensors({"elsewhere": own["mine"]}, own.rows)}
    ),
}


def changed_rows(own: Activations) -> Activations:
    values = own["mine"].clone()
    values[[0, 1]] = values[[1, 0]]
    return Activations.from_tensors({"mine": values}, own.rows)


@pytest.mark.slow
@pytest.mark.parametrize("other", OWN)
def test_baselines_of_ones_own_are_fitted_again(
    other: str, acts: Any, table: Table, beside: Any, tmp_path: Any
) -> None:
    noise = np.random.default_rng(1).normal(size=(60, 5))
    values = torch.from_numpy(noise + table.y.reshape(-1, 1))
    own = Activations.from_tensors({"mine": values}, acts.rows)
    of_model = other == "put among a model's"
    features = {**(beside.features if of_model else {}), "mine": own}
    given = replace(beside, features=features) if of_model else Baselines(beside.table_digest, features)
    sweep(acts, table, baselines=given, n_bootstrap=20, **QUIET).save(tmp_path)
    read = Findings.load(tmp_path)
    assert read.with_inputs(acts, table, given).baseline_predictions["mine"].test.shape == (
        table.is_test.sum(),
        1,
    )
    with pytest.raises(ValueError, match=r"the baseline mine.*give the baselines that") as error:
        read.with_inputs(acts, table, OWN[other](own, given))
    assert "\n" not in str(error.value)


# Rows ------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_the_counts_are_of_the_rows_that_were_used(model: Any, table: Table, findings: Findings) -> None:
    some = sweep(capture(model, table.texts[:45]), table, n_bootstrap=20, **QUIET)
    n_test = int(table.is_test[:45].sum())
    counted = f"{45 - n_test} training and {n_test} test rows, of 45 of the table's 60 rows"
    assert counted in some.summary() and counted in some.to_json()["split"]
    assert findings.split_note == table.split_note
    tokens = sweep(capture(model, table.texts, pos="all"), table, n_bootstrap=20, **QUIET)
    rows = tokens.predictions["split"].value_counts()
    assert f"{rows['train']} training and {rows['test']} test rows, of 60 texts" in tokens.summary()


# Verdicts --------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_probe_against_itself_is_said(model: Any, acts: Any, table: Table, beside: Any) -> None:
    first = acts.select(points="blocks.0.hook_resid_post")
    found = sweep(first, table, baselines=beside, n_bootstrap=20, **QUIET)
    assert "the baseline block_0 reads what the probe reads at blocks.0.hook_resid_post" in found.summary()
    second = sweep(
        acts.select(points="blocks.1.hook_resid_post"), table, baselines=beside, n_bootstrap=20, **QUIET
    )
    assert "reads what the probe reads" not in second.summary()


def test_without_baselines_the_summary_speaks_of_the_mean() -> None:
    X = np.random.default_rng(0).normal(size=(60, 4))
    own = Activations.from_tensors({"blocks.0.hook_resid_post": X})
    summary = sweep(own, X[:, 0] * 2, split=np.arange(60) % 3 == 0, n_bootstrap=20, **QUIET).summary()
    assert "over the training mean's (no baseline)" in summary and "stacked" not in summary


@pytest.mark.parametrize(
    ("values", "message"),
    [(0.0, "the same on all 40 training rows"), (3.7, "the same on all"), (1e200, "overflow")],
)
def test_activations_that_nothing_can_be_read_of_are_refused(values: float, message: str) -> None:
    rng = np.random.default_rng(0)
    X = np.full((60, 4), values) if values < 1e100 else values * rng.normal(size=(60, 4))
    own = Activations.from_tensors({"blocks.0.hook_resid_post": torch.from_numpy(X)})
    with pytest.raises(ValueError, match=message) as error:
        sweep(own, rng.normal(size=60), split=np.arange(60) % 3 == 0, n_bootstrap=20, **QUIET)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_steering_where_nothing_is_measured_is_said(model: Any, findings: Findings) -> None:
    with pytest.raises(ValueError, match=r"nothing to measure: .*outcomes=\[Outcome"):
        graticule.steer(findings, model, hook_name="blocks.2.hook_resid_post", rows=5, controls=2, **QUIET)
