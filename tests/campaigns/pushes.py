"""SIGKILL at every file-system call and around every HTTP request of a push, then the same push again.

    python tests/campaigns/pushes.py [--only public] [--every 5] [--points 8]

The Hub is the tests' own, on loopback. Required of every kill: what everybody may see is whole, before the
same push goes on and after it; the push goes on without an error; the repository is then what an undisturbed
push leaves, branches and visibility too; and so is this machine, the Hub's cache included. What a killed
download leaves in that cache under a name drawn for it is huggingface_hub's own and is counted apart.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))
sys.path.append(str(TESTS / "plugin"))  # behind the conftest.py of all tests

from hub_server import OWNER, HubServer

PLACE = Path(tempfile.mkdtemp())
ROOT = PLACE / "root"
HUB = HubServer()
os.environ.update(
    HF_ENDPOINT=HUB.endpoint,
    HF_HOME=str(ROOT / "home"),
    HF_TOKEN=OWNER,
    HF_HUB_OFFLINE="0",
    HF_HUB_DISABLE_XET="1",
    HF_HUB_DISABLE_TELEMETRY="1",
)  # huggingface_hub reads them when it is imported

import numpy as np
import torch
from campaigns.killing import in_child
from campaigns.kills import Tally
from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig

from graticule.hub import push
from graticule.hub.remote import UNFINISHED

REPO = "user/pushed"
UNMARKED = "was private and stays so"


@dataclass(frozen=True)
class Scenario:
    """One push."""

    name: str
    work: Callable[[], Any]
    before: Callable[[], Any] | None = None
    """What the repository held before it; without it there was none."""


def scenarios() -> tuple[Scenario, ...]:
    """A new repository, public and private; into a public one another SAE in its place, and a branch."""
    run, wide = PLACE / "run", PLACE / "wide"
    hook = "blocks.3.hook_resid_post"

    def first() -> None:
        push({hook: run}, REPO)

    return (
        Scenario("public", first),
        Scenario("private", lambda: push({hook: run}, REPO, private=True)),
        Scenario("replaced", lambda: push({hook: wide}, REPO), first),
        Scenario("branch", lambda: push({hook: wide}, REPO, revision="v2"), first),
    )


def make() -> None:
    """A run and a SAE."""
    torch.manual_seed(0)
    for name, d_sae in (("run/sae", 16), ("wide", 32)):
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(k=2, d_in=8, d_sae=d_sae))
        sae.cfg.metadata.hook_name = "blocks.3.hook_resid_post"
        sae.save_inference_model(PLACE / name)
    (PLACE / "run" / "run.json").write_text('{"kind": "sae_run", "state": "complete", "tokens": 4096}')


def on_hub() -> dict[str, Any]:
    """The repository: visibility, branches, what they hold."""
    repo = HUB.state()["repos"].get(REPO, {})
    return {what: repo[what] for what in ("private", "branches", "contents", "messages") if repo}


def on_disk() -> dict[str, Any]:
    """Every file that a push leaves on this machine, or reads, with its content; locks have none."""
    files = sorted(f for f in PLACE.rglob("*") if f.is_file() and f.suffix != ".lock" and not is_the_hubs(f))
    return {str(file.relative_to(PLACE)): file.read_bytes() for file in files}


def is_the_hubs(file: Path) -> bool:
    """Whether huggingface_hub drew a name for the file, and leaves it in its cache when it is killed."""
    reference = re.fullmatch(r".+\.[0-9a-f]{8}\.tmp", file.name) and file.parent.name == "refs"
    return bool(reference) or file.suffix == ".incomplete" or file.name.startswith(("dummy_file_", "tmp_"))


def begin(scenario: Scenario) -> None:
    """The machine and the Hub as they are before the push."""
    shutil.rmtree(ROOT, ignore_errors=True)
    ROOT.mkdir()
    HUB.repos.clear()
    if scenario.before is not None:
        succeed(scenario.before)


def at_home(work: Callable[[], Any]) -> Callable[[], Any]:
    """The same with temporary files where they are seen."""

    def at_place() -> None:
        tempfile.tempdir = str(ROOT)
        work()

    return at_place


def succeed(work: Callable[[], Any]) -> int:
    """Do it; how many points it has. **Raises** `RuntimeError` if it fails."""
    outcome = in_child(at_home(work), ROOT)
    if outcome.error or outcome.killed:
        raise RuntimeError(outcome.error or "died")
    return outcome.points


def with_warning(work: Callable[[], Any]) -> None:
    """Do it and demand that it says that the repository stays private."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("graticule").addHandler(handler)
    work()
    if not any(UNMARKED in line for line in lines):
        raise RuntimeError(f"nothing said that {REPO} stays private")


