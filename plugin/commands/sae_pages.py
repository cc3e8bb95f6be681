"""`graticule sae eval` and `graticule sae report`: an SAE measured, and its page."""

from pathlib import Path
from typing import Annotated, Any

import typer

from graticule.commands import arguments as a
from graticule.commands import options as o

_FOLDER = typer.Argument(help="A run that 'graticule sae train' left, or a SAELens folder.")


def sae_eval_command(
    folder: Annotated[Path, _FOLDER],
    corpus: Annotated[
        str,
        typer.Option(
            help="Texts that were not trained on: .txt, .jsonl, .parquet, a folder, a saved dataset."
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="gemma-3-270m (packaged), a Hugging Face folder, a .gguf file, or a name; by default what "
            "the SAE's metadata names.",
            show_default=False,
        ),
    ] = None,
    text_column: Annotated[str | None, typer.Option(help="Column of the corpus that holds texts.")] = None,
    tokens: Annotated[int, typer.Option(help="Tokens on which losses are taken.")] = 20_000,
    activation_tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens on which the rest is measured, where that is to be more.", show_default=False
        ),
    ] = None,
    features: Annotated[int, typer.Option(help="Features to show, the first that fire; 0 for none.")] = 50,
    losses: Annotated[bool, typer.Option(help="Take the model's losses too.")] = True,
    hook_name: Annotated[
        str | None, typer.Option(help="Hook point, where the SAE's metadata names none.", show_default=False)
    ] = None,
    context_size: Annotated[
        int | None, typer.Option(help="Tokens a context; the SAE's own by default.", show_default=False)
    ] = None,
    max_norm: Annotated[
        str,
        typer.Option(
            help="Leave out rows whose norm is over so many times the median; none for all, trained for as "
            "the SAE was trained."
        ),
    ] = "trained",
    out: Annotated[
        Path | None, typer.Option(help="The folder to write; a run's own by default.", show_default=False)
    ] = None,
    dtype: o.Dtype = "float32",
    device: o.Device = None,
    seed: Annotated[int, typer.Option(help="Seed of intervals and of random directions.")] = 0,
) -> None:
    """Measure an SAE: reconstruction, loss recovered, and the state of its dictionary.

    Leaves evaluation/, evaluation.json (the figures by name) and features/ in the run's folder; 'graticule
    sae report' lays them out. A run of several SAEs is measured one by one.

    \b
    Example:  graticule sae eval my-sae --model gemma-3-270m --corpus heldout.txt
    """
    import graticule
    from graticule.hooks.coders import find_sae, metadata
    from graticule.hooks.locks import only_here
    from graticule.hooks.replacing import tidy
    from graticule.saes.evaluation.evaluate import evaluate, write_evaluation
    from graticule.saes.features.examine import examine

    longest: Any = a.read_max_norm(max_norm, trained=True)
    folders = runs_in(folder)
    if out is not None:
        o.need_folder(out)
    elif (folder / "cfg.json").is_file():
        raise ValueError(f"{folder} is a SAELens folder: say with --out where its evaluation goes")
    sources = [find_sae(one) for one in folders]
    named = model or metadata(sources[0].sae, "model_name")
    if named is None:
        raise ValueError("the SAE's metadata names no model: say which with --model")
    loaded = graticule.load_model(str(named), dtype=dtype, device=device)
    shared: dict[str, Any] = {
        "n_tokens": tokens,
        "hook_name": hook_name,
        "column": text_column,
        "context_size": context_size,
        "max_norm": longest,
        "progress": True,
    }
    how: dict[str, Any] = {"n_activation_tokens": activation_tokens, "losses": losses, "seed": seed}
    for one in folders:
        home = out or one
        home = home / one.name if out and len(folders) > 1 else home
        with only_here(home, "evaluating into"):
            tidy(home)
            result = evaluate(loaded, one, corpus, **how, **shared)
            written = write_evaluation(result, home)
            if features:
                examine(loaded, one, corpus, n=features, **shared).save(home / "features", overwrite=True)
        o.say(f"{result.title}\n{result.summary()}\nThe figures: {written}\n")


def sae_report_command(
    folder: Annotated[Path, typer.Argument(help="A run, or the --out of 'graticule sae eval'.")],
) -> None:
    """Write an SAE's page: training curves, evaluation, and the first features; no model is needed.

    \b
    Example:  graticule sae report my-sae
    """
    from graticule.report import page_in, write_page

    parts = page_parts(folder)
    if not parts:
        raise FileNotFoundError(
            f"{folder} holds neither a run nor an evaluation; 'graticule sae train' and 'graticule sae eval' "
            "leave them"
        )
    title = None if len(parts) == 1 else f"SAE: {folder.resolve().name}"
    page = write_page(parts, page_in(folder), title=title)
    o.say(f"The page: {page}")


def runs_in(folder: Path) -> list[Path]:
    """The folder itself, or the runs of one SAE each inside a run of several.

    Raises:
        FileNotFoundError: if there is neither.
    """
    if (folder / "cfg.json").is_file() or (folder / "sae" / "cfg.json").is_file():
        return [folder]
    inside = sorted(p.parent.parent for p in folder.glob("*/sae/cfg.json"))
    if not inside:
        raise FileNotFoundError(
            f"{folder} holds no SAE: expected a SAELens folder (cfg.json), or a complete run (sae/cfg.json)"
        )
    return inside


def page_parts(folder: Path) -> list[Any]:
    """What is saved in a folder, in page order: the run, then its evaluation and features, part by part."""
    from graticule.saes.evaluation.result import SaeEvaluation
    from graticule.saes.features.result import SaeFeatures

    parts: list[Any] = []
    if (folder / "run.json").is_file():
        from graticule.saes.training.run import Run

        parts.append(Run.load(folder))
    places = [folder, *sorted(p.parent.parent for p in folder.glob("*/evaluation/manifest.json"))]
    for place in places:
        for name, kind in (("evaluation", SaeEvaluation), ("features", SaeFeatures)):
            if (place / name / "manifest.json").is_file():
                parts.append(kind.load(place / name))
    return parts
