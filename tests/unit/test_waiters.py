"""Who waits leaves a file as long as it lives, and says nothing once it is gone."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from support.terminal import wait_until

from uv_mutex.locking import acquire, wait, waiters
from uv_mutex.locking.lock_file import EnvironmentFolder, LockFile
from uv_mutex.locking.owner import LockOwner, decode
from uv_mutex.locking.process import this_process
from uv_mutex.locking.wait import WaitBudget

HOST = os.uname().nodename


@pytest.fixture
def lock(tmp_path: Path) -> LockFile:
    """A lock that was taken before."""
    lock = LockFile(str(tmp_path))
    acquire.take(lock, WaitBudget(1, quiet=True)).release()
    return lock


def test_a_wait_shows_after_a_while(lock: LockFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "_RENEW_SECONDS", 0.2)
    monkeypatch.setattr(wait, "_SHOW_SECONDS", 2.0)
    held = acquire.take(lock, WaitBudget(1, quiet=True))
    sign = Path(lock.path).with_name(f"waiting.{HOST}.{os.getpid()}")
    seen: list[object] = []

    def look() -> None:
        time.sleep(0.25)
        seen.append(sign.exists())
        wait_until(sign.exists)
        sign.unlink()  # as `git clean -fdx` does
        wait_until(lambda: bool(waiters.read(lock)))  # the file is empty for a moment
        seen.extend(waiters.read(lock))
        held.release()

    looking = threading.Thread(target=look)
    looking.start()
    acquire.take(lock, WaitBudget(30, quiet=True, command="uv run")).release()
    looking.join()
    early, waiter = seen
    assert not early
    assert isinstance(waiter, LockOwner)
    assert (waiter.command, waiter.pid, waiter.host, waiter.uid) == ("uv run", os.getpid(), HOST, os.getuid())
    assert time.time() - 10 < waiter.since < time.time()
    assert not sign.exists()


def test_a_wait_goes_on_without_its_file(lock: LockFile) -> None:
    held = acquire.take(lock, WaitBudget(1, quiet=True))
    Path(lock.path).with_name(f"waiting.{HOST}.{os.getpid()}").mkdir()
    threading.Timer(1, held.release).start()
    acquire.take(lock, WaitBudget(30, quiet=True)).release()


def test_none_where_an_environments_folder_is_locked(tmp_path: Path) -> None:
    sign = waiters.WaiterFile(EnvironmentFolder(str(tmp_path)), "uv sync", time.time())
    sign.show()
    sign.remove()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (b"4121 5.5 node-3 uv sync\n", (4121, "node-3", 5.5, "uv sync", None)),  # before users were written down
        (b"4121 5.5 node-3 uv sync\t1000\n", (4121, "node-3", 5.5, "uv sync", 1000)),
        (LockOwner(1, "h", 2.0, "uv\tadd\n", 7).encode(), (1, "h", 2.0, "uv add ", 7)),
        (LockOwner(1, "h", 2.0, "x" * 9999, 7).encode(), (1, "h", 2.0, "x" * 4085, 7)),
    ],
)
def test_record(record: bytes, expected: tuple[object, ...]) -> None:
    assert len(record) <= 4096
    holder = decode(record)
    assert holder
    assert (holder.pid, holder.host, holder.since, holder.command, holder.uid) == expected


def test_a_record_names_the_process() -> None:
    here = this_process()
    for uid in (None, 7):
        written = LockOwner(1, "h", 2.0, "uv add", uid, process=here)
        read = decode(written.encode())
        assert read
        assert (read.process, read.uid, read.command) == (here, uid, "uv add")
        assert read.token == written.token == f"{here.encode()}/2.0"
    assert len(LockOwner(1, "h", 2.0, "x" * 9999, 7, process=here).encode()) == 4096
    read = decode(b"4121 5.5 node-3 uv sync\t1000\n")  # before processes were written down
    assert read
    assert (read.process, read.token) == (None, "node-3/4121/5.5")


@pytest.mark.parametrize(
    "record", [b"", b"x", b"1 nan h c", b"1 inf h c", b"1 -1 h c", b"1 2 h", b"a 2 h c", b"1 2 h c\tx", b"\xff" * 99]
)
def test_no_record(record: bytes) -> None:
    assert decode(record) is None
