"""Worlds whose truth is known, for pointing the instruments at."""
