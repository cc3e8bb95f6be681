"""Interventions in models whose use of a direction is known: read in closed form, or read by nothing."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import WORDS
from helpers import as_installed, cached

from graticule import Sample, Table, capture, probe
from graticule.hooks.tokens import tokenize
from graticule.probes.causes.ablate import Ablation, ablate
from graticule.probes.causes.causes import NOT_SEEN, UNDECIDED, USED, Causes, causes, second_verdict
from graticule.probes.causes.edited_runs import EditedRuns, check_span, edited_tokens
from graticule.probes.causes.erase import erase
from graticule.probes.causes.experiment import Experiment
from graticule.probes.causes.outcomes import Outcome, default_outcomes
from graticule.probes.causes.result import adjusted, effect_line
from graticule.probes.causes.steer import Steering, steer
from graticule.probes.core.verdict import STRUCTURE
from graticule.probes.linear.edits import AffineEdit, mask_of, unit_moves

POINT = "blocks.0.hook_resid_post"
ANSWER = Outcome("north or south", "{} is in the", {"north": ("north",), "south": ("south",)}, "height")


def texts(count=240, seed=0):
    rng = np.random.default_rng(seed)
    drawn = [" ".join(rng.choice(WORDS, rng.integers(2, 6))) for _ in range(2 * count)]
    return list(dict.fromkeys(drawn))[:count]


def linear_model(tokenizer, seed=0):
    """Attention in block 0, nothing in block 1, no norms: logits are linear in what block 0 leaves."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=2, d_model=24, n_ctx=32, d_head=6, n_heads=4, attn_only=True, normalization_type=None,
        d_vocab=len(tokenizer), positional_embedding_type="rotary", rotary_dim=6, seed=seed,
        initializer_range=0.5, default_prepend_bos=True, device="cpu",
    )  # fmt: skip
    model = HookedTransformer(config, tokenizer)
    with torch.no_grad():
        model.blocks[1].attn.W_O.zero_()
        model.blocks[1].attn.b_O.zero_()
    model.eval()
    return model


def planted_findings(model, n_targets=1, noise=0.1, seed=0):
    """A probe of a linear function of what block 0 leaves at the last token."""
    from graticule import capture

    names = texts(seed=seed)
    X = capture(model, names, points=POINT)[POINT].double().numpy()
    rng = np.random.default_rng(seed)
    y = (X - X.mean(0)) @ rng.normal(size=(X.shape[1], n_targets))
    y = y / y.std(0) + noise * rng.normal(size=(len(X), n_targets))
    columns = ["height", "width"][:n_targets]
    frame = pd.DataFrame({"name": names, **dict(zip(columns, y.T, strict=True))})
    table = Table(frame, text="name", target=columns, name="planted")
    return probe(model, table, progress=False)


@pytest.fixture(scope="module")
def model(hf_folder):
    from transformers import AutoTokenizer

    return linear_model(AutoTokenizer.from_pretrained(hf_folder("llama")))


@pytest.fixture(scope="module")
def findings(model):
    """Of own activations, which say of no model: block 0 does not see the answers that `readers` set."""
    made = planted_findings(model)
    acts = {k: v for k, v in made.provenance["activations"].items() if k != "model"}
    return dataclasses.replace(made, provenance={**made.provenance, "activations": acts})


@pytest.fixture(scope="module")
def tiny_findings(load_tiny):
    return planted_findings(load_tiny("llama", "hooked"), n_targets=2)


@pytest.fixture
def readers(model):
    """Set how the answers are read, and put the model back afterwards."""
    before = model.unembed.W_U.detach().clone()

    def set_columns(change):
        with torch.no_grad():
            model.unembed.W_U.copy_(torch.from_numpy(change(before.double().numpy())).float())

    yield set_columns
    with torch.no_grad():
        model.unembed.W_U.copy_(before)


def ids(model, *words):
    return [model.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words]


