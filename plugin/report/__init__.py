"""The one self-contained page that any result is laid out on."""
