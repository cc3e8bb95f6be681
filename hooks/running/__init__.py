"""A model run over texts: its own forward pass, no further than needed; global state is restored after."""
