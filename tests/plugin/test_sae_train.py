"""Training SAEs: SAELens's own curve, runs killed anywhere that resume to the bit, folders it can read."""

import json
import logging
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import as_installed, with_two_words_exchanged
from sae_lens import (
    SAE,
    BatchTopKTrainingSAEConfig,
    SAETrainer,
    StandardTrainingSAEConfig,
    TopKTrainingSAEConfig,
    TrainingSAE,
)
from sae_lens.config import LoggingConfig, SAETrainerConfig
from safetensors.torch import load_file

from graticule import saes
from graticule.hooks.activations import Activations
from graticule.hooks.artifact import ArtifactError, read_json, read_table
from graticule.hooks.streams.stored import StoreStream
from graticule.hooks.values import NonFiniteError
from graticule.saes.architectures import geometric_median
from graticule.saes.training.session import wandb_name
from graticule.saes.training.settings import Optimisation, as_config, sae_config
from graticule.saes.training.trainer import DivergedError, Trainer

POINTS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
D_IN, D_SAE, BATCH = 12, 40, 64
TOPK = {"architecture": "topk", "d_sae": D_SAE, "k": 4}


@pytest.fixture(scope="module")
def acts() -> Activations:
    """Sparse mixtures of more directions than dimensions, off centre, at two points."""
    generator = torch.Generator().manual_seed(0)
    rows, atoms = 4096, 30
    codes = torch.rand(rows, atoms, generator=generator) * (
        torch.rand(rows, atoms, generator=generator) < 0.1
    )
    tensors = {p: codes @ torch.randn(atoms, D_IN, generator=generator) + 0.5 for p in POINTS}
    return Activations.from_tensors(tensors)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "sae" / "sae_weights.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# The same training as SAELens's own ------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        StandardTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, l1_coefficient=0.3, l1_warm_up_steps=10),
        TopKTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=4),
        BatchTopKTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=4),
    ],
    ids=lambda config: config.architecture(),
)
def test_the_loss_curve_is_saelens_own(acts, config):
    """Same rows, weights and settings through SAELens's trainer and ours: the same losses, step by step."""
    steps, settings = 80, {"lr": 3e-3, "lr_end": 3e-4, "lr_warm_up_steps": 5, "lr_decay_steps": 20}
    settings |= {"lr_scheduler_name": "cosineannealing", "dead_feature_window": 12}
    curves, finals, dead, terms, said, outputs = [], [], [], [], [], []
    for kind in (SAETrainer, Trainer):
        torch.manual_seed(0)
        cfg = SAETrainerConfig(steps * BATCH, BATCH, **settings)
        sae = TrainingSAE.from_dict(config.to_dict())
        trainer = kind(cfg, sae, StoreStream(acts, POINTS[0], BATCH, epochs=2).provider())
        curve = []
        for _ in range(steps):
            output = trainer.step(next(trainer.data_provider))
            curve.append(float(output.loss.detach()))
            terms.append({name: float(value.detach()) for name, value in output.losses.items()})
            trainer.n_training_steps += 1
        curves.append(torch.tensor(curve))
        dead.append(trainer.n_forward_passes_since_fired)
        said.append(trainer)
        finals.append(trainer.sae.state_dict())
        outputs.append(output)
    torch.testing.assert_close(curves[1], curves[0], rtol=2e-4, atol=1e-4)
    assert terms[-1]["mse_loss"] < 0.8 * terms[0]["mse_loss"]  # learned, so the curves could differ
    assert config.architecture() == "standard" or terms[-1]["auxiliary_reconstruction_loss"] > 0
    for name, value in finals[0].items():
        torch.testing.assert_close(finals[1][name], value, rtol=1e-2, atol=2e-3)
    assert torch.equal(dead[0] == 0, dead[1] == 0)
    theirs = said[0].build_train_step_log_dict(outputs[0], steps * BATCH)
    ours = {wandb_name(name): value for name, value in said[1].line(outputs[1]).items()}
    for name in ("metrics/l0", "metrics/explained_variance", "sparsity/dead_features", "losses/mse_loss"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-3)
    assert ours["details/current_learning_rate"] == pytest.approx(theirs["details/current_learning_rate"])


def test_saelens_own_loop_drives_it_too(acts):
    """`fit`, with SAELens's counters, windows and folding, runs on our step."""
    found = []
    for kind in (SAETrainer, Trainer):
        torch.manual_seed(0)
        sae = TrainingSAE.from_dict(
            sae_config(
                "standard", D_IN, D_SAE, l1=0.3, normalize_activations="expected_average_only_in"
            ).to_dict()
        )
        cfg = SAETrainerConfig(20 * BATCH, BATCH, lr=1e-2, lr_end=1e-3, n_batches_for_norm_estimate=3)
        cfg.feature_sampling_window = 8
        trainer = kind(cfg, sae, StoreStream(acts, POINTS[0], BATCH).provider())
        trainer.fit()
        found.append((sae.state_dict(), trainer.log_feature_sparsity, sae.cfg.metadata.l0))
    for name, value in found[0][0].items():
        torch.testing.assert_close(found[1][0][name], value, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=0, atol=0.02)
    assert found[1][2] == pytest.approx(found[0][2], rel=1e-3)


