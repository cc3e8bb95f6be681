"""`graticule …`: every command is a call that a notebook could make; this file only reads words and prints.

Nothing heavy is imported before a command needs it: `graticule --help` loads no torch.
"""

import contextlib
import os
import sys
import warnings
from collections.abc import Generator, Sequence
from importlib.metadata import entry_points
from typing import Annotated

import typer

from graticule.commands import options as o
from graticule.commands.data import capture_command, push_command, report_command, tables_command
from graticule.commands.families import family_command, monitor_command
from graticule.commands.probing import demo_command, probe_command, study_command, words_command
from graticule.commands.sae_pages import sae_eval_command, sae_report_command
from graticule.commands.saes import sae_train_command
from graticule.commands.simulating import certify_command, sim_command

app = typer.Typer(
    name="graticule",
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
sae = typer.Typer(
    name="sae",
    help="Sparse autoencoders: trained, evaluated and read; SAELens loads them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> bool:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"graticule {version('graticule')}")
        raise typer.Exit
    return wanted


@app.callback()
def graticule(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Which concepts a language model represents linearly, where, and how far to believe it.

    \b
    Example:  graticule demo
    """


_COMMANDS = {
    "demo": demo_command,
    "probe": probe_command,
    "study": study_command,
    "words": words_command,
    "family": family_command,
    "monitor": monitor_command,
    "sim": sim_command,
    "certify": certify_command,
    "capture": capture_command,
    "tables": tables_command,
    "report": report_command,
    "push": push_command,
}
_SAE_COMMANDS = {"train": sae_train_command, "eval": sae_eval_command, "report": sae_report_command}

for _name, _function in _COMMANDS.items():
    app.command(_name, cls=o.Checked)(o.command(_function))
for _name, _function in _SAE_COMMANDS.items():
    sae.command(_name, cls=o.Checked)(o.command(_function))
app.add_typer(sae)

ENTRY_POINTS = "graticule.commands"
"""The group of entry points in which other packages register commands: functions for Typer."""


def _registered_elsewhere() -> None:
    """Add the commands of other packages; one that cannot be imported is said on standard error."""
    ours = {c.name or getattr(c.callback, "__name__", None) for c in app.registered_commands}
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name in ours:
            continue
        try:
            app.command(entry.name, cls=o.Checked)(entry.load())
        except Exception as error:  # another package's
            o.say(f"graticule: the command {entry.name} ({entry.value}) is left out: {error}", err=True)


@contextlib.contextmanager
def _no_deprecations() -> Generator[None]:
    """Libraries tell each other's authors what they will remove (SAELens imports such modules of
    TransformerLens): no news to whoever runs a command."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", category)
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command: 0; 2 after an error, told in one line; 130 after Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _no_deprecations():
            _registered_elsewhere()
            code = app(args=given or ["--help"], prog_name="graticule", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:  # the reader of a pipe has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if o.debugging(given):
            raise
        o.say(f"graticule: {o.one_line(error)}", err=True)
        return 2
    if code == 130:  # the parser turns Ctrl-C into this code
        words = "interrupted; the same command run again goes on from what is finished"
        typer.echo(f"graticule: {words}", err=True)
    return code if isinstance(code, int) else 0
