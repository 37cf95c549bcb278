"""Random images with labels, for tests of everything but accuracy."""

import torch

from runners.data.raw import Pixels, Raw


def fake(*, num_images: int, channels: int, image_size: int, num_classes: int, seed: int) -> Raw:
    """Noise whose brightness depends on the label, so that there is something to learn."""
    generator = torch.Generator().manual_seed(seed)

    def images(n: int) -> Pixels:
        labels = torch.arange(n) % num_classes
        noise = torch.randint(0, 128, (n, channels, image_size, image_size), generator=generator)
        return Pixels((noise + (labels * 127 // num_classes)[:, None, None, None]).to(torch.uint8), labels)

    return Raw(images(num_images), images(num_images))
