"""One SAE of a run: its trainer, resampler and history, fed by the run's stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from graticule.hooks.artifact import write_json, write_table
from graticule.hooks.streams.base import Stream
from graticule.saes.resampling import Resampler
from graticule.saes.runs.history import History
from graticule.saes.runs.metadata import write_sae
from graticule.saes.steps.step import StepOutput
from graticule.saes.training.trainer import Trainer


@dataclass
class Member:
    """One SAE of a run."""

    name: str
    """Empty for the only one."""
    point: str
    """The hook point it is trained at."""
    trainer: Trainer
    """Its optimiser and statistics."""
    folder: Path
    """Where its SAE and history go."""
    manifest: dict[str, Any]
    """Its `run.json`."""
    resampler: Resampler | None = None
    """Brings dead latents back, where that is asked for."""
    history: History = field(default_factory=History)
    """What was logged."""

    def first_look(self, rows: Float[Tensor, "row d_in"]) -> None:
        """Estimate norms, and the centre that the decoder's bias starts at.

        Raises:
            ValueError: where rows have another width than the SAE reads.
        """
        if rows.ndim != 2 or rows.shape[1] != self.trainer.sae.cfg.d_in:
            raise ValueError(
                f"{self.point}: the stream gives rows {tuple(rows.shape)}, the SAE reads "
                f"[row, {self.trainer.sae.cfg.d_in}]"
            )
        self.trainer.first_look(rows.to(self.trainer.sae.device, self.trainer.sae.dtype))

    def step(self, rows: Float[Tensor, "row d_in"], stream: Stream, seed: int) -> StepOutput:
        """One update, and a resampling where it is due."""
        output: StepOutput = self.trainer.step(rows)
        self.trainer.n_training_steps += 1
        if self.resampler is not None:
            self.resampler.observe(self.trainer.n_training_steps, output.fired)
            if self.resampler.due(self.trainer.n_training_steps):
                self._resample(self.resampler, stream, seed)
        return output

    def _resample(self, resampler: Resampler, stream: Stream, seed: int) -> None:
        trainer, step = self.trainer, self.trainer.n_training_steps
        rows = stream.sample(resampler.config.sample_size, seed + step)[self.point]
        rows = trainer.activation_scaler(rows.to(trainer.sae.device, trainer.sae.dtype))
        record = resampler.resample(trainer.sae, trainer.optimizer, rows, step, trainer.get_coefficients())
        latents = torch.tensor(record.latents, dtype=torch.int64, device=trainer.cfg.device)
        silent: Any = trainer.n_forward_passes_since_fired
        silent.index_fill_(0, latents, 0)
        self.history.events.append({"event": "resampled", **asdict(record)})

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, and what was logged."""
        return {
            "trainer": self.trainer.state_dict(),
            "history": self.history.state_dict(),
            "resampler": None if self.resampler is None else self.resampler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.trainer.load_state_dict(state["trainer"])
        self.history.load_state_dict(state["history"])
        if self.resampler is not None:
            device = self.trainer.cfg.device  # a checkpoint's tensors are on the CPU
            held = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in state["resampler"].items()}
            self.resampler.load_state_dict(held)

    def write_words(self) -> None:
        """Bring `history.parquet` and `events.json` up to date."""
        write_table(self.folder / "history.parquet", self.history.table())
        write_json(self.folder / "events.json", {"events": self.history.events})

    def write_sae(self, stream: Stream, seed: int) -> None:
        """Fold all scaling into the weights and write the SAELens folder: the end of this trainer."""
        self.trainer.unbias_threshold()
        self.trainer.fold_scale()
        factors: Mapping[str, float] = getattr(stream, "scaling_factors", {})
        if factors.get(self.point, 1.0) != 1.0:  # the stream has scaled its rows itself
            self.trainer.sae.fold_activation_norm_scaling_factor(factors[self.point])
        self.trainer.set_final_sae_metadata()
        write_sae(self.trainer, self.folder / "sae", stream.metadata(), seed)
