"""The embedded data set: scikit-learn's 1,797 real handwritten digits; no network, no files."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn import functional as F

from runners.data.resident import Images
from runners.data.splits import Splits, make_splits


def digits(
    *,
    num_classes: int,
    channels: int,
    image_size: int,
    test_share: float,
    score_share: float,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    seed: int,
) -> Splits:
    """The 8x8 digits, enlarged bilinearly to `image_size`, split class by class (stratified) by `seed`.

    Args:
        channels: the one grey channel is repeated, for networks that expect three.

    Source:
        Alpaydin & Kaynak 1998, "Optical recognition of handwritten digits" (UCI), the test part, as shipped with
        scikit-learn; grey levels 0 to 16.
    """
    grey_levels, labels = load_digits(return_X_y=True)
    grey = torch.from_numpy(np.asarray(grey_levels)).float().reshape(-1, 1, 8, 8) * (255 / 16)
    pixels = F.interpolate(grey, (image_size, image_size), mode="bilinear").round().to(torch.uint8)
    pixels = pixels.repeat(1, channels, 1, 1)
    train, test = train_test_split(np.arange(len(pixels)), test_size=test_share, stratify=labels, random_state=seed % 2**32)
    everything = Images(pixels, torch.from_numpy(np.asarray(labels)).long(), tuple(mean), tuple(std))
    return make_splits(
        everything.take(torch.from_numpy(train)),
        everything.take(torch.from_numpy(test)),
        num_classes=num_classes,
        channels=channels,
        score_share=score_share,
        seed=seed,
    )
