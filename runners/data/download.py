"""Archives from the network: over https alone, of a known size and content, and never unpacked but for named plain files.

torchvision's own download, in its place, checks MD5 sums, unpacks all that the archive holds, and has four processes that need
CIFAR-10 fetch its 170 MB four times.
"""

import fcntl
import hashlib
import http.client
import os
import ssl
import tarfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from runners.process.errors import DataError, ResourceError

SCHEME, TIMEOUT_SECONDS, CHUNK, LEFT_BEHIND_SECONDS = "https://", 60, 1 << 20, 3600

NETWORK_ERRORS = (urllib.error.URLError, TimeoutError, ConnectionError, ssl.SSLError, http.client.HTTPException)


@dataclass(frozen=True)
class Archive:
    """A published archive.

    Args:
        size: in bytes.
        sha256: of the archive.
        files: of its members, those that are wanted, each with its SHA-256.
    """

    url: str
    size: int
    sha256: str
    files: Mapping[str, str]

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]


def prepare(archive: Archive, root: Path) -> None:
    """Makes sure that the wanted files lie below `root`; of several processes one fetches them and the others wait.

    Raises:
        DataError: no network, or not what was published.
        ResourceError: `root` takes no files, or the disk is full.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _alone(root / f".{archive.name}.lock"):
            if wrong_file(archive.files, root):
                _remove_left_behind(root)
                if _digest(root / archive.name) != archive.sha256:
                    _fetch(archive, root / archive.name)
                _unpack(archive, root)
    except OSError as error:
        raise ResourceError(
            f"{root} cannot be written ({error.strerror}); it must take files; free some space, or give data_root=DIR"
        ) from error


def check_files(files: Mapping[str, str], root: Path) -> None:
    """Looks for published files below `root`.

    Raises:
        DataError: one of them is missing, or has another SHA-256 than in `files`.
    """
    folder = root / next(iter(files)).partition("/")[0]
    if not folder.is_dir():
        raise DataError(f"data_root={root} has no folder {folder.name!r}; it is needed there; give the folder above it")
    if wrong := wrong_file(files, root):
        raise DataError(
            f"the files in {folder} are incomplete or do not have the published checksums ({wrong}); those that torchvision "
            "unpacks are needed; delete that folder and unpack or download it again"
        )


def wrong_file(files: Mapping[str, str], root: Path) -> str:
    """The first file that is missing or differs from its SHA-256, and what differs; empty if all are right."""
    for name, wanted in files.items():
        found = _digest(root / name)
        if found != wanted:
            return f"{name} is missing" if found is None else f"{name} has the SHA-256 {found}, published is {wanted}"
    return ""


class _SameScheme(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        return super().redirect_request(req, fp, code, msg, headers, _checked(newurl))


def _checked(url: str) -> str:
    if not url.startswith(SCHEME):
        raise DataError(f"{url} is no address to download from; only {SCHEME}... is; give data_root=DIR")
    return url


def _fetch(archive: Archive, path: Path) -> None:
    try:
        with urllib.request.build_opener(_SameScheme).open(_checked(archive.url), timeout=TIMEOUT_SECONDS) as answer:
            _write(path, answer, archive.size, archive.sha256, f"{archive.url} gave")
    except NETWORK_ERRORS as error:
        raise DataError(
            f"{archive.url} could not be downloaded to {path.parent} ({error}); a network or the files are needed; download "
            "them elsewhere and give data_root=DIR"
        ) from error


def _unpack(archive: Archive, root: Path) -> None:
    """Reads the wanted members and writes them under their own names; whatever else the archive holds is not looked at."""
    try:
        with tarfile.open(root / archive.name) as tar:
            for name, sha256 in archive.files.items():
                member = tar.getmember(name)
                content = tar.extractfile(member) if member.isreg() else None
                if content is None:
                    raise DataError(f"{archive.name} holds {name} as a link; a file is needed; delete {archive.name}")
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                _write(root / name, content, member.size, sha256, f"{archive.name} holds {name} with")
    except (tarfile.TarError, KeyError) as error:
        raise DataError(
            f"{root / archive.name} cannot be unpacked ({' '.join(str(error).split())}); it must be as published; delete it"
        ) from error


def _write(path: Path, source: IO[bytes], size: int, sha256: str, what: str) -> None:
    """Copies to a file beside `path`, which becomes `path` when it is whole and right."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    found, length = hashlib.sha256(), 0
    try:
        with part.open("wb") as file:
            while length <= size and (chunk := source.read(CHUNK)):
                file.write(chunk)
                found.update(chunk)
                length += len(chunk)
            file.flush()
            os.fsync(file.fileno())
        if length != size or found.hexdigest() != sha256:
            more = "more than " if length > size else ""
            raise DataError(
                f"{what} {more}{min(length, size)} bytes with the SHA-256 {found.hexdigest()}; published are {size} with "
                f"{sha256}; try again, or get the files elsewhere and give data_root=DIR"
            )
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Lets one process in at a time, where the file system has locks; files are whole without, and fetched twice."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a network file system without locks
            pass
        yield


def _remove_left_behind(root: Path) -> None:
    """Parts of downloads whose processes were killed."""
    for part in root.rglob(".*.part"):
        if time.time() - part.stat().st_mtime > LEFT_BEHIND_SECONDS:
            part.unlink(missing_ok=True)


def _digest(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
