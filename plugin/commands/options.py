"""What the commands share: options, logs, and errors on one line."""

import dataclasses
import errno
import functools
import inspect
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperCommand

from graticule.hooks.limits import LIMITS, LimitError, check
from graticule.hooks.messages import visible
from graticule.hooks.names import user_path

_SAME_AS = {"tokens": "n_tokens", "activation_tokens": "n_activation_tokens"}


class Checked(TyperCommand):
    """A command whose numbers are judged by the ranges of the calls they go to, before anything is loaded."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command.

        Raises:
            ValueError: A number is outside its range; the option is named.
        """
        ctx.params.update({k: user_path(v) for k, v in ctx.params.items() if isinstance(v, Path)})
        for option, value in {str(k): v for k, v in ctx.params.items()}.items():
            argument = _SAME_AS.get(option, option)
            if argument in LIMITS and not isinstance(value, str):
                try:
                    check(argument, value, self.name or "")
                except LimitError as error:
                    name = "--" + option.replace("_", "-")
                    raise ValueError(f"{name} {error.value}: expected {error.expected}") from None
        _check_words(ctx.params)
        return super().invoke(ctx)


def _check_words(params: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a model, prompt or folder that no run could use."""
    model, prompt, out = params.get("model"), params.get("prompt"), params.get("out")
    if isinstance(model, str) and not model.strip():
        raise ValueError(f"--model {model!r}: expected a name, a folder or a .gguf file")
    if prompt:
        from graticule.hooks.tokens import check_prompt

        check_prompt(prompt)
    if isinstance(out, Path) and not out.suffix:
        _check_writable(out)


def _check_writable(out: Path) -> None:
    """Raise `ValueError` where a folder that is not there yet could not be made."""
    place = next(parent for parent in (out, *out.absolute().parents) if parent.exists())
    if place == out or not place.is_dir():
        return
    try:
        tempfile.TemporaryFile(dir=place).close()  # without a name: a kill leaves nothing
    except OSError as error:
        why = "" if error.errno == errno.ENOENT else f" ({error.strerror})"
        raise ValueError(f"--out {out}: nothing can be written in {place}{why}; name another place") from None


def say(words: object, err: bool = False) -> None:
    """Print `words`; control characters, and what hides or turns a line, are seen as escapes."""
    typer.echo(visible(_as_options(str(words)), lines=True), err=err)


def _as_options(words: str) -> str:
    """Advice to give an argument of a call, `give more steps=`, as the option that it is here."""
    more = re.sub(r"\bgive more (\w+)=", lambda match: f"give more --{match[1].replace('_', '-')}", words)
    return in_options(more)


def say_aside(line: str) -> None:
    """A line on stderr: what is being done."""
    say(line, err=True)


class _Handler(logging.Handler):
    """Log lines that do not tear progress bars apart."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm.auto import tqdm

        tqdm.write(visible(_as_options(self.format(record)), lines=True), file=sys.stderr)


def show_logs(verbose: bool) -> bool:
    """Send the package's log to stderr: warnings, and with `verbose` what it is doing."""
    log = logging.getLogger("graticule")
    if not any(isinstance(handler, _Handler) for handler in log.handlers):
        handler = _Handler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        log.addHandler(handler)
    if verbose or log.level == logging.NOTSET:
        log.setLevel(logging.INFO if verbose else logging.WARNING)
    return verbose


Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", callback=show_logs, help="Say what is being done, on stderr.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, float16, or auto (the faster here).")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda …; by default CUDA where there is one.")]
Out = Annotated[Path, typer.Option("--out", help="The folder to write.")]
Calibrate = Annotated[
    int | None,
    typer.Option(
        help="Synthetic targets of each kind for the smallest detectable gain; 0 leaves it out. "
        "By default 100 up to 5,000 training rows, none beyond.",
        show_default=False,
    ),
]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """`function` for the command line: a parameter that is a dataclass of options is written out as its
    fields, and `--verbose` and `--debug` are there, which act in their callback and in `cli.main`."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)}
    empty = inspect.Parameter.empty
    options: list[tuple[str, Any, Any]] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name not in groups:
            options.append((parameter.name, hints[parameter.name], parameter.default))
            continue
        fields_of = get_type_hints(group := groups[parameter.name], include_extras=True)
        for field in dataclasses.fields(group):
            default = empty if field.default is dataclasses.MISSING else field.default
            options.append((field.name, fields_of[field.name], default))
    options += [("verbose", Verbose, False), ("debug", Debug, False)]

    @functools.wraps(function)
    def run(**words: Any) -> None:
        del words["verbose"], words["debug"]
        for name, group in groups.items():
            words[name] = group(**{field.name: words.pop(field.name) for field in dataclasses.fields(group)})
        function(**words)

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(name, keyword, annotation=kind, default=default) for name, kind, default in options
    ]
    setattr(run, "__signature__", inspect.Signature(parameters))  # noqa: B010 (no attribute of a function's type)
    run.__annotations__ = {name: kind for name, kind, _ in options}
    return run


def need_folder(out: Path) -> None:
    """Refuse an `out` that is a file: before the long work, not after it."""
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"--out {out} is a file; name a folder")


_OPTIONS = (
    (r"kind='(\w+)'", r"--kind \1"),
    (r"positive=('[^']*')", r"--positive \1"),
    (r"the split be drawn anew by clusters", "the split be drawn anew by clusters (no --split-column)"),
    (r"cluster='auto'", "--cluster-column auto"),
    (r"say which with cluster=, a column", "say which with --cluster-column, a column"),
    (r"split=\)", "--split-column)"),
    (r"sweep\(…, alphas=…\)", "sweep(…, alphas=…) in Python"),
    (r"say with cluster= which", "say with --cluster-column which"),
    (r"on_bad='(\w+)'", r"--on-bad \1"),
    (r"text='([^']+)', target='([^']+)'", r"--text-column '\1' --target '\2'"),
    (r"give a split=", "give --split-column"),
    (r", or pass pandas\.read_csv\(FILE[^)]*\)", ""),
    (r" text= ", " --text-column "),
    (r", pandas\.\w+\(df\[[^]]*\]\)[\w.()]*", ", in a column of the file"),
    (r" with pandas\.\w+\(df\[[^]]*\]\)[\w.()]*", " in a column of the file"),
    (r", df\[[^]]*\]\.astype\(str\),", " in the file,"),
)
"""What a message of a table says to write in Python, and what is written on a command line instead."""


def in_options(words: str) -> str:
    """What a message about a table says to write, as the command line writes it."""
    for python, option in _OPTIONS:
        words = re.sub(python, option, words)
    return words


def debugging(arguments: Sequence[str]) -> bool:
    """Whether errors are to be shown whole: asked for anywhere on the line, or by GRATICULE_DEBUG."""
    return "--debug" in arguments or os.environ.get("GRATICULE_DEBUG", "") not in ("", "0")


def one_line(error: BaseException) -> str:
    """An error's own words on one line; kinds that nobody foresaw are named."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        words = f"no space left on the disk{f' for {error.filename}' if error.filename else ''}"
    elif isinstance(error, OSError) and error.strerror and error.filename:
        words = f"{error.strerror}: {error.filename}"
    elif hasattr(error, "format_message"):  # what the command-line parser raises
        context: Any = getattr(error, "ctx", None)
        words = str(getattr(error, "format_message")())  # noqa: B009
        if hasattr(error.__cause__, "errors"):  # what typer has checked names no value
            words = words.replace("Input should be", f"{_given(error.__cause__)!r}: it should be").split(
                ", unable"
            )[0]
        words += f" See '{context.command_path} --help'." if context else ""
    elif isinstance(error, KeyError) and type(error).__str__ is KeyError.__str__:
        words = str(error.args[0]) if error.args else "KeyError"
    else:
        words = str(error)
        foreseen = isinstance(error, ValueError | LookupError | OSError | ImportError | TypeError)
        if not foreseen or not words.strip():
            words = f"{type(error).__name__}: {words or 'no message'} (--debug shows where)"
    return visible(in_options(words) if type(error).__name__ == "TableError" else words)


def _given(error: Any) -> Any:
    return error.errors()[0].get("input")
