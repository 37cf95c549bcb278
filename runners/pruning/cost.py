"""What a network costs: parameters, multiply-adds, time."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """Of one image.

    Args:
        params: trainable numbers.
        macs: multiply-adds of convolutions and linear layers (half of PyTorch's FLOPs); nothing else counts.
        latency_ms: median time of one forward pass of one image, in eval mode and fp32.
    """

    params: int
    macs: int
    latency_ms: float


@torch.inference_mode()
def cost(network: nn.Module, example: Float[Tensor, "1 channels h w"], *, seconds: float = 0.2) -> Cost:
    """Counts one forward pass and then times many, for `seconds` after a warm-up."""
    was_training = network.training
    network.eval()
    with FlopCounterMode(display=False) as counter:
        network(example)
    timer = Timer("network(example)", globals={"network": network, "example": example}, num_threads=torch.get_num_threads())
    measured = timer.blocked_autorange(min_run_time=seconds)
    network.train(was_training)
    return Cost(
        params=sum(parameter.numel() for parameter in network.parameters()),
        macs=counter.get_total_flops() // 2,
        latency_ms=1000 * measured.median,
    )
