"""The cost of a network: parameters, multiply-adds, memory for activations, time."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any
from weakref import finalize

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.benchmark import Timer

WARM_UP = 3  # forward passes before the clock starts


@dataclass(frozen=True)
class Cost:
    """Of one image, in eval mode.

    Args:
        params: trainable numbers.
        macs: multiply-adds of the network's convolutions and linear layers, each as often as it is used: the number of
            which `ratio_of=macs` removes a share. Nothing else counts: neither products of activations (attention), nor
            functions with weights of their own (F.conv2d, torchvision's Swin), nor what PyTorch computes as one module
            (nn.MultiheadAttention).
        peak_activation_bytes: largest sum of the tensors that are alive at once in a forward pass run operation by
            operation: the image and what is made of it, views and changes in place for nothing; not the weights, and not
            the scratch memory of kernels.
        latency_ms: median time of one forward pass, after `WARM_UP` passes that do not count.
        batch: images a pass.
        dtype: of the numbers.
        device: where they lie.
        threads: of PyTorch on the CPU.
    """

    params: int
    macs: int
    peak_activation_bytes: int
    latency_ms: float
    batch: int
    dtype: str
    device: str
    threads: int


@torch.inference_mode()
def macs(network: nn.Module, example: Float[Tensor, "1 channels h w"]) -> int:
    """Multiply-adds of convolutions and linear layers for one image; the mode is put back."""
    was_training = network.training
    with _counted(network.eval()) as found:
        network(example)
    network.train(was_training)
    return sum(found) // len(example)


@torch.inference_mode()
def cost(network: nn.Module, example: Float[Tensor, "1 channels h w"], *, seconds: float = 0.2) -> Cost:
    """Counts one forward pass and then times many, for `seconds` after a warm-up."""
    was_training = network.training
    network.eval()
    with _counted(network) as found, _LiveTensors(network, example) as memory:
        network(example)
    for _ in range(WARM_UP):
        network(example)
    timer = Timer("network(example)", globals={"network": network, "example": example}, num_threads=torch.get_num_threads())
    measured = timer.blocked_autorange(min_run_time=seconds)
    network.train(was_training)
    return Cost(
        params=sum(parameter.numel() for parameter in network.parameters()),
        macs=sum(found) // len(example),
        peak_activation_bytes=memory.peak,
        latency_ms=1000 * measured.median,
        batch=len(example),
        dtype=str(example.dtype).removeprefix("torch."),
        device=str(example.device),
        threads=torch.get_num_threads(),
    )


@contextmanager
def _counted(network: nn.Module) -> Iterator[list[int]]:
    """The multiply-adds of each use of a layer, growing while the network runs."""
    found: list[int] = []

    def note(layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> None:
        if isinstance(layer, nn.Linear):
            found.append(layer.weight.numel() * prod(output.shape[:-1]))
            return
        assert isinstance(layer, _ConvNd)
        # Every pixel that a transposed convolution reads meets every weight.
        n_images, _, *pixels = (args or tuple(kwargs.values()))[0].shape if layer.transposed else output.shape
        found.append(layer.weight.numel() * prod((n_images, *pixels)))

    hooks = [layer.register_forward_hook(note, with_kwargs=True) for layer in _layers(network)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _layers(network: nn.Module) -> Iterator[nn.Module]:
    """The convolutions and linear layers that are steps of the network of their own, as tracing follows them."""
    tracer, waiting, seen = fx.Tracer(), [network], set[nn.Module]()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        if isinstance(module, _ConvNd | nn.Linear):
            yield module
        a_list = isinstance(module, nn.ModuleList | nn.ModuleDict)
        whole = isinstance(module, _ConvNd | nn.Linear | _BatchNorm) or tracer.is_leaf_module(module, "") and not a_list
        if module is network or not whole:
            waiting += module.children()


class _LiveTensors(TorchDispatchMode):
    """Sums the memory of the tensors that operations make, from when they are made until nothing holds them."""

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        super().__init__()
        self.known = {_address(value) for value in (*network.parameters(), *network.buffers(), example)}
        self.live = self.peak = example.untyped_storage().nbytes()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and _address(value) not in self.known:
                self._born(value)
        return result

    def _born(self, value: Tensor) -> None:
        storage, address = value.untyped_storage(), _address(value)
        size = storage.nbytes()
        self.known.add(address)
        self.live += size
        self.peak = max(self.peak, self.live)
        finalize(storage, self._gone, address, size)

    def _gone(self, address: int, size: int) -> None:
        self.known.discard(address)
        self.live -= size


def _address(value: Tensor) -> int:
    """Identity of a piece of memory, the same for all views of it."""
    return value.untyped_storage()._cdata
