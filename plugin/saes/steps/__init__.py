"""Training steps of sparse autoencoders: SAELens's losses and gradients, computed on what is not zero."""
