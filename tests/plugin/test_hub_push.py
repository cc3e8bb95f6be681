"""Pushes against a Hub on loopback, by the real clients of huggingface_hub and SAELens.

The endpoint is read when huggingface_hub is imported, so that the clients are processes of their own
(`hub_client.py`); one of them does all steps that can share a process. What is judged here is what they said
and how the server stood after each step.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .hub_server import OWNER, READER, HubServer

pytestmark = pytest.mark.slow

CLIENT = Path(__file__).with_name("hub_client.py")
HOOK = "blocks.3.hook_resid_post"
MARK = "graticule-unfinished-push"
RUN = {
    "cfg.json",
    "density.png",
    "evaluation.json",
    "run.json",
    "sae_weights.safetensors",
    "sparsity.safetensors",
}

PLAIN = {"cfg.json", "sae_weights.safetensors"}


def environment(endpoint: str, home: Path, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_TOKEN": OWNER,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "OMP_NUM_THREADS": "1",
        **more,
    }


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Every step of `hub_client.py`, and its folder under `folder`."""
    folder = tmp_path_factory.mktemp("hub")
    with HubServer() as hub:
        env = environment(hub.endpoint, folder / "home", READER_TOKEN=READER)
        done = subprocess.run(
            [sys.executable, str(CLIENT), str(folder)], env=env, capture_output=True, text=True, timeout=600
        )
    assert done.returncode == 0, done.stderr[-3000:]
    steps = json.loads((folder / "told.json").read_text())
    return {**steps, "all": {"out": done.stdout + done.stderr, "folder": folder}}


def ok(step: dict) -> dict:
    assert step["code"] == 0, step["err"]
    return step


def paths(step: dict, method: str) -> list[str]:
    return [path for m, path, _ in step["requests"] if m == method]


def under(files: list[str], name: str) -> set[str]:
    return {file.removeprefix(f"{name}/") for file in files if file.startswith(f"{name}/")}


class TestNewRepository:
    def test_private_one_commit_read_back_then_public(self, told):
        step = ok(told["new"])
        repo = step["repos"]["user/a"]
        assert not repo["private"]
        assert repo["messages"] == ["initial commit", f"Add {HOOK}"]
        assert set(repo["branches"]) == {"main"}  # the mark is gone
        assert under(repo["files"]["main"], HOOK) == RUN
        assert "pushed and read back" in step["out"]
        assert all(f"{HOOK}/{name}" in step["out"] for name in RUN)  # what went out is listed
        assert "public" in step["out"]

    def test_in_that_order(self, told):
        """Made, one commit, every file fetched at that commit, SAELens on main, and only then opened."""
        step = told["new"]
        order = [(m, p) for m, p, _ in step["requests"]]
        commit = step["repos"]["user/a"]["branches"]["main"]
        made, sent, opened = (
            order.index(("POST", "/api/repos/create")),
            order.index(("POST", "/api/models/user/a/commit/main")),
            order.index(("PUT", "/api/models/user/a/settings")),
        )
        assert [p for p in paths(step, "POST") if "/commit/" in p] == ["/api/models/user/a/commit/main"]
        fetched = [i for i, (m, p) in enumerate(order) if m == "HEAD" and f"/resolve/{commit}/" in p]
        on_main = [i for i, (m, p) in enumerate(order) if "/resolve/main/" in p]
        assert len(fetched) == len(RUN) + 1
        assert on_main
        assert made < sent < min(fetched) <= max(fetched) < min(on_main) <= max(on_main) < opened

    def test_plain_saelens_loads_it_bit_by_bit(self, told):
        assert told["new"]["loads"] is True

    def test_the_card_is_the_one_of_the_dry_run(self, told):
        out = told["dry run"]["out"]
        assert "base_model:\n- gpt2" in out
        assert 'SAE.from_pretrained("user/a", "blocks.3.hook_resid_post")' in out
        assert "## blocks.3.hook_resid_post" in out
        assert str(told["all"]["folder"]) not in out  # news.txt, not where it lies

    def test_dry_run_touches_nothing(self, told):
        step = ok(told["dry run"])
        assert step["requests"] == []
        assert step["repos"] == {}
        for name in (*RUN, "README.md"):
            assert name in step["out"]

    def test_several_at_once_are_one_commit(self, told):
        repo = ok(told["call"])["repos"]["user/g"]
        assert len(repo["messages"]) == 2
        assert under(repo["files"]["main"], "x") == RUN
        assert under(repo["files"]["main"], "y") == {"cfg.json", "sae_weights.safetensors"}


