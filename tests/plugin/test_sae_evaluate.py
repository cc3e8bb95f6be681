"""Evaluation of SAEs: SAELens's own evaluator on the same tokens is the oracle."""

import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from graticule.hooks.artifact import ArtifactError, json_ready, read_json
from graticule.hooks.coders import find_sae
from graticule.hooks.values import NonFiniteError
from graticule.hub.evaluation import defined_figures
from graticule.saes.evaluation import losses as arms
from graticule.saes.evaluation.evaluate import evaluate, write_evaluation
from graticule.saes.evaluation.losses import LossSums, Scores
from graticule.saes.evaluation.reconstruction import RowSums
from graticule.saes.evaluation.result import SaeEvaluation
from graticule.saes.features.dictionary import dictionary, nearest_neighbours, random_nearest, ultralow
from graticule.sims.sequence import SequenceTokens, sequence_model
from graticule.sims.training.settings import SequenceShape
from graticule.sims.world import World

pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'utils' module has been deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:HookedTransformer:DeprecationWarning"),
]

SIZE, N = 16, 12
RESIDUAL, HIDDEN, HEADS = "blocks.1.hook_resid_post", "blocks.1.mlp.hook_post", "blocks.1.attn.hook_z"
WIDTHS = {RESIDUAL: 32, "blocks.1.hook_resid_pre": 32, "blocks.2.hook_resid_post": 32, HIDDEN: 128, HEADS: 32}


def make(point=RESIDUAL, kind="standard", d_sae=64, metadata=None, training=False, **cfg):
    """An SAE whose decoder is near its encoder, so that it reconstructs a little."""
    from sae_lens.registry import get_sae_class, get_sae_training_class
    from sae_lens.saes.sae import SAEMetadata

    cls, config = (get_sae_training_class if training else get_sae_class)(kind)
    cfg = {"d_in": WIDTHS.get(point, 32), "d_sae": d_sae, **cfg}
    cfg |= {"k": 6} if kind in ("topk", "batchtopk") else {}
    held = SAEMetadata(**{"hook_name": point, "context_size": SIZE, "prepend_bos": True, **(metadata or {})})
    sae = cls(config(**cfg, metadata=held))
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():
        rows = torch.randn(sae.W_dec.shape, generator=drawn)
        sae.W_dec.copy_(rows / rows.norm(dim=1, keepdim=True))
        sae.W_enc.copy_(sae.W_dec.T * 0.6)
        if hasattr(sae, "b_enc"):
            sae.b_enc.copy_(-0.2 * torch.rand(sae.b_enc.shape, generator=drawn))
        sae.b_dec.copy_(0.1 * torch.randn(sae.b_dec.shape, generator=drawn))
    return sae


@pytest.fixture(scope="module")
def model(load_tiny):
    return load_tiny("gpt2", "hooked")


@pytest.fixture(scope="module")
def tokens(model):
    """Contexts with BOS first and here and there inside, which is excluded."""
    drawn = torch.Generator().manual_seed(3)
    rows = torch.randint(1, model.cfg.d_vocab, (N, SIZE), generator=drawn)
    rows[:, 0] = 0
    rows[3, 7] = rows[5, 2] = 0
    return rows


def saelens_says(model, sae, tokens):
    """`run_evals` on the very same contexts."""
    from datasets import Dataset
    from sae_lens import ActivationsStore
    from sae_lens.evals import get_eval_everything_config, run_evals
    from sae_lens.training.activation_scaler import ActivationScaler

    held = Dataset.from_dict({"tokens": tokens.tolist()})
    store = ActivationsStore.from_sae(
        model, sae, dataset=held, streaming=False, context_size=SIZE, store_batch_size_prompts=N, device="cpu"
    )
    config = get_eval_everything_config(
        batch_size_prompts=N, n_eval_reconstruction_batches=1, n_eval_sparsity_variance_batches=1
    )
    found, latents = run_evals(sae, store, model, ActivationScaler(), config)
    return {k: v for part in found.values() for k, v in part.items()}, latents


