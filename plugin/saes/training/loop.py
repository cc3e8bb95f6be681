"""The loop: one batch to every SAE, checkpoints between, and an end that is safe to be killed in."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from graticule.hooks.streams.base import Stream
from graticule.hooks.streams.norms import LARGE_SHARE, MAX_NORM, LargeRows, large_rows
from graticule.saes.runs.checkpoint import read_checkpoint, write_checkpoint
from graticule.saes.runs.folder import update_run
from graticule.saes.runs.history import LESS_THAN_MEAN
from graticule.saes.training.member import Member
from graticule.saes.training.stopping import asked_to_stop
from graticule.saes.training.tracking import Tracker
from graticule.saes.training.trainer import DivergedError

_log = logging.getLogger(__name__)

_FIRST_LOOK = 16_384  # rows from which norms and medians are estimated
_SHOWN = 4  # SAEs whose losses stand on the bar


@dataclass
class Session:
    """A run in progress."""

    stream: Stream
    """Feeds every SAE."""
    members: Sequence[Member]
    """The SAEs, all at the same step."""
    folder: Path
    """The run folder, with the one checkpoint of all."""
    manifest: dict[str, Any]
    """Its `run.json`."""
    seed: int
    """Of looks at the data."""
    total: int
    """Rows to train on."""
    log_every: int
    """Steps between lines of the history."""
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
        return self.members[0].trainer.n_training_steps

    @property
    def tokens(self) -> int:
        """Rows seen by every SAE."""
        return self.members[0].trainer.n_training_samples

    def run(self) -> None:
        """Train to the end, write every SAE, and drop the checkpoint.

        **Raises** `DivergedError` where a loss is no number (the last checkpoint is kept), and
        `KeyboardInterrupt` after Ctrl-C or SIGTERM, a checkpoint written.
        """
        self._started = time.monotonic()
        try:
            self._begin()
        except KeyboardInterrupt:
            if not (self.folder / "checkpoint").is_dir():
                _log.warning(
                    "interrupted before the first step: nothing was trained yet, and the same call captures "
                    "again what was captured so far"
                )
            raise
        saved, ended = time.monotonic(), False
        with self._bar() as bar, asked_to_stop() as asked:
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
        state = read_checkpoint(self.folder / "checkpoint")
        if state is None:
            rows = self.stream.sample(_FIRST_LOOK, self.seed)
            for member in self.members:
                _check_varied(member.point, rows[member.point])
                member.first_look(rows[member.point])
                self._tell_large(member, large_rows(rows[member.point]))
            return
        self.load_state_dict(state)
        _log.info("going on from step %d (%d tokens)", self.steps, self.tokens)

    def _tell_large(self, member: Member, large: LargeRows) -> None:
        """Keep what the largest rows hold, and warn where it is most of what will be learned."""
        update_run(member.folder, member.manifest, large_rows=asdict(large))  # before the first checkpoint
        if large.share >= LARGE_SHARE:
            _log.warning(
                "%s: %s: the SAE will be about those rows; stream={'max_norm': %g} leaves them out",
                member.point,
                large.words,
                MAX_NORM,
            )

    def _bar(self) -> Any:
        off = None if self.progress is None else not self.progress
        settings: dict[str, Any] = {"desc": "training", "unit": "tok", "unit_scale": True, "disable": off}
        return tqdm(total=self.total, initial=self.tokens, **settings)

    # A step ------------------------------------------------------------------------------------------
    def _advance(self, bar: Any) -> bool:
        """One step of every SAE; False where there is no more data."""
        try:
            batch = next(self.stream)
        except StopIteration:
            return False
        outputs = []
        for member in self.members:
            self.tracker.log_sparsity(member.name, member.trainer.maybe_reset_sparsity(), self.steps)
            outputs.append(member.step(batch[member.point], self.stream, self.seed))
            if member.trainer.cfg.device == "cpu":
                self._check_finite(member)  # elsewhere looking at the loss would wait for the device
        if self.steps % self.log_every == 0 or self.tokens >= self.total or self.steps == 1:
            for member, output in zip(self.members, outputs, strict=True):
                self._check_finite(member)
                line = member.trainer.line(output) | {"seconds": self._elapsed()}
                member.history.add(line)
                self.tracker.log(member.name, line)
            bar.set_postfix_str(_postfix(self.members), refresh=False)
        bar.update(len(batch[self.members[0].point]))
        return True

    def _check_finite(self, member: Member, weights: bool = False) -> None:
        """**Raises** `DivergedError` naming the SAE, and what is kept."""
        try:
            member.trainer.check_finite(weights)
        except DivergedError as error:
            kept = self.folder / "checkpoint"
            there = (
                f"the last checkpoint is kept in {kept}" if kept.is_dir() else "there is no checkpoint yet"
            )
            who = f"{member.name}: " if member.name else ""
            raise DivergedError(f"{who}{error}; {there}. Lower lr, or warm it up for longer") from None

    def _elapsed(self) -> float:
        return self.seconds + time.monotonic() - self._started

    # Checkpoints -------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {
            "stream": dict(self.stream.state_dict()),
            "members": {member.name or "sae": member.state_dict() for member in self.members},
            "rng": {"cpu": torch.get_rng_state(), "cuda": cuda},
            "seconds": self._elapsed(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.stream.load_state_dict(state["stream"])
        for member in self.members:
            member.load_state_dict(state["members"][member.name or "sae"])
        torch.set_rng_state(state["rng"]["cpu"])
        if state["rng"]["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["rng"]["cuda"])
        self.seconds = state["seconds"]

    def checkpoint(self) -> None:
        """Make this step the checkpoint, and bring history and `run.json` up to it."""
        for member in self.members:
            self._check_finite(member, weights=True)
        write_checkpoint(self.folder / "checkpoint", self.steps, self.state_dict())
        for member in self.members:
            member.write_words()
            if member.folder != self.folder:
                update_run(member.folder, member.manifest, tokens=self.tokens, steps=self.steps)
        update_run(self.folder, self.manifest, tokens=self.tokens, steps=self.steps)

    def _interrupted(self) -> None:
        self.checkpoint()
        where = self.folder / "checkpoint"
        _log.warning("interrupted at step %d (%d tokens); checkpoint in %s", self.steps, self.tokens, where)
        raise KeyboardInterrupt

    def _finish(self) -> None:
        """Write every SAE, say that the run is complete, and drop the checkpoint; killed within, a later
        process does all of it again from the checkpoint."""
        for member in self.members:
            if member.history.explained_late() < 0:
                who = f"{member.name}: " if member.name else ""
                _log.warning("%s%s", who, LESS_THAN_MEAN)
        limit = getattr(self.stream, "norm_limit", None)
        for member in self.members:
            if limit is not None:
                member.manifest["left_out"] = limit.words
            member.write_sae(self.stream, self.seed)
            if member.folder != self.folder:
                update_run(member.folder, member.manifest, state="complete")
        update_run(self.folder, self.manifest, state="complete", seconds=self._elapsed())
        shutil.rmtree(self.folder / "checkpoint", ignore_errors=True)


def _postfix(members: Sequence[Member]) -> str:
    """What the bar says: of one SAE four figures, of several their losses."""
    last = [(m.name, m.history.lines[-1]) for m in members]
    if len(last) > 1:
        return ", ".join(f"{name} {line['loss']:.4g}" for name, line in last[:_SHOWN])
    line = last[0][1]
    return (
        f"loss {line['loss']:.4g}, L0 {line['l0']:.1f}, EV {line['explained_variance']:.3f}, "
        f"dead {line['dead']:.0f}"
    )


def _check_varied(point: str, rows: Tensor) -> None:
    """**Raises** `ValueError` for rows that are all the same: there is nothing to learn of them."""
    if len(rows) > 1 and bool((rows == rows[0]).all()):
        values = "zeros" if not bool(rows.any()) else "the same values"
        raise ValueError(
            f"{point}: all {len(rows):,} rows looked at are {values}, of which nothing can be learned; give "
            "rows that differ"
        )