def test_the_schedule_reaches_the_optimiser(acts, tmp_path):
    how = Optimisation(lr=1e-2, lr_warm_up_steps=4, lr_decay_steps=8)
    run = saes.train(acts, config=TOPK, hook_name=POINTS[0], out=tmp_path / "run", batch_size=BATCH,
                     optimisation=how, log_every=1, n_tokens=20 * BATCH)  # fmt: skip
    lr = run.history["lr"].to_numpy()
    assert lr[3:11] == pytest.approx(1e-2)
    assert lr[0] < lr[1] < lr[2]
    assert lr[-1] == pytest.approx(0, abs=1e-12)
    assert lr[-5] == pytest.approx(5e-3, rel=0.01)


# Killed and resumed ----------------------------------------------------------------------------------
DRIVER = '''
"""Train in forked children (imports are paid once) that die where they are told to; print what is left."""
import json, os, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from sae_lens import SAE

root = Path(sys.argv[1])
told, tell = os.pipe()
reader = os.fork()
if reader == 0:  # a process that has never seen graticule reads what the others write
    os.close(tell)
    os.read(told, 1)
    sys.modules["graticule"] = None
    saes = {name: SAE.load_from_disk(root / "whole" / name / "sae") for name in ("a", "b")}
    words = {name: [sae.cfg.architecture(), sae(torch.ones(2, 8)).tolist()] for name, sae in saes.items()}
    (root / "read.json").write_text(json.dumps(words))
    os._exit(0)
from graticule import saes
from graticule.hooks.activations import Activations
import graticule.saes.training.train, graticule.hooks.streams.stored

generator = torch.Generator().manual_seed(0)
rows = torch.randn(40 * 32, 8, generator=generator) * torch.rand(8, generator=generator) + 0.3
acts = Activations.from_tensors({"blocks.0.hook_resid_post": rows, "blocks.1.hook_resid_post": rows.flip(1)})

def config(name):
    one = {"architecture": name, "d_sae": 24, "normalize_activations": "expected_average_only_in"}
    return one | ({} if name == "bricken" else {"k": 3})

def train(out, name, slow=0.0):
    if slow:
        from graticule.saes.training.trainer import Trainer
        step = Trainer.step
        Trainer.step = lambda self, batch: (time.sleep(slow), step(self, batch))[1]
    saes.train(acts, config={"a": config(name), "b": config("bricken")}, hook_name="blocks.1.hook_resid_post",
               out=root / out, batch_size=32, checkpoint_every=9, log_every=5, progress=False)

def child(job):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            job(); code = 0
        finally:
            os._exit(code)
    return pid

def killed_at(out, name, n):
    """Die at the n-th rename or removal, before it is done."""
    left = [n]
    def dying(real):
        def act(*a, **k):
            left[0] -= 1
            if left[0] == 0: os.kill(os.getpid(), signal.SIGKILL)
            return real(*a, **k)
        return act
    import shutil
    os.replace, Path.unlink, shutil.rmtree = dying(os.replace), dying(Path.unlink), dying(shutil.rmtree)
    train(out, name)

def wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

codes = {"whole": wait(child(lambda: train("whole", "batchtopk")))}
# a rename or a removal after another: each process dies a little later than the one before
died = 0
for n in range(1, 200, 3):
    code = wait(child(lambda: killed_at("stepwise", "batchtopk", n)))
    died += code == -9
    if code == 0: break
codes["died"], codes["stepwise"] = died, code

def once(out, steps):
    """Wait until that many steps are in a checkpoint."""
    for _ in range(3000):
        file = root / out / "run.json"
        if file.is_file() and json.loads(file.read_text())["steps"] >= steps: return
        time.sleep(0.01)
    raise TimeoutError(out)

# signals at three moments of a run that takes its time
codes["signals"] = []
for steps in (0, 9, 27):
    pid = child(lambda: train("timed", "batchtopk", slow=0.02))
    once("timed", steps)
    time.sleep(0.03)
    os.kill(pid, signal.SIGKILL)
    codes["signals"].append(wait(pid))
codes["timed"] = wait(child(lambda: train("timed", "batchtopk")))
# Ctrl-C: a checkpoint at once
pid = child(lambda: train("asked", "batchtopk", slow=0.05))
once("asked", 9)
os.kill(pid, signal.SIGINT)
codes["interrupted"] = wait(pid)
codes["checkpoint"] = json.loads((root / "asked/checkpoint/checkpoint.json").read_text())["step"]
codes["asked"] = wait(child(lambda: train("asked", "batchtopk")))
os.write(tell, b"x")
codes["reader"] = wait(reader)
print(json.dumps(codes))
'''


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> tuple[Path, dict[str, int]]:
    root = tmp_path_factory.mktemp("killed")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DRIVER, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return root, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stepwise", "timed", "asked"])
