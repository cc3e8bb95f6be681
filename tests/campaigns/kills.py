"""SIGKILL at every file-system call of everything that writes, then the same call again.

    python tests/campaigns/kills.py [--only capture] [--every 5] [--points 8]

Required of every kill: what was whole before it can still be read (or what replaces it can), the same call
goes on without an error, what it ends with is byte for byte what an undisturbed call leaves (pages too, but
for times), and nothing hidden is left behind. Prints a line a scenario; exit code 1 if anything was found.
Pushes, which need a Hub, are in pushes.py.
"""

from __future__ import annotations

import argparse
import atexit
import functools
import json
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a forked child has no pool of threads
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
warnings.filterwarnings("ignore")

import numpy as np
import pandas as pd
import torch
from campaigns.killing import in_child, leftovers
from conftest import WORDS, make_tokenizer

import graticule
import graticule.saes
from graticule import cli
from graticule.certificate.learners import Plan
from graticule.hooks.kinds import working_folder
from graticule.hooks.running import runner
from graticule.results import CERTIFICATE
from graticule.sims.training.settings import Training
from graticule.sims.world import World

PLAN = Plan(
    learners=("lookup",),
    dimensions=(1.0,),
    noises=(1.0,),
    masks=(),
    lookup=Training(optimizer="population", steps=100),
    rows=200,
    labellings=2,
    pairs=1,
)
VOLATILE = ("captured_at", "made_at", "seconds", "noted", "seal")
_TIME = re.compile(rb"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00|seconds</dt><dd>[\d.]+")


@dataclass(frozen=True)
class Scenario:
    """One thing that writes, into a folder `out` under the root."""

    name: str
    work: Callable[[Path], Any]
    """The call that is killed, and called again."""
    before: Callable[[Path], Any] | None = None
    """What was there, whole, before it."""
    read: Callable[[Path], Any] | None = None
    """Reads what was there, or what replaces it; must succeed after every kill."""


@dataclass
class Tally:
    """What a scenario's kills came to."""

    kills: int = 0
    lost: int = 0
    stuck: int = 0
    other: int = 0
    left: int = 0

    @property
    def clean(self) -> bool:
        """Whether nothing was found."""
        return not (self.lost or self.stuck or self.other or self.left)


def contents(root: Path) -> dict[str, Any]:
    """Every file under `root`, without what tells the time."""
    return {str(f.relative_to(root)): _content(f) for f in sorted(root.rglob("*")) if f.is_file()}


def _content(file: Path) -> Any:
    if file.suffix == ".json":
        return _timeless(json.loads(file.read_text(encoding="utf-8")))
    if file.name == "history.parquet":
        return pd.read_parquet(file).drop(columns="seconds").to_json()
    return _TIME.sub(b"a time", file.read_bytes()) if file.suffix == ".html" else file.read_bytes()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in VOLATILE}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def undisturbed(scenario: Scenario, root: Path) -> tuple[dict[str, Any], int]:
    """What the call leaves when nothing happens, and how many points it has to be killed at."""
    _begin(scenario, root)
    outcome = in_child(lambda: scenario.work(root / "out"), root)
    if outcome.error or outcome.killed:
        raise RuntimeError(f"{scenario.name}, undisturbed: {outcome.error or 'died'}")
    return contents(root), outcome.points


