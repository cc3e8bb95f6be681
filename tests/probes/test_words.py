"""Word pairs against planted unembeddings whose concepts are known, and against sums written out."""

from typing import Any

import numpy as np
import pytest
import torch

from graticule.hooks.artifact import ArtifactError
from graticule.probes.core.resample import weights_within
from graticule.probes.steering import (
    diagonal,
    mean_block_cosines,
    mean_cosines,
    random_sets,
    re_paired,
    signs,
)
from graticule.probes.words.ambiguous import Ambiguous, ambiguous
from graticule.probes.words.languages import Languages, languages
from graticule.probes.words.vocabulary import (
    ContextPair,
    Readout,
    ambiguous_contexts,
    final_residuals,
    keep_pairs,
    make_metrics,
    packaged_pairs,
    parallel_contexts,
    read_pairs,
    shared_tokens,
    single_token,
)
from graticule.probes.words.words import Words, words

from ..helpers import misread_axes

WIDTH, TOKENS, PAIRS = 24, 420, 14
PLANTED = ("wing ⇒ fin", "sun ⇒ moon", "left ⇒ right")


def _tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(WordLevel({"<s>": 0, "<unk>": 1, **{f"w{i}": i for i in range(2, TOKENS)}}, "<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", unk_token="<unk>")


def _model(unembedding: np.ndarray, embedding: np.ndarray | None = None) -> Any:
    """A model whose residual at a token is that token's embedding, and whose `W_U` is given."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    cfg = HookedTransformerConfig(
        n_layers=1,
        d_model=WIDTH,
        n_ctx=16,
        d_head=2,
        n_heads=1,
        d_vocab=TOKENS,
        attn_only=True,
        normalization_type=None,
        positional_embedding_type="rotary",
        init_weights=False,
        device="cpu",
        default_prepend_bos=True,
    )
    model = HookedTransformer(cfg)
    model.tokenizer = _tokenizer()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.unembed.W_U.copy_(torch.from_numpy(unembedding.T))
        if embedding is not None:
            model.embed.W_E.copy_(torch.from_numpy(embedding))
    return model


@pytest.fixture(scope="module")
def planted() -> Any:
    """Unembedding rows, the lists, and the planted directions: three concepts, and one of random pairs."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(TOKENS, WIDTH))
    directions = np.linalg.qr(rng.normal(size=(WIDTH, 3)))[0].T
    lists: dict[str, list[tuple[str, str]]] = {}
    for c, concept in enumerate(PLANTED):
        starts = 10 + 2 * PAIRS * c + np.arange(PAIRS)
        table[starts + PAIRS] = table[starts] + 4 * directions[c] + 0.5 * rng.normal(size=(PAIRS, WIDTH))
        lists[concept] = [(f"w{i}", f"w{i + PAIRS}") for i in starts]
    lists["any ⇒ other"] = [(f"w{i}", f"w{i + PAIRS}") for i in range(200, 200 + PAIRS)]
    return table, lists, directions


@pytest.fixture(scope="module")
def result(planted: Any) -> Words:
    table, lists, _ = planted
    rows = np.random.default_rng(3).normal(size=(300, WIDTH))
    return words(_model(table), lists, n_bootstrap=400, n_random=500, residuals=rows, progress=False)


@pytest.mark.slow
def test_planted_concepts_are_found_and_a_random_one_is_not(result: Words):
    assert result.concepts == (*PLANTED, "any ⇒ other")
    for metric in result.metrics:
        assert set(result.above_chance(metric)) == set(PLANTED)
        lines = result.within[result.within["metric"] == metric].set_index("concept")
        assert lines.loc["any ⇒ other", "p_vocabulary"] > 0.05
        assert lines.loc["any ⇒ other", "p_listed"] > 0.05
        assert (lines.loc[list(PLANTED), "p_vocabulary"] < 0.01).all()
        assert (lines.loc[list(PLANTED), "above"] > 0.9).all()
        assert lines.loc["any ⇒ other", "above"] < 0.4
        # the share of random pairs that lie above their own 95% is 5%: the null of the projections is flat
        random = result.random[result.metrics.index(metric)]
        assert np.abs(random.mean(axis=1)).max() < 0.2
        assert np.allclose(random.std(axis=1), 1, atol=1e-4)
    causal = result.means[result.metrics.index("causal")]
    assert np.diag(causal)[:3].min() > 0.6
    assert np.abs(causal[~np.eye(4, dtype=bool)]).max() < 0.2
    told = result.summary().splitlines()
    assert told[0].startswith("concepts nearest to their own pairs: ")
    assert "56 of 56 pairs kept" in told[-1]


def test_mean_cosines_are_the_sums_written_out(planted: Any):
    table, lists, _ = planted
    lists = {**lists, "wing ⇒ beak": [("w10", "w300"), ("w11", "w301"), ("w12", "w300")]}
    made = words(_model(table), lists, metrics=["euclidean", "causal"], n_bootstrap=50, n_random=100)
    table = table.astype(np.float32).astype(np.float64)
    spread = np.cov(table.T, bias=True)
    for m, inverse in enumerate((np.eye(WIDTH), np.linalg.inv(spread))):
        for i, first in enumerate(made.concepts):
            for j, second in enumerate(made.concepts):
                plain, apart = [], []
                for p, (a, b) in enumerate(lists[first]):
                    for q, (c, d) in enumerate(lists[second]):
                        if first == second and p == q:
                            continue
                        x = table[int(b[1:])] - table[int(a[1:])]
                        y = table[int(d[1:])] - table[int(c[1:])]
                        cosine = x @ inverse @ y / np.sqrt((x @ inverse @ x) * (y @ inverse @ y))
                        plain.append(cosine)
                        if not {a, b} & {c, d}:
                            apart.append(cosine)
                assert made.plain[m, i, j] == pytest.approx(np.mean(plain), abs=1e-5)
                assert made.means[m, i, j] == pytest.approx(np.mean(apart), abs=1e-5)
    line = made.between[(made.between["first"] == PLANTED[0]) & (made.between["second"] == "wing ⇒ beak")]
    assert line["shared"].tolist() == [3, 3]


def test_the_causal_product_does_not_depend_on_the_basis_and_the_euclidean_does(planted: Any, result: Words):
    table, lists, _ = planted
    skew = np.eye(WIDTH) + 3 * np.outer(np.ones(WIDTH), np.random.default_rng(5).normal(size=WIDTH))
    moved = words(
        _model(table @ skew.T), lists, metrics=["euclidean", "causal"], n_bootstrap=400, n_random=500
    )
    i, j = result.metrics.index("causal"), moved.metrics.index("causal")
    assert np.allclose(result.means[i], moved.means[j], atol=1e-4)
    assert np.abs(result.means[0] - moved.means[0]).max() > 0.2
    assert moved.own("causal") >= 3 > moved.own("euclidean")


def test_leave_one_out_by_hand(planted: Any, result: Words):
    table, lists, _ = planted
    mine = result.projections
    mine = mine[(mine["metric"] == "euclidean") & (mine["concept"] == PLANTED[0])]
    own = np.stack([table[int(b[1:])] - table[int(a[1:])] for a, b in lists[PLANTED[0]]])
    others = [np.delete(own, k, axis=0).mean(axis=0) for k in range(PAIRS)]
    expected = np.array([own[k] @ others[k] / np.linalg.norm(others[k]) for k in range(PAIRS)])
    ratio = expected / mine["projection"].to_numpy()
    assert np.allclose(ratio, ratio[0], rtol=1e-4)  # the standard deviation of random pairs' projections
    assert 0.5 < ratio[0] / np.sqrt(2) < 2  # rows of variance 1: differences of variance 2


@pytest.mark.slow
def test_one_concept_alone_and_one_whose_pairs_all_share_a_word(planted: Any):
    table, lists, _ = planted
    model = _model(table)
    alone = words(model, {PLANTED[0]: lists[PLANTED[0]]}, metrics=["causal"], n_bootstrap=50, n_random=50)
    assert alone.means.shape == (1, 1, 1) and alone.contrast("causal")[1] == 0
    assert alone.between.empty and np.isnan(alone.within["largest_other"].iloc[0])
    told = f"mean cosine of the pairs: {alone.means[0, 0, 0]:.3f} under the causal"
    assert alone.summary().startswith(told)
    assert "nearest" not in alone.summary() and alone.figures() and alone.tables()
    star = {PLANTED[0]: lists[PLANTED[0]], "hub ⇒ rim": [("w400", f"w{i}") for i in range(401, 406)]}
    made = words(model, star, metrics=["causal"], n_bootstrap=50, n_random=50)
    assert np.isnan(made.means[0, 1, 1]) and made.plain[0, 1, 1] > 0.2
    assert made.above_chance("causal") == (PLANTED[0],)
    with pytest.warns(DeprecationWarning, match="Words.found is the old name of above_chance"):
        assert made.found("causal") == (PLANTED[0],)
    assert made.summary() and made.figures()


def test_intervals_hold_the_mean_of_fresh_pairs(planted: Any):
    """Of 60 samples of pairs of one concept, the 95% interval misses the true mean cosine in few."""
    rng = np.random.default_rng(1)
    big = rng.normal(size=(4000, WIDTH)) + 1.2 * np.eye(WIDTH)[0]
    truth = mean_cosines([big])[0, 0]
    missed = 0
    for _ in range(60):
        own = big[rng.choice(4000, 30, replace=False)]
        unit = own / np.linalg.norm(own, axis=1, keepdims=True)
        sizes = np.array([30])
        weights = weights_within(sizes, 300, rng)
        booted = mean_block_cosines(unit @ unit.T, diagonal(30), sizes, weights)[:, 0, 0]
        low, high = np.quantile(booted, [0.025, 0.975])
        missed += not low <= truth <= high
    assert missed <= 9


def test_block_means_against_loops():
    rng = np.random.default_rng(2)
    sizes = np.array([3, 4])
    vectors = rng.normal(size=(7, 5))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    gram = unit @ unit.T
    apart = np.eye(7, dtype=np.float32)
    apart[0, 5] = apart[5, 0] = apart[1, 2] = apart[2, 1] = 1
    weights = np.concatenate([signs(7, 2, rng), weights_within(sizes, 2, rng)], axis=1)
    made = mean_block_cosines(gram, np.argwhere(apart), sizes, weights)
    for d in range(4):
        w = weights[:, d].astype(float)
        for i, first in enumerate((range(3), range(3, 7))):
            for j, second in enumerate((range(3), range(3, 7))):
                kept = [(p, q) for p in first for q in second if not apart[p, q]]
                size = sum(abs(w[p] * w[q]) for p, q in kept)
                if size:
                    expected = sum(w[p] * w[q] * gram[p, q] for p, q in kept) / size
                    assert made[d, i, j] == pytest.approx(expected, abs=1e-6)
    assert np.isnan(mean_block_cosines(np.eye(1), diagonal(1), np.array([1]))[0, 0, 0])
    assert np.allclose(
        mean_block_cosines(gram, diagonal(7), sizes)[0], mean_cosines([unit[:3], unit[3:]]), atol=1e-6
    )


def test_nulls_against_one_draw_at_a_time():
    rng = np.random.default_rng(4)
    starts, ends = rng.normal(size=(9, 6)), rng.normal(size=(9, 6)) + 1
    many = re_paired(starts, ends, 3000, np.random.default_rng(0))
    drawn = np.random.default_rng(1)
    slow = np.array([mean_cosines([ends[drawn.permutation(9)] - starts])[0, 0] for _ in range(1500)])
    assert many.mean() == pytest.approx(slow.mean(), abs=4 * slow.std() / np.sqrt(1500))
    assert many.std() == pytest.approx(slow.std(), rel=0.15)
    order = np.argsort(np.random.default_rng(7).random((1, 9)), axis=1)[0]
    expected = mean_cosines([ends[order] - starts])[0, 0]
    assert re_paired(starts, ends, 1, np.random.default_rng(7))[0] == pytest.approx(expected, abs=1e-9)

    pool = rng.normal(size=(40, 6))
    pool /= np.linalg.norm(pool, axis=1, keepdims=True)
    made = random_sets(pool, np.array([5, 12]), 3, np.random.default_rng(8))
    again = np.random.default_rng(8)
    for d in range(3):
        drawn = pool[again.choice(40, 12, replace=False)]
        assert made[d, 0] == pytest.approx(mean_cosines([drawn[:5]])[0, 0], abs=1e-5)
        assert made[d, 1] == pytest.approx(mean_cosines([drawn])[0, 0], abs=1e-5)
    with pytest.raises(ValueError, match="pool of 40"):
        random_sets(pool, np.array([41]), 1, rng)


def test_pairs_of_several_tokens_or_of_one_are_left_out(planted: Any):
    table, lists, _ = planted
    model = _model(table)
    assert single_token(model, "w17") == 17
    assert single_token(model, "w17 w18") is None
    assert single_token(model, "unheard") is None
    given = {
        **lists,
        "thin ⇒ list": [("w5", "w6"), ("w7", "w8"), ("w9", "w9"), ("w2", "unheard"), ("w2 w3", "w4")],
    }
    kept = keep_pairs(model, given)
    assert "thin ⇒ list" not in kept.concepts
    assert kept.counts.set_index("concept").loc["thin ⇒ list"].tolist() == [5, 2]
    assert kept.dropped["why"].tolist() == [
        "the same token",
        "not one token: unheard",
        "not one token: w2 w3",
    ]
    assert kept.sizes.tolist() == [PAIRS] * 4
    with pytest.raises(ValueError, match="no concept keeps 3 pairs"):
        keep_pairs(model, {"a ⇒ b": [("w5", "unheard")]})
    made = words(model, given, metrics=["euclidean"], n_bootstrap=20, n_random=100)
    assert "1 more have too few" in made.summary()
    ids = np.array([[2, 3], [3, 4], [5, 6]])
    assert sorted(map(tuple, shared_tokens(ids))) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 2)]


