"""What public calls are given, checked at their door: one line says what came and what to write.

`@door(model=MODEL, table=TABLE)` above a function checks those arguments' kinds, and every other argument
whose name stands in `graticule.hooks.limits.LIMITS` against its range, and the rest against their
annotations (`graticule.hooks.forms`), before the function begins. Classes of other rooms are known by name,
so that nothing is imported for it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from numbers import Integral
from os import PathLike
from typing import Any, ParamSpec, TypeVar

from graticule.hooks.calls import Call, Kind, came, old_name, one_call, outermost
from graticule.hooks.values import unmasked

P = ParamSpec("P")
R = TypeVar("R")


def of_class(*names: str) -> Callable[[Any], bool]:
    """Whether a value is an instance of a class of graticule with one of these names."""

    def fits(value: Any) -> bool:
        return any(c.__name__ in names and _is_ours(c) for c in type(value).__mro__)

    return fits


def _is_ours(kind: type) -> bool:
    return kind.__module__.split(".")[0] == "graticule"


def _always(write: str) -> Callable[[Any], str]:
    return lambda _: write


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


def _is_frame(value: Any) -> bool:
    return hasattr(value, "iloc") and hasattr(value, "columns")


def _make_world(value: Any) -> str:
    whole = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return f"graticule.World.random({value if whole else 4})"


def _are_whole(values: Any) -> bool:
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        return False
    return all(not isinstance(one, bool) and isinstance(one, Integral) for one in values)


MODEL = Kind("a loaded model", _is_model, _load_model)
"""A model with named hook points."""
TABLE = Kind("a graticule.Table", of_class("Table"), _make_table)
"""Rows to probe."""
FINDINGS = Kind("findings", of_class("Findings"), _make_findings)
"""What `probe` and `sweep` return."""
FINDINGS_OR_PROBE = Kind("findings or a probe", of_class("Findings", "RidgeProbe"), _make_findings)
"""Findings, or a direction of one's own."""
_COMPARES_ITSELF = {
    "MLPFindings": "its .nonlinearity, which is the MLP against the ridge",
    "ClassProbes": "its .scores, where both probes stand",
    "PCACurve": "its .curve, where every number of components stands",
    "LatentFindings": "result.at('latents', K), of its .predictors",
}
"""Results that are neither findings nor predictions → where their comparison is."""


def _make_compared(value: Any) -> str:
    return _COMPARES_ITSELF.get(type(value).__name__) or _make_findings(value)


COMPARED = Kind(
    "findings, or what `at` of findings returns", of_class("Findings", "Predicted"), _make_compared
)
"""Predictions of test rows."""
FRAME = Kind("a pandas DataFrame", _is_frame, _always("pandas.DataFrame({'column': values})"))
"""Columns beside something else's rows."""
DATA = Kind("a pandas DataFrame, or a file of rows", lambda v: _is_frame(v) or isinstance(v, str | PathLike),
            _always("pandas.DataFrame({'text': texts, 'target': values})"))  # fmt: skip
"""What a table is made of."""
FOLDER = Kind("a folder to write", lambda v: isinstance(v, str | PathLike), _always("'runs/one'"))
"""Where a run leaves what it made."""
PROMPT = Kind(
    "text before every row, or a template with one slot {}",
    lambda v: isinstance(v, str),
    lambda v: repr(v[0]) if isinstance(v, list | tuple) and v and isinstance(v[0], str) else "'The city of'",
)
"""What stands around each text."""
TEXT = Kind("one text", lambda v: isinstance(v, str), _always("'The text to read'"))
"""What a model reads."""
ACTIVATIONS = Kind("Activations or a Store", of_class("Activations", "Store"), _make_activations)
"""Rows of activations, in memory or on disk."""
TARGET = Kind(
    "a Table, a column of the rows, or one entry per row",
    lambda value: value is not None and not of_class("Activations", "Store", "Findings", "Baselines")(value),
    _make_table,
)
"""What is to be read out of activations."""
BASELINES = Kind(
    "baselines",
    of_class("Baselines"),
    _always("graticule.baselines(model, table), or graticule.baselines(None, table) for the strings alone"),
)
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
    _always("train_tables([Contexts.complete(world)])"),
)
"""Trained tables."""
TRAINING = Kind("a Training", of_class("Training"), _always("Training(steps=2000)"))
"""How tables are trained."""
PLAN = Kind("a Plan", of_class("Plan"), _always("quick=True, or a Plan"))
"""What a certificate goes through."""
CONCEPTS = Kind("the numbers of concepts", lambda v: _are_whole(v), _always("(0, 1)"))
"""Some of a world's concepts."""
POINTS = Kind("a whole number of at least 1", lambda v: _are_whole([v]) and v >= 1, _always("40"))
"""How many points a curve has."""
DRAWN = Kind(
    "a seed, or a numpy Generator",
    lambda v: hasattr(v, "integers") or (_are_whole([v]) and v >= 0),
    _always("seed=0"),
)
"""Where draws come from."""
FACTOR = Kind(
    "one array of probabilities a concept",
    lambda v: hasattr(v, "__len__") and not isinstance(v, str) and all(hasattr(one, "__len__") for one in v),
    _always("World.random(4)"),
)
"""Conditional tables of a world."""

