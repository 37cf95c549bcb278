"""Random images with labels, for tests of everything but accuracy."""

import torch

from runners.data.resident import Images
from runners.data.splits import Splits, make_splits


def fake(
    *,
    num_images: int,
    channels: int,
    image_size: int,
    num_classes: int,
    score_share: float,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    seed: int,
) -> Splits:
    """Noise whose brightness depends on the label, so that there is something to learn."""
    generator = torch.Generator().manual_seed(seed)

    def images(n: int) -> Images:
        labels = torch.arange(n) % num_classes
        noise = torch.randint(0, 128, (n, channels, image_size, image_size), generator=generator)
        pixels = (noise + (labels * 127 // num_classes)[:, None, None, None]).to(torch.uint8)
        return Images(pixels, labels, tuple(mean), tuple(std))

    return make_splits(
        images(num_images),
        images(num_images),
        num_classes=num_classes,
        channels=channels,
        score_share=score_share,
        seed=seed,
    )
