"""What is captured from models of many architectures, against Hugging Face: one command makes the table.

    python benchmarks/architectures.py --write          writes benchmarks/architectures.md (2 to 4 minutes)
    python benchmarks/architectures.py Llama Qwen3      those families only, on the terminal

Every architecture is a tiny random model (`_zoo.py`), saved as a folder and loaded with `load_model`. Every
position of every layer's residual stream is captured from a ragged batch of texts of up to four times its
window, alone and after a prompt, and compared with the blocks of the Hugging Face model on one text at a
time. Told is the largest difference as a share of the largest value of that layer, in float32; or the one
line in which the model, or the longer texts, are refused.
"""

import argparse
import logging
import random
import string
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _zoo import ARCHITECTURES, LAYERS, SIZES, WINDOW, Architecture

import graticule
from graticule.hooks.points import PointError
from graticule.hooks.running.forward import rope_borders, windows
from graticule.hooks.tokens import tokenize

LIMIT = 1e-4
LENGTHS = (2, 7, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW + 1, 40, 4 * WINDOW)
"""Letters of the texts: up to four windows, in a ragged batch. A letter is a token."""
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "[CLS]", "[SEP]", "[MASK]", "<eot>")
PROMPT = "xyz{}q"


@dataclass(frozen=True)
class Outcome:
    """What came of one architecture."""

    name: str
    loaded_as: str
    longest: int
    """Tokens of the longest text compared; longer ones are beyond its context, and refused."""
    worst: float | None
    """Largest difference ÷ largest value over all layers and texts, None where it was refused."""
    refusal: str = ""

    is_foreseen: bool = True
    """Whether a refusal is an error of the kind that tells what to do."""

    @property
    def is_right(self) -> bool:
        """Within the limit, or refused in one line."""
        refused = bool(self.refusal) and self.is_foreseen and "\n" not in self.refusal
        return refused if self.worst is None else self.worst <= LIMIT


# Making ----------------------------------------------------------------------------------------------
def config_of(architecture: Architecture) -> Any:
    """Its config."""
    import transformers

    settings = {**SIZES[architecture.sizes], **architecture.settings}
    return getattr(transformers, architecture.config)(**settings)


def class_of(architecture: Architecture) -> Any:
    """The class of transformers that makes its models."""
    import transformers

    return transformers.AutoModelForMaskedLM if architecture.masked else transformers.AutoModelForCausalLM


