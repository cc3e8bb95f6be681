"""Controls: what a probe's score is worth, measured with things that hold part of its recipe fixed."""