CASES = [
    (RESIDUAL, "standard", {}),
    (RESIDUAL, "topk", {"normalize_activations": "layer_norm"}),
    ("blocks.1.hook_resid_pre", "standard", {}),
    ("blocks.2.hook_resid_post", "standard", {"normalize_activations": "constant_norm_rescale"}),
    (HIDDEN, "jumprelu", {}),
    (HEADS, "standard", {"reshape_activations": "hook_z"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("point", "kind", "cfg"), CASES, ids=lambda v: str(v)[:24])
def test_figures_are_those_of_run_evals(model, tokens, point, kind, cfg):
    sae = make(point, kind, **cfg)
    got = evaluate(model, sae, tokens)
    assert got.provenance["route"] == "Layered"
    wanted, latents = saelens_says(model, sae, tokens)
    r, lost = got.reconstruction, got.losses
    pairs = {
        "l0": r.l0,
        "explained_variance": r.explained_variance,
        "cossim": r.cosine_mean,
        "mse": r.mse,
        "l2_ratio": r.norm_ratio,
        "ce_loss_without_sae": lost.clean,
        "ce_loss_with_sae": lost.sae,
        "ce_loss_with_ablation": lost.zero,
        "ce_loss_score": (lost.zero - lost.sae) / (lost.zero - lost.clean),
        "kl_div_with_sae": lost.kl,
        "kl_div_with_ablation": lost.kl_zero,
    }
    for name, value in pairs.items():
        loose = name == "ce_loss_score"  # a ratio of differences in the fourth digit
        assert value == pytest.approx(wanted[name], rel=5e-3 if loose else 2e-4, abs=2e-5), name
    # where zeros cost nothing there is no loss to recover, and SAELens's score is no share of one
    share = pairs["ce_loss_score"] if lost.zero > lost.clean else np.nan
    assert lost.recovered_zero == pytest.approx(share, nan_ok=True)
    density = got.latents["density"].to_numpy()
    assert np.allclose(density, latents["feature_density"], atol=1e-6)
    assert np.allclose(got.latents["encoder_decoder"], latents["encoder_decoder_cosine_sim"], atol=1e-5)
    kept = int((tokens != 0).sum())
    assert r.n_rows == kept
    assert lost.n_tokens == int((tokens[:, :-1] != 0).sum())


def brute(model, sae, point, tokens, edit):
    """Mean losses with the activations edited, by the model's own forward pass."""
    from graticule.hooks.running.session import undisturbed

    with undisturbed(model), model.hooks(fwd_hooks=[(point, edit)]):
        logits = model(tokens)
    ce = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
    )
    return ce.reshape(len(tokens), -1)[tokens[:, :-1] != 0].mean().item(), logits


def test_mean_ablation_and_one_head_by_brute_force(model, tokens):
    sae = make(HEADS, d_in=8, metadata={"hook_head_index": 2})
    got = evaluate(model, sae, tokens).losses
    kept = tokens != 0
    with torch.no_grad():
        heads = model.run_with_cache(tokens)[1][HEADS]
    mean = heads[kept][:, 2].mean(0)

    def to_mean(z, hook):
        z[:, :, 2] = torch.where(kept[..., None], mean, z[:, :, 2])
        return z

    def through(z, hook):
        z[:, :, 2] = torch.where(kept[..., None], sae(z[:, :, 2]), z[:, :, 2])
        return z

    clean, logits = brute(model, sae, HEADS, tokens, lambda z, hook: z)
    with_sae, _ = brute(model, sae, HEADS, tokens, through)
    at_mean, other = brute(model, sae, HEADS, tokens, to_mean)
    assert (got.clean, got.sae, got.mean) == pytest.approx((clean, with_sae, at_mean), rel=1e-5)
    share = (at_mean - with_sae) / (at_mean - clean) if at_mean > clean else np.nan
    assert got.recovered_mean == pytest.approx(share, rel=1e-2, nan_ok=True)
    log, log_other = logits.log_softmax(-1), other.log_softmax(-1)
    divergence = (log.exp() * (log - log_other)).sum(-1)[kept].mean().item()
    assert got.kl_mean == pytest.approx(divergence, rel=1e-3, abs=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("point", [RESIDUAL, HIDDEN])
def test_a_bridge_and_a_whole_pass_give_the_same(load_tiny, model, tokens, point, monkeypatch):
    sae = make(point)
    wanted = evaluate(model, sae, tokens)
    bridge = load_tiny("gpt2", "bridge")
    assert evaluate(bridge, sae, tokens, losses=False).l0 == pytest.approx(wanted.l0, rel=1e-3)
    monkeypatch.setattr(arms, "_CELLS", 3 * model.cfg.d_vocab * SIZE)  # three contexts at a time
    for other in (bridge, model):
        if other is model:
            monkeypatch.setattr(arms, "layer_of", lambda point: None)
        got = evaluate(other, sae, tokens)
        assert got.provenance["route"] == "Whole"
        assert got.losses.recovered_zero_ci95 == pytest.approx(
            wanted.losses.recovered_zero_ci95, rel=1e-3, nan_ok=True
        )
        for name in ("clean", "sae", "zero", "mean", "kl", "kl_mean"):
            assert getattr(got.losses, name) == pytest.approx(getattr(wanted.losses, name), rel=1e-3), name


def test_variance_without_the_largest_directions():
    """Against rows with those directions projected out one by one."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 9)) * np.array([40, 20, 9, 7, 5, 1, 1, 1, 1.0]) + 3
    made = x + rng.normal(size=x.shape)
    sums = RowSums(9, 4, 10)
    position = rng.integers(0, 10, 300)
    for rows in (slice(0, 110), slice(110, 300)):
        sums.add(
            *(torch.from_numpy(a[rows]).float() for a in (x, made)), _no_latents(x[rows]), position[rows]
        )
    got = sums.reconstruction()
    centred, error = x - x.mean(0), x - made
    axes = np.linalg.svd(centred, full_matrices=False)[2][:5]
    rest = np.eye(9) - axes.T @ axes
    expected = 1 - ((error @ rest) ** 2).sum() / ((centred @ rest) ** 2).sum()
    assert got.explained_variance == pytest.approx(1 - (error**2).sum() / (centred**2).sum(), rel=1e-5)
    assert got.explained_variance_without_top == pytest.approx(expected, rel=1e-4)
    assert got.explained_variance_without_top < got.explained_variance - 0.3
    cosine = (x * made).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(made, axis=1)
    assert got.cosine_median == pytest.approx(np.median(cosine), rel=1e-5)
    table = sums.by_position()
    for _, line in table.iterrows():
        at = position == line["position"]
        wanted = 1 - (error[at] ** 2).sum() / (centred[at] ** 2).sum()
        assert line["explained_variance"] == pytest.approx(wanted, rel=1e-4)
        assert line["cosine"] == pytest.approx(np.median(cosine[at]), rel=1e-5)
    assert table["rows"].sum() == 300


def _no_latents(rows):
    import scipy.sparse as sp

    from graticule import Activations
    from graticule.hooks.latents import Latents

    acts = Activations.from_tensors({"x": torch.zeros(len(rows), 4)})
    return Latents("x", sp.csr_matrix((len(rows), 4)), make(), acts)


# The dictionary ----------------------------------------------------------------------------------------
def densities(n_low, n_high=300, seed=0):
    """Log densities of a common cluster and of a rare one."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(-7, 0.3, n_low), rng.normal(-3.5, 0.6, n_high)])


@pytest.mark.parametrize("n_low", [25, 60, 600])
def test_the_ultralow_cluster_is_set_apart(n_low):
    found = ultralow(np.append(10.0 ** densities(n_low), 0.0))
    assert np.array_equal(np.flatnonzero(found), np.arange(n_low))


@pytest.mark.parametrize("seed", range(8))
def test_one_cluster_is_left_whole(seed):
    rng = np.random.default_rng(seed)
    assert not ultralow(10.0 ** densities(0, seed=seed)).any()
    for n in (100, 1000, 10000):
        assert not ultralow(10.0 ** (-2 - rng.exponential(0.7, n))).any()
        counts = rng.poisson(10 ** rng.normal(0.5, 0.8, n))  # of 20,000 tokens: once, twice, three times …
        assert not ultralow(counts / 20_000).any()
    assert not ultralow(np.full(50, 1e-5)).any()
    often = np.concatenate([np.full(200, 0.03), np.full(30, 0.9)])
    assert not ultralow(often * rng.uniform(0.9, 1.1, 230)).any()


def test_dictionary_counts():
    sae = make(d_sae=40)
    with torch.no_grad():
        sae.W_dec[7] = sae.W_dec[3] * 2 + 0.01
        sae.W_dec[11] = -sae.W_dec[4]
    fired = np.full(40, 30)
    fired[[0, 5]] = 0
    fired[8:12] = 900
    state, table = dictionary(sae, fired, 1000)
    assert (state.dead, state.ultralow, state.alive) == (2, 0, 38)
    assert (state.always_on, state.dense, state.copies) == (4, 38, 2)
    assert state.dead_fraction == pytest.approx(2 / 40)
    assert state.lowest == pytest.approx(0.03)
    assert table["nearest"][3] == 7
    assert table["nearest"][7] == 3
    assert table["nearest"][0] == -1
    directions = sae.W_dec.detach()[torch.tensor([i for i in range(40) if i not in (0, 5)])]
    unit = torch.nn.functional.normalize(directions, dim=1)
    cosine = unit @ unit.T - 3 * torch.eye(38)
    assert state.nearest_cosine == pytest.approx(float(cosine.max(1).values.median()), abs=0.02)
    place, value = nearest_neighbours(directions)
    assert np.array_equal(place, cosine.argmax(1).numpy())
    assert np.allclose(value, cosine.max(1).values, atol=1e-6)


def test_chance_of_a_near_neighbour():
    rng = np.random.default_rng(9)
    drawn = torch.from_numpy(rng.normal(size=(600, 20))).float()
    assert random_nearest(600, 20, 0) == pytest.approx(np.median(nearest_neighbours(drawn)[1]), abs=0.02)
    assert np.isnan(random_nearest(1, 20, 0))


# What is given, and what comes out ---------------------------------------------------------------------
def test_an_sae_in_training_is_measured_as_it_will_be_published(model, tokens, tmp_path):
    sae = make(kind="batchtopk", training=True)
    sae.topk_threshold.fill_(0.4)
    sae.save_inference_model(tmp_path / "sae")
    got = evaluate(model, sae, tokens, losses=False)
    saved = evaluate(model, tmp_path, tokens, losses=False)
    assert got.architecture == "jumprelu"
    assert got.figures_by_name() == saved.figures_by_name()
    assert got.losses is None
    assert np.isnan(got.kl)
    assert got.figures_by_name()["loss_recovered_zero"] is None


def test_a_scale_is_estimated_or_given(model, tokens, caplog):
    sae = make(normalize_activations="expected_average_only_in")
    with torch.no_grad():
        x = model.run_with_cache(tokens)[1][RESIDUAL][tokens != 0]
    scale = float(32**0.5 / x.norm(dim=1).mean())
    before = sae.W_enc.detach().clone()
    got = evaluate(model, sae, tokens, losses=False)
    assert got.provenance["sae"]["scale"] == pytest.approx(scale, rel=1e-5)
    assert "is estimated" in caplog.text
    assert "fold the scale" not in caplog.text
    with torch.no_grad():
        made = sae(x * scale) / scale
    expected = 1 - float((x - made).square().sum() / (x - x.mean(0)).square().sum())
    assert got.explained_variance == pytest.approx(expected, rel=1e-4)
    assert torch.equal(sae.W_enc, before)
    assert sae.cfg.normalize_activations == "expected_average_only_in"
    given = evaluate(model, sae, tokens, losses=False, scale=1.0)
    with torch.no_grad():
        assert given.l0 == pytest.approx(float((sae.encode(x) != 0).sum(1).float().mean()), rel=1e-4)


@pytest.mark.slow
def test_texts_become_the_contexts_of_the_saes_metadata(model, names):
    sae = make(metadata={"context_size": 10})
    texts = [" ".join(names[i : i + 8]) for i in range(0, 48, 8)]
    got = evaluate(model, sae, texts, n_tokens=45, n_activation_tokens=95, context_size=None)
    made = got.provenance
    assert (made["context_size"], made["n_contexts"], made["n_loss_contexts"]) == (10, 10, 5)
    assert made["excluded_tokens"] == [0]
    assert got.positions["position"].min() == 1
    assert got.reconstruction.n_rows > got.losses.n_tokens
    assert (
        evaluate(model, sae, texts, n_tokens=45, prepend_bos=False, losses=False).positions["position"].min()
        == 0
    )
    everything = evaluate(model, sae, texts, n_tokens=45, exclude_special=False, losses=False)
    assert everything.reconstruction.n_rows == 50


@pytest.mark.slow
def test_a_run_keeps_its_evaluation(model, tokens, tmp_path):
    from safetensors.torch import save_file

    sae = make()
    run = tmp_path / "run"
    sae.save_model(run / "sae")
    log = torch.linspace(-7, -1, 64)
    log[0] = -10.0
    save_file({"sparsity": log}, run / "sae" / "sparsity.safetensors")
    got = evaluate(model, run, tokens)
    assert np.allclose(got.latents["training_density"][1:], 10.0 ** log[1:].double())
    assert got.latents["training_density"][0] == 0
    assert find_sae(SimpleNamespace(path=run)).run == run  # what training returned
    where = write_evaluation(got, run)
    told = json.loads(where.read_text())
    for name in (
        "l0",
        "explained_variance",
        "loss_recovered_zero",
        "loss_recovered_mean",
        "kl",
        "dead_fraction",
    ):
        wanted = getattr(got, name)  # undefined: null, as zeros cost this random model nothing
        assert told[name] is None if np.isnan(wanted) else told[name] == pytest.approx(wanted)
    again = SaeEvaluation.load(run / "evaluation")
    assert again.figures_by_name() == got.figures_by_name() == read_json(where)
    assert json_ready(again.losses) == json_ready(got.losses)  # undefined shares are null
    assert again.latents.equals(got.latents)
    assert again.summary() == got.summary()
    assert set(again.figures()) | set(again.tables()) == set(got.figures()) | set(got.tables())
    assert len(again.report(tmp_path / "page.html").read_text()) > 10_000
    assert evaluate(model, run, tokens).to_json() == got.to_json()


def test_everything_is_left_as_found(model, tokens):
    sae = make(normalize_activations="layer_norm").train()
    model.train()
    state, hooks = torch.random.get_rng_state(), len(model.hook_dict[RESIDUAL].fwd_hooks)
    evaluate(model, sae, tokens)
    assert model.training
    assert sae.training
    assert torch.equal(state, torch.random.get_rng_state())
    assert len(model.hook_dict[RESIDUAL].fwd_hooks) == hooks
    assert torch.is_grad_enabled()
    model.eval()


def test_what_cannot_be_evaluated_is_refused(model, tokens, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no SAELens SAE"):
        evaluate(model, tmp_path, tokens)
    with pytest.raises(TypeError, match="is no SAE"):
        evaluate(model, 3, tokens)
    with pytest.raises(ValueError, match=r"width 32, the SAE has d_in 12"):
        evaluate(model, make(d_in=12), tokens)
    with pytest.raises(ValueError, match="hook_name="):
        evaluate(model, make(metadata={"hook_name": None}), tokens)
    with pytest.raises(ValueError, match="at least the first"):
        evaluate(model, make(), tokens, n_tokens=50, n_activation_tokens=20)
    with pytest.raises(ValueError, match="every token"):
        evaluate(model, make(), tokens, exclude_special=list(range(model.cfg.d_vocab)), losses=False)
    for few in (tokens[:, :2], tokens[:, :1], torch.zeros_like(tokens[:, :5])):
        with pytest.raises(ValueError, match=r"no loss can be taken on contexts of .*losses=False"):
            evaluate(model, make(), few)
    with pytest.raises(ValueError, match="whitening"):
        evaluate(model, make(normalize_activations="covariance_whitening"), tokens)
    with pytest.raises(ValueError, match="transcoder"):
        evaluate(model, make(kind="transcoder", d_out=32, apply_b_dec_to_input=False), tokens)
    with pytest.raises(ValueError, match="does not fill one context"):
        evaluate(model, make(), ["the city"])


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"model_name": "pythia-70m"}, "was trained on pythia-70m, and is measured on"),
        (
            {"hook_name": "blocks.2.hook_resid_post"},
            "trained at blocks.2.hook_resid_post, and is measured at",
        ),
        ({"graticule": {"model": {"dtype": "float32", "digest": "0" * 16}}}, "are they the same model"),
    ],
)
def test_an_sae_of_another_model_or_point_is_warned_of(model, tokens, caplog, metadata, words):
    evaluate(model, make(metadata=metadata), tokens, hook_name=RESIDUAL, losses=False)
    assert words in caplog.text


