"""How good an SAE is: reconstruction, what the model loses by it, and the state of its dictionary."""
