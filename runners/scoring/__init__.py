"""Scores of filters, in one pass over the scoring images."""
