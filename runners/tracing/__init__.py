"""The id of every channel of a network, and the groups that tie them."""
