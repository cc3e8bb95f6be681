"""What public calls are given, checked at their door: one line says what came and what to write.

`@door(model=MODEL, table=TABLE)` above a function checks those arguments' kinds, and every other argument
whose name stands in `graticule.hooks.limits.LIMITS` against its range, before the function begins. Classes of
other rooms are known by name, so that nothing is imported for it.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from os import PathLike
from typing import Any, ParamSpec, TypeVar

from graticule.hooks.calls import old_name, one_call, outermost
from graticule.hooks.limits import LIMITS, LimitError, check
from graticule.hooks.values import unmasked

_OWN = ("self", "cls")
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Kind:
    """What an argument is to be."""

    what: str
    """In words: `a loaded model`."""
    fits: Callable[[Any], bool]
    """Whether a value is one."""
    write: Callable[[Any], str]
    """What to write in place of a value that is none."""
    optional: bool = False
    """Whether None will do."""

    def or_none(self) -> Kind:
        """The same, or None."""
        return replace(self, optional=True)

    def takes(self, value: Any) -> bool:
        """Whether `value` is one, or None where that will do."""
        return (self.optional and value is None) or self.fits(value)


def of_class(*names: str) -> Callable[[Any], bool]:
    """Whether a value is an instance of a class of graticule with one of these names."""

    def fits(value: Any) -> bool:
        return any(c.__name__ in names and _is_ours(c) for c in type(value).__mro__)

    return fits


def _is_ours(kind: type) -> bool:
    return kind.__module__.split(".")[0] == "graticule"


def _is_model(value: Any) -> bool:
    return hasattr(value, "hook_dict") and hasattr(value, "cfg") and callable(value)


def _load_model(value: Any) -> str:
    name = repr(str(value)) if isinstance(value, str | PathLike) else "'gemma-3-270m'"
    if hasattr(value, "config") and hasattr(value, "forward"):
        return "load it as TransformerLens does: graticule.load_model('THE SAME NAME OR FOLDER')"
    packaged = (
        "" if name == "'gemma-3-270m'" else ", if there is a model of that name; 'gemma-3-270m' is packaged"
    )
    return f"graticule.load_model({name}){packaged}"


def _make_table(value: Any) -> str:
    if isinstance(value, str | PathLike):
        return f"graticule.Table({str(value)!r}, text='COLUMN', target='COLUMN')"
    return "graticule.Table(frame, text='COLUMN', target='COLUMN')"


def _make_findings(value: Any) -> str:
    if isinstance(value, str | PathLike):
        return f"graticule.Findings.load({str(value)!r}), or graticule.probe(model, table)"
    return "graticule.probe(model, table), or graticule.sweep(activations, table)"


def _make_activations(value: Any) -> str:
    if of_class("Latents")(value):
        return "graticule.latents(findings, sae), which judges an SAE's latents"
    if isinstance(value, str | PathLike):
        return f"graticule.Store({str(value)!r})"
    if hasattr(value, "shape"):
        return "graticule.Activations.from_tensors({'blocks.0.hook_resid_post': values})"
    return "graticule.capture(model, table.texts), or graticule.Activations.from_cache(cache)"


def _make_frame(value: Any) -> str:  # noqa: ARG001
    return "pandas.DataFrame({'column': values})"


def _make_baselines(value: Any) -> str:  # noqa: ARG001
    return "graticule.baselines(model, table), or graticule.baselines(None, table) for the strings alone"


def _is_frame(value: Any) -> bool:
    return hasattr(value, "iloc") and hasattr(value, "columns")


def _make_world(value: Any) -> str:
    whole = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return f"graticule.World.random({value if whole else 4})"


def _are_whole(values: Any) -> bool:
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        return False
    return all(not isinstance(one, bool) and isinstance(one, Integral) for one in values)


def _make_rows(value: Any) -> str:  # noqa: ARG001
    return "pandas.DataFrame({'text': texts, 'target': values})"


MODEL = Kind("a loaded model", _is_model, _load_model)
"""A model with named hook points."""
TABLE = Kind("a graticule.Table", of_class("Table"), _make_table)
"""Rows to probe."""
FINDINGS = Kind("findings", of_class("Findings"), _make_findings)
"""What `probe` and `sweep` return."""
FINDINGS_OR_PROBE = Kind("findings or a probe", of_class("Findings", "RidgeProbe"), _make_findings)
"""Findings, or a direction of one's own."""
COMPARED = Kind(
    "findings, or what `at` of findings returns", of_class("Findings", "Predicted"), _make_findings
)
"""Predictions of test rows."""
FRAME = Kind("a pandas DataFrame", _is_frame, _make_frame)
"""Columns beside something else's rows."""
DATA = Kind("a pandas DataFrame, or a file of rows", lambda v: _is_frame(v) or isinstance(v, str | PathLike),
            _make_rows)  # fmt: skip
