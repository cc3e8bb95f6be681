"""SAE latents through the same surface as the dense probe."""
