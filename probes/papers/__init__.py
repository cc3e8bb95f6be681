"""What published papers need and nothing else does: their own scoring, their tables, their strings."""
