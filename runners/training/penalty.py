"""Penalties of a training: what a step adds to the gradients of the loss before the weights change."""

from collections.abc import Callable

from torch import nn

Penalty = Callable[[nn.Module], None]
