"""SAELens SAEs of several architectures on activation rows: their own encode is the oracle."""

import copy

import numpy as np
import pytest
import torch

from graticule import Activations
from graticule.hooks.latents import encode
from graticule.hooks.points import PointError
from graticule.hooks.values import NonFiniteError

WIDTH, D_SAE, POINT = 12, 40, "blocks.1.hook_resid_post"
KINDS = ("standard", "topk", "jumprelu", "gated", "matching_pursuit", "transcoder")
NORMS = ("none", "layer_norm", "constant_norm_rescale")

pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'utils' module has been deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:HookedTransformer:DeprecationWarning"),
]


def make(kind="standard", point=POINT, metadata=None, **cfg):
    """An untrained SAE of a kind, every parameter drawn, as from a file."""
    from sae_lens.registry import get_sae_class
    from sae_lens.saes.sae import SAEMetadata

    cls, config = get_sae_class(kind)
    cfg = {"d_in": WIDTH, "d_sae": D_SAE, "apply_b_dec_to_input": kind != "transcoder", **cfg}
    cfg |= {"k": 5} if kind == "topk" else {}
    cfg |= {"d_out": WIDTH} if kind == "transcoder" else {}
    cfg |= {"max_iterations": 4} if kind == "matching_pursuit" else {}
    sae = cls(config(**cfg, metadata=SAEMetadata(**{"hook_name": point, **(metadata or {})})))
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=drawn))
            if name == "W_dec":
                parameter /= parameter.norm(dim=1, keepdim=True)
    return sae


