"""The model card: pure functions of what is known about a SAE or a probe."""
