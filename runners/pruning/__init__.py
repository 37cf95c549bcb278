"""Pruned networks: filters removed or zeroed, what is left, what it costs."""
