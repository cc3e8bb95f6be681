"""Does the model use what the probe reads: erasing, steering, ablating, beside matched controls."""
