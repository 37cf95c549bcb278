"""Weights from files: read without running anything in them, and checked against the network they are for."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from runners.process.errors import ResourceError, StoreError, first_line, some
from runners.storage.weight_sets import WeightSet, choose, counted, is_counter, left_out, listed, shown, weight_sets

SUFFIXES = (".th", ".pt", ".pth", ".safetensors", ".ckpt", ".bin", ".tar")
MISMATCHES_SHOWN = 3
# How files begin that hold no weights, whatever they are called (a tar archive says so further on).
FOREIGN: Mapping[tuple[bytes, ...], tuple[str, str]] = {
    (b"<!doctype", b"<html", b"<?xml"): ("a web page", "download it again"),
    (b"version https://git-lfs",): ("a pointer of Git LFS", "fetch the file itself, with git lfs pull"),
    (b"\x1f\x8b", b"bzh", b"\xfd7zxz", b"\x28\xb5\x2f\xfd"): ("compressed", "decompress it"),
    (b"\x89hdf",): ("an HDF5 file", "convert it, or score it by itself with model=none"),
    (b"\x93numpy",): ("an array of NumPy", "convert it"),
}
TAR = slice(257, 262)
# Classes of what checkpoints hold beside weights, and functions that make such objects; none of them is called.
LEFT_OUT = (
    *("numpy.dtype", "numpy.ndarray", "argparse.Namespace", "pathlib.PosixPath", "pathlib._local.PosixPath"),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
)
# Lightning's mapping of hyperparameters, in its versions; read as a plain one.
MAPPINGS = (
    *("lightning.fabric.utilities.data.AttributeDict", "lightning_fabric.utilities.data.AttributeDict"),
    *("lightning.pytorch.utilities.parsing.AttributeDict", "pytorch_lightning.utilities.parsing.AttributeDict"),
)


class LeftOut:
    """Takes the place of an object beside the weights, which is not made: nothing of NumPy's is called."""

    def __init__(self, *given: object) -> None: ...

    def __setstate__(self, state: object) -> None:
        """Ignores the object's content."""


@dataclass(frozen=True)
class Taken:
    """The parts of a file that were read, and those that were left out.

    Args:
        name: of the set of weights; empty for the whole file.
        averaged: true for averages over training.
        others: names of the other sets.
        left_out: names of what is in no set.
    """

    name: str
    averaged: bool
    others: tuple[str, ...]
    left_out: tuple[str, ...]


def save_weights(network: nn.Module, path: Path) -> None:
    """The network's parameters and buffers, as safetensors; what two modules share is written for both.

    Raises:
        ResourceError: the disk is full.
    """
    try:
        save_file({name: value.contiguous().clone() for name, value in network.state_dict().items()}, path)
    except SafetensorError as error:
        raise ResourceError(f"{path} could not be written ({error}); the disk must have room; free some space") from error


def load_weights(network: nn.Module, path: Path, weights_set: str | None = None) -> Taken:
    """Puts one set of weights of a file into `network`, all of it and nothing else.

    Args:
        weights_set: its name, or a word of that (`ema` for `model_ema`); None for the plain weights.

    Raises:
        StoreError: no such file or set, not a weights file, of another network, or with values that are not finite.
    """
    expected = network.state_dict()
    found = read_weights(path)
    sets = weight_sets(found, expected) if isinstance(found, Mapping) else []
    if not sets:
        raise StoreError(f"weights={path} holds no mapping from names to tensors; a state_dict is needed; save that")
    chosen = choose(sets, weights_set, path)
    values, counters = _without_foreign_counters(chosen.values, expected)
    _check_fits(chosen, values, network, path)
    for name, value in values.items():
        if not value.to(expected[name].dtype).isfinite().all():
            raise StoreError(f"weights={path} has values in {name} that are not finite; all must be; use another file")
    network.load_state_dict(values, strict=False)
    others = tuple(each.name for each in sets if each is not chosen)
    return Taken(chosen.name, chosen.averaged, others, (*left_out(found, sets, chosen), *counted(counters)))


def told(taken: Taken) -> list[str]:
    """Lines about what was read, if that is not all of a file or if it is an average."""
    read = shown(taken.name) or "the whole file"
    lines = [f"{read} is read, an average over training"] if taken.averaged else []
    if taken.others:
        names = listed([each or "plain weights" for each in taken.others])
        lines = [f"{(lines or [f'{read} is read'])[0]}; also there: {names} (weights_set={shown(taken.others[0]) or 'null'})"]
    return [*lines, f"left out: {listed(taken.left_out)}"] if taken.left_out else lines


