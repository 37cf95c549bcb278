"""Runners that look at runs that are there: status and report of a sweep, and the fitness of this machine."""
