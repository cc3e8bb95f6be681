"""`graticule words`: which concepts a model's vocabulary represents linearly."""

# ruff: noqa: ARG001 (--debug and --verbose act in `graticule.cli.main` and in their callbacks)

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from graticule import options as o


def words(
    model: o.ModelName,
    out: Annotated[Path, typer.Option("--out", help="The folder to write.")] = Path("runs/words"),
    pairs: Annotated[
        Path | None, typer.Option(help="Folder of '[a - b].txt' files, a tab between the words of a pair.")
    ] = None,
    contexts: Annotated[
        Path | None,
        typer.Option(help="Parallel contexts, a language a column; the packaged ones by default."),
    ] = None,
    draws: Annotated[int, typer.Option(help="Draws of every null and bootstrap.")] = 1000,
    dtype: o.Dtype = "float32",
    device: o.Device = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of nulls and bootstraps.")] = 0,
    verbose: o.Verbose = False,
    debug: o.Debug = False,
) -> None:
    """Set counterfactual word pairs against each other in the unembedding.

    Three pages, each kept as it is made: concepts against concepts under the Euclidean, whitened and causal
    inner product; languages in contexts against languages in the vocabulary; ambiguous words. The lists are
    packaged unless given.

    \b
    Example:  graticule words --model gemma-3-270m --out words
    """
    import graticule
    from graticule.commands.folders import WORDS
    from graticule.hooks.identity import model_identity
    from graticule.hooks.kinds import working_folder
    from graticule.hooks.question import check_beforehand
    from graticule.probes.words.ambiguous import Ambiguous, ambiguous
    from graticule.probes.words.languages import Languages, languages
    from graticule.probes.words.lists import pair_lists, parallel_contexts
    from graticule.probes.words.vocabulary import default_texts, final_residuals
    from graticule.probes.words.words import Words

    WORDS.check(out)
    for read, path in ((pair_lists, pairs), (parallel_contexts, contexts)):
        read(path)  # what is wrong with them is said before a model is loaded
    loaded = graticule.load_model(model, dtype=dtype, device=device)
    shared: dict[str, Any] = {"draws": draws, "seed": seed, "progress": True}
    makers: dict[str, Callable[[], Any]] = {
        "words": lambda: graticule.words(loaded, pairs, **shared),
        "languages": lambda: languages(loaded, contexts, pairs, **shared),
        "ambiguous": lambda: ambiguous(loaded, **shared),
    }
    with working_folder(out, WORDS, "writing into"):
        for name, kind in {"words": Words, "languages": Languages, "ambiguous": Ambiguous}.items():
            check_beforehand(out / name, kind, model=str(model_identity(loaded)["name"]))
        # the whitened product's covariance, made once for the three
        shared["residuals"] = final_residuals(loaded, default_texts(), "all")["ln_final"].double().numpy()
        for name, make in makers.items():
            result = make()
            result.save(out / name)
            page = result.report(out / f"{name}.html")
            o.say(f"{result.summary()}\nThe page: {page}\n")