def test_a_tokenizer_that_puts_a_space_before_every_text(planted: Any):
    """SentencePiece's dummy prefix as a `tokenizer.json` writes it: ` king` is two tokens, `king` is one."""
    from tokenizers import Tokenizer, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "▁", "▁king", "▁queen", "ly", "▁kin", "king"]
    made = Tokenizer(models.Unigram([(p, -1.0 * (i > 0)) for i, p in enumerate(pieces)], unk_id=0))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    model = _model(planted[0])
    model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")
    assert len(model.tokenizer(" king", add_special_tokens=False)["input_ids"]) == 2
    assert single_token(model, "king") == 2 and single_token(model, "queen") == 3
    assert single_token(model, "kingly") is None and single_token(model, "duke") is None


def test_too_few_draws_are_said(planted: Any):
    table, lists, _ = planted
    few = words(_model(table), lists, metrics=["causal"], n_bootstrap=40, n_random=100)
    assert "not decidable: 40 draws cannot bring a p-value below 0.05 / 4 (Holm); take 80" in few.summary()
    enough = words(_model(table), lists, metrics=["causal"], n_bootstrap=80, n_random=100)
    assert "not decidable" not in enough.summary() and len(enough.above_chance("causal")) >= 3


def test_packaged_lists_are_many_and_sound():
    lists = packaged_pairs()
    assert len(lists) == 30
    for concept, pairs in lists.items():
        assert len(pairs) >= 15, concept
        assert all(a != b and a == a.strip() and b == b.strip() for a, b in pairs), concept
        assert len(set(pairs)) == len(pairs), concept
    assert next(iter(lists)).startswith("verb") and list(lists)[-1] == "German ⇒ Spanish"
    parallel = parallel_contexts()
    assert list(parallel) == ["English", "French", "German", "Spanish"]
    assert {len(texts) for texts in parallel.values()} == {32}
    for pair in ambiguous_contexts():
        first, second = pair.first.split(), pair.second.split()
        assert len(first) == len(second)
        assert sum(a != b for a, b in zip(first, second, strict=True)) == 1, pair
        assert pair.first_word != pair.second_word
    assert len(ambiguous_contexts()) == 44


