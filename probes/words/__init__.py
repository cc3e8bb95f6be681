"""Counterfactual word pairs and pairs of contexts: the linear geometry of any language model's vocabulary."""
