"""The embedded data set: scikit-learn's 1,797 real handwritten digits; no network, no files."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn import functional as F

from runners.data.raw import Pixels, Raw


def digits(*, channels: int, image_size: int, test_share: float, seed: int) -> Raw:
    """The 8x8 digits, enlarged bilinearly to `image_size`, split class by class (stratified) by `seed`.

    Args:
        channels: the one grey channel is repeated, for networks that expect three.

    Source:
        Alpaydin & Kaynak 1998, "Optical recognition of handwritten digits" (UCI), the test part, as shipped with
        scikit-learn; grey levels 0 to 16.
    """
    grey_levels, found = load_digits(return_X_y=True)
    grey = torch.from_numpy(np.asarray(grey_levels)).float().reshape(-1, 1, 8, 8) * (255 / 16)
    pixels = F.interpolate(grey, (image_size, image_size), mode="bilinear").round().to(torch.uint8)
    pixels, labels = pixels.repeat(1, channels, 1, 1), torch.from_numpy(np.asarray(found)).long()
    parts = train_test_split(np.arange(len(pixels)), test_size=test_share, stratify=found, random_state=seed % 2**32)
    train, test = (Pixels(pixels[torch.from_numpy(part)], labels[torch.from_numpy(part)]) for part in parts)
    return Raw(train, test)
