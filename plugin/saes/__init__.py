"""Sparse autoencoders: trained, evaluated and read, as SAELens objects and SAELens folders.

Every name is loaded on first use.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graticule.saes.architectures import BrickenTrainingSAEConfig as BrickenTrainingSAEConfig
    from graticule.saes.architectures import mean_convention as mean_convention
    from graticule.saes.architectures import sum_convention as sum_convention
    from graticule.saes.evaluation.evaluate import evaluate as evaluate
    from graticule.saes.features.examine import examine as examine
    from graticule.saes.features.recovery import recovery as recovery
    from graticule.saes.features.truth import Truth as Truth
    from graticule.saes.features.truth import dense_truth as dense_truth
    from graticule.saes.features.truth import learned_truth as learned_truth
    from graticule.saes.features.truth import sparse_truth as sparse_truth
    from graticule.saes.resampling import ResamplingConfig as ResamplingConfig
    from graticule.saes.training.run import Run as Run
    from graticule.saes.training.settings import Optimisation as Optimisation
    from graticule.saes.training.settings import sae_config as sae_config
    from graticule.saes.training.train import train as train
    from graticule.saes.training.trainer import Trainer as Trainer
else:
    from graticule.lazy import lazy_names

    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "saes.architectures": "BrickenTrainingSAEConfig mean_convention sum_convention",
            "saes.features.recovery": "recovery",
            "saes.features.truth": "Truth dense_truth learned_truth sparse_truth",
            "saes.evaluation.evaluate": "evaluate",
            "saes.features.examine": "examine",
            "saes.resampling": "ResamplingConfig",
            "saes.training.run": "Run",
            "saes.training.settings": "Optimisation sae_config",
            "saes.training.train": "train",
            "saes.training.trainer": "Trainer",
        },
        needs="sae_lens",
    )