def test_an_sae_at_home_is_not_warned_of(model, tokens, caplog):
    from graticule.hooks.identity import model_identity

    own = model_identity(model)
    for metadata in ({}, {"model_name": own["name"]}, {"model_name": "other", "graticule": {"model": own}}):
        evaluate(model, make(metadata=metadata), tokens, losses=False)
    assert not caplog.text


def cut(folder):
    weights = folder / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])


def nan(folder):
    from safetensors.torch import load_file, save_file

    held = load_file(folder / "sae_weights.safetensors")
    held["W_dec"][3, 5] = float("nan")
    save_file(held, folder / "sae_weights.safetensors")


def without(name):
    def change(folder):
        cfg = json.loads((folder / "cfg.json").read_text())
        del cfg[name]
        (folder / "cfg.json").write_text(json.dumps(cfg))

    return change


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, "holds no whole SAE"),
        (nan, "W_dec: 1 non-finite entries.*copy the SAE again"),
        (lambda folder: (folder / "sae_weights.safetensors").unlink(), "holds no whole SAE"),
        (lambda folder: (folder / "cfg.json").write_text("{"), "holds no whole SAE .*no whole JSON"),
        (without("d_in"), "holds no whole SAE .*d_in"),
        (without("d_sae"), "holds no whole SAE .*d_sae"),
        (without("architecture"), "holds no whole SAE"),
    ],
)
def test_damaged_folders_are_told_in_one_line(tmp_path, damage, words):
    folder = tmp_path / "sae"
    make().save_model(folder)
    assert find_sae(folder).run is None and find_sae(tmp_path).run == tmp_path
    damage(folder)
    for given in (folder, tmp_path):
        with pytest.raises(ValueError, match=words) as error:
            find_sae(given)
        assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_folders_without_one_sae_say_which_there_are(tmp_path):
    for name in ("a", "b"):
        make().save_model(tmp_path / "many" / name / "sae")
    with pytest.raises(FileNotFoundError, match=r"several SAEs: give one of them, .*many/a"):
        find_sae(tmp_path / "many")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "run.json").write_text("{}")
    with pytest.raises(ArtifactError, match="a run that is not complete: run the same training again"):
        find_sae(tmp_path / "begun")