class TestAgain:
    def test_nothing_changed_is_no_commit_and_said(self, told):
        step = ok(told["again"])
        assert "nothing has changed" in step["out"]
        assert len(step["repos"]["user/a"]["messages"]) == 2
        assert paths(step, "PUT") == []
        assert any("/resolve/" in p for p in paths(step, "HEAD"))  # and it is read back all the same

    def test_another_goes_beside_it(self, told):
        step = ok(told["another"])
        files = step["repos"]["user/a"]["files"]["main"]
        assert under(files, HOOK) == RUN
        assert under(files, "blocks.7.hook_mlp_out") == {"cfg.json", "sae_weights.safetensors"}
        assert not any("trainer_state" in file for file in files)
        assert not step["repos"]["user/a"]["private"]

    def test_a_probe_too(self, told):
        step = ok(told["probe"])
        files = step["repos"]["user/a"]["files"]["main"]
        assert under(files, "probes/place") == {"manifest.json", "probe.safetensors"}
        assert step["equal"] is True

    def test_a_branch_leaves_main_as_it_was(self, told):
        before, after = told["probe"]["repos"]["user/a"], ok(told["branch"])["repos"]["user/a"]
        assert after["branches"]["main"] == before["branches"]["main"]
        assert under(after["files"]["v2"], "second") == RUN
        assert not any("/resolve/main/" in p for p in paths(told["branch"], "HEAD"))

    def test_another_sae_does_not_take_an_unchosen_place(self, told):
        step = told["another SAE in its place"]
        assert step["code"] == 2
        assert "d_sae 64, here 128" in step["err"]
        assert paths(step, "POST") == []

    def test_chosen_it_does_and_what_is_stale_goes(self, told):
        step = ok(told["replaced"])
        files = step["repos"]["user/b"]["files"]["main"]
        assert under(files, HOOK) == {"cfg.json", "sae_weights.safetensors"}  # no plot of the earlier SAE
        assert f"replaced what {HOOK} held" in step["out"]


class TestVisibility:
    def test_private_stays_private(self, told):
        step = ok(told["private"])
        assert step["repos"]["user/b"]["private"]
        assert not step["repos"]["user/b"]["was_public"]
        assert MARK not in step["repos"]["user/b"]["branches"]

    def test_a_private_repository_is_not_opened_by_a_later_push(self, told):
        step = ok(told["private again"])
        assert not step["repos"]["user/b"]["was_public"]
        assert "stays so" in step["err"]

    def test_what_is_public_cannot_be_hidden(self, told):
        step = told["public cannot be hidden"]
        assert step["code"] == 2
        assert "is public" in step["err"]
        assert paths(step, "POST") == paths(step, "PUT") == []


class TestDenied:
    @pytest.mark.parametrize("name", ["denied", "read-only token", "no login"])
    def test_at_once_and_nothing_is_sent(self, told, name):
        step, before = told[name], told["branch"]["repos"]["user/a"]
        assert step["code"] == 2
        requests = [tuple(r) for r in step["requests"]]
        assert len(requests) == len(set(requests)) < 10  # nothing was tried again
        assert "other/a" not in step["repos"]
        assert step["repos"]["user/a"] == before
        assert paths(step, "PUT") == []
        assert ("not logged in" if name == "no login" else "denies it to this login (403") in step["err"]
        assert len(step["err"].strip().splitlines()) == 1

    def test_tokens_are_not_taken_from_a_command_line(self, told):
        assert told["token"]["code"] == told["token in repo"]["code"] == 2
        assert "No such option" in told["token"]["err"]
        assert told["token"]["requests"] == told["token in repo"]["requests"] == []

    def test_tokens_are_not_told(self, told):
        """Not in what any step printed (one of them with --verbose), nor on the server's pages."""
        said = json.dumps({k: {**v, "folder": ""} for k, v in told.items()})
        assert "verbose" not in OWNER
        for token in (OWNER, READER):
            assert token not in said
        files = [p for p in told["all"]["folder"].rglob("*") if p.is_file()]
        assert len(files) > 20
        assert not any(OWNER.encode() in p.read_bytes() for p in files)


