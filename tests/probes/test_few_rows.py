"""Tables of a few rows: what is undefined is called so, and what needs more rows is left out in a line."""

import numpy as np
import pandas as pd
import pytest

from graticule import Activations, Table, baselines, calibrate, sweep
from graticule.hooks.messages import NotApplicable
from graticule.probes.calibration.components import Chosen
from graticule.probes.calibration.judging import stacks
from graticule.probes.controls.controls import controls
from graticule.probes.core.fit import stack
from graticule.probes.scores.metrics import with_interval

POINT = "blocks.0.hook_resid_post"


def few(n: int, tests: int, constant: bool = False, name=lambda i: f"place {i}"):
    """Findings of n rows, the last `tests` of them the test part, its target perhaps constant."""
    rng = np.random.default_rng(n)
    test = np.arange(n + 1) >= n - tests
    y = np.where(test & constant & (np.arange(n + 1) < n), 0.25, rng.normal(size=n + 1))
    frame = pd.DataFrame({"name": [name(i) for i in range(n + 1)], "y": y, "test": test})
    table = Table(frame, text="name", target="y", split="test").take(np.arange(n))
    acts = Activations.from_tensors({POINT: rng.normal(size=(n, 6))})
    return sweep(acts, table, baselines=baselines(None, table), n_bootstrap=40, progress=False)


@pytest.mark.slow
def test_nothing_says_nan_where_a_score_is_undefined():
    for n, tests, constant in ((9, 2, False), (12, 3, True), (30, 10, True)):
        found = few(n, tests, constant)
        told = found.summary()
        assert "nan" not in told, told
        if constant:
            assert f"gain undefined with {tests} clusters of test rows" in told.splitlines()[0]
            assert f"shuffled targets: test R² undefined with {tests} test rows" in told
        assert "nan" not in controls(found, seeds=1, progress=False).summary()


def test_an_interval_in_words_has_no_nan():
    nan = float("nan")
    assert with_interval(0.1, (0.05, 0.2), "2 test rows") == "+0.100 [+0.050, +0.200]"
    assert with_interval(nan, (nan, nan), "2 test rows") == "undefined with 2 test rows"
    assert with_interval(0.1, (nan, nan), "x") == "+0.100, its interval undefined with x"


@pytest.mark.slow
def test_what_is_too_small_to_calibrate_is_refused_in_a_line():
    for n, tests in ((5, 2), (8, 2), (16, 4)):
        with pytest.raises(NotApplicable, match=rf"{tests} clusters .* at least 5 are needed") as told:
            calibrate(few(n, tests), targets=2, gains=[0.5], n_bootstrap=20)
        assert "\n" not in str(told.value)
    alike = few(24, 6, name=lambda i: chr(0x4E00 + i))  # no two share an n-gram
    made = calibrate(alike, targets=2, gains=[0.5], strengths=3, n_bootstrap=20)
    assert "nan" not in made.summary()


def test_a_stack_of_more_predictors_than_rows_is_that_of_the_verdict():
    rng = np.random.default_rng(3)
    y = rng.normal(size=(2, 4))
    held = {
        name: Chosen(np.ones(2), rng.normal(size=(2, 4)), rng.normal(size=(2, 3)))
        for name in ("a", "b", "c", "d", "e")
    }
    made = stacks(y, {k: held[k] for k in ("a", "b", "c", "d")}, held["e"])
    for t in range(2):
        for part, names in (("surface", "abcd"), ("full", "abcde")):
            fit = stack({n: held[n].train[t][:, None] for n in names}, y[t][:, None])
            expected = fit.predict({n: held[n].test[t][:, None] for n in names})[:, 0]
            np.testing.assert_allclose(made[part][t], expected, atol=1e-8)
