"""Wrong kinds for every option of every call: one line, of what came and what was expected."""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import as_installed

import graticule
from graticule.commands.arguments import read_pos
from graticule.commands.options import say

FRAME = pd.DataFrame(
    {"w": [f"{a} {b}" for a in ("paris", "rome", "oslo", "lima") for b in ("king", "lake", "san")]}
)
FRAME["y"] = np.sin(np.arange(len(FRAME)))
FRAME["yes"] = np.arange(len(FRAME)) % 2 == 0
ANSWERS = graticule.Outcome("which", "{} is", {"high": (" king",), "low": (" lake",)}, "y")


@pytest.fixture(scope="module")
def things(load_tiny: Any) -> Mapping[str, Any]:
    """What calls are given, by the names of their arguments."""
    model = load_tiny()
    table = graticule.Table(FRAME, text="w", target="y")
    acts, beside = graticule.capture(model, table.texts), graticule.baselines(model, table, twins=0)
    findings = graticule.sweep(acts, table, baselines=beside, n_bootstrap=20)
    return {
        "model": model, "table": table, "activations": acts, "target": table, "baselines": beside,
        "findings": findings, "inputs": table.texts, "a": findings, "b": findings, "by": "yes", "column": "y",
        "text": "paris", "neurons": [(0, 1)], "findings_by_prompt": {"a": findings, "b": findings},
        "data": FRAME, "prompts": ["of {}"], "outcomes": [ANSWERS],
    }  # fmt: skip


CALLS = [
    "capture", "baselines", "sweep", "probe", "calibrate", "compare", "controls", "holdouts", "prompts",
    "transfer", "popularity", "mlp", "pca", "classes", "directions", "neurons", "attribute", "trace", "erase",
    "steer", "ablate", "causes", "Table",
]  # fmt: skip
QUICK = {"twins": 0, "n_bootstrap": 20, "epochs": 1, "rows": 2, "seeds": 1, "n_noise": 2}


def _wrong(things: Mapping[str, Any]) -> list[Any]:
    return [
        object(),
        b"x",
        [object()],
        FRAME,
        things["model"],
        1.5,
        [None],
        {"a": object()},
        torch.ones(2, 3),
    ]


@pytest.mark.parametrize("name", CALLS)
def test_every_option_refuses_what_is_of_no_kind_of_it(name: str, things: Mapping[str, Any]) -> None:
    call, faults = getattr(graticule, name), []
    parameters = inspect.signature(call).parameters.values()
    names = [p.name for p in parameters]
    own = {p.name: things[p.name] for p in parameters if p.default is p.empty and p.name in things}
    own |= {option: value for option, value in QUICK.items() if option in names and name != "capture"}
    own |= {"text": "w", "target": "y"} if name == "Table" else {}
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            continue
        for value in _wrong(things):
            if value is own.get(parameter.name) or value is things.get(parameter.name):
                continue
            if (fault := _fault(call, {**own, parameter.name: value}, parameter.name)) is not None:
                faults.append(f"{name}({parameter.name}={type(value).__name__}): {fault}")
    assert not faults, "\n".join(faults)


def _fault(call: Any, arguments: Mapping[str, Any], argument: str) -> str | None:
    """What is wrong with the answer to wrong arguments, or None: a result, or one line of ours."""
    try:
        with as_installed():
            call(**arguments)
        if type(arguments[argument]) is object:
            return "taken"
    except Exception as error:
        *_, frame = inspect.getinnerframes(error.__traceback__)
        line, *_ = [*(frame.code_context or []), ""]
        if not line.strip().startswith("raise ") or "\n" in str(error):
            return f"{type(error).__name__} of {frame.filename}, {line.strip()}: {str(error)[:200]}"
    return None


