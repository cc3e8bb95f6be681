"""The geometry of probes' directions."""
