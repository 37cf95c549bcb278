"""The control that every table needs."""

import hashlib
from typing import Annotated

import torch
from annotated_types import Ge, Lt

from criteria.layer import Label, Scores


def random(layer: Label, *, seed: Annotated[int, Ge(0), Lt(2**63)]) -> Scores:
    """A uniform random number for each filter, a function of the seed and the layer's name alone.  [0..1]

    Source:
        Huang et al. 2021, table 4; a control before it in Li et al. 2017, section 4.
    """
    key = hashlib.sha256(f"{seed}/{layer.name}".encode()).digest()[:8]
    generator = torch.Generator().manual_seed(int.from_bytes(key) >> 1)
    return torch.rand(layer.num_filters, dtype=torch.float64, generator=generator)
