"""The paper's autoencoder: its loss, its decoder, its start, and what it is to a plain SAELens."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import relative
from sae_lens import SAE, SAETrainer, StandardTrainingSAE, StandardTrainingSAEConfig, TrainingSAE
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import TrainStepInput
from safetensors.torch import load_file, save_file

from graticule.saes.architectures import (
    BrickenTrainingSAE,
    BrickenTrainingSAEConfig,
    geometric_median,
    mean_convention,
    start_bias,
    sum_convention,
)
from graticule.saes.steps.fast import fast_step, make_optimizer

D_IN, D_SAE = 12, 40


def make(dtype: str = "float32", **more: Any) -> BrickenTrainingSAE:
    torch.manual_seed(0)
    return BrickenTrainingSAE(BrickenTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, dtype=dtype, **more))


def batch_of(rows: int = 64, seed: int = 3) -> torch.Tensor:
    return torch.randn(rows, D_IN, generator=torch.Generator().manual_seed(seed))


def run(sae: Any, x: torch.Tensor, l1: float) -> Any:
    return sae.training_forward_pass(TrainStepInput(x, {"l1": l1}, None, 0, False))


def test_the_loss_is_the_papers():
    sae = make("float64", l1_coefficient=0.02)
    with torch.no_grad():
        sae.b_dec.normal_()
        sae.b_enc.normal_(std=0.1)
    x = batch_of().double()
    made = run(sae, x, 0.02)
    w = {name: value.detach().numpy() for name, value in sae.named_parameters()}
    acts = np.maximum((x.numpy() - w["b_dec"]) @ w["W_enc"] + w["b_enc"], 0)
    out = acts @ w["W_dec"] + w["b_dec"]
    mse = np.mean((x.numpy() - out) ** 2)
    assert float(made.losses["mse_loss"].detach()) == pytest.approx(mse, rel=1e-12)
    assert float(made.loss.detach()) == pytest.approx(mse + 0.02 * acts.sum(1).mean(), rel=1e-12)


def test_the_conversion_to_saelens_convention():
    assert sum_convention(0.004, 512) == pytest.approx(2.048)
    assert mean_convention(sum_convention(0.1, 7), 7) == pytest.approx(0.1)
    ours = make("float64")
    config = StandardTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, dtype="float64")
    theirs = StandardTrainingSAE(config)
    theirs.load_state_dict(ours.state_dict())
    x = batch_of().double()
    with torch.no_grad():
        summed = run(theirs, x, sum_convention(0.03, D_IN)).loss
        assert relative(D_IN * run(ours, x, 0.03).loss, summed) < 1e-12


def test_the_gradient_has_no_part_along_the_decoder():
    sae = make("float64")
    x = batch_of().double()
    run(sae, x, 0.01).loss.backward()
    along = (sae.W_dec.grad * sae.W_dec.detach()).sum(1)
    assert float(sae.W_dec.grad.norm(dim=1).max()) > 1e-3
    assert float(along.abs().max()) < 1e-15
    # it is the plain gradient less that part
    plain = StandardTrainingSAE(StandardTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, dtype="float64"))
    plain.load_state_dict(sae.state_dict())
    (plain.mse_loss_fn(plain.decode(plain.encode(x)), x).mean()).backward()
    d = sae.W_dec.detach()
    expected = plain.W_dec.grad - (plain.W_dec.grad * d).sum(1, keepdim=True) * d
    assert relative(sae.W_dec.grad, expected) < 1e-12
    twin = copy.deepcopy(sae)
    twin.W_dec.grad = None
    run(twin, x, 0.01).loss.backward()
    assert relative(twin.W_dec.grad, sae.W_dec.grad) < 1e-12  # a copy keeps the projection


def test_the_optimiser_keeps_unit_norm():
    sae = make()
    optimizer, step = make_optimizer(sae, 0.05), fast_step(sae)
    for i in range(5):
        step(batch_of(seed=i), torch.zeros(D_SAE), {"l1": 0.01})
        optimizer.step()
        assert float((sae.get_W_dec_norm() - 1).abs().max()) < 1e-6


def test_how_it_starts():
    sae = make()
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(D_SAE), atol=1e-6)
    bound = (6 / D_IN) ** 0.5  # Kaiming-uniform, fan-in d_in
    assert 0.97 * bound < float(sae.W_enc.detach().abs().max()) <= bound
    assert abs(torch.nn.functional.cosine_similarity(sae.W_enc.T, sae.W_dec).mean().item()) < 0.2  # untied
    assert not sae.b_enc.any() and not sae.b_dec.any()
    rows = batch_of(200) ** 2
    start_bias(sae, rows)
    assert relative(sae.b_dec.detach(), geometric_median(rows)) < 1e-6


def test_where_the_bias_starts():
    rows = batch_of(200) ** 2
    sae = make()
    start_bias(sae, rows, "zeros")
    assert not sae.b_dec.any()
    start_bias(sae, rows, "mean")
    assert torch.allclose(sae.b_dec, rows.mean(0), atol=1e-6)
    config = StandardTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, apply_b_dec_to_input=False)
    blind = StandardTrainingSAE(config)
    start_bias(blind, rows)  # the encoder would not know
    assert not blind.b_dec.any()


def test_saelens_own_trainer_trains_it(tmp_path):
    sae = make(l1_coefficient=0.003)
    config = SAETrainerConfig(
        total_training_samples=64 * 150, train_batch_size_samples=64, lr=3e-3, lr_end=3e-3
    )
    x = [batch_of(seed=i) for i in range(10)]
    first = float(run(sae, x[0], 0.003).loss.detach())
    trained = SAETrainer(config, sae, iter(x * 15)).fit()
    assert float(run(trained, x[0], 0.003).loss.detach()) < 0.6 * first
    trained.save_inference_model(tmp_path)
    loaded = SAE.load_from_disk(tmp_path)
    assert torch.allclose(loaded.W_dec.norm(dim=1), torch.ones(D_SAE), atol=1e-6)
    assert relative(loaded(x[0]).detach(), trained(x[0]).detach()) < 1e-6


PLAIN = """
import json, sys
sys.modules["graticule"] = None  # importing it would fail
from pathlib import Path
from safetensors.torch import load_file, save_file
from sae_lens import SAE
folder = Path(sys.argv[1])
sae = SAE.load_from_disk(folder)
x = load_file(folder / "x.safetensors")["x"]
acts = sae.encode(x)
save_file({"acts": acts.detach(), "out": sae.decode(acts).detach(), "whole": sae(x).detach(),
           **{n: p.detach() for n, p in sae.named_parameters()}}, folder / "theirs.safetensors")