"""What a table is made of."""
FOLDER = Kind("a folder to write", lambda v: isinstance(v, str | PathLike), lambda v: "'runs/one'")  # noqa: ARG005
"""Where a run leaves what it made."""
PROMPT = Kind(
    "text before every row, or a template with one slot {}",
    lambda v: isinstance(v, str),
    lambda v: repr(v[0]) if isinstance(v, list | tuple) and v and isinstance(v[0], str) else "'The city of'",
)
"""What stands around each text."""
TEXT = Kind("one text", lambda v: isinstance(v, str), lambda v: "'The text to read'")  # noqa: ARG005
"""What a model reads."""
ACTIVATIONS = Kind("Activations or a Store", of_class("Activations", "Store"), _make_activations)
"""Rows of activations, in memory or on disk."""
TARGET = Kind(
    "a Table, a column of the rows, or an entry a row",
    lambda value: value is not None and not of_class("Activations", "Store", "Findings", "Baselines")(value),
    _make_table,
)
"""What is to be read out of activations."""
BASELINES = Kind("baselines", of_class("Baselines"), _make_baselines)
"""What stands against a probe."""

GRAPH = Kind("a directed graph", lambda v: hasattr(v, "is_directed"), lambda v: _make_world(v))
"""Which concepts bear on which."""
WORLD = Kind("a graticule.World", of_class("World"), lambda v: _make_world(v))
"""Concepts whose joint distribution is known."""
SETTINGS = Kind(
    "a World, a Setting, or several of them",
    lambda v: all(of_class("World", "Setting")(one) for one in (v if isinstance(v, list | tuple) else [v])),
    lambda v: f"simulate({_make_world(v)})",
)
"""What learners are trained on, and how."""
LEARNED = Kind(
    "what train_tables returns",
    of_class("Learned"),
    lambda v: "train_tables([Contexts.complete(world)])",  # noqa: ARG005
)
"""Trained tables."""
TRAINING = Kind("a Training", of_class("Training"), lambda v: "Training(steps=2000)")  # noqa: ARG005
"""How tables are trained."""
PLAN = Kind("a Plan", of_class("Plan"), lambda v: "quick=True, or a Plan")  # noqa: ARG005
"""What a certificate goes through."""
CONCEPTS = Kind("the numbers of concepts", lambda v: _are_whole(v), lambda v: "(0, 1)")  # noqa: ARG005
"""Some of a world's concepts."""
POINTS = Kind("a whole number of at least 1", lambda v: _are_whole([v]) and v >= 1, lambda v: "40")  # noqa: ARG005
"""How many points a curve has."""
DRAWN = Kind(
    "a seed, or a numpy Generator",
    lambda v: hasattr(v, "integers") or (_are_whole([v]) and v >= 0),
    lambda v: "seed=0",  # noqa: ARG005
)
"""Where draws come from."""
FACTOR = Kind(
    "one array of probabilities a concept",
    lambda v: hasattr(v, "__len__") and not isinstance(v, str) and all(hasattr(one, "__len__") for one in v),
    lambda v: "World.random(4)",  # noqa: ARG005
)
"""Conditional tables of a world."""