# The verdict on constructed models -----------------------------------------------------------------------
@pytest.mark.slow
def test_what_the_answers_read_is_called_used(model, findings, readers, tmp_path):
    """The unembedding reads the write direction: steering moves the log-odds by a product of two vectors."""
    write = findings.probes[POINT].write_direction[:, 0]
    north, south = ids(model, "north", "south")

    def read_it(weight):
        weight = weight.copy()
        weight[:, north] = weight[:, south] + 2 * write / np.linalg.norm(write)
        return weight

    readers(read_it)
    result = causes(findings, model, outcomes=[ANSWER], hook_name=POINT, rows=30, progress=False)
    assert result.label == USED
    (line,) = result.effects[
        (result.effects["intervention"] == "steer height") & (result.effects["outcome"] == ANSWER.name)
    ].to_dict("records")
    experiment = Experiment(model, findings, [ANSWER], point=POINT, rows=30, span="from_entity", seed=0)
    weight = model.unembed.W_U.detach().double().numpy()
    closed = experiment.moves[:, 0] * experiment.sd[0] @ (weight[:, north] - weight[:, south])
    assert line["effect"] == pytest.approx(closed, rel=1e-4)
    assert closed > 0
    assert line["p"] == pytest.approx(1 / 101)
    assert line["limit"] < line["effect"]
    assert line["p_holm"] < 0.05
    first = result.summary().splitlines()[0]
    assert "steer height changes north or south" in first and "of the model's own outcomes moved" in first
    reading = result.effects["outcome"].str.startswith("reading of")
    probes_own = dataclasses.replace(result, effects=result.effects.assign(tested=reading, p_holm=0.01))
    if reading.any():
        assert "what a later probe reads, not what the model does: 0 of 0" in probes_own.summary()
    # dose-response is a straight line through 0 in a linear model
    doses = result.doses[(result.doses["kind"] == "probe") & (result.doses["outcome"] == ANSWER.name)]
    assert np.allclose(doses["value"], closed * doses["scale"], rtol=1e-3, atol=1e-4)
    result.save(tmp_path / "c")
    back = Causes.load(tmp_path / "c")
    assert back.summary() == result.summary()
    assert back.to_json() == result.to_json()
    assert back.outcomes == (ANSWER,)
    assert '"words": "used"' in (tmp_path / "c" / "manifest.json").read_text()  # as it was called
    with pytest.warns(DeprecationWarning, match="Causes.words is the old name of label"):
        assert back.words == USED
    captions = list(back.figures())
    assert sum(c.startswith("Dose-response") for c in captions) == 2
    assert any("among its controls" in c for c in captions)


@pytest.mark.slow
def test_what_nothing_reads_is_present_without_an_effect(model, findings, readers):
    """The unembedding is orthogonal to the write direction, and no later block reads at all."""
    write = findings.probes[POINT].write_direction[:, 0]
    unit = write / np.linalg.norm(write)
    readers(lambda weight: weight - np.outer(unit, unit @ weight))
    seen = dataclasses.replace(findings, verdict=dataclasses.replace(findings.verdict, label=STRUCTURE))
    result = causes(seen, model, outcomes=[ANSWER], hook_name=POINT, rows=30, progress=False)
    assert result.label == NOT_SEEN
    steered = result.effects[result.effects["intervention"] == "steer height"]
    assert (steered["effect"].abs() < 1e-5).all()
    assert (result.effects[result.effects["outcome"] == ANSWER.name]["limit"] > 1e-3).all()
    unseen = dataclasses.replace(findings, verdict=dataclasses.replace(findings.verdict, label="not decided"))
    again = second_verdict(result.effects, unseen.verdict.label, 30)
    assert again[0] == UNDECIDED


