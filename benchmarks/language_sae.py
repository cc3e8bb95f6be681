"""A TopK SAE on a language model: `graticule.saes.train` beside SAELens's own runner, from the same texts.

    python benchmarks/language_sae.py --corpus news.parquet --out RUNS --json language_sae.json

Both train on the same contexts, with the same model, config, learning rate (constant after its warm-up),
batch and buffer; what differs is graticule's default start of the decoder's bias, and speed. Compared are
both after `--tokens` tokens, and ours with the checkpoint that SAELens had reached in the minutes that ours
took: those of the whole call, which reads texts, runs the model, trains and writes; loading is not counted.

`--held-out` texts, spread over the file, are kept aside; on them every SAE is measured by
`graticule.saes.evaluate`, with the model in float32, and ours by SAELens's `run_evals` with
`--saelens-evals`. Finished runs in RUNS are read, not run again.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from _timing import parser, show, write

from graticule import load_model
from graticule.saes.evaluation.evaluate import evaluate
from graticule.saes.training.settings import Optimisation
from graticule.saes.training.train import train

FIGURES = ("explained_variance", "loss_recovered_zero", "loss_recovered_mean", "kl", "l0", "dead_fraction")


def main() -> None:
    """Train, measure, print, write."""
    options = parser(__doc__, repeats=1)
    options.add_argument("--corpus", type=Path, required=True, help="Parquet with a column `text`")
    options.add_argument("--out", type=Path, required=True, help="folder of the runs")
    options.add_argument("--model", default="gemma-3-270m")
    options.add_argument("--hook-name", default="blocks.9.hook_resid_post")
    options.add_argument("--tokens", type=int, default=2**20)
    options.add_argument("--d-sae", type=int, default=5120)
    options.add_argument("--k", type=int, default=32)
    options.add_argument("--batch", type=int, default=2048)
    options.add_argument("--lr", type=float, default=1e-3)
    options.add_argument("--context-size", type=int, default=128)
    options.add_argument("--buffer", type=int, default=2**17, help="rows mixed together")
    options.add_argument("--dtype", default="bfloat16", help="of the model in training, both runs'")
    options.add_argument("--checkpoints", type=int, default=32, help="of SAELens's run")
    options.add_argument("--held-out", type=int, default=400, help="texts kept aside for measuring")
    options.add_argument("--eval-tokens", type=int, default=20_000)
    options.add_argument("--saelens-evals", action="store_true")
    args = options.parse_args()
    warnings.filterwarnings("ignore", module="sae_lens")
    args.out.mkdir(parents=True, exist_ok=True)
    texts = pd.read_parquet(args.corpus)["text"].tolist()
    apart = set(range(0, len(texts), len(texts) // args.held_out))
    train_texts = [text for i, text in enumerate(texts) if i not in apart]
    test_texts = [texts[i] for i in sorted(apart)]
    runs = {"graticule": ours, "SAELens": saelens}
    model = None
    if not all((args.out / f"{name}.json").is_file() for name in runs):
        model = load_model(args.model, dtype=args.dtype, device="cpu")
    minutes = {name: timed(args.out / name, run, model, args, train_texts) for name, run in runs.items()}
    folders = {name: args.out / name / "sae" for name in runs}
    tokens = dict.fromkeys(runs, args.tokens)
    reached = checkpoints(args)
    then = [n for n, when in reached.items() if when <= minutes["graticule"]]
    if then:
        name = "SAELens, same minutes"
        folders[name] = args.out / "SAELens" / "checkpoints" / str(then[-1])
        minutes[name], tokens[name] = reached[then[-1]], then[-1]
    model = load_model(args.model, device="cpu")
    found = {name: measured(model, args, name, folder, test_texts) for name, folder in folders.items()}
    rows = [
        {
            "run": name,
            "minutes": minutes[name],
            "tokens": tokens[name],
            **{key: found[name][key] for key in FIGURES},
        }
        for name in folders
    ]
    show(rows, f"{args.model}, {args.hook_name}, TopK k {args.k}, d_sae {args.d_sae}, batch {args.batch}")
    write(args, {"minutes": minutes, "evaluations": found, "rows": rows})


def timed(
    folder: Path,
    run: Callable[[Any, Any, Path, list[str]], None],
    model: Any,
    args: Any,
    texts: list[str],
) -> float:
    """Minutes that a run took, now or when it was made."""
    told = folder.with_suffix(".json")
    if not told.is_file():
        begun = folder.with_suffix(".begun")
        begun.write_text(json.dumps(time.time()))
        run(model, args, folder, texts)
        told.write_text(json.dumps((time.time() - float(json.loads(begun.read_text()))) / 60))
    return float(json.loads(told.read_text()))


def checkpoints(args: Any) -> dict[int, float]:
    """Tokens of SAELens's checkpoints, and the minutes after which they were there."""
    begun = float(json.loads((args.out / "SAELens.begun").read_text()))
    folder = args.out / "SAELens" / "checkpoints"
    files = {int(file.parent.name): file for file in folder.glob("*/sae_weights.safetensors")}
    return {n: (files[n].stat().st_mtime - begun) / 60 for n in sorted(files)}


