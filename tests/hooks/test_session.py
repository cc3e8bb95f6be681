"""What the session around a call has switched on (training, autocast, dtypes, modes) changes nothing."""

import copy
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from helpers import alike

from graticule import Store, Table, baselines, capture, probe, record, sweep, trace
from graticule.hooks.artifact import ArtifactError
from graticule.hooks.identity import hooked_points, model_identity
from graticule.hooks.protocols import modules_of
from graticule.hooks.running.session import RandomForwardError
from graticule.hooks.streams.live import LiveStream

POINT = "blocks.1.hook_resid_post"


@contextmanager
def training(model):
    model.train()
    try:
        yield
    finally:
        model.eval()


@contextmanager
def one_dropout_on(model):
    """Of the Hugging Face model alone: no module that the bridge calls its own."""
    own = {id(m) for m in model.modules()}
    (dropout,) = [
        m for m in model.original_model.modules() if isinstance(m, torch.nn.Dropout) if id(m) not in own
    ]
    dropout.train()
    try:
        yield
    finally:
        dropout.eval()


@contextmanager
def default_of_64_bits(model):
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SESSIONS = {
    "training": training,
    "one dropout on": one_dropout_on,
    "autocast": lambda model: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference mode": lambda model: torch.inference_mode(),
    "float64 by default": default_of_64_bits,
}
PLACES = [*((name, "bridge") for name in SESSIONS), ("autocast", "hooked"), ("inference mode", "hooked")]


def state(model):
    """What a call is to leave as it is."""
    return [
        [m.training for _, m in modules_of(model)],
        torch.is_autocast_enabled("cpu"),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        torch.get_rng_state(),
    ]


def everything(model, names, folder, table, findings):
    """Activations and readings by every way in which a model is run."""
    stream = LiveStream(model, names, POINT, 8, context_size=8, buffer_tokens=32)
    with record(model, POINT, texts=names[:3]) as recording:
        model(names[:3], return_type=None)
    return {
        "capture": capture(model, names[:12], points=POINT)[POINT],
        "store": capture(model, names[:12], points=POINT, store=folder)[POINT],
        "twin": baselines(model, table, points=POINT, progress=False).features["twin_0"][POINT],
        "record": recording.activations[POINT],
        "stream": next(stream)[POINT],
        "trace": torch.tensor(trace(findings, model, names[0]).readings),
    }


@pytest.fixture(scope="module")
def calm(load_tiny, names, tmp_path_factory):
    """The same by a model in eval mode, in a session with nothing switched on, and what it was kept in."""
    made, table = {}, Table.from_arrays(np.arange(24.0), names[:24], name="t")
    for kind in ("bridge", "hooked"):
        model, folder = load_tiny("gpt2", kind), tmp_path_factory.mktemp(kind) / "store"
        of = table, sweep(capture(model, table.texts, points=POINT), table, n_bootstrap=20, progress=False)
        made[kind] = everything(model, names, folder, *of), folder, of
    return made


@pytest.mark.slow
@pytest.mark.parametrize(("session", "kind"), PLACES)
def test_a_session_changes_no_row_and_is_left_as_found(load_tiny, names, calm, tmp_path, session, kind):
    model, (expected, folder, of) = load_tiny("gpt2", kind), calm[kind]
    with SESSIONS[session](model):
        before = state(model)
        found = everything(model, names, tmp_path / "store", *of)
        found["finished"] = capture(model, names[:12], points=POINT, store=folder)[POINT]
        assert alike(state(model), before)
    for door, values in found.items():
        want = expected["store" if door == "finished" else door]
        assert values.dtype == want.dtype
        assert not values.is_inference() or door in ("trace", "store", "finished")  # read here, by the caller
        torch.testing.assert_close(
            values, want, rtol=1e-6, atol=1e-6, msg=lambda m, door=door: f"{door}: {m}"
        )