def tokenizer_of(architecture: Architecture) -> Any:
    """A token for every byte; masked models have `[CLS] … [SEP]` put around every text."""
    from tokenizers import Tokenizer
    from tokenizers.decoders import ByteLevel as Decoder
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    ids = {token: i for i, token in enumerate((*SPECIAL, *sorted(ByteLevel.alphabet())))}
    inner = Tokenizer(BPE(ids, []))
    inner.pre_tokenizer = ByteLevel(add_prefix_space=False)
    inner.decoder = Decoder()
    special = {"pad_token": "<pad>", "unk_token": "<unk>"}
    if architecture.masked:
        ends = [(token, ids[token]) for token in ("[CLS]", "[SEP]")]
        inner.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
        special |= {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    else:
        special |= {"bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)


def save(architecture: Architecture, folder: Path) -> None:
    """Write a random model of it, its weights large enough that attention attends, and its tokenizer."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = class_of(architecture).from_config(config_of(architecture))
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
        model.save_pretrained(folder)
    tokenizer_of(architecture).save_pretrained(folder)


def texts(seed: int = 0) -> list[str]:
    """One text of each length, in a random order."""
    rng = random.Random(seed)
    made = ["".join(rng.choices(string.ascii_letters, k=length)) for length in LENGTHS]
    rng.shuffle(made)
    return made


# Comparing -------------------------------------------------------------------------------------------
def blocks_of(hf: Any) -> list[Any]:
    """The blocks of a Hugging Face model: its first list of as many modules as it has layers."""
    for module in hf.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == LAYERS:
            return list(module)
    raise ValueError(f"{type(hf).__name__} has no list of {LAYERS} blocks")


@torch.no_grad()
def expected(hf: Any, ids: Any) -> list[torch.Tensor]:
    """What every block of the Hugging Face model puts out on one text, `[pos, width]` each."""
    out: list[torch.Tensor] = []

    def read(_module: Any, _inputs: Any, output: Any) -> None:
        out.append((output if isinstance(output, torch.Tensor) else output[0])[0].float())

    handles = [block.register_forward_hook(read) for block in blocks_of(hf)]
    try:
        hf(input_ids=torch.from_numpy(ids)[None], use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return out


def worst_ratio(model: Any, hf: Any, inputs: list[str], prompt: str) -> float:
    """Largest difference ÷ largest value of the layer, over layers, texts and positions."""
    rows = tokenize(model, inputs, prompt=prompt).ids
    acts = graticule.capture(model, inputs, points="resid_post", pos="all", prompt=prompt)
    wanted = [torch.cat(layer) for layer in zip(*(expected(hf, row) for row in rows), strict=True)]
    ratios = [
        (acts[f"blocks.{layer}.hook_resid_post"].float() - want).abs().max() / want.abs().max()
        for layer, want in enumerate(wanted)
    ]
    return float(torch.stack(ratios).max())


def within_context(model: Any) -> list[str]:
    """The texts that the model's context holds with the prompt; the others it must refuse."""
    inputs: list[str] = []
    for text in texts():
        try:
            tokenize(model, [text], prompt=PROMPT)
        except ValueError as error:
            if "context" not in str(error):
                raise
        else:
            inputs.append(text)
    return inputs


def outcome(architecture: Architecture) -> Outcome:
    """Make, load and compare one architecture."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        save(architecture, folder)
        loaded = "refused"
        try:
            model: Any = graticule.load_model(folder, device="cpu")
            loaded = type(model).__name__
            inputs = within_context(model)
            longest = max(len(row) for row in tokenize(model, inputs, prompt=PROMPT).ids)
            hf = hf_of(architecture, folder)
            worst = max(worst_ratio(model, hf, inputs, prompt) for prompt in ("", PROMPT))
        except Exception as error:
            foreseen = isinstance(error, ValueError | PointError)
            told = f"{'' if foreseen else f'{type(error).__name__}: '}{error}".replace(
                folder.name, "the model"
            )
            return Outcome(architecture.name, loaded, 0, None, told, foreseen)
        return Outcome(architecture.name, loaded, longest, worst)


def sets_in(architecture: Architecture) -> str:
    """What the config says sets in with length, and after how many tokens."""
    config = config_of(architecture).to_dict()
    said = [f"{name} {size}" for name, size in windows(config).items()]
    ropes = rope_borders(config)
    said += [f"rotary table at {border}" for border in ropes.borders]
    said += [f"another with every length beyond {ropes.apart_beyond}"] if ropes.apart_beyond else []
    return ", ".join(said)


def hf_of(architecture: Architecture, folder: Path) -> Any:
    """The Hugging Face model in the folder."""
    return class_of(architecture).from_pretrained(folder, dtype=torch.float32).eval()


def table(outcomes: list[Outcome]) -> str:
    """The outcomes as Markdown."""
    compared = [each for each in outcomes if each.worst is not None]
    families = {each.name.split(",")[0] for each in compared}
    lines = [
        f"Made by `python benchmarks/architectures.py --write`, which also says what is compared: "
        f"{len(compared)} tiny random models of {len(families)} families agree with Hugging Face in every "
        f"layer and at every position within {LIMIT:.0e} of the layer's largest value; "
        f"{len(outcomes) - len(compared)} more are refused.",
        "",
        "| architecture | loaded as | sets in with length | longest text | worst ratio, or the refusal |",
        "|---|---|---|---|---|",
    ]
    by_name = {architecture.name: architecture for architecture in ARCHITECTURES}
    for each in outcomes:
        said = each.refusal.replace("|", "\\|") if each.worst is None else f"{each.worst:.1e}"
        cells = (each.name, each.loaded_as, sets_in(by_name[each.name]), str(each.longest or ""), said)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the architectures named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", help="families, as the first column has them; all by default")
    parser.add_argument("--write", action="store_true", help="write benchmarks/architectures.md")
    arguments = parser.parse_args()
    import transformers

    warnings.filterwarnings("ignore")
    logging.getLogger("graticule").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    outcomes: list[Outcome] = []
    for architecture in ARCHITECTURES:
        if arguments.names and architecture.name.split(",")[0] not in arguments.names:
            continue
        began = time.perf_counter()
        outcomes.append(outcome(architecture))
        last = outcomes[-1]
        said = last.refusal if last.worst is None else f"{last.worst:.1e}"
        mark = " " if last.is_right else "✗"
        print(
            f"{mark} {last.name}: {last.loaded_as}, {said} ({time.perf_counter() - began:.1f} s)", flush=True
        )
    if arguments.write:
        Path(__file__).with_suffix(".md").write_text(table(outcomes) + "\n", encoding="utf-8")
    wrong = [each.name for each in outcomes if not each.is_right]
    print(f"{len(outcomes)} architectures, {len(wrong)} wrong{': ' + '; '.join(wrong) if wrong else ''}")


if __name__ == "__main__":
    main()
