"""Inner products and chance cosines against closed forms and draws."""

import copy

import numpy as np
import pytest
import torch
from scipy.stats import beta

from graticule.hooks.model_view import ModelView
from graticule.probes.geometry import (
    RandomVectors,
    causal,
    cosine_matrix,
    covariance,
    degrees,
    effective_rank,
    euclidean,
    largest_of,
    root,
    unembedding_covariance,
    whitened,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def spread_out(rng, width=8):
    mixing = rng.normal(size=(width, width)) * np.geomspace(3, 0.1, width)
    return mixing @ mixing.T


@pytest.mark.slow
def test_isotropic_chance_is_the_beta_distribution():
    """cos² of a uniform direction in d dimensions is Beta(1/2, (d − 1)/2)."""
    for width in (3, 20, 640):
        direction = np.ones(width)
        chance = RandomVectors.of(np.eye(width))
        cosines = np.array([0.0, 0.01, 0.1, 0.4])
        expected = beta.sf(cosines**2, 0.5, (width - 1) / 2)
        assert np.allclose(chance.tail(cosines, direction), np.maximum(expected, 1e-100), rtol=1e-6)
        assert chance.level(0.05, direction) == pytest.approx(
            np.sqrt(beta.isf(0.05, 0.5, (width - 1) / 2)), rel=1e-5
        )


@pytest.mark.parametrize("massive", [False, True])
def test_chance_with_a_covariance_is_what_draws_give(rng, massive):
    spread = spread_out(rng, 30)
    spread[0, 0] += 1e6 * massive  # a massive direction, as residual streams have
    direction = rng.normal(size=30)
    draws = rng.multivariate_normal(np.zeros(30), spread, size=40_000)
    cosines = np.abs(cosine_matrix(draws.T, direction[:, None])[:, 0])
    chance = RandomVectors.of(spread)
    p = chance.tail(cosines, direction)  # 40,000 of them: by interpolation
    for share in (0.9, 0.5, 0.1, 0.01):
        assert (p < share).mean() == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 40_000))
    few = cosines[:20]
    assert np.allclose(chance.tail(few, direction), p[:20], rtol=5e-3)
    largest = largest_of(p, 200)
    maxima = np.array([part.min() for part in np.split(largest, 200)])
    assert (maxima < 0.5).mean() == pytest.approx(0.5, abs=0.15)


def test_an_inner_product_on_one_side_is_its_inverse_on_the_other(rng):
    spread = spread_out(rng)
    a, b = rng.normal(size=(2, 8))
    inverse = np.linalg.inv(spread)
    park = causal(spread)
    assert (park.read @ a) @ (park.read @ b) == pytest.approx(a @ inverse @ b)
    assert (park.write @ a) @ (park.write @ b) == pytest.approx(a @ spread @ b)
    white = whitened(spread)
    assert (white.read @ a) @ (white.read @ b) == pytest.approx(a @ spread @ b)
    assert (white.write @ a) @ (white.write @ b) == pytest.approx(a @ inverse @ b)
    for metric in (euclidean(8), park, white):
        assert (metric.of("read") @ a) @ (metric.of("write") @ b) == pytest.approx(a @ b)
    with pytest.raises(ValueError, match="'read' or 'write'"):
        park.of("both")


def test_the_causal_angle_knows_no_gauge(rng):
    """Activations as A x, unembedding and reads as A⁻ᵀ γ: the model is the same, so must the angles be."""
    gamma, reads, writes = rng.normal(size=(500, 8)), rng.normal(size=(8, 3)), rng.normal(size=(8, 3))
    gauge = rng.normal(size=(8, 8))
    dual = np.linalg.inv(gauge).T
    one, other = causal(covariance(gamma)), causal(covariance(gamma @ dual.T))
    for kind, before, after in (("read", reads, dual @ reads), ("write", writes, gauge @ writes)):
        seen = cosine_matrix(one.of(kind) @ before, one.of(kind) @ before)
        moved = cosine_matrix(other.of(kind) @ after, other.of(kind) @ after)
        assert np.allclose(seen, moved)
        assert not np.allclose(cosine_matrix(before, before), cosine_matrix(after, after), atol=0.05)


