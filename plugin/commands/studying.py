"""`graticule study`: the whole battery on one table."""

# ruff: noqa: ARG001 (--debug and --verbose act in `graticule.cli.main` and in their callbacks)

from typing import Annotated

import typer

from graticule import arguments as a
from graticule import options as o
from graticule.hooks.limits import check

_Only = Annotated[
    str, typer.Option(help="Steps to run beside the probe, comma-separated.", show_default=False)
]
_Skip = Annotated[str, typer.Option(help="Steps to leave out, comma-separated.", show_default=False)]
_Compare = Annotated[
    list[str] | None,
    typer.Option(help="A prompt to compare, NAME=TEMPLATE; may be repeated.", show_default=False),
]
_Saes = Annotated[
    list[str] | None,
    typer.Option(help="A SAELens folder, or NAME=FOLDER; may be repeated.", show_default=False),
]


def study(
    model: o.ModelName,
    table: o.TableName,
    out: o.Out,
    text_column: o.TextColumn = None,
    target: o.Targets = None,
    split_column: o.SplitColumn = None,
    cluster_column: o.ClusterColumn = None,
    block_column: o.Blocks = None,
    popularity_column: Annotated[
        str | None, typer.Option(help="Column with page views, population or the like.")
    ] = None,
    only: _Only = "",
    skip: _Skip = "",
    prompt: o.Prompt = "",
    pos: o.PosWords = "last",
    prepend_bos: o.PrependBos = None,
    include_bos: o.IncludeBos = None,
    compare_prompt: _Compare = None,
    prompt_rows: Annotated[int, typer.Option(help="Rows for the comparison of prompts.")] = 5000,
    sae: _Saes = None,
    rows: o.Rows = None,
    synthetic_targets: Annotated[
        int, typer.Option(help="Synthetic targets of each kind in the calibration.")
    ] = 200,
    targets: Annotated[
        int | None, typer.Option(hidden=True, help="The old name of --synthetic-targets.")
    ] = None,
    twins: Annotated[int, typer.Option(help="Untrained twins among the controls.")] = 3,
    paper_compat: Annotated[
        bool, typer.Option("--paper-compat", help="Also score as the paper's code does.")
    ] = False,
    dtype: o.Dtype = "float32",
    device: o.Device = None,
    kind: o.KindOfTarget = None,
    on_bad: o.OnBad = "raise",
    seed: Annotated[int, typer.Option(help="Seed of everything drawn.")] = 0,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """The whole battery: probe, calibration, controls, hold-outs, causes, pages.

    Steps: calibrate, controls, layers, mlp, pca, classes, sphere, holdouts, prompts, popularity, latents,
    neurons, attribution, directions, erase, causes, compat. Every step leaves its results in the folder; the
    same command run again goes on where it was. Exit code 1: a step failed, and the others are whole.

    \b
    Example:  graticule study --model gemma-3-270m --table historical_figures --out figures
              graticule study --model gemma-3-270m --table places.csv --text-column name
                --target latitude:lat --target longitude:lon --only controls,holdouts --out places
    """
    tokens, names = a.read_pos(pos), [a.read_names(only), a.read_names(skip)]
    templates, folders = a.read_pairs(compare_prompt or (), "--compare-prompt"), a.read_saes(sae or ())
    from graticule.studies.running import chosen_steps
    from graticule.studies.running import study as run
    from graticule.studies.settings import Settings
    from graticule.studies.steps import STUDY

    chosen_steps(*names)
    STUDY.check(out)
    entities = a.read_table(
        table,
        text_column,
        target or (),
        split=split_column,
        cluster=cluster_column,
        blocks=block_column or (),
        on_bad=on_bad,
        seed=seed,
        rows=rows,
        kind=kind,
    )
    if targets is not None:
        check("synthetic_targets", targets)
        o.say(f"--targets is --synthetic-targets now ({targets}); the old name goes with 0.3", err=True)
        synthetic_targets = targets
    settings = Settings(
        prompts=templates,
        prompt_rows=prompt_rows,
        popularity=popularity_column,
        saes=folders,
        targets=synthetic_targets,
        twins=twins,
        paper_compat=paper_compat,
        seed=seed,
    )
    settings.check_names(entities)
    import graticule

    o.say(f"loading {model}", err=True)
    loaded = graticule.load_model(model, dtype=dtype, device=device)
    made = run(
        loaded,
        entities,
        out,
        only=names[0],
        skip=names[1],
        settings=settings,
        prompt=prompt,
        pos=tokens,
        prepend_bos=prepend_bos,
        include_bos=include_bos,
        progress=True,
        say=lambda line: o.say(line, err=True),
    )
    o.say(f"{made.summary()}\nThe pages: {out / 'report.html'}")
    if made.failed:
        count = "1 step" if len(made.failed) == 1 else f"{len(made.failed)} steps"
        typer.echo(f"graticule: {count} failed: {', '.join(made.failed)}; the others are whole", err=True)
        raise typer.Exit(1)