def test_a_killed_run_goes_on_to_the_bit(killed, how):
    """SIGKILL at any moment, as often as one likes, and Ctrl-C: the weights of a run that was left alone."""
    root, codes = killed
    assert codes["whole"] == codes[how] == 0
    for name in ("a", "b"):
        assert same(weights(root / "whole" / name), weights(root / how / name))
        tables = [read_table(root / run / name / "history.parquet") for run in ("whole", how)]
        assert tables[0].drop(columns="seconds").equals(tables[1].drop(columns="seconds"))
    assert not (root / how / "checkpoint").exists()
    assert read_json(root / how / "run.json")["state"] == "complete"
    assert not [f for f in (root / how).rglob(".*") if f.suffix in (".tmp", ".old")]


@pytest.mark.slow
def test_it_was_killed_and_interrupted_indeed(killed):
    _, codes = killed
    assert codes["died"] >= 6
    assert codes["signals"] == [-signal.SIGKILL] * 3
    assert codes["interrupted"] != 0
    assert 0 < codes["checkpoint"] < 40
    assert codes["checkpoint"] % 9  # not one that was due anyway


@pytest.mark.slow
def test_saelens_reads_the_folders_without_graticule(killed):
    """Batch TopK as JumpReLU, the paper's as standard: what a process reads that never imported graticule."""
    root, codes = killed
    assert codes["reader"] == 0
    read = json.loads((root / "read.json").read_text())
    assert {name: architecture for name, (architecture, _) in read.items()} == {
        "a": "jumprelu",
        "b": "standard",
    }
    for name, (_, made) in read.items():
        ours = saes.Run.load(root / "whole").parts[name].sae()(torch.ones(2, 8))
        torch.testing.assert_close(torch.tensor(made), ours.detach())


# The folder ------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def live(load_tiny, names, tmp_path_factory) -> tuple[saes.Run, Path]:
    """A TopK SAE from a tiny model and texts."""
    out = tmp_path_factory.mktemp("live") / "run"
    texts = [" ".join(names[i : i + 6]) for i in range(len(names))] * 20
    settings = {"context_size": 16, "stream": {"buffer_tokens": 512}, "batch_size": BATCH, "seed": 3}
    run = saes.train(load_tiny(), config=TOPK, hook_name="blocks.1.hook_resid_post", corpus=texts, out=out,
                     n_tokens=60 * BATCH, **settings)  # fmt: skip
    return run, out


@pytest.mark.slow
def test_the_metadata_is_complete(live):
    _, out = live
    cfg = read_json(out / "sae" / "cfg.json")
    metadata = cfg["metadata"]
    assert cfg["architecture"] == "topk"
    assert metadata["hook_name"] == "blocks.1.hook_resid_post"
    assert int(metadata["sae_lens_version"].split(".")[0]) >= 6
    assert metadata["model_from_pretrained_kwargs"] == {}
    assert metadata["context_size"] == 16
    assert metadata["model_class_name"] == "HookedTransformer"
    assert isinstance(metadata["prepend_bos"], bool)
    assert metadata["graticule"]["training"]["training_tokens"] == 60 * BATCH
    assert metadata["graticule"]["versions"]["torch"] == torch.__version__
    assert {"model_name", "dataset_path", "seqpos_slice", "exclude_special_tokens"} <= metadata.keys()
    assert metadata["training_architecture"] == "topk"


@pytest.mark.slow
def test_the_run_folder_holds_what_it_says(live):
    run, out = live
    files = {f.name for f in (out / "sae").iterdir()}
    assert files == {"cfg.json", "sae_weights.safetensors", "sparsity.safetensors", "runner_cfg.json"}
    assert not [f for f in out.rglob("*") if f.suffix in (".pt", ".pkl", ".bin", ".tmp")]
    history = read_table(out / "history.parquet")
    columns = {"step", "tokens", "seconds", "loss", "mse_loss", "l0", "explained_variance", "dead", "lr"}
    assert columns <= set(history.columns)
    assert history["tokens"].iloc[-1] == 60 * BATCH == run.tokens
    assert history["l0"].iloc[-1] == pytest.approx(4)
    sparsity = load_file(out / "sae" / "sparsity.safetensors")["sparsity"]
    assert sparsity.shape == (D_SAE,)
    assert float((10**sparsity).sum()) == pytest.approx(4, rel=1e-3)  # k latents a token on average
    runner = read_json(out / "sae" / "runner_cfg.json")
    assert runner["training_tokens"] == 60 * BATCH
    assert runner["hook_name"] == "blocks.1.hook_resid_post"
    assert run.summary().startswith("trained on 3,840 tokens")
    assert len(run.figures()) == 1
    assert saes.Run.load(out).to_json()["state"] == "complete"


def test_heads_are_flat_for_training_and_whole_in_the_model(load_tiny, names, tmp_path):
    """Of `hook_z` the stream gives concatenated heads; the saved SAE takes and gives what the hook holds."""
    point = "blocks.0.attn.hook_z"
    run = saes.train(load_tiny(), config=TOPK, hook_name=point, corpus=names * 20, out=tmp_path / "run",
                     n_tokens=4 * BATCH, batch_size=BATCH, context_size=16,
                     stream={"buffer_tokens": 128})  # fmt: skip
    z = load_tiny().run_with_cache(torch.arange(8)[None])[1][point]
    sae = run.sae()
    assert z.ndim == 4
    assert sae(z).shape == z.shape
    flat = sae.encode(z)
    sae.turn_off_forward_pass_hook_z_reshaping()
    torch.testing.assert_close(flat, sae.encode(z.flatten(2)))