NEURONS = Kind(
    "(layer, index) pairs",
    lambda v: (
        hasattr(v, "__len__")
        and not isinstance(v, str | bytes | Mapping)
        and not _is_frame(v)
        and not (isinstance(v, tuple) and _are_whole(v))
    ),
    lambda v: repr([v]) if isinstance(v, tuple) and len(v) == 2 else "[(3, 17)]",
)
"""Neurons of a model."""
BY = Kind(
    "a column of the table, or a label a row", lambda v: isinstance(v, str | int) or hasattr(v, "__len__"),
    _always("'COLUMN'"),
)  # fmt: skip
"""What parts a table into blocks."""
CONFIG = Kind(
    "what an SAE is made of", lambda v: v is not None,
    _always("{'architecture': 'topk', 'd_sae': 4096, 'k': 32}"),
)  # fmt: skip
"""The architecture of a dictionary, or a SAELens config."""
SAE = Kind(
    "a SAELens SAE, its folder or a run",
    lambda value: not _is_model(value) or hasattr(value, "encode"),
    _always("SAE.load_from_disk('FOLDER'), or the folder"),
)
"""A dictionary; what else it must be, its own reader says."""

INPUTS = Kind(
    "texts or token rows",
    lambda v: not _is_model(v),
    _always("capture(model, texts), where texts= says which texts token rows are of"),
)
"""What a model is given."""

_ANYWHERE = {"prompt": PROMPT, "out": FOLDER.or_none(), "store": FOLDER.or_none()}
"""Kinds of arguments that are the same in every call."""
_THINGS = (MODEL, TABLE, FINDINGS, FINDINGS_OR_PROBE, ACTIVATIONS, BASELINES)
"""Kinds that nothing else is taken for: one in another's place says which is missing."""
_FINDINGS = (FINDINGS.fits, FINDINGS_OR_PROBE.fits)


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
        call = Call(function, kinds)
        every = {**{n: kind for n, kind in _ANYWHERE.items() if n in call.signature.parameters}, **kinds}
        pair = _findings_and_model(call.signature, kinds)
        others = any(p.kind is p.VAR_POSITIONAL for p in call.signature.parameters.values())

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            places, named = _findings_first(call.name, args, kwargs, pair) if pair else (args, kwargs)
            if others:
                places, named = _model_by_name(call.name, places, named)
            given = call.bind(places, named)
            call.take_booleans(given.arguments)
            call.check_kinds(given.arguments, every, _THINGS)
            call.need_all(given.arguments)
            for argument, value in given.arguments.items():
                unmasked(f"{call.name}: {argument}", value)
            call.take_options(given.arguments)
            if outermost():
                _tell_hooks(call.name, given.arguments, kinds)
            with one_call():
                _check_same_model(call.name, given.arguments, kinds)
                return function(*given.args, **given.kwargs)

        return checked

    return decorate


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
    old_name(f"{call}({model}, {findings})", f"{call}({findings}, {model})", "form")
    return args, kwargs


def _model_by_name(
    call: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """The arguments of a call of several findings, the model among the first two of them given by name."""
    place = next((i for i, value in enumerate(args[:2]) if _is_model(value)), None)
    if place is None or "model" in kwargs:
        return args, kwargs
    if place == 0 and len(args) > 1:
        old_name(f"{call}(model, findings)", f"{call}(findings, model)", "form")
    return (*args[:place], *args[place + 1 :]), {**kwargs, "model": args[place]}


def _tell_hooks(name: str, given: Mapping[str, Any], kinds: Mapping[str, Kind]) -> None:
    from graticule.hooks.identity import tell_hooks

    for argument, kind in kinds.items():
        if kind.fits is _is_model and given.get(argument) is not None:
            tell_hooks(given[argument], name)


def _check_same_model(name: str, given: Mapping[str, Any], kinds: Mapping[str, Kind]) -> None:
    """Findings and a model go together where the findings are of that model, or say of none."""
    from graticule.hooks.same_model import check_model

    models = [given[a] for a, kind in kinds.items() if kind.fits is _is_model and given.get(a) is not None]
    analysed = [
        given[a] for a, kind in kinds.items() if kind.fits in _FINDINGS and FINDINGS.fits(given.get(a))
    ]
    for model, findings in zip(models, analysed, strict=False):
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
