"""Scores, distances on the globe, the bootstrap, and the verdict."""
