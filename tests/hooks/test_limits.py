"""Numbers that arguments take, one table for calls and the command line; kinds of arguments at the door."""

import inspect
import math
from fractions import Fraction
from itertools import product
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import pytest
from helpers import as_installed

import graticule
from graticule import Activations, Store, capture, record
from graticule.cli import main
from graticule.hooks.calls import renamed
from graticule.hooks.doors import FINDINGS, MODEL, TABLE, TEXT, door
from graticule.hooks.limits import LIMITS, LimitError, Range, check, check_limits
from graticule.hooks.streams.live import LiveStream
from graticule.hooks.streams.stored import StoreStream
from graticule.saes.evaluation.measurement import take_sample
from graticule.sims.truth.optimal import truth_table, write_directions
from graticule.sims.world import World


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("seed", [0, np.int64(7), 2**62, None], [-1, 1.0, True, "0", 2**64, math.nan]),
        ("draws", [1, 2000, 10**6], [0, -5, 10**12, math.inf, 1.5]),
        ("min_gain", [0, 0.01, np.float32(0.5), 1], [math.nan, -1, math.inf, "0.1", 1.01]),
        ("epochs", [1, None], [0, -1, 2.0]),
        ("dose", [0.1, Fraction(1, 2)], [0, 0.0, -1, math.nan]),
        ("rows", [1, [1, 2], (3,)], [0, [1, 0], (2, math.nan)]),
        ("ks", [(1, 2), range(1, 4), np.arange(1, 3), {5}], [(0,), [1.5], range(3), np.arange(2), {True}]),
    ],
)
def test_a_range_takes_what_lies_in_it(name: str, good: list, bad: list) -> None:
    for value in good:
        check(name, value)
    for value in bad:
        with pytest.raises(LimitError, match=f"^{name}=.*: expected ") as caught:
            check_limits(**{name: value})
        assert "\n" not in str(caught.value)