def read_weights(path: Path) -> Any:
    """The content of a file: tensors, in mappings as they were saved; no code in it is run.

    Raises:
        StoreError: no such file, another kind of file, or one that is not whole.
    """
    allowed = f"{', '.join(SUFFIXES)} or no ending"
    if not path.is_file():
        raise StoreError(f"weights={path} is no file; {allowed} are read; check the path")
    # The end of `resnet20_v1.5` is no suffix.
    if path.suffix.lower() not in ("", *SUFFIXES) and not re.fullmatch(r"\.\d+", path.suffix):
        raise StoreError(f"weights={path} ends in {path.suffix!r}; {allowed} are read; convert or rename it")
    with path.open("rb") as file:
        start = file.read(512)
    _check_kind(start, path)
    try:
        if _is_safetensors(start) or (path.suffix == ".safetensors" and not start.startswith((b"PK", b"\x80"))):
            return load_file(path)
        instead = [(LeftOut, name) for name in LEFT_OUT] + [(OrderedDict, name) for name in MAPPINGS]
        with path.open("rb") as file, torch.serialization.safe_globals([LeftOut, *instead]):  # a path would count by its ending
            return torch.load(file, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise _unreadable(path, error) from error
    except Exception as error:  # torch.load documents no closed list: five kinds were seen on broken files.
        if blocked := re.search(r"[Uu]nsupported (?:global|operand|class|instruction)[^.\n]*|GLOBAL (\S+)", str(error)):
            raise StoreError(
                f"weights={path} is a pickle that would run code ({blocked.group(0).strip()}); only tensors are read; save "
                "its state_dict() alone, or as .safetensors"
            ) from error
        raise _unreadable(path, error) from error


def _check_kind(start: bytes, path: Path) -> None:
    for beginnings, (kind, fix) in FOREIGN.items():
        if start.lstrip().lower().startswith(beginnings):
            raise StoreError(f"weights={path} is {kind}; a weights file is needed; {fix}")
    if start[TAR] == b"ustar":
        raise StoreError(
            f"weights={path} is a tar archive; a file that torch.save wrote is needed, also under .tar; unpack it, or save its "
            "state_dict() again"
        )


def is_safetensors(path: Path) -> bool:
    """True if a file is one of safetensors, which keep no order but that of names."""
    with path.open("rb") as file:
        return _is_safetensors(file.read(512))


def _is_safetensors(start: bytes) -> bool:
    """True if a file begins as that format does: with the length of its header (up to 100 MB), and the header's brace."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= 100_000_000


def _unreadable(path: Path, error: Exception) -> StoreError:
    return StoreError(f"weights={path} cannot be read ({first_line(error)[:120]}); it must be whole; get it again")


def _without_foreign_counters(
    values: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """The values without counters of another shape or type, which change no output; and the names of those."""
    foreign = [name for name, value in values.items() if is_counter(name) and not _fits(value, expected[name])]
    return {name: value for name, value in values.items() if name not in foreign}, foreign


def _check_fits(chosen: WeightSet, values: Mapping[str, Tensor], network: nn.Module, path: Path) -> None:
    # Files from before PyTorch 0.4.1 do not count batches.
    expected = {name: value for name, value in network.state_dict().items() if name in values or not is_counter(name)}
    wrong = [f"{name} is missing" for name in expected if name not in values]
    wrong += [f"{shown(name)} is unknown" for name in chosen.unknown]
    differing = [name for name in expected if name in values and not _fits(values[name], expected[name])]
    wrong += [f"{name} is {_difference(values[name], expected[name])}" for name in differing]
    if not wrong:
        return
    fix = "choose the model= (depth, shortcut, classes) they were trained with"
    if len(wrong) == len(differing) and (n_classes := _other_classes({name: values[name] for name in differing}, expected)):
        fix = f"all but the number of classes fits: choose the dataset= they were trained on, or model.num_classes={n_classes}"
    place = f"({shown(chosen.name)} in it) " if chosen.name else ""
    raise StoreError(
        f"weights={path} {place}is of another network than this {type(network).__name__} ({some(wrong, MISMATCHES_SHOWN)}); "
        f"every tensor must match; {fix}"
    )


def _other_classes(differing: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> int:
    """The number of classes in the file, if the last layer has more or fewer outputs and that is all; else 0."""
    last = list(expected)[-1].rpartition(".")[0]
    for name, value in differing.items():
        if name.rpartition(".")[0] != last or value.ndim == 0 or (len(value), *expected[name].shape[1:]) != value.shape:
            return 0
    sizes = {len(value) for value in differing.values()}
    return sizes.pop() if len(sizes) == 1 else 0


def _fits(found: Tensor, expected: Tensor) -> bool:
    plain = found.layout == torch.strided and not (found.is_quantized or found.is_meta)
    return plain and found.shape == expected.shape and found.is_floating_point() == expected.is_floating_point()


def _difference(found: Tensor, expected: Tensor) -> str:
    if found.shape != expected.shape:
        shapes = ["x".join(map(str, value.shape)) or "one number" for value in (found, expected)]
        return " and should be ".join(shapes)
    layout = "without values" if found.is_meta else f"{found.layout} {found.dtype}".replace("torch.", "")
    return f"{layout} and should be strided {expected.dtype}".replace("torch.", "")