def test_a_users_folder_of_lists(tmp_path: Any, planted: Any):
    table, lists, _ = planted
    rows = "\n".join(f"{a}\t{b}" for a, b in lists[PLANTED[0]])
    (tmp_path / "[wing - fin].txt").write_text(f"# two parts\n{rows}\n\n{rows}\n", encoding="utf-8")
    (tmp_path / "own name.txt").write_text("w200\tw210\nw201\tw212\nw202\tw214\n", encoding="utf-8")
    found = read_pairs(tmp_path)
    assert list(found) == ["wing ⇒ fin", "own name"]
    assert list(found["wing ⇒ fin"]) == lists[PLANTED[0]]
    made = words(_model(table), str(tmp_path), metrics=["causal"], n_bootstrap=100, n_random=200)
    assert made.above_chance("causal") == ("wing ⇒ fin",)
    (tmp_path / "own name.txt").write_text("w200\tw210\nw201 w212\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"own name\.txt, line 2: 'w201 w212' has 1 fields"):
        read_pairs(tmp_path)
    with pytest.raises(FileNotFoundError, match="no word lists"):
        read_pairs(tmp_path / "none")
    (tmp_path / "own name.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(ValueError, match="is empty"):
        read_pairs(tmp_path)


@pytest.mark.slow
def test_result_saves_loads_and_draws(result: Words, tmp_path: Any):
    result.save(tmp_path / "words")
    again = Words.load(tmp_path / "words")
    assert again.summary() == result.summary()
    assert np.array_equal(again.means, result.means)
    assert again.within.equals(result.within)
    figures = again.figures()
    assert len(figures) == 2 + len(result.metrics)
    assert not any(map(misread_axes, figures.values()))
    assert all(len(figure.data) for figure in figures.values())
    assert set(again.tables()["Pairs kept: both words single tokens, and different"]["concept"]) == set(
        result.concepts
    )
    with pytest.raises(KeyError, match="no metric 'cosine'"):
        result.above_chance("cosine")
    with pytest.raises(ArtifactError):
        Words.load(tmp_path)


def test_wrong_arguments_say_what_was_expected(planted: Any):
    table, lists, _ = planted
    model = _model(table)
    with pytest.raises(ValueError, match="expected some of euclidean, whitened, causal"):
        words(model, lists, metrics=["cosine"])
    with pytest.raises(ValueError, match="n_bootstrap=5"):
        words(model, lists, n_bootstrap=5)
    with pytest.raises(ValueError, match="n_random=3"):
        words(model, lists, n_random=3)
    with pytest.raises(ValueError, match="residuals have width 3"):
        make_metrics(model, Readout.of(model), ["whitened"], np.ones((5, 3)))
    with pytest.raises(IndexError, match="token 500"):
        Readout.of(model).rows(np.array([500]))
    bare = _model(table)
    bare.tokenizer = None
    with pytest.raises(ValueError, match="tokenizer"):
        words(bare, lists)
    with pytest.raises(ValueError, match="with as many contexts each"):
        languages(model, {"a": ["w2"], "b": ["w3", "w4"]}, pairs=lists)
    with pytest.raises(ValueError, match="context pairs have single"):
        ambiguous(model, [ContextPair("w2", "w3", "unheard", "w5")])
    for few in (
        lambda: words(model, lists, n_bootstrap=19),
        lambda: languages(model, {"a": ["w2"], "b": ["w3"]}, pairs=lists, n_bootstrap=19),
        lambda: ambiguous(model, [ContextPair("w2", "w3", "w4", "w5")], n_bootstrap=19),
    ):
        with pytest.raises(ValueError, match="n_bootstrap=19: at least 20"):
            few()


# Contexts ---------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize(("family", "kind"), [("gpt2", "hooked"), ("llama", "hooked"), ("llama", "bridge")])
def test_final_residuals_give_the_models_own_logits(load_tiny: Any, family: str, kind: str):
    model = load_tiny(family, kind)
    texts = ["the city of paris", "rome is old", "the lake"]
    rows = final_residuals(model, texts)["ln_final"].double().numpy()
    ids = np.arange(5, 40)
    made = rows @ Readout.of(model).rows(ids).T
    for row, text in zip(made, texts, strict=True):
        tokens = torch.tensor([[0, *model.tokenizer(text, add_special_tokens=False)["input_ids"]]])
        with torch.no_grad():
            logits = model(tokens)[0, -1].double().numpy()
        bias = np.asarray(model.b_U.detach().double())[ids] if getattr(model, "b_U", None) is not None else 0
        assert np.allclose(row + bias, logits[ids], atol=2e-4)
    every = final_residuals(model, texts, "all")
    assert every.n_rows == sum(len(model.tokenizer(t, add_special_tokens=False)["input_ids"]) for t in texts)


@pytest.fixture(scope="module")
def languages_result(planted: Any) -> Languages:
    """Contexts whose embeddings differ along Cov(γ)⁻¹γ̄ of the first concept, in a skewed vocabulary."""
    table, lists, directions = planted
    rng = np.random.default_rng(9)
    skew = np.eye(WIDTH) + 0.8 * np.outer(np.ones(WIDTH), rng.normal(size=WIDTH))
    table = table @ skew.T
    along = np.linalg.solve(np.cov(table.T, bias=True), skew @ directions[0])
    embedding = np.zeros((TOKENS, WIDTH))
    size = np.linalg.norm(along)
    embedding[300:312] = rng.normal(size=(12, WIDTH)) * size
    embedding[320:332] = embedding[300:312] + along + 0.1 * rng.normal(size=(12, WIDTH)) * size
    contexts = {"wing": [f"w{i}" for i in range(300, 312)], "fin": [f"w{i}" for i in range(320, 332)]}
    made = _model(table, embedding)
    return languages(
        made, contexts, pairs=lists, metrics=["euclidean", "causal"], n_bootstrap=300, n_random=300
    )


def test_parallel_contexts_point_to_their_own_concept(languages_result: Languages):
    made = languages_result
    assert made.pairs == ("wing ⇒ fin",)
    causal = made.matches[made.matches["metric"] == "causal"].iloc[0]
    euclidean = made.matches[made.matches["metric"] == "euclidean"].iloc[0]
    assert causal["rank"] == 1 and causal["first"] > 0.95
    assert causal["cosine"] > causal["level_random"]
    assert causal["cosine"] > 0.8 > euclidean["cosine"]
    assert causal["low"] < causal["cosine"] < causal["high"]
    assert causal["holm"] < 0.05
    # what is the same in every basis is the same under every product
    assert causal["log_odds"] == pytest.approx(euclidean["log_odds"])
    assert causal["positive"] == euclidean["positive"] > 0.8
    assert made.summary().startswith("the matching concept is the nearest of all for ")
    assert len(made.figures()) == 2


def test_languages_save_and_load(languages_result: Languages, tmp_path: Any):
    languages_result.save(tmp_path / "x")
    again = Languages.load(tmp_path / "x")
    assert again.scores.equals(languages_result.scores)
    assert again.tables().keys() == languages_result.tables().keys()


def test_log_odds_of_ambiguous_contexts_are_the_models_own(planted: Any, tmp_path: Any):
    table, _, _ = planted
    rng = np.random.default_rng(11)
    embedding = rng.normal(size=(TOKENS, WIDTH))
    pairs = [
        ContextPair(f"w2 w{i}", f"w2 w{i + 10}", f"w{i + 40}", f"w{i + 60}") for i in range(300, 310)
    ] + [ContextPair("w2 w3", "w2 w4", "unheard", "w7")]
    for pair in pairs[:10]:  # the second context's embedding is moved along its own words' difference
        a, b = (int(t.split()[-1][1:]) for t in (pair.first, pair.second))
        own = table[int(pair.second_word[1:])] - table[int(pair.first_word[1:])]
        embedding[b] = embedding[a] + own + 0.3 * rng.normal(size=WIDTH)
    model = _model(table, embedding)
    rows = rng.normal(size=(200, WIDTH))
    made = ambiguous(model, pairs, n_bootstrap=300, residuals=rows)
    assert len(made.items) == 10 and len(made.dropped) == 1
    with torch.no_grad():
        for k, pair in enumerate(pairs[:10]):
            texts = [[0, *(int(w[1:]) for w in t.split())] for t in (pair.first, pair.second)]
            logits = [model(torch.tensor([ids]))[0, -1].double() for ids in texts]
            ids = int(pair.first_word[1:]), int(pair.second_word[1:])
            odds = [float(z[ids[1]] - z[ids[0]]) for z in logits]
            assert made.items["log_odds"].iloc[k] == pytest.approx(odds[1] - odds[0], abs=1e-3)
    lines = made.scores.set_index("metric")
    assert lines.loc["euclidean", "matching"] > 0.9
    assert (lines["p"] < 0.01).all() and (lines["low"] > 0).all() and (lines["nearest"] == 1).all()
    assert made.summary().startswith(
        "context pairs point to their own completions (euclidean, whitened, causal)"
    )
    size = np.abs(made.cosines[0])
    other = size[~np.eye(10, dtype=bool)]
    assert lines.loc["euclidean", "other"] == pytest.approx(np.nanmean(other))
    made.save(tmp_path / "x")
    again = Ambiguous.load(tmp_path / "x")
    assert again.summary() == made.summary() and len(again.figures()) == 1


def test_unrelated_contexts_point_nowhere(planted: Any):
    table, _, _ = planted
    embedding = np.random.default_rng(12).normal(size=(TOKENS, WIDTH))
    pairs = [ContextPair(f"w{i}", f"w{i + 12}", f"w{i + 40}", f"w{i + 60}") for i in range(300, 312)]
    made = ambiguous(_model(table, embedding), pairs, metrics=["causal"], n_bootstrap=300)
    assert made.scores["p"].iloc[0] > 0.05
    assert made.summary().startswith("context pairs are no nearer")