def test_the_second_verdict_in_words():
    controls = np.linspace(-1, 1, 100)

    def table(effect, limit=controls):
        line = effect_line(
            intervention="steer a", outcome="o", unit="log-odds per sd", tested=True, effect=effect,
            interval=(0.0, 1.0), controls=limit, norm=1.0,
        )  # fmt: skip
        return adjusted(pd.DataFrame([line]))

    assert second_verdict(table(2.0), "no better than the baselines", 50)[0] == USED
    label, reason = second_verdict(table(2.0), "not decided: the probe is the training mean", 50)
    assert label == USED and reason.endswith(
        "; the findings themselves say: not decided: the probe is the training mean"
    )
    assert "findings" not in second_verdict(table(2.0), STRUCTURE, 20)[1]
    label, reason = second_verdict(table(2.0), STRUCTURE, 19)
    assert label == UNDECIDED and reason.endswith("; on 19 rows alone (20 are needed to say more)")
    assert second_verdict(table(0.5), STRUCTURE, 50)[0] == NOT_SEEN
    assert second_verdict(table(0.5), "not decided", 50)[0] == UNDECIDED
    assert second_verdict(table(0.5), STRUCTURE, 5)[0] == UNDECIDED
    assert second_verdict(table(0.0, np.zeros(100)), STRUCTURE, 50)[0] == UNDECIDED


@pytest.mark.slow
def test_same_seed_same_bytes_and_the_skip_path_is_subtracted(model, findings):
    settings = {"outcomes": [ANSWER], "hook_name": POINT, "rows": 20, "controls": 5, "progress": False}
    one, two = steer(findings, model, **settings), steer(findings, model, **settings)
    pd.testing.assert_frame_equal(one.effects, two.effects)
    pd.testing.assert_frame_equal(one.controls, two.controls)
    # block 1 does nothing: what reaches the later probe is the displacement itself, and that is subtracted
    later = one.effects[one.effects["outcome"].str.startswith("reading of height")]
    assert len(later) == 1
    assert abs(later["effect"].iloc[0]) < 1e-5
    drawn = one.controls[one.controls["kind"] == "control"]
    assert drawn["direction"].nunique() == 40  # two outcomes need as many to reach .05 after Holm


# Hooks of a probe ----------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hooked", "bridge"])
def test_fwd_hooks_move_the_reading_exactly(load_tiny, tiny_findings, kind):
    model, point = load_tiny("llama", kind), "blocks.1.hook_resid_post"
    fitted = tiny_findings.probes[point]
    tokens = tokenize(load_tiny("llama", "hooked"), ["paris rome", "north oslo"]).ids
    batch = torch.from_numpy(np.stack(tokens))

    def readings(hooks=()):
        with torch.no_grad(), model.hooks(fwd_hooks=list(hooks)):
            held = model.run_with_cache(batch)[1][point]
        flat = held.reshape(-1, held.shape[-1]).double().numpy()
        return fitted.predict(flat).reshape(*batch.shape, 2)

    base, spread = readings(), fitted.weights.y_scale
    moved = readings(fitted.fwd_hooks("add", 2.0, pos=-1, target="height"))
    assert np.allclose(moved[:, -1, 0] - base[:, -1, 0], 2 * spread[0], atol=1e-4 * spread[0])
    assert np.allclose(moved[:, -1, 1], base[:, -1, 1], atol=1e-4 * spread[1])
    assert np.array_equal(moved[:, :-1], base[:, :-1])
    both = readings(fitted.fwd_hooks("steer", -1.0, sd=[3.0, 5.0]))
    assert np.allclose(both - base, [-3.0, -5.0], atol=1e-3)
    held = readings(fitted.fwd_hooks("clamp", 0.7, pos=slice(1, None), target=1))
    assert np.allclose(held[:, 1:, 1], 0.7, atol=1e-4)
    assert np.allclose(held[..., 0], base[..., 0], atol=1e-4)
    gone = readings(fitted.fwd_hooks("erase", pos=[[0, 2], [1]]))
    assert np.allclose(gone[0, [0, 2]], fitted.weights.y_mean, atol=1e-4)
    assert np.allclose(gone[1, 1], fitted.weights.y_mean, atol=1e-4)
    assert np.array_equal(gone[0, 1], base[0, 1])
    assert readings() == pytest.approx(base)


