"""Findings from activations: tables, ridge probes, baselines, sweeps and verdicts."""
