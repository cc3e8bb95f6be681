"""Streams beside SAELens's own: its trainer runs on them, its scaler finds the same factor."""

from itertools import chain, repeat

import numpy as np
import pytest
import torch
from helpers import relative

from graticule import Activations
from graticule.hooks.streams.contexts import contexts
from graticule.hooks.streams.live import LiveStream
from graticule.hooks.streams.stored import StoreStream

POINT = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    words = ["the", "city", "of", "is", "in", "a", "river", "king", "paris", "rome", "oslo", "lima", "tokyo"]
    return [" ".join(rng.choice(words, rng.integers(3, 40))) for _ in range(80)]


def scaler_of(provider, width, n):
    from sae_lens.training.activation_scaler import ActivationScaler

    scaler = ActivationScaler()
    scaler.estimate_scaling_factor(width, provider, n)
    return scaler


def trained(provider, n_samples):
    """An SAE of SAELens's, trained by its own trainer."""
    from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(0)
    sae = StandardTrainingSAE(StandardTrainingSAEConfig(d_in=32, d_sae=64, l1_coefficient=0.1))
    cfg = SAETrainerConfig(
        total_training_samples=n_samples,
        train_batch_size_samples=32,
        lr=1e-2,
        lr_end=1e-3,
        logger=LoggingConfig(log_to_wandb=False),
    )
    return SAETrainer(cfg, sae, provider).fit()


@pytest.mark.slow
def test_saelens_trainer_runs_on_both_streams(tiny, texts):
    live = LiveStream(tiny, texts, POINT, 32, context_size=16, buffer_tokens=256, epochs=None, n_tokens=4800)
    rows = contexts(tiny, texts, 10_000, context_size=16)
    with torch.no_grad():
        cache = tiny.run_with_cache(torch.from_numpy(rows))[1][POINT]
    flat = cache[torch.from_numpy(rows != 0)]
    stored = StoreStream(Activations.from_tensors({POINT: flat}), batch_size=32, epochs=None)
    held = flat[:500]
    error = {}
    for name, stream in (("live", live), ("stored", stored)):
        sae = trained(stream.provider(), 4800)
        assert sae.cfg.d_in == 32
        with torch.no_grad():
            error[name] = relative(sae(held), held)
    assert error["live"] < 0.5 and error["stored"] < 0.5
    assert next(live, None) is None  # the trainer took all of it, and no more


def test_the_scaling_factor_is_the_one_saelens_finds(tiny, texts):
    settings = {"batch_size": 32, "context_size": 16, "buffer_tokens": 10_000}
    plain = LiveStream(tiny, texts, POINT, **settings)
    scaled = LiveStream(tiny, texts, POINT, normalize="expected_average_only_in", **settings)
    batches = list(
        plain
    )  # the whole corpus is in the buffer: its mean norm is that of all batches but the rest
    scaler = scaler_of((b[POINT] for b in batches), 32, len(batches))
    assert scaled.scaling_factors[POINT] == pytest.approx(scaler.scaling_factor, rel=2e-3)
    every = torch.cat(
        [plain._buffer.sample(32, np.random.default_rng(0))[POINT], *(b[POINT] for b in batches)]
    )
    exact = scaler_of(iter([every]), 32, 1)
    assert scaled.scaling_factors[POINT] == pytest.approx(exact.scaling_factor, rel=1e-6)
    for a, b in zip(batches, scaled, strict=True):
        assert relative(b[POINT], a[POINT] * scaled.scaling_factors[POINT]) < 1e-7

    memory = Activations.from_tensors({POINT: every})
    stored = StoreStream(memory, batch_size=len(every), normalize="expected_average_only_in")
    assert stored.scaling_factors[POINT] == pytest.approx(exact.scaling_factor, rel=1e-6)
    assert scaler_of(stored.provider(), 32, 1).scaling_factor == pytest.approx(1.0, rel=1e-5)


def test_a_batch_mixes_more_contexts_than_saelens_does_with_the_same_buffer(monkeypatch):
    """Rows that carry the number of their context, through SAELens's buffer and ours, of one size."""
    from sae_lens.training.mixing_buffer import mixing_buffer

    from graticule.hooks.streams.buffer import MixingBuffer

    size, batch, a_pass, n = 2000, 100, 4 * 50, 400
    context = torch.arange(n).repeat_interleave(50).float()[:, None]
    torch.manual_seed(0)
    theirs = list(mixing_buffer(size, batch, iter(context.split(a_pass))))
    rng, buffer, ours = np.random.default_rng(0), MixingBuffer({"a": 1}, size + a_pass, torch.float32), []
    passes = chain(context.split(a_pass), repeat(None))
    while True:
        while buffer.n_rows < size and (rows := next(passes)) is not None:
            buffer.write("a", buffer.claim(len(rows)), rows)
        if buffer.n_rows < batch:
            break
        ours.append(buffer.draw(batch, rng)["a"])

    def spans(batches):
        return np.mean([len(b.unique()) for b in batches])

    assert len(ours) == len(theirs) == n * 50 // batch
    assert spans(ours) > 1.1 * spans(theirs)
    # and how far apart in the corpus the rows of a batch lie
    far = [np.mean([float(b.std()) for b in x[10:-20]]) for x in (ours, theirs)]
    assert far[0] > 1.2 * far[1]


def test_the_metadata_is_what_saelens_reads(tiny, texts):
    from datasets import Dataset
    from sae_lens import ActivationsStore, StandardSAE, StandardSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    stream = LiveStream(tiny, texts, POINT, 16, context_size=12, buffer_tokens=64, exclude_special=False)
    sae = StandardSAE(StandardSAEConfig(d_in=32, d_sae=8, metadata=SAEMetadata(**stream.metadata())))
    with pytest.warns(UserWarning, match="not tokenized"):
        store = ActivationsStore.from_sae(
            tiny, sae, Dataset.from_dict({"text": texts}), total_tokens=50, store_batch_size_prompts=2
        )
    theirs = store.get_raw_llm_batch()[0]
    first = contexts(tiny, texts, 2, context_size=12)
    with torch.no_grad():
        ours = tiny.run_with_cache(torch.from_numpy(first))[1][POINT]
    assert relative(theirs, ours.flatten(0, 1)) < 1e-6
    rows = torch.cat([b[POINT] for b in stream])
    assert torch.cdist(theirs.double(), rows.double()).min(1).values.max() < 1e-5
