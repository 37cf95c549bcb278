"""Downloads: what comes is what was published, or nothing is there; no archive writes where it was not asked to."""

import fcntl
import gzip
import hashlib
import io
import os
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from torchvision import datasets

from runners.data import download
from runners.data.checksums import PUBLISHED
from runners.data.download import prepare
from runners.data.published import Archive, wrong_file
from runners.process.errors import DataError, ResourceError
from support import check_line, raises_line

FILES = {"batches/one": os.urandom(3000), "batches/two": os.urandom(2000)}


def packed(*, extra: Callable[[tarfile.TarFile], None] = lambda tar: None, left_out: str = "") -> bytes:
    """A .tar.gz of the files."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        extra(tar)
        for name, data in FILES.items():
            if name != left_out:
                add(tar, name, data)
    return content.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def link(tar: tarfile.TarFile, name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, to
    tar.addfile(member)


def published(url: str, content: bytes) -> Archive:
    """An archive whose published hashes are those of `content`."""
    files = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}
    return Archive(url, len(content), hashlib.sha256(content).hexdigest(), files)


@dataclass
class Server:
    """Path -> what it answers, after so many seconds; notes what was asked for."""

    address: str = ""
    answers: dict[str, bytes] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    seconds: float = 0.0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server without https, which is allowed here alone."""
    monkeypatch.setattr(download, "SCHEME", "http://")
    found = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append(self.path)
            time.sleep(found.seconds)
            if to := found.redirects.get(self.path):
                self.send_response(302)
                self.send_header("Location", to)
                self.end_headers()
                return
            self.send_response(200 if self.path in found.answers else 404)
            self.end_headers()
            self.wfile.write(found.answers.get(self.path, b""))

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        found.address = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=partial(http.serve_forever, poll_interval=0.01))
        thread.start()
        yield found
        http.shutdown()
        thread.join()


def serve(server: Server, content: bytes) -> Archive:
    server.answers["/a.tar.gz"] = content
    return published(f"{server.address}/a.tar.gz", content)


def test_what_was_published_is_fetched_once_and_unpacked(server: Server, tmp_path: Path) -> None:
    archive = serve(server, packed())
    for _ in range(2):
        prepare(archive, tmp_path)
    assert wrong_file(archive.files, tmp_path) == "" and len(server.asked) == 1
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == FILES
    assert not list(tmp_path.rglob("*.part"))


def test_a_missing_or_changed_file_is_unpacked_again_without_a_network(server: Server, tmp_path: Path) -> None:
    archive = serve(server, packed())
    prepare(archive, tmp_path)
    changed = bytearray(FILES["batches/one"])
    changed[7] ^= 1
    (tmp_path / "batches/one").write_bytes(changed)
    (tmp_path / "batches/two").unlink()
    check_line(wrong_file(archive.files, tmp_path), "batches/one", hashlib.sha256(changed).hexdigest())
    prepare(archive, tmp_path)
    assert wrong_file(archive.files, tmp_path) == "" and len(server.asked) == 1


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (lambda whole: whole[:-100], True),
        (lambda whole: whole + b"x" * (3 << 20), False),
        (lambda whole: whole[:50] + bytes([whole[50] ^ 1]) + whole[51:], True),
        (lambda whole: b"<!DOCTYPE html><html>not found</html>", True),
    ],
)
def test_a_download_that_is_not_what_was_published_leaves_nothing(
    sent: Callable[[bytes], bytes], read: bool, server: Server, tmp_path: Path
) -> None:
    """An archive that is longer than it should be is not read to its end, and so has no hash."""
    archive = serve(server, packed())
    content = server.answers["/a.tar.gz"] = sent(server.answers["/a.tar.gz"])
    found = [f"gave {len(content)} bytes", hashlib.sha256(content).hexdigest()] if read else [f"more than {archive.size}"]
    with raises_line(DataError, archive.url, archive.size, archive.sha256, *found):
        prepare(archive, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".a.tar.gz.lock"]


def test_a_broken_archive_that_lies_there_is_fetched_again(server: Server, tmp_path: Path) -> None:
    archive = serve(server, packed())
    (tmp_path / "a.tar.gz").write_bytes(server.answers["/a.tar.gz"][:500])
    prepare(archive, tmp_path)
    assert wrong_file(archive.files, tmp_path) == ""


