"""Training: SAELens's trainer and configs, fed by one stream, with checkpoints that resume exactly."""
