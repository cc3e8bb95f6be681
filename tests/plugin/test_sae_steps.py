"""The fast training steps against SAELens's own forward and backward, architecture by architecture."""

from typing import Any

import pytest
import torch
from helpers import relative
from sae_lens import SAETrainer
from sae_lens.config import SAETrainerConfig
from sae_lens.registry import get_sae_training_class
from sae_lens.saes.sae import TrainStepInput

import graticule.saes.architectures  # noqa: F401 registers `bricken`
from graticule.saes.steps.dense import DenseStep, JumpReLUStep
from graticule.saes.steps.entries import Entries, group_size, top_of_batch, top_of_rows
from graticule.saes.steps.fast import fast_step, make_optimizer
from graticule.saes.steps.step import GenericStep
from graticule.saes.steps.topk import SparseStep

BATCH, D_IN, D_SAE = 48, 10, 64
WIDTHS = [8, 24, D_SAE]
SPARSE: dict[str, dict[str, Any]] = {
    "topk": {"k": 4},
    "batchtopk": {"k": 4.5},
    "matryoshka_batchtopk": {"k": 6, "matryoshka_widths": WIDTHS},
    "matryoshka_batchtopk nested": {"k": 6, "matryoshka_widths": WIDTHS, "use_matryoshka_aux_loss": True},
}
DENSE: dict[str, dict[str, Any]] = {
    "standard": {"l1_coefficient": 0.7},
    "bricken": {"l1_coefficient": 0.05},
    "jumprelu": {"jumprelu_bandwidth": 0.8, "jumprelu_init_threshold": 0.3, "l0_coefficient": 0.2},
    "jumprelu ste": {
        "jumprelu_bandwidth": 0.8,
        "jumprelu_init_threshold": 0.3,
        "jumprelu_ste_to_input": True,
        "pre_act_loss_coefficient": 0.3,
    },
    "jumprelu tanh": {
        "jumprelu_bandwidth": 0.8,
        "jumprelu_sparsity_loss_mode": "tanh",
        "pre_act_loss_coefficient": 0.3,
    },
    "jumprelu quadratic": {
        "jumprelu_bandwidth": 0.8,
        "jumprelu_sparsity_loss_mode": "quadratic",
        "target_l0": 5.0,
        "jumprelu_ste_to_input": True,
    },
}
FAST = {"topk": SparseStep, "batchtopk": SparseStep, "matryoshka_batchtopk": SparseStep}
FAST |= {"standard": DenseStep, "bricken": DenseStep, "jumprelu": JumpReLUStep}