NEURONS = Kind(
    "(layer, index) pairs",
    lambda v: (
        hasattr(v, "__iter__") and not isinstance(v, str) and not (isinstance(v, tuple) and _are_whole(v))
    ),
    lambda v: repr([v]) if isinstance(v, tuple) and len(v) == 2 else "[(3, 17)]",
)
"""Neurons of a model."""
BY = Kind(
    "a column of the table, or a label a row", lambda v: isinstance(v, str | int) or hasattr(v, "__len__"),
    lambda v: "'COLUMN'",  # noqa: ARG005
)  # fmt: skip
"""What parts a table into blocks."""
CONFIG = Kind(
    "what an SAE is made of", lambda v: v is not None,
    lambda v: "{'architecture': 'topk', 'd_sae': 4096, 'k': 32}",  # noqa: ARG005
)  # fmt: skip
"""The architecture of a dictionary, or a SAELens config."""
SAE = Kind(
    "a SAELens SAE, its folder or a run",
    lambda value: not _is_model(value) or hasattr(value, "encode"),
    lambda value: "SAE.load_from_disk('FOLDER'), or the folder",  # noqa: ARG005
)
"""A dictionary; what else it must be, its own reader says."""

_ANYWHERE = {"prompt": PROMPT, "out": FOLDER.or_none(), "store": FOLDER.or_none()}
"""Kinds of arguments that are the same in every call."""
_THINGS = (MODEL, TABLE, FINDINGS, FINDINGS_OR_PROBE, ACTIVATIONS, BASELINES)
"""Kinds that nothing else is taken for: one in another's place says which is missing."""
_FINDINGS = (FINDINGS.fits, FINDINGS_OR_PROBE.fits)


def came(value: Any) -> str:
    """A value for people: short words and paths whole, anything else by its class."""
    if isinstance(value, str | PathLike):
        shown = repr(str(value))
        return shown if len(shown) <= 60 else f"{shown[:50]}…' ({len(shown) - 2:,} characters)"
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    return f"a {type(value).__name__}"


def door(**kinds: Kind) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A function that looks at its arguments before it begins.

    Findings come before a model; the other order, which was that of 0.1, works with a `DeprecationWarning`.

    Args:
        **kinds: The kind of each argument that has one, by its name.

    Returns:
        A decorator. What it makes raises `TypeError` in one line for an argument of another kind, and
        `LimitError` (a ValueError) for a number outside its range, `OtherModelError` (a ValueError) for
        findings of another model than the one given, `MaskedError` (a ValueError) for arrays with masked
        entries.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)
        name = _call(function, signature)
        every = {**{n: kind for n, kind in _ANYWHERE.items() if n in signature.parameters}, **kinds}
        ranged = [p for p in signature.parameters if p in LIMITS and p not in kinds]

        pair = _findings_and_model(signature, kinds)

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            places, named = _findings_first(name, args, kwargs, pair) if pair else (args, kwargs)
            try:
                given = signature.bind_partial(*places, **named)
            except TypeError as error:
                near = _meant([*list(signature.parameters)[: len(places)], *named], signature, kinds)
                raise TypeError(f"{name}: {error}; it takes {_takes(name, signature)}{near}") from None
            _check_kinds(name, signature, given.arguments, every)
            _need_all(name, signature, given.arguments, kinds)
            for argument, value in given.arguments.items():
                unmasked(f"{name}: {argument}", value)
            for argument in ranged:
                if argument in given.arguments:
                    _check_number(argument, given.arguments[argument], signature)
            if outermost():
                _tell_hooks(name, given.arguments, kinds)
            with one_call():
                _check_same_model(name, given.arguments, kinds)
                return function(*given.args, **given.kwargs)

        return checked

    return decorate


