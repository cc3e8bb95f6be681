"""The packaged language model: every point of every layer, against `run_with_cache`."""

import pytest
import torch
from helpers import cached, relative

from graticule import capture

pytestmark = pytest.mark.slow

TEXTS = ["Reykjavik", "Lake Titicaca", "the Great Barrier Reef", "Ouagadougou", "Reykjavik"]
PROMPT = "What are the lat/lon coordinates of "


@pytest.mark.gemma
@pytest.mark.parametrize("prompt", ["", PROMPT])
def test_every_point_of_every_layer(gemma, prompt):
    # rotated keys cover the prefix too, so that asking for them turns the shared prefix off: once is enough
    skipped = ("pattern", "scores", *(["hook_rot_k"] if prompt else []))
    names = [n for n in gemma.hook_dict if n.startswith(("blocks.", "hook_", "ln_final"))]
    names = [n for n in names if not n.endswith(skipped)]
    reference = {text: cached(gemma, gemma.to_tokens(prompt + text)) for text in set(TEXTS)}
    first = reference[TEXTS[0]]
    names = [n for n in names if n in first and first[n].ndim >= 3]
    assert len(names) > 18 * 15
    acts = capture(gemma, TEXTS, points=names, prompt=prompt)
    worst = 0.0
    for i, text in enumerate(TEXTS):
        for name in names:
            worst = max(worst, relative(acts[name][i], reference[text][name][0, -1].reshape(-1)))
    assert worst <= 1e-5
    assert torch.equal(acts["resid_post", 17][0], acts["resid_post", 17][4])
