"""Pruning criteria: pure functions from one convolution to one score per filter."""
