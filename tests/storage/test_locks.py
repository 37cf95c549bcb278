"""Many processes and one result: it is made once, whoever dies; and without any lock it is still one result."""

import errno
import fcntl
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from filelock import SoftFileLease

from runners.process import interruption
from runners.process.interruption import Preempted
from runners.storage import locks
from runners.storage.locks import Locks, file_system, kinds
from support import ROOT, check_line, raises_line

KEY = "ab" + "0" * 30
CROWD = ROOT / "tests" / "drills" / "crowd.py"


QUICK = (
    "once number=16 lock=auto",
    "once number=6 lock=none",
    "takeover lock=flock",
    "takeover lock=lease exchange=off",
    "paused",
    "rows number=12 each=10 fsync=off",
    "shared_rows number=12 each=10 fsync=off",
    "paused publish=first",
)


def crowds(folder: Path, *scenarios: str) -> list[dict[str, Any]]:
    command = [sys.executable, str(CROWD), str(folder), *scenarios]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(scenarios)
    for scenario, outcome in zip(scenarios, found, strict=True):
        assert outcome["whole"] and outcome["left"] == outcome["locks"] == []
        assert outcome["unfinished"] == 0 or "publish=first" in scenario, "who fails leaves its checkpoints"
    return found


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The outcomes of the quick scenarios; one process plays them all, since importing torch takes longest."""
    return dict(zip(QUICK, crowds(tmp_path_factory.mktemp("crowd"), *QUICK), strict=True))


def one_result(found: dict[str, Any]) -> bool:
    return found["entries"] == 1 and found["hashes"] == 1


def test_sixteen_processes_train_once(quick: dict[str, dict[str, Any]]) -> None:
    found = quick["once number=16 lock=auto"]
    assert one_result(found) and found["codes"] == [0] * 16
    assert found["trainings"] == 1 and found["steps"] == 1


def test_without_a_lock_they_all_train_to_one_result(quick: dict[str, dict[str, Any]]) -> None:
    # The control of the test above, and the proof that the lock only saves work.
    found = quick["once number=6 lock=none"]
    assert one_result(found) and found["codes"] == [0] * 6
    assert found["trainings"] > 1 and found["steps"] > 1.5


@pytest.mark.slow
@pytest.mark.parametrize("lock", ["flock", "lease"])
def test_of_64_processes_8_are_killed_while_they_train(lock: str, tmp_path: Path) -> None:
    [found] = crowds(tmp_path, f"once number=64 lock={lock} killed=8")
    assert one_result(found) and found["codes"] == [-9] * 8 + [0] * 56
    assert found["trainings"] == 9 and found["from_the_start"] == 1 and found["steps"] <= 1.2


def test_when_the_holder_is_killed_a_waiter_goes_on_from_its_checkpoint(quick: dict[str, dict[str, Any]]) -> None:
    is_taken_over(quick["takeover lock=flock"])


def test_also_of_a_lease_where_two_names_cannot_be_exchanged(quick: dict[str, dict[str, Any]]) -> None:
    is_taken_over(quick["takeover lock=lease exchange=off"])


@pytest.mark.slow
def test_also_of_a_lease(tmp_path: Path) -> None:
    is_taken_over(crowds(tmp_path, "takeover lock=lease")[0])


@pytest.mark.slow
def test_without_checkpoints_it_would_start_anew(tmp_path: Path) -> None:
    [found] = crowds(tmp_path, "takeover lock=flock forget=checkpoints")
    assert one_result(found) and found["from_the_start"] == 2 and found["steps"] > 1.2


def is_taken_over(found: dict[str, Any]) -> None:
    assert one_result(found) and found["codes"] == [-9, 0, 75], "killed, done, and stopped by SIGTERM while it waited"
    assert found["alone"] and found["from_the_start"] == 1 and found["steps"] < 1.2
    assert found["seconds"] < 5, "at once: not after LEASE_SECONDS"


def test_a_holder_that_stands_still_is_overtaken_and_does_no_harm(quick: dict[str, dict[str, Any]]) -> None:
    # Both train side by side in the end, into the same checkpoints.
    found = quick["paused"]
    assert one_result(found) and found["codes"] == [0, 0] and found["trainings"] == 2
    assert found["from_the_start"] == 1 and 0.4 < found["seconds"] < 20


def test_where_the_first_result_forbids_a_second_the_overtaken_holder_fails(quick: dict[str, dict[str, Any]]) -> None:
    # The control of the test above.
    found = quick["paused publish=first"]
    assert found["entries"] == 1 and found["codes"] == [0, 1] and found["trainings"] == 2


def test_many_processes_finish_rows_at_once(quick: dict[str, dict[str, Any]]) -> None:
    rows_are_complete(quick["rows number=12 each=10 fsync=off"], 12, 10)


def test_rows_added_to_one_table_are_lost(quick: dict[str, dict[str, Any]]) -> None:
    # The control of the test above: everybody ends well, and half of the rows are missing.
    found = quick["shared_rows number=12 each=10 fsync=off"]
    assert found["codes"] == [0] * 12 and found["rows"] < 120


@pytest.mark.slow
def test_fifty_processes_finish_a_thousand_rows_at_once(tmp_path: Path) -> None:
    rows_are_complete(crowds(tmp_path, "rows number=50 each=20")[0], 50, 20)


def rows_are_complete(found: dict[str, Any], number: int, each: int) -> None:
    assert found["codes"] == [0] * number and found["rows"] == found["right"] == number * each
    assert found["entries"] == (number + 1) * each / 2, "every second table is the same for all"


def never() -> bool:
    return False


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    locks._warn.cache_clear()
    monkeypatch.setattr(locks, "LEASE_SECONDS", 0.3)


MOUNTS = r"""
/dev/vda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/vdb /home/me/local xfs rw 0 0
tmpfs /home/me/local/a\040b tmpfs rw 0 0
lustre@tcp:/scratch /scratch lustre rw 0 0
ext4 /twice ext4 rw 0 0
sshfs /twice fuse.sshfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "kind", "first"),
    [
        ("/tmp/x", "ext4", "flock"),
        ("/home", "nfs4", "lease"),
        ("/home/me", "nfs4", "lease"),
        ("/homely", "ext4", "flock"),
        ("/home/me/local/store", "xfs", "flock"),
        ("/home/me/local/a b/store", "tmpfs", "flock"),
        ("/scratch/me", "lustre", "lease"),
        ("/twice/a", "fuse.sshfs", "lease"),
    ],
)
def test_auto_goes_by_the_file_system(
    folder: str, kind: str, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mounts").write_text(MOUNTS.strip())
    monkeypatch.setattr(locks, "MOUNTS", tmp_path / "mounts")
    assert file_system(Path(folder)) == kind and kinds("auto", Path(folder))[0] == first
    assert [kinds(choice, Path(folder)) for choice in ("flock", "lease", "none")] == [["flock"], ["lease"], []]


@pytest.mark.parametrize("kind", ["nfs", "cifs", "smb3", "gpfs", "beegfs", "ceph", "fuse.glusterfs", "9p", "virtiofs"])
def test_network_file_systems_are_known(kind: str) -> None:
    assert locks.NETWORK.fullmatch(kind)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuseblk", "f2fs", ""])
def test_local_file_systems_are_none_of_them(kind: str) -> None:
    assert not locks.NETWORK.fullmatch(kind)


def test_without_mounts_to_read_it_is_flock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "MOUNTS", tmp_path / "none")
    assert file_system(tmp_path) == "" and kinds("auto", tmp_path) == ["flock", "lease"]