def is_unmarked(state: dict[str, Any]) -> bool:
    """Whether a kill came between making a private repository and marking it as a push's.

    Such a one is like a repository that its owner has made private, and stays so.
    """
    return (
        bool(state) and state["private"] and [*state["branches"]] == ["main"] and len(state["messages"]) == 1
    )


def whole(state: dict[str, Any], *wanted: dict[str, Any]) -> bool:
    """Whether nobody but its owner sees the repository, or every branch but the mark is one that is whole."""
    branches = [files for one in wanted for files in one.get("contents", {}).values()]
    there = [files for branch, files in state.get("contents", {}).items() if branch != UNFINISHED]
    return not state or state["private"] or all(files in branches for files in there)


def campaign(scenario: Scenario, every: int = 1, most: int | None = None) -> tuple[Tally, int]:
    """Kill the push at every `every`-th point, or at `most` of them with the last, and push again.

    Also returns after how many kills the Hub's cache keeps something of a killed download.
    """
    begin(scenario)
    before = on_hub()
    points = succeed(scenario.work)
    hub, disk = on_hub(), on_disk()
    chosen = np.arange(points - 1, -1, -every)[::-1]
    if most is not None:
        chosen = np.unique(np.linspace(0, points - 1, most).round().astype(int))
    tally, partial = Tally(), 0
    for fatal in chosen.tolist():
        begin(scenario)
        if not in_child(at_home(scenario.work), ROOT, fatal).killed:
            continue
        tally.kills += 1
        left = on_hub()
        _count(tally, "lost", not whole(left, before, hub), scenario, fatal, left)
        unmarked = scenario.name == "public" and is_unmarked(left)
        work = (lambda: with_warning(scenario.work)) if unmarked else scenario.work
        again = in_child(at_home(work), ROOT, watch=False)
        _count(tally, "stuck", again.error or again.killed, scenario, fatal, again.error)
        if again.error or again.killed:
            continue
        wanted = hub | {"private": hub["private"] or unmarked}
        differing = {what: now for what, now in on_hub().items() if now != wanted[what]}
        _count(tally, "other", differing, scenario, fatal, differing)
        partial += any(map(is_the_hubs, ROOT.rglob("*")))
        here = on_disk()
        surplus = [name for name in sorted({*disk, *here}) if disk.get(name) != here.get(name)]
        _count(tally, "left", surplus, scenario, fatal, surplus)
    return tally, partial


def _count(tally: Tally, what: str, bad: Any, scenario: Scenario, fatal: int, detail: Any) -> None:
    if bad:
        setattr(tally, what, getattr(tally, what) + 1)
        print(f"    push, {scenario.name} at {fatal}: {what}: {str(detail)[:1000]}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="names of scenarios, comma-separated")
    parser.add_argument("--every", type=int, default=1, help="every how many points")
    parser.add_argument("--points", type=int, help="at most so many kills of each")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    wanted = [name for name in given.only.split(",") if name]
    bad = 0
    try:
        make()
        push(PLACE / "run", REPO, dry_run=True)  # everything is imported before the first fork
        with HUB:
            for scenario in scenarios():
                if wanted and scenario.name not in wanted:
                    continue
                tally, partial = campaign(scenario, given.every, given.points)
                bad += not tally.clean
                print(
                    f"push, {scenario.name}: {tally.kills} kills, {tally.lost} public and not whole, "
                    f"{tally.stuck} that cannot go on, {tally.other} other than undisturbed, {tally.left} "
                    f"with leftovers, {partial} with something of huggingface_hub's",
                    flush=True,
                )
    finally:
        shutil.rmtree(PLACE)
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
