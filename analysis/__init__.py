"""Statistics and figures: pure functions from tidy tables."""
