"""What is published, as text and files: cards, layout, ids, the plot, and probes that save themselves."""

import ast
import dataclasses
import json
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import save_file

from graticule import RidgeProbe, sweep
from graticule.hooks.artifact import ArtifactError
from graticule.hooks.values import NonFiniteError
from graticule.hub.card import card
from graticule.hub.evaluation import density_png, histogram
from graticule.hub.outgoing import shorten
from graticule.hub.readback import tensor_differences
from graticule.hub.remote import check_id, check_repo, masked
from graticule.hub.uploads import SaeFacts, Upload, gather, hub_dataset, look
from graticule.probes.linear.ridge import judged_by
from graticule.saes import Run
from graticule.sims.planted import planted

HOOK = "blocks.9.hook_resid_post"
CFG = {
    "architecture": "jumprelu",
    "d_in": 640,
    "d_sae": 5120,
    "dtype": "float32",
    "normalize_activations": "none",
    "metadata": {
        "sae_lens_version": "6.54.12",
        "model_name": "gemma-3-270m",
        "hook_name": HOOK,
        "dataset_path": "owner/news",
        "context_size": 128,
        "prepend_bos": True,
        "exclude_special_tokens": True,
        "training_architecture": "batchtopk",
        "training_architecture_details": {"k": 32.0},
    },
}
FACTS = SaeFacts(
    cfg=CFG,
    runner={"train_batch_size_tokens": 4096, "lr": 3e-4},
    run={"tokens": 1_000_000, "versions": {"graticule": "0.1.0", "torch": "2.13.0"}},
    evaluation={
        "l0": 31.96,
        "explained_variance": 0.8123,
        "loss_recovered_zero": 0.97,
        "loss_recovered_mean": 0.94,
        "kl": 0.21,
        "dead_fraction": 0.05,
        "n_rows": 20_000,
        "always_on": 3,
        "ce_mean": None,
    },
    last={"loss": 12.5, "step": 244.0, "dead": 17.0},
    density=histogram(np.array([-10.0] * 5 + [-6.0] * 3 + [-3.0] * 90 + [-0.5] * 2)),
    digest="ab" * 32,
    dataset="owner/news",
    base_model="google/gemma-3-270m",
)


def sae(name: str = HOOK, facts: SaeFacts = FACTS) -> Upload:
    return Upload(name, Path("nowhere"), {}, facts)


def with_cfg(**metadata) -> SaeFacts:
    return dataclasses.replace(FACTS, cfg={**CFG, "metadata": {**CFG["metadata"], **metadata}})


def rows(text: str) -> dict[str, list[str]]:
    """First cell → the others, of every table line."""
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("| ")]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}


