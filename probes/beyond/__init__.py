"""Probes beyond ridge: MLP, principal components, few coordinates, logistic, the unit sphere."""
