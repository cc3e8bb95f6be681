"""The commands of `graticule …`: each reads words, makes one call that a notebook could make, and prints."""
