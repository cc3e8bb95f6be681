"""Activations and a table that were sorted or filtered alike: paired by their texts, through every step."""

import numpy as np
import pandas as pd
import pytest

from graticule import Activations, Findings, Store, Table, baselines, capture, compare, holdouts, sweep
from graticule.hooks.alignment import COMPARED, AlignmentError
from graticule.probes.core.inputs import paired_rows

N = 40
TEXTS = [
    f"{a} {b}"
    for a in ["paris", "rome", "oslo", "lima", "cairo"]
    for b in ["king", "lake", "port", "san", "north", "of", "by", "at"]
]
POINT = "blocks.0.hook_resid_post"
ORDER = np.random.default_rng(4).permutation(N)
KEPT = np.delete(np.arange(N), [0, 3, 20])


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    y = [len(text) + 3.0 * (text[0] in "ro") + 0.1 * i for i, text in enumerate(TEXTS)]
    return pd.DataFrame({"w": TEXTS, "y": y, "split": np.where(np.arange(N) % 3 == 0, "test", "train")})


@pytest.fixture(scope="module")
def of_all_tokens(load_tiny) -> Activations:
    return capture(load_tiny(), TEXTS, points="resid_post", layers=[0, 1], pos="all")


def table_of(frame: pd.DataFrame, rows: np.ndarray) -> Table:
    some = frame.iloc[rows].reset_index(drop=True)
    return Table(some, text="w", target="y", split="split", name="some")


def rows_of(acts: Activations, texts: np.ndarray) -> np.ndarray:
    """The rows of these texts, text by text."""
    return np.concatenate([np.flatnonzero(acts.rows["source"] == text) for text in texts])


@pytest.mark.slow
@pytest.mark.parametrize("rows", [ORDER, KEPT, ORDER[:30]], ids=["sorted", "filtered", "both"])
@pytest.mark.filterwarnings("ignore:.*clusters")
def test_the_whole_path_is_that_of_rows_in_plain_order(
    load_tiny, frame, of_all_tokens, rows, tmp_path
) -> None:
    """Rows that were captured in the table's order from the start are the oracle, at every step."""
    model, table = load_tiny(), table_of(frame, rows)
    plain = capture(model, table.texts, points="resid_post", layers=[0, 1], pos="all")
    alike = of_all_tokens.select(rows=rows_of(of_all_tokens, rows))
    beside = baselines(model, table, layers=[0, 1], pos="all", twins=1, progress=False)
    source, how = paired_rows(alike, table)
    assert how == COMPARED
    np.testing.assert_array_equal(source, plain.rows["source"])
    want, got = (
        sweep(acts, table, baselines=beside, n_bootstrap=50, progress=False) for acts in (plain, alike)
    )
    got.save(tmp_path / "found")
    alike.save(tmp_path / "acts")
    again = [
        Findings.load(tmp_path / "found").with_inputs(acts, table, beside)
        for acts in (alike, Store(tmp_path / "acts"), Activations.load(tmp_path / "acts"))
    ]
    columns = ["source", "position", "split", "text", "true_y"]
    by = np.arange(len(table)) % 4
    expected = holdouts(want, by=by, n_bootstrap=20).scores
    for one in (got, *again):
        assert one.verdict.score == pytest.approx(want.verdict.score, abs=1e-4)
        pd.testing.assert_frame_equal(one.predictions[columns], want.predictions[columns])
        np.testing.assert_allclose(one.predictions["pred_y"], want.predictions["pred_y"], atol=1e-3)
        for name, line in want.baselines.items():
            assert one.baselines[name]["test"]["r2"] == pytest.approx(line["test"]["r2"], abs=1e-4), name
        assert compare(one, want, n_bootstrap=20).difference == pytest.approx(0, abs=1e-4)
        pd.testing.assert_frame_equal(holdouts(one, by=by, n_bootstrap=20).scores, expected, atol=1e-3)


@pytest.mark.slow
def test_a_planted_target_is_read_from_own_arrays_sorted_or_filtered_with_the_table(frame) -> None:
    X = np.random.default_rng(0).normal(size=(N, 6)).astype(np.float32)
    planted = frame.assign(y=X[:, 0].astype(float))
    acts = Activations.from_tensors({POINT: X}, texts=TEXTS)
    for rows in (ORDER, KEPT, ORDER[:30]):
        table = table_of(planted, rows)
        fresh = Activations.from_tensors({POINT: X[rows]}, texts=table.texts)
        for one in (table, Table(planted, text="w", target="y", split="split", name="some").take(rows)):
            found = sweep(acts.select(rows=rows), one, n_bootstrap=20)
            assert found.verdict.score > 0.99
            assert found.verdict == sweep(fresh, one, n_bootstrap=20).verdict
    gone = planted.assign(y=planted["y"].where(np.arange(N) != 4))
    table = Table(gone, text="w", target="y", split="split", on_bad="drop")
    with pytest.raises(AlignmentError, match=r"1 of the rows are of none.*activations\.select\(rows\)"):
        sweep(acts, table)
    found = sweep(acts.select(rows=np.delete(np.arange(N), 4)), table, n_bootstrap=20)
    assert found.verdict.score > 0.99
    assert found.predictions["source"].tolist() == np.delete(np.arange(N), 4).tolist()


def test_what_the_texts_do_not_prove_is_refused(frame) -> None:
    """Another order, fewer rows, rows of one text apart, and rows that say no texts."""
    X = np.random.default_rng(0).normal(size=(N, 6)).astype(np.float32)
    acts, table = Activations.from_tensors({POINT: X}, texts=TEXTS), table_of(frame, ORDER)
    other = ORDER.copy()
    other[[2, 7]] = other[[7, 2]]
    for rows in (other, ORDER[:-1], ORDER[1:], np.arange(N), ORDER[::-1]):
        with pytest.raises(AlignmentError, match="is of another text than row"):
            sweep(acts.select(rows=rows), table)
    unknown = Activations.from_tensors({POINT: X}).select(rows=ORDER)
    assert paired_rows(unknown, table)[1] != COMPARED
    assert (paired_rows(unknown, table)[0] == ORDER).all()