def code(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


class TestSaeCard:
    text = card("user/my-saes", [sae()], licence="gemma")

    def test_front_matter_is_what_the_hubs_own_class_reads(self):
        front = ModelCard(self.text).data
        assert (front.library_name, front.license) == ("saelens", "gemma")
        assert front.base_model == ["google/gemma-3-270m"]
        assert front.datasets == ["owner/news"]
        assert "sparse-autoencoder" in front.tags
        assert front.model_name == "my-saes"
        held = {r.metric_type: r.metric_value for r in front.eval_results}
        assert held == {k: FACTS.evaluation[k] for k in list(FACTS.evaluation)[:6]}
        assert all(r.dataset_type == "owner/news" for r in front.eval_results)
        assert all(r.metric_name.endswith(f"({HOOK})") for r in front.eval_results)

    def test_it_says_what_it_is(self):
        assert f"on `{HOOK}` of [`gemma-3-270m`](https://huggingface.co/google/gemma-3-270m)" in self.text
        assert "(BatchTopK, 5,120 latents)" in self.text
        assert "[owner/news](https://huggingface.co/datasets/owner/news)" in self.text
        assert "licence: gemma" in self.text
        assert f"`{'ab' * 32}`" in self.text
        assert "made with graticule 0.1.0, torch 2.13.0" in self.text
        assert "arxiv.org/abs/2412.06410" in self.text

    def test_tables(self):
        held = rows(self.text)
        assert held["architecture"] == ["`batchtopk`, saved as `jumprelu`"]
        assert held["training tokens"] == ["1,000,000"]
        assert held["k"] == ["32"]
        assert held["learning rate"] == ["0.0003"]
        assert held["BOS prepended"] == ["yes"]
        assert held["at the end: loss"] == ["12.5"]
        assert held["L0"][0] == "31.96"
        assert held["loss recovered, against mean ablation"][0] == "0.94"
        assert held["latents always on"][0] == "3"
        assert "loss with the mean, nats" not in held
        assert "On 20,000 tokens." in self.text

    def test_it_loads_in_three_lines(self):
        (block,) = code(self.text)
        assert len(block.splitlines()) == 3
        ast.parse(block)
        assert f'SAE.from_pretrained("user/my-saes", "{HOOK}")' in block

    def test_a_branch_is_loaded_from_that_branch(self):
        (block,) = code(card("user/my-saes", [sae()], revision="v2"))
        ast.parse(block)
        assert len(block.splitlines()) == 3
        assert 'revision="v2"' in block
        assert "load_from_disk" in block
        assert "from_pretrained" not in block  # which reads main

    def test_the_density_plot_and_its_counts(self):
        assert f"]({HOOK}/density.png)" in self.text
        assert "Of 100 latents 5 never fired there, 3 fired on fewer than 1 in 100,000" in self.text
        assert "and 2 on more than 1 in 10" in self.text

    def test_what_is_not_known_is_not_made_up(self):
        bare = SaeFacts(cfg={"architecture": "standard", "d_in": 8, "d_sae": 16, "metadata": {}})
        text = card("user/my-saes", [sae("x", bare)])
        front = ModelCard(text).data
        assert front.license is None
        assert front.base_model is None
        assert front.datasets is None
        assert front.eval_results is None
        assert "Not evaluated." in text
        assert "none was given" in text
        assert "density.png" not in text
        assert "None" not in text

    @pytest.mark.parametrize("dataset", ["news.txt", "data/news.parquet", "news"])
    def test_a_local_dataset_is_named_and_not_linked(self, dataset):
        facts = dataclasses.replace(with_cfg(dataset_path=dataset), dataset=hub_dataset(dataset))
        text = card("user/my-saes", [sae(facts=facts)])
        assert ModelCard(text).data.datasets is None
        assert f"`{dataset}`" in text
        assert "huggingface.co/datasets" not in text

    def test_scaled_activations_are_warned_of(self):
        facts = dataclasses.replace(FACTS, cfg={**CFG, "normalize_activations": "expected_average_only_in"})
        assert "√d_in" in card("user/my-saes", [sae(facts=facts)])
        assert "√d_in" not in self.text

    def test_what_would_break_a_table_is_escaped(self):
        text = card("user/my-saes", [sae(facts=with_cfg(dataset_path="a|b\nc --> d"))])
        assert rows(text)["dataset"] == [r"`a\|b c --> d`"]
        assert len(rows(text)["`" + HOOK + "`"]) == 1

    @pytest.mark.parametrize("licence", ["MIT License", "", "a/b"])
    def test_a_licence_is_an_identifier(self, licence):
        with pytest.raises(ValueError, match="identifiers"):
            card("user/my-saes", [sae()], licence=licence)


class TestSeveralInOneRepository:
    def test_the_other_part_and_what_people_wrote_stay(self):
        first = card("user/my-saes", [sae()], licence="mit")
        edited = (
            first.replace("# my-saes\n", "# My SAEs\n\nWith thanks to **Ada**.\n") + "\n## Notes\n\nMine.\n"
        )
        edited = edited.replace("tags:\n", "language: en\ntags:\n- mine\n")
        other = dataclasses.replace(FACTS, evaluation={"l0": 7.0}, base_model="google/gemma-3-1b-pt")
        both = card("user/my-saes", [sae("other", other)], existing=edited)
        for kept in ("# My SAEs", "**Ada**", "## Notes\n\nMine.", f"## {HOOK}", "## other"):
            assert both.count(kept) == 1, kept
        front = ModelCard(both).data
        assert front.language == "en"
        assert "mine" in front.tags
        assert front.license == "mit"
        assert front.base_model == ["google/gemma-3-270m", "google/gemma-3-1b-pt"]
        assert [r.metric_value for r in front.eval_results if r.metric_name == "L0 (other)"] == [7.0]
        assert len(front.eval_results) == 7
        listed = rows(both.split("end-list")[0])
        assert set(listed) >= {f"`{HOOK}`", "`other`"}
        part = re.compile(
            rf"<!-- graticule:begin {re.escape(HOOK)} .*?graticule:end {re.escape(HOOK)}", re.DOTALL
        )
        assert part.search(both)[0] == part.search(first)[0]

    def test_pushed_again_it_is_the_same_card(self):
        both = card("user/my-saes", [sae(), sae("other")], licence="mit")
        assert card("user/my-saes", [sae()], existing=both) == both
        assert card("user/my-saes", [sae("other")], existing=both, licence="mit") == both

    def test_a_new_evaluation_takes_the_place_of_the_old(self):
        first = card("user/my-saes", [sae()])
        better = dataclasses.replace(FACTS, evaluation={"l0": 20.0})
        second = card("user/my-saes", [sae(facts=better)], existing=first)
        assert second.count(f"## {HOOK}") == 1
        assert [r.metric_value for r in ModelCard(second).data.eval_results] == [20.0]
        assert "31.96" not in second

    def test_a_card_that_people_wrote_is_added_to(self):
        text = card("user/my-saes", [sae()], existing="Only words, no front matter.\n")
        assert "Only words, no front matter." in text
        assert ModelCard(text).data.library_name == "saelens"

    def test_front_matter_that_cannot_be_read_is_not_overwritten(self):
        with pytest.raises(ValueError, match="mend it"):
            card("user/my-saes", [sae()], existing="---\na: [1\n---\nwords\n")


class TestProbeCard:
    @pytest.fixture(scope="class")
    @classmethod
    def findings(cls):
        world = planted(surface=0.4, hidden=0.3, n_targets=2)
        return sweep(world.activations, world.table, baselines=world.baselines, progress=False)

    @pytest.fixture(scope="class")
    @classmethod
    def subject(cls, findings, tmp_path_factory):
        (subject,) = gather(findings)
        return subject

    @pytest.mark.slow
    def test_it_carries_the_verdict_its_surface_and_its_limit(self, findings, subject):
        text = card("user/probes", [subject], licence="mit")
        held, verdict = rows(text), findings.verdict
        assert f"**{verdict.label}**" in text
        assert float(held["the probe alone"][0]) == pytest.approx(verdict.score, rel=1e-3)
        assert float(held["the surface"][0]) == pytest.approx(verdict.surface, rel=1e-3)
        assert float(held["gain"][0].split()[0]) == pytest.approx(verdict.gain, rel=1e-3)
        assert held["limit of detection"][0] == "not measured"
        for name, line in findings.baselines.items():
            assert float(held[name.replace("_", " ")][1]) == pytest.approx(line["test"]["r2"], rel=1e-3)
        front = ModelCard(text).data
        assert front.library_name == "graticule"
        results = {r.metric_type: r.metric_value for r in front.eval_results}
        assert results["gain"] == pytest.approx(verdict.gain)

    @pytest.mark.parametrize(
        ("limit", "words"),
        [(0.0234, "0.0234"), (float("nan"), "beyond what was tried"), (None, "not measured")],
    )
    def test_limits_of_detection(self, findings, subject, limit, words):
        judged = judged_by(dataclasses.replace(findings, limit_of_detection=limit))
        facts = dataclasses.replace(subject.facts, judged=judged)
        text = card("user/probes", [dataclasses.replace(subject, facts=facts)])
        assert rows(text)["limit of detection"][0] == words

    def test_it_is_found_by_its_folder_and_by_the_findings(self, findings, subject, tmp_path):
        findings.save(tmp_path / "findings")
        (by_findings,) = gather(tmp_path / "findings")
        assert by_findings.facts == subject.facts
        assert by_findings.id == subject.id == findings.chosen_point
        findings.probe.save_pretrained(tmp_path / "probe", judged_by(findings))
        (by_folder,) = gather(tmp_path / "probe")
        assert by_folder.facts == subject.facts
        assert set(by_folder.files) == {"manifest.json", "probe.safetensors", "verdict.json"}
        for name, file in by_folder.files.items():  # an object is sent as saving it would write it
            assert (file if isinstance(file, bytes) else file.read_bytes()) == by_findings.files[name], name

    def test_several_objects(self, findings, tmp_path):
        point = next(p for p in findings.probes if p != findings.chosen_point)
        both = gather({"chosen": findings, "other": findings.probes[point]})
        assert [s.id for s in both] == ["chosen", "other"]
        assert [s.facts.manifest["hook_name"] for s in both] == [findings.chosen_point, point]
        assert (bool(both[0].facts.judged), bool(both[1].facts.judged)) == (True, False)

    def test_saved_and_loaded_it_predicts_the_same(self, findings, tmp_path):
        probe = findings.probe
        probe.save_pretrained(tmp_path / "all" / "north", judged_by(findings))
        back = RidgeProbe.from_pretrained(tmp_path / "all", "north")
        x = np.random.default_rng(0).normal(size=(5, len(probe.coef)))
        assert np.array_equal(back.predict(x), probe.predict(x))
        assert np.array_equal(RidgeProbe.from_pretrained(tmp_path / "all" / "north").coef, probe.coef)
        probe.save_pretrained(tmp_path / "all" / "north")  # in place of an earlier one, without its verdict
        assert not (tmp_path / "all" / "north" / "verdict.json").exists()

    def test_a_folder_of_something_else_is_not_written_over(self, findings, tmp_path):
        (tmp_path / "thesis.txt").write_text("years of work")
        with pytest.raises(FileExistsError, match="something other"):
            findings.probe.save_pretrained(tmp_path)
        assert (tmp_path / "thesis.txt").exists()
        with pytest.raises(ArtifactError, match="neither a folder"):
            RidgeProbe.from_pretrained(tmp_path / "nowhere")

    def test_never_judged(self, findings, tmp_path):
        (subject,) = gather(findings.probe, "places/north")
        text = card("user/probes", [subject])
        assert "Not judged" in text
        assert ModelCard(text).data.eval_results is None
        (block,) = code(text)
        ast.parse(block)
        assert len(block.splitlines()) == 3
        assert '"places/north"' in block

    def test_with_a_sae_beside_it(self, subject):
        text = card("user/both", [subject, sae()])
        assert ModelCard(text).data.library_name == "saelens"
        assert {"linear-probe", "sparse-autoencoder"} <= set(ModelCard(text).data.tags)


def folder(path: Path, **cfg) -> Path:
    """A SAELens folder as far as the layout is concerned."""
    path.mkdir(parents=True)
    (path / "cfg.json").write_text(json.dumps({**CFG, **cfg}))
    save_file({"W_enc": torch.zeros(2, 2)}, path / "sae_weights.safetensors")
    return path


class TestLayout:
    def test_a_run(self, tmp_path):
        run = tmp_path / "topk"
        folder(run / "sae")
        save_file({"sparsity": torch.tensor([-10.0, -3.0])}, run / "sae" / "sparsity.safetensors")
        (run / "sae" / "trainer_state.pt").write_bytes(b"a pickle")
        (run / "checkpoint").mkdir()
        trainer = {"lr": 1e-3, "total_training_samples": 7, "train_batch_size_samples": 7}
        asked = {
            "hook_name": HOOK,
            "sae": {"architecture": "topk", "d_in": 2, "d_sae": 2},
            "trainer": trainer,
        }
        manifest = {
            "kind": "sae_run",
            "schema": 1,
            "state": "complete",
            "tokens": 7,
            "steps": 1,
            "request": asked,
        }
        (run / "run.json").write_text(json.dumps(manifest))
        (run / "evaluation.json").write_text(json.dumps({"l0": 1.5}))
        (subject,) = gather(run)
        assert subject.id == HOOK
        assert set(subject.in_repo) == {
            f"{HOOK}/{name}"
            for name in (
                "cfg.json",
                "sae_weights.safetensors",
                "sparsity.safetensors",
                "run.json",
                "evaluation.json",
                "density.png",
            )
        }
        assert gather(Run.load(run))[0].facts == subject.facts
        assert subject.facts.evaluation == {"l0": 1.5}
        assert sum(n for _, n in subject.facts.density) == 2

    def test_several(self, tmp_path):
        folder(tmp_path / "all" / "small" / "sae")
        folder(tmp_path / "all" / "large")
        (tmp_path / "all" / "notes").mkdir()
        assert [s.id for s in gather(tmp_path / "all")] == ["large", "small"]
        named = {"a/b": tmp_path / "all" / "small", "c": tmp_path / "all" / "large"}
        assert [s.id for s in gather(named)] == ["a/b", "c"]
        with pytest.raises(ValueError, match="holds 2"):
            gather(tmp_path / "all", "one")
        with pytest.raises(ValueError, match="keys are the ids"):
            gather(named, "one")
        with pytest.raises(ValueError, match="its own id"):
            gather({"a": tmp_path / "all" / "small", "a/b": tmp_path / "all" / "large"})

    def test_what_is_not_whole_is_not_pushed(self, tmp_path):
        run = tmp_path / "run"
        run.mkdir()
        (run / "run.json").write_text(json.dumps({"state": "training"}))
        with pytest.raises(ValueError, match="not finished"):
            gather(run)
        broken = folder(tmp_path / "broken")
        (broken / "sae_weights.safetensors").unlink()
        with pytest.raises(FileNotFoundError, match="sae_weights"):
            gather(broken)
        (tmp_path / "empty").mkdir()
        with pytest.raises(FileNotFoundError, match="neither"):
            gather(tmp_path / "empty")
        with pytest.raises(FileNotFoundError, match="no folder"):
            gather(tmp_path / "nowhere")
        with pytest.raises(ValueError, match="empty"):
            gather({})
        with pytest.raises(FileNotFoundError, match="neither"):
            gather({"a": folder(tmp_path / "whole"), "b": tmp_path / "empty"})
        with pytest.raises(TypeError, match="cannot push a Tensor"):
            gather(torch.zeros(2))

    @pytest.mark.parametrize("name", ["../up", "/etc", "a//b", "a/../b", ".git/x", "a b", "", "x -->", "-x"])
    def test_ids_that_are_no_folders(self, name):
        with pytest.raises(ValueError, match="sae_id"):
            check_id(name)

    def test_local_paths_are_not_published(self, tmp_path):
        home = str(Path.home() / "secret-project")
        path = folder(
            tmp_path / "sae",
            metadata={**CFG["metadata"], "dataset_path": "/home/ada/news.txt", "note": f"see {home}/x"},
        )
        (path / "runner_cfg.json").write_text(
            json.dumps({"output_path": "C:\\Users\\ada\\out", "n": [1, "/a/b"]})
        )
        (subject,) = gather(path)
        published = {name: content for name, content in subject.files.items() if name.endswith(".json")}
        cfg, runner = (json.loads(published[n]) for n in ("cfg.json", "runner_cfg.json"))
        assert cfg["metadata"] == {
            **CFG["metadata"],
            "dataset_path": "news.txt",
            "note": "see ~/secret-project/x",
        }
        assert {**cfg, "metadata": 0} == {**CFG, "metadata": 0}
        assert runner == {"output_path": "out", "n": [1, "b"]}
        assert "ada" not in card("user/x", [subject])
        assert subject.model_name == "gemma-3-270m"
        local = folder(tmp_path / "local", metadata={**CFG["metadata"], "model_name": "/models/gpt2"})
        assert gather(local)[0].model_name is None  # it is not what the Hub calls gpt2
        clean = folder(tmp_path / "clean")
        (subject,) = gather(clean)
        assert subject.files["cfg.json"] == clean / "cfg.json"  # the very file where nothing had to be cut


class TestPicture:
    def test_png_holds_the_bars(self):
        """Decoded by hand: signature, checksums, size; the height of a bar is its count."""
        counts = [0, 10, 40, 0, 20, 1]
        density = tuple((-10 + i * 10 / 6, n) for i, n in enumerate(counts))
        data = density_png(density)
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        chunks, at = {}, 8
        while at < len(data):
            (size,) = struct.unpack(">I", data[at : at + 4])
            kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
            assert struct.unpack(">I", data[at + 8 + size : at + 12 + size]) == (zlib.crc32(kind + body),)
            chunks[kind] = body
            at += 12 + size
        width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
        page = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + 3 * width)
        blue = (page[:, 1:].reshape(height, width, 3) == (31, 111, 180)).all(axis=2).sum(axis=0)
        middles = [70 + int((i + 0.5) * (width - 90) / 6) for i in range(6)]
        tall = blue[middles]
        assert tall[0] == tall[3] == 0
        assert tall[2] == blue.max()
        assert tall[1] == pytest.approx(tall[2] / 4, abs=1)
        assert tall[4] == pytest.approx(tall[2] / 2, abs=1)
        assert tall[5] >= 1
        assert density_png(density) == data

    def test_histogram_counts_every_latent_once(self):
        values = np.array([-np.inf, -12.0, -10.0, -9.9, -5.0, -0.01, 0.0])
        counted = histogram(values)
        assert sum(n for _, n in counted) == len(values)
        assert counted[0][1] == 4  # never, or hardly ever
        assert counted[-1][1] == 2
        inside = np.random.default_rng(0).uniform(-10, 0, 500)
        expected = np.histogram(inside, bins=40, range=(-10, 0))[0]
        assert [n for _, n in histogram(inside)] == expected.tolist()

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_a_frequency_that_is_no_number_is_in_no_bin(self, bad):
        with pytest.raises(
            NonFiniteError, match="firing frequencies: 1 non-finite entries, the first of latent 1"
        ):
            histogram(np.array([-1.0, bad, -np.inf]))