def test_a_range_in_words() -> None:
    assert LIMITS["seed"].words == "a whole number of at least 0"
    assert LIMITS["twins"].words == "a whole number of at least 0 and at most 100"
    assert LIMITS["min_gain"].words == "a number of at least 0 and at most 1"
    assert LIMITS["dose"].words == "a number above 0"
    assert Range(whole=False).words == "a finite number"
    with pytest.raises(KeyError):
        check("no argument of ours", 1)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--min-gain", "nan"], "--min-gain nan: expected a number of at least 0 and at most 1"),
        (["--min-gain", "-1"], "--min-gain -1.0: "),
        (["--min-gain", "inf"], "--min-gain inf: "),
        (["--seed", "-3"], "--seed -3: expected a whole number of at least 0"),
        (["--twins", "1000000"], "--twins 1000000: "),
        (["--rows", "0"], "--rows 0: expected a whole number of at least 1"),
    ],
)
def test_the_command_line_refuses_the_same_numbers_before_a_model_is_loaded(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", "--model", "m", "--table", "world_cities", "--out", "o", *words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"graticule: {told}")


def test_a_rate_needs_several_targets(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["demo"], ["probe", "--model", "m", "--table", "world_cities", "--out", "o"]):
        assert main([*words, "--calibrate", "1"]) == 2
        assert "--calibrate 1: expected 0 to leave it out, or at least 2" in capsys.readouterr().err


def test_other_commands_refuse_them_too(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["study", "--model", "m", "--table", "world_cities", "--out", "o", "--prompt-rows", "0"],
        ["demo", "--rows", "-1"],
        ["sim", "--out", "o", "--concepts", "99"],
        ["sim", "--out", "o", "--steps", "-1"],
        ["certify", "--concepts", "1000"],
        ["probe", "--model", "m", "--table", "world_cities", "--out", "o", "--calibrate", "-3"],
        ["words", "--model", "m", "--draws", "0"],
        ["words", "--model", "m", "--n-bootstrap", "0"],
        ["sae", "train", "--store", "s", "--out", "o", "--epochs", "0"],
        ["sae", "train", "--store", "s", "--out", "o", "--tokens", "0"],
        ["sae", "eval", "s", "--corpus", "c", "--seed", "-1"],
    ):
        assert main(words) == 2
        told = capsys.readouterr().err.strip()
        assert told.count("\n") == 0
        assert f"{words[-2]} {words[-1]}: expected a whole number" in told


class Model:
    """As much of a model as the door asks for."""

    cfg, hook_dict, training = None, MappingProxyType({}), False

    def __call__(self) -> None:
        """A model can be run."""

    hooks = parameters = named_parameters = __call__


class Findings:
    """Known by its name and its package; of no model."""

    provenance: ClassVar[dict[str, object]] = {}


class Table:
    """Likewise."""


Findings.__module__, Table.__module__ = "graticule.probes.core.findings", "graticule.probes.tables.table"


@renamed("table", noise="draws")
@door(findings=FINDINGS, model=MODEL, table=TABLE)
def call(findings, model, *, table=None, draws: int = 2):
    """A call."""
    return findings, model, table, draws


def test_findings_come_before_a_model_and_the_order_of_0_1_warns() -> None:
    model, findings, table = Model(), Findings(), Table()
    assert call(findings, model) == call(model=model, findings=findings) == (findings, model, None, 2)
    with pytest.warns(
        DeprecationWarning, match=r"^call\(model, findings\) is the old form of call\(findings, model\)"
    ):
        assert call(model, findings, draws=5) == (findings, model, None, 5)
    with pytest.warns(DeprecationWarning, match=r"call\(findings, model\)") as told:
        assert call(model, findings=findings) == (findings, model, None, 2)
    assert told[0].filename == __file__
    with pytest.warns(
        DeprecationWarning, match="call: table by position is the old form of table= and goes"
    ) as told:
        assert call(findings, model, table) == (findings, model, table, 2)
    assert told[0].filename == __file__
    with pytest.warns(DeprecationWarning, match=r"call\(noise=\) is the old name of draws="):
        assert call(findings, model, noise=7) == (findings, model, None, 7)
    with pytest.raises(TypeError, match="table is given twice, by position and by name"):
        call(findings, model, table, table=table)
    with pytest.raises(TypeError, match=r"too many positional arguments; .* give by name table=, draws=$"):
        call(findings, model, table, 3)
    assert call.__name__ == "call"
    assert str(inspect.signature(call)) == "(findings, model, *, table=None, draws: int = 2)"


def test_the_door_says_what_came_and_what_to_write() -> None:
    model, findings = Model(), Findings()
    with pytest.raises(TypeError, match=r"^call: model is 'gemma'; expected a loaded model: graticule.load_"):
        call(findings, "gemma")
    with pytest.raises(TypeError, match=r"findings is None; expected findings: graticule\.probe\(model"):
        call(None, model)
    with pytest.raises(
        TypeError, match=r"^call: model is a Table: swap the two, call\(findings, model, table\)$"
    ):
        call(findings, Table(), table=model)
    with pytest.raises(TypeError, match=r"is a Model: the order is .*\(findings, model, text\)$"):
        door(findings=FINDINGS, model=MODEL, text=TEXT)(lambda findings, model, text: 0)(model, "a", findings)
    with pytest.raises(LimitError, match="draws=0"):
        call(findings, model, draws=0)
    with pytest.raises(
        TypeError, match=r"unexpected keyword argument 'drws'; it takes call\(findings, model, …\)"
    ):
        call(findings, model, drws=1)
    with pytest.raises(TypeError, match="call: findings is missing: expected findings"):
        call(model)


NUMBERS: dict[str, Any] = {
    "a live stream's exclude_special": lambda m, v: LiveStream(
        m, ["paris king"] * 9, "resid_post", 4, layers=0, context_size=8, buffer_tokens=16, exclude_special=v
    ),
    "a stored stream's exclude_special": lambda m, v: StoreStream(
        capture(m, [[1, 2, 3]], points="resid_post", layers=0, pos="all"), batch_size=1, exclude_special=v
    ),
    "a stored stream's rows": lambda m, v: StoreStream(
        Activations.from_tensors({"a": np.eye(4)}), batch_size=1, rows=v
    ),
    "an evaluation's exclude_special": lambda m, v: take_sample(
        m, None, [[1, 2, 3]] * 4, 4, prepend_bos=False, exclude_special=v
    ),
    "the truth's concepts": lambda m, v: truth_table(World.independent(3), np.array([[-1, -1, -1]]), v),
    "the write directions' concepts": lambda m, v: write_directions(
        np.eye(8), np.array(list(product((0, 1), repeat=3))), v
    ),
}


@pytest.mark.parametrize("where", NUMBERS)
def test_lists_of_numbers_hold_what_is_there_and_each_once(where: str, tiny: Any) -> None:
    with as_installed():
        NUMBERS[where](tiny, [2, 1])
    unbounded = where == "a stored stream's exclude_special"
    left_out = where.endswith("exclude_special")  # what is left out twice is left out
    bads = [[-1], [1.5], [True], *([] if unbounded else [[10**6]]), *([] if left_out else [[1, 2, 1]])]
    for bad in bads:
        with as_installed(), pytest.raises((LimitError, IndexError), match=r"=") as caught:
            NUMBERS[where](tiny, bad)
        assert "\n" not in str(caught.value) and str(caught.value)


def test_special_tokens_are_not_left_out_of_rows_that_know_no_tokens() -> None:
    rows = Activations.from_tensors({"a": np.eye(4)})
    assert StoreStream(rows, batch_size=1).n_rows == 4
    with pytest.raises(ValueError, match="do not say of which tokens they are; leave exclude_special out"):
        StoreStream(rows, batch_size=1, exclude_special=[3])


def test_booleans_are_true_false_or_their_numbers_and_nothing_else(tiny, tmp_path) -> None:
    texts = ["the city of paris", "rome"]
    for no in (False, 0, np.False_, np.int64(0)):
        made = capture(tiny, texts, prepend_bos=no)
        assert made.rows["position"].tolist() == [3, 0]
        assert made.provenance["prepend_bos"] is False
    assert capture(tiny, texts, prepend_bos=None).rows["position"].tolist() == [4, 1]
    assert capture(tiny, texts, prepend_bos=1, share_prefix=0).rows["position"].tolist() == [4, 1]
    for other in ("no", "yes", 2, 0.0, [], np.zeros(2, bool)):
        for argument in ("prepend_bos", "include_bos", "compile", "share_prefix", "progress"):
            with pytest.raises(TypeError, match=f"^capture: {argument}=.*: expected True or False$"):
                capture(tiny, texts, **{argument: other})
    with pytest.raises(TypeError, match="record: include_bos='no': expected True or False"):
        record(tiny, include_bos="no").__enter__()
    with pytest.raises(TypeError, match="share_prefix=None"):
        capture(tiny, texts, share_prefix=None)
    made.save(tmp_path / "s")
    with as_installed(), pytest.raises(TypeError, match="overwrite='no': expected True or False"):
        made.save(tmp_path / "s", overwrite="no")
    with as_installed(), pytest.raises(TypeError, match="Store: verify='no': expected True or False"):
        Store(tmp_path / "s", verify="no")


def test_every_boolean_of_an_exported_function_is_looked_at() -> None:
    open_doors = []
    for package in (graticule, graticule.saes, graticule.hub):
        for name in package.__all__:
            function = getattr(package, name)
            if not inspect.isfunction(function):
                continue
            parameters = inspect.signature(function).parameters.values()
            booleans = [p.name for p in parameters if p.annotation in ("bool", "bool | None")]
            for argument in booleans:
                try:
                    function(**{argument: "no"})
                except TypeError as error:
                    if "expected True or False" in str(error):
                        continue
                open_doors.append(f"{name}({argument}=)")
    assert not open_doors