def _check_number(argument: str, value: Any, signature: inspect.Signature) -> None:
    """A number in its range; None only where the call says that it takes it."""
    if value is None and signature.parameters[argument].annotation in (int, float, "int", "float"):
        raise LimitError(argument, value, LIMITS[argument].words)
    check(argument, value)


def _call(function: Callable[..., Any], signature: inspect.Signature) -> str:
    """What is called, for people: a function's name, a class, or `Class.method` of a class method."""
    *_, owner, own = ("", *function.__qualname__.split("."))
    if own == "__init__":
        return owner
    return f"{owner}.{own}" if next(iter(signature.parameters), "") == "cls" else own


def _takes(name: str, signature: inspect.Signature) -> str:
    """The call with the arguments that it cannot do without: `probe(model, table, …)`."""
    needed, others = _needed(signature), [p for p in signature.parameters if p not in _OWN]
    return f"{name}({', '.join(needed)}{', …' if len(needed) < len(others) else ''})"


def _needed(signature: inspect.Signature) -> list[str]:
    """Arguments without a default."""
    packed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    every = signature.parameters.values()
    return [p.name for p in every if p.default is p.empty and p.kind not in packed and p.name not in _OWN]


def _need_all(
    name: str, signature: inspect.Signature, given: Mapping[str, Any], kinds: Mapping[str, Kind]
) -> None:
    """**Raises** `TypeError` for an argument that is not there, saying what to write."""
    for argument in _needed(signature):
        if argument not in given:
            raise TypeError(f"{name}: {_lacking(argument, kinds)}; it takes {_takes(name, signature)}")


def _lacking(argument: str, kinds: Mapping[str, Kind]) -> str:
    """That an argument is not there, and what to write."""
    kind = kinds.get(argument)
    return f"{argument} is missing" + (f": expected {kind.what}, {kind.write(None)}" if kind else "")


