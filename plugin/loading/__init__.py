"""Behind `load_model`: the Hugging Face original, its form in TransformerLens, and whether the two agree."""
