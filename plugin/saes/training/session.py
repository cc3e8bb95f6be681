"""A run in progress: one batch to every SAE, checkpoints between, and an end that is safe to be killed in."""

from __future__ import annotations

import logging
import shutil
import signal
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from sae_lens.config import LoggingConfig
from torch import Tensor
from tqdm.auto import tqdm

from graticule.hooks.artifact import write_json, write_table
from graticule.hooks.kinds import flat
from graticule.hooks.streams.base import LARGE_SHARE, MAX_NORM, Stream, large_rows
from graticule.saes.steps.step import StepOutput
from graticule.saes.training.folder import RunFolder, read_checkpoint, write_checkpoint, write_sae
from graticule.saes.training.run import LESS_THAN_MEAN
from graticule.saes.training.trainer import DivergedError, Trainer

_log = logging.getLogger(__name__)

_FIRST_LOOK = 16_384  # rows from which norms and medians are estimated
_ON_THE_BAR = 4  # SAEs whose losses stand there
_WANDB_NAMES = {
    "loss": "losses/overall_loss",
    "l0": "metrics/l0",
    "explained_variance": "metrics/explained_variance",
    "dead": "sparsity/dead_features",
    "lr": "details/current_learning_rate",
    "tokens": "details/n_training_samples",
    "seconds": "details/seconds",
    "step": "details/step",
}


