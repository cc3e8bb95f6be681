"""Does a language model's probe carry to other data? `python benchmarks/carry_sets.py`.

    pip download sae-probes --no-deps -d wheels
    python benchmarks/carry_sets.py --wheel wheels/sae_probes-*.whl

The package (Kantamneni et al. 2025) has eight yes-or-no concepts with a second set that was made otherwise
beside their own: other names, other languages, sentences of other corpora. Each is probed on a sample of its
own set and scored, as it stands, on the second one (`judge_on`).
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from _timing import parser, show, write

import graticule
from graticule import Findings, Table, judge_on, probe

YES = {"bigram", "not_entailment"}
"""What class 1 is called in some sets; in others it is 1."""
OWN, OTHER = "sae_probes/data/cleaned_data/", "sae_probes/data/OOD data/"
ENDING = "_OOD.csv.zst"


def rows_of(wheel: zipfile.ZipFile, name: str, count: int | None, seed: int) -> pd.DataFrame:
    """Prompts and whether each is of the class; so many of each class."""
    packed = pa.CompressedInputStream(pa.BufferReader(wheel.read(name)), "zstd")
    frame = pd.read_csv(io.BytesIO(packed.read()), keep_default_na=False)
    targets = frame["target"].astype(str)
    frame = frame.assign(yes=targets.isin(YES & set(targets) or {"1"})).drop_duplicates("prompt")
    frame = frame[frame["prompt"].str.strip() != ""]
    if count is not None:
        frame = frame.groupby("yes").sample(count // 2, random_state=seed)
    return frame[["prompt", "yes"]].reset_index(drop=True)


def main() -> None:
    """Probe, score, print, write."""
    options = parser(__doc__, repeats=1)
    options.add_argument("--wheel", type=Path, required=True)
    options.add_argument("--model", default="gemma-3-270m")
    options.add_argument("--only", nargs="*", help="sets whose names hold one of these")
    options.add_argument("--rows", type=int, default=1000, help="of the first set (default: %(default)s)")
    options.add_argument("--layers", type=float, nargs="*", default=[0.25, 0.5, 0.75, 0.95])
    options.add_argument("--seed", type=int, default=0)
    args = options.parse_args()
    model = graticule.load_model(args.model)
    lines: list[dict[str, Any]] = []
    with zipfile.ZipFile(args.wheel) as wheel:
        for path in (name for name in wheel.namelist() if name.endswith(ENDING)):
            name = path.removeprefix(OTHER).removesuffix(ENDING)
            if args.only and not any(part in name for part in args.only):
                continue
            frames = (
                rows_of(wheel, f"{OWN}{name}.csv.zst", args.rows, args.seed),
                rows_of(wheel, path, None, 0),
            )
            made: list[Findings] = []
            for frame, part in zip(frames, (name, f"{name}, other set"), strict=True):
                table = Table(frame, text="prompt", target="yes", name=part, seed=args.seed)
                made.append(probe(model, table, layers=args.layers, progress=False))
            first, second = made
            (row,) = judge_on(first, second, progress=False).scored.to_dict("records")
            columns = (
                "label",
                "gain",
                "low",
                "high",
                "own_gain",
                "arrives",
                "auroc",
                "auroc_low",
                "auroc_high",
            )
            columns = (*columns, "recall", "false_positives", "shift", "copies_left_out")
            line = {"set": name, "at home": first.verdict.label, "gain at home": first.verdict.gain}
            lines.append({**line, **{column: row[column] for column in columns}})
            show(lines[-1:])
    show(lines, f"{args.model}, {args.rows} rows of the first set, layers {args.layers}, seed {args.seed}")
    write(args, {"sets": lines})


if __name__ == "__main__":
    main()
