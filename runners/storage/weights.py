"""Weights from files: read without running anything in them, and checked against the network they are for."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from runners.process.errors import ResourceError, StoreError, first_line, some

SUFFIXES = (".th", ".pt", ".pth", ".safetensors")
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
MISMATCHES_SHOWN = 3


def save_weights(network: nn.Module, path: Path) -> None:
    """The network's parameters and buffers, as safetensors; what two modules share is written for both.

    Raises:
        ResourceError: the disk is full.
    """
    try:
        save_file({name: value.contiguous().clone() for name, value in network.state_dict().items()}, path)
    except SafetensorError as error:
        raise ResourceError(f"{path} could not be written ({error}); the disk must have room; free some space") from error


def load_weights(network: nn.Module, path: Path) -> None:
    """Puts the weights of a file into `network`, all of them and nothing else.

    Takes a bare state dict or one under a usual name (`state_dict`, `model`, ...), and strips the prefixes that
    wrappers leave (`module.`, `_orig_mod.`, ...).

    Raises:
        StoreError: no such file, not a weights file, of another network, or with values that are not finite.
    """
    expected = network.state_dict()
    found = _state_dict(_read(path), path)
    if not found.keys() & expected.keys():
        found = _strip_prefixes(found)
    # Files from before PyTorch 0.4.1 do not count batches.
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    wrong = [f"{name} is missing" for name in expected if name not in found and name not in counters]
    wrong += [f"{name} is unknown" for name in found if name not in expected]
    wrong += [
        f"{name} is {_difference(found[name], value)}"
        for name, value in expected.items()
        if name in found and not _fits(found[name], value)
    ]
    if wrong:
        raise StoreError(
            f"weights={path} is of another network than this {type(network).__name__} ({some(wrong, MISMATCHES_SHOWN)}); every "
            "tensor must match; choose the model= (depth, shortcut, classes) they were trained with"
        )
    for name, value in found.items():
        if not value.to(expected[name].dtype).isfinite().all():
            raise StoreError(f"weights={path} has values in {name} that are not finite; all must be; use another file")
    network.load_state_dict(found, strict=False)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise StoreError(f"weights={path} is no file; {', '.join(SUFFIXES)} are read; check the path")
    if path.suffix not in SUFFIXES:
        raise StoreError(f"weights={path} ends in {path.suffix!r}; {', '.join(SUFFIXES)} are read; convert or rename it")
    with path.open("rb") as file:
        start = file.read(512).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise StoreError(f"weights={path} is a web page; a weights file is needed; download it again")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise _unreadable(path, error) from error
    except Exception as error:  # torch.load documents no closed list: five kinds were seen on broken files.
        if blocked := re.search(r"[Uu]nsupported (?:global|operand|class|instruction)[^.\n]*|GLOBAL (\S+)", str(error)):
            raise StoreError(
                f"weights={path} is a pickle that would run code ({blocked.group(0).strip()}); only tensors are read; save "
                "its state_dict() alone, or as .safetensors"
            ) from error
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> StoreError:
    return StoreError(f"weights={path} cannot be read ({first_line(error)[:120]}); it must be whole; get it again")


def _state_dict(found: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
            break
    if not isinstance(found, Mapping) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise StoreError(f"weights={path} holds no mapping from names to tensors; a state_dict is needed; save that")
    return {str(name): value for name, value in found.items()}


def _strip_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            return _strip_prefixes({name.removeprefix(prefix): value for name, value in state.items()})
    return state


def _fits(found: Tensor, expected: Tensor) -> bool:
    plain = found.layout == torch.strided and not (found.is_quantized or found.is_meta)
    return plain and found.shape == expected.shape and found.is_floating_point() == expected.is_floating_point()


def _difference(found: Tensor, expected: Tensor) -> str:
    if found.shape != expected.shape:
        shapes = ["x".join(map(str, value.shape)) or "one number" for value in (found, expected)]
        return " and should be ".join(shapes)
    layout = "without values" if found.is_meta else f"{found.layout} {found.dtype}".replace("torch.", "")
    return f"{layout} and should be strided {expected.dtype}".replace("torch.", "")
