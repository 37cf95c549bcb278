"""Recipes of experiments (here) and the steps they are made of (the folders)."""
