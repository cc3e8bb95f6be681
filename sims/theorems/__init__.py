"""The paper's theorems as exact checks, on oracle tables or on the user's own."""