def make_sae(name: str, dtype: str = "float64", seed: int = 0, **more: Any) -> Any:
    """An SAE whose every weight is random, decoder norms between a half and two."""
    architecture = name.split()[0]
    cls, config = get_sae_training_class(architecture)
    given = {**SPARSE, **DENSE}.get(name, {})
    sae: Any = cls(config(d_in=D_IN, d_sae=D_SAE, dtype=dtype, **{**given, **more}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter_name, parameter in sae.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter_name == "threshold":
                parameter.add_(0.05 * noise)  # some of them below zero: SAELens clamps
            else:
                parameter.copy_(noise / (1 if "W" in parameter_name else 4))
        norms = 0.5 + 1.5 * torch.rand(D_SAE, generator=generator, dtype=torch.float64)
        sae.W_dec.mul_((norms / sae.W_dec.double().norm(dim=1))[:, None])
        if architecture == "bricken":
            sae.renormalize_decoder()
    return sae


def batch_of(dtype: torch.dtype = torch.float64, rows: int = BATCH) -> torch.Tensor:
    return torch.randn(rows, D_IN, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(dtype)


def since_fired(dead: list[int]) -> torch.Tensor:
    out = torch.zeros(D_SAE)
    out[dead] = 1001
    return out


def coefficients_of(sae: Any) -> dict[str, float]:
    return {name: float(getattr(value, "value", value)) for name, value in sae.get_coefficients().items()}


def oracle(sae: Any, x: torch.Tensor, since: torch.Tensor) -> Any:
    """SAELens's own step; leaves its gradients in the SAE."""
    made = sae.training_forward_pass(
        TrainStepInput(
            sae_in=x,
            coefficients=coefficients_of(sae),
            dead_neuron_mask=since > 1000,
            n_training_steps=0,
            is_logging_step=False,
        )
    )
    made.loss.backward()
    return made


def check(name: str, dead: list[int], dtype: str = "float64", tolerance: float = 1e-9, **more: Any) -> None:
    ours, theirs = make_sae(name, dtype, **more), make_sae(name, dtype, **more)
    x, since = batch_of(ours.dtype), since_fired(dead)
    for parameter in ours.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)  # to be set, not added to
    step = fast_step(ours)
    assert type(step) is FAST[name.split()[0]]
    made, expected = step(x, since, coefficients_of(ours)), oracle(theirs, x, since)
    assert relative(made.loss, expected.loss.detach()) < tolerance
    assert set(made.losses) == set(expected.losses)
    for term, value in expected.losses.items():
        assert relative(made.losses[term], value.detach()) < tolerance, term
    if name.split()[0] in FAST and "topk" in name and dead:
        assert float(made.losses["auxiliary_reconstruction_loss"]) > 0
    for (where, p), (_, q) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        # SAELens keeps thresholds in float32 whatever the SAE's dtype
        assert relative(p.grad, q.grad) < (1e-6 if p.dtype != x.dtype else tolerance), where
        assert torch.equal(p, q), where  # renormalising and clamping alike
    for (where, p), (_, q) in zip(ours.named_buffers(), theirs.named_buffers(), strict=True):
        assert relative(p, q) < tolerance, where
    fires = expected.feature_acts.detach().to_dense() != 0
    assert torch.equal(made.fired.long(), fires.sum(0))
    assert float(made.l0) == pytest.approx(float(fires.sum(1).double().mean()))
    assert relative(made.sae_out, expected.sae_out.detach()) < tolerance
    trainer = make_trainer(theirs, x)
    logged = trainer.build_train_step_log_dict(expected, 0)
    assert float(made.explained_variance) == pytest.approx(logged["metrics/explained_variance"], rel=1e-5)


def make_trainer(sae: Any, x: torch.Tensor, lr: float = 1e-3) -> SAETrainer[Any, Any]:
    config = SAETrainerConfig(
        total_training_samples=10 * len(x), train_batch_size_samples=len(x), lr=lr, lr_end=lr
    )
    return SAETrainer(config, sae, iter([x] * 10))


@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dead", [[], [3, 9, 40], list(range(5, 60, 2))], ids=["alive", "few", "many"])
def test_sparse_step_is_saelens_step(name, rescale, tied, dead):
    check(name, dead, rescale_acts_by_decoder_norm=rescale, apply_b_dec_to_input=tied)


@pytest.mark.parametrize(
    ("name", "tied"), [(name, tied) for name in DENSE for tied in (True, False) if tied or name != "bricken"]
)
@pytest.mark.parametrize("dead", [[], [3, 9, 40]], ids=["alive", "few"])
def test_dense_step_is_saelens_step(name, tied, dead):
    check(name, dead, apply_b_dec_to_input=tied)


@pytest.mark.parametrize("name", [*SPARSE, *DENSE])
def test_float32(name):
    check(name, [3, 9, 40], "float32", 1e-5)


@pytest.mark.slow
def test_whole_trainings_agree():
    """Thirty steps of ours end at the weights of SAELens's trainer, latents dying and reviving meanwhile."""
    for name in ("topk", "batchtopk", "standard"):
        ours, theirs = make_sae(name), make_sae(name)
        batches = [batch_of() * (1 + i) for i in range(30)]
        config = SAETrainerConfig(
            total_training_samples=30 * BATCH,
            train_batch_size_samples=BATCH,
            lr=0.01,
            lr_end=0.01,
            dead_feature_window=3,
        )
        trainer: Any = SAETrainer(config, theirs, iter(batches))
        optimizer = make_optimizer(ours, 0.01)
        step = fast_step(ours, dead_feature_window=3)
        since, revived = torch.zeros(D_SAE), 0.0
        for x in batches:
            expected = trainer.step(x)
            made = step(x, since, coefficients_of(ours))
            since = torch.where(made.fired > 0, 0.0, since + 1)
            torch.nn.utils.clip_grad_norm_(ours.parameters(), 1.0)
            optimizer.step()
            assert relative(made.loss, expected.loss.detach()) < 1e-7, name
            assert torch.equal(since, trainer.n_forward_passes_since_fired)
            revived += float(made.losses.get("auxiliary_reconstruction_loss", 0.0))
        assert name == "standard" or revived > 0
        for (where, p), (_, q) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
            assert relative(p.detach(), q.detach()) < 1e-6, (name, where)


@pytest.mark.parametrize("name", [*SPARSE, *DENSE])
def test_bfloat16_is_near(name):
    exact, low = make_sae(name, "float32"), make_sae(name, "float32")
    x, since = batch_of(torch.float32), since_fired([3, 9, 40])
    expected = fast_step(exact)(x, since, coefficients_of(exact))
    made = fast_step(low, compute_dtype=torch.bfloat16)(x, since, coefficients_of(low))
    assert made.loss.dtype == torch.float32
    assert 0 < relative(made.loss, expected.loss) < 0.03
    for (where, p), (_, q) in zip(low.named_parameters(), exact.named_parameters(), strict=True):
        assert p.dtype == q.dtype and p.grad.dtype == q.grad.dtype
        # entries near a threshold change sides, which counts for more in the thresholds' own gradients
        assert relative(p.grad, q.grad) < (0.5 if "jumprelu" in name else 0.15), where


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # SAELens's sparse activations
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("gated", {"l1_coefficient": 0.3}),
        ("abstopk", {"k": 4}),
        ("standard", {"lp_norm": 2.0}),
        ("topk", {"k": 4, "use_sparse_activations": True, "normalize_activations": "layer_norm"}),
    ],
)
def test_other_architectures_take_saelens_own_step(name, more):
    more.setdefault("rescale_acts_by_decoder_norm", False) if name == "topk" else None
    ours, theirs = make_sae(name, **more), make_sae(name, **more)
    x, since = batch_of(), since_fired([] if name == "topk" else [3, 9, 40])
    for parameter in ours.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    step = fast_step(ours)
    assert type(step) is GenericStep
    made, expected = step(x, since, coefficients_of(ours)), oracle(theirs, x, since)
    assert torch.equal(made.loss, expected.loss.detach())
    assert torch.equal(made.fired, (expected.feature_acts.to_dense() != 0).sum(0))
    assert not made.loss.requires_grad and not made.sae_out.requires_grad
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


