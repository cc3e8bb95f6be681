"""`graticule demo`, `probe`, `study` and `words`: verdicts on what a model represents, and their pages."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from graticule.commands import arguments as a
from graticule.commands import options as o
from graticule.hooks.limits import check

_QUICK = 5000  # training rows up to which a calibration takes a minute at most


def demo_command(
    rows: Annotated[int, typer.Option(help="Rows of each table.")] = 3000,
    full: Annotated[bool, typer.Option("--full", help="All rows.")] = False,
    out: o.Out = Path("graticule-demo"),
    model: Annotated[str, a.MODEL] = "gemma-3-270m",
    calibrate: o.Calibrate = None,
    seed: Annotated[int, typer.Option(help="Seed of the rows drawn and of the twin.")] = 0,
) -> None:
    """Space and time in a small language model, on one page.

    Both packaged tables, baselines with one untrained twin, and a verdict on each.

    \b
    Example:  graticule demo --rows 1000 --out my-demo
    """
    import graticule
    from graticule.hooks.kinds import working_folder
    from graticule.report import page_in, write_page
    from graticule.results import DEMO

    _need_several(calibrate)
    DEMO.check(out)
    page_in(out)
    tables = [graticule.Table.packaged(name) for name in ("world_cities", "historical_figures")]
    tables = tables if full else [table.head(rows, seed) if rows < len(table) else table for table in tables]
    o.say(f"loading {model}", err=True)
    loaded = graticule.load_model(model)
    judged: list[Any] = []
    with working_folder(out, DEMO, "running the demo in"):
        for table in tables:
            o.say(f"probing {table.name}: {len(table):,} rows", err=True)
            findings = graticule.probe(loaded, table, twins=1, seed=seed, out=out / table.name, progress=True)
            calibrated = _calibrated(findings, out / table.name, calibrate, seed)
            judged.append(replace(calibrated, swept=None))  # not held beside the next table's twin
        page = write_page(judged, page_in(out), title=f"graticule demo: {model}")
    for findings in judged:
        o.say(f"{findings.title}\n{findings.summary()}\n")
    labels = "; ".join(f"{table.name}: {f.verdict.label}" for table, f in zip(tables, judged, strict=True))
    o.say(f"{labels}. The page: {page}")


def probe_command(
    model: a.ModelOptions,
    table: a.TableOptions,
    out: o.Out,
    where: a.PointOptions,
    tokens: a.PositionOptions,
    twins: Annotated[int, typer.Option(help="Untrained twins among the baselines.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of splits, draws and twins.")] = 0,
    score: Annotated[
        str | None,
        typer.Option(
            help="What the gain is measured in: 'bits' (of classes) or 'r2'; by default what suits."
        ),
    ] = None,
    min_gain: Annotated[
        float | None,
        typer.Option(help="Smallest gain called structure: .01 of R², or 1% of the labels' entropy in bits."),
    ] = None,
    crossfit: Annotated[
        bool | None,
        typer.Option(
            "--crossfit/--one-split",
            help="Test every row; by default where no split came with the table and its test part is small.",
            show_default=False,
        ),
    ] = None,
    calibrate: o.Calibrate = None,
) -> None:
    """Probe every layer for your targets: a verdict and a page.

    Activations, baselines and probes are left in the folder; the same command run again resumes.

    \b
    Example:  graticule probe --model gemma-3-270m --table places.csv --text-column name
                --target latitude:lat --target longitude:lon --split-column is_test
                --block-column country --out places
    """
    from graticule.hooks.kinds import working_folder
    from graticule.probes.core.findings import FINDINGS
    from graticule.report import page_in

    settings = where.arguments() | tokens.arguments()
    _need_several(calibrate)
    FINDINGS.check(out)
    page_in(out)
    import graticule

    model.check_depth(settings["points"], settings["layers"])
    entities = table.read(seed)
    settings |= {"twins": twins, "seed": seed, "score": score, "min_gain": min_gain, "crossfit": crossfit}
    hooked = model.load()
    with working_folder(out, FINDINGS, "probing into"):
        findings = graticule.probe(hooked, entities, **settings, out=out, progress=True)
        findings = _calibrated(findings, out, calibrate, seed)
        page = findings.report(page_in(out))
    o.say(f"{o.in_options(findings.summary())}\nThe page: {page}")


def _need_several(targets: int | None) -> None:
    """Refuse one synthetic target, of which there is no rate."""
    if targets == 1:
        raise ValueError("--calibrate 1: expected 0 to leave it out, or at least 2 targets of each kind")


def _calibrated(findings: Any, out: Path, targets: int | None, seed: int) -> Any:
    """The findings with the smallest detectable gain; measured once, and kept."""
    import graticule
    from graticule.hooks.messages import NotApplicable
    from graticule.probes.calibration.result import detected

    if targets is None:
        targets = 100 if len(findings.inputs.problem.train) <= _QUICK else 0
    if targets == 0 or findings.limit_of_detection is not None:
        return findings
    o.say("measuring the smallest detectable gain", err=True)
    try:
        calibration = graticule.calibrate(findings, targets=targets, seed=seed, progress=True)
    except NotApplicable as reason:
        o.say(f"left out: {reason}", err=True)
        return findings
    calibration.save(out / "calibration", overwrite=True)
    calibrated = detected(findings, calibration)
    calibrated.save(out, overwrite=True)
    return calibrated


def study_command(
    model: a.ModelOptions,
    table: a.TableOptions,
    out: o.Out,
    tokens: a.PositionOptions,
    popularity_column: Annotated[
        str | None, typer.Option(help="Column with page views, population or the like.")
    ] = None,
    only: Annotated[
        str, typer.Option(help="Steps to run beside the probe, comma-separated.", show_default=False)
    ] = "",
    skip: Annotated[str, typer.Option(help="Steps to leave out, comma-separated.", show_default=False)] = "",
    compare_prompt: Annotated[
        list[str] | None,
        typer.Option(help="A prompt to compare, NAME=TEMPLATE; may be repeated.", show_default=False),
    ] = None,
    prompt_rows: Annotated[int, typer.Option(help="Rows for the comparison of prompts.")] = 5000,
    sae: Annotated[
        list[str] | None,
        typer.Option(help="A SAELens folder, or NAME=FOLDER; may be repeated.", show_default=False),
    ] = None,
    synthetic_targets: Annotated[
        int, typer.Option(help="Synthetic targets of each kind in the calibration.")
    ] = 200,
    targets: Annotated[
        int | None, typer.Option(hidden=True, help="The old name of --synthetic-targets.")
    ] = None,
    retests: Annotated[
        int | None,
        typer.Option(
            help="Other splits on which the verdict is asked again; by default 5 up to 2,000 training rows.",
            show_default=False,
        ),
    ] = None,
    twins: Annotated[int, typer.Option(help="Untrained twins among the controls.")] = 3,
    paper_compat: Annotated[
        bool, typer.Option("--paper-compat", help="Also score as the paper's code does.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of everything drawn.")] = 0,
) -> None:
    """The whole battery: probe, calibration, controls, hold-outs, causes, pages.

    Steps: calibrate, retest, controls, layers, mlp, pca, classes, sphere, holdouts, prompts, popularity,
    latents, neurons, attribution, directions, erase, causes, compat. Every step leaves its results in the
    folder; the same command run again goes on where it was. Exit code 1: a step failed, and the others are
    whole.

    \b
    Example:  graticule study --model gemma-3-270m --table historical_figures --out figures
              graticule study --model gemma-3-270m --table places.csv --text-column name
                --target latitude:lat --target longitude:lon --only controls,holdouts --out places
    """
    capturing, names = tokens.arguments(), [a.read_names(only), a.read_names(skip)]
    templates, folders = a.read_assignments(compare_prompt or (), "--compare-prompt"), a.read_saes(sae or ())
    from graticule.studies.running import chosen_steps, study
    from graticule.studies.steps import STUDY, Settings

    chosen_steps(*names)
    STUDY.check(out)
    entities = table.read(seed)
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
        retests=retests,
        twins=twins,
        paper_compat=paper_compat,
        seed=seed,
    )
    settings.check_names(entities)
    o.say(f"loading {model.model}", err=True)
    options: dict[str, Any] = {"only": names[0], "skip": names[1], "settings": settings, **capturing}
    made = study(model.load(), entities, out=out, **options, progress=True, say=o.say_aside)
    o.say(f"{made.summary()}\nThe pages: {out / 'report.html'}")
    if made.failed:
        count = "1 step" if len(made.failed) == 1 else f"{len(made.failed)} steps"
        typer.echo(f"graticule: {count} failed: {', '.join(made.failed)}; the others are whole", err=True)
        raise typer.Exit(1)


def words_command(
    model: a.ModelOptions,
    out: o.Out = Path("runs/words"),
    pairs: Annotated[
        Path | None, typer.Option(help="Folder of '[a - b].txt' files, a tab between the words of a pair.")
    ] = None,
    contexts: Annotated[
        Path | None,
        typer.Option(help="Parallel contexts, one language per column; the packaged ones by default."),
    ] = None,
    n_bootstrap: Annotated[int, typer.Option(help="Draws of every null and bootstrap.")] = 1000,
    draws: Annotated[int | None, typer.Option(help="The old name of --n-bootstrap.", hidden=True)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of nulls and bootstraps.")] = 0,
) -> None:
    """Set counterfactual word pairs against each other in the unembedding.

    Three pages, each kept as it is made: concepts against concepts under the Euclidean, whitened and causal
    inner product; languages in contexts against languages in the vocabulary; ambiguous words. The lists are
    packaged unless given.

    \b
    Example:  graticule words --model gemma-3-270m --out words
    """
    import graticule
    from graticule.hooks.identity import model_identity
    from graticule.hooks.kinds import working_folder
    from graticule.hooks.result import check_beforehand
    from graticule.probes.words.ambiguous import Ambiguous, ambiguous
    from graticule.probes.words.languages import Languages, languages
    from graticule.probes.words.vocabulary import (
        default_texts,
        final_residuals,
        pair_lists,
        parallel_contexts,
    )
    from graticule.probes.words.words import Words
    from graticule.results import WORDS

    WORDS.check(out)
    for read, path in ((pair_lists, pairs), (parallel_contexts, contexts)):
        read(path)  # what is wrong with them is said before a model is loaded
    hooked = model.load()
    if draws is not None:
        o.say(f"--draws is --n-bootstrap now ({draws}); the old name goes with 0.3", err=True)
        n_bootstrap = draws
    shared: dict[str, Any] = {"n_bootstrap": n_bootstrap, "seed": seed, "progress": True}
    makers: dict[str, Callable[[], Any]] = {
        "words": lambda: graticule.words(hooked, pairs, **shared),
        "languages": lambda: languages(hooked, contexts, pairs=pairs, **shared),
        "ambiguous": lambda: ambiguous(hooked, **shared),
    }
    with working_folder(out, WORDS, "writing into"):
        for name, kind in {"words": Words, "languages": Languages, "ambiguous": Ambiguous}.items():
            check_beforehand(out / name, kind, model=str(model_identity(hooked)["name"]))
        # the whitened product's covariance, made once for the three
        shared["residuals"] = final_residuals(hooked, default_texts(), "all")["ln_final"].double().numpy()
        for name, make in makers.items():
            result = make()
            result.save(out / name)
            page = result.report(out / f"{name}.html")
            o.say(f"{result.summary()}\nThe page: {page}\n")
