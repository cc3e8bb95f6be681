"""What torch, tokenizers and file systems cannot use is refused in one line, in graticule's words."""

import copy
import shutil

import numpy as np
import pytest
import torch
from helpers import as_installed

from graticule import Activations, Outcome, Store, Table, capture, load_model, probe, record, sweep
from graticule.hooks.streams.live import LiveStream

POINT = "blocks.1.hook_resid_post"
HALF = "\ud800 paris"


def refused(call, match, kind=ValueError):
    with pytest.raises(kind, match=match) as error:
        call()
    assert "\n" not in str(error.value) and "weights_only" not in str(error.value)


@pytest.fixture(scope="module")
def table(names):
    return Table.from_arrays(np.arange(52.0), names[:52], name="t")


@pytest.mark.filterwarnings("ignore:.*(sparse|Sparse|quantize|nested|deprecated).*")
@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("sparse", lambda x: x.to_sparse()),
        ("sparse", lambda x: x.to_sparse_csr()),
        ("on the meta device", lambda x: x.to("meta")),
        ("nested", lambda x: torch.nested.nested_tensor(list(x))),
    ],
)
def test_tensors_that_are_no_plain_numbers(kind, make):
    values = torch.eye(4)
    assert Activations.from_tensors({POINT: values}).n_rows == 4
    refused(lambda: Activations.from_tensors({POINT: make(values)}), f"{POINT} is a tensor that is {kind}")
    if kind == "sparse":
        cache = {POINT: values[:, None].to_sparse()}
        refused(lambda: Activations.from_cache(cache), f"{POINT} is a tensor that is sparse")


def test_texts_that_can_be_read_but_once(tiny, names):
    acts = capture(tiny, names[:4], points=POINT)
    tensors = {POINT: acts[POINT]}
    for call in (
        lambda texts: Activations.from_tensors(tensors, texts=texts),
        lambda texts: acts.with_texts(texts),
        lambda texts: capture(tiny, names[:4], points=POINT, texts=texts),
        lambda texts: record(tiny, POINT, texts=texts).__enter__(),
    ):
        with as_installed():
            again = r"expected a list of texts: list\(texts\)"
            refused(lambda call=call: call(iter(names[:4])), again, TypeError)
        refused(lambda call=call: call("four"), r"texts is 'four'; expected a list of texts", TypeError)


def test_half_characters(tiny, names):
    for call in (
        lambda: capture(tiny, ["rome", HALF], points=POINT),
        lambda: capture(tiny, ["rome"], points=POINT, prompt=HALF),
        lambda: next(LiveStream(tiny, [HALF, *names], POINT, 8, context_size=8, buffer_tokens=32)),
        lambda: Outcome("o", "{} is", {"a": (HALF,), "b": ("rome",)}, "t").tokens(tiny),
    ):
        refused(call, r"holds half a character \('\\ud800'\), which no model can read")


@pytest.mark.slow
def test_paths_with_a_nul_and_links_to_nowhere(tiny, names, table, tmp_path):
    findings = sweep(capture(tiny, table.texts, points=POINT), table, n_bootstrap=20, progress=False)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    for call in (
        lambda path: capture(tiny, names[:4], points=POINT, store=path),
        lambda path: probe(tiny, table, points=POINT, out=path, progress=False),
        lambda path: findings.save(path),
        lambda path: capture(tiny, names[:4], points=POINT).save(path),
    ):
        refused(lambda call=call: call("a\0b"), r"path 'a\\x00b' holds a NUL")
        refused(lambda call=call: call(link), "is a symbolic link to .*nowhere, which is not there")
    refused(lambda: Store("a\0b"), "holds a NUL")
    assert link.is_symlink() and not (tmp_path / "nowhere").exists()
    (tmp_path / "nowhere").mkdir()  # as it is told to
    assert capture(tiny, names[:4], points=POINT, store=link).n_rows == 4
    assert (tmp_path / "nowhere" / "manifest.json").is_file()


def test_a_model_of_several_dtypes_that_cannot_run(tiny, names, table):
    model = copy.deepcopy(tiny)
    model.blocks[1].to(torch.bfloat16)
    for call in (
        lambda: capture(model, names[:4], points=POINT),
        lambda: probe(model, table, points=POINT, progress=False),
        lambda: next(LiveStream(model, names, POINT, 8, context_size=8, buffer_tokens=32)),
    ):
        refused(
            call, r"the model has .* in float32 and blocks\.1\..* in bfloat16, which its forward pass cannot"
        )


class Code:
    def __reduce__(self):
        return print, ("was run",)


def test_a_pickle_that_holds_more_than_weights(hf_folder, tmp_path, capsys):
    shutil.copytree(hf_folder("gpt2"), tmp_path / "m", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save({"transformer.wte.weight": Code()}, tmp_path / "m" / "pytorch_model.bin")
    refused(
        lambda: load_model(tmp_path / "m", device="cpu"),
        r"is not loaded\. Give the model's safetensors files: its maker writes them with save_pretrained",
    )
    assert "was run" not in capsys.readouterr().out