def failing(number: int) -> Any:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    return flock


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_there_is_no_flock_a_lease_is_taken(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(number))
    with Locks(tmp_path).held("trained", KEY, unless=never):
        assert (tmp_path / f"trained-{KEY}.lease").exists()
        other = SoftFileLease(tmp_path / f"trained-{KEY}.lease", lease_duration=0.3, blocking=False)
        with pytest.raises(TimeoutError):
            other.acquire()
        # The control: flock alone keeps nobody out.
        with Locks(tmp_path / "alone", "flock").held("trained", KEY, unless=never):
            with Locks(tmp_path / "alone", "flock").held("trained", KEY, unless=never):
                pass
    assert not list(tmp_path.glob("*.lease"))


@pytest.mark.parametrize(("choice", "number"), [("flock", errno.ENOLCK), ("auto", errno.EIO)])
def test_a_lock_that_cannot_be_made_stops_nothing(
    choice: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(number))
    done = 0
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with Locks(tmp_path, choice).held("trained", KEY, unless=never):
                done += 1
    assert done == 3
    assert [record.levelname for record in caplog.records] == ["WARNING"], "one warning"


def test_a_folder_that_cannot_be_made_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "locks").touch()
    with caplog.at_level(logging.WARNING), Locks(tmp_path / "locks").held("trained", KEY, unless=never):
        pass
    assert len(caplog.records) == 1