def test_a_complete_run_is_not_run_again(live, load_tiny, names):
    run, out = live
    before = (out / "sae" / "cfg.json").stat().st_mtime_ns
    texts = [" ".join(names[i : i + 6]) for i in range(len(names))] * 20
    settings = {"context_size": 16, "stream": {"buffer_tokens": 512}, "batch_size": BATCH, "seed": 3}
    again = saes.train(load_tiny(), config=TOPK, hook_name="blocks.1.hook_resid_post", corpus=texts, out=out,
                       n_tokens=60 * BATCH, **settings)  # fmt: skip
    assert again.history.equals(run.history)
    assert (out / "sae" / "cfg.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"holds a run of another request \(.*tokenizer: another one"):
        saes.train(with_two_words_exchanged(load_tiny(), names), config=TOPK, corpus=texts, out=out,
                   hook_name="blocks.1.hook_resid_post", n_tokens=60 * BATCH, **settings)  # fmt: skip


def test_a_run_of_another_request_is_refused(acts, tmp_path):
    def go(**changes):
        given = {"config": TOPK, "batch_size": BATCH, "n_tokens": 4 * BATCH, "seed": 0} | changes
        return saes.train(acts, hook_name=POINTS[0], out=tmp_path / "run", **given)

    go()
    with pytest.raises(ValueError, match=r"another request \(config\.k: 4 → 5\)"):
        go(config={**TOPK, "k": 5})
    with pytest.raises(ValueError, match="seed: 0 → 1"):
        go(seed=1)
    with pytest.raises(ValueError, match="n_tokens: 256 → 320"):
        go(n_tokens=5 * BATCH)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="something other"):
        saes.train(acts, config=TOPK, hook_name=POINTS[0], out=tmp_path / "other", batch_size=BATCH)
    assert [f.name for f in (tmp_path / "other").iterdir()] == ["thesis.txt"]


@pytest.mark.slow
def test_several_saes_come_out_as_each_alone(acts, tmp_path):
    """Sizes, architectures and hook points from one stream, each to the bit what it is on its own."""
    shared = {"batch_size": BATCH, "n_tokens": 12 * BATCH, "seed": 1}
    wanted = {
        "small": {**TOPK, "d_sae": 24},
        "steep": {"architecture": "standard", "d_sae": D_SAE, "l1": 2.0, "lr": 1e-2, "hook_name": POINTS[1]},
    }
    together = saes.train(acts, config=wanted, hook_name=POINTS[0], out=tmp_path / "both", **shared)
    assert set(together.parts) == {"small", "steep"}
    for name, point in (("small", POINTS[0]), ("steep", POINTS[1])):
        alone = {k: v for k, v in wanted[name].items() if k != "hook_name"}
        saes.train(acts, config=alone, hook_name=point, out=tmp_path / name, **shared)
        assert same(weights(tmp_path / name), weights(tmp_path / "both" / name))
        assert together.parts[name].sae().cfg.metadata.hook_name == point
    assert "steep: loss" in together.summary()
    assert len(together.tables()["The training"]) == 2
    with pytest.raises(ValueError, match="several SAEs"):
        _ = together.sae_folder
    at_both = saes.train(acts, config=[TOPK, "standard"], hook_name=POINTS, out=tmp_path / "grid", **shared)
    assert list(at_both.parts) == [f"{c}-{p}" for c in ("0-topk-40", "1-standard") for p in POINTS]


@pytest.mark.slow
def test_the_scale_is_saelens_own_and_folded(acts, tmp_path):
    """Trained on scaled rows, the SAE reads raw ones: its folder asks for no scaling any more."""
    config = {**TOPK, "normalize_activations": "expected_average_only_in"}
    raw = Activations.from_tensors({POINTS[0]: 30 * acts[POINTS[0]]})
    shared = {"hook_name": POINTS[0], "batch_size": BATCH, "optimisation": Optimisation(lr=1e-2)}
    small = saes.train(acts, config=config, out=tmp_path / "small", **shared)
    large = saes.train(raw, config=config, out=tmp_path / "large", **shared)
    by_stream = saes.train(raw, config=TOPK, out=tmp_path / "stream", **shared,
                           stream={"normalize": "expected_average_only_in"})  # fmt: skip
    x = acts[POINTS[0]][:200]
    assert small.sae().cfg.normalize_activations == "none"
    torch.testing.assert_close(large.sae()(30 * x), 30 * small.sae()(x), rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(by_stream.sae()(30 * x), large.sae()(30 * x), rtol=1e-3, atol=1e-2)
    plain = saes.train(acts, config=TOPK, out=tmp_path / "plain", **shared)
    assert (plain.sae()(x) - small.sae()(x)).abs().max() > 1e-2


# What goes wrong -------------------------------------------------------------------------------------
@pytest.mark.slow
def test_the_bias_starts_at_the_geometric_median(acts, tmp_path):
    """At a learning rate of next to nothing it stays there, scaled rows or not."""
    median = geometric_median(acts[POINTS[0]])
    for normalize in ("none", "expected_average_only_in"):
        given = {**TOPK, "normalize_activations": normalize, "lr": 1e-12}
        run = saes.train(
            acts,
            config=given,
            hook_name=POINTS[0],
            batch_size=BATCH,
            out=tmp_path / normalize,
            progress=False,
        )
        assert torch.allclose(weights(run.path)["b_dec"], median.float(), atol=1e-5)
        told = run.sae().cfg.metadata.graticule["training"]["trainer"]
        assert told["b_dec_init_method"] == "geometric_median"
    given = {**TOPK, "b_dec_init_method": "zeros", "lr": 1e-12}
    run = saes.train(acts, config=given, hook_name=POINTS[0], batch_size=BATCH, out=tmp_path / "zeros")
    assert weights(run.path)["b_dec"].abs().max() < 1e-6


@pytest.mark.slow
def test_a_short_batchtopk_run_keeps_as_many_as_it_was_trained_with(acts, tmp_path):
    """SAELens's running mean of thresholds starts at 0; after 64 steps half of it is still missing."""
    given = BatchTopKTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=4)
    run = saes.train(acts, config=given, hook_name=POINTS[0], batch_size=BATCH, out=tmp_path / "run")
    sae, x = run.sae(), acts[POINTS[0]]
    l0 = float((sae.encode(x) > 0).sum(1).float().mean())
    assert 2 < l0 < 8
    with torch.no_grad():
        sae.threshold.mul_(1 - 0.99**64)  # as SAELens leaves it
        assert float((sae.encode(x) > 0).sum(1).float().mean()) > 1.5 * l0


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(acts, tmp_path):
    rows = acts[POINTS[0]].clone()
    broken = Activations.from_tensors({POINTS[0]: rows})
    order = StoreStream(broken, POINTS[0], BATCH)
    batches = [next(order)[POINTS[0]] for _ in range(8)]
    bad = (rows == batches[7][0]).all(1).nonzero()
    rows[bad] = math.nan
    given = {"config": TOPK, "hook_name": POINTS[0], "batch_size": BATCH, "checkpoint_every": 3}
    with pytest.raises(
        NonFiniteError, match=rf"{POINTS[0]}: 1 non-finite entries, the first in row {int(bad[0])}"
    ):
        saes.train(broken, out=tmp_path / "early", **given)
    given["stream"] = {"max_norm": None}  # the rows are not looked at before
    with pytest.raises(DivergedError, match=r"step 8 .*last checkpoint is kept in"):
        saes.train(broken, out=tmp_path / "run", **given)
    assert read_json(tmp_path / "run" / "checkpoint" / "checkpoint.json")["step"] == 6
    run = saes.Run.load(tmp_path / "run")
    assert run.state == "training"
    assert run.tokens == 6 * BATCH
    assert run.summary().startswith("not complete, 384 tokens")
    with pytest.raises(ArtifactError, match="not complete"):
        run.sae()


def test_data_that_ends_early_is_told(acts, tmp_path, caplog):
    class Short(StoreStream):
        @property
        def epochs(self):  # it does not know its own length
            return None

        @epochs.setter
        def epochs(self, value):
            pass

        def __next__(self):
            if self._batch == 5:
                raise StopIteration
            return super().__next__()

    stream = Short(acts, POINTS[0], BATCH)
    with caplog.at_level(logging.WARNING):
        run = saes.train(stream, config=TOPK, out=tmp_path / "run", n_tokens=9 * BATCH)
    assert "ended after 320 of 576" in caplog.text
    assert run.tokens == 5 * BATCH
    assert "the data ended before the 576" in run.summary()
    with pytest.raises(ValueError, match="n_tokens"):
        saes.train(stream, config=TOPK, out=tmp_path / "unknown")


def test_the_users_random_state_and_grad_mode_are_left(acts, tmp_path):
    torch.manual_seed(5)
    expected, handler = torch.get_rng_state(), signal.getsignal(signal.SIGINT)
    with torch.no_grad():
        saes.train(acts, config=TOPK, hook_name=POINTS[0], out=tmp_path / "run", batch_size=BATCH,
                   n_tokens=3 * BATCH)  # fmt: skip
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), expected)
    assert signal.getsignal(signal.SIGINT) is handler