def _begin(scenario: Scenario, root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    if scenario.before is not None:
        outcome = in_child(lambda: scenario.before(root / "out"), root, watch=False)
        if outcome.error or outcome.killed:
            raise RuntimeError(f"{scenario.name}, before: {outcome.error or 'died'}")


def campaign(scenario: Scenario, place: Path, every: int = 1, most: int | None = None) -> Tally:
    """Kill the scenario at every `every`-th point, or at `most` of them with the last, and call it again."""
    wanted, points = undisturbed(scenario, place / "root")
    tally = Tally()
    start = place / "start"
    shutil.rmtree(start, ignore_errors=True)
    _begin(scenario, place / "root")
    root = place / "root"
    shutil.copytree(root, start, symlinks=True, copy_function=shutil.copy2)
    chosen = np.arange(points - 1, -1, -every)[::-1]
    if most is not None:
        chosen = np.unique(np.linspace(0, points - 1, most).round().astype(int))
    for fatal in chosen.tolist():
        shutil.rmtree(root)
        shutil.copytree(start, root, symlinks=True, copy_function=shutil.copy2)
        if not in_child(lambda: scenario.work(root / "out"), root, fatal).killed:
            continue  # an earlier end: a clock decided
        tally.kills += 1
        if scenario.read is not None:
            lost = in_child(lambda: scenario.read(root / "out"), root, watch=False)
            _count(tally, "lost", lost.error or lost.killed, scenario, fatal, lost.error)
        again = in_child(lambda: scenario.work(root / "out"), root, watch=False)
        _count(tally, "stuck", again.error or again.killed, scenario, fatal, again.error)
        if again.error or again.killed:
            continue
        found = contents(root)
        differing = [n for n in sorted({*wanted, *found}) if wanted.get(n) != found.get(n)]
        hidden = leftovers(root)
        _count(tally, "left", hidden, scenario, fatal, hidden)
        plain = [n for n in differing if not any(part.startswith(".") for part in Path(n).parts)]
        _count(tally, "other", plain, scenario, fatal, plain)
    return tally


def _count(tally: Tally, what: str, bad: Any, scenario: Scenario, fatal: int, detail: Any) -> None:
    if bad:
        setattr(tally, what, getattr(tally, what) + 1)
        print(f"    {scenario.name} at {fatal}: {what}: {str(detail)[:1000]}", flush=True)


def tiny_folder(tokenizer: Any, positions: int = 16) -> str:
    """A random GPT-2 of two blocks in a folder, which is gone when this process is."""
    import transformers

    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": positions}
    ids = {"bos_token_id": 0, "eos_token_id": 0, "vocab_size": len(tokenizer)}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **ids)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def word_tokenizer() -> Any:
    """One token for every word of the packaged lists."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    from graticule.probes.words.vocabulary import ambiguous_contexts, packaged_pairs, parallel_contexts

    texts = [word for pairs in packaged_pairs().values() for pair in pairs for word in pair]
    texts += [text for pair in ambiguous_contexts() for text in vars(pair).values() if isinstance(text, str)]
    texts += [text for language in parallel_contexts().values() for text in language]
    words = sorted({word for text in texts for word in (text, *re.findall(r"\w+|[^\w\s]+", text))})
    inner = Tokenizer(WordLevel({w: i for i, w in enumerate(["<s>", "<unk>", *words])}, unk_token="<unk>"))
    inner.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="<s>", unk_token="<unk>"
    )


# What writes -----------------------------------------------------------------------------------------
@functools.cache
def scenarios() -> tuple[Scenario, ...]:
    """All of them, on tiny inputs; a model and findings are made once, here."""
    torch.set_num_threads(1)
    plain = functools.cache(lambda: tiny_folder(make_tokenizer()))
    model = graticule.load_model(plain(), device="cpu")
    rng = np.random.default_rng(0)
    names = [" ".join(rng.choice(WORDS, 3)) + f" {i}" for i in range(60)]
    frame = pd.DataFrame(
        {"name": names, "value": rng.normal(size=60), "split": [i % 3 == 0 for i in range(60)]}
    )
    table = graticule.Table(frame, text="name", target="value", split="split")
    runner._SHARD_BYTES = 60 * 16 * 4  # several shards
    findings = graticule.probe(model, table, n_bootstrap=20, progress=False)
    other = graticule.probe(model, table, n_bootstrap=20, seed=1, progress=False)
    acts = graticule.capture(model, names, pos="all", progress=False)
    quiet: dict[str, Any] = {"progress": False}

    def train(out: Path) -> None:
        graticule.saes.train(
            acts, config={"architecture": "topk", "d_sae": 8, "k": 2}, hook_name="blocks.0.hook_resid_post",
            out=out, batch_size=32, n_tokens=288, checkpoint_every=4, seed=0, **quiet,
        )  # fmt: skip

    def capture(out: Path) -> None:
        graticule.capture(model, names, store=out, rows=frame, **quiet)

    def damaged(out: Path) -> None:
        capture(out)
        file = sorted((out / "blocks.1.hook_resid_post").iterdir())[1]
        file.write_bytes(file.read_bytes()[:-4] + b"\xff" * 4)

    def sim(out: Path) -> None:
        words = ["sim", "--concepts", "3", "--seeds", "1", "--steps", "50", "--out", str(out)]
        cli.main([*words, "--debug"])

    def study(out: Path) -> None:
        graticule.study(model, table, out=out, only=("layers", "pca"), **quiet)

    def certify(out: Path) -> None:
        with working_folder(out, CERTIFICATE, "certifying into"):
            made = graticule.certify(World.random(4, seed=1), plan=PLAN, out=out, **quiet)
            made.save(out / "result")
            made.report(out / "report.html")

    worded = functools.cache(lambda: tiny_folder(word_tokenizer(), 64))

    def words(out: Path) -> None:
        cli.main(["words", "--model", worded(), "--n-bootstrap", "20", "--out", str(out), "--debug"])

    def demo(out: Path) -> None:
        given = ["--model", worded(), "--rows", "100", "--calibrate", "0", "--out", str(out)]
        cli.main(["demo", *given, "--debug"])

    asked = {"bare": "", "the": "the city of {}"}

    def prompts(out: Path) -> None:
        graticule.prompts(model, table, asked, layers=[0], twins=0, n_bootstrap=20, out=out, **quiet)

    @functools.cache
    def run() -> Path:
        folder = Path(tempfile.mkdtemp())
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        train(folder / "run")
        (folder / "texts.txt").write_text("\n".join(" ".join(names[i : i + 4]) for i in range(0, 60, 4)))
        return folder

    def evaluate(out: Path) -> None:
        given = ["--model", plain(), "--corpus", str(run() / "texts.txt"), "--tokens", "200"]
        more = ["--context-size", "8", "--features", "3", "--out", str(out)]
        cli.main(["sae", "eval", str(run() / "run"), *given, *more, "--debug"])

    def report(out: Path) -> None:
        cli.main(["report", str(out), "--debug"])

    for make in (worded, run, plain):  # before a child is forked, which would make its own
        make()
    return (
        Scenario("certify", certify),
        Scenario("words", words),
        Scenario("demo", demo),
        Scenario("prompts", prompts),
        Scenario("sae eval", evaluate),
        Scenario("report", report, findings.save, graticule.Findings.load),
        Scenario("capture", capture),
        Scenario("capture again", capture, damaged),
        Scenario("activations.save", lambda out: acts.save(out, overwrite=True),
                 lambda out: acts.select(rows=slice(9)).save(out), graticule.Activations.load),
        Scenario("findings.save", other.save, findings.save, graticule.Findings.load),
        Scenario("probe", lambda out: graticule.probe(model, table, out=out, n_bootstrap=20, **quiet)),
        Scenario("probe again", lambda out: graticule.probe(model, table, out=out, n_bootstrap=20, **quiet),
                 lambda out: graticule.probe(model, table, out=out, n_bootstrap=10, **quiet),
                 graticule.Findings.load),
        Scenario("sim", sim),
        Scenario("study", study),
        Scenario("saes.train", train),
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="names of scenarios, comma-separated")
    parser.add_argument("--every", type=int, default=1, help="every how many points")
    parser.add_argument("--points", type=int, help="at most so many kills of each")
    given = parser.parse_args(arguments)
    os.fsync = lambda _: None  # a kill of a process loses nothing that was written
    wanted = [name for name in given.only.split(",") if name]
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        for scenario in scenarios():
            if wanted and scenario.name not in wanted:
                continue
            tally = campaign(scenario, Path(folder) / "kills", given.every, given.points)
            bad += not tally.clean
            print(
                f"{scenario.name}: {tally.kills} kills, {tally.lost} lost, {tally.stuck} that cannot go on, "
                f"{tally.other} other than undisturbed, {tally.left} with leftovers",
                flush=True,
            )
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
