"""Recording the user's own passes, against `run_with_cache` and a capture of the generated tokens."""

import numpy as np
import pytest
import torch
from helpers import cached, relative

from graticule import capture, record


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hooked", "bridge"])
def test_several_passes_in_a_row(load_tiny, kind):
    model = load_tiny("llama", kind)
    first, second = torch.tensor([[0, 5, 6], [0, 7, 8]]), torch.tensor([[0, 9, 10, 11]])
    with record(model, points="resid_post") as recording:
        model(first)
        model(second)
    acts = recording.activations
    assert acts.n_rows == 10
    assert acts.rows["call"].to_list() == [0] * 6 + [1] * 4
    assert acts.rows["position"].to_list() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 3]
    for point in acts:
        expected = torch.cat([cached(model, t)[point].flatten(0, 1) for t in (first, second)])
        assert relative(acts[point], expected) <= 1e-6


def test_generate_with_a_cache_sees_every_token_once(tiny):
    prompt = tiny.to_tokens("where is the city of")
    with record(tiny, pos=-1, layers=[0, 2]) as recording:
        out = tiny.generate(prompt, max_new_tokens=4, do_sample=False, verbose=False, stop_at_eos=False)
    acts = recording.activations
    assert acts.n_rows == 4  # the last token generated is never read
    reference = capture(tiny, out[:, :-1], pos="all", layers=[0, 2]).select(
        rows=slice(prompt.shape[1] - 1, None)
    )
    for point in acts:
        assert relative(acts[point], reference[point]) <= 1e-4


def test_gradients_still_flow_and_no_hook_is_left(tiny):
    before = {n: len(h.fwd_hooks) for n, h in tiny.hook_dict.items()}
    with record(tiny, points="z", layers=1, pos=-1) as recording:
        loss = tiny(torch.tensor([[0, 5, 6, 7]]), return_type="loss")
    loss.backward()
    assert tiny.embed.W_E.grad is not None
    tiny.zero_grad()
    assert recording.activations["z", 1].shape == (1, tiny.cfg.n_heads * tiny.cfg.d_head)
    with pytest.raises(RuntimeError, match="mine"), record(tiny):
        raise RuntimeError("mine")
    assert {n: len(h.fwd_hooks) for n, h in tiny.hook_dict.items()} == before


def test_nothing_recorded_is_said(tiny):
    with record(tiny) as recording:
        pass
    with pytest.raises(ValueError, match="nothing was recorded"):
        _ = recording.activations


def test_what_is_kept_is_a_copy(tiny):
    tokens = torch.tensor([[0, 5, 6]])
    with record(tiny, points="resid_pre", layers=0) as recording:
        tiny.run_with_hooks(tokens, fwd_hooks=[("blocks.0.hook_resid_post", lambda t, hook: t.zero_())])
        clean = cached(tiny, tokens)["resid_pre", 0]
    kept = recording.activations["resid_pre", 0]
    assert np.allclose(kept[:3].numpy(), clean[0].numpy())


@pytest.mark.parametrize("pos", [slice(None), slice(-3, None), -1], ids=str)
def test_bos_is_recorded_where_it_may_be(tiny, names, pos):
    def rows(inputs, include_bos: bool, **settings):
        with record(tiny, layers=1, pos=pos, include_bos=include_bos) as recording:
            tiny(inputs, **settings)
        return recording.activations

    texts = names[:4]
    for inputs, settings in (
        (texts, {"padding_side": "left"}),
        (texts, {"padding_side": "right"}),
        (tiny.to_tokens(texts[1]), {}),
    ):
        whole, own = rows(inputs, True, **settings), rows(inputs, False, **settings)
        kept = (whole.rows["position"] > 0).to_numpy(copy=True)
        assert own.rows[["source", "position"]].to_numpy().tolist() == (
            whole.rows[["source", "position"]][kept].to_numpy().tolist()
        )
        assert torch.equal(own["resid_post", 1], whole["resid_post", 1][torch.from_numpy(kept)])
    assert own.provenance["include_bos"] is False


@pytest.mark.parametrize("include_bos", [None, True, False])
@pytest.mark.parametrize("pos", ["last", "all", -1, slice(1, None)], ids=str)
def test_a_position_means_in_a_recording_what_it_means_in_a_capture(tiny, names, pos, include_bos):
    captured = capture(tiny, names[:5], layers=1, pos=pos, include_bos=include_bos)
    with record(tiny, layers=1, pos=pos, include_bos=include_bos) as recording:
        tiny(names[:5])
    columns = ["source", "position"]
    assert (
        recording.activations.rows[columns].to_numpy().tolist() == captured.rows[columns].to_numpy().tolist()
    )
    torch.testing.assert_close(recording.activations["resid_post", 1], captured["resid_post", 1])
    assert recording.activations.provenance["pos"] == captured.provenance["pos"]


@pytest.mark.parametrize("pos", [-2, 0, slice(0, 1)], ids=str)
def test_positions_of_special_tokens_alone_are_refused_in_a_recording_as_in_a_capture(tiny, pos):
    texts = ["rome", "the city of paris"]  # of one and four tokens behind BOS
    with pytest.raises(ValueError, match=r"special token of text 0|selects no token") as refused:
        capture(tiny, texts, layers=1, pos=pos, include_bos=False)
    with pytest.raises(ValueError) as error, record(tiny, layers=1, pos=pos, include_bos=False) as recording:
        tiny(texts)
        _ = recording.activations
    assert str(error.value) == str(refused.value)


def test_a_step_that_generates_a_special_token_gives_no_row(tiny):
    with record(tiny, layers=1, pos=-1, include_bos=False) as recording:
        for ids in ([0, 5, 6], [0], [7]):
            tiny(torch.tensor([ids]))
    assert recording.activations.rows["position"].tolist() == [2, 0]