def _meant(given: Sequence[str], signature: inspect.Signature, kinds: Mapping[str, Kind]) -> str:
    """The argument that an unknown one was meant to be, `; did you mean n_tokens?`, or those there are."""
    unknown = next((argument for argument in given if argument not in signature.parameters), None)
    if unknown is None:
        return ""
    whole = [p for p in signature.parameters if unknown in p.split("_") or p in unknown.split("_")]
    near = whole or difflib.get_close_matches(unknown, signature.parameters, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    lacking = [a for a in _needed(signature) if a not in given and a in kinds]
    write = f"; {_lacking(lacking[0], kinds)}" if lacking else ""
    others = [p for p in signature.parameters if p not in (*_OWN, *_needed(signature))]
    return f"{write}; its other arguments are {', '.join(others)}" if others else write


def _findings_and_model(
    signature: inspect.Signature, kinds: Mapping[str, Kind]
) -> tuple[str, str, Kind] | None:
    """The names of a call's first two arguments and the first one's kind, where these are findings and a
    model."""
    first, second = [*signature.parameters, "", ""][:2]
    if (
        first in kinds
        and second in kinds
        and kinds[first].fits in _FINDINGS
        and kinds[second].fits is _is_model
    ):
        return first, second, kinds[first]
    return None


def _findings_first(
    call: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], pair: tuple[str, str, Kind]
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Arguments in their order, also where the model came first, as it did in 0.1."""
    findings, model, kind = pair
    if not args or kind.fits(args[0]) or not _is_model(args[0]):
        return args, kwargs
    if len(args) > 1 and kind.fits(args[1]):
        args = (args[1], args[0], *args[2:])
    elif findings in kwargs and model not in kwargs:
        args, kwargs = (kwargs[findings], *args), {k: v for k, v in kwargs.items() if k != findings}
    else:
        return args, kwargs
    old_name(f"{call}({model}, {findings})", f"{call}({findings}, {model})")
    return args, kwargs


def _check_kinds(
    name: str, signature: inspect.Signature, given: Mapping[str, Any], kinds: Mapping[str, Kind]
) -> None:
    for argument, kind in kinds.items():
        if argument not in given or kind.takes(given[argument]):
            continue
        value = given[argument]
        if value is None and signature.parameters[argument].default is None:
            continue
        swapped = [o for o, other in kinds.items() if other.fits(value) and kind.fits(given.get(o))]
        if swapped:
            order = ", ".join(p for p in signature.parameters if p in (argument, swapped[0]))
            raise TypeError(f"{name}: {argument} is {came(value)}: swap the two, {name}({order})")
        if any(
            other.fits(value) and o in _needed(signature) and o not in given
            for o, other in kinds.items()
            if other in _THINGS
        ):
            raise TypeError(f"{name}: {_lacking(argument, kinds)}; it takes {_takes(name, signature)}")
        beside = [
            o
            for o, other in kinds.items()
            if other.fits(value) and given.get(o) is not None and not other.takes(given[o])
        ]
        if beside:
            raise TypeError(
                f"{name}: {argument} is {came(given[beside[0]])}, in the place of {beside[0]}; expected "
                f"{kind.what}: {kind.write(given[beside[0]])}"
            )
        raise TypeError(f"{name}: {argument} is {came(value)}; expected {kind.what}: {kind.write(value)}")


def _tell_hooks(name: str, given: Mapping[str, Any], kinds: Mapping[str, Kind]) -> None:
    from graticule.hooks.identity import tell_hooks

    for argument, kind in kinds.items():
        if kind.fits is _is_model and given.get(argument) is not None:
            tell_hooks(given[argument], name)


def _check_same_model(name: str, given: Mapping[str, Any], kinds: Mapping[str, Kind]) -> None:
    """Findings and a model go together where the findings are of that model, or say of none."""
    from graticule.hooks.same_model import check_model

    models = [given[a] for a, kind in kinds.items() if kind.fits is _is_model and given.get(a) is not None]
    found = [given[a] for a, kind in kinds.items() if kind.fits in _FINDINGS and FINDINGS.fits(given.get(a))]
    for model, findings in zip(models, found, strict=False):
        if about := findings.provenance.get("activations"):
            check_model(f"{name}: these findings", about, model)


def several_inputs(call: str, inputs: Any) -> Any:
    """Inputs as they are, a pandas Series or an array of texts as a list.

    Raises:
        TypeError: One text, whose letters would be taken for texts; a table, or texts among other things.
    """
    if isinstance(inputs, str | bytes):
        raise TypeError(f"{call}: inputs is one text, {came(inputs)}; expected several: [text]")
    if hasattr(inputs, "iloc") and hasattr(inputs, "columns"):
        raise TypeError(f"{call}: inputs is a DataFrame; expected texts: frame['COLUMN'].tolist()")
    if of_class("Table")(inputs):
        raise TypeError(f"{call}: inputs is a Table; expected texts: table.texts")
    if hasattr(inputs, "tolist") and getattr(inputs, "dtype", None) is not None and _holds_texts(inputs):
        return inputs.tolist()
    if not hasattr(inputs, "__len__") or isinstance(inputs, dict | set):
        raise TypeError(f"{call}: inputs is {came(inputs)}; expected a list of texts, or of token rows")
    return inputs


def several_texts(argument: str, texts: Any) -> Any:
    """Texts as they are.

    Raises:
        TypeError: One text, or what has no length: a generator is read but once.
    """
    if isinstance(texts, str | bytes) or not hasattr(texts, "__len__") or isinstance(texts, dict | set):
        write = f"[{argument}]" if isinstance(texts, str | bytes) else f"list({argument})"
        raise TypeError(f"{argument} is {came(texts)}; expected a list of texts: {write}")
    return texts


def _holds_texts(values: Any) -> bool:
    return hasattr(values, "iloc") or getattr(values.dtype, "kind", "") in "OUT"


def texts_of(values: Any) -> list[str] | None:
    """The texts of a sequence, or None where it holds anything else."""
    given = values.tolist() if hasattr(values, "tolist") else list(values)
    return given if given and all(isinstance(value, str) for value in given) else None