@dataclass
class Session:
    """A run in progress."""

    stream: Stream
    """Feeds every SAE."""
    saes: Sequence[tuple[Trainer, RunFolder]]
    """The SAEs, all at the same step, and where each goes."""
    folder: RunFolder
    """The folder of the whole run, with the one checkpoint of all; that of the SAE where it is the only
    one."""
    seed: int
    """Of looks at the data."""
    total: int
    """Rows to train on."""
    log_every: int
    """Steps between rows of the history."""
    checkpoint_every: int | None
    """Steps between checkpoints."""
    checkpoint_minutes: float
    """Minutes between checkpoints."""
    tracker: Tracker
    """Weights & Biases, or nothing."""
    progress: bool | None = None
    """Whether there is a bar; by default on a terminal."""
    seconds: float = 0.0
    """Time spent by processes before this one."""

    @property
    def steps(self) -> int:
        """Steps taken by every SAE."""
        return self.saes[0][0].n_training_steps

    @property
    def tokens(self) -> int:
        """Rows seen by every SAE."""
        return self.saes[0][0].n_training_samples

    @property
    def _trainers(self) -> list[Trainer]:
        return [trainer for trainer, _ in self.saes]

    @property
    def _checkpoint(self) -> Path:
        return self.folder.path / "checkpoint"

    def run(self) -> None:
        """Train to the end, write every SAE, and drop the checkpoint.

        Raises:
            DivergedError: where a loss is no number; the last checkpoint is kept.
            KeyboardInterrupt: after Ctrl-C or SIGTERM, a checkpoint written.
        """
        with self.tracker.running(dict(flat(self.folder.manifest["request"]))):
            self._run()

    def _run(self) -> None:
        self._started = time.monotonic()
        try:
            self._begin()
        except KeyboardInterrupt:
            if not self._checkpoint.is_dir():
                _log.warning(
                    "interrupted before the first step: nothing was trained yet, and the same call captures "
                    "again what was captured so far"
                )
            raise
        saved, ended = time.monotonic(), False
        settings: dict[str, Any] = {"desc": "training", "unit": "tok", "unit_scale": True}
        settings["disable"] = None if self.progress is None else not self.progress
        with tqdm(total=self.total, initial=self.tokens, **settings) as bar, _asked_to_stop() as asked:
            while self.tokens < self.total and not ended:
                ended = not self._advance(bar)
                if asked:
                    self._interrupted()
                due = self.checkpoint_every and self.steps % self.checkpoint_every == 0
                if due or time.monotonic() - saved > 60 * self.checkpoint_minutes:
                    self.checkpoint()
                    saved = time.monotonic()
        if ended:
            _log.warning("the data ended after %d of %d tokens", self.tokens, self.total)
        self.checkpoint()
        self._finish()

    def _begin(self) -> None:
        """Go on from the checkpoint, or look at the data for the first time."""
        state = read_checkpoint(self._checkpoint)
        if state is None:
            sample = self.stream.sample(_FIRST_LOOK, self.seed)
            for trainer, folder in self.saes:
                rows = sample[trainer.point]
                _check_varied(trainer.point, rows)
                trainer.first_look(rows)
                large = large_rows(rows)
                folder.update(large_rows=asdict(large))  # before the first checkpoint
                if large.share >= LARGE_SHARE:
                    _log.warning(
                        "%s: %s: the SAE will be about those rows; stream={'max_norm': %g} leaves them out",
                        trainer.point,
                        large.words,
                        MAX_NORM,
                    )
            return
        self.load_state_dict(state)
        _log.info("going on from step %d (%d tokens)", self.steps, self.tokens)

    # A step ------------------------------------------------------------------------------------------
    def _advance(self, bar: Any) -> bool:
        """One step of every SAE; False where there is no more data."""
        try:
            batch = next(self.stream)
        except StopIteration:
            return False
        outputs: list[StepOutput] = []
        for trainer in self._trainers:
            self.tracker.log(trainer.name, trainer.maybe_reset_sparsity(), self.steps)
            outputs.append(trainer.advance(batch[trainer.point], self.stream, self.seed))
            if trainer.cfg.device == "cpu":
                self._check_finite(trainer)  # elsewhere looking at the loss would wait for the device
        if self.steps % self.log_every == 0 or self.tokens >= self.total or self.steps == 1:
            for trainer, output in zip(self._trainers, outputs, strict=True):
                self._check_finite(trainer)
                line = trainer.line(output) | {"seconds": self._elapsed()}
                trainer.history.add(line)
                self.tracker.log(trainer.name, {wandb_name(k): v for k, v in line.items()}, self.steps)
            bar.set_postfix_str(_postfix(self._trainers), refresh=False)
        bar.update(len(batch[self._trainers[0].point]))
        return True

    def _check_finite(self, trainer: Trainer, weights: bool = False) -> None:
        """`Trainer.check_finite`, naming the SAE, and what is kept."""
        try:
            trainer.check_finite(weights)
        except DivergedError as error:
            there = (
                f"the last checkpoint is kept in {self._checkpoint}"
                if self._checkpoint.is_dir()
                else "there is no checkpoint yet"
            )
            raise DivergedError(
                f"{_who(trainer)}{error}; {there}. Lower lr, or warm it up for longer"
            ) from None

    def _elapsed(self) -> float:
        return self.seconds + time.monotonic() - self._started

    # Checkpoints -------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {
            "stream": dict(self.stream.state_dict()),
            "members": {trainer.name or "sae": trainer.whole_state() for trainer in self._trainers},
            "rng": {"cpu": torch.get_rng_state(), "cuda": cuda},
            "seconds": self._elapsed(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.stream.load_state_dict(state["stream"])
        for trainer in self._trainers:
            trainer.load_whole_state(state["members"][trainer.name or "sae"])
        torch.set_rng_state(state["rng"]["cpu"])
        if state["rng"]["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["rng"]["cuda"])
        self.seconds = state["seconds"]

    def checkpoint(self) -> None:
        """Make this step the checkpoint, and bring history and `run.json` up to it."""
        for trainer in self._trainers:
            self._check_finite(trainer, weights=True)
        write_checkpoint(self._checkpoint, self.steps, self.state_dict())
        for trainer, folder in self.saes:
            write_table(folder.path / "history.parquet", trainer.history.table())
            write_json(folder.path / "events.json", {"events": trainer.history.events})
            if folder is not self.folder:
                folder.update(tokens=self.tokens, steps=self.steps)
        self.folder.update(tokens=self.tokens, steps=self.steps)

    def _interrupted(self) -> None:
        self.checkpoint()
        _log.warning(
            "interrupted at step %d (%d tokens); checkpoint in %s", self.steps, self.tokens, self._checkpoint
        )
        raise KeyboardInterrupt

    def _finish(self) -> None:
        """Write every SAE, say that the run is complete, and drop the checkpoint; killed within, a later
        process does all of it again from the checkpoint."""
        for trainer in self._trainers:
            if trainer.history.explained_late() < 0:
                _log.warning("%s%s", _who(trainer), LESS_THAN_MEAN)
        limit = getattr(self.stream, "norm_limit", None)
        factors: Mapping[str, float] = getattr(self.stream, "scaling_factors", {})
        for trainer, folder in self.saes:
            if limit is not None:
                folder.manifest["left_out"] = limit.words
            trainer.finish(factors.get(trainer.point, 1.0))
            write_sae(trainer, folder.path / "sae", self.stream.metadata(), self.seed)
            if folder is not self.folder:
                folder.update(state="complete")
        self.folder.update(state="complete", seconds=self._elapsed())
        shutil.rmtree(self._checkpoint, ignore_errors=True)


def _who(trainer: Trainer) -> str:
    return f"{trainer.name}: " if trainer.name else ""


def _postfix(trainers: Sequence[Trainer]) -> str:
    """What the bar says: of one SAE four figures, of several their losses."""
    last = [(trainer.name, trainer.history.lines[-1]) for trainer in trainers]
    if len(last) > 1:
        return ", ".join(f"{name} {line['loss']:.4g}" for name, line in last[:_ON_THE_BAR])
    line = last[0][1]
    return (
        f"loss {line['loss']:.4g}, L0 {line['l0']:.1f}, EV {line['explained_variance']:z.3f}, "
        f"dead {line['dead']:.0f}"
    )


def _check_varied(point: str, rows: Tensor) -> None:
    """Refuse rows that are all the same: there is nothing to learn of them."""
    if len(rows) > 1 and bool((rows == rows[0]).all()):
        values = "zeros" if not bool(rows.any()) else "the same values"
        raise ValueError(
            f"{point}: all {len(rows):,} rows looked at are {values}, of which nothing can be learned; give "
            "rows that differ"
        )


@contextmanager
def _asked_to_stop() -> Generator[list[int]]:
    """A list that stays empty until Ctrl-C or SIGTERM, so that a step in progress is finished first; a second
    signal acts as it would have anyway. Other threads than the main one cannot listen."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            if handler is not None:  # None: set by something other than Python, and not to be set again
                signal.signal(number, handler)

    def ask(number: int, _: FrameType | None) -> None:
        asked.append(number)
        restore()

    try:
        for number in before:
            signal.signal(number, ask)
        yield asked
    finally:
        restore()


# Weights & Biases --------------------------------------------------------------------------------------
class Tracker:
    """Sends figures to W&B, where SAELens's `LoggingConfig`, as its runner takes it, asks for it."""

    def __init__(self, logger: LoggingConfig | None) -> None:
        self.logger = logger if logger is not None and logger.log_to_wandb else None
        self._wandb: Any = None

    @contextmanager
    def running(self, config: Mapping[str, Any]) -> Generator[None]:
        """A W&B run, open inside."""
        if self.logger is None:
            yield
            return
        import wandb

        self._wandb = wandb
        wandb.init(
            project=self.logger.wandb_project,
            entity=self.logger.wandb_entity,
            name=self.logger.run_name,
            id=self.logger.wandb_id,
            resume="allow" if self.logger.wandb_id else None,
            config=dict(config),
        )
        failed = True
        try:
            yield
            failed = False
        finally:
            wandb.finish(exit_code=int(failed))

    def log(self, name: str, values: Mapping[str, Any], step: int) -> None:
        """Figures of the SAE `name`, if there are any."""
        if self._wandb is not None and values:
            prefix = f"{name}/" if name else ""
            self._wandb.log({prefix + key: value for key, value in values.items()}, step=step)


def wandb_name(column: str) -> str:
    """A history's column as SAELens's trainer logs it."""
    if column.endswith("_coefficient"):
        return f"details/{column}"
    return _WANDB_NAMES.get(column, f"losses/{column}")
