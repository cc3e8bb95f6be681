"""Learners of known worlds, trained: lookup tables, and transformers that read concepts one by one."""
