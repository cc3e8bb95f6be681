"""Only a folder's own files leave it, of the kind that their names say, without tokens and home paths."""

import json
import os
import socket
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from safetensors.torch import save_file

from graticule.cli import main
from graticule.hub import push
from graticule.hub.outgoing import has_secret, public, publishable, secret_places
from graticule.hub.remote import LICENCES, check_licence
from graticule.hub.uploads import gather
from graticule.probes.linear.ridge import RidgeProbe

SECRET = "-----BEGIN OPENSSH PRIVATE KEY-----\nnobody may read this\n-----END OPENSSH PRIVATE KEY-----\n"
TOKEN = "hf_" + "aB3" * 11
CFG = {"architecture": "standard", "d_in": 2, "d_sae": 2, "metadata": {"hook_name": "blocks.0.hook_mlp_out"}}
RUN_FILES = ("run.json", "evaluation.json", "history.parquet", "events.json")
SAE_FILES = ("cfg.json", "sae_weights.safetensors", "sparsity.safetensors", "runner_cfg.json")


def run_folder(path: Path) -> Path:
    """A run with all that a push takes from one."""
    sae = path / "sae"
    sae.mkdir(parents=True)
    (sae / "cfg.json").write_text(json.dumps(CFG))
    (sae / "runner_cfg.json").write_text("{}")
    save_file({"W_enc": torch.zeros(2, 2)}, sae / "sae_weights.safetensors")
    save_file({"sparsity": torch.tensor([-10.0, -3.0])}, sae / "sparsity.safetensors")
    (path / "run.json").write_text(json.dumps({"kind": "sae_run", "state": "complete", "tokens": 7}))
    (path / "evaluation.json").write_text(json.dumps({"l0": 1.5}))
    (path / "events.json").write_text(json.dumps({"events": []}))
    pd.DataFrame({"step": [1], "loss": [0.5]}).to_parquet(path / "history.parquet")
    return path


def probe_folder(path: Path) -> Path:
    rng = np.random.default_rng(0)
    RidgeProbe("blocks.0.hook_mlp_out", ("north",)).fit(rng.normal(size=(30, 4)), rng.normal(size=30)).save(
        path
    )
    (path / "verdict.json").write_text("{}")
    return path


def every_file() -> list[tuple[str, str]]:
    run = [*RUN_FILES, *(f"sae/{name}" for name in SAE_FILES)]
    return [("run", n) for n in run] + [
        ("probe", n) for n in ("manifest.json", "probe.safetensors", "verdict.json")
    ]


def made(kind: str, path: Path) -> Path:
    return run_folder(path) if kind == "run" else probe_folder(path)


def refusal(call, *arguments) -> str:
    with pytest.raises(ValueError) as caught:
        call(*arguments)
    words = str(caught.value)
    assert "\n" not in words
    assert "nobody" not in words
    return words


class TestLinks:
    @pytest.mark.parametrize(("kind", "name"), every_file())
    def test_a_link_to_a_private_key_is_refused(self, tmp_path, kind, name):
        key = tmp_path / "id_ed25519"
        key.write_text(SECRET)
        for way in ("absolute", "relative", "inside", "dangling", "hard"):
            folder = made(kind, tmp_path / way)
            file = folder / name
            copy = file.with_name("copy")
            file.rename(copy)
            target = {
                "absolute": key,
                "relative": Path(os.path.relpath(key, file.parent)),
                "inside": Path("copy"),
            }
            if way == "hard":
                file.hardlink_to(key)
            else:
                file.symlink_to(target.get(way, tmp_path / "nowhere"))
            words = refusal(gather, folder)
            assert ("hard links" if way == "hard" else "symbolic link") in words
            assert str(file) in words

    @pytest.mark.parametrize("name", ["sae/cfg.json", "history.parquet", "run.json"])
    @pytest.mark.parametrize("kind", ["a pipe", "a socket", "a folder"])
    def test_what_is_no_file_is_refused_at_once(self, tmp_path, monkeypatch, name, kind):
        folder = run_folder(tmp_path / "run")
        file = folder / name
        file.unlink()
        if kind == "a pipe":
            os.mkfifo(file)
        elif kind == "a folder":
            file.mkdir()
        else:
            monkeypatch.chdir(file.parent)  # a socket's path is short
            with socket.socket(socket.AF_UNIX) as made_here:
                made_here.bind(file.name)
        assert kind in refusal(gather, folder)

    def test_linked_folders_are_refused(self, tmp_path):
        elsewhere = run_folder(tmp_path / "elsewhere")
        run = run_folder(tmp_path / "run")
        (run / "sae").rename(tmp_path / "moved")
        (run / "sae").symlink_to(tmp_path / "moved")
        assert "symbolic link" in refusal(gather, run)
        several = tmp_path / "several"
        several.mkdir()
        run_folder(several / "one")
        (several / "latest").symlink_to(elsewhere)
        assert "symbolic link" in refusal(gather, several)
        named = tmp_path / "by name"  # the folder that was named may be a link: that is what was asked for
        named.symlink_to(elsewhere)
        assert len(gather(named)) == 1

    @pytest.mark.slow
    def test_findings_with_a_link_at_any_depth(self, tmp_path):
        from graticule import sweep
        from graticule.sims.planted import planted

        world = planted(n_rows=300, width=8, n_layers=2)
        found = sweep(world.activations, world.table, baselines=world.baselines, progress=False)
        found.save(tmp_path / "findings")
        assert len(gather(tmp_path / "findings")) == 1
        deep = next(p for p in (tmp_path / "findings").rglob("*.safetensors"))
        deep.rename(tmp_path / "elsewhere")
        deep.symlink_to(tmp_path / "elsewhere")
        assert "symbolic link" in refusal(gather, tmp_path / "findings")