def test_causally_separable_concepts_are_orthogonal(rng):
    """Park et al., Theorem 3.4: with Cov(γ) = G D Gᵀ for concepts G, Gᵀ Cov⁻¹ G is diagonal."""
    concepts = rng.normal(size=(6, 6))
    spread = concepts @ np.diag(rng.uniform(0.5, 2, 6)) @ concepts.T
    seen = causal(spread).read @ concepts
    assert np.allclose(cosine_matrix(seen, seen), np.eye(6), atol=1e-6)
    assert abs(cosine_matrix(concepts, concepts) - np.eye(6)).max() > 0.2


def test_small_pure_functions(rng):
    assert effective_rank(np.ones(7)) == pytest.approx(7)
    assert effective_rank(np.array([3.0, 0.0])) == pytest.approx(1)
    assert np.isnan(effective_rank(np.zeros(2)))
    assert np.allclose(degrees(np.array([[1.0, 0.0, -1.0]])), [[0, 90, 180]])
    assert np.isnan(cosine_matrix(np.zeros((4, 1)), np.ones((4, 1)))).all()
    singular = np.diag([4.0, 1.0, 0.0])
    assert np.allclose(root(singular, -0.5), np.diag([0.5, 1.0, 0.0]))
    rows = rng.normal(size=(50, 3)) + 5
    assert np.allclose(covariance(rows), np.cov(rows.T, ddof=0))
    assert np.allclose(covariance(rows, centred=False), rows.T @ rows / 50)
    for broken in (np.zeros((2, 2)), np.full((2, 2), np.nan)):
        with pytest.raises(ValueError, match="covariance"):
            root(broken, 0.5)
    with pytest.raises(ValueError, match="zero covariance"):
        RandomVectors.of(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="length 0"):
        RandomVectors.of(np.eye(2)).tail(np.array([0.1]), np.zeros(2))


# The unembedding ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["hooked", "bridge"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_unembedding_is_what_moves_the_logits(load_tiny, family, kind):
    """A step of the residual stream moves logit differences by the step's product with γ's differences, at a
    norm held fixed: the covariance of those moves over the vocabulary is stepᵀ Cov(γ) step."""
    whole = load_tiny(family, kind)
    with torch.no_grad():  # a bridge keeps what its last pass computed, which cannot be copied with gradients
        whole(torch.tensor([[1, 2, 3]]))
    model = copy.deepcopy(whole)
    width = model.cfg.d_model
    with torch.no_grad():
        model.ln_final.weight.copy_(torch.rand(width) + 0.5) if kind == "bridge" else model.ln_final.w.copy_(
            torch.rand(width) + 0.5
        )
    spread = unembedding_covariance(model)
    rows = torch.randn(1, 1, width, generator=torch.Generator().manual_seed(3)) * 5
    step = torch.randn(1, 1, width, generator=torch.Generator().manual_seed(4))

    def logits(x):
        return (model.ln_final(x) @ model.W_U)[0, 0].double()

    centred = rows - rows.mean() if family == "gpt2" else rows
    scale = float(centred.square().mean().sqrt())
    along = step - rows * float(
        (step * centred).sum() / (rows * centred).sum()
    )  # keeps the norm, to first order
    with torch.no_grad():
        moved = (logits(rows + 1e-3 * along) - logits(rows - 1e-3 * along)) / 2e-3 * scale
    direction = along[0, 0].double().numpy()
    assert float(moved.var(unbiased=False)) == pytest.approx(direction @ spread @ direction, rel=2e-3)


def test_folding_the_final_norm_changes_nothing(load_tiny):
    model = copy.deepcopy(load_tiny("gpt2", "hooked"))
    with torch.no_grad():
        model.ln_final.w.copy_(torch.rand(model.cfg.d_model) + 0.5)
    before, gain = unembedding_covariance(model), ModelView(model).final_gain()
    assert gain[1]
    assert np.allclose(gain[0], model.ln_final.w.detach().numpy(), rtol=1e-4)
    model.load_and_process_state_dict(model.state_dict(), fold_ln=True, center_unembed=False)
    after = unembedding_covariance(model)
    assert np.allclose(before, after, rtol=1e-3, atol=1e-3 * np.abs(before).max())


def test_a_model_without_unembedding_is_refused(load_tiny):
    model = load_tiny("llama", "hooked")

    class Bare:
        cfg = model.cfg
        hook_dict, training = model.hook_dict, False
        hooks, parameters, named_parameters = model.hooks, model.parameters, model.named_parameters
        __call__ = model.forward

    with pytest.raises(ValueError, match="W_U"):
        unembedding_covariance(Bare())
