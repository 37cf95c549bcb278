"""Attention at the places that networks have for it: functions network -> network, one idea a file."""

# The name by which configs, stored networks and pruned folders know it.
from models.attention.se import squeeze_excite as squeeze_excite
