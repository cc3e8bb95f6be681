"""What has been freed is given back."""

import sys
from pathlib import Path

import numpy as np
import pytest

from graticule.hooks.processor import give_back


def resident() -> int:
    """Bytes of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, and asks glibc")
def test_pieces_between_others_are_given_back():
    give_back()
    before = resident()
    pieces = [np.ones(12_000) for _ in range(2000)]  # 96 kB each: too small for a mapping of their own
    assert resident() - before > 150e6
    kept = pieces[::50]
    del pieces
    give_back()
    assert resident() - before < 60e6
    assert sum(piece.sum() for piece in kept) == 40 * 12_000
