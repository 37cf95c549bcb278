"""Which filter every channel of a network carries, and what ties them."""