def test_differences_name_what_differs():
    a = {"W": torch.tensor([1.0, 0.0]), "b": torch.zeros(3)}
    nan = {"W": torch.tensor([float("nan")])}
    assert tensor_differences(a, {k: v.clone() for k, v in a.items()}) == []
    assert tensor_differences(nan, {"W": nan["W"].clone()}) == []
    assert tensor_differences(a, {"W": torch.tensor([1.0, 2.0]), "b": a["b"]}) == [
        "W differs in 1 of 2 values"
    ]
    assert len(tensor_differences(a, {"W": torch.tensor([1.0, -0.0]), "b": a["b"]})) == 1
    assert "b is missing" in tensor_differences(a, {"W": a["W"]})
    assert "c was not sent" in tensor_differences(a, {**a, "c": a["b"]})
    assert "float64" in tensor_differences(a, {**a, "b": a["b"].double()})[0]


def test_settings_are_looked_up_near_before_far():
    near, far = {"a": {"x": 1}, "y": None}, {"x": 2, "y": 3}
    assert look((near, far), ("x",)) == 1
    assert look((near, far), ("y",)) == 3
    assert look((near, far), ("z", "x")) == 1
    assert look((near, far), ("z",)) is None


def test_names_and_tokens():
    assert check_repo("user/my-saes") == "user/my-saes"
    for wrong in ("user", "a/b/c", "a/..", "https://x", "a b/c", "user/x.git"):
        with pytest.raises(ValueError, match="owner/name"):
            check_repo(wrong)
    with pytest.raises(ValueError) as caught:
        check_repo("https://u:hf_abcdefghijkl@hub/x")
    assert "abcdefghijkl" not in str(caught.value)
    assert masked("Bearer hf_abcdefghijkl!") == "Bearer hf_…!"
    assert shorten("blocks.9.hook_resid_post") == "blocks.9.hook_resid_post"
