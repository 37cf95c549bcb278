"""Other activations: functions network -> network."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le, Lt, MinLen
from torch import Tensor, nn
from torch.nn import functional as F

Slope = Annotated[float, Ge(0), Lt(1)]


class DropActivation(nn.Module):
    """A ReLU that is left out at random: for every number on its own, with probability 1 - `keep`, anew in every forward pass.

    In eval mode its mean, a leaky ReLU of slope 1 - `keep`.

    Source:
        Liang, Khoo and Yang 2020, "Drop-Activation: implicit parameter reduction and harmonious regularization", section 3.1.
    """

    def __init__(self, keep: float) -> None:
        super().__init__()
        self.keep = keep

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        if not self.training:
            return F.leaky_relu(x, 1 - self.keep)
        kept = torch.empty_like(x, dtype=torch.bool).bernoulli_(self.keep)
        return x + F.relu(-x) * kept  # exactly 0 where a negative number is cut off

    def extra_repr(self) -> str:
        """The probability."""
        return f"keep={self.keep}"


def leaky_relu(network: nn.Module, *, negative_slope: Slope) -> nn.Module:
    """`network` with a leaky ReLU in the place of every ReLU module, in place.

    Raises:
        ValueError: the network has no ReLU module (it may call the function instead).

    Source:
        Maas et al. 2013, "Rectifier nonlinearities improve neural network acoustic models", section 2: slope 0.01.
    """
    return _replaced(network, lambda: nn.LeakyReLU(negative_slope))


def rrelu(network: nn.Module, *, lower: Slope, upper: Slope) -> nn.Module:
    """`network` with a randomised leaky ReLU in the place of every ReLU module, in place.

    The slope of every negative number is uniform in [`lower`, `upper`] while training, and the middle of the two in eval mode.

    Raises:
        ValueError: `lower` is above `upper`, or the network has no ReLU module.

    Source:
        Xu et al. 2015, "Empirical evaluation of rectified activations in convolutional network", section 2.4, with slopes for
        their divisors: theirs are 1/8 and 1/3, as in PyTorch.
    """
    if lower > upper:
        raise ValueError(f"lower={lower:g} is above upper={upper:g}; slopes are drawn between the two; exchange them")
    return _replaced(network, lambda: nn.RReLU(lower, upper))


def drop_activation(
    network: nn.Module, *, keep: Annotated[float, Gt(0), Le(1)], only: Annotated[Sequence[str], MinLen(1)]
) -> nn.Module:
    """`network` with `DropActivation` in the place of its ReLU modules, in place.

    Args:
        only: names of the ReLUs that are replaced, or patterns (`*` is all). On ImageNet the authors replace those of the last
            two stages of a ResNet: `layer3.*` and `layer4.*`.

    Raises:
        ValueError: the network has no such ReLU module.
    """
    return _replaced(network, lambda: DropActivation(keep), only)


def _replaced(network: nn.Module, made: Callable[[], nn.Module], only: Sequence[str] = ("*",)) -> nn.Module:
    relus = [name for name, module in network.named_modules(remove_duplicate=False) if type(module) is nn.ReLU]
    names = [name for name in relus if any(fnmatchcase(name, pattern) for pattern in only)]
    if relus and not names:
        raise ValueError(f"only={list(only)} names none of the {len(relus)} ReLU modules, as {relus[-1]}; try only=['*']")
    if not names:
        raise ValueError(f"{type(network).__name__} has no ReLU module to replace; leave model/activation out")
    for name in names:
        network.set_submodule(name, made())
    return network
