"""A sample of the campaigns: kills at file-system calls and requests, and two processes into one folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SAMPLE = """
import sys
from campaigns import pushes  # before all that reads where the Hub is
from campaigns import kills, pairs
kinds = "capture,capture again,findings.save,probe,sim,saes.train"
failed = kills.main(["--points", "3", "--only", kinds])
failed = failed or pushes.main(["--points", "3", "--only", "public"])
kinds = "capture,findings.save,saes.train,prompts,sae eval"
sys.exit(failed or pairs.main(["--pairs", "1", "--only", kinds]))
"""


def test_a_kill_loses_nothing_and_of_two_writers_one_is_told():
    tests = Path(__file__).parent
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SAMPLE],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), os.environ.get("PYTHONPATH", "")])},
    )
    assert told.returncode == 0, told.stdout + told.stderr[-2000:]
    assert told.stdout.count(" kills, 0 lost, 0 that cannot go on") == 6
    assert "push, public: 3 kills, 0 public and not whole, 0 that cannot go on" in told.stdout
    assert told.stdout.count(" 0 otherwise") == 5
