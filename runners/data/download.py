"""Archives from the network: over https alone, of a known size and content, and never unpacked but for named plain files.

torchvision's own download, in its place, checks MD5 sums, unpacks all that the archive holds, and has four processes that need
CIFAR-10 fetch its 170 MB four times.
"""

import fcntl
import gzip
import hashlib
import http.client
import os
import ssl
import tarfile
import time
import urllib.error
import urllib.request
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from runners.data.published import Archive, Published, check_files, digest, told, wrong_file
from runners.process.errors import DataError, ResourceError

SCHEME, TIMEOUT_SECONDS, CHUNK, LEFT_BEHIND_SECONDS = "https://", 60, 1 << 20, 3600


class Readable(Protocol):
    """A stream of bytes, such as an answer or a member of an archive."""

    def read(self, size: int, /) -> bytes:
        """At most so many bytes."""
        ...


UNPACKING_ERRORS = (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error, KeyError)
NETWORK_ERRORS = (urllib.error.URLError, TimeoutError, ConnectionError, ssl.SSLError, http.client.HTTPException)


def find(
    published: Published,
    data_root: str | None,
    download_root: str | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[Path, tuple[Path, ...]]:
    """The folder above a data set's files, and the files, which have their checksums.

    Args:
        data_root: where the files lie; null downloads them to `download_root`.
        options: of the data set, as `Published.files` takes them.

    Raises:
        DataError: they are not there, are others, or cannot be downloaded.
    """
    files = published.files(options)
    if data_root is not None:
        check_files(files, Path(data_root), published.address)
    elif download_root is None or not published.archives:
        raise DataError(
            f"data_root=null; {told(files)} are not downloaded (nobody offers them over https with a known checksum); get them "
            f"from {published.address}, put them below one folder, and give it as data_root=DIR"
        )
    root = Path(data_root or download_root or "")
    for archive in published.archives if data_root is None else ():
        prepare(archive, root)
    return root, tuple(root / name for name in files)


def prepare(archive: Archive, root: Path) -> None:
    """Makes sure that the wanted files lie below `root`; of several processes one fetches them and the others wait.

    Raises:
        DataError: no network, or not what was published.
        ResourceError: `root` takes no files, or the disk is full.
    """
    place = root / archive.folder / archive.name
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _alone(place.with_name(f".{archive.name}.lock")):
            if wrong_file(archive.files, root):
                _remove_left_behind(root)
                if digest(place) != archive.sha256:
                    _fetch(archive, place)
                _unpack(archive, root)
    except OSError as error:
        raise ResourceError(
            f"{root} cannot be written ({error.strerror}); it must take files; free some space, or give data_root=DIR"
        ) from error


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
    place = root / archive.folder / archive.name
    contents = _of_tar if archive.name.endswith(".tar.gz") else _of_zip if place.suffix == ".zip" else _of_gzip
    try:
        for name, content, size in contents(archive, place):
            wanted = archive.files[name]
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            length, sha256 = (wanted, None) if isinstance(wanted, int) else (size, wanted)
            _write(root / name, content, length, sha256, f"{archive.name} holds {name} with")
    except UNPACKING_ERRORS as error:
        raise DataError(
            f"{place} cannot be unpacked ({' '.join(str(error).split())}); it must be as published; delete it"
        ) from error


Contents = Iterator[tuple[str, Readable, int | None]]  # name, content, and the size where the archive says it


def _of_tar(archive: Archive, place: Path) -> Contents:
    with tarfile.open(place) as tar:
        for name in archive.files:
            member = tar.getmember(name)
            content = tar.extractfile(member) if member.isreg() else None
            if content is None:
                raise DataError(f"{archive.name} holds {name} as a link; a file is needed; delete {archive.name}")
            yield name, content, member.size


def _of_zip(archive: Archive, place: Path) -> Contents:
    with zipfile.ZipFile(place) as whole:
        for name in archive.files:
            with whole.open(f"{archive.inside}{Path(name).name}.gz") as packed, gzip.open(packed) as content:
                yield name, content, None


def _of_gzip(archive: Archive, place: Path) -> Contents:
    [name] = archive.files
    with gzip.open(place) as content:
        yield name, content, None


def _write(path: Path, source: Readable, size: int | None, sha256: str | None, what: str) -> None:
    """Copies to a file beside `path`, which becomes `path` when it is whole and right."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    found, length = hashlib.sha256(), 0
    try:
        with part.open("wb") as file:
            while (size is None or length <= size) and (chunk := source.read(CHUNK)):
                file.write(chunk)
                found.update(chunk)
                length += len(chunk)
            file.flush()
            os.fsync(file.fileno())
        if size not in (None, length) or sha256 not in (None, found.hexdigest()):
            came = f"more than {size}" if size is not None and length > size else length
            published = " with ".join(str(each) for each in (size, sha256) if each is not None)
            raise DataError(
                f"{what} {came} bytes with the SHA-256 {found.hexdigest()}; published are {published}; try again, or get the "
                "files elsewhere and give data_root=DIR"
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
