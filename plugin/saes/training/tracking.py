"""Weights & Biases, for those who ask for it: off unless a SAELens `LoggingConfig` says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae_lens.config import LoggingConfig

_METRICS = ("l0", "explained_variance")
_DETAILS = ("lr", "tokens", "seconds", "step")


class Tracker:
    """Sends logged lines to W&B under SAELens's own names; does nothing without a config that asks for it."""

    def __init__(self, logger: LoggingConfig | None) -> None:
        """`logger` as SAELens's runner takes it."""
        self.logger = logger if logger is not None and logger.log_to_wandb else None

    def begin(self, config: Mapping[str, Any]) -> None:
        """Open the W&B run."""
        if self.logger is None:
            return
        import wandb

        wandb.init(
            project=self.logger.wandb_project,
            entity=self.logger.wandb_entity,
            name=self.logger.run_name,
            id=self.logger.wandb_id,
            resume="allow" if self.logger.wandb_id else None,
            config=dict(config),
        )

    def log(self, name: str, line: Mapping[str, float]) -> None:
        """One logged step of the SAE `name`."""
        if self.logger is None:
            return
        import wandb

        prefix = f"{name}/" if name else ""
        wandb.log({prefix + wandb_name(key): value for key, value in line.items()}, step=int(line["step"]))

    def log_sparsity(self, name: str, found: Mapping[str, Any], step: int) -> None:
        """SAELens's figures of a whole sparsity window, as they come."""
        if self.logger is None or not found:
            return
        import wandb

        prefix = f"{name}/" if name else ""
        wandb.log({prefix + key: value for key, value in found.items()}, step=step)

    def end(self, failed: bool) -> None:
        """Close the W&B run."""
        if self.logger is None:
            return
        import wandb

        wandb.finish(exit_code=int(failed))


def wandb_name(column: str) -> str:
    """A history's column as SAELens's trainer logs it."""
    if column == "loss":
        return "losses/overall_loss"
    if column == "dead":
        return "sparsity/dead_features"
    if column in _METRICS:
        return f"metrics/{column}"
    if column == "lr":
        return "details/current_learning_rate"
    if column == "tokens":
        return "details/n_training_samples"
    if column in _DETAILS or column.endswith("_coefficient"):
        return f"details/{column}"
    return f"losses/{column}"
