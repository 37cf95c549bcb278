"""Files as their publishers give them: addresses, sizes and checksums; imports no torch."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from runners.process.errors import DataError

Checksum = str | int  # SHA-256, or the number of bytes where nobody publishes more


@dataclass(frozen=True)
class Archive:
    """A published archive: a .tar.gz, a .gz of one file, or a .zip of .gz files.

    Args:
        size: in bytes.
        sha256: of the archive.
        files: those that are wanted of it, below the data root, each with its checksum.
        folder: of the archive, below the data root.
        inside: of a .zip, the folder in it that has the files.
    """

    url: str
    size: int
    sha256: str
    files: Mapping[str, Checksum]
    folder: str = ""
    inside: str = ""

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Published:
    """The files of a data set, as somebody publishes them.

    Args:
        address: where people find them.
        archives: what is downloaded and unpacked; all over https.
        by_hand: files that nobody offers over https, each with its checksum.
        needs: file -> the option of the data set without which it is not needed.
    """

    address: str
    archives: tuple[Archive, ...] = ()
    by_hand: Mapping[str, Checksum] = field(default_factory=dict)
    needs: Mapping[str, str] = field(default_factory=dict)

    def files(self, options: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Checksum]:
        """The files below the data root that a data set with these options reads, each with its checksum."""
        found = {name: wanted for archive in self.archives for name, wanted in archive.files.items()} | dict(self.by_hand)
        return {name: wanted for name, wanted in found.items() if name not in self.needs or options.get(self.needs[name])}


def told(files: Iterable[str]) -> str:
    """Files in words: their names, and the folder that all are in."""
    paths = [Path(name) for name in files]
    [folder] = {path.parent for path in paths}
    return ", ".join(path.name for path in paths) + (f" in {folder}" if folder.parts else "")


def check_files(files: Mapping[str, Checksum], root: Path, address: str) -> None:
    """Looks for published files below `root`.

    Args:
        address: where people find them.

    Raises:
        DataError: one of them is missing, or has another checksum than in `files`.
    """
    folder = (root / next(iter(files))).parent
    if not folder.is_dir():
        within = folder.relative_to(root)
        lacking = f"has no folder {str(within)!r}" if within.parts else "is no folder"
        raise DataError(
            f"data_root={root} {lacking}; {told(files)} are needed, from {address}; give the folder above as data_root=DIR, or "
            "data_root=null where the set can be downloaded"
        )
    if wrong := wrong_file(files, root):
        raise DataError(
            f"the files in {folder} are incomplete or do not have the published checksums ({wrong}); {told(files)} from "
            f"{address} are needed, unpacked as torchvision does it; delete what is there, and unpack or download it again"
        )


def wrong_file(files: Mapping[str, Checksum], root: Path) -> str:
    """The first file that is missing or differs from its checksum, and what differs; empty if all are right."""
    for name, wanted in files.items():
        path = root / name
        if not path.is_file():
            return f"{name} is missing"
        if isinstance(wanted, int):
            if (length := path.stat().st_size) != wanted:
                return f"{name} has {length} bytes, published are {wanted}"
        elif (found := digest(path)) != wanted:
            return f"{name} has the SHA-256 {found}, published is {wanted}"
    return ""


def digest(path: Path) -> str | None:
    """SHA-256 of a file; None if there is none."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
