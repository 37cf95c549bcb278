"""The heart: which filters are free, how they score, which go, and what is left."""