@pytest.mark.slow
def test_ablation_takes_the_write_direction_to_its_mean(tiny, tiny_findings):
    fitted = tiny_findings.probes["blocks.1.hook_resid_post"]
    X = np.random.default_rng(0).normal(size=(6, 32))
    edited = fitted.edit("ablate", target="height").apply(X)
    unit = fitted.write_direction[:, 0] / np.linalg.norm(fitted.write_direction[:, 0])
    assert np.allclose(edited @ unit, fitted.weights.x_mean @ unit)
    assert np.allclose(edited - np.outer(edited @ unit, unit), X - np.outer(X @ unit, unit))
    with_hooks = tiny.run_with_hooks(
        tiny.to_tokens("paris"), fwd_hooks=fitted.fwd_hooks("ablate"), return_type="logits"
    )
    assert with_hooks.shape[-1] == tiny.cfg.d_vocab


@pytest.mark.slow
def test_hooks_work_in_the_models_own_dtype(tiny_findings):
    fitted = tiny_findings.probes["blocks.1.hook_resid_post"]
    ((_, fn),) = fitted.fwd_hooks("clamp", 0.5, target="height")
    value = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.2)):
        given = value.to(dtype)
        edited = fn(given, hook=None)
        assert edited.dtype == dtype
        assert torch.equal(given, value.to(dtype))  # the caller's tensor is left alone
        read = fitted.predict(edited.double().reshape(-1, 32).numpy())[:, 0]
        assert np.allclose(read, 0.5, atol=tolerance)


@pytest.mark.slow
def test_what_is_wrong_is_named(tiny_findings, findings, model):
    fitted = tiny_findings.probes["blocks.1.hook_resid_post"]
    with pytest.raises(KeyError, match="no target 'depth'"):
        fitted.fwd_hooks("add", target="depth")
    with pytest.raises(KeyError, match="no target 2"):
        fitted.fwd_hooks("add", target=2)
    with pytest.raises(ValueError, match="sd has shape"):
        fitted.fwd_hooks("add", sd=[1.0])
    ((_, fn),) = fitted.fwd_hooks("add")
    with pytest.raises(ValueError, match="32 numbers per token"):
        fn(torch.zeros(1, 2, 31))
    with pytest.raises(ValueError, match="positions of 3 rows, the batch has 2"):
        mask_of([0, 1, 2], 2, 4)
    with pytest.raises(IndexError, match="pos=4 for row 0"):
        mask_of(4, 2, 4)
    with pytest.raises(ValueError, match="two sets of tokens"):
        Outcome("o", "{} is", {"a": ("north",)}, "height")
    with pytest.raises(ValueError, match="one slot"):
        Outcome("o", "it is", {"a": ("north",), "b": ("south",)}, "height")
    with pytest.raises(ValueError, match="both sets of answers begin with"):
        Outcome("o", "{} is", {"a": ("north",), "b": ("north", "south")}, "height").tokens(model)
    with pytest.raises(ValueError, match="is about 'depth'"):
        steer(findings, model, outcomes=[dataclasses.replace(ANSWER, target="depth")])
    with pytest.raises(ValueError, match="must be among scales"):
        steer(findings, model, outcomes=[ANSWER], dose=5.0)
    with pytest.raises(KeyError, match="no probe at"):
        steer(findings, model, outcomes=[ANSWER], hook_name="blocks.7.hook_resid_post")
    with pytest.raises(ValueError, match="no neurons"):
        ablate(findings, model, [], outcomes=[ANSWER])


def test_unit_moves_hold_the_other_readings():
    rng = np.random.default_rng(0)
    read, write = rng.normal(size=(8, 3)), rng.normal(size=(8, 3))
    assert np.allclose(read.T @ unit_moves(read, write), np.eye(3))
    classes = read - read.mean(axis=1, keepdims=True)  # readings of classes add up to a constant
    moves = unit_moves(classes, classes)
    assert np.allclose(np.diag(classes.T @ moves), 1)
    with pytest.raises(ValueError, match="does not move its reading"):
        unit_moves(np.eye(2)[:, :1], np.eye(2)[:, 1:])