def ours(model: Any, args: Any, folder: Path, texts: list[str]) -> None:
    """`graticule.saes.train`, live from the model."""
    steps = args.tokens // args.batch
    train(
        model,
        corpus=texts,
        hook_name=args.hook_name,
        config={"architecture": "topk", "d_sae": args.d_sae, "k": args.k},
        optimisation=Optimisation(lr=args.lr, lr_warm_up_steps=steps // 20, lr_decay_steps=0),
        n_tokens=args.tokens,
        batch_size=args.batch,
        context_size=args.context_size,
        stream={"buffer_tokens": args.buffer, "dtype": "float32"},
        out=folder,
        progress=True,
    )


def saelens(model: Any, args: Any, folder: Path, texts: list[str]) -> None:
    """SAELens's runner with the same settings."""
    from datasets import Dataset
    from sae_lens import LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner, TopKTrainingSAEConfig
    from sae_lens.config import LoggingConfig

    steps, prompts = args.tokens // args.batch, 16
    config = LanguageModelSAERunnerConfig(
        sae=TopKTrainingSAEConfig(d_in=model.cfg.d_model, d_sae=args.d_sae, k=args.k),
        model_name=args.model,
        hook_name=args.hook_name,
        streaming=False,
        is_dataset_tokenized=False,
        context_size=args.context_size,
        n_batches_in_buffer=max(1, args.buffer // (prompts * args.context_size)),
        store_batch_size_prompts=prompts,
        training_tokens=args.tokens,
        train_batch_size_tokens=args.batch,
        exclude_special_tokens=True,
        lr=args.lr,
        lr_warm_up_steps=steps // 20,
        dead_feature_window=min(1000, steps // 4),
        logger=LoggingConfig(log_to_wandb=False),
        n_checkpoints=args.checkpoints,
        checkpoint_path=str(folder / "made"),
        output_path=str(folder / "sae"),
        device="cpu",
    )
    dataset = Dataset.from_dict({"text": texts})
    LanguageModelSAETrainingRunner(config, override_dataset=dataset, override_model=model).run()
    made = next((folder / "made").iterdir())  # under a name drawn at random
    made.rename(folder / "checkpoints")
    for part in (folder / "checkpoints").iterdir():
        part.rename(part.with_name(part.name.removeprefix("final_")))


def measured(model: Any, args: Any, name: str, folder: Path, texts: list[str]) -> dict[str, Any]:
    """Our evaluation of an SAE on the held-out texts."""
    told = args.out / f"{name} measured.json"
    if not told.is_file():
        result = evaluate(model, folder, texts, n_tokens=args.eval_tokens, progress=True)
        figures = {k: v for k, v in result.figures_by_name().items() if isinstance(v, int | float)}
        if args.saelens_evals and name == "graticule":
            figures |= by_saelens(model, args, folder, texts)
        told.write_text(json.dumps(figures))
    return dict(json.loads(told.read_text()))


def by_saelens(model: Any, args: Any, folder: Path, texts: list[str]) -> dict[str, float]:
    """The figures of SAELens's own evaluator, on as many tokens of the same texts."""
    from datasets import Dataset
    from sae_lens import SAE, ActivationsStore
    from sae_lens.evals import get_eval_everything_config, run_evals
    from sae_lens.training.activation_scaler import ActivationScaler

    sae: Any = SAE.load_from_disk(folder)
    prompts = 8
    batches = max(1, args.eval_tokens // (prompts * args.context_size))
    store = ActivationsStore.from_sae(
        model,
        sae,
        dataset=Dataset.from_dict({"text": texts}),
        context_size=args.context_size,
        streaming=False,
        store_batch_size_prompts=prompts,
        n_batches_in_buffer=2,
        exclude_special_tokens=True,
    )
    settings = get_eval_everything_config(
        batch_size_prompts=prompts,
        n_eval_reconstruction_batches=batches,
        n_eval_sparsity_variance_batches=batches,
    )
    special = set(model.tokenizer.all_special_ids)
    told, _ = run_evals(sae, store, model, ActivationScaler(), settings, ignore_tokens=special)
    return {f"saelens {k}": v for part in told.values() for k, v in part.items() if isinstance(v, float)}


if __name__ == "__main__":
    main()
