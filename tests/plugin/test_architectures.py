"""A sample of the zoo: every layer of a ragged batch is what Hugging Face has of one text at a time."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from _zoo import ARCHITECTURES  # noqa: E402
from architectures import LIMIT, outcome  # noqa: E402

BY_NAME = {architecture.name: architecture for architecture in ARCHITECTURES}
RIGHT = (
    "Gemma3, sliding",
    "GPT2",
    "GPTNeo, local",
    "GptOss, sliding, sinks",
    "Llama4, chunks",
    "Bloom, alibi",
    "Mamba2",
    "Gemma3, looks both ways",
    "Bert, masked",
    "Phi3, longrope",
    "Qwen3, sliding",
    "GlmMoeDsa, sparse",
)
REFUSED = {
    "Cohere, parallel": "disagrees with the Hugging Face model",  # its rotary halves are interleaved
    "Falcon, new decoder": "can be loaded neither",
    "OpenAIGPT, post-norm": "its forward pass never reaches",
    "Phimoe, longrope": "no adapter",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_every_layer_of_every_text_is_hugging_faces(name: str) -> None:
    result = outcome(BY_NAME[name])
    assert result.worst is not None and result.worst <= LIMIT, result.refusal
    assert result.longest >= 64


@pytest.mark.parametrize("name", REFUSED)
def test_what_transformer_lens_cannot_run_truly_is_refused_in_a_line(name: str) -> None:
    result = outcome(BY_NAME[name])
    assert result.worst is None and result.is_right
    assert REFUSED[name] in result.refusal


def test_the_committed_table_tells_of_every_architecture() -> None:
    rows = [
        line.strip("| ").split(" | ") for line in (BENCHMARKS / "architectures.md").read_text().splitlines()
    ]
    told = {row[0]: row[-1] for row in rows[4:]}
    assert list(told) == [architecture.name for architecture in ARCHITECTURES]
    ratios = [float(said) for said in told.values() if said[0].isdigit()]
    assert len(ratios) >= 80 and max(ratios) <= LIMIT
