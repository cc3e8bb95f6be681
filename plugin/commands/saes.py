"""`graticule sae …`: sparse autoencoders trained, evaluated and read."""

from itertools import pairwise, product
from pathlib import Path
from typing import Annotated, Any

import typer

from graticule.commands import arguments as a
from graticule.commands import options as o

_MANY = "may be repeated, for an SAE each from one stream."


def sae_train_command(
    out: o.Out,
    model: Annotated[
        str | None,
        typer.Option(
            help="gemma-3-270m (packaged), a Hugging Face folder, a .gguf file, or a name; with --corpus."
        ),
    ] = None,
    hook_name: Annotated[
        list[str] | None,
        typer.Option(help=f"Hook point, e.g. blocks.9.hook_resid_post; {_MANY}", show_default=False),
    ] = None,
    corpus: Annotated[
        str | None, typer.Option(help="Texts: .txt, .jsonl, .parquet, a folder of them, or a saved dataset.")
    ] = None,
    text_column: Annotated[str | None, typer.Option(help="Column of the corpus that holds texts.")] = None,
    store: Annotated[
        Path | None, typer.Option(help="An activation store in place of model and corpus.")
    ] = None,
    architecture: Annotated[
        str,
        typer.Option(
            help="bricken, topk, abstopk, batchtopk, matryoshka (matryoshka_batchtopk), jumprelu, standard, "
            "gated, matching_pursuit, or another that SAELens trains."
        ),
    ] = "topk",
    d_sae: Annotated[
        list[int] | None,
        typer.Option(help=f"Latents; 8 a dimension by default; {_MANY}", show_default=False),
    ] = None,
    k: Annotated[
        list[float] | None,
        typer.Option(
            help=f"Latents a token: topk, batchtopk, matryoshka (100 by default); {_MANY}", show_default=False
        ),
    ] = None,
    l1: Annotated[
        list[float] | None,
        typer.Option(
            help="Sparsity coefficient: L1 of standard, gated (1) and bricken (.004 beside a mean squared "
            f"error), L0 of jumprelu (1); {_MANY}",
            show_default=False,
        ),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(help="Tokens to train on: needed with --model; of a store all.", show_default=False),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Tokens a step.")] = 4096,
    lr: Annotated[
        float | None,
        typer.Option(help="Adam's learning rate; 3e-4, for bricken 1e-4.", show_default=False),
    ] = None,
    lr_warm_up_steps: Annotated[
        int | None,
        typer.Option(help="A twentieth of the run, at most 1,000; bricken: none.", show_default=False),
    ] = None,
    lr_decay_steps: Annotated[
        int | None,
        typer.Option(
            help="Last steps, linearly to 0: a fifth of the run; bricken: none.", show_default=False
        ),
    ] = None,
    sparsity_warm_up_steps: Annotated[
        int | None,
        typer.Option(
            help="Until the whole sparsity coefficient: a twentieth of the run; bricken: none.",
            show_default=False,
        ),
    ] = None,
    context_size: Annotated[
        int | None,
        typer.Option(help="Tokens a context, BOS included; 128 by default.", show_default=False),
    ] = None,
    tokens_per_context: Annotated[
        int | None,
        typer.Option(
            help="Draw so many tokens from every context (the paper: 250); all by default.",
            show_default=False,
        ),
    ] = None,
    buffer_tokens: Annotated[
        int | None,
        typer.Option(help="Tokens mixed together, in memory; 131,072 by default.", show_default=False),
    ] = None,
    max_norm: Annotated[
        str,
        typer.Option(
            help="Leave out rows whose norm is over so many times the median (attention sinks); none for all."
        ),
    ] = "10",
    epochs: Annotated[int, typer.Option(help="How often the data may be read.")] = 1,
    resample_steps: Annotated[
        str | None,
        typer.Option(
            help="Steps after which dead latents are resampled, e.g. 5000,10000, or none. bricken: 25,000 to "
            "100,000 as in the paper, four times in the first half of shorter runs; others: none.",
            show_default=False,
        ),
    ] = None,
    resample_tokens: Annotated[
        int | None,
        typer.Option(
            help="Tokens whose losses choose: 819,200 by default, or the buffer.", show_default=False
        ),
    ] = None,
    resample_subtract_bias: Annotated[
        bool,
        typer.Option(
            "--resample-subtract-bias",
            help="Take new directions from inputs less the decoder's bias; pays where those have a mean.",
        ),
    ] = False,
    normalize: Annotated[
        str,
        typer.Option(help="none, or SAELens's expected_average_only_in, folded into the weights at the end."),
    ] = "none",
    b_dec_init_method: Annotated[
        str,
        typer.Option(help="What the decoder's bias starts at: geometric_median, mean, or SAELens's zeros."),
    ] = "geometric_median",
    dtype: Annotated[str, typer.Option(help="The model's: float32, bfloat16 or float16.")] = "float32",
    compute_dtype: Annotated[
        str, typer.Option(help="Of the SAE's dense products: float32, bfloat16, or auto (the faster).")
    ] = "float32",
    device: o.Device = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, shuffling and resampling.")] = 0,
    checkpoint_minutes: Annotated[float, typer.Option(help="Minutes between checkpoints.")] = 10.0,
    wandb: Annotated[
        str | None, typer.Option(help="Weights & Biases project to log to; off by default.")
    ] = None,
) -> None:
    """Train sparse autoencoders on a model's activations.

    The SAE is left in OUT/sae as SAELens's own folder. The same command run again goes on from the last
    checkpoint, exactly; Ctrl-C leaves one. Options given several times train every combination on the same
    tokens, each in a folder of its own.

    \b
    Example:  graticule sae train --model gemma-3-270m --hook-name blocks.9.hook_resid_post
                --corpus texts.txt --architecture batchtopk --d-sae 5120 --k 32 --tokens 2000000 --out my-sae
    """
    o.need_folder(out)
    if (store is None) == (model is None):
        raise ValueError("give either --model (with --corpus and --hook-name) or --store")
    if store is not None and corpus is not None:
        raise ValueError("--corpus is read by a model; a --store holds its activations already")
    if model is not None and (corpus is None or not hook_name or tokens is None):
        given = {"--corpus": corpus, "--hook-name": hook_name, "--tokens": tokens}
        lacking = [name for name, value in given.items() if not value and value != 0]
        raise ValueError(f"--model needs {' and '.join(lacking)} too")
    import graticule
    from graticule import saes
    from graticule.loading.gguf import check_depth
    from graticule.saes.training.folder import call_words, check_call
    from graticule.saes.training.settings import Optimisation

    options: dict[str, Any] = {"tokens_per_context": tokens_per_context, "buffer_tokens": buffer_tokens}
    options = {name: value for name, value in options.items() if value is not None}
    options["max_norm"] = a.read_max_norm(max_norm)
    if model is not None:
        options["column"] = text_column
    fixed = {"architecture": architecture}
    if normalize != "none":
        fixed["normalize_activations"] = normalize
    start: Any = b_dec_init_method
    how = Optimisation(
        lr=lr,
        lr_warm_up_steps=lr_warm_up_steps,
        lr_decay_steps=lr_decay_steps,
        sparsity_warm_up_steps=sparsity_warm_up_steps,
        b_dec_init_method=start,
    )
    asked: dict[str, Any] = {
        "config": combinations(fixed, {"d_sae": d_sae, "k": k, "l1": l1}),
        "hook_name": hook_name or None,
        "corpus": corpus,
        "n_tokens": tokens,
        "batch_size": batch_size,
        "context_size": context_size,
        "epochs": epochs,
        "stream": options,
        "optimisation": how,
        "resampling": read_resampling(resample_steps, resample_tokens, resample_subtract_bias),
        "compute_dtype": compute_dtype,
        "seed": seed,
    }
    if model is not None:
        check_depth(model, hook_name or ())
    check_call(out, call_words(**asked))
    run = saes.train(
        store if model is None else graticule.load_model(model, dtype=dtype, device=device),
        out=out,
        device=device,
        checkpoint_minutes=checkpoint_minutes,
        logger=_logger(wandb),
        progress=True,
        **asked,
    )
    folders = [one.sae_folder for one in (run.parts or {"": run}).values()]
    o.say(f"{run.summary()}\nFor SAELens: {', '.join(map(str, folders))}")


def combinations(fixed: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """One config, or, where values are given several times, every combination under a name of its own."""
    lists = {name: values for name, values in given.items() if values}
    several = [name for name, values in lists.items() if len(values) > 1]
    made = [{**fixed, **dict(zip(lists, chosen, strict=True))} for chosen in product(*lists.values())]
    if not several:
        return made[0]
    return {"-".join(f"{name}_{config[name]:g}" for name in several): config for config in made}


def read_resampling(
    steps: str | None, tokens: int | None, subtract_bias: bool = False
) -> dict[str, Any] | str | None:
    """`--resample-steps` and what goes with them as `train` takes them; a latent is dead that has not fired
    for half the shortest time between two resamplings.

    Raises:
        ValueError: for words that are no steps.
    """
    if steps is None:
        if tokens is not None or subtract_bias:
            name = "--resample-subtract-bias" if tokens is None else "--resample-tokens"
            raise ValueError(f"{name} needs --resample-steps")
        return "default"
    if steps.strip() == "none":
        return None
    try:
        numbers = sorted({int(part) for part in steps.split(",")})
    except ValueError:
        raise ValueError(f"--resample-steps {steps!r}: expected steps like 5000,10000, or none") from None
    gaps = [later - earlier for earlier, later in pairwise([0, *numbers])]
    settings: dict[str, Any] = {"steps": tuple(numbers), "window": max(1, min(gaps) // 2)}
    settings["subtract_bias"] = subtract_bias
    return settings if tokens is None else {**settings, "sample_size": tokens}


def _logger(project: str | None) -> Any:
    if project is None:
        return None
    from sae_lens.config import LoggingConfig

    return LoggingConfig(log_to_wandb=True, wandb_project=project, log_weights_to_wandb=False)