def test_rows_far_longer_than_others_are_told_of_and_left_out_as_in_training(model, tokens, caplog):
    """Leaving them out by norm is leaving out the token that makes them."""
    sinking, word, point = copy.deepcopy(model), int(tokens[0, 3]), "blocks.0.hook_resid_pre"
    with torch.no_grad():
        sinking.W_E[word] *= 300
    sae = make(point)
    plain = evaluate(sinking, sae, tokens)
    assert "explained variance is about those rows; max_norm=10 leaves them out" in caplog.text
    number = int((tokens == word).sum())
    assert plain.reconstruction.large.n == number and plain.reconstruction.large.share > 0.9
    assert "of the rows have over 10 times the median norm and hold 9" in plain.summary()
    without = evaluate(sinking, sae, tokens, max_norm=10)
    expected = evaluate(sinking, sae, tokens, exclude_special=[0, word])
    assert (
        f"{number} of" in without.reconstruction.left_out
        and without.reconstruction.left_out in without.summary()
    )
    for name, value in expected.figures_by_name().items():
        if isinstance(value, float) and name != "n_loss_tokens":
            assert without.figures_by_name()[name] == pytest.approx(value, rel=1e-5, abs=1e-7), name
    assert without.losses.n_tokens == expected.losses.n_tokens
    trained = make(point, metadata={"graticule": {"max_norm": 10.0}})
    assert evaluate(sinking, trained, tokens).figures_by_name() == without.figures_by_name()


