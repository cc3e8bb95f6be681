"""Public calls: their memory of what was worked out, plain torch, old names, and what arguments are to be.

The memory begins with the outermost call, and ends with it. Torch computes as in a fresh process, whatever
the session around the call has switched on.
"""

from __future__ import annotations

import difflib
import inspect
import sys
import warnings
from collections.abc import Callable, Generator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import wraps
from itertools import permutations
from typing import Any, ParamSpec, TypeVar, cast
from weakref import WeakKeyDictionary

import torch

from graticule.hooks.forms import OptionForm, check_form, forms, plain_number
from graticule.hooks.limits import LIMITS, LimitError, as_boolean, check, range_of
from graticule.hooks.messages import came as came

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_memory: ContextVar[MutableMapping[Any, Any] | None] = ContextVar("graticule_call", default=None)


@contextmanager
def one_call() -> Generator[None]:
    """A public call: inside it, what is worked out of an object need not be worked out again, and torch
    computes `plainly`."""
    if _memory.get() is not None:
        yield
        return
    begun = _memory.set(WeakKeyDictionary())
    try:
        with plainly():
            yield
    finally:
        _memory.reset(begun)


def outermost() -> bool:
    """Whether no public call is under way."""
    return _memory.get() is None


def memory() -> MutableMapping[Any, Any]:
    """What this call remembers, by object, none of which it keeps alive; outside a call, nothing at all."""
    current = _memory.get()
    return WeakKeyDictionary() if current is None else current


_AUTOCAST = ("cpu", "cuda", "mps", "xpu")
"""Devices whose autocast is switched off."""


@contextmanager
def plainly(*, inference: bool = False) -> Generator[None]:
    """Inside, nothing is cast to another dtype, and float32 is the default; all is as before after it.

    Activations are of the dtype that their model is in. Under `torch.autocast` they would be of another, and
    be off by as much as that rounds, and under a default dtype of float64 what a forward makes anew would be.

    Args:
        inference: Whether inference mode, which changes no values, may stay on. Tensors made in it cannot be
            used outside it as others can.
    """
    default = torch.get_default_dtype()
    with ExitStack() as stack:
        for device in _AUTOCAST:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if not inference and torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(mode=False))
        try:
            torch.set_default_dtype(torch.float32)
            yield
        finally:
            torch.set_default_dtype(default)


def products() -> dict[str, Any]:
    """How torch multiplies float32 matrices, where that is not in float32: for what is kept.

    Users choose it for a machine, and it is left as they chose it.
    """
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # torch's older and newer switches were both used
        precision = "mixed"
    return {} if precision == "highest" else {"float32_products": precision}


def old_name(old: str, new: str, what: str = "name") -> None:
    """Warn, where the caller's code stands, that a form of 0.1 was used, which works for one version."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and _is_ours(frame.f_globals.get("__name__", "")):
        frame, level = frame.f_back, level + 1
    warnings.warn(f"{old} is the old {what} of {new} and goes in 0.3", DeprecationWarning, stacklevel=level)


def _is_ours(module: str) -> bool:
    """Whether a frame stands between a call of ours and its caller."""
    return module.split(".")[0] in ("graticule", "jaxtyping", "beartype", "contextlib")


def renamed(*positional: str, **old: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A public call that 0.1 took in other forms: these work, with a `DeprecationWarning`.

    Args:
        positional: Options that are given by name now and could be given by position, in their old order.
        old: Old keyword → the new one.

    Returns:
        A decorator, the outermost of the call's. The call raises `TypeError` where an option is given twice.
    """

    def decorate(call: Callable[P, R]) -> Callable[P, R]:
        places = _places(call)
        title = call.__qualname__.split(".")[-2] if call.__name__ == "__init__" else call.__name__

        @wraps(call)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            for before in old.keys() & kwargs.keys():
                now = old[before]
                if now in kwargs:
                    raise TypeError(f"{title}: {before}= is the old name of {now}=: give one of them")
                old_name(f"{title}({before}=)", f"{now}=")
                kwargs[now] = kwargs.pop(before)
            if not 0 < len(args) - places <= len(positional):
                return call(*args, **kwargs)
            named = dict(zip(positional, args[places:], strict=False))
            if twice := named.keys() & kwargs.keys():
                raise TypeError(f"{title}: {min(twice)} is given twice, by position and by name")
            old_name(f"{title}: {', '.join(named)} by position", ", ".join(f"{n}=" for n in named), "form")
            return cast("Callable[..., R]", call)(*args[:places], **named, **kwargs)

        return wrapper

    return decorate


