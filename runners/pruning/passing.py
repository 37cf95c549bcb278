"""The forward pass by which networks of two widths are compared: in float64, and with the mean of every random draw."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from runners.process.errors import is_out_of_memory

aten = torch.ops.aten
# The mean of a random draw, by the arguments of the draw.
MEANS: Mapping[Any, Callable[..., Any]] = {
    aten.native_dropout: lambda x, p, train: (x, True),
    aten.rrelu_with_noise: lambda x, noise, lower=1 / 8, upper=1 / 3, *_: F.leaky_relu(x, (lower + upper) / 2),
    aten.bernoulli_: lambda x, p=0.5: p,
    aten.bernoulli: lambda x, p=None: x if p is None else p,
    aten.uniform_: lambda x, low=0.0, high=1.0: (low + high) / 2,
    aten.normal_: lambda x, mean=0.0, std=1.0: mean,
    aten.rand: lambda *_: 0.5,
    aten.rand_like: lambda *_: 0.5,
    aten.randn: lambda *_: 0.0,
    aten.randn_like: lambda *_: 0.0,
}


@dataclass(frozen=True)
class Outputs:
    """The tensors that a network returned, in whatever structure; the coarsest kind of numbers that took part."""

    tensors: list[Tensor]
    coarsest: torch.dtype


@dataclass(frozen=True)
class Pass:
    """A forward pass; it changes precision, mode and statistics of the network that it is given, and no random generator."""

    x: Float[Tensor, "images channels h w"]
    dtype: torch.dtype
    training: bool

    @torch.no_grad()
    def __call__(self, network: nn.Module) -> Outputs:
        """The outputs of a network."""
        network.to(self.dtype).train(self.training)
        with _seeded(self.x.device), _Means() as seen:
            found = network(self.x.to(self.dtype, copy=True))
        return Outputs(tensors_in(found), seen.coarsest)


def finest(network: nn.Module, x: Float[Tensor, "images channels h w"], *, training: bool) -> tuple[Pass, Outputs]:
    """A pass in float64, or in float32 for a network that makes float32 numbers of its own and cannot join them with others."""
    try:
        double = Pass(x, torch.float64, training)
        return double, double(network)
    except Exception as error:  # whatever a foreign network raises
        if is_out_of_memory(error):
            raise
        single = Pass(x, torch.float32, training)
        return single, single(network)


def tensors_in(found: Any) -> list[Tensor]:
    """The tensors of nested tuples, lists and mappings, in order."""
    return [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]


class _Means(TorchDispatchMode):
    """Puts the mean in the place of every random draw, since fewer channels would draw other numbers; notes the precision."""

    def __init__(self) -> None:
        super().__init__()
        self.coarsest = torch.float64

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if mean := MEANS.get(func.overloadpacket):
            for drawn, value in zip(tree_leaves(result), tree_leaves(mean(*args)), strict=True):
                drawn.copy_(torch.as_tensor(value))
        for value in tree_leaves(result):
            # Numbers without a dimension take the precision of what they meet.
            if isinstance(value, Tensor) and value.dim() and value.is_floating_point():
                self.coarsest = max(self.coarsest, value.dtype, key=lambda dtype: torch.finfo(dtype).eps)
        return result


@contextmanager
def _seeded(device: torch.device) -> Iterator[None]:
    """The generators of the CPU and of one device, set anew, and put back at the end."""
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng([device] if on_gpu else []):
        torch.default_generator.manual_seed(0)
        if on_gpu:
            torch.cuda.default_generators[device.index].manual_seed(0)
        yield
