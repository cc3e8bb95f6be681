"""Every simulation of Jiang et al. again, beside the paper's own numbers, and the maps that it leaves out."""