def test_two_processes_do_not_share_a_folder(acts, tmp_path):
    import fcntl

    (tmp_path / "run").mkdir()
    other = os.open(tmp_path / "run", os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    try:
        with pytest.raises(FileExistsError, match="another process is training into"):
            saes.train(acts, config=TOPK, hook_name=POINTS[0], out=tmp_path / "run", batch_size=BATCH)
    finally:
        os.close(other)
    assert not list((tmp_path / "run").iterdir())


# Settings --------------------------------------------------------------------------------------------
def test_configs_by_name_are_saelens_own():
    config = sae_config("topk", 8, 32, k=4, normalize_activations="layer_norm")
    assert isinstance(config, TopKTrainingSAEConfig)
    assert (config.k, config.d_sae, config.normalize_activations) == (4, 32, "layer_norm")
    assert sae_config("standard", 8, l1=0.5).l1_coefficient == 0.5
    assert sae_config("jumprelu", 8, l1=0.5).l0_coefficient == 0.5
    assert sae_config("standard", 8).d_sae == 64
    assert sae_config("matryoshka", 8, 32).matryoshka_widths == [4, 8, 16, 32]
    assert sae_config("bricken", 8, 32).architecture() == "bricken"
    with pytest.raises(ValueError, match=r"expected one of .*batchtopk"):
        sae_config("resnet", 8)
    with pytest.raises(ValueError, match="'standard' has no setting k"):
        sae_config("standard", 8, k=4)
    with pytest.raises(ValueError, match="whole number"):
        as_config({"architecture": "topk", "k": 2.5}, 8)
    with pytest.raises(ValueError, match="d_in is 9, the hook point is 8 wide"):
        as_config(TopKTrainingSAEConfig(d_in=9, d_sae=16), 8)
    with pytest.raises(TypeError, match="give a SAELens"):
        as_config(3, 8)


def test_defaults_fit_the_run():
    short, long = Optimisation().resolved("topk", 100), Optimisation().resolved("topk", 100_000)
    assert (short.lr, short.lr_warm_up_steps, short.lr_decay_steps) == (3e-4, 5, 20)
    assert (long.lr_warm_up_steps, long.dead_feature_window) == (1000, 1000)
    paper = Optimisation().resolved("bricken", 100_000)
    assert (paper.clip_grad_norm, paper.lr_decay_steps, paper.dead_feature_window) == (0, 0, 12_500)
    assert Optimisation(lr=1.0).resolved("topk", 9).lr_end == 0.1
    with pytest.raises(ValueError, match="warm-up and decay take 30 steps, the run has 20"):
        Optimisation(lr_warm_up_steps=20, lr_decay_steps=10).resolved("topk", 20)
    with pytest.raises(ValueError, match="lr=-1"):
        Optimisation(lr=-1.0).resolved("topk", 20)
    with as_installed(), pytest.raises(ValueError, match="lr_scheduler_name='warm'"):
        Optimisation(lr_scheduler_name="warm").resolved("topk", 20)


def test_weights_and_biases_gets_saelens_names(acts, tmp_path, monkeypatch):
    import wandb

    logged, opened = [], []
    monkeypatch.setattr(wandb, "init", lambda **given: opened.append(given))
    monkeypatch.setattr(wandb, "log", lambda line, step: logged.append((step, line)))
    monkeypatch.setattr(wandb, "finish", lambda exit_code: opened.append(exit_code))
    shared = {"hook_name": POINTS[0], "batch_size": BATCH, "n_tokens": 6 * BATCH, "config": TOPK}
    saes.train(acts, out=tmp_path / "quiet", **shared)
    assert not logged
    saes.train(acts, out=tmp_path / "loud", log_every=2, logger=LoggingConfig(wandb_project="p"), **shared)
    assert opened[0]["project"] == "p"
    assert opened[-1] == 0
    assert [step for step, _ in logged] == [1, 2, 4, 6]
    theirs = {"losses/overall_loss", "losses/mse_loss", "metrics/l0", "metrics/explained_variance"}
    theirs |= {"sparsity/dead_features", "details/current_learning_rate", "details/n_training_samples"}
    assert theirs <= logged[0][1].keys()
    assert isinstance(SAE.load_from_disk(tmp_path / "loud" / "sae"), SAE)


@pytest.mark.slow
def test_long_rows_are_left_out_and_said_or_warned_of(acts, tmp_path, caplog):
    rows = acts[POINTS[0]].clone()
    rows[::100] *= 200
    long = Activations.from_tensors({POINTS[0]: rows})
    given = {"config": TOPK, "batch_size": BATCH, "epochs": 4}
    run = saes.train(long, out=tmp_path / "run", **given)
    words = "are left out: their norm is over 10 times the median"
    assert words in run.summary() and words in saes.Run.load(tmp_path / "run").summary()
    assert "the SAE will be about those rows" not in caplog.text
    cfg = read_json(tmp_path / "run" / "sae" / "cfg.json")["metadata"]
    assert cfg["graticule"]["max_norm"] == 10.0
    every = saes.train(long, out=tmp_path / "all", **given, stream={"max_norm": None})
    assert "the SAE will be about those rows; stream={'max_norm': 10} leaves them out" in caplog.text
    assert "times the median norm and hold 100% of the variance" in every.summary()


IMPOSSIBLE = [
    ({"config": {**TOPK, "d_sae": 0}}, r"d_sae=0: expected a whole number of at least 1"),
    ({"config": {**TOPK, "k": 0}}, r"k=0: expected"),
    ({"config": {**TOPK, "k": -1}}, r"k=-1: expected"),
    ({"config": {**TOPK, "k": D_SAE + 1}}, r"k=41: at most the 40 latents"),
    ({"config": TopKTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=D_SAE + 1)}, r"k=41: at most the 40 latents"),
    ({"config": {"architecture": "batchtopk", "k": 2.5e9}}, r"at most the 96 latents"),
    ({"config": {"architecture": "standard", "l1": -0.1}}, r"l1=-0.1: expected a number of at least 0"),
    ({"config": {"architecture": "jumprelu", "l0_coefficient": -1.0}}, r"l0_coefficient=-1.0: expected"),
    ({"config": {"architecture": "standard", "l1_warm_up_steps": -3}}, r"l1_warm_up_steps=-3: expected"),
    ({"config": {**TOPK, "lr": math.nan}}, r"lr=nan: expected"),
    ({"config": {**TOPK, "lr_warm_up_steps": -1}}, r"lr_warm_up_steps=-1: expected"),
    ({"optimisation": Optimisation(lr=0.0)}, r"lr=0.0: expected"),
    ({"optimisation": Optimisation(adam_beta2=1.5)}, r"adam_beta2=1.5: expected"),
    ({"checkpoint_minutes": math.nan}, r"checkpoint_minutes=nan: expected"),
    ({"checkpoint_minutes": -1.0}, r"checkpoint_minutes=-1.0: expected"),
    ({"n_tokens": 0}, r"n_tokens=0: expected"),
    ({"seed": -1}, r"seed=-1: expected"),
    ({"epochs": 0}, r"epochs=0: expected"),
    ({"batch_size": 5000}, r"batch_size=5000: 4096 of 4096 rows are left.*write batch_size=4096 or less"),
    ({"epochs": None, "batch_size": 5000}, r"write batch_size=4096 or less"),
    ({"stream": {"max_norm": 1.0}}, r"max_norm=1.0: expected a number above 1"),
    ({"source": "gemma-3-270m"}, r"train: source is 'gemma-3-270m'.*graticule.load_model\('gemma-3-270m'\)"),
]