@pytest.mark.parametrize("whole", [False, True], ids=["layered", "whole"])
def test_a_loss_that_is_no_number_recovers_nothing(model, tokens, whole, monkeypatch):
    """A neuron above the point overflows at some tokens, and adds nothing at all others."""
    if whole:
        monkeypatch.setattr(arms, "layer_of", lambda point: None)
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.blocks[2].mlp.W_in[:, 0] = broken.blocks[2].mlp.W_out[0] = 0
        broken.blocks[2].mlp.W_in[5, 0] = 2e38
        overflow = broken(tokens).isnan().any(-1)[:, :-1]
    assert 0 < overflow.float().mean() < 0.5
    with pytest.raises(NonFiniteError, match=r"loss of the model as it is: \d+ non-finite .*losses=False"):
        evaluate(broken, make(), tokens)
    assert evaluate(broken, make(), tokens, losses=False).losses is None


@pytest.mark.parametrize("losses", [False, True])
def test_a_reconstruction_that_is_no_number_is_no_figure(model, tokens, losses):
    sae = make()
    with torch.no_grad():
        sae.W_dec[3, 5] = float("nan")
    with pytest.raises(NonFiniteError, match=r"the SAE's reconstruction: .* are its weights numbers"):
        evaluate(model, sae, tokens, losses=losses)


