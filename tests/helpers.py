"""What several tests compare with."""

import copy
import json
import math

import numpy as np
import torch

FAMILIES = ("gpt2", "llama", "qwen3")


def cached(model, tokens):
    """`run_with_cache`, the oracle of every capture."""
    with torch.no_grad():
        return model.run_with_cache(tokens)[1]


def relative(got, expected) -> float:
    """Norm of the difference over the norm of what was expected."""
    got, expected = got.double().flatten(), expected.double().flatten()
    assert got.shape == expected.shape
    return float((got - expected).norm() / expected.norm().clamp_min(1e-30))


def as_installed():
    """A context without the test suite's type checks: what a user's wrong argument meets."""
    from contextlib import contextmanager

    from jaxtyping import config

    @contextmanager
    def unchecked():
        config.update("jaxtyping_disable", True)
        try:
            yield
        finally:
            config.update("jaxtyping_disable", False)

    return unchecked()


def alike(a, b) -> bool:
    """Equal in value and kind, all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and bool((a == b).all())
    if isinstance(a, dict):
        return list(a) == list(b) and all(alike(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    return a == b or (a != a and b != b)


def optimizer_state() -> dict:
    """A real optimiser's state after a step: integer keys, tuples, tensors of several shapes."""
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


STATE: dict = {
    "optimizer": optimizer_state(),
    "numbers": [1, 2**70, 0.1, 1e-300, -math.inf, math.nan, True, None, "words", (1, (2.5, "x"))],
    "a.b": torch.arange(3),
    "a": {"b": torch.arange(4, dtype=torch.int16), "$tensor": "a name like ours"},
    "words": {"": {}, "ü": "ü"},
    "array": np.arange(3, dtype=np.uint8),
    "empty": [torch.zeros(0, 2), torch.zeros(0), {}, []],
    "half": torch.ones(2, dtype=torch.bfloat16),
    "scalar": torch.tensor(0.1, dtype=torch.float64),
    "torch": torch.get_rng_state(),
    "pcg": np.random.default_rng(3).bit_generator.state,
}
"""What a long job's state holds, and what JSON or safetensors would not give back by themselves."""


def sae_by_override(model, tokens, d_in: int, d_sae: int, **settings):
    """An SAE that SAELens's own runner trains on a model handed to it, from rows of token ids.

    `settings` are the runner's: `hook_name`, `context_size`, `training_tokens`, ….
    """
    import datasets
    from sae_lens import (
        LanguageModelSAERunnerConfig,
        LanguageModelSAETrainingRunner,
        LoggingConfig,
        StandardTrainingSAEConfig,
    )

    config = LanguageModelSAERunnerConfig(
        sae=StandardTrainingSAEConfig(d_in=d_in, d_sae=d_sae, l1_coefficient=1e-3),
        model_name=model.cfg.model_name,
        train_batch_size_tokens=64,
        store_batch_size_prompts=32,
        is_dataset_tokenized=True,
        prepend_bos=False,
        streaming=False,
        device="cpu",
        n_checkpoints=0,
        checkpoint_path=None,
        output_path=None,
        verbose=False,
        logger=LoggingConfig(log_to_wandb=False),
        **settings,
    )
    rows = datasets.Dataset.from_dict({"tokens": tokens.tolist()})
    return LanguageModelSAETrainingRunner(config, rows, override_model=model).run()


def with_two_words_exchanged(model, texts):
    """A copy of a tiny model whose tokenizer gives two words of `texts` each other's ids."""
    edited = copy.deepcopy(model)
    backend = json.loads(edited.tokenizer.backend_tokenizer.to_str())
    words, used = backend["model"]["vocab"], {w for text in texts for w in text.lower().split()}
    one, two = [word for word in words if word in used][:2]
    words[one], words[two] = words[two], words[one]
    edited.tokenizer._tokenizer = type(edited.tokenizer.backend_tokenizer).from_str(json.dumps(backend))
    return edited


def misread_axes(figure) -> list[str]:
    """Axes that plotly would read as numbers or dates though a trace's values there are names."""
    spec, found = json.loads(figure.to_json()), []
    for trace in spec["data"]:
        for letter in "xy":
            values = trace.get(letter, [])
            if not isinstance(values, list):  # numbers, in plotly's own coding
                continue
            if letter not in trace and (trace["type"], letter) == ("box", "x"):
                values = [trace.get("name", 0)]
            axis = trace.get(f"{letter}axis", letter).replace(letter, f"{letter}axis", 1)
            kind = spec["layout"].get(axis, {}).get("type")
            levels = [value if isinstance(value, list) else [value] for value in values]
            if any(isinstance(v, str) for level in levels for v in level) and "category" not in str(kind):
                found.append(f"{axis}: {values[:3]}")
    return found


SINCE = {"carried", "cross_fitted", "family", "monitor", "retest"}
"""Kinds of results that 0.1 did not have."""
