"""Conversations through the tokenizer's own template, and turns of theirs against the template's own text."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from helpers import as_installed

from graticule import Table, Turn, baselines, capture, load_model, sweep
from graticule.hooks.capture_spec import CaptureSpec, pos_from_data, pos_to_data
from graticule.hooks.chats import _marks

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nthe king<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
)
"""As SmolLM2 has it."""
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token }}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
CHATS = [
    [
        {"role": "user", "content": "paris is"},
        {"role": "assistant", "content": "<think>a city</think>in the north"},
        {"role": "user", "content": "rome"},
        {"role": "assistant", "content": "<think>is old</think>in the south"},
    ],
    [{"role": "user", "content": "a river in oslo"}, {"role": "assistant", "content": "the lake is new"}],
]


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Any:
    """A tiny model whose tokenizer knows the marks of all templates, and has no template."""
    import transformers as hf
    from conftest import make_tokenizer

    tokenizer = make_tokenizer()
    marks = [
        "<|im_start|>",
        "<|im_end|>",
        "<start_of_turn>",
        "<end_of_turn>",
        "<think>",
        "</think>",
        "[INST]",
    ]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = hf.LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **sizes)
    folder = tmp_path_factory.mktemp("chatting")
    hf.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_model(folder, device="cpu")


def with_template(model: Any, template: str) -> Any:
    model = copy.copy(model)
    model.tokenizer = copy.deepcopy(model.tokenizer)
    model.tokenizer.chat_template = template
    return model


@pytest.fixture(params=[CHATML, GEMMA, LLAMA2], ids=["chatml", "gemma", "llama2"])
def chatting(request, bare) -> Any:
    return with_template(bare, request.param)


def said(model: Any, acts: Any, text: int) -> str:
    """The chosen tokens of a text, decoded."""
    ids = acts.rows["token"][acts.rows["source"] == text].tolist()
    return model.tokenizer.decode(ids)


def read(model: Any, inputs: Any, pos: Any) -> Any:
    return capture(model, inputs, pos=pos, layers=[0], progress=False)


def plain(model: Any, text: str) -> str:
    return model.tokenizer.decode(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def test_turns_are_what_was_said_in_them_and_nothing_else(chatting):
    for turn, expected in {
        Turn(): [CHATS[0][3]["content"], CHATS[1][1]["content"]],
        Turn("assistant", 0): [CHATS[0][1]["content"], CHATS[1][1]["content"]],
        Turn("user", -1): [CHATS[0][2]["content"], CHATS[1][0]["content"]],
        Turn("assistant", -1, "reasoning"): ["is old", ""],
        Turn("assistant", -1, "answer"): ["in the south", "the lake is new"],
        Turn("assistant", 0, "last"): ["north", "new"],
    }.items():
        acts = read(chatting, CHATS, turn)
        assert [said(chatting, acts, i) for i in (0, 1)] == [plain(chatting, text) for text in expected], turn
    every = read(chatting, CHATS, Turn("user", None))
    both = [CHATS[0][0]["content"], CHATS[0][2]["content"]]
    assert said(chatting, every, 0) == " ".join(plain(chatting, text) for text in both)


def test_the_template_writes_bos_and_nobody_writes_it_again(chatting):
    tokenizer = chatting.tokenizer
    texts = tokenizer.apply_chat_template(CHATS, tokenize=False)
    acts = read(chatting, CHATS, "all")
    for i, text in enumerate(texts):
        ids = acts.rows["token"][acts.rows["source"] == i].tolist()
        own = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ids == ([] if own[0] == tokenizer.bos_token_id else [tokenizer.bos_token_id]) + own
        assert ids[0] == tokenizer.bos_token_id != ids[1]
    again = read(chatting, texts, Turn())
    first = read(chatting, CHATS, Turn())
    assert again.rows.equals(first.rows)
    assert torch.equal(again["resid_post", 0], first["resid_post", 0])


def test_a_turn_is_saved_and_replayed_like_any_position(chatting):
    for turn in (Turn(), Turn("user", None, "last"), Turn("assistant", 0, "end")):
        assert pos_from_data(pos_to_data(turn)) == turn
    acts = read(chatting, CHATS, Turn("assistant", -1, "last"))
    spec = CaptureSpec.from_json(acts.provenance)
    again = capture(chatting, CHATS, **spec.arguments(progress=False))
    assert again.rows.equals(acts.rows)


def test_the_end_of_a_turn_is_the_template_s_mark(bare):
    model = with_template(bare, CHATML)
    assert _marks(model.tokenizer)["system"] == ("<|im_start|>system\n", "<|im_end|>\n")
    acts = read(model, CHATS, Turn("assistant", -1, "end"))
    assert said(model, acts, 1) == plain(model, "<|im_end|>")
    assert acts.rows.groupby("source")["position"].max().tolist() == [
        len(model.tokenizer(text, add_special_tokens=False)["input_ids"])
        for text in model.tokenizer.apply_chat_template(CHATS, tokenize=False)
    ]
    assert said(model, read(model, CHATS, Turn("system", 0)), 1) == "the king"


@pytest.mark.slow
def test_findings_of_a_turn_are_of_the_written_texts(chatting):
    rng = np.random.default_rng(0)
    words = ["paris", "rome", "oslo", "lima", "river", "king"]
    chats = [
        [{"role": "user", "content": f"where is {words[i]}"}, {"role": "assistant", "content": words[j]}]
        for i, j in rng.integers(0, 6, (40, 2))
    ]
    texts = chatting.tokenizer.apply_chat_template(chats, tokenize=False)
    table = Table.from_arrays([chat[1]["content"] < "n" for chat in chats], texts=texts, clusters=range(40))
    pos = Turn("assistant", -1, "last")
    beside = baselines(chatting, table, layers=[0], pos=pos, progress=False)
    findings = sweep(read(chatting, chats, pos), table, baselines=beside, n_bootstrap=50, progress=False)
    assert findings.provenance["pairing"] == "texts compared"


def test_what_has_no_turns_is_refused_in_a_line(chatting, bare):
    with pytest.raises(
        ValueError, match="conversation 0 needs the tokenizer's chat template, and there is none"
    ):
        read(bare, CHATS, "last")
    with pytest.raises(ValueError, match="needs the tokenizer's chat template"):
        read(bare, ["paris"], Turn())
    with pytest.raises(IndexError, match="text 1 has 1 turns of user"):
        read(chatting, CHATS, Turn("user", 1))
    with pytest.raises(ValueError, match="the chat template marks turns of user, assistant"):
        read(chatting, CHATS, Turn("tool"))
    with pytest.raises(ValueError, match="needs conversations, or texts that a chat template wrote"):
        read(chatting, [[1, 2, 3]], Turn())
    with pytest.raises(ValueError, match=r"has \{'role': 'user'\}; expected \{'role': …, 'content': …\}"):
        read(chatting, [[{"role": "user"}]], "last")
    with as_installed(), pytest.raises(ValueError, match="expected one of all, last, reasoning, answer, end"):
        Turn(part="thoughts")  # pyright: ignore
