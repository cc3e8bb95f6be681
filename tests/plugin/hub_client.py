"""What a user does with `graticule push`, step by step, in a process whose Hub is the test server.

`python hub_client.py FOLDER`: makes SAEs and a probe with their own save functions, runs the command line and
`graticule.hub.push` in this process, and writes `FOLDER/told.json`: for every step what was printed and how
the server stood after it. Nothing here judges; the tests do.
"""

import contextlib
import io
import json
import os
import signal
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import torch
from sae_lens import (
    SAE,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from safetensors.torch import save_file

from graticule import RidgeProbe
from graticule.cli import main
from graticule.hub import push

ENDPOINT = os.environ["HF_ENDPOINT"]
FOLDER = Path(sys.argv[1])
TOLD: dict[str, dict] = {}
HOOK, OTHER = "blocks.3.hook_resid_post", "blocks.7.hook_mlp_out"


def server(faults: dict | None = None) -> dict:
    data = None if faults is None else json.dumps(faults).encode()
    with urllib.request.urlopen(f"{ENDPOINT}/_test/state", data) as answer:
        return json.load(answer)


def step(name: str, *arguments: str, faults: dict | None = None, call=None) -> None:
    """Run one command (or `call`), and keep what it said and how the server stands."""
    before = len(server(faults or {})["requests"])
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([*arguments]) if call is None else call() and 0
        except Exception as error:
            code, _ = type(error).__name__, err.write(str(error))
    state = server({})
    TOLD[name] = {
        "code": code,
        "out": out.getvalue(),
        "err": err.getvalue(),
        "repos": state["repos"],
        "requests": [tuple(r) for r in state["requests"][before:]],
    }


def killed(*arguments: str) -> None:
    """The same command in a child that is killed while it uploads."""
    server({"put": "hold"})
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            main([*arguments])
        os._exit(0)
    end = time.monotonic() + 120
    held = False
    try:
        while not held and time.monotonic() < end:
            time.sleep(0.02)
            held = server()["held"]
    finally:  # a child left behind would hold this process's output open
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    state = server({})
    TOLD["killed"] = {"code": status, "held": held, "repos": state["repos"]}


def together(repo: str, *commands: list[str]) -> None:
    """Several commands at the same time, each in a child of its own."""
    server({})
    children = {}
    for k, arguments in enumerate(commands):
        child = os.fork()
        if child == 0:
            code = 99
            with (
                contextlib.suppress(BaseException),
                open(FOLDER / f"{k}.err", "w") as err,
                contextlib.redirect_stderr(err),
                contextlib.redirect_stdout(err),
            ):
                code = main(arguments)
            os._exit(code)
        children[child] = k
    codes = [0] * len(commands)
    for child, k in children.items():
        codes[k] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = [(FOLDER / f"{k}.err").read_text() for k in range(len(commands))]
    TOLD[f"together, {repo}"] = {"codes": codes, "said": said, "repos": server({})["repos"]}


def metadata(hook: str) -> dict:
    return {"model_name": "gpt2-small", "hook_name": hook, "dataset_path": str(FOLDER / "news.txt"),
            "context_size": 32, "prepend_bos": True}  # fmt: skip


def make() -> None:
    """Two SAEs by SAELens's own save functions, one of them as a run; a probe."""
    torch.manual_seed(0)
    sizes = {"d_in": 16, "d_sae": 64}
    topk = TopKTrainingSAE(TopKTrainingSAEConfig(k=4, **sizes))
    standard = StandardTrainingSAE(StandardTrainingSAEConfig(**sizes))
    for sae, hook in ((topk, "blocks.3.hook_resid_post"), (standard, "blocks.7.hook_mlp_out")):
        for key, value in metadata(hook).items():
            setattr(sae.cfg.metadata, key, value)
    run = FOLDER / "run"
    topk.save_inference_model(run / "sae")
    save_file({"sparsity": torch.linspace(-10, 0, 64)}, run / "sae" / "sparsity.safetensors")
    (run / "evaluation.json").write_text(json.dumps({"l0": 4.0, "explained_variance": 0.75, "n_rows": 500}))
    (run / "run.json").write_text(json.dumps({"kind": "sae_run", "state": "complete", "tokens": 4096}))
    standard.save_inference_model(FOLDER / "plain")
    wide = TopKTrainingSAE(TopKTrainingSAEConfig(k=4, d_in=16, d_sae=128))
    wide.cfg.metadata.hook_name = "blocks.3.hook_resid_post"
    wide.save_inference_model(FOLDER / "wide")
    (FOLDER / "plain" / "trainer_state.pt").write_bytes(b"a pickle is not published")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 8))
    probe = RidgeProbe("blocks.3.hook_resid_post", ("north", "east")).fit(
        x, x[:, :2] + rng.normal(size=(60, 2))
    )
    probe.save_pretrained(FOLDER / "probe")


