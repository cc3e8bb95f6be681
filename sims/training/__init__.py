"""How learners are trained: sampled batches, updates of two tables, texts of a transformer."""
