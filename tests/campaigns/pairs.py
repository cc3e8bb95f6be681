"""Two processes into one folder at once, of every kind: one wins, the other says so in one line.

    python tests/campaigns/pairs.py [--only capture] [--pairs 20]

Both begin together. Of every pair one must end without an error or both must, one after the other; who does
not must be told by one line that another process writes there; and what is left must be what one alone
leaves. Prints a line a kind; exit code 1 if anything else happened.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from campaigns.killing import Outcome, in_child, leftovers
from campaigns.kills import Scenario, contents, scenarios, undisturbed

KINDS = (
    "capture", "findings.save", "probe", "sim", "study", "saes.train",
    "certify", "words", "demo", "prompts", "sae eval",
)  # fmt: skip


def pair(scenario: Scenario, root: Path) -> list[Outcome]:
    """Two children that call the same at once."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    if scenario.before is not None:
        in_child(lambda: scenario.before(root / "out"), root, watch=False)
    start_read, start_write = os.pipe()
    outcomes: list[Outcome] = []

    def work() -> None:
        os.read(start_read, 1)
        scenario.work(root / "out")

    def run() -> None:
        outcomes.append(in_child(work, root, watch=False))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    os.write(start_write, b"xx")
    for thread in threads:
        thread.join()
    os.close(start_read)
    os.close(start_write)
    return outcomes


def campaign(scenario: Scenario, place: Path, pairs: int) -> tuple[int, int, list[str]]:
    """How often one was told that the other writes, how often both ended well, and what else happened."""
    wanted, _ = undisturbed(scenario, place / "root")
    told, both, bad = 0, 0, []
    for number in range(pairs):
        root = place / "root"
        errors = [o.error if not o.killed else "died" for o in pair(scenario, root)]
        refused = [e for e in errors if e]
        if len(refused) == 2 or any("another process is " not in e or "\n" in e for e in refused):
            bad.append(f"pair {number}: {errors}")
        told, both = told + (len(refused) == 1), both + (not refused)
        found = contents(root)
        if differing := [n for n in sorted({*wanted, *found}) if wanted.get(n) != found.get(n)]:
            bad.append(f"pair {number}: other than one alone leaves: {', '.join(differing)}")
        if leftovers(root):
            bad.append(f"pair {number}: {leftovers(root)}")
    return told, both, bad


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="kinds, comma-separated")
    parser.add_argument("--pairs", type=int, default=20)
    given = parser.parse_args(arguments)
    os.fsync = lambda _: None
    wanted = [name for name in given.only.split(",") if name] or list(KINDS)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for scenario in scenarios():
            if scenario.name not in wanted:
                continue
            told, both, bad = campaign(scenario, Path(folder) / "pairs", given.pairs)
            failed += bool(bad)
            print(
                f"{scenario.name}: {given.pairs} pairs: {told} where the second was told, {both} where it "
                f"came after the first, {len(bad)} otherwise",
                *bad[:5],
                sep="\n    ",
                flush=True,
            )
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
