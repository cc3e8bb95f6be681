"""`train`: sparse autoencoders from a model, a store or a stream, into run folders that SAELens reads."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from sae_lens import TrainingSAE, TrainingSAEConfig
from sae_lens.config import LoggingConfig, SAETrainerConfig

from graticule.hooks.artifact import library_versions
from graticule.hooks.doors import CONFIG, FOLDER, door
from graticule.hooks.identity import check_unhooked
from graticule.hooks.kinds import working_folder
from graticule.hooks.names import user_path
from graticule.hooks.points import PointError
from graticule.hooks.protocols import HookedModel, device_of
from graticule.hooks.streams.base import Stream
from graticule.saes.resampling import Resampler, ResamplingConfig
from graticule.saes.training.folder import (
    RUN,
    RunFolder,
    call_words,
    check_call,
    sae_metadata,
    trainer_settings,
)
from graticule.saes.training.run import Run
from graticule.saes.training.session import Session, Tracker
from graticule.saes.training.settings import (
    Optimisation,
    as_config,
    compute_type,
    resampling_plan,
    warmed_up,
    with_metadata,
)
from graticule.saes.training.sources import Wanted, check_one_batch, make_stream, total_tokens, wanted_saes
from graticule.saes.training.trainer import Trainer

_log = logging.getLogger(__name__)

_FEW_STEPS = 500


@dataclass(frozen=True)
class _Plan:
    """One SAE, settled: everything that its training depends on but the data."""

    name: str
    point: str
    config: TrainingSAEConfig
    optimisation: Optimisation
    trainer: SAETrainerConfig
    resampling: ResamplingConfig | None

    @property
    def request(self) -> dict[str, Any]:
        """What the folder of its run is compared by."""
        sae = {k: v for k, v in self.config.to_dict().items() if k not in ("metadata", "device")}
        return {
            "hook_name": self.point,
            "sae": sae,
            "trainer": trainer_settings(self.trainer, self.optimisation),
            "resampling": None if self.resampling is None else asdict(self.resampling),
        }

    def fresh(self, seed: int, compute_dtype: torch.dtype | None) -> Trainer:
        """A fresh SAE and its trainer; its weights depend on its own config and the seed alone."""
        torch.manual_seed(seed)
        sae: TrainingSAE[Any] = TrainingSAE.from_dict(self.config.to_dict())
        return Trainer(
            self.trainer,
            sae,
            clip_grad_norm=self.optimisation.clip_grad_norm or 0.0,
            compute_dtype=compute_dtype,
            b_dec_init_method=self.optimisation.b_dec_init_method,
            resampler=None if self.resampling is None else Resampler(self.resampling),
            name=self.name,
        )


@door(config=CONFIG, out=FOLDER)
def train(
    source: Any,
    *,
    config: Any,
    out: Path | str,
    hook_name: str | Sequence[str] | None = None,
    corpus: Any = None,
    n_tokens: int | None = None,
    batch_size: int = 4096,
    context_size: int | None = None,
    epochs: int | None = 1,
    stream: Mapping[str, Any] | None = None,
    optimisation: Optimisation | None = None,
    resampling: Any = "default",
    compute_dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    seed: int = 0,
    log_every: int | None = None,
    checkpoint_every: int | None = None,
    checkpoint_minutes: float = 10.0,
    logger: LoggingConfig | None = None,
    progress: bool | None = None,
) -> Run:
    """Train one or several SAEs from one stream of activations.

    The same call again goes on from the last checkpoint, to the bit on the same machine and versions, and
    returns at once where the run is complete. A checkpoint is written every `checkpoint_minutes`, after
    Ctrl-C and SIGTERM; a process killed at any moment leaves the last one whole. `out/sae` (of several:
    `out/NAME/sae`) is SAELens's own folder: `SAE.load_from_disk` reads it without graticule.

    Args:
        source: a TransformerLens model, an activation store (or its folder, or `Activations`), or a `Stream`.
        config: a SAELens training config (`TopKTrainingSAEConfig(...)`), an architecture's name, or a mapping
            `{"architecture": "topk", "d_sae": 4096, "k": 32}` of `sae_config`'s arguments, in which fields of
            `Optimisation` and a `hook_name` of its own may stand too. A list of them, or a mapping of names
            to them, trains several on the same batches; each comes out as it would alone.
        out: the run folder.
        hook_name: the hook point; several for an SAE at each. May be left out where the data has only one.
        corpus: texts for a model: a file, a folder, a dataset, a list (`Corpus.read` says what).
        n_tokens: rows to train on, rounded down to whole batches; of a store by default all.
        batch_size: rows per step.
        context_size: tokens per context, BOS included; 128 by default.
        epochs: how often the data may be read; None without end. The paper found repeats to do harm.
        stream: further arguments of `LiveStream` or `StoreStream`: `tokens_per_context`, `buffer_tokens`,
            `exclude_special`, `max_norm`, `prepend_bos`, `dtype` …
        optimisation: learning rate, schedules, clipping; its fields say what they are by default.
        resampling: when dead latents are brought back, a `ResamplingConfig` or a mapping of its fields; None
            never. By default only `bricken`'s are: after 25,000, 50,000, 75,000 and 100,000 steps, as in the
            paper; in runs of less than 200,000 steps four times in their first half.
        compute_dtype: `"bfloat16"` does the dense products in bfloat16, weights and sums stay as they are;
            slower on a CPU without AMX, which is warned of. `"auto"` takes what is faster on this machine.
        device: where the SAE is trained; the model's device by default, or CUDA where there is one.
        seed: The seed of initial weights, shuffling and resampling.
        log_every: steps between lines of the history; by default 100 lines, more in runs of 1,000 steps and
            up, where it is every tenth step.
        checkpoint_every: steps between checkpoints, beside `checkpoint_minutes`.
        checkpoint_minutes: minutes between checkpoints.
        logger: SAELens's `LoggingConfig` sends the history to Weights & Biases; off by default.
        progress: show a bar with loss, L0, explained variance and dead latents.

    Raises:
        ValueError: for settings that do not fit each other, or if `out` holds a run of another request (it
            names what differs).
        FileExistsError: if `out` holds something else, or if another process trains into it.
        DivergedError: (a `ValueError`) where the loss is no number.
        ArtifactError: for a damaged checkpoint.
    """
    out = user_path(out)
    call = call_words(
        config=config,
        hook_name=hook_name,
        corpus=corpus,
        n_tokens=n_tokens,
        batch_size=batch_size,
        context_size=context_size,
        epochs=epochs,
        stream=stream,
        optimisation=optimisation,
        resampling=resampling,
        compute_dtype=compute_dtype,
        seed=seed,
    )
    check_call(out, call)
    wanted = wanted_saes(config, hook_name)
    points = list(dict.fromkeys(sae.point for sae in wanted if sae.point is not None))
    a_batch = source.batch_size if isinstance(source, Stream) else batch_size
    at_least = None if n_tokens is None else max(n_tokens, a_batch)  # too few are refused after the rest
    data = make_stream(
        source,
        points,
        corpus=corpus,
        n_tokens=at_least,
        batch_size=batch_size,
        context_size=context_size,
        epochs=epochs,
        seed=seed,
        options=dict(stream or {}),
        progress=progress,
    )
    if hasattr(source, "hook_dict"):
        check_unhooked(cast("HookedModel", source), out)
    total = total_tokens(data, at_least)
    where = _device(source, device)
    kind = compute_type(compute_dtype, where)
    base = optimisation or Optimisation()
    plans = [_plan(sae, data, base, total, where, logger, resampling, seed) for sae in wanted]
    check_one_batch(n_tokens, data.batch_size)
    steps = total // data.batch_size
    if steps < _FEW_STEPS:
        _log.warning(
            "%d steps of %d rows: a dictionary learns little in less than %d; give more tokens, or a smaller "
            "batch_size",
            steps,
            data.batch_size,
            _FEW_STEPS,
        )
    shared = {
        "stream": _stream_request(data),
        "seed": seed,
        "compute_dtype": str(kind or "float32").removeprefix("torch."),
    }
    with working_folder(out, RUN, "training into"):
        whole, folders = _open(out, plans, shared)
        whole.manifest.setdefault("call", call)
        if whole.manifest["state"] == "complete":
            shutil.rmtree(out / "checkpoint", ignore_errors=True)  # killed just before this was done
            _log.info("%s is complete", out)
            return Run.load(out)
        if whole.manifest["versions"] != library_versions():
            _log.warning("%s was begun with other library versions: resuming may not be exact", out)
        cuda = list(range(torch.cuda.device_count()))
        with torch.random.fork_rng(devices=cuda), torch.enable_grad():
            Session(
                data,
                [(plan.fresh(seed, kind), folder) for plan, folder in zip(plans, folders, strict=True)],
                whole,
                seed,
                total,
                log_every=log_every or max(1, min(10, steps // 100), steps // 10_000),
                checkpoint_every=checkpoint_every,
                checkpoint_minutes=checkpoint_minutes,
                tracker=Tracker(logger),
                progress=progress,
            ).run()
    return Run.load(out)


def _plan(
    sae: Wanted,
    data: Stream,
    base: Optimisation,
    total: int,
    device: str,
    logger: LoggingConfig | None,
    resampling: Any,
    seed: int,
) -> _Plan:
    """Every setting of one SAE, defaults filled in."""
    point = _point(sae.point, data)
    config = as_config(sae.config, data.widths[point])
    steps = total // data.batch_size
    how = replace(base, **sae.optimisation).resolved(config.architecture(), steps)
    config = warmed_up(config, how.sparsity_warm_up_steps or 0)
    config = with_metadata(config, sae_metadata(data.metadata(), point), device)
    if getattr(data, "normalize", "none") != "none" and config.normalize_activations != "none":
        raise ValueError(
            "the stream scales its rows and the SAE would too (normalize_activations="
            f"{config.normalize_activations!r}): leave one of them 'none'"
        )
    trainer = how.trainer_config(total, data.batch_size, device, logger)
    plan = resampling_plan(config.architecture(), resampling, steps, seed)
    return _Plan(sae.name, point, config, how, trainer, plan)


def _point(point: str | None, data: Stream) -> str:
    if point is None and len(data.points) > 1:
        raise ValueError(f"several points: say which with hook_name=, of {', '.join(data.points)}")
    name = next(iter(data.points)) if point is None else point
    if name not in data.points:
        raise PointError(f"{name} is not in the stream: {', '.join(data.points)}; give full hook names")
    return name


def _open(out: Path, plans: Sequence[_Plan], shared: Mapping[str, Any]) -> tuple[RunFolder, list[RunFolder]]:
    """The run's folder, and each SAE's; the same where there is one SAE alone."""
    requests = {plan.name: {**plan.request, **shared} for plan in plans}
    if [*requests] == [""]:
        folder = RunFolder.open(out, requests[""])
        return folder, [folder]
    whole = RunFolder.open(out, {"saes": {plan.name: plan.request for plan in plans}, **shared})
    folders = [RunFolder.open(out / name, request) for name, request in requests.items()]
    if "saes" not in whole.manifest:  # at once: a run that is killed before its first checkpoint can be read
        whole.update(saes=[*requests])
    return whole, folders


def _stream_request(data: Stream) -> dict[str, Any]:
    """What the stream says of itself, without what it only knows once it runs; without `max_norm` where no
    row is left out, as in runs of 0.1, which go on so."""
    metadata = dict(data.metadata())
    settings = dict(metadata.get("graticule") or {})
    settings.pop("scaling_factors", None)
    if settings.get("max_norm") is None:
        settings.pop("max_norm", None)
    return {**metadata, "graticule": settings}


def _device(source: Any, device: str | torch.device | None) -> str:
    if device is not None:
        return str(device)
    if isinstance(source, HookedModel) and not isinstance(source, Stream):
        return str(device_of(source))
    return "cuda" if torch.cuda.is_available() else "cpu"
