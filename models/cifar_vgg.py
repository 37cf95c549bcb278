"""VGG for small images: eight to sixteen convolutions in five stages, and one or two linear layers."""

from collections.abc import Mapping
from typing import Annotated, Literal

from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from models.host import Host

Depth = Literal[11, 13, 16, 19]
CONVS_PER_STAGE: dict[Depth, tuple[int, ...]] = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
WIDTHS = (64, 128, 256, 512, 512)
HIDDEN = 512  # units between the two linear layers of the pruning scripts
# Number of a convolution, from 1 -> its filters.
Widths = Mapping[Annotated[int, Ge(1)], Annotated[int, Ge(1)]]


class StageEnd(Host):
    """2x2 pooling, of channels that attention weighs first if there is some."""

    def __init__(self, channels: int, pool: nn.Module) -> None:
        super().__init__(channels)
        self.pool = pool

    def forward(self, x: Float[Tensor, "images channels h w"]) -> Float[Tensor, "images channels h2 w2"]:
        """Half as many rows and columns."""
        return self.pool(self.weigh(x))


class CifarVgg(nn.Module):
    """Five stages of convolutions with ReLUs, each closed by 2x2 pooling; the mean of what is left; a classifier.

    Attention stands once a stage, behind its last ReLU and before the pooling, so that it weighs five times (in VGG-16
    after convolutions 2, 4, 7, 10 and 13). This place is ours: NeurIPS'21 Table 10 has a VGG-16 with six kinds of
    attention and does not print where it stood. The last two stages count as one for attention that stages share.

    Args:
        convs_per_stage: convolutions of every stage.
        widths: filters of every convolution.
        norm: stands between a convolution and its ReLU; None for nothing.
    """

    def __init__(
        self,
        convs_per_stage: tuple[int, ...],
        widths: list[int],
        in_channels: int,
        *,
        conv_bias: bool,
        norm: type[nn.BatchNorm2d] | None,
        classifier: nn.Module,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        remaining = iter(widths)
        for convs in convs_per_stage:
            for _ in range(convs):
                width = next(remaining)
                layers.append(nn.Conv2d(in_channels, width, 3, padding=1, bias=conv_bias))
                layers += [nn.ReLU()] if norm is None else [norm(width), nn.ReLU()]
                in_channels = width
            # ceil_mode changes nothing at 32x32 and lets 16x16 images through all five stages.
            layers.append(StageEnd(in_channels, nn.MaxPool2d(2, ceil_mode=True)))
        self.features = nn.Sequential(*layers)
        # Of images up to 32x32 one pixel is left.
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = classifier
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.classifier.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Float[Tensor, "images in h w"]) -> Float[Tensor, "images classes"]:
        """Logits."""
        return self.classifier(self.pool(self.features(x)).flatten(1))


def cifar_vgg_bn(
    *,
    depth: Depth,
    num_classes: Annotated[int, Ge(2)],
    in_channels: Annotated[int, Ge(1)] = 3,
    conv_bias: bool = True,
    widths: Widths | None = None,
) -> CifarVgg:
    """VGG-`depth` with BatchNorm and one linear layer, for 32x32 images.

    Args:
        conv_bias: convolutions have a bias, which the BatchNorm behind them makes redundant.
        widths: convolutions of other widths than 64, 128, 256, 512 by their number from 1: `+model.widths={2:128}` gives
            the second convolution 128 filters (NeurIPS'21 Figure 8: 64, 128, 256).

    Raises:
        ValueError: `widths` names a convolution that is not there.

    Source:
        Simonyan & Zisserman 2015, table 1, in the CIFAR form of the training code the papers cite: biased
        convolutions with weights from N(0, 2 / (9 filters)), linear weights from N(0, 0.01^2); 14,728,266 parameters for
        VGG-16 on ten classes, 20,040,522 for VGG-19; 14,724,042 for VGG-16 without bias.
    """
    filters = _filters(depth, widths)
    classifier = nn.Linear(filters[-1], num_classes)
    return CifarVgg(
        CONVS_PER_STAGE[depth], filters, in_channels, conv_bias=conv_bias, norm=nn.BatchNorm2d, classifier=classifier
    )


def cifar_vgg(
    *,
    depth: Depth,
    num_classes: Annotated[int, Ge(2)],
    in_channels: Annotated[int, Ge(1)] = 3,
    widths: Widths | None = None,
) -> CifarVgg:
    """VGG-`depth` without BatchNorm and with one linear layer, for 32x32 images.

    Args:
        widths: as in `cifar_vgg_bn`.

    Raises:
        ValueError: `widths` names a convolution that is not there.

    Source:
        As `cifar_vgg_bn`. The code has it, the papers' tables of CIFAR networks say "VGG19" and "VGG19-bn".
    """
    filters = _filters(depth, widths)
    classifier = nn.Linear(filters[-1], num_classes)
    return CifarVgg(CONVS_PER_STAGE[depth], filters, in_channels, conv_bias=True, norm=None, classifier=classifier)


def cifar_vgg_rethink(
    *,
    depth: Depth,
    num_classes: Annotated[int, Ge(2)],
    in_channels: Annotated[int, Ge(1)] = 3,
    widths: Widths | None = None,
) -> CifarVgg:
    """VGG-`depth` with BatchNorm and two linear layers, for 32x32 images: the network of the pruning scripts.

    Args:
        widths: as in `cifar_vgg_bn`.

    Raises:
        ValueError: `widths` names a convolution that is not there.

    Source:
        Liu et al. 2019 ("Rethinking the value of network pruning"), the code of their section 4.1: no bias in
        convolutions, BatchNorm that starts at 0.5, and again between the linear layers; 14,987,722 parameters for
        VGG-16 on ten classes. Its last pooling takes the mean of 2x2 pixels, not the largest.
    """
    filters = _filters(depth, widths)
    classifier = nn.Sequential(
        nn.Linear(filters[-1], HIDDEN), nn.BatchNorm1d(HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, num_classes)
    )
    network = CifarVgg(
        CONVS_PER_STAGE[depth], filters, in_channels, conv_bias=False, norm=nn.BatchNorm2d, classifier=classifier
    )
    network.features[-1] = StageEnd(filters[-1], nn.AvgPool2d(2, ceil_mode=True))
    for module in network.features:
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 0.5)
    return network


def _filters(depth: Depth, widths: Widths | None) -> list[int]:
    """Filters of every convolution."""
    found = [width for convs, width in zip(CONVS_PER_STAGE[depth], WIDTHS, strict=True) for _ in range(convs)]
    for number, width in (widths or {}).items():
        if not 1 <= number <= len(found):
            raise ValueError(
                f"widths names convolution {number}: VGG-{depth} has {len(found)}; choose a number from 1 to {len(found)}"
            )
        found[number - 1] = width
    return found
