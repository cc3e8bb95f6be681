"""One model as a HookedTransformer and as a TransformerBridge: told apart from another one by its logits."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from helpers import with_two_words_exchanged

import graticule
from graticule import Table, baselines, capture, record, sweep
from graticule.hooks.same_model import OtherModelError, answer_of

QUIET: dict[str, Any] = {"n_bootstrap": 20, "progress": False}


@pytest.fixture(scope="module")
def table() -> Table:
    from conftest import WORDS

    texts = [f"{a} {b}" for a in WORDS[1:9] for b in WORDS[13:18]]
    return Table.from_arrays([float(len(text)) for text in texts], texts, name="lengths")


@pytest.fixture(scope="module", params=["llama", "gpt2", "qwen3"])
def both(request: Any, load_tiny: Any) -> tuple[Any, Any]:
    return load_tiny(request.param, "hooked"), load_tiny(request.param, "bridge")


def edited(model: Any) -> Any:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if "norm" in name or "ln_1" in name:
                parameter.mul_(1.5)
    return other


def test_the_same_model_answers_alike_in_both_classes(both: tuple[Any, Any]) -> None:
    one, other = (answer_of(model) for model in both)
    assert one["ids"] == other["ids"] and len(set(one["ids"])) == 8
    torch.testing.assert_close(torch.tensor(one["logits"]), torch.tensor(other["logits"]), rtol=0, atol=1e-4)
    with torch.no_grad():
        logits = both[0](torch.tensor([one["ids"]]))[0, :, one["ids"]]
    expected = (logits - logits.mean(1, keepdim=True))[range(8), [*range(1, 8), 0]]
    torch.testing.assert_close(torch.tensor(one["logits"]), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_findings_go_with_the_other_class_of_one_model_alone(
    both: tuple[Any, Any], table: Table, caplog: Any
) -> None:
    hooked, bridge = both
    acts = capture(hooked, table.texts, points="blocks.1.hook_resid_post")
    findings = sweep(acts, table, **QUIET)
    with caplog.at_level(logging.WARNING, logger="graticule"):
        assert graticule.trace(findings, bridge, "paris king").title
    assert "beyond the logits of 8 tokens, which agree, that they are one model is on trust" in caplog.text
    with pytest.raises(OtherModelError, match=r"the model given is .* of a TransformerBridge") as error:
        graticule.trace(findings, edited(bridge), "paris king")
    assert "\n" not in str(error.value)
    with pytest.raises(OtherModelError, match="tokenizers differ, which make other ids of texts"):
        graticule.trace(findings, with_two_words_exchanged(bridge, table.texts), "paris king")


@pytest.mark.slow
def test_what_was_captured_of_two_classes_is_of_one_model_alone(
    load_tiny: Any, table: Table, tmp_path: Any
) -> None:
    hooked, bridge = load_tiny("gpt2", "hooked"), load_tiny("gpt2", "bridge")
    point = "blocks.1.hook_resid_post"
    acts = capture(hooked, table.texts, points=point, store=tmp_path / "acts")
    findings = sweep(acts, table, **QUIET)
    ours = baselines(bridge, table, points=point, twins=0, progress=False)
    theirs = baselines(edited(bridge), table, points=point, twins=0, progress=False)
    assert sweep(acts, table, baselines=ours, **QUIET).baseline_predictions
    with pytest.raises(OtherModelError, match="capture both of one model"):
        sweep(acts, table, baselines=theirs, **QUIET)
    with record(edited(bridge), point, pos=-1, texts=table.texts) as recording:
        for text in table.texts or ():
            recording._model(text)
    other = sweep(recording.activations, table, **QUIET)
    with pytest.raises(OtherModelError, match="give findings of one model"):
        graticule.transfer({"one": findings, "two": other})


def test_a_model_with_hooks_of_the_users_own_is_not_run_for_its_answer(tiny: Any) -> None:
    model, passes = copy.deepcopy(tiny), []
    model.blocks[0].hook_resid_post.add_hook(lambda value, hook: passes.append(1))
    assert answer_of(model) == {} and not passes


def test_a_model_of_few_tokens_answers_on_as_many() -> None:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    cfg = HookedTransformerConfig(
        n_layers=1, d_model=8, n_ctx=3, d_head=4, n_heads=2, d_vocab=11, act_fn="gelu"
    )
    model = HookedTransformer(cfg)
    made = capture(model, [[1, 2, 3], [4, 5]], points="resid_post")
    assert len(made.provenance["answer"]["ids"]) == len(made.provenance["answer"]["logits"]) == 3
