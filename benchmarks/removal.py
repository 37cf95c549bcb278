"""Our removal of filters against torch-pruning: one process, one thread, competitors taking turns.

    python benchmarks/removal.py [rounds=5] [threads=1]

Half of the filters of every convolution go, those with the smallest L1 norm, of tied layers together. Timed is everything
from a network to the smaller one: following the channels, plan, scores, choice, surgery. Ours copies the network; the
peer changes a copy, whose making is not timed. Prints a table: least seconds of this process of both (other processes
only ever add to them), their ratio, the parameters left.
"""

import gc
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import efficientnet_v2_s

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.cifar_resnet import cifar_resnet  # noqa: E402
from models.cifar_vgg import cifar_vgg_bn  # noqa: E402
from runners.pruning.prune import prune  # noqa: E402
from runners.selection.plan import plan  # noqa: E402
from runners.selection.rule import Rule  # noqa: E402
from runners.selection.select import choose  # noqa: E402
from runners.tracing.channels import Channels, trace_channels  # noqa: E402

GROWTH, LAYERS = 12, 32


class DenseLayer(nn.Module):
    """BatchNorm, ReLU, convolution; its output joins its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, GROWTH, 3, padding=1, bias=False)

    def forward(self, x: Float[Tensor, "images in h w"]) -> Float[Tensor, "images out h w"]:
        """Output with twelve new channels behind all those so far."""
        return torch.cat([x, self.conv(torch.relu(self.norm(x)))], 1)


def densenet100() -> nn.Module:
    """DenseNet-100 with growth rate 12, neither bottleneck nor compression (Huang et al. 2017, table 2)."""
    width = 16
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, bias=False)]
    for block in range(3):
        layers += [DenseLayer(width + GROWTH * index) for index in range(LAYERS)]
        width += GROWTH * LAYERS
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
        if block < 2:
            layers += [nn.Conv2d(width, width, 1, bias=False), nn.AvgPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def l1_scores(network: nn.Module, channels: Channels) -> pd.DataFrame:
    """The L1 norm of every filter, as a table of scores."""
    norms = [network.get_parameter(f"{layer}.weight").detach().abs().sum(dim=(1, 2, 3)) for layer in channels.convolutions]
    widths = [len(each) for each in norms]
    return pd.DataFrame(
        {
            "layer": np.repeat(np.array(channels.convolutions, dtype=object), widths),
            "index": np.repeat(np.arange(1, len(widths) + 1), widths),
            "criterion": "l1",
            "filter": np.concatenate([np.arange(width) for width in widths]),
            "score": torch.cat(norms).double().numpy(),
        }
    )


def ours(network: nn.Module, example: Tensor) -> nn.Module:
    """A smaller copy."""
    channels = trace_channels(network, example)
    planned = plan(channels, Rule(0.5, coupled="group"))
    return prune(network, channels, choose(planned, l1_scores(network, channels), "l1"))


def peer(network: nn.Module, example: Tensor) -> nn.Module:
    """The same network, smaller."""
    torch_pruning = import_module("torch_pruning")  # an optional extra
    pruner = torch_pruning.pruner.MagnitudePruner(
        network,
        example,
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=0.5,
        ignored_layers=[module for module in network.modules() if isinstance(module, nn.Linear)],
    )
    pruner.step()
    return network


def removal_row(name: str, make: Callable[[], nn.Module], size: int, rounds: int) -> list[str]:
    """One network, pruned by both."""
    torch.manual_seed(0)
    network, example = make().eval(), torch.randn(1, 3, size, size)
    copies = [deepcopy(network) for _ in range(rounds + 1)]
    results = [(timed(peer, copy, example), timed(ours, network, example)) for copy in copies]
    # The first round warms up.
    theirs, mine = (min(seconds for seconds, _ in column) for column in zip(*results[1:], strict=True))
    left = [num_params(smaller) for _, smaller in results[-1]]
    same = "the same" if left[0] == left[1] else f"the peer {left[0]:,}"
    agreement = f"{left[1]:,} parameters left, {same}"
    return [name, "torch-pruning", f"{theirs:.3f} s", f"{mine:.3f} s", f"{theirs / mine:.1f}x", agreement]


def timed(prune: Callable[[nn.Module, Tensor], nn.Module], network: nn.Module, example: Tensor) -> tuple[float, nn.Module]:
    """Seconds of this process, and the smaller network; garbage of the competitor is collected before."""
    gc.collect()
    started = time.process_time()
    smaller = prune(network, example)
    return time.process_time() - started, smaller


def num_params(network: nn.Module) -> int:
    """Trainable numbers."""
    return sum(parameter.numel() for parameter in network.parameters())


def main() -> None:
    """Measures and prints."""
    options = {"rounds": 5, "threads": 1}
    options |= {name: int(value) for name, _, value in (argument.partition("=") for argument in sys.argv[1:])}
    if find_spec("torch_pruning") is None:
        print("torch-pruning is not installed, so there is nothing to compare with: pip install torch-pruning")
        return
    torch.set_num_threads(options["threads"])
    print(f"# torch {torch.__version__}, {options['threads']} thread(s), least of {options['rounds']}, competitors in turn\n")
    print("| network | peer | peer time | ours | ratio | agreement |\n| --- | --- | --- | --- | --- | --- |")
    for name, make, size in (
        ("ResNet-56", partial(cifar_resnet, depth=56, num_classes=10, shortcut="conv"), 32),
        ("VGG-16", partial(cifar_vgg_bn, depth=16, num_classes=10), 32),
        ("DenseNet-100, k = 12", densenet100, 32),
        ("EfficientNet-V2-S", partial(efficientnet_v2_s, num_classes=10), 224),
    ):
        print("| " + " | ".join(removal_row(name, make, size, options["rounds"])) + " |", flush=True)


if __name__ == "__main__":
    main()