@pytest.mark.parametrize(("change", "words"), IMPOSSIBLE, ids=lambda value: str(value)[:40])
def test_settings_that_cannot_be_are_refused_in_one_line(acts, tmp_path, change, words):
    given = {"source": acts, "config": TOPK, "hook_name": POINTS[0], "batch_size": BATCH, **change}
    with as_installed(), pytest.raises(ValueError, match=words) as error:
        saes.train(given.pop("source"), out=tmp_path / "run", **given)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_that_takes_few_steps_or_learns_nothing_says_so(acts, tmp_path, caplog):
    poor = {"config": {**TOPK, "lr": 1e-6, "b_dec_init_method": "zeros"}, "batch_size": 256}
    few = saes.train(acts, hook_name=POINTS[0], out=tmp_path / "few", **poor)
    assert "16 steps of 256 rows: a dictionary learns little in less than 500" in caplog.text
    words = "it explains less than the rows' mean does"
    assert few.history["explained_variance"].iloc[-1] < 0
    assert words in caplog.text and words in few.summary()
    caplog.clear()
    rich = {"config": {**TOPK, "lr": 3e-3}, "batch_size": BATCH, "epochs": 8}
    good = saes.train(acts, hook_name=POINTS[0], out=tmp_path / "good", **rich)
    assert good.history["explained_variance"].iloc[-1] > 0
    assert words not in caplog.text and words not in good.summary() and "steps of" not in caplog.text