REFUSED = {
    "points that are switched off": (
        lambda t: graticule.capture(t["model"], t["inputs"], points="result"),
        r"never reaches .*; model\.set_use_attn_result\(True\) turns (it|them) on$",
    ),
    "no points for all": (
        lambda t: graticule.erase(t["findings"], points=[]),
        r"^points=\[\] selects nothing",
    ),
    "no points of an MLP": (
        lambda t: graticule.mlp(t["findings"], points=[]),
        r"^points=\[\] selects nothing",
    ),
    "a number for points": (lambda t: graticule.mlp(t["findings"], points=0), r"^points=0: expected a name"),
    "no targets to erase": (
        lambda t: graticule.erase(t["findings"], targets=[]),
        r"^targets=\[\] erases nothing",
    ),
    "clusters of no texts": (
        lambda t: graticule.attribute(t["findings"], t["model"], clusters=[0, 1]),
        "clusters= are those of texts=",
    ),
    "an empty reference": (
        lambda t: graticule.prompts(t["model"], t["table"], t["prompts"], reference=""),
        "reference '' is none",
    ),
    "a frame of texts": (
        lambda t: graticule.attribute(t["findings"], t["model"], texts=FRAME),
        "attribute: texts=a DataFrame: expected text, several texts or None$",
    ),
    "a step of no strengths": (
        lambda t: graticule.calibrate(t["findings"], string_step=0),
        "string_step=0: ",
    ),
    "a rate of no targets": (
        lambda t: graticule.calibrate(t["findings"], targets=10**12),
        "targets=1.*at most",
    ),
    "a device that is none": (
        lambda t: graticule.mlp(t["findings"], device="nope"),
        "device 'nope' is not on",
    ),
    "a table's name": (
        lambda t: graticule.Table(FRAME, "w", "y", name=float("nan")),
        "name=nan: expected text or None$",
    ),
    "a kind of twin": (
        lambda t: graticule.baselines(t["model"], t["table"], twin="x"),
        "twin='x': expected 'permuted' or 'fresh'$",
    ),
    "answers without names": (
        lambda t: graticule.Outcome("o", "{} is", ([" good"], [" bad"]), "y"),
        "give two sets by name, high first",
    ),
    "a target of a half": (lambda t: _hook(t, target=1.5), "no target 1.5; this probe has y"),
    "an eraser of numbers": (lambda t: _hook(t, op="erase", eraser=3), "eraser=3: expected a LEACE Eraser"),
    "places in words": (lambda t: _run(t, ["a", "b"]), r"^pos=\['a', 'b'\]: expected an index, a slice"),
    "a half of a place": (lambda t: _run(t, 1.5), r"^pos=1\.5: expected an index, a slice"),
}


def _hook(things: Mapping[str, Any], op: Any = "add", **options: Any) -> Any:
    findings = things["findings"]
    return findings.probes[findings.chosen_point].fwd_hooks(op, **options)


def _run(things: Mapping[str, Any], pos: Any) -> Any:
    tokens = things["model"].to_tokens(["paris king", "rome lake"])
    return things["model"].run_with_hooks(tokens, fwd_hooks=_hook(things, pos=pos))


@pytest.mark.parametrize("what", REFUSED)
def test_values_that_were_taken_for_others_are_refused(what: str, things: Mapping[str, Any]) -> None:
    call, words = REFUSED[what]
    with as_installed(), pytest.raises((TypeError, ValueError, KeyError), match=words) as caught:
        call(things)
    assert "\n" not in str(caught.value)


def test_an_edit_takes_places_as_arrays_and_numbers_too(things: Mapping[str, Any]) -> None:
    with as_installed():
        meant = _run(things, 1)
        for pos in (np.int64(1), np.array([1, 1]), torch.tensor(1), [1, 1]):
            assert torch.equal(_run(things, pos), meant)
        mask = np.zeros((2, meant.shape[1]), bool)
        mask[:, 1] = True
        assert torch.equal(_run(things, mask), meant)


def test_a_recording_says_which_points_are_switched_off(things: Mapping[str, Any]) -> None:
    with graticule.record(things["model"], points="result") as recording:
        things["model"]("paris")
    with pytest.raises(KeyError, match=r"set_use_attn_result\(True\)"):
        _ = recording.activations


def test_the_command_line_advises_options_and_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    say("not converged: give more steps=, or less")
    assert capsys.readouterr().out == "not converged: give more --steps, or less\n"
    with pytest.raises(ValueError, match=r"pos='banana': expected last, all, .* or a slice 1:$"):
        read_pos("banana")