class TestInterrupted:
    @pytest.mark.parametrize(("first", "repo"), [("refused upload", "user/c"), ("killed", "user/f")])
    def test_nothing_is_public_and_the_same_command_finishes(self, told, first, repo):
        broken, again = told[first], ok(told[f"{first}, again"])
        assert broken["code"] != 0
        assert broken["repos"][repo]["private"]
        assert broken["repos"][repo]["messages"] == ["initial commit"]
        assert not again["repos"][repo]["private"]
        assert again["repos"][repo]["messages"] == ["initial commit", f"Add {HOOK}"]
        assert set(again["repos"][repo]["branches"]) == {"main"}

    def test_it_was_killed_in_the_middle_of_an_upload(self, told):
        assert told["killed"]["held"]
        assert told["killed"]["code"] == 9

    def test_the_message_says_how_it_stands(self, told):
        assert "user/c is private and empty" in told["refused upload"]["err"]
        assert "run the same command again" in told["refused upload"]["err"]

    def test_a_dropped_connection_is_tried_again(self, told):
        assert not ok(told["dropped once"])["repos"]["user/d"]["private"]

    def test_somebody_else_was_faster(self, told):
        step = told["race"]
        assert step["code"] == 2
        assert "changed meanwhile" in step["err"]
        assert step["repos"]["user/d"]["messages"][-1] == "somebody else"


class TestTogether:
    @pytest.mark.parametrize("repo", ["user/i", "user/j", "user/k", "user/l"])
    def test_two_pushes_at_once_leave_a_whole_repository(self, told, repo):
        """One wins; the other wins too or says in one line that somebody was faster, and can be run again."""
        step, again = told[f"together, {repo}"], ok(told[f"together, again, {repo}"])
        assert 0 in step["codes"], step["said"]
        for code, said in zip(step["codes"], step["said"], strict=True):
            assert code in (0, 2)
            lost = [line for line in said.splitlines() if line.startswith("graticule:")]
            assert len(lost) == (code == 2)
            assert code == 0 or "run the same command again" in lost[0], lost
        stands = again["repos"][repo]
        assert not stands["private"]
        assert set(stands["branches"]) == {"main"}
        assert under(stands["files"]["main"], HOOK) == RUN
        if repo == "user/l":
            assert under(stands["files"]["main"], "blocks.7.hook_mlp_out") == PLAIN


class TestReadBack:
    def test_what_comes_back_wrong_stays_private(self, told):
        step = told["corrupt"]
        assert step["code"] == 2
        assert "user/e does not give back what was sent" in step["err"]
        assert "b_enc differs in 1 of 64 values" in step["err"]
        assert "stays private" in step["err"]
        assert step["repos"]["user/e"]["private"]
        assert not step["repos"]["user/e"]["was_public"]

    def test_once_right_it_is_opened(self, told):
        step = ok(told["corrupt, again"])
        assert "nothing has changed" in step["out"]
        assert not step["repos"]["user/e"]["private"]

    def test_a_public_repository_is_put_back(self, told):
        before, step = told["corrupt, again"]["repos"]["user/e"], told["corrupt in public"]
        assert step["code"] == 2
        assert "taken back" in step["err"]
        after = step["repos"]["user/e"]
        assert after["files"] == before["files"]
        assert after["contents"] == before["contents"]
        assert len(after["messages"]) == len(before["messages"]) + 2

    def test_what_was_never_checked_is_not_opened_by_the_next_push(self, told):
        assert told["left alone"]["repos"]["user/h"]["private"]
        step = ok(told["beside what is unchecked"])
        assert step["repos"]["user/h"]["private"]
        assert not step["repos"]["user/h"]["was_public"]
        assert "another push that was not finished" in step["err"]


class TestOffline:
    @pytest.mark.parametrize(
        ("more", "words"),
        [
            ({"HF_HUB_OFFLINE": "1"}, "switched off (HF_HUB_OFFLINE)"),
            ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "http://127.0.0.1:9 cannot be reached"),
        ],
    )
    def test_said_at_once(self, told, tmp_path, more, words):
        """No model library is loaded and nothing is tried again and again: the first request says it."""
        lines = (
            "import sys; from graticule.cli import main;"
            "code = main(['push', sys.argv[1], '--repo', 'user/a']);"
            "print(code, 'sae_lens' in sys.modules)"
        )
        env = environment("http://127.0.0.1:9", tmp_path, **more)
        run = str(told["all"]["folder"] / "run")
        done = subprocess.run(
            [sys.executable, "-c", lines, run], env=env, capture_output=True, text=True, timeout=600
        )
        assert done.stdout.split() == ["2", "False"], done.stderr
        assert words in done.stderr
        assert "Traceback" not in done.stderr
        assert "Retrying" not in done.stderr
