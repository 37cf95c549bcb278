"""Learning rates of an epoch's steps, laid down where a captured step finds them."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Rates:
    """The learning rate of every step of an epoch; a captured step knows only the places of these tensors."""

    def __init__(self, n_steps: int, device: torch.device) -> None:
        self.values = torch.zeros(n_steps, device=device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)

    def begin(self, values: Sequence[float], *, position: int) -> None:
        """Writes the rates of an epoch of which `position` steps are finished."""
        self.values.copy_(torch.tensor(values))
        self.position.fill_(position)

    def next_into(self, lr: Tensor) -> None:
        """Copies the next step's rate to `lr`."""
        lr.copy_(self.values.index_select(0, self.position)[0])
        self.position.add_(1)
