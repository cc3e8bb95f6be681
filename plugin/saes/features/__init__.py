"""The features of an SAE: where each fires most, and which tokens it makes likelier."""
