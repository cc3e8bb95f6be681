"""Autoencoder architectures that SAELens lacks, registered with it on import."""

from graticule.saes.architectures.bricken import BrickenTrainingSAE, BrickenTrainingSAEConfig

__all__ = ["BrickenTrainingSAE", "BrickenTrainingSAEConfig"]
