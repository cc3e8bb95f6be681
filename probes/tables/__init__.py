"""Entity tables: rows, targets, the frozen split, clusters and blocks."""
