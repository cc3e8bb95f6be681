"""Ridge probes: pure solvers, and the estimator that carries two directions."""
