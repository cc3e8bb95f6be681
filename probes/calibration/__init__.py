"""What the instrument reports on targets whose truth is known, on the findings' own activations and rows."""
