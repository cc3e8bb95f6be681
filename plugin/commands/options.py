"""What the commands share: options, logs, and errors on one line."""

import errno
import logging
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

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
                    check(argument, value)
                except LimitError as error:
                    name = "--" + option.replace("_", "-")
                    raise ValueError(f"{name} {error.value}: expected {error.expected}") from None
        _check_words(ctx.params)
        return super().invoke(ctx)


def _check_words(params: Mapping[str, Any]) -> None:
    """**Raises** `ValueError` for a model, prompt or folder that no run could use."""
    model, prompt, out = params.get("model"), params.get("prompt"), params.get("out")
    if isinstance(model, str) and not model.strip():
        raise ValueError(f"--model {model!r}: expected a name, a folder or a .gguf file")
    if prompt:
        from graticule.hooks.tokens import check_prompt

        check_prompt(prompt)
    if isinstance(out, Path) and not out.suffix:
        _check_writable(out)


def _check_writable(out: Path) -> None:
    """**Raises** `ValueError` where a folder that is not there yet could not be made."""
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
    typer.echo(visible(words, lines=True), err=err)


class _Handler(logging.Handler):
    """Log lines that do not tear progress bars apart."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm.auto import tqdm

        tqdm.write(visible(self.format(record), lines=True), file=sys.stderr)


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
ModelName = Annotated[
    str,
    typer.Option(
        "--model", help="gemma-3-270m (packaged), a local Hugging Face folder, a .gguf file, or a name."
    ),
]
Prompt = Annotated[
    str, typer.Option(help="Text before every row, or a template with one slot {}; a trailing space counts.")
]
Points = Annotated[
    str, typer.Option(help="Hook points, comma-separated: resid_post, mlp_out, blocks.*.hook_…")
]
LayersWords = Annotated[
    str, typer.Option("--layers", help="all, 7, 3,7,11, a slice 0:18:2, or a depth fraction 0.5.")
]
PosWords = Annotated[
    str, typer.Option("--pos", help="last, all, entity, entity_last, entity_mean, an index, or a slice 1:.")
]
PrependBos = Annotated[
    bool | None,
    typer.Option(
        help="Whether texts get special tokens (BOS, [CLS] … [SEP]); by default as the model has it.",
        show_default=False,
    ),
]
IncludeBos = Annotated[
    bool | None,
    typer.Option(
        help="Whether special tokens may be among the tokens of --pos; by default they may.",
        show_default=False,
    ),
]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, float16, or auto (the faster here).")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda …; by default CUDA where there is one.")]
TableName = Annotated[
    str,
    typer.Option(
        "--table",
        help="CSV, Parquet, a datasets folder, a packaged name, or a table of the space-and-time paper, "
        "world_place=FILE.",
    ),
]
Out = Annotated[Path, typer.Option("--out", help="The folder to write.")]
TextColumn = Annotated[str | None, typer.Option(help="Column that the model reads.")]
Targets = Annotated[
    list[str] | None,
    typer.Option(help="Column to read out, NAME[:lat|lon|year|UNIT]; may be repeated.", show_default=False),
]
SplitColumn = Annotated[str | None, typer.Option(help="Column with the split, used as it is.")]
ClusterColumn = Annotated[str | None, typer.Option(help="Column of rows that belong together.")]
Rows = Annotated[int | None, typer.Option(help="Only this many rows, drawn by whole clusters.")]
KindOfTarget = Annotated[
    str | None,
    typer.Option(
        "--kind", help="numeric, binary or categorical; by default as the column tells.", show_default=False
    ),
]
OnBad = Annotated[str, typer.Option(help="Rows with a missing target: 'raise' or 'drop'.")]
Calibrate = Annotated[
    int | None,
    typer.Option(
        help="Synthetic targets of each kind for the gain that would have been seen; 0 leaves it out. "
        "By default 100 up to 5,000 training rows, none beyond.",
        show_default=False,
    ),
]
Blocks = Annotated[
    list[str] | None,
    typer.Option(help="Column of groups for maps and errors; may be repeated.", show_default=False),
]


_OPTIONS = (
    (r"kind='(\w+)'", r"--kind \1"),
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
