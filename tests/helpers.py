"""What several tests compare with."""

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
