"""What a training run leaves on disk: request and state, checkpoints, history, the SAE and its metadata."""
