"""Activations as a mapping, and their ways in and out."""

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import cached, relative

from graticule import Activations, capture
from graticule.hooks.points import PointError


@pytest.fixture
def acts(tiny, names):
    return capture(tiny, names[:9], pos="all", points=["resid_post", "mlp_post"])


def test_a_mapping_from_hook_name(acts):
    assert isinstance(acts, Activations)
    assert len(acts) == 6
    assert list(acts) == list(acts.points)
    assert acts["resid_post", 1] is acts["blocks.1.hook_resid_post"]
    assert ("resid_post", 1) in acts
    assert ("resid_post", 8) not in acts
    assert acts.widths["blocks.0.mlp.hook_post"] == 48
    assert acts.layers == (0, 0, 1, 1, 2, 2)
    with pytest.raises(PointError, match="not among the captured"):
        acts["resid_mid", 1]


def test_data_where_widths_agree(acts):
    posts = acts.select(points=[p for p in acts if p.endswith("resid_post")])
    assert posts.data.shape == (3, acts.n_rows, 32)
    assert torch.equal(posts.data[2], acts["resid_post", 2])
    with pytest.raises(ValueError, match="widths differ"):
        _ = acts.data


@pytest.mark.parametrize("rows", [[3, 1], np.array([0, 2]), slice(2, 5), None])
def test_select(acts, rows):
    some = acts.select(rows=rows, points="blocks.1.hook_resid_post")
    index = np.arange(acts.n_rows)[rows if rows is not None else slice(None)]
    assert torch.equal(some["resid_post", 1], acts["resid_post", 1][index])
    assert some.rows["source"].to_list() == acts.rows["source"].to_numpy()[index].tolist()
    assert some.points == ("blocks.1.hook_resid_post",)


def test_select_points_as_in_a_cache(acts):
    post = acts["resid_post", 1]
    assert torch.equal(acts.select(points=("resid_post", 1))["resid_post", 1], post)
    assert acts.select(points=[("resid_post", 1), "blocks.0.mlp.hook_post"]).points == (
        "blocks.1.hook_resid_post",
        "blocks.0.mlp.hook_post",
    )
    with pytest.raises(PointError, match="not among the captured"):
        acts.select(points=("resid_mid", 1))


def test_select_by_mask(acts):
    mask = (acts.rows["position"] == 1).to_numpy()
    assert acts.select(rows=mask).n_rows == mask.sum() == 9


def test_from_cache(tiny):
    tokens = torch.tensor([[0, 5, 6, 7], [0, 8, 9, 10]])
    cache = cached(tiny, tokens)
    last, several = Activations.from_cache(cache), Activations.from_cache(cache, pos=slice(1, 3))
    assert not any(p.endswith(("pattern", "scores")) for p in last)
    assert relative(last["resid_post", 2], cache["resid_post", 2][:, -1]) == 0
    assert relative(several["z", 1], cache["z", 1][:, 1:3].flatten(0, 1).flatten(1)) == 0
    assert several.rows["position"].to_list() == [1, 2, 1, 2]
    assert last["resid_post", 1].allclose(capture(tiny, tokens)["resid_post", 1], atol=1e-5)
    with pytest.raises(ValueError, match="expected \\[batch, pos, width\\]"):
        Activations.from_cache(cache, points=["blocks.0.attn.hook_pattern"])


def test_from_tensors():
    X = np.arange(12.0, dtype=np.float32).reshape(4, 3)
    made = Activations.from_tensors({"mine": X}, rows=pd.DataFrame({"word": list("abcd")}))
    assert made.rows["source"].to_list() == [0, 1, 2, 3]
    assert made.rows["word"].to_list() == list("abcd")
    assert torch.equal(made["mine"], torch.from_numpy(X))
    for tensors, rows, message in (
        ({}, None, "no points"),
        ({"a": X, "b": X[:2]}, None, "2 rows, the row table 4"),
        ({"a": X[None]}, None, "expected \\[row, width\\]"),
        ({"a": X}, pd.DataFrame({"word": list("ab")}), "4 rows, the row table 2"),
    ):
        with pytest.raises(ValueError, match=message):
            Activations.from_tensors(tensors, rows=rows)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_saved_and_loaded_bit_for_bit(tiny, names, tmp_path, dtype):
    acts = capture(tiny, names[:9], points=["resid_post", "mlp_post"], dtype=dtype)
    acts.save(tmp_path / "acts")
    back = Activations.load(tmp_path / "acts")
    assert back.points == acts.points
    assert all(torch.equal(back[p], acts[p]) for p in acts)
    pd.testing.assert_frame_equal(back.rows, acts.rows)
    assert back.provenance["model"] == acts.provenance["model"]
    with pytest.raises(FileExistsError):
        acts.save(tmp_path / "acts")


def test_saelens_reads_what_to_saelens_writes(tiny, tmp_path):
    from sae_lens.training.activations_store import ActivationsStore

    tokens = torch.randint(1, 60, (24, 5), generator=torch.Generator().manual_seed(0))
    acts = capture(tiny, tokens, pos="all", layers=1)
    acts.to_saelens(tmp_path / "cached")
    point = "blocks.1.hook_resid_post"
    store = ActivationsStore(
        model=None,
        dataset=None,
        streaming=False,
        hook_name=point,
        hook_head_index=None,
        context_size=5,
        d_in=32,
        n_batches_in_buffer=2,
        total_training_tokens=120,
        store_batch_size_prompts=4,
        train_batch_size_tokens=20,
        prepend_bos=False,
        normalize_activations="none",
        device=torch.device("cpu"),
        dtype="float32",
        cached_activations_path=str(tmp_path / "cached"),
    )
    seen = torch.cat([store.get_filtered_llm_batch().reshape(-1, 32) for _ in range(6)])
    assert torch.equal(seen, acts[point])
    back = Activations.from_saelens(tmp_path / "cached")
    assert torch.equal(back[point], acts[point])
    assert back.rows["token"].to_list() == tokens.flatten().tolist()


def test_to_saelens_refuses_ragged_texts(tiny, names, tmp_path):
    acts = capture(tiny, names[:9], pos="all", layers=1)
    with pytest.raises(ValueError, match="give context_size"):
        acts.to_saelens(tmp_path / "x")
    with pytest.raises(ValueError, match="do not fill contexts"):
        acts.to_saelens(tmp_path / "x", context_size=acts.n_rows - 1)
    with pytest.raises(ValueError, match="say which"):
        capture(tiny, names[:9]).to_saelens(tmp_path / "x")