@pytest.mark.parametrize("choice", ["flock", "lease"])
def test_a_waiter_says_who_it_waits_for_obeys_signals_and_goes_on_when_the_result_is_there(
    choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "runners")
    with Locks(tmp_path, choice).held("trained", KEY, unless=never):
        asked = iter([False, False, False, True])
        with Locks(tmp_path, choice).held("trained", KEY, unless=lambda: next(asked)):
            pass
        [record] = caplog.records
        check_line(record.message, "trained", KEY[:10], os.getpid())
        with Locks(tmp_path, choice).held("scores", KEY, unless=never):
            pass  # another result is another lock
        monkeypatch.setattr(interruption, "_noted", [interruption.SIGNALS[0]])
        with raises_line(Preempted, "SIGTERM", "trained"):
            with Locks(tmp_path, choice).held("trained", KEY, unless=never):
                pass
    assert list(tmp_path.iterdir()) == []


def test_a_lease_whose_maker_died_before_it_had_written_its_name_ends(tmp_path: Path) -> None:
    # filelock alone would wait for ever: an empty marker says nothing about who is gone.
    path = tmp_path / f"trained-{KEY}.lease"
    path.touch()
    looks: list[int] = []
    with Locks(tmp_path, "lease").held("trained", KEY, unless=lambda: bool(looks.append(1))):
        assert len(looks) > 1, "the marker stood for a while"
        assert "host=" in path.read_text(), "the lease is ours"


@pytest.mark.parametrize("ahead", [-86400, 86400])
def test_a_clock_that_is_a_day_off_ends_no_lease_that_is_kept(
    ahead: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"trained-{KEY}.lease"
    with Locks(tmp_path, "lease").held("trained", KEY, unless=never):
        # Of another host, so that nobody can ask whether its process lives.
        path.write_text(path.read_text().replace("host=", "host=other-"))
        real = time.time
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: real() + ahead)
            # The control: by the clocks on the wall it would be long over, or not begun.
            assert abs(time.time() - path.stat().st_mtime) > 1000 * locks.LEASE_SECONDS
            ends = time.monotonic() + 4 * locks.LEASE_SECONDS
            with Locks(tmp_path, "lease").held("trained", KEY, unless=lambda: time.monotonic() > ends):
                assert time.monotonic() > ends and "host=other-" in path.read_text(), "the lease was kept"


def test_a_lease_that_nobody_keeps_is_taken_over_by_the_waiter_s_own_clock(tmp_path: Path) -> None:
    path = tmp_path / f"trained-{KEY}.lease"
    path.write_text(f"filelock/2\npid=1\nhost=other\nmode=lease\ntoken=a\nduration={locks.LEASE_SECONDS!r}\n")
    tomorrow = time.time() + 86400
    os.utime(path, (tomorrow, tomorrow))
    looks: list[int] = []
    with Locks(tmp_path, "lease").held("trained", KEY, unless=lambda: bool(looks.append(1))):
        assert len(looks) > 1, "the lease stood for a while"
        assert "host=" in path.read_text() and "host=other" not in path.read_text(), "the lease is ours"