def test_in_train_mode_a_bridge_gives_what_its_hugging_face_model_gives_in_eval_mode(
    load_tiny, names, hf_folder
):
    from transformers import AutoModelForCausalLM

    model = load_tiny("gpt2", "bridge")
    hf = AutoModelForCausalLM.from_pretrained(hf_folder("gpt2")).eval()
    assert hf.config.resid_pdrop > 0
    with training(model):
        rows = capture(model, names[:6], points=POINT)[POINT]
    for text, row in zip(names[:6], rows, strict=True):
        with torch.no_grad():
            ids = model.to_tokens(text)
            want = hf(ids, output_hidden_states=True).hidden_states[2][0, -1]
        torch.testing.assert_close(row, want, rtol=1e-4, atol=1e-5)


def test_record_says_that_dropout_is_off_in_its_block(load_tiny, names, caplog):
    model = load_tiny("gpt2", "bridge")
    with training(model), record(model, POINT):
        model(names[:2], return_type=None)
    assert (
        caplog.text.count("the model is in training mode; its passes in the block are without dropout") == 1
    )


class Noisy(torch.nn.Module):
    """A part with a dropout that knows no eval mode."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, *args, **kwargs):
        return torch.nn.functional.dropout(self.part(*args, **kwargs), 0.5)


def test_dropout_that_cannot_be_switched_off_is_refused(tiny, names, tmp_path):
    model = copy.deepcopy(tiny)
    model.blocks[0].mlp = Noisy(model.blocks[0].mlp)
    table = Table.from_arrays(np.arange(52.0), names[:52], name="t")
    refused = pytest.raises(RandomForwardError, match="draws random numbers in its forward pass although")
    for call in (
        lambda: capture(model, names, points=POINT),
        lambda: capture(model, names, points=POINT, store=tmp_path / "store"),
        lambda: probe(model, table, points=POINT, progress=False),
        lambda: next(LiveStream(model, names, POINT, 8, context_size=8, buffer_tokens=32)),
    ):
        before = torch.get_rng_state()
        with refused as error:
            call()
        assert "\n" not in str(error.value)
        assert torch.equal(torch.get_rng_state(), before)
    assert not (tmp_path / "store").exists()
    noise = model.blocks[0].mlp.part
    model.blocks[0].mlp = noise
    model.add_hook(POINT, lambda value, hook: value + torch.randn_like(value))  # the user's own, and told
    assert capture(model, names, points=POINT).provenance["model"]["hooks"] == [POINT]


def test_how_float32_matrices_are_multiplied_is_part_of_what_is_kept(tiny, names, tmp_path):
    plain = model_identity(tiny)
    capture(tiny, names, points=POINT, store=tmp_path / "store")
    torch.set_float32_matmul_precision("medium")
    try:
        assert model_identity(tiny) == {**plain, "float32_products": "medium"}
        with pytest.raises(ArtifactError, match=r"model.float32_products: not set → medium"):
            capture(tiny, names, points=POINT, store=tmp_path / "store")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert Store(tmp_path / "store", model=tiny).n_rows == len(names)


HOOKS = {
    "of the model": lambda hf, fn: hf.register_forward_hook(fn),
    "of a part that the bridge does not name": lambda hf, fn: hf.transformer.register_forward_pre_hook(fn),
    "of every module": lambda hf, fn: torch.nn.modules.module.register_module_forward_hook(fn),
}  # fmt: skip


@pytest.mark.parametrize("place", HOOKS)
def test_hooks_of_the_hugging_face_model_in_a_bridge_are_seen(load_tiny, place):
    model = load_tiny("gpt2", "bridge")
    assert hooked_points(model) == []
    handle = HOOKS[place](model.original_model, lambda *args: None)
    try:
        assert len(hooked_points(model)) == 1
    finally:
        handle.remove()


def test_weights_made_in_inference_mode_are_those_of_the_model(tiny, names):
    with torch.inference_mode():
        model = copy.deepcopy(tiny)
    made = capture(model, names, points=POINT)
    assert made.provenance["model"] == model_identity(tiny)
    assert torch.equal(made[POINT], capture(tiny, names, points=POINT)[POINT])
