"""How often `causes` says *used* of what is luck, of decoys, and of what is used, with Wilson intervals.

    python benchmarks/attack_causes.py --trials 200 --seed 1 --json causes.json

- `luck`: a random target in an untrained network of four blocks (a new network every ten targets).
- `random readable`: a random linear function of the first block's output there, which is readable.
- `linear, …`: the answers of a linear model read the probe's own read or write direction.
- `planted R`: a feature that the output reads, and a decoy correlated R with it that nothing reads, as
  readable; with stated answers, and by next-token distributions alone. `cut`: the decoy is taken out of the
  stream before the output; `noisy`: half of the variance along either direction is noise; `hardly`: a third
  of the target is in the activations.
"""

import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from _timing import parser, show, write

import graticule
from graticule import Outcome, Table
from graticule.probes.causes.causes import USED, USED_OR_CORRELATED, Causes
from graticule.probes.causes.second_verdict import second_verdict
from graticule.probes.core.resample import wilson
from graticule.probes.surface.baselines import Baselines, text_digest
from graticule.sims.learners import hooked
from graticule.sims.uses import ANSWERS, POINT, planted_use, whole_words

TEXTS, ROWS, CONTROLS = 240, 40, 60
WORDS = [f"{a}{b}" for a in ("ba", "ke", "mi", "lo", "du") for b in "bcdfghj"]
ASKED = Outcome("high or low", "{}", {"high": (ANSWERS[0],), "low": (ANSWERS[1],)}, "target")


def untrained(seed: int, linear: bool = False) -> Any:
    """A network with random weights: four blocks as usual, or two without norms, the second of which is 0."""
    torch.manual_seed(seed)
    tokenizer = whole_words([*WORDS, *ANSWERS])
    config: dict[str, Any] = {
        "d_model": 32, "n_heads": 4, "d_head": 8, "n_ctx": 16, "d_vocab": len(tokenizer), "seed": seed,
        "default_prepend_bos": True, "device": "cpu", "model_name": f"untrained-{seed}",
    }  # fmt: skip
    if linear:
        config |= {"n_layers": 2, "attn_only": True, "normalization_type": None, "initializer_range": 0.5}
    else:
        config |= {"n_layers": 4, "d_mlp": 64, "act_fn": "gelu", "normalization_type": "LN"}
    model = hooked(config)
    model.set_tokenizer(tokenizer)
    if linear:
        with torch.no_grad():
            model.blocks[1].attn.W_O.zero_()
            model.blocks[1].attn.b_O.zero_()
    return model.eval()


def texts(rng: np.random.Generator) -> list[str]:
    """Different texts of two to four words."""
    drawn = [" ".join(rng.choice(WORDS, rng.integers(2, 5))) for _ in range(3 * TEXTS)]
    return list(dict.fromkeys(drawn))[:TEXTS]


def swept(activations: Any, table: Table) -> graticule.Findings:
    """Without baselines: whether a direction is used is asked of what the string gives away, too."""
    none = Baselines(text_digest(table), {}, strings=False)
    return graticule.sweep(activations, table, baselines=none, n_bootstrap=200, progress=False)


def asked(model: Any, activations: Any, names: list[str], y: np.ndarray, point: str, **more: Any) -> Causes:
    """Sweep and causes of one target."""
    table = Table(pd.DataFrame({"text": names, "target": y}), text="text", target="target", name="attack")
    findings = swept(activations, table)
    # readers are set in the unembedding, which block 0 does not see
    made = {k: v for k, v in findings.provenance["activations"].items() if k != "model"}
    findings = dataclasses.replace(findings, provenance={**findings.provenance, "activations": made})
    if "reads" in more:
        direction = getattr(findings.probes[point], f"{more['reads']}_direction")[:, 0]
        high, low = (model.tokenizer.convert_tokens_to_ids(word) for word in ANSWERS)
        with torch.no_grad():
            model.unembed.W_U[:, high] = model.unembed.W_U[:, low] + torch.from_numpy(
                2 * direction / np.linalg.norm(direction)
            ).to(model.unembed.W_U.dtype)
    outcomes = [ASKED] if "reads" in more else []
    return graticule.causes(
        findings,
        model,
        hook_name=point,
        outcomes=outcomes,
        rows=ROWS,
        controls=CONTROLS,
        scales=(-2.0, 2.0),
        progress=False,
    )


def in_untrained(trials: int, seed: int, readable: bool) -> Iterator[Causes]:
    """Targets in untrained networks."""
    for trial in range(trials):
        rng = np.random.default_rng([seed, 1, trial])
        if trial % 10 == 0:
            model, names = untrained(1000 * seed + trial), texts(rng)
            activations = graticule.capture(model, names, points="resid_post", pos="last", progress=False)
        y = rng.normal(size=len(names))
        if readable:
            X = activations[POINT].double().numpy()
            f = (X - X.mean(0)) @ rng.normal(size=X.shape[1])
            y = f / f.std() + 0.3 * y
        yield asked(model, activations, names, y, POINT)


