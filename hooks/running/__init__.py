"""A model run over texts: its own forward pass, no further than needed, and the session left as found."""