class TestKinds:
    @pytest.mark.parametrize(("kind", "name"), every_file())
    def test_a_file_is_what_its_name_says(self, tmp_path, kind, name):
        folder = made(kind, tmp_path / "it")
        (folder / name).write_text(SECRET)
        assert "damaged" in refusal(gather, folder)

    def test_only_files_with_names_that_are_known_go(self, tmp_path):
        run = run_folder(tmp_path / "run")
        for name in (".env", "id_rsa", "sae/notes.txt", "checkpoint.pt"):
            (run / name).write_text(SECRET)
        (subject,) = gather(run)
        assert set(subject.files) == {*RUN_FILES, *SAE_FILES, "density.png"}
        assert {path.split("/")[0] for path in subject.in_repo} == {"blocks.0.hook_mlp_out"}

    def test_a_history_holds_numbers(self, tmp_path):
        run = run_folder(tmp_path / "run")
        pd.DataFrame({"step": [1], "note": ["words"]}).to_parquet(run / "history.parquet")
        assert "holds numbers" in refusal(gather, run)


class TestSecrets:
    @pytest.mark.parametrize("text", [TOKEN, "/home/ada/thesis", "file:///home/ada/x"])
    @pytest.mark.parametrize("where", ["column", "note", "field"])
    def test_in_a_table(self, tmp_path, text, where):
        field = pa.field(text if where == "column" else "step", pa.int64())
        if where == "field":
            field = field.with_metadata({"made by": text})
        table = pa.table(
            [pa.array([1])], schema=pa.schema([field], {"note": text} if where == "note" else None)
        )
        run = run_folder(tmp_path / "run")
        parquet.write_table(table, run / "history.parquet")
        words = refusal(gather, run)
        assert ("a token" if text == TOKEN else "a place on this machine") in words
        assert TOKEN not in words

    @pytest.mark.parametrize("text", [TOKEN, "/home/ada/thesis"])
    @pytest.mark.parametrize("name", ["sae_weights.safetensors", "sparsity.safetensors"])
    def test_in_tensors(self, tmp_path, text, name):
        run = run_folder(tmp_path / "run")
        save_file({"sparsity": torch.zeros(2)}, run / "sae" / name, {"made from": text})
        assert "names or notes" in refusal(gather, run)
        save_file({"sparsity": torch.zeros(2), text: torch.zeros(1)}, run / "sae" / name)
        assert "names or notes" in refusal(gather, run)

    @pytest.mark.parametrize("name", ["sae/cfg.json", "sae/runner_cfg.json", *RUN_FILES[:2], "events.json"])
    def test_in_json_it_is_cut_out_and_told(self, tmp_path, name, caplog):
        run = run_folder(tmp_path / "run")
        there = json.loads((run / name).read_text())
        given = {"token": "opaque-word", "tokens": 5, "bos_token": "<s>", "use_auth_token": True}
        more = {"model_from_pretrained_kwargs": given, "events": [f"Bearer {TOKEN}"], TOKEN: 1}
        (run / name).write_text(json.dumps({**there, **more}))
        (subject,) = gather(run)
        sent = json.loads(subject.files[Path(name).name])
        assert sent["model_from_pretrained_kwargs"] == {**given, "token": "…"}
        assert TOKEN not in json.dumps(sent)
        assert {k: sent[k] for k in there if k != "events"} == {k: there[k] for k in there if k != "events"}
        assert "model_from_pretrained_kwargs.token" in caplog.text
        assert TOKEN not in caplog.text

    @pytest.mark.parametrize(
        "text",
        [
            TOKEN,
            "github_pat_" + "a1" * 15,
            "ghp_" + "a1" * 18,
            "sk-" + "a1" * 12,
            "AKIAABCDEFGHIJKLMNOP",
            "https://ada:pass@host/x",
            SECRET,
            "eyJhbGciOiJI.eyJzdWIiOiIx.abc",
        ],
    )
    def test_kinds_of_tokens(self, text):
        assert has_secret(text)
        cut = public({"a": [f"x {text} y"], text: 1})
        assert not has_secret(json.dumps(cut))

    @pytest.mark.parametrize(
        "name",
        ["wandb_key", "key", "my.token", "deploy-secret", "pat", "api_keys", "wandb_login", "password"],
    )
    def test_what_stands_under_the_name_of_a_key_is_cut(self, name):
        key = "0123456789abcdef0123456789abcdef01234567"
        for value in (key, [key]):
            settings = {"a": {name: value, "steps": 3}}
            assert key not in json.dumps(public(settings))
            assert list(secret_places(settings)) == [f"a.{name}"]
        assert key not in str(public(f"WANDB_API_KEY={key}"))
        assert key not in str(public(f"wandb: {key}"))

    def test_digests_and_ordinary_words_under_such_names_stay(self):
        settings = {
            "sha256": "0123456789abcdef" * 4,
            "commit": "0123456789abcdef0123456789abcdef01234567",
            "eos_token": "<|end_of_text|>",
            "key": "blocks.12.hook_resid_post",
            "tokens": 20_000,
            "wandb_project": "saes-of-2026-in-gemma-3-270m",
        }
        assert public(settings) == settings

    @pytest.mark.parametrize(
        "text",
        ["hf_hook_name", "blocks.9.hook_resid_post", "owner/name", "https://huggingface.co/a/b",
         "risk-free-rate-of-return",
         "1/2 and/or km/h", "s3://bucket/data/x", "gpt2", "sk-learn", "2020/01/02"],
    )  # fmt: skip
    def test_words_that_only_look_alike_stay(self, text):
        assert public({text: [text]}) == {text: [text]}

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("file:///home/ada/news.txt", "news.txt"),
            ("file:///home/ada/my%20news.txt", "my news.txt"),
            ("NAME=/home/ada/news.txt", "NAME=news.txt"),
            ("--corpus /home/ada/a.txt --out=/scratch/ada/run", "--corpus a.txt --out=run"),
            ("/home/ada/a:/home/ada/b", "a:b"),
            ("a,/home/ada/b,c", "a,b,c"),
            ("read '/home/ada lovelace/x.txt'", "read 'x.txt'"),
            ("/home/ada", "~"),
            ("as /Users/ada/", "as ~"),
            ("C:\\Users\\ada\\out", "out"),
            ("x=C:\\Users\\ada\\out", "x=out"),
            ("\\\\server\\ada\\out", "out"),
            ("~ada/out", "out"),
            ("sqlite:////home/ada/runs.db", "runs.db"),
            ("blocks at /mnt/disk/ada/x, then", "blocks at x, then"),
        ],
    )
    def test_places_are_cut_wherever_they_stand(self, text, expected):
        assert public(text) == expected
        assert public([{"a": (text, 1)}]) == [{"a": [expected, 1]}]
        assert public({text: 0}) == {expected: 0}

    def test_keys_that_would_become_one_are_both_there(self):
        assert public({"/home/ada/x": 1, "/home/eve/x": 2}) == {"x": 1, "x (2)": 2}

    def test_a_file_without_any_goes_as_it_is(self, tmp_path):
        run = run_folder(tmp_path / "run")
        (subject,) = gather(run)
        assert subject.files["history.parquet"] == run / "history.parquet"
        assert publishable(run / "run.json") == run / "run.json"


