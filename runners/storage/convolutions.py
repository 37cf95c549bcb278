"""The convolutions in a weights file whose network is not known: every tensor with four dimensions.

`{"conv1.weight": 16x3x3x3, "bn1.weight": 16, "linear.weight": 10x64}` holds one, `conv1`. Which BatchNorm reads it stands in
no file: `conv1.weight, bn1.weight` is the order of names in a ResNet, where `bn1` does, and in `bn1.weight, conv1.weight,
bn2.weight` of a ResNet with pre-activation the last `bn` of a block reads a sum.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runners.process.errors import StoreError
from runners.storage import keras
from runners.storage.weight_sets import choose, is_convolution, left_out, natural, own_sets
from runners.storage.weights import Taken, is_safetensors, read_weights

# Of tensors in PyTorch, Keras 3 and Keras 2; what stands before it is the layer.
ENDS = re.compile(r"\.(weight|vars\.0|(depthwise_)?kernel(:0)?)$")


@dataclass(frozen=True)
class Convolutions:
    """What a file says of its convolutions.

    Args:
        weights: layer -> filters (out in h w), in the order of the file.
        n_tensors: of the set they were read from.
        ordered: true if the file keeps an order; else it is that of their names, `block2` before `block10`.
        taken: the set, and what else the file holds.
    """

    weights: Mapping[str, Tensor]
    n_tensors: int
    ordered: bool
    taken: Taken

    @property
    def order(self) -> str:
        """The order of the layers, for a line of text."""
        return "the order of the file" if self.ordered else "the order of their names, as the file keeps no other"

    def to(self, device: torch.device) -> "Convolutions":
        """The same on `device`."""
        weights = {layer: weight.to(device) for layer, weight in self.weights.items()}
        return Convolutions(weights, self.n_tensors, self.ordered, self.taken)


def read_convolutions(path: Path, weights_set: str | None = None) -> Convolutions:
    """The convolutions of one set of weights of a file.

    Args:
        weights_set: its name, or a word of that (`ema` for `model_ema`); None for the plain weights.

    Raises:
        StoreError: no such file or set, not a weights file, no tensor with four dimensions, or values that are not finite.
    """
    is_keras = keras.is_hdf5(path)
    found: Any = keras.read_hdf5(path) if is_keras else read_weights(path)
    sets = own_sets(found) if isinstance(found, Mapping) else []
    if not sets:
        raise StoreError(
            f"weights={path} holds no convolution; with model=none every tensor with four dimensions is one; give the "
            "state_dict of a network with convolutions"
        )
    chosen = choose(sets, weights_set, path)
    ordered = not is_keras and not is_safetensors(path)
    names = list(chosen.values) if ordered else sorted(chosen.values, key=natural)
    weights: dict[str, Tensor] = {}
    for name in names:
        if is_convolution(chosen.values[name]):
            layer = ENDS.sub("", name)
            weights[name if layer in weights else layer] = _as_float(chosen.values[name], name, path)
    others = tuple(each.name for each in sets if each is not chosen)
    taken = Taken(chosen.name, chosen.averaged, others, tuple(left_out(found, sets, chosen)))
    return Convolutions(weights, len(chosen.values), ordered, taken)


def unknown(convolutions: Convolutions) -> str:
    """A paragraph about what was read and what no file says."""
    return (
        f"{len(convolutions.weights)} of {convolutions.n_tensors} tensors have four dimensions, and count as convolutions; "
        f"index is {convolutions.order}.\nNo file says in which order they run, which are grouped or strided, which are "
        "transposed (filters are then along the second dimension), and which BatchNorm reads them."
    )


def _as_float(value: Tensor, name: str, path: Path) -> Tensor:
    """The weights as a network holds them."""
    if not (precise := value.float()).isfinite().all():
        raise StoreError(f"weights={path} has values in {name} that are not finite; all must be; use another file")
    return precise