# Runs ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_a_restart_is_the_whole_pass(load_tiny, family):
    """Restarted or whole, as HookedTransformer or as bridge: the logits that `run_with_hooks` gives."""
    names = ["paris", "the old city of rome", "new lake", "saint king west port"]
    hooked, bridge = load_tiny(family, "hooked"), load_tiny(family, "bridge")
    point, later = "blocks.1.hook_resid_post", ("blocks.2.hook_resid_post",)
    rng = np.random.default_rng(0)
    edit = AffineEdit(
        rng.normal(size=32), rng.normal(size=(32, 2)), rng.normal(size=2), 0.1 * rng.normal(size=(2, 32))
    )
    rows = tokenize(hooked, names, "{} is in")
    edited = edited_tokens(rows, "from_entity")
    read = np.array([end - 1 for _, end in rows.spans])
    outs = []
    with torch.no_grad():
        for held in (hooked, bridge):
            runs = EditedRuns(held, rows, point, edited, read, later, token_budget=20)
            assert runs.restarts == (held is hooked)
            ran = runs.run(edit)
            outs.append((runs.scores(ran.final), ran.later[later[0]], runs.scores(ran.final, [5, 3])))
        for i, row in enumerate(rows.ids):
            tokens = torch.from_numpy(row)[None]
            hooks = [(point, edit.hook([edited[i].tolist()]))]
            with hooked.hooks(fwd_hooks=hooks):
                logits, cache = hooked.run_with_cache(tokens)
            for scores, reading, few in outs:
                assert torch.allclose(scores[i], logits[0, -1], atol=2e-4)
                assert torch.allclose(reading[i], cache[later[0]][0, read[i]], atol=2e-4)
                assert torch.allclose(few[i], logits[0, -1, [5, 3]], atol=2e-4)


def test_points_inside_a_block_are_edited_too(tiny):
    rows = tokenize(tiny, ["paris rome", "old city"], "{} is in")
    point = "blocks.1.attn.hook_z"
    edit = AffineEdit.translation(np.ones(32))
    edited, read = edited_tokens(rows, "all"), np.array([2, 2])
    with torch.no_grad():
        runs = EditedRuns(tiny, rows, point, edited, read)
        got = runs.scores(runs.run(edit).final)
        tokens = torch.from_numpy(np.stack(rows.ids))
        expected = tiny.run_with_hooks(tokens, fwd_hooks=[(point, edit.hook(slice(1, None)))])[:, -1]
    assert runs.restarts
    assert torch.allclose(got, expected, atol=1e-4)
    with pytest.raises(ValueError, match="outside the blocks"):
        EditedRuns(tiny, rows, "hook_embed", edited, read)


PLACES = [-1, 2, slice(-3, -1), "last", "all", Sample(2), "entity", "entity_last"]


@pytest.mark.parametrize("pos", PLACES, ids=str)
def test_a_position_edited_is_the_position_captured(tiny, pos):
    """Hooks by hand at the positions that a capture of the same `pos` says."""
    texts, prompt, point = ["paris rome", "old city", "king"], "the {} is in", "blocks.1.hook_resid_post"
    rows = tokenize(tiny, texts, prompt)
    table = capture(tiny, texts, prompt=prompt, layers=[1], pos=pos, include_bos=False, progress=False).rows
    edited = edited_tokens(rows, pos)
    read = np.array([len(row) - 1 for row in rows.ids])
    with torch.no_grad():
        runs = EditedRuns(tiny, rows, point, edited, read)
        got = runs.scores(runs.run(AffineEdit.translation(np.ones(32))).final)
        for text, row in enumerate(rows.ids):
            places = table.loc[table["source"] == text, "position"].to_list()
            assert edited[text].tolist() == places

            def push(value, hook, places=places):
                value[:, places] += 1
                return value

            logits = tiny.run_with_hooks(torch.from_numpy(row)[None], fwd_hooks=[(point, push)])[0, -1]
            assert torch.allclose(got[text], logits, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("pos", "include_bos"), [(-2, None), (slice(0, 2), True), (slice(0, 2), False)])