class TestWords:
    @pytest.mark.parametrize("name", ["repo", "sae_id", "revision", "licence", "base_model"])
    def test_a_token_is_no_argument_and_is_not_echoed(self, tmp_path, name, capsys):
        option = {"repo": "--repo", "licence": "--license"}.get(name, f"--{name.replace('_', '-')}")
        for value in (TOKEN, f"{TOKEN}/x", f"user/{TOKEN}"):
            given = {"--repo": "user/x", option: value}
            code = main(["push", str(tmp_path), *(w for pair in given.items() for w in pair), "--dry-run"])
            err = capsys.readouterr().err
            assert code == 2
            assert "hf auth login" in err
            assert TOKEN not in err
            assert len(err.strip().splitlines()) == 1

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"licence": "foo"}, "identifiers"),
            ({"licence": "MIT"}, "did you mean mit"),
            ({"licence": "apache2"}, "apache-2.0"),
            ({"revision": '"); import os; ("'}, "branch"),
            ({"revision": "../main"}, "branch"),
            ({"revision": ""}, "branch"),
            ({"base_model": "[x](javascript:alert(1))"}, "id on the Hub"),
            ({"base_model": "a/b/c"}, "id on the Hub"),
            ({"sae_id": "README.md"}, "card"),
            ({"sae_id": "readme.md/x"}, "card"),
            ({"sae_id": "x" * 300}, "longer than"),
        ],
    )  # fmt: skip
    def test_refused_before_anything_is_read(self, tmp_path, given, words):
        run = probe_folder(tmp_path / "probe")
        with pytest.raises(ValueError, match=words) as caught:
            push(run, "user/x", dry_run=True, **given)
        assert len(str(caught.value)) < 300

    def test_licences(self):
        assert len(LICENCES) == 83  # lines of the Hub's documented list
        assert {"openrail++", "lppl-1.3c", "openmdw-1.1", "apple-amlr", "grok2-community"} <= LICENCES
        assert check_licence("cc-by-nc-sa-4.0") == "cc-by-nc-sa-4.0"
        assert all(check_licence(name) == name for name in LICENCES)


