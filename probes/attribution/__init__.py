"""The model run again for a probe: its reading as a sum over upstream writes, and at every token."""