def loads(repo: str, name: str) -> bool:
    """Whether plain SAELens gives the SAE that was saved, bit by bit."""
    here = SAE.load_from_disk(FOLDER / "run" / "sae").state_dict()
    try:
        there = SAE.from_pretrained(repo, name, device="cpu").state_dict()
    except OSError:
        return False
    return all(torch.equal(here[key], there[key]) for key in here) and set(here) == set(there)


def go() -> None:
    run, plain = str(FOLDER / "run"), str(FOLDER / "plain")
    to = ("push", run, "--repo")
    step("dry run", *to, "user/a", "--license", "mit", "--dry-run")
    step("token", *to, "user/a", "--token", os.environ["HF_TOKEN"])
    step("token in repo", *to, f"https://user:{os.environ['HF_TOKEN']}@hub/user/a")
    step("new", *to, "user/a", "--license", "mit", "-v")
    TOLD["new"]["loads"] = loads("user/a", "blocks.3.hook_resid_post")
    step("again", *to, "user/a")
    step("another", "push", plain, "--repo", "user/a")
    step("probe", "push", str(FOLDER / "probe"), "--repo", "user/a", "--sae-id", "probes/place")
    with contextlib.suppress(OSError):
        there = RidgeProbe.from_pretrained("user/a", "probes/place")
        TOLD["probe"]["equal"] = bool((there.coef == RidgeProbe.load(FOLDER / "probe").coef).all())
    step("branch", *to, "user/a", "--revision", "v2", "--sae-id", "second")
    step("private", *to, "user/b", "--private")
    step("private again", "push", plain, "--repo", "user/b")
    step("public cannot be hidden", *to, "user/a", "--private")
    step("denied", *to, "other/a")
    step("another SAE in its place", "push", str(FOLDER / "wide"), "--repo", "user/a")
    step("replaced", "push", str(FOLDER / "wide"), "--repo", "user/b", "--sae-id", "blocks.3.hook_resid_post")
    owner = os.environ["HF_TOKEN"]
    os.environ["HF_TOKEN"] = os.environ["READER_TOKEN"]
    step("read-only token", *to, "user/a", "--sae-id", "mine")
    os.environ.pop("HF_TOKEN")
    step("no login", *to, "user/a")
    os.environ["HF_TOKEN"] = owner
    step("refused upload", *to, "user/c", faults={"put": "refuse"})
    step("refused upload, again", *to, "user/c")
    step("dropped once", *to, "user/d", faults={"put": "drop once"})
    step("race", "push", plain, "--repo", "user/d", faults={"race": "main"})
    step("corrupt", *to, "user/e", faults={"corrupt": "large"})
    step("corrupt, again", *to, "user/e")
    step("left alone", *to, "user/h", faults={"corrupt": "large"})
    step("beside what is unchecked", "push", plain, "--repo", "user/h")
    step("corrupt in public", "push", plain, "--repo", "user/e", faults={"corrupt": "cfg.json"})
    killed(*to, "user/f")
    step("killed, again", *to, "user/f")
    for repo in ("user/i", "user/j", "user/k"):
        together(repo, ["push", run, "--repo", repo], ["push", run, "--repo", repo])
        step(f"together, again, {repo}", "push", run, "--repo", repo)
    together("user/l", ["push", run, "--repo", "user/l"], ["push", plain, "--repo", "user/l"])
    step("together, again, user/l", call=lambda: push({HOOK: run, OTHER: plain}, "user/l"))
    step("call", call=lambda: push({"x": run, "y": plain}, "user/g", base_model="openai-community/gpt2"))


if __name__ == "__main__":
    make()
    go()
    (FOLDER / "told.json").write_text(json.dumps(TOLD))