def test_interrupted_before_the_first_step_nothing_is_said_to_be_kept(acts, tmp_path, caplog):
    class Interrupted(StoreStream):
        def sample(self, n, seed=0):
            raise KeyboardInterrupt

    given = {"config": TOPK, "out": tmp_path / "run", "n_tokens": 4 * BATCH}
    with pytest.raises(KeyboardInterrupt):
        saes.train(Interrupted(acts, POINTS[0], BATCH), **given)
    assert "interrupted before the first step: nothing was trained" in caplog.text
    assert "captures again what was captured so far" in caplog.text and "nothing is lost" not in caplog.text
    assert "checkpoint in" not in caplog.text
    assert saes.train(StoreStream(acts, POINTS[0], BATCH), **given).state == "complete"
    several = given | {"config": {"a": TOPK, "b": TOPK}, "out": tmp_path / "several"}
    with pytest.raises(KeyboardInterrupt):
        saes.train(Interrupted(acts, POINTS[0], BATCH), **several)
    run = saes.Run.load(tmp_path / "several")
    assert [*run.parts] == ["a", "b"] and "2 SAEs from one stream: training, 0 tokens" in run.summary()


@pytest.mark.slow
def test_another_call_into_a_run_is_told_by_its_own_names_before_the_data_are_looked_at(acts, tmp_path):
    given = {"hook_name": POINTS[0], "batch_size": BATCH, "epochs": 2, "seed": 3}
    saes.train(acts, config=TOPK, out=tmp_path / "run", **given)

    class Unread(StoreStream):
        def __init__(self):
            pass

        points = widths = batch_size = property(lambda self: pytest.fail("the data were looked at"))

    for change, words in (
        ({"seed": 4}, "seed: 3 → 4"),
        ({"batch_size": 32}, "batch_size: 64 → 32"),
        ({"config": {**TOPK, "k": 5}}, r"config\.k: 4 → 5"),
        ({"epochs": 1, "seed": 1}, "epochs: 2 → 1; seed: 3 → 1"),
    ):
        with pytest.raises(ValueError, match=f"holds a run of another request .*{words}"):
            saes.train(Unread(), **{"config": TOPK, "out": tmp_path / "run", **given, **change})
    other = Activations.from_tensors({p: acts[p] + 1 for p in POINTS}, provenance={"inputs": "abc"})
    with pytest.raises(ValueError, match="another request") as error:
        saes.train(other, config=TOPK, out=tmp_path / "run", **given)
    assert "abc" not in str(error.value) or "not set" in str(error.value)


