"""A caller's process after a call: seeds, environment, filters, threads and loggers are as they were."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import logging, os, random, sys, warnings
import numpy as np, pandas as pd, torch

def state():
    return {
        "random": random.getstate(), "numpy": str(np.random.get_state()),
        "torch": str(torch.get_rng_state().tolist()),
        "environment": dict(os.environ), "filters": [str(f) for f in warnings.filters],
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "torch's own": (torch.get_default_dtype(), torch.is_grad_enabled()),
        "torch's products": torch.get_float32_matmul_precision(),
        "root logger": (logging.root.level, [str(h) for h in logging.root.handlers]),
        "numpy's errors": np.geterr(), "folder": os.getcwd(), "path": list(sys.path),
    }

def step(name, call):
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(1)
    before = state()
    made = call()
    after = state()
    for k in before:
        if before[k] != after[k]:
            print(f"{name} moved {k}: {before[k]} -> {after[k]}")
    return made

folder, out = sys.argv[1:]
words = [f"{a} {b} {c}" for a in ("paris", "rome", "oslo") for b in ("king", "lake", "port") for c in "abcd"]
frame = pd.DataFrame({"w": words, "y": np.arange(36.0)})
quiet = {"progress": False}
import graticule, graticule.saes
model = step("load_model", lambda: graticule.load_model(folder, device="cpu"))
table = step("Table", lambda: graticule.Table(frame, text="w", target="y"))
findings = step("probe", lambda: graticule.probe(model, table, n_bootstrap=20, **quiet))
step("report", lambda: findings.report(out + "/page.html"))
step("controls", lambda: graticule.controls(findings))
rows = step("capture", lambda: graticule.capture(model, words, layers=[0], pos="all", **quiet))
settings = {"config": {"architecture": "topk", "d_sae": 8, "k": 2}, "batch_size": 32, "n_tokens": 64}
step("train", lambda: graticule.saes.train(rows, out=out + "/run", **settings, **quiet))
step("evaluate", lambda: graticule.saes.evaluate(model, out + "/run", words, **quiet))
step("simulate", lambda: graticule.simulate(graticule.World.random(3), runs=1, steps=20, **quiet))
print("done")
"""


@pytest.mark.slow
def test_a_call_leaves_the_process_as_it_was(hf_folder, tmp_path: Path) -> None:
    """Each call the first of its kind, so that what it imports is imported now."""
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(hf_folder("gpt2")), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["done"]


def test_libraries_that_disturb_are_imported_in_the_one_way() -> None:
    """plotly in one module alone; scikit-learn and most of SciPy after `load`, wherever they are imported."""
    for room in ("hooks", "probes", "sims", "plugin"):
        for file in sorted((ROOT / room).rglob("*.py")):
            text = file.read_text(encoding="utf-8").partition("if TYPE_CHECKING:")
            code = text[0] + re.sub(r"\A(\n(    .*)?)+", "", text[2])
            if file.name != "drawing.py":
                assert not re.search(r"^\s*(from|import) plotly", code, re.MULTILINE), file
            lines = [line.strip() for line in code.splitlines()]
            for number, line in enumerate(lines):
                if re.match(r"(from|import) (sklearn|scipy\.(stats|sparse|interpolate))", line):
                    assert any(before.startswith("load(") for before in lines[number - 3 : number]), file
