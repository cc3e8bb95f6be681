"""Feature pages: examples by brute force, effects by nudging the residual stream itself."""

import copy

import numpy as np
import pytest
import torch
from helpers import as_installed

from graticule.hooks.artifact import read_json
from graticule.saes.features.examine import effect_table, examine, logit_effects, residual_directions
from graticule.saes.features.result import SaeFeatures, in_words, quoted

pytestmark = [
    pytest.mark.filterwarnings("ignore:The 'utils' module has been deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:HookedTransformer:DeprecationWarning"),
]

POINT, HIDDEN, HEADS = "blocks.1.hook_resid_post", "blocks.1.mlp.hook_post", "blocks.1.attn.hook_z"
SIZE, N = 12, 30


def make(point=POINT, d_in=32, d_sae=48, **metadata):
    from sae_lens.saes.sae import SAEMetadata
    from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

    held = SAEMetadata(hook_name=point, context_size=SIZE, **metadata)
    sae = TopKSAE(TopKSAEConfig(d_in=d_in, d_sae=d_sae, k=3, metadata=held))
    drawn = torch.Generator().manual_seed(1)
    with torch.no_grad():
        rows = torch.randn(d_sae, d_in, generator=drawn)
        sae.W_dec.copy_(rows / rows.norm(dim=1, keepdim=True))
        sae.W_enc.copy_(sae.W_dec.T)
        sae.b_enc[torch.tensor([0, 3])] = -1e3  # never fire
    return sae


@pytest.fixture(scope="module")
def model(load_tiny):
    return load_tiny("llama", "hooked")


@pytest.fixture(scope="module")
def tokens(model):
    drawn = torch.Generator().manual_seed(3)
    rows = torch.randint(1, model.cfg.d_vocab, (N, SIZE), generator=drawn)
    rows[:, 0] = 0
    return rows


@pytest.fixture(scope="module")
def found(model, tokens):
    return examine(model, make(), tokens, n=10, n_examples=4)


def test_features_are_the_first_that_fire(found, model, tokens):
    sae = make()
    with torch.no_grad():
        acts = sae.encode(model.run_with_cache(tokens)[1][POINT])
    acts[:, 0] = 0  # BOS
    fires = np.flatnonzero((acts != 0).any(1).any(0).numpy())
    assert found.features["latent"].tolist() == fires[:10].tolist()
    for _, line in found.features.iterrows():
        mine = acts[..., int(line["latent"])]
        assert line["density"] == pytest.approx(float((mine != 0).sum()) / (N * (SIZE - 1)))
        assert line["maximum"] == pytest.approx(float(mine.max()), rel=1e-5)
        assert line["mean"] == pytest.approx(float(mine[mine != 0].mean()), rel=1e-5)


def test_long_rows_are_left_out_as_in_the_training(model, tokens):
    """Leaving them out by norm is leaving out the token that makes them."""
    sinking, word, point = copy.deepcopy(model), int(tokens[0, 3]), "blocks.0.hook_resid_pre"
    with torch.no_grad():
        sinking.W_E[word] *= 300
    trained = make(point, graticule={"max_norm": 10.0})
    one = examine(sinking, trained, tokens, n=6)
    two = examine(sinking, make(point), tokens, n=6, exclude_special=[0, word])
    assert one.n_tokens == two.n_tokens < examine(sinking, make(point), tokens, n=6).n_tokens
    assert one.features.equals(two.features)


def test_examples_are_the_strongest_of_each_context(found, model, tokens):
    sae = make()
    with torch.no_grad():
        acts = sae.encode(model.run_with_cache(tokens)[1][POINT])
    acts[:, 0] = 0
    for latent, lines in found.examples.groupby("latent"):
        best = acts[..., latent].max(dim=1)
        wanted = best.values.sort(descending=True).values
        shown = int((wanted > 0).sum().clamp(max=4))
        assert lines["rank"].tolist() == list(range(shown))
        assert np.allclose(lines["activation"], wanted[:shown], rtol=1e-5)
        for _, line in lines.iterrows():
            assert float(acts[line["context"], line["position"], latent]) == pytest.approx(
                line["activation"], rel=1e-5
            )
            ids = tokens[line["context"]].tolist()
            at = line["position"]
            assert line["token"] == model.tokenizer.decode(ids[at : at + 1])
            assert line["before"] == model.tokenizer.decode(ids[max(1, at - 4) : at])
            assert line["after"] == model.tokenizer.decode(ids[at + 1 : at + 5])


def nudged(model, direction, eps=1e-3):
    """How logits change with a step along a residual direction before the final norm: the norm's own scale is
    held, as in the paper's linear approximation."""
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, model.cfg.d_model, generator=drawn)
    scale = {}

    def keep(tensor, hook):
        scale.setdefault("is", tensor.detach())
        return scale["is"]

    with torch.no_grad(), model.hooks(fwd_hooks=[("ln_final.hook_scale", keep)]):
        base = model.unembed(model.ln_final(x))
        moved = model.unembed(model.ln_final(x + eps * direction))
    change = ((moved - base) / eps * scale["is"])[0, 0]
    return change - change.median()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_effects_are_what_a_step_in_the_residual_stream_does(load_tiny, family):
    model = load_tiny(family, "hooked")
    sae = make()
    directions = residual_directions(model, sae, POINT, [5, 8])
    effects = logit_effects(model, directions)
    for row, latent in enumerate((5, 8)):
        assert torch.allclose(effects[row], nudged(model, sae.W_dec[latent].detach()), atol=2e-2)
        assert float(effects[row].median()) == pytest.approx(0, abs=1e-6)


