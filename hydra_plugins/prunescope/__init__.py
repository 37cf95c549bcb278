"""What Hydra finds by this folder's name: how the jobs of a sweep are listed, and where they run."""
