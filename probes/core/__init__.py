"""Sweep, verdict, surface: from activations and a target to findings."""