def test_directions_of_hidden_layers_and_heads_go_through_the_output_weights(model):
    hidden = make(HIDDEN, d_in=48)
    got = residual_directions(model, hidden, HIDDEN, [7])
    assert torch.allclose(got[0], hidden.W_dec[7] @ model.blocks[1].mlp.W_out, atol=1e-6)
    width = model.cfg.n_heads * model.cfg.d_head
    heads = make(HEADS, d_in=width)
    got = residual_directions(model, heads, HEADS, [7])
    parts = heads.W_dec[7].reshape(model.cfg.n_heads, -1)
    assert torch.allclose(got[0], torch.einsum("hd,hdm->m", parts, model.blocks[1].attn.W_O), atol=1e-6)
    one = make(HEADS, d_in=model.cfg.d_head)
    got = residual_directions(model, one, HEADS, [7], head=2)
    assert torch.allclose(got[0], one.W_dec[7] @ model.blocks[1].attn.W_O[2], atol=1e-6)
    assert residual_directions(model, make("blocks.1.attn.hook_q"), "blocks.1.attn.hook_q", [7]) is None


def test_effects_are_told_by_token(model):
    effects = torch.zeros(1, model.cfg.d_vocab)
    effects[0, [0, 5, 6, 9]] = torch.tensor([9.0, 2.0, 3.0, -4.0])  # 0 is special
    table = effect_table(effects, [11], model.tokenizer, 2)
    assert table[table["sign"] == 1]["token_id"].tolist() == [6, 5]
    assert table[table["sign"] == -1]["token_id"].iloc[0] == 9
    assert table["token"].iloc[0] == model.tokenizer.decode([6])
    assert set(table["latent"]) == {11}


def test_a_point_that_does_not_write_to_the_stream_has_no_effects(model, tokens):
    width = model.cfg.n_heads * model.cfg.d_head
    got = examine(model, make("blocks.1.attn.hook_q", d_in=width), tokens, latents=[3, 9])
    assert got.effects.empty
    assert got.features["latent"].tolist() == [3, 9]
    assert got.features["density"][0] == 0
    assert "no logit effects" in got.summary()
    with pytest.raises(IndexError, match="0 to 47"):
        examine(model, make(), tokens, latents=[48])
    for bad, said in (
        ([3, 3], "latents=3: expected each of them once"),
        ([1.5], "whole numbers"),
        ([-1], "47"),
    ):
        with as_installed(), pytest.raises((ValueError, IndexError), match=said):
            examine(model, make(), tokens, latents=bad)


def test_the_page(model, tokens, tmp_path):
    make().save_model(tmp_path / "run" / "sae")
    got = examine(model, tmp_path / "run", tokens, n=5)
    assert got.name == "run"
    got.save(tmp_path / "features")
    again = SaeFeatures.load(tmp_path / "features")
    assert again.summary() == got.summary()
    assert again.examples.to_dict("records") == got.examples.to_dict("records")
    page = again.report(tmp_path / "page.html").read_text()
    shown = next(iter(got.tables().values()))
    assert len(shown) == 5
    assert shown["latent"].tolist() == [str(i) for i in got.features["latent"]]
    assert shown["fires most at"][0].split("  ·  ")[0] in page
    assert "«" in page
    figure = next(iter(got.figures().values()))
    assert {t.name for t in figure.data} >= {"raised", "lowered"}


# The command line --------------------------------------------------------------------------------------
@pytest.fixture
def app():
    """`graticule sae`, as the command line has it."""
    import typer

    from graticule.commands.sae_pages import sae_eval_command, sae_report_command

    sae = typer.Typer()
    sae.command("eval")(sae_eval_command)
    sae.command("report")(sae_report_command)
    return sae


def run(app, *words):
    from typer.testing import CliRunner

    return CliRunner().invoke(app, [str(w) for w in words], catch_exceptions=False)


@pytest.mark.slow
def test_eval_and_report_from_the_command_line(app, hf_folder, names, tmp_path):
    make(model_name=str(hf_folder("llama")), prepend_bos=True).save_model(tmp_path / "sae")
    (tmp_path / "texts.txt").write_text("\n".join(names * 6))
    out = tmp_path / "out"
    given = ["--corpus", tmp_path / "texts.txt", "--tokens", "240", "--features", "4", "--out", out]
    told = run(app, "eval", tmp_path / "sae", *given)
    assert told.exit_code == 0
    assert "explains" in told.stdout
    figures = read_json(out / "evaluation.json")
    assert figures["d_sae"] == 48
    assert figures["n_loss_tokens"] > 100
    assert 0 <= figures["dead_fraction"] < 1
    assert len(SaeFeatures.load(out / "features").features) == 4
    told = run(app, "report", out)
    page = (out / "report.html").read_text()
    assert str(out / "report.html") in told.stdout
    assert page.count('class="verdict') == 2 or page.count("result-1") >= 1
    with pytest.raises(FileNotFoundError, match="sae eval"):
        run(app, "report", tmp_path / "sae")
    with pytest.raises(ValueError, match="--out"):
        run(app, "eval", tmp_path / "sae", *given[:2])


def test_words_of_tokens():
    assert in_words("of the", " king", " of\nSpain") == "of the «king» of↵Spain"
    assert in_words("", "\n", " a") == "«↵» a"
    assert in_words("un", "happy", "") == "un«happy»"
    assert quoted("  the") == "␣␣the"
    assert quoted("\n") == "↵"
