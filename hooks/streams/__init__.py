"""Activations for training: shuffled batches from a store or straight from a model, resumable to the bit."""