def test_tokens_that_a_model_only_reads_have_no_loss():
    """The sequence learner reads concept tokens, predicts whole vectors: all but losses is measured."""
    language = SequenceTokens(World.random(3, seed=0), (0, 1, 2))
    learner = sequence_model(language, SequenceShape(2, 12, 1))
    with torch.no_grad():
        learner.embed.W_E.normal_(generator=torch.Generator().manual_seed(0))
    texts = language.every()
    sae = make(d_in=12, metadata={"context_size": texts.shape[1], "prepend_bos": False})
    with pytest.raises(ValueError, match=r"cannot be predicted, the model has 8 outputs.*losses=False"):
        evaluate(learner, sae, texts)
    found = evaluate(learner, sae, texts, n_tokens=texts.numel(), losses=False)
    with torch.no_grad():
        x = learner.embed.W_E[texts].flatten(0, 1)
        left = (x - sae(x)).pow(2).sum() / (x - x.mean(dim=0)).pow(2).sum()
    assert found.losses is None
    assert found.reconstruction.explained_variance == pytest.approx(1 - left.item(), abs=1e-5)


def lost_by(*losses):
    """Losses of contexts and predictions: clean, with the SAE, zeroed, at the mean."""
    ce = torch.stack([torch.nn.functional.pad(ce, (0, 1), value=torch.nan) for ce in losses])
    sums = LossSums()
    sums.add(Scores(ce, torch.zeros_like(ce)), torch.ones(ce.shape[1:], dtype=torch.bool))
    return sums.losses()


