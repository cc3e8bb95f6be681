"""Names of hook points: every way of asking, and what a wrong name is answered."""

import pytest
from helpers import as_installed

from graticule.hooks.points import PointError, layer_of, resolve, resolve_layers


def test_every_way_of_asking(tiny):
    posts = tuple(f"blocks.{i}.hook_resid_post" for i in range(3))
    assert resolve(tiny) == posts
    assert resolve(tiny, "resid_post", layers=1) == posts[1:2]
    assert resolve(tiny, "resid_post", layers=-1) == posts[2:]
    assert resolve(tiny, "resid_post", layers=[2, 0]) == (posts[0], posts[2])
    assert resolve(tiny, "resid_post", layers=slice(None, None, 2)) == (posts[0], posts[2])
    assert resolve(tiny, "resid_post", layers=0.5) == posts[1:2]
    assert resolve(tiny, "resid_post", layers=1.0) == posts[2:]
    assert resolve(tiny, ("resid_post", 2)) == posts[2:]
    assert resolve(tiny, [("resid_post", 2), "blocks.0.hook_resid_post"]) == (posts[0], posts[2])
    assert resolve(tiny, "blocks.*.hook_resid_post", layers=[1]) == posts[1:2]
    assert resolve(tiny, "embed") == ("hook_embed",)
    assert resolve(tiny, "z", layers=0) == ("blocks.0.attn.hook_z",)
    assert resolve(tiny, "mlp_post", layers=0) == ("blocks.0.mlp.hook_post",)
    assert resolve(tiny, "attn_out", layers=2) == ("blocks.2.hook_attn_out",)


def test_points_come_in_model_order(tiny):
    asked = ["ln_final.hook_normalized", ("resid_post", 1), ("resid_pre", 1), ("mlp_out", 0), "hook_embed"]
    assert resolve(tiny, asked) == (
        "hook_embed",
        "blocks.0.hook_mlp_out",
        "blocks.1.hook_resid_pre",
        "blocks.1.hook_resid_post",
        "ln_final.hook_normalized",
    )


def test_a_bridge_answers_to_transformerlens_names(load_tiny):
    bridge = load_tiny("gpt2", "bridge")
    assert bridge.hook_dict["blocks.1.hook_resid_post"].name == "blocks.1.hook_out"  # the alias trap
    assert resolve(bridge, ("resid_post", 1)) == ("blocks.1.hook_resid_post",)
    assert resolve(bridge, "blocks.1.hook_out") == ("blocks.1.hook_out",)


@pytest.mark.parametrize(
    ("points", "hint"),
    [
        ("blocks.1.hook_resid_pots", "blocks.1.hook_resid_post"),
        ("resid_pots", "'resid_post'"),
        ("hook_embedd", "hook_embed"),
        ("blocks.*.nothing", "matches no hook point"),
        (("resid_post", 7), "layers 0 to 2"),
        ([], "selects nothing"),
        ([3], "expected a name"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(tiny, points, hint):
    with as_installed(), pytest.raises(PointError, match=hint.replace(".", r"\.")):
        resolve(tiny, points)


@pytest.mark.parametrize("layers", [3, -4, 1.5, -0.1, [], [0, 9], slice(5, 9), "first"])
def test_a_wrong_layer_is_refused(layers):
    with as_installed(), pytest.raises(PointError):
        resolve_layers(3, layers)


@pytest.mark.parametrize("point", ["blocks.0.attn.hook_pattern", "pattern", "attn_scores"])
def test_attention_patterns_are_refused(tiny, point):
    with pytest.raises(ValueError, match="attention pattern"):
        resolve(tiny, point)


def test_layer_of():
    assert layer_of("blocks.12.attn.hook_z") == 12
    assert layer_of("hook_embed") is None
