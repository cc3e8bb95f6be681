"""A model and texts in, activations out."""
