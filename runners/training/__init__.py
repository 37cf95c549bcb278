"""Training: the steps that change weights, their state and their checkpoints."""
