"""What could be read without the model's knowledge: strings, embeddings, untrained twins."""