def test_where_an_ablation_costs_nothing_no_share_of_loss_is_recovered(model, tokens, tmp_path):
    """A token's own embedding is worth nothing here: zeros are no worse, and no share of that is a figure."""
    clean = torch.from_numpy(np.random.default_rng(0).uniform(4, 6, (5, 7)))
    lost = lost_by(clean, clean - 0.4, clean - 0.3, clean + 0.5)
    assert np.isnan([lost.recovered_zero, *lost.recovered_zero_ci95]).all()
    assert lost.recovered_mean == pytest.approx(0.9 / 0.5)
    found = replace(evaluate(model, make(), tokens), losses=lost)
    assert "loss recovered is undefined (zeros cost this model nothing" in found.summary().splitlines()[0]
    assert "recovers" not in found.summary()
    assert "undefined (no loss to recover) against zeros, 180.0% [180.0%, 180.0%]" in found.summary()
    assert found.figures_by_name()["loss_recovered_zero"] is None
    found.save(tmp_path / "evaluation")
    assert '"recovered_zero": null' in "".join(
        f.read_text() for f in (tmp_path / "evaluation").rglob("*.json")
    )
    assert "undefined" in found.report(tmp_path / "page.html").read_text()
    # a folder of before says 140.4%: its card does not
    old = {**found.figures_by_name(), "loss_recovered_zero": 1.404}
    assert "loss_recovered_zero" not in defined_figures(old)
    assert defined_figures(old)["loss_recovered_mean"] == pytest.approx(1.8)


def test_an_interval_whose_loss_is_not_always_there_is_none():
    clean = torch.full((6, 3), 5.0)
    zero = clean + torch.tensor([2.0, -0.6, -0.3, -0.3, -0.2, 0.1])[:, None]
    lost = lost_by(clean, clean, zero, zero)
    assert lost.recovered_zero == pytest.approx(1.0)
    assert np.isnan(lost.recovered_zero_ci95).all()
