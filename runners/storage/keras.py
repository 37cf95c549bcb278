"""Tensors from Keras' HDF5 files, in PyTorch's order of dimensions; h5py is an extra.

A kernel of Keras 3 lies at `block1/layers/conv2d/vars/0` as (h, w, in, out), one of Keras 2 at
`model_weights/conv1/conv1/kernel:0`; they come as `block1.layers.conv2d.vars.0` and so on, (out, in, h, w).
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runners.process.errors import StoreError, first_line

MAGIC = b"\x89HDF\r\n\x1a\n"
# Of an optimizer, which keeps tensors in the shape of the weights.
OPTIMIZERS = ("optimizer", "optimizer_weights")
# Weights that compress better than this are none: a small file could fill the memory.
MOST_COMPRESSED = 100


def is_hdf5(path: Path) -> bool:
    """True if a file begins as HDF5 does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_hdf5(path: Path) -> dict[str, Tensor]:
    """Every array of numbers in the file by its place, but for those of an optimizer; links to other places are not followed.

    Raises:
        StoreError: h5py is not installed, the file is not whole, or its numbers lie in other files.
    """
    try:
        import h5py
    except ImportError as error:
        raise StoreError(
            f"weights={path} is an HDF5 file, which h5py reads; it is an extra; pip install 'prunescope[keras]'"
        ) from error
    found: dict[str, Tensor] = {}

    def read(name: str, node: Any) -> None:
        parts = name.split("/")
        if isinstance(node, h5py.Dataset) and node.dtype.kind == "f" and parts[0] not in OPTIMIZERS:
            _check_stored(node, name, path)
            found[".".join(parts)] = _torchs(node[()], name)

    try:
        with h5py.File(path, "r") as file:
            file.visititems(read)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise StoreError(
            f"weights={path} cannot be read ({first_line(error)[:120]}); it must be whole; get it again"
        ) from error
    return found


def _torchs(value: np.ndarray, name: str) -> Tensor:
    """A kernel as (out, in, h, w); a depthwise one, (h, w, in, times), as (in * times, 1, h, w)."""
    tensor = torch.from_numpy(np.asarray(value, dtype=np.float32))
    if tensor.ndim != 4:
        return tensor
    if "depthwise" in name:
        return tensor.permute(2, 3, 0, 1).flatten(0, 1).unsqueeze(1).contiguous()
    return tensor.permute(3, 2, 0, 1).contiguous()


def _check_stored(node: Any, name: str, path: Path) -> None:
    elsewhere = node.is_virtual or node.external
    if elsewhere or node.nbytes > MOST_COMPRESSED * max(node.id.get_storage_size(), 1):
        what = "in other files" if elsewhere else "nowhere"
        raise StoreError(f"weights={path} keeps the numbers of {name} {what}; they must be in the file; save it again")
