"""The tables of runs that are there, gathered over a sweep and laid out to be read."""