def test_steering_at_any_position_against_hooks_by_hand(tiny, tiny_findings, pos, include_bos):
    asked = {"outcomes": [ANSWER], "rows": 5, "targets": ["height"], "scales": (-2.0, 2.0)}
    result = steer(tiny_findings, tiny, pos=pos, include_bos=include_bos, controls=2, progress=False, **asked)
    point = tiny_findings.chosen_point
    experiment = Experiment(tiny, tiny_findings, [ANSWER], point=None, rows=5, span=pos, seed=0)
    high, low = ids(tiny, "north", "south")
    odds = {-2.0: [], 2.0: []}
    with torch.no_grad():
        for scale in odds:
            push = torch.from_numpy(scale * experiment.moves[:, 0] * experiment.sd[0]).float()

            def move(value, hook, push=push):
                places = list(range(value.shape[1])[pos]) if isinstance(pos, slice) else [pos]
                value[:, [i for i in places if i or include_bos]] += push
                return value

            for row in experiment.tokens(ANSWER.prompt).ids:
                logits = tiny.run_with_hooks(torch.from_numpy(row)[None], fwd_hooks=[(point, move)])[0, -1]
                odds[scale].append(float(logits[high] - logits[low]))
    (line,) = result.effects[result.effects["outcome"] == ANSWER.name].to_dict("records")
    assert line["effect"] == pytest.approx((np.mean(odds[2.0]) - np.mean(odds[-2.0])) / 4, abs=1e-5)
    assert result.provenance["settings"]["pos"] == (-2 if pos == -2 else {"slice": [0, 2, None]})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pos", "reason"),
    [
        ("entity_mean", "a mean over tokens, which no forward pass holds: edit 'entity'"),
        (0, "pos=0 is a special token of text 0, and include_bos=False leaves it out"),
        (slice(9, 9), "means no token of any prompt: there is nothing to edit"),
    ],
)
def test_positions_that_cannot_be_edited_are_refused_in_a_line(tiny, tiny_findings, pos, reason):
    with pytest.raises(ValueError, match=reason):
        ablate(tiny_findings, tiny, [(0, 1)], outcomes=[ANSWER], rows=4, pos=pos, progress=False)
    with pytest.raises(ValueError, match=r"pos='first': expected one of .*'from_entity', an index"):
        check_span("first")


@pytest.mark.slow
def test_the_model_is_left_as_found_after_an_exception(model, findings, monkeypatch):
    model.train()

    def broken(*_args, **_kwargs):
        raise RuntimeError("no logits today")

    monkeypatch.setattr(Experiment, "odds", broken)
    with pytest.raises(RuntimeError, match="no logits today"):
        causes(findings, model, outcomes=[ANSWER], hook_name=POINT, rows=20, progress=False)
    assert model.training
    assert all(not hook.fwd_hooks for hook in model.hook_dict.values())
    model.eval()


@pytest.mark.slow
def test_a_bridge_gives_the_same_effects(load_tiny, tiny_findings):
    outcome = dataclasses.replace(ANSWER, prompt="the {} is in the")
    found = [
        steer(
            tiny_findings, load_tiny("llama", kind), outcomes=[outcome], hook_name="blocks.1.hook_resid_post",
            rows=10, controls=2, targets=["height"], scales=(-2.0, 2.0), progress=False,
        ).effects
        for kind in ("hooked", "bridge")
    ]  # fmt: skip
    assert np.allclose(found[0]["effect"], found[1]["effect"], atol=1e-4)
    assert np.allclose(found[0]["limit"], found[1]["limit"], atol=1e-4)
    assert len(found[0]) == 2


