"""A TopK SAE on a language model: `graticule.saes.train` beside SAELens's own runner, both from the same texts.

    python benchmarks/language_sae.py --corpus news.parquet --out RUNS --json language_sae.json

Three runs on the same contexts with the same config, learning rate, schedule, batch and buffer: ours and
SAELens's on `--tokens` tokens, then ours on as many as fit into the minutes that SAELens's run took. The
`--held-out` texts, spread over the file, are kept aside; on them every SAE is measured by `graticule.saes.evaluate`, and by
SAELens's `run_evals` with `--saelens-evals`. Minutes are those of the whole call: reading texts, running the
model, training, writing the SAE; the model is loaded before. Finished runs in RUNS are read, not run again.
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
    options.add_argument("--lr", type=float, default=3e-4)
    options.add_argument("--context-size", type=int, default=128)
    options.add_argument("--buffer", type=int, default=2**17, help="rows mixed together")
    options.add_argument("--held-out", type=int, default=400, help="texts kept aside for measuring")
    options.add_argument("--eval-tokens", type=int, default=20_000)
    options.add_argument("--saelens-evals", action="store_true")
    args = options.parse_args()
    warnings.filterwarnings("ignore", module="sae_lens")
    args.out.mkdir(parents=True, exist_ok=True)
    texts = pd.read_parquet(args.corpus)["text"].tolist()
    apart = set(range(0, len(texts), len(texts) // args.held_out))
    args.train = [text for i, text in enumerate(texts) if i not in apart]
    args.test = [texts[i] for i in sorted(apart)]
    model = load_model(args.model, device="cpu")
    folders = {"graticule": args.out / "graticule", "SAELens": args.out / "saelens"}
    minutes = {
        "graticule": timed(folders["graticule"], lambda folder: ours(model, args, args.tokens, folder)),
        "SAELens": timed(folders["SAELens"], lambda folder: saelens(model, args, folder)),
    }
    fits = int(args.tokens * minutes["SAELens"] / minutes["graticule"])
    longer = "graticule, same minutes"
    folders[longer] = args.out / "graticule_minutes"
    minutes[longer] = timed(folders[longer], lambda folder: ours(model, args, fits, folder))
    found = {name: measured(model, args, folder) for name, folder in folders.items()}
    rows = [
        {
            "run": name,
            "minutes": minutes[name],
            "tokens": fits if name == longer else args.tokens,
            **{
                key: found[name][key]
                for key in (
                    "explained_variance",
                    "loss_recovered_zero",
                    "loss_recovered_mean",
                    "kl",
                    "l0",
                    "dead_fraction",
                )
            },
        }
        for name in folders
    ]
    show(rows, f"{args.model}, {args.hook_name}, TopK k {args.k}, d_sae {args.d_sae}, batch {args.batch}")
    settings = {k: v for k, v in vars(args).items() if k not in ("json", "train", "test", "corpus", "out")}
    write(args.json, {"settings": settings, "minutes": minutes, "evaluations": found, "rows": rows})


def timed(folder: Path, run: Callable[[Path], None]) -> float:
    """Minutes that a run took, now or when it was made."""
    told = folder.with_suffix(".json")
    if not told.is_file():
        start = time.perf_counter()
        run(folder)
        told.write_text(json.dumps((time.perf_counter() - start) / 60))
    return float(json.loads(told.read_text()))


def ours(model: Any, args: Any, n_tokens: int, folder: Path) -> None:
    """`graticule.saes.train`, live from the model."""
    steps = n_tokens // args.batch
    train(
        model,
        corpus=args.train,
        hook_name=args.hook_name,
        config={"architecture": "topk", "d_sae": args.d_sae, "k": args.k},
        optimisation=Optimisation(lr=args.lr, lr_warm_up_steps=steps // 20, lr_decay_steps=steps // 5),
        n_tokens=n_tokens,
        batch_size=args.batch,
        context_size=args.context_size,
        stream={"buffer_tokens": args.buffer},
        out=folder,
        progress=True,
    )


def saelens(model: Any, args: Any, folder: Path) -> None:
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
        lr_decay_steps=steps // 5,
        dead_feature_window=min(1000, steps // 4),
        logger=LoggingConfig(log_to_wandb=False),
        checkpoint_path=None,
        output_path=str(folder / "sae"),
        device="cpu",
    )
    texts = Dataset.from_dict({"text": args.train})
    LanguageModelSAETrainingRunner(config, override_dataset=texts, override_model=model).run()


def measured(model: Any, args: Any, folder: Path) -> dict[str, Any]:
    """Our evaluation of a run on the held-out texts."""
    told = folder / "measured.json"
    if not told.is_file():
        result = evaluate(model, folder / "sae", args.test, n_tokens=args.eval_tokens, progress=True)
        figures = {k: v for k, v in result.figures_by_name().items() if isinstance(v, int | float)}
        if args.saelens_evals:
            figures |= by_saelens(model, args, folder / "sae")
        told.write_text(json.dumps(figures))
    return dict(json.loads(told.read_text()))


def by_saelens(model: Any, args: Any, folder: Path) -> dict[str, float]:
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
        dataset=Dataset.from_dict({"text": args.test}),
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
