"""The paper's resampling on a model of one block: dead latents, the loss's jump and fall, with and without.

    python benchmarks/resampling.py --corpus news.parquet --out RUNS --json resampling.json

A transformer of one block (128 wide, 512 ReLU units: the paper's shape) learns the corpus's next tokens in a
vocabulary of its own. Three of the paper's SAEs are trained on its units from the same rows, weights and
settings: one is never resampled; one has its dead latents resampled four times in the first half, as the
paper does it; of one the new directions are taken from the input less the bias. `RUNS/resampling.html` draws
them.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from _timing import parser, show, write

from graticule.saes.evaluation.evaluate import evaluate
from graticule.saes.training.run import Run, curves_figure
from graticule.saes.training.train import train

HOOK = "blocks.0.mlp.hook_post"
NEVER, PAPER, CENTRED = "never resampled", "resampled", "resampled, bias subtracted"
AROUND = 40
"""Steps after a resampling in which its jump is looked for."""


def main() -> None:
    """Train the model and both SAEs, draw, print, write."""
    options = parser(__doc__, repeats=1)
    options.add_argument("--corpus", type=Path, required=True, help="Parquet with a column `text`")
    options.add_argument("--out", type=Path, required=True, help="folder of the runs")
    options.add_argument("--vocabulary", type=int, default=2048)
    options.add_argument("--model-steps", type=int, default=800)
    options.add_argument("--d-sae", type=int, default=1024)
    options.add_argument("--l1", type=float, default=0.004, help="beside a mean over d_in, as in the paper")
    options.add_argument("--lr", type=float, default=5e-3)
    options.add_argument("--batch", type=int, default=512)
    options.add_argument("--steps", type=int, default=1600)
    options.add_argument("--sample", type=int, default=65_536, help="inputs whose loss a resampling looks at")
    args = options.parse_args()
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    args.out.mkdir(parents=True, exist_ok=True)
    texts = pd.read_parquet(args.corpus)["text"].tolist()
    test = texts[::20]
    texts = [text for i, text in enumerate(texts) if i % 20]
    model, loss = language_model(texts, args)
    every = args.steps // 8
    plan = {"steps": tuple(every * i for i in range(1, 5)), "window": every // 2, "sample_size": args.sample}
    runs: dict[str, Run] = {}
    arms = {NEVER: None, PAPER: plan, CENTRED: {**plan, "subtract_bias": True}}
    for name, resampling in arms.items():
        runs[name] = train(
            model,
            corpus=texts,
            hook_name=HOOK,
            config={"architecture": "bricken", "d_sae": args.d_sae, "l1_coefficient": args.l1, "lr": args.lr},
            resampling=resampling,
            n_tokens=args.steps * args.batch,
            batch_size=args.batch,
            epochs=None,
            out=args.out / name.replace(" ", "_").replace(",", ""),
            log_every=2,
            progress=True,
        )
    histories = {name: run.history for name, run in runs.items()}
    figure = curves_figure(histories, {name: run.resampled for name, run in runs.items()})
    figure.write_html(args.out / "resampling.html")
    events = [line for name in (PAPER, CENTRED) for line in jumps(name, runs[name])]
    show(events, "Each resampling")
    lines: list[dict[str, Any]] = []
    for name, run in runs.items():
        found = evaluate(model, run, test, n_tokens=50_000, progress=True).figures_by_name()
        keys = ("l0", "explained_variance", "loss_recovered_zero", "dead_fraction")
        lines.append({"run": name, **{key: found[key] for key in keys}})
    show(lines, f"held-out texts (the model's loss in training: {loss:.2f} nats)")
    write(args, {"model loss": loss, "resamplings": events, "evaluations": lines})


def language_model(texts: list[str], args: Any) -> tuple[Any, float]:
    """A transformer of one block, trained on the texts; its last losses' mean in nats."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=args.vocabulary, special_tokens=["<bos>"], show_progress=False),
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<bos>", eos_token="<bos>", pad_token="<bos>"
    )
    made.save_pretrained(args.out / "tokenizer")  # TransformerLens loads it again, by its path
    tokenizer = AutoTokenizer.from_pretrained(args.out / "tokenizer")
    config = HookedTransformerConfig(
        n_layers=1,
        d_model=128,
        n_ctx=128,
        d_head=32,
        n_heads=4,
        d_mlp=512,
        act_fn="relu",
        d_vocab=len(tokenizer),
        seed=0,
        device="cpu",
        model_name="one-block",
    )
    model = HookedTransformer(config, tokenizer=tokenizer)
    path = args.out / "model.pt"
    if path.is_file():
        held = torch.load(path, weights_only=True)
        model.load_state_dict(held["weights"])
        return model, float(held["loss"])
    ids = torch.tensor([i for row in tokenizer(texts)["input_ids"] for i in [*row, 0]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=args.model_steps)
    drawn, losses = torch.Generator().manual_seed(0), []
    for step in range(args.model_steps):
        starts = torch.randint(len(ids) - 127, (16, 1), generator=drawn)
        batch = torch.cat([torch.zeros(16, 1, dtype=ids.dtype), ids[starts + torch.arange(127)]], dim=1)
        loss = model(batch, return_type="loss")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if step % 100 == 0:
            print(f"model: step {step}, {losses[-1]:.2f} nats", flush=True)
    found = sum(losses[-100:]) / len(losses[-100:])
    torch.save({"weights": model.state_dict(), "loss": found}, path)
    return model, found


def jumps(name: str, run: Run) -> list[dict[str, Any]]:
    """A line a resampling: dead before, loss before, at its worst after, and when it is below again."""
    lines: list[dict[str, Any]] = []
    table = run.history.set_index("step")["loss"]
    for event in run.events:
        if event["event"] != "resampled":
            continue
        step = int(event["step"])
        before = float(table[(table.index > step - AROUND) & (table.index <= step)].mean())
        after = table[(table.index > step) & (table.index <= step + AROUND)]
        smooth = table.rolling(AROUND // 4).mean()
        back = smooth[(smooth.index > int(after.idxmax())) & (smooth < before)]
        lines.append(
            {
                "run": name,
                "step": step,
                "dead": int(event["dead_before"]),
                "loss before": before,
                "worst after": float(after.max()),
                "below again after": int(back.index[0]) - step if len(back) else "not in this run",
            }
        )
    return lines


if __name__ == "__main__":
    main()