# Neurons and erasure in the model ------------------------------------------------------------------------
@pytest.mark.slow
def test_pinned_neurons_against_hooks_by_hand(tiny, tiny_findings, tmp_path):
    result = ablate(tiny_findings, tiny, [(1, 3)], outcomes=[ANSWER], rows=12, controls=6, progress=False)
    assert set(result.pins["kind"]) == {"neuron", "control"}
    experiment = Experiment(tiny, tiny_findings, [ANSWER], point=None, rows=12, span="all", seed=0)
    high, low = ids(tiny, "north", "south")
    rows = experiment.tokens(ANSWER.prompt)
    values, odds = [], {-2.0: [], 2.0: []}
    with torch.no_grad():
        for row, (_, end) in zip(rows.ids, rows.spans, strict=True):
            values.append(float(cached(tiny, torch.from_numpy(row)[None])["post", 1][0, end - 1, 3]))
        for scale in odds:
            goal = np.mean(values) + scale * np.std(values)

            def pin(value, hook, goal=goal):
                value[:, 1:, 3] = goal
                return value

            for row in rows.ids:
                tokens = torch.from_numpy(row)[None]
                logits = tiny.run_with_hooks(tokens, fwd_hooks=[("blocks.1.mlp.hook_post", pin)])[0, -1]
                odds[scale].append(float(logits[high] - logits[low]))
    (line,) = result.effects[result.effects["intervention"] == "pin L1.3"].to_dict("records")
    assert line["effect"] == pytest.approx((np.mean(odds[2.0]) - np.mean(odds[-2.0])) / 4, abs=1e-5)
    result.save(tmp_path / "a")
    assert Ablation.load(tmp_path / "a").summary() == result.summary()
    assert any("pinned" in caption for caption in result.figures())
    with pytest.raises(IndexError, match="no 99"):
        ablate(tiny_findings, tiny, [(1, 99)], outcomes=[ANSWER], rows=12, controls=2, progress=False)
    for bad in ([(1, 3), (1, 3)], [(1, -1)], [(1.0, 3)], [3]):
        with as_installed(), pytest.raises(ValueError, match=r"^neurons=.*: expected "):
            ablate(tiny_findings, tiny, bad, outcomes=[ANSWER], rows=12, controls=2, progress=False)


@pytest.mark.slow
def test_erased_in_the_model_and_probed_later(tiny, tiny_findings):
    first = "blocks.0.hook_resid_post"
    result = erase(tiny_findings, tiny, points=[first], hook_name=first, rows=150)
    assert list(result.later["layer"]) == [1, 2]
    for name in tiny_findings.target_names:
        assert (result.later[f"after_{name}"] < result.later[f"before_{name}"]).all()
    assert "erased inside the model" in result.summary()
    assert len(result.figures()) == 4


def test_default_outcomes_follow_units():
    frame = pd.DataFrame({"name": list("abcdefghijkl"), **{c: range(12) for c in "yxd"}})
    table = Table(frame, text="name", target=["y", "x", "d"], units=["lat", "lon", None])
    made = default_outcomes(table)
    assert [(o.target, next(iter(o.answers))) for o in made] == [("y", "northern"), ("x", "eastern")]


@pytest.mark.slow
@pytest.mark.gemma
def test_packaged_answers_are_single_tokens_of_the_packaged_model(gemma):
    frame = pd.DataFrame({"name": list("abcdefghijkl"), **{c: range(12) for c in "yxt"}})
    table = Table(frame, text="name", target=["y", "x", "t"], units=["lat", "lon", "year"])
    for outcome in default_outcomes(table):
        high, low = outcome.tokens(gemma)
        words = [w for answers in outcome.answers.values() for w in answers]
        assert [gemma.tokenizer.decode([t]) for t in (*high, *low)] == words


@pytest.mark.slow
def test_steering_is_saved_whole(model, findings, tmp_path):
    result = steer(
        findings,
        model,
        outcomes=[ANSWER],
        hook_name=POINT,
        rows=20,
        controls=5,
        other=findings,
        progress=False,
    )
    assert {"control", "shuffled", "other"} == set(result.controls["kind"])
    result.save(tmp_path / "s")
    back = Steering.load(tmp_path / "s")
    assert back.summary() == result.summary()
    pd.testing.assert_frame_equal(back.doses, result.doses)