@pytest.fixture(scope="module")
def acts():
    drawn = torch.Generator().manual_seed(1)
    tensors = {
        "blocks.0.hook_resid_post": torch.randn(90, WIDTH, generator=drawn),
        POINT: 3 * torch.randn(90, WIDTH, generator=drawn) + 1,
        "blocks.1.attn.hook_z": torch.randn(90, 2 * WIDTH, generator=drawn),
    }
    return Activations.from_tensors(tensors)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_latents_are_the_saes_own(acts, kind, norm):
    sae = make(kind, normalize_activations=norm)
    with torch.no_grad():
        expected = sae.encode(acts[POINT])
    got = acts.encode(sae, batch=37)
    assert got.shape == (90, D_SAE)
    assert np.allclose(got.values.toarray(), expected.numpy(), atol=1e-6)
    assert got.l0 == pytest.approx(float((expected != 0).sum(1).float().mean()))
    assert np.allclose(got.frequency, (expected != 0).float().mean(0).numpy())
    assert np.allclose(got.dense(np.array([3, 1]), np.arange(5)), expected[:5, [3, 1]], atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", [k for k in KINDS if k != "transcoder"])
def test_reconstruction_and_error_add_up_to_the_rows(acts, kind, norm):
    sae = make(kind, normalize_activations=norm)
    with torch.no_grad():
        expected = sae(acts[POINT])
    got = encode(acts, sae)
    index = np.array([70, 3, 4, 12])
    assert np.allclose(got.reconstruction(index), expected[torch.from_numpy(index)], atol=1e-5)
    whole = got.reconstruction(index) + got.error(index)
    assert np.allclose(whole, acts[POINT][torch.from_numpy(index)], atol=1e-5)


def test_a_store_gives_the_same(acts, tmp_path):
    from graticule import Store

    acts.save(tmp_path / "acts")
    sae = make("topk")
    stored = Store(tmp_path / "acts").encode(sae, batch=50)
    assert (stored.values != acts.encode(sae).values).nnz == 0
    index = np.array([5, 80])
    assert np.array_equal(stored.error(index), acts.encode(sae).error(index))


@pytest.mark.parametrize("norm", NORMS)
def test_concatenated_heads(acts, norm):
    """SAELens takes `[row, head, d_head]` there; captured rows are flat."""
    point = "blocks.1.attn.hook_z"
    sae = make("standard", point, d_in=2 * WIDTH, reshape_activations="hook_z", normalize_activations=norm)
    heads = acts[point].reshape(90, 2, WIDTH)
    early = acts.encode(copy.deepcopy(sae)).reconstruction(np.arange(90))
    got = acts.encode(sae)  # before the SAE has seen any heads itself
    with torch.no_grad():
        expected, whole = sae.encode(heads), sae(heads)
    assert np.allclose(got.values.toarray(), expected.numpy(), atol=1e-6)
    assert np.allclose(got.reconstruction(np.arange(90)), whole.reshape(90, -1).numpy(), atol=1e-5)
    assert np.allclose(early, whole.reshape(90, -1).numpy(), atol=1e-5)
    with torch.no_grad():
        assert torch.equal(sae(heads), whole)  # and it still takes heads


def test_one_head_of_a_point(acts):
    sae = make("standard", "blocks.1.attn.hook_z", {"hook_head_index": 1})
    with torch.no_grad():
        expected = sae.encode(acts["blocks.1.attn.hook_z"][:, WIDTH:])
    assert np.allclose(acts.encode(sae).values.toarray(), expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("kind", ["standard", "jumprelu", "topk"])
def test_latents_that_are_no_numbers_are_refused(acts, kind):
    sae = make(kind)
    with torch.no_grad():
        sae.b_enc[5] = torch.nan
        sae.W_enc[:, 5] = torch.nan
    with pytest.raises(NonFiniteError, match=r"latents: .* non-finite entries, the first in row 0"):
        acts.encode(sae)


def test_rows_that_are_no_numbers_are_refused(acts):
    held = Activations({POINT: acts[POINT].clone()}, acts.rows)
    held[POINT][41, 3] = torch.inf
    with pytest.raises(NonFiniteError, match=f"{POINT}: 1 non-finite entries, the first in row 41"):
        encode(held, make("jumprelu"), batch=20)


def test_the_sae_is_left_as_found(acts):
    sae = make("standard", normalize_activations="layer_norm").train()
    sae.activation_fn.eval()
    before = {k: v.clone() for k, v in sae.state_dict().items()}
    state = {k: v for k, v in vars(sae).items() if not k.startswith("_")}
    draws = torch.random.get_rng_state()
    latents = acts.encode(sae)
    latents.reconstruction(np.arange(3))
    assert sae.training
    assert not sae.activation_fn.training
    assert {k: v for k, v in vars(sae).items() if not k.startswith("_")} == state
    assert all(torch.equal(before[k], v) for k, v in sae.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in sae.parameters())
    assert torch.equal(draws, torch.random.get_rng_state())
    assert torch.is_grad_enabled()
    with pytest.raises(RuntimeError):
        sae.register_forward_hook(lambda *_: None)
        sae.hook_sae_input.register_forward_hook(_fail)
        acts.encode(sae)
    assert sae.training


def _fail(*_):
    raise RuntimeError("a hook of the user's own")


def test_half_precision(acts):
    sae = make("topk").to(dtype=torch.bfloat16)
    with torch.no_grad():
        expected = sae.encode(acts[POINT])
    got = acts.encode(sae)
    assert got.values.dtype == np.float32
    assert np.array_equal(got.values.toarray(), expected.float().numpy())
    assert sae.dtype == torch.bfloat16


def test_what_cannot_be_encoded_is_refused(acts, caplog):
    with pytest.raises(
        PointError, match=r"blocks\.3\.hook_resid_post.*captured point is blocks\.1\.hook_resid"
    ):
        acts.encode(make(point="blocks.3.hook_resid_post"))
    with pytest.raises(ValueError, match="width 12, the SAE has d_in 9"):
        acts.encode(make(d_in=9))
    with pytest.raises(ValueError, match="names no hook_name"):
        acts.encode(make(point=None))
    assert acts.encode(make(point=None), POINT).point == POINT
    with pytest.raises(ValueError, match="transcoder from"):
        acts.encode(make("transcoder")).reconstruction(np.arange(2))
    acts.encode(make(normalize_activations="expected_average_only_in"))
    assert "fold" in caplog.text


def test_an_sae_whose_latents_depend_on_the_batch_is_refused(acts):
    from sae_lens.registry import get_sae_training_class

    cls, config = get_sae_training_class("batchtopk")
    with pytest.raises(ValueError, match="save_inference_model"):
        acts.encode(cls(config(d_in=WIDTH, d_sae=D_SAE, k=4)), POINT)


def test_folders_and_runs_are_encoded_as_the_saes_they_hold(acts, tmp_path):
    from types import SimpleNamespace

    sae = make("topk")
    sae.save_model(tmp_path / "sae")
    expected = acts.encode(sae).values.toarray()
    for given in (tmp_path / "sae", str(tmp_path), SimpleNamespace(path=tmp_path)):
        assert np.allclose(acts.encode(given).values.toarray(), expected, atol=1e-6)
    with pytest.raises(FileNotFoundError, match="holds no SAELens SAE"):
        acts.encode(tmp_path / "nothing")
    with pytest.raises(TypeError, match="dict is no SAE: give a SAELens SAE, its folder, or"):
        acts.encode({})