def test_what_a_killed_download_left_is_not_taken_and_goes_after_a_while(server: Server, tmp_path: Path) -> None:
    archive = serve(server, packed())
    old, young = tmp_path / ".a.tar.gz.77.part", tmp_path / ".a.tar.gz.78.part"
    for part in (old, young):
        part.write_bytes(server.answers["/a.tar.gz"][:500])
    before = time.time() - 2 * download.LEFT_BEHIND_SECONDS
    os.utime(old, (before, before))
    prepare(archive, tmp_path)
    assert wrong_file(archive.files, tmp_path) == "" and not old.exists() and young.exists()


def test_without_a_network_one_line_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "SCHEME", "http://")
    archive = published("http://127.0.0.1:1/a.tar.gz", packed())
    with raises_line(DataError, archive.url, tmp_path, "refused", "data_root=DIR"):
        prepare(archive, tmp_path)


@pytest.mark.parametrize("url", ["http://example.org/a.tar.gz", "ftp://example.org/a.tar.gz", "file:///etc/passwd"])
def test_only_https_is_downloaded_from(url: str, tmp_path: Path) -> None:
    with raises_line(DataError, url, "https"):
        prepare(published(url, packed()), tmp_path)


def test_a_redirect_to_another_scheme_is_not_followed(server: Server, tmp_path: Path) -> None:
    archive = serve(server, packed())
    server.redirects["/old.tar.gz"] = archive.url
    prepare(replace(archive, url=f"{server.address}/old.tar.gz"), tmp_path / "same")
    server.redirects["/old.tar.gz"] = "ftp://127.0.0.1/a.tar.gz"
    with raises_line(DataError, "ftp://127.0.0.1/a.tar.gz"):
        prepare(replace(archive, url=f"{server.address}/old.tar.gz"), tmp_path / "other")


def test_members_that_nobody_asked_for_are_not_written(server: Server, tmp_path: Path) -> None:
    def hostile(tar: tarfile.TarFile) -> None:
        add(tar, "../escaped", b"x")
        add(tar, f"{tmp_path}/absolute", b"x")
        link(tar, "batches", str(tmp_path / "elsewhere"))

    (tmp_path / "elsewhere").mkdir()
    content = packed(extra=hostile)
    prepare(serve(server, content), tmp_path / "data")
    assert {path.name for path in tmp_path.iterdir()} == {"elsewhere", "data"} and not list((tmp_path / "elsewhere").iterdir())
    (tmp_path / "control").mkdir()
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:  # the control: these do escape
        tar.extractall(tmp_path / "control", filter="fully_trusted")
    assert (tmp_path / "escaped").exists() and (tmp_path / "elsewhere" / "one").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_wanted_file_that_is_a_link_is_refused(kind: bytes, server: Server, tmp_path: Path) -> None:
    archive = serve(server, packed(left_out="batches/one", extra=lambda tar: link(tar, "batches/one", "/etc/passwd", kind)))
    with raises_line(DataError, "batches/one", "link"):
        prepare(archive, tmp_path)
    assert not (tmp_path / "batches").exists()


@pytest.mark.parametrize("content", [packed(left_out="batches/one"), b"no archive" * 99])
def test_what_cannot_be_unpacked_is_one_line(content: bytes, server: Server, tmp_path: Path) -> None:
    with raises_line(DataError, tmp_path / "a.tar.gz"):
        prepare(serve(server, content), tmp_path)


def test_a_member_with_another_content_is_refused(server: Server, tmp_path: Path) -> None:
    archive = serve(server, packed(left_out="batches/one", extra=lambda tar: add(tar, "batches/one", bytes(3000))))
    with raises_line(DataError, "a.tar.gz", "batches/one", 3000, hashlib.sha256(bytes(3000)).hexdigest()):
        prepare(archive, tmp_path)
    assert not list(tmp_path.rglob("one"))


