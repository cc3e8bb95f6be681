"""`graticule push`: a SAE, a run or a probe on the Hugging Face Hub."""

# ruff: noqa: ARG001 (--debug and --verbose act in `graticule.cli.main` and in their callbacks)

from pathlib import Path
from typing import Annotated

import typer

from graticule import options as o


def push(
    run: Annotated[
        Path, typer.Argument(help="A run, a SAELens folder, findings, a probe, or a folder of several.")
    ],
    repo: Annotated[str, typer.Option(help="Where to: OWNER/NAME.")],
    sae_id: Annotated[
        str | None, typer.Option(help="Folder in the repository; the hook name by default.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Leave a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch; main by default.")] = None,
    licence: Annotated[
        str | None, typer.Option("--license", help="The Hub's identifier: mit, apache-2.0, gemma …")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="The model's id on the Hub; as TransformerLens has it by default.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print files, sizes and card; touch nothing.")
    ] = False,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Publish on the Hugging Face Hub: public by default; --private leaves it private.

    A new repository is private until what comes back is what was sent, and is made public only then.
    The login is the Hub's own: 'hf auth login', or HF_TOKEN in the environment. The same command run again
    finishes what was interrupted.

    \b
    Example:  graticule push runs/topk --repo user/my-saes --license mit
    """
    from graticule.hub import push as publish

    done = publish(
        run,
        repo,
        sae_id=sae_id,
        private=private,
        revision=revision,
        licence=licence,
        base_model=base_model,
        dry_run=dry_run,
    )
    o.say(done.summary())
