"""Plugins of Hydra, which finds them by this folder's name: the list of a sweep's jobs, and the places where they run."""