def test_a_full_disk_is_no_fault_of_the_data(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = serve(server, packed())

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    with raises_line(ResourceError, os.strerror(28)):
        prepare(archive, tmp_path)
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("locks", [True, False])
def test_of_many_that_need_the_same_files_one_fetches_them(
    locks: bool, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As threads, which a lock on a file keeps apart just as it does processes."""
    archive = serve(server, packed())
    server.seconds = 0.2
    if not locks:
        monkeypatch.setattr(download, "_alone", lambda path: nullcontext())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: prepare(archive, tmp_path), range(4)))
    assert wrong_file(archive.files, tmp_path) == "" and not list(tmp_path.rglob("*.part"))
    assert (len(server.asked) == 1) is locks  # the control: without the lock they all fetch, and the files are right


def test_a_file_system_without_locks_is_used_without(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(file: object, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    prepare(archive := serve(server, packed()), tmp_path)
    assert wrong_file(archive.files, tmp_path) == ""


def gzipped(content: bytes) -> bytes:
    """The same bytes at any time."""
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize("pinned", [True, False])
def test_one_packed_file_is_unpacked_beside_it(pinned: bool, server: Server, tmp_path: Path) -> None:
    content, packed_file = FILES["batches/one"], gzipped(FILES["batches/one"])
    server.answers["/one.gz"] = packed_file
    wanted = hashlib.sha256(content).hexdigest() if pinned else len(content)
    sha256 = hashlib.sha256(packed_file).hexdigest()
    archive = Archive(f"{server.address}/one.gz", len(packed_file), sha256, {"A/raw/one": wanted}, "A/raw")
    for _ in range(2):
        prepare(archive, tmp_path)
    assert (tmp_path / "A/raw/one").read_bytes() == content and server.asked == ["/one.gz"]
    assert sorted(path.name for path in (tmp_path / "A/raw").iterdir()) == [".one.gz.lock", "one", "one.gz"]
    (tmp_path / "A/raw/one").write_bytes(content[:-1])
    found = 2999 if wanted == 3000 else hashlib.sha256(content[:-1]).hexdigest()
    check_line(wrong_file(archive.files, tmp_path), "A/raw/one", found, wanted)
    wrong = replace(archive, files={"A/raw/one": 2998 if wanted == 3000 else "0" * 64})
    with raises_line(DataError, "one.gz", "A/raw/one", hashlib.sha256(content).hexdigest(), *wrong.files.values()):
        prepare(wrong, tmp_path)


def zipped(*, left_out: str = "", inside: Callable[[bytes], bytes] = gzipped) -> bytes:
    """A .zip of packed files, beside others that nobody asked for."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as whole:
        for name, data in {**FILES, "batches/../../escaped": b"x"}.items():
            if name != left_out:
                whole.writestr(f"inner/{name.removeprefix('batches/')}.gz", inside(data))
    return content.getvalue()


def served_zip(server: Server, content: bytes) -> Archive:
    server.answers["/a.zip"] = content
    return replace(published(f"{server.address}/a.zip", content), inside="inner/")


def test_packed_files_in_a_zip_are_unpacked_twice_and_nothing_else(server: Server, tmp_path: Path) -> None:
    prepare(served_zip(server, zipped()), tmp_path / "data")
    assert {name: (tmp_path / "data" / name).read_bytes() for name in FILES} == FILES
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()].count("escaped") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


@pytest.mark.parametrize(
    "content",
    [
        zipped(left_out="batches/one"),
        b"no archive" * 99,
        zipped(inside=lambda data: data),
        zipped(inside=lambda data: gzipped(data)[:-9]),
        zipped(inside=lambda data: gzipped(data)[:40] + b"?" * 99 + gzipped(data)[139:]),
    ],
)
def test_a_zip_that_cannot_be_unpacked_is_one_line(content: bytes, server: Server, tmp_path: Path) -> None:
    with raises_line(DataError, tmp_path / "a.zip"):
        prepare(served_zip(server, content), tmp_path)
    assert not list(tmp_path.rglob("*.part")) and not (tmp_path / "batches" / "one").exists()


def test_what_is_published_is_pinned_and_has_the_names_that_torchvision_gives_it() -> None:
    archives = [archive for each in PUBLISHED.values() for archive in each.archives]
    assert len(archives) == 2 + 4 + 4 + 1
    for archive in archives:
        assert archive.url.startswith("https://") and archive.size > 4000 and len(bytes.fromhex(archive.sha256)) == 32
    for each in PUBLISHED.values():
        assert all(
            isinstance(wanted, int) or len(bytes.fromhex(wanted)) == 32 for wanted in each.files({"extra": True}).values()
        )
    ten, hundred, part, mnist, fashion, emnist, svhn = (set(each.files({"extra": True})) for each in PUBLISHED.values())
    for reader, found in ((datasets.CIFAR10, ten), (datasets.CIFAR100, hundred), (datasets.CIFAR100, part)):
        names = [*(name for name, _ in reader.train_list + reader.test_list), reader.meta["filename"]]
        assert found == {f"{reader.base_folder}/{name}" for name in names}
    for reader, found in ((datasets.MNIST, mnist), (datasets.FashionMNIST, fashion)):
        assert found == {f"{reader.__name__}/raw/{name.removesuffix('.gz')}" for name, _ in reader.resources}
    assert svhn == {name for _, name, _ in datasets.SVHN.split_list.values()}
    assert set(PUBLISHED["runners.data.svhn.svhn"].files({"extra": False})) == svhn - {"extra_32x32.mat"}
    assert PUBLISHED["runners.data.mnist.emnist"].archives[0].url == datasets.EMNIST.url and len(emnist) == 4