print(json.dumps({"class": type(sae).__name__, "architecture": sae.cfg.architecture(),
                  "trained": sae.cfg.metadata.training_architecture,
                  "details": sae.cfg.metadata.training_architecture_details}))
"""


def in_plain_saelens(folder: Path, x: torch.Tensor) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    save_file({"x": x}, folder / "x.safetensors")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PLAIN, str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), load_file(folder / "theirs.safetensors")


@pytest.mark.slow
def test_plain_saelens_loads_it_without_graticule(tmp_path):
    sae = make(l1_coefficient=0.007)
    optimizer, step = make_optimizer(sae, 0.01), fast_step(sae)
    for i in range(20):
        step(batch_of(seed=i), torch.zeros(D_SAE), {"l1": 0.007})
        optimizer.step()
    sae.save_inference_model(tmp_path)
    assert json.loads((tmp_path / "cfg.json").read_text())["architecture"] == "standard"
    x = batch_of(seed=50)
    words, theirs = in_plain_saelens(tmp_path, x)
    assert words["class"] == "StandardSAE" and words["architecture"] == "standard"
    assert words["trained"] == "bricken" and words["details"]["l1_coefficient"] == 0.007
    for name, value in sae.named_parameters():
        assert torch.equal(theirs[name], value.detach()), name
    with torch.no_grad():
        assert float((theirs["acts"] - sae.encode(x)).abs().max()) <= 1e-6
        assert float((theirs["whole"] - sae(x)).abs().max()) <= 1e-6
        assert float((theirs["out"] - theirs["whole"]).abs().max()) <= 1e-6


def test_a_folded_scaling_factor_leaves_the_decoder_at_unit_norm(tmp_path):
    sae = make("float64", normalize_activations="expected_average_only_in")
    with torch.no_grad():
        sae.b_enc.normal_()
        sae.b_dec.normal_()
    x = batch_of().double()
    expected = sae(2.5 * x).detach() / 2.5
    sae.fold_activation_norm_scaling_factor(2.5)
    sae.save_inference_model(tmp_path)
    loaded = SAE.load_from_disk(tmp_path, dtype="float64")
    assert relative(loaded(x).detach(), expected) < 1e-12
    assert torch.allclose(loaded.W_dec.norm(dim=1), torch.ones(D_SAE, dtype=torch.float64))


def test_saelens_builds_it_by_name():
    sae = make(l1_coefficient=0.5, l1_warm_up_steps=7)
    again = TrainingSAE.from_dict(json.loads(json.dumps(sae.cfg.to_dict())))
    assert type(again) is BrickenTrainingSAE
    assert again.get_coefficients()["l1"] == (0.5, 7)


def test_what_is_refused():
    for wrong in (
        {"decoder_init_norm": 0.1},
        {"apply_b_dec_to_input": False},
        {"l1_coefficient": -1.0},
        {"normalize_activations": "layer_norm"},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            make(**wrong)
    with pytest.raises(ValueError, match="no rows"):
        geometric_median(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="finite"):
        geometric_median(torch.tensor([[1.0], [float("nan")]]))


def test_median_against_a_general_minimiser():
    from scipy.optimize import minimize

    rows = batch_of(80).double() * torch.linspace(0.2, 3, D_IN).double() + torch.arange(D_IN)
    rows[:5] += 100
    points = rows.numpy()

    def total(point: np.ndarray) -> float:
        return float(np.linalg.norm(points - point, axis=1).sum())

    expected = minimize(total, points.mean(0), method="BFGS", options={"gtol": 1e-8}).x
    got = geometric_median(rows, tolerance=1e-12, max_iterations=2000).numpy()
    assert np.abs(got - expected).max() < 1e-4
    assert total(got) <= total(expected) + 1e-9
    assert total(got) < 0.99 * total(points.mean(0))


def test_median_where_it_is_a_row():
    line = torch.tensor([[0.0], [1.0], [2.0], [3.0], [50.0]])
    assert float(geometric_median(line, 1e-12, 5000)[0]) == pytest.approx(2.0, abs=1e-3)
    cross = torch.tensor([[0.0, 0.0], [1, 0], [-1, 0], [0, 1], [0, -1]])  # the mean is a row, and the median
    assert torch.equal(geometric_median(cross), torch.zeros(2, dtype=torch.float64))
    heavy = torch.tensor([[0.0, 0.0]] * 5 + [[1.0, 0], [2, 0], [0, 3]])  # five of eight rows hold it
    assert float(geometric_median(heavy, 1e-12, 5000).norm()) < 1e-3
    held = torch.tensor([[0.0, 0.0], [5, 0], [5, 0.1], [5, -0.1], [-15, 0]])  # the mean is a row
    got = geometric_median(held, 1e-12, 5000)
    assert float((got - torch.tensor([5.0, 0.0])).norm()) < 0.1
    assert torch.equal(geometric_median(torch.ones(3, 2)), torch.ones(2, dtype=torch.float64))