def in_linear(trials: int, seed: int, reads: str) -> Iterator[Causes]:
    """Targets whose direction the answers of a linear model read."""
    for trial in range(trials):
        rng = np.random.default_rng([seed, 2, trial])
        model, names = untrained(2000 * seed + trial, linear=True), texts(rng)
        activations = graticule.capture(model, names, points="resid_post", pos="last", progress=False)
        X = activations[POINT].double().numpy()
        y = (X - X.mean(0)) @ rng.normal(size=X.shape[1])
        y = y / y.std() + 0.1 * rng.normal(size=len(y))
        yield asked(model, activations, names, y, POINT, reads=reads)


def in_planted(trials: int, seed: int, targets: list[str], **world: Any) -> Iterator[dict[str, Causes]]:
    """The used feature and its decoy, by stated answers and by next tokens alone."""
    for trial in range(trials):
        made = planted_use(n_rows=TEXTS, seed=seed * 10_000 + trial, width=96, others=0.3, **world)
        names = made.table.texts
        activations = graticule.capture(made.model, names, points="resid_post", pos="last", progress=False)
        out: dict[str, Causes] = {}
        for target in targets:
            findings = swept(activations, made.targets(target))
            for how, outcomes in (("answers", [dataclasses.replace(ASKED, target=target)]), ("tokens", [])):
                out[f"{target}, {how}"] = graticule.causes(
                    findings, made.model, hook_name=POINT, outcomes=outcomes, rows=ROWS, controls=CONTROLS,
                    scales=(-2.0, 2.0), progress=False,
                )  # fmt: skip
        yield out


Trials = Callable[[int, int], Iterator[Any]]


def arms() -> dict[str, Trials]:
    """Name → trials, each one result or several by name."""
    both, decoy = ["used", "decoy"], ["decoy"]
    return {
        "luck": lambda n, s: in_untrained(n, s, False),
        "random readable": lambda n, s: in_untrained(n, s, True),
        "linear, read direction": lambda n, s: in_linear(n, s, "read"),
        "linear, write direction": lambda n, s: in_linear(n, s, "write"),
        "planted 0.6": lambda n, s: in_planted(n, s, both),
        "planted 0.3": lambda n, s: in_planted(n, s, decoy, correlation=0.3),
        "planted 0.6, cut": lambda n, s: in_planted(n, s, decoy, cut=True),
        "planted 0.6, noisy": lambda n, s: in_planted(n, s, decoy, readable=0.5),
        "planted 0.6, hardly": lambda n, s: in_planted(n, s, ["used"], label=0.35),
    }


def rates(results: list[Causes]) -> dict[str, Any]:
    """How often each word was said, and what interventions alone would have said."""
    n, labels = len(results), Counter(r.label for r in results)
    alone = sum(second_verdict(r.effects, r.first_verdict, r.rows)[0] == USED for r in results)
    beyond = sum(bool((r.effects["p_holm"] < 0.05).any()) for r in results)
    low, high = wilson(labels[USED], n)
    return {
        "used": labels[USED] / n, "low": low, "high": high, "or correlated": labels[USED_OR_CORRELATED] / n,
        "used without the gate": alone / n, "beyond controls": beyond / n, "trials": n,
    }  # fmt: skip


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--trials", type=int, default=200, help="of each arm (default: %(default)s)")
    options.add_argument("--luck", type=int, help="trials of luck (default: --trials)")
    options.add_argument("--seed", type=int, default=1, help="of everything drawn (default: %(default)s)")
    options.add_argument("--arms", nargs="*", help="names; all by default")
    args = options.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    lines: list[dict[str, Any]] = []
    for name, trials in arms().items():
        if args.arms and name not in args.arms:
            continue
        start = time.process_time()
        count = args.luck if args.luck and name == "luck" else args.trials
        results: dict[str, list[Causes]] = {}
        for number, trial in enumerate(trials(count, args.seed), start=1):
            parts = {name: trial} if isinstance(trial, Causes) else trial
            for part, result in parts.items():
                results.setdefault(part if part == name else f"{name}: {part}", []).append(result)
            if number % 25 == 0:
                print(
                    {part: (sum(r.label == USED for r in every), number) for part, every in results.items()},
                    flush=True,
                )
        seconds = (time.process_time() - start) / count / len(results)
        for part, every in results.items():
            wanted = "≥ .95" if "used" in part or "linear" in part else "≤ .05"
            lines.append({"arm": part, "required": wanted, **rates(every), "CPU seconds": seconds})
            print(lines[-1], flush=True)
    show(lines, "used, by arm (95% Wilson intervals)")
    write(args, {"arms": lines})


if __name__ == "__main__":
    main()
