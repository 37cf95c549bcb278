"""Runners that look at runs that are there: status of a sweep, and the fitness of this machine."""