@pytest.mark.slow
def test_a_run_of_other_rows_is_another_run_whether_complete_or_interrupted(acts, tmp_path, caplog):
    given = {"config": TOPK, "hook_name": POINTS[0], "batch_size": BATCH}
    one = Activations.from_tensors({p: acts[p][:512] for p in POINTS})
    moved = Activations.from_tensors({p: one[p] + 1 for p in POINTS})
    swapped = Activations.from_tensors({p: one[p].flip(0) for p in POINTS})
    half = Activations.from_tensors({p: one[p].half() for p in POINTS})
    elsewhere = Activations.from_tensors({POINTS[0]: one[POINTS[0]].clone(), POINTS[1]: one[POINTS[1]] + 1})
    words = r"another request \(.*stream\.graticule\.values: another one"

    class Killed(StoreStream):
        def __next__(self):
            if self._batch == 3:
                raise KeyboardInterrupt
            return super().__next__()

    saes.train(one, **given, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        saes.train(Killed(one, POINTS[0], BATCH), **given, out=tmp_path / "killed")
    for other in (moved, swapped, half):
        for folder in ("whole", "killed"):
            with pytest.raises(ValueError, match=words):
                saes.train(other, **given, out=tmp_path / folder)
        with pytest.raises(ValueError, match=r"the state is of another stream .*values"):
            StoreStream(other, POINTS[0], BATCH).load_state_dict(
                StoreStream(one, POINTS[0], BATCH).state_dict()
            )
    assert saes.train(elsewhere, **given, out=tmp_path / "whole").state == "complete"  # the same at its point
    one.save(tmp_path / "store")
    moved.save(tmp_path / "moved")
    saes.train(tmp_path / "store", **given, out=tmp_path / "stored")
    with pytest.raises(ValueError, match=words):
        saes.train(tmp_path / "moved", **given, out=tmp_path / "stored")
    words = read_json(tmp_path / "whole" / "run.json")
    del words["request"]["stream"]["graticule"]["values"]  # as a run of 0.1 has it
    (tmp_path / "whole" / "run.json").write_text(json.dumps(words))
    caplog.clear()
    assert saes.train(one, **given, out=tmp_path / "whole").state == "complete"
    assert "whether its rows are the same is not known" in caplog.text


@pytest.mark.parametrize("normalize", ["none", "expected_average_only_in"])
@pytest.mark.parametrize(("value", "words"), [(0.0, "zero"), (2.0, "are the same values")])
def test_rows_that_are_all_the_same_are_refused(tmp_path, normalize, value, words):
    same = Activations.from_tensors({POINTS[0]: torch.full((4 * BATCH, D_IN), value)})
    with pytest.raises(ValueError, match=f"{POINTS[0]}: .*{words}"):
        saes.train(same, config=TOPK, out=tmp_path / "run", batch_size=BATCH, stream={"normalize": normalize})


@pytest.mark.slow
def test_a_run_begun_before_long_rows_were_left_out_goes_on_with_all_of_them(acts, tmp_path):
    given = {"config": TOPK, "hook_name": POINTS[0], "batch_size": BATCH, "out": tmp_path / "run"}
    saes.train(acts, **given, stream={"max_norm": None})
    words = read_json(tmp_path / "run" / "run.json")
    assert "max_norm" not in words["request"]["stream"]["graticule"]
    del words["call"]  # as a run of 0.1 has it
    (tmp_path / "run" / "run.json").write_text(json.dumps(words))
    assert saes.train(acts, **given, stream={"max_norm": None}).state == "complete"
    with pytest.raises(ValueError, match=r"another request \(stream\.graticule\.max_norm: not set → 10\.0\)"):
        saes.train(acts, **given)


def test_computing_in_the_faster_type_is_chosen_or_warned_of(acts, tmp_path, caplog, monkeypatch):
    from graticule.hooks import processor
    from graticule.saes.training.settings import compute_type

    for features, auto, warned in ((("amx_bf16",), torch.bfloat16, False), (("avx512_bf16",), None, True)):
        monkeypatch.setattr(processor, "features", lambda features=features: features)
        caplog.clear()
        assert compute_type("auto") == auto
        assert not caplog.text
        assert compute_type("bfloat16") == torch.bfloat16
        assert ("'float32' computes faster" in caplog.text) == warned
    with pytest.raises(ValueError, match="or auto"):
        compute_type("float8")
