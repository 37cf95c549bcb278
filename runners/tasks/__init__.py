"""Tasks: what networks learn, and the numbers that tell how well they do."""
