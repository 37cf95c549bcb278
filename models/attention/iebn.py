"""Instance enhancement of BatchNorm: its scale depends on the image."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.host import stages


class InstanceEnhancedNorm(nn.BatchNorm2d):
    """BatchNorm whose scale is multiplied, in every image, by the sigmoid of a linear function of the channel's mean.

    The slope of that function starts at 0 and its offset at -1, so that all factors start at 0.27.
    """

    def __init__(self, channels: int, eps: float, momentum: float | None) -> None:
        super().__init__(channels, eps, momentum)
        self.slope = nn.Parameter(torch.zeros(channels))
        self.offset = nn.Parameter(torch.full((channels,), -1.0))

    def forward(self, input: Float[Tensor, "images channels h w"]) -> Float[Tensor, "images channels h w"]:
        """The channels, normalised; the shift is the same in all images."""
        factors = (self.slope * input.mean((2, 3)) + self.offset).sigmoid()[:, :, None, None]
        shift = self.bias[:, None, None]
        return shift + factors * (super().forward(input) - shift)


def instance_enhancement(network: nn.Module) -> nn.Module:
    """`network` with instance enhancement in every BatchNorm but those of shortcuts, in place.

    A BatchNorm is on a shortcut if it stands deeper in a block than the block's own layers.

    Raises:
        ValueError: the network has no place for attention, or no BatchNorm.

    Source:
        Liang et al. 2020, "Instance enhancement batch normalization: an adaptive regulator of batch noise", section 3,
        equations 4 to 6; which of them and the values at the start as in their code.
    """
    hosts = {host for stage in stages(network) for host in stage}
    shortcuts = {module for host in hosts for module in host.modules()} - hosts
    norms = {
        name: module
        for name, module in network.named_modules(remove_duplicate=False)
        if type(module) is nn.BatchNorm2d and network.get_submodule(name.rpartition(".")[0]) not in shortcuts
    }
    if not norms:
        raise ValueError(
            f"{type(network).__name__} has no BatchNorm to enhance; choose one with BatchNorm, or another attention"
        )
    for name, module in norms.items():
        enhanced = InstanceEnhancedNorm(module.num_features, module.eps, module.momentum)
        enhanced.load_state_dict(module.state_dict(), strict=False)
        network.set_submodule(name, enhanced)
    return network
