"""Names a second: last token, every layer of the packaged model, against the ways people capture today.

    python benchmarks/capture.py --names places.csv --column name --json capture.json

All runs see the same names, drawn without repeats from a column of a CSV file (or from the packaged cities).
The reference is `run_with_cache(names_filter=resid_post)` on padded batches of 64 in input order. The bare
forward is the Hugging Face base model on the length buckets that graticule makes, with nothing read from it.
Slow runs see fewer names (`--slow-count`, the same for all of them); rates are compared. Compilation
happens in a first call and is told apart. SAELens pads rows to one context and reads one hook;
nnsight traces the same Hugging Face model.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _timing import add_names, drawn_names, measure, medians, parser, show, write

import graticule
from graticule.hooks.processor import described
from graticule.hooks.running.grouping import batches
from graticule.hooks.tokens import tokenize
from graticule.loading.gguf import folder_of_packaged

BUDGET = 1024
POINT = "blocks.17.hook_resid_post"


def padded_cache(model: Any, names: list[str]) -> None:
    """TransformerLens as its tutorials have it."""
    with torch.no_grad():
        for start in range(0, len(names), 64):
            tokens = model.to_tokens(names[start : start + 64], padding_side="right")
            model.run_with_cache(tokens, names_filter=lambda name: name.endswith("resid_post"))


def bare_forward(base: Any, model: Any, names: list[str]) -> None:
    """The Hugging Face base model on length buckets; nothing is kept."""
    rows = tokenize(model, names).ids
    with torch.no_grad():
        for batch in batches(rows, 0, BUDGET):
            base(input_ids=batch.tokens, use_cache=False)


def saelens(hf_model: Any, tokenizer: Any, model: Any, names: list[str]) -> int:
    """CacheActivationsRunner on rows padded to one context; returns how many rows it ran.

    It fills whole buffers and takes rows again until they are full.
    """
    from datasets import Dataset
    from sae_lens import CacheActivationsRunner, CacheActivationsRunnerConfig

    rows = tokenize(model, names).ids
    context = max(map(len, rows))
    tokens = np.zeros((len(rows), context), dtype=np.int64)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    with tempfile.TemporaryDirectory() as folder:
        config = CacheActivationsRunnerConfig(
            dataset_path="",
            model_name="google/gemma-3-270m",
            model_batch_size=64,
            hook_name=POINT,
            d_in=640,
            training_tokens=len(rows) * context,
            context_size=context,
            new_cached_activations_path=str(Path(folder) / "cached"),
            shuffle=False,
            device="cpu",
            buffer_size_gb=0.02,
            prepend_bos=False,
            streaming=False,
            model_from_pretrained_kwargs={"hf_model": hf_model, "tokenizer": tokenizer},
        )
        dataset = Dataset.from_dict({"input_ids": tokens.tolist()})
        return len(CacheActivationsRunner(config, override_dataset=dataset).run())


def nnsight(traced: Any, names: list[str]) -> None:
    """The last token of every layer, batches of 64 in input order (nnsight pads on the left)."""
    with torch.no_grad():
        for start in range(0, len(names), 64):
            with traced.trace(names[start : start + 64]):
                kept = list().save()  # noqa: C408  (nnsight's own way to bring a list out of a trace)
                for layer in traced.model.layers:
                    kept.append(layer.output[:, -1])
            assert len(kept) == 18


def main() -> None:
    """Measure, print, write."""
    options = parser(__doc__, repeats=3)
    add_names(options, count=2000)
    options.add_argument("--slow-count", type=int, default=256)
    options.add_argument("--skip", nargs="*", default=[], help="parts of names of runs to leave out")
    args = options.parse_args()
    names = drawn_names(args)
    few = names[: args.slow_count]

    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = graticule.load_model("gemma-3-270m")
    half = graticule.load_model("gemma-3-270m", dtype="bfloat16")
    folder = folder_of_packaged()
    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    settings: dict[str, Any] = {"token_budget": BUDGET, "progress": False}
    runs: dict[str, tuple[Callable[[], object], int]] = {
        "run_with_cache, padded 64": (lambda: padded_cache(model, few), len(few)),
        "graticule float32": (lambda: graticule.capture(model, names, **settings), len(names)),
        "graticule bfloat16": (lambda: graticule.capture(half, names, **settings), len(names)),
        "graticule float32, compiled": (
            lambda: graticule.capture(model, names, compile=True, **settings),
            len(names),
        ),
        "graticule bfloat16, compiled": (
            lambda: graticule.capture(half, names, compile=True, **settings),
            len(names),
        ),
        "bare forward float32": (lambda: bare_forward(hf.model, model, names), len(names)),
    }
    if not any(part in "SAELens" for part in args.skip):
        ran = saelens(hf, tokenizer, model, few)
        runs["SAELens CacheActivationsRunner"] = (lambda: saelens(hf, tokenizer, model, few), ran)
    try:
        from nnsight import LanguageModel

        traced = LanguageModel(hf, tokenizer=tokenizer)
        runs["nnsight, batches of 64"] = (lambda: nnsight(traced, few), len(few))
    except ImportError:
        print("nnsight is not installed: left out (pip install graticule[bench])")
    runs = {k: v for k, v in runs.items() if not any(part in k for part in args.skip)}
    compiling = first_call(runs)
    seconds = medians(measure({k: run for k, (run, _) in runs.items()}, args.repeats))
    rates = {k: runs[k][1] / s for k, s in seconds.items()}

    figures = {
        "names": len(names),
        "names_slow": len(few),
        "names_a_second": rates,
        "compile_seconds": compiling,
    }
    reference = rates["run_with_cache, padded 64"]
    bare = rates.get("bare forward float32", float("nan"))
    rows = [
        {"run": k, "names/s": r, "× run_with_cache": r / reference, "× bare forward": r / bare}
        for k, r in rates.items()
    ]
    show(rows, f"{len(names)} names ({len(few)} for slow runs), last token, 18 layers, {described()}")
    write(args, figures)


def first_call(runs: dict[str, tuple[Callable[[], object], int]]) -> dict[str, float]:
    """Seconds of the first call of every compiled run: mostly compilation, which later calls reuse."""
    seconds: dict[str, float] = {}
    for name, (run, _) in runs.items():
        if "compiled" in name:
            start = time.perf_counter()
            run()
            seconds[name] = time.perf_counter() - start
    return seconds


if __name__ == "__main__":
    main()