def test_a_push_writes_nothing_here(tmp_path, monkeypatch):
    """No temporary folder that a kill would leave behind: not for a folder, a probe, nor several."""
    folder = probe_folder(tmp_path / "probe")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    scratch.chmod(0o500)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = push({"a": RidgeProbe.load(folder), "b": folder}, "user/x", dry_run=True)
        assert repr(done).startswith("Push: a, b to user/x (main), ") and "dry run" in repr(done)
    assert {path for path, _ in done.files} >= {"a/probe.safetensors", "b/verdict.json"}
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_damaged_folders_are_refused_in_one_line(tmp_path, capsys):
    """Every key of every file taken out, or of another kind: `report` and `push` name the folder."""
    from graticule import sweep
    from graticule.sims.planted import planted

    world = planted(n_rows=300, width=8, n_layers=1)
    saved = tmp_path / "findings"
    sweep(world.activations, world.table, baselines=world.baselines, progress=False).save(saved)
    run = run_folder(tmp_path / "run")
    tried = refused = 0
    for folder in (saved, run):
        for file in sorted(folder.rglob("*.json")):
            whole = file.read_text()
            for key in json.loads(whole):
                for value in ("absent", [1]):
                    words = json.loads(whole)
                    if value == "absent":
                        del words[key]
                    else:
                        words[key] = value
                    file.write_text(json.dumps(words))
                    code = main(["push", str(folder), "--repo", "user/x", "--dry-run"])
                    if code and folder == saved:
                        assert main(["report", str(folder)]) in (0, 2)
                    said = capsys.readouterr().err.strip()
                    tried, refused = tried + 1, refused + (code == 2)
                    if code:
                        assert code == 2
                        for line in said.splitlines():
                            named = any(
                                n in line for n in (str(folder), "blocks.0.hook", "sae_id=", "SAELens cannot")
                            )
                            assert named, (file, key, value, said)
            file.write_text(whole)
    assert tried > 40
    assert refused > 20


def test_folders_that_hold_nothing_are_told(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "manifest.json").write_text('{"kind": ["findings"]}')
    for name in ("empty", "file", "odd", "nowhere"):
        for command in (["report"], ["push", "--repo", "user/x", "--dry-run"]):
            assert main([*command, str(tmp_path / name)]) == 2
            said = capsys.readouterr().err
            assert str(tmp_path / name) in said
            assert len(said.strip().splitlines()) == 1
            assert "Error" not in said