def test_what_could_change_the_step_takes_saelens_own():
    class Mine(type(make_sae("topk"))):
        pass

    plain = make_sae("topk")
    assert type(fast_step(Mine(plain.cfg))) is GenericStep
    assert type(fast_step(make_sae("topk", "bfloat16"))) is GenericStep
    hooked = make_sae("topk")
    hooked.hook_sae_acts_post.add_hook(lambda acts, hook: acts)
    assert type(fast_step(hooked)) is GenericStep
    with pytest.raises(TypeError, match="int8"):
        fast_step(plain, compute_dtype=torch.int8)


def test_the_users_modes_are_left():
    sae = make_sae("topk")
    state = torch.random.get_rng_state()
    fast_step(sae)(batch_of(), since_fired([]), {})
    assert torch.is_grad_enabled() and all(p.requires_grad for p in sae.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_same_bytes_twice():
    for name in ("batchtopk", "standard"):
        one, two = make_sae(name, "float32"), make_sae(name, "float32")
        for sae in (one, two):
            step = fast_step(sae)
            for i in range(3):
                step(batch_of(torch.float32, 16 + 16 * i), since_fired([5]), coefficients_of(sae))
        assert all(
            torch.equal(p.grad, q.grad) for p, q in zip(one.parameters(), two.parameters(), strict=True)
        )


def test_more_selected_than_positive():
    """Rows with fewer positive entries than k, and a batch with fewer than asked for."""
    for name in ("topk", "batchtopk"):
        ours, theirs = make_sae(name), make_sae(name)
        for sae in (ours, theirs):
            with torch.no_grad():
                sae.b_enc -= 9
        x, since = batch_of(), since_fired([3])
        made, expected = fast_step(ours)(x, since, {}), oracle(theirs, x, since)
        assert 0 < float(made.l0) < 4
        assert relative(made.loss, expected.loss.detach()) < 1e-9
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert relative(p.grad, q.grad) < 1e-9


def scores_of(rows: int, d_sae: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, d_sae, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("d_sae", "k"), [(4608, 32), (5120, 32), (997, 8), (64, 60), (512, 1)])
def test_top_of_rows_is_topk(d_sae, k):
    scores = scores_of(40, d_sae)
    scores[3] = scores[3].round()  # ties
    scores[4] = 1.0
    values, columns = top_of_rows(scores, k)
    expected = scores.topk(k).values
    assert torch.equal(values.sort(descending=True).values, expected)
    assert torch.equal(scores.gather(1, columns), values)
    assert all(len(set(row)) == k for row in columns.tolist())


@pytest.mark.parametrize(
    ("rows", "d_sae", "count"),
    [(512, 4608, 16_000), (40, 512, 321), (3, 997, 5), (8, 64, 500), (700, 1024, 7000)],
)
def test_top_of_batch_is_topk(rows, d_sae, count):
    scores = scores_of(rows, d_sae)
    scores[1] *= 5  # rows unlike each other
    scores[2] = scores[2].round()
    r, c, values = top_of_batch(scores, count)
    assert torch.equal(values.sort(descending=True).values, scores.flatten().topk(count).values)
    assert torch.equal(scores[r, c], values)
    assert len(set(zip(r.tolist(), c.tolist(), strict=True))) == count
    assert bool((r[1:] >= r[:-1]).all())


def test_selection_in_bfloat16_and_of_nan():
    scores = scores_of(30, 4608).bfloat16()
    values, _ = top_of_rows(scores, 16)
    assert torch.equal(values.float().sort(descending=True).values, scores.float().topk(16).values)
    _, _, values = top_of_batch(scores, 400)
    assert torch.equal(values.float().sort().values, scores.float().flatten().topk(400).values.sort().values)
    assert top_of_batch(torch.full((4, 4608), float("nan")), 12)[2].isnan().all()
    assert group_size(4608, 32) == 8 and group_size(997, 8) == 1


def test_entries_against_dense():
    """Ragged entries, with empty rows and empty latents, and a part of them that is empty."""
    rows = torch.tensor([1, 1, 2, 4, 4, 4])
    columns = torch.tensor([0, 5, 5, 2, 0, 5])
    values = torch.arange(1.0, 7.0, dtype=torch.float64)
    entries = Entries.of_batch(rows, columns, values, 6)
    dense = torch.zeros(6, 8, dtype=torch.float64)
    dense[rows, columns] = values
    W, G = scores_of(8, 3).double(), scores_of(6, 3, 1).double()
    decoded = entries.decode(W)
    assert relative(decoded.out, dense @ W) < 1e-12
    assert relative(decoded.products(G), (G @ W.T)[rows, columns]) < 1e-12
    by_column = entries.by_column(8)
    assert relative(by_column.outer(values, G), dense.T @ G) < 1e-12
    assert relative(by_column.outer_between(values, G, 1, 6), (dense.T @ G)[1:6]) < 1e-12
    assert torch.equal(entries.sums(values, 8), dense.sum(0))
    part, kept = entries.between(1, 5)
    assert kept.tolist() == [3]
    assert relative(part.decode(W).out[4], dense[4, 2] * W[2]) < 1e-12
    none, _ = entries.between(6, 8)
    assert not none.decode(W).out.any() and len(none.decode(W).products(G)) == 0


def test_fused_adam_is_adam():
    ours, theirs = make_sae("standard", "float32"), make_sae("standard", "float32")
    optimizer = make_optimizer(ours, 0.01, betas=(0.8, 0.99))
    assert optimizer.defaults["fused"]
    plain = torch.optim.Adam(theirs.parameters(), lr=0.01, betas=(0.8, 0.99))
    for i in range(5):
        for sae in (ours, theirs):
            for j, p in enumerate(sae.parameters()):
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * i + j))
        optimizer.step()
        plain.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert relative(p.detach(), q.detach()) < 1e-6
