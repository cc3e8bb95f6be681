"""Figures of worlds and simulations: pure functions of tables."""