def renamed_fields(**old: str) -> Callable[[type[T]], type[T]]:
    """A public class whose attributes 0.1 called otherwise: the old ones work, with a `DeprecationWarning`.

    Args:
        old: Old attribute → the new one. Where that is a field, the constructor takes the old keyword too.

    Returns:
        A decorator, the outermost of the class's.
    """

    def decorate(cls: type[T]) -> type[T]:
        fields = inspect.signature(cls).parameters
        taken = {before: now for before, now in old.items() if now in fields}
        if taken:
            type.__setattr__(cls, "__init__", renamed(**taken)(cls.__init__))
        for before, now in old.items():
            type.__setattr__(cls, before, _old_attribute(cls.__name__, before, now))
        return cls

    return decorate


def _old_attribute(owner: str, before: str, now: str) -> property:
    def read(self: Any) -> Any:
        old_name(f"{owner}.{before}", now)
        return getattr(self, now)

    return property(read, doc=f"The old name of `{now}`.")


def _places(call: Callable[..., Any]) -> int:
    """How many arguments a call takes by position."""
    kinds = [p.kind for p in inspect.signature(call).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return sys.maxsize
    return sum(kind is not inspect.Parameter.KEYWORD_ONLY for kind in kinds)


_OWN = ("self", "cls")


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


def _fit_in_another_order(given: Mapping[str, Any], kinds: Mapping[str, Kind]) -> bool:
    """Whether arguments that do not fit their own places, three of them or more, fit one another's."""
    wrong = [n for n, kind in kinds.items() if not kind.takes(given[n])]
    return 2 < len(wrong) < 6 and any(
        all(kinds[name].takes(given[other]) for name, other in zip(wrong, order, strict=True))
        for order in permutations(wrong)
    )


class Call:
    """A function whose arguments are looked at before it begins."""

    def __init__(self, function: Callable[..., Any], kinds: Mapping[str, Kind]) -> None:
        self.signature, self.kinds = inspect.signature(function), kinds
        self._module = getattr(inspect.unwrap(function), "__globals__", {})
        parameters = self.signature.parameters
        *_, owner, own = ("", *function.__qualname__.split("."))
        of_class = own if next(iter(parameters), "") != "cls" else f"{owner}.{own}"
        self.name = owner if own == "__init__" else of_class
        """For people: a function's name, a class, or `Class.method` of a class method."""
        packed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        self._others = [p for p in parameters if p not in _OWN]
        self._needed = [
            p.name
            for p in parameters.values()
            if p.default is p.empty and p.kind not in packed and p.name not in _OWN
        ]
        booleans = (bool, bool | None, "bool", "bool | None")
        self._booleans = [p.name for p in parameters.values() if p.annotation in booleans]
        self._ranged = [
            p for p in parameters if (p in LIMITS or f"{self.name}.{p}" in LIMITS) and p not in kinds
        ]
        self._plain = [p for p in self._others if p not in kinds and p not in self._booleans]
        self._forms: dict[str, OptionForm | None] | None = None

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        """The arguments by name.

        Raises:
            TypeError: One is unknown or given twice, saying which may have been meant.
        """
        try:
            return self.signature.bind_partial(*args, **kwargs)
        except TypeError as error:
            near = self._meant([*list(self.signature.parameters)[: len(args)], *kwargs])
            options = [p.name for p in self.signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
            if len(args) > (places := len(self.signature.parameters) - len(options)) and options:
                near = f"; give by name {', '.join(f'{n}=' for n in options[: len(args) - places])}"
            raise TypeError(f"{self.name}: {error}; it takes {self._takes}{near}") from None

    def need_all(self, given: Mapping[str, Any]) -> None:
        """Raises:
        TypeError: For an argument that is not there, saying what to write.
        """
        for argument in self._needed:
            if argument not in given:
                raise TypeError(f"{self.name}: {self._lacking(argument)}; it takes {self._takes}")

    def take_options(self, given: MutableMapping[str, Any]) -> None:
        """What an option's annotation says it may be; one number as a number of Python.

        Raises:
            WrongKindError: For a value of another kind.
            LimitError: For a number outside its range; for None where the call takes none; for several where
                it takes one.
        """
        if self._forms is None:  # once, as names of the module may be made after the call
            hints = {name: self.signature.parameters[name] for name in self._plain}
            packed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
            self._forms = {
                name: None if p.kind in packed else forms(p.annotation, self._module)
                for name, p in hints.items()
            }
        for argument in self._plain:
            if argument not in given:
                continue
            form, value = self._forms[argument], given[argument]
            if form is not None and form.number:
                value = given[argument] = plain_number(value)
            if argument in self._ranged:
                self._check_number(argument, value, form)
            elif form is not None and argument not in self._needed:
                check_form(f"{self.name}: {argument}", value, form)

    def _check_number(self, argument: str, value: Any, form: OptionForm | None) -> None:
        optional = self.signature.parameters[argument].default is None
        if value is None and form is not None and not (optional or form.fits(None)):
            raise LimitError(argument, value, range_of(argument, self.name).words)
        check(argument, value, self.name, several=form is not None and form.several)

    def take_booleans(self, given: MutableMapping[str, Any]) -> None:
        """What stands for True or False as that; None where the call takes it.

        Raises:
            TypeError: It is anything else.
        """
        for argument in self._booleans:
            if argument not in given:
                continue
            parameter, value = self.signature.parameters[argument], given[argument]
            if value is None and parameter.annotation not in (bool, "bool"):
                continue
            given[argument] = as_boolean(f"{self.name}: {argument}", value)

    def check_kinds(
        self, given: Mapping[str, Any], kinds: Mapping[str, Kind], things: Sequence[Kind]
    ) -> None:
        """Refuse what is of another kind.

        Args:
            given: The arguments by name.
            kinds: Their kinds.
            things: Kinds that nothing else is taken for: one in another's place says which is missing.

        Raises:
            TypeError: saying what came and what to write.
        """
        for argument, kind in kinds.items():
            if argument not in given or kind.takes(given[argument]):
                continue
            value = given[argument]
            if value is None and self.signature.parameters[argument].default is None:
                continue
            alike = {name: other for name, other in kinds.items() if other.fits(value)}
            swapped = [name for name in alike if kind.fits(given.get(name))]
            order = ", ".join(
                p for p in self.signature.parameters if p in {argument, *self._needed, *swapped[:1]}
            )
            if swapped:
                raise TypeError(
                    f"{self.name}: {argument} is {came(value)}: swap the two, {self.name}({order})"
                )
            if _fit_in_another_order(given, {n: k for n, k in kinds.items() if given.get(n) is not None}):
                raise TypeError(
                    f"{self.name}: {argument} is {came(value)}: the order is {self.name}({order})"
                )
            if any(n in self._needed and n not in given for n, other in alike.items() if other in things):
                raise TypeError(f"{self.name}: {self._lacking(argument)}; it takes {self._takes}")
            beside = [
                n for n, other in alike.items() if given.get(n) is not None and not other.takes(given[n])
            ]
            if beside:
                raise TypeError(
                    f"{self.name}: {argument} is {came(given[beside[0]])}, in the place of {beside[0]}; "
                    f"expected {kind.what}: {kind.write(given[beside[0]])}"
                )
            raise TypeError(
                f"{self.name}: {argument} is {came(value)}; expected {kind.what}: {kind.write(value)}"
            )

    @property
    def _takes(self) -> str:
        """The call with the arguments that it cannot do without: `probe(model, table, …)`."""
        more = ", …" if len(self._needed) < len(self._others) else ""
        parameters = self.signature.parameters
        needed = [
            f"{n}=…" if parameters[n].kind is inspect.Parameter.KEYWORD_ONLY else n for n in self._needed
        ]
        return f"{self.name}({', '.join(needed)}{more})"

    def _lacking(self, argument: str) -> str:
        """That an argument is not there, and what to write."""
        kind = self.kinds.get(argument)
        return f"{argument} is missing" + (f": expected {kind.what}, {kind.write(None)}" if kind else "")

    def _meant(self, given: Sequence[str]) -> str:
        """The argument that an unknown one was meant for, `; did you mean n_tokens?`, or those there are."""
        parameters = self.signature.parameters
        unknown = next((argument for argument in given if argument not in parameters), None)
        if unknown is None:
            return ""
        whole = [p for p in parameters if unknown in p.split("_") or p in unknown.split("_")]
        if near := whole or difflib.get_close_matches(unknown, parameters, n=1):
            return f"; did you mean {near[0]}?"
        lacking = [a for a in self._needed if a not in given and a in self.kinds]
        write = f"; {self._lacking(lacking[0])}" if lacking else ""
        others = [p for p in self._others if p not in self._needed]
        return f"{write}; its other arguments are {', '.join(others)}" if others else write
