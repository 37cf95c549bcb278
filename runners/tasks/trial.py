"""A trial of a network before it is trained, of which nothing is left: neither in the network nor in random generators."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import numpy as np
import torch
from torch import nn


@contextmanager
def on_trial(network: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """A copy of `network`, to be run without gradients; what its layers draw meanwhile moves no global generator."""
    before = random.getstate(), np.random.get_state()
    gpus = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(gpus), torch.no_grad():
            yield deepcopy(network)
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
