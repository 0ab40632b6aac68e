"""Who waits leaves a file as long as it lives, and says nothing once it is gone."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.terminal import wait_until

from uv_mutex.errors import TIMED_OUT, MutexError
from uv_mutex.locking import acquire, leftovers, process, wait, waiters
from uv_mutex.locking.lock_file import EnvironmentFolder, LockFile
from uv_mutex.locking.owner import LockOwner, decode
from uv_mutex.locking.process import Process, this_process
from uv_mutex.locking.wait_budget import WaitBudget

HOST = os.uname().nodename


@pytest.fixture
def lock(tmp_path: Path) -> LockFile:
    """A lock that was taken before."""
    lock = LockFile(str(tmp_path))
    acquire.take(lock, WaitBudget(1, quiet=True)).release()
    return lock


def _mine(lock: LockFile) -> Path:
    return Path(lock.path).with_name(leftovers.waiter_name(process.this_process()))


def test_a_sign_that_is_renewed_can_be_read_all_the_time(lock: LockFile, monkeypatch: pytest.MonkeyPatch) -> None:
    sign = waiters.WaiterFile(lock, "uv run", time.time())
    sign.show()
    (first,) = waiters.read(lock)
    seen: list[LockOwner] = []
    monkeypatch.setattr(os, "fchmod", lambda *_: seen.extend(waiters.read(lock)))
    sign.show()
    monkeypatch.undo()
    assert [waiter.process for waiter in (*seen, *waiters.read(lock))] == [first.process] * 2
    sign.remove()


def test_a_wait_shows_after_a_while(lock: LockFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "_RENEW_SECONDS", 0.2)
    monkeypatch.setattr(wait, "_SHOW_SECONDS", 2.0)
    held = acquire.take(lock, WaitBudget(1, quiet=True))
    sign = _mine(lock)
    seen: list[object] = []
    began = time.monotonic()

    def look() -> None:
        time.sleep(0.25)
        seen.append(sign.exists() and time.monotonic() - began < 2)
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
    _mine(lock).mkdir()
    threading.Timer(1, held.release).start()
    acquire.take(lock, WaitBudget(30, quiet=True)).release()


def test_none_where_an_environments_folder_is_locked(tmp_path: Path) -> None:
    sign = waiters.WaiterFile(EnvironmentFolder(str(tmp_path)), "uv sync", time.time())
    sign.show()
    sign.remove()
    assert not list(tmp_path.iterdir())


class _Clock:
    """In place of the module `time`: only a sleep takes time there, and then something can happen."""

    time = staticmethod(time.time)

    def __init__(self) -> None:
        self._now = 0.0
        self.later: list[tuple[float, Callable[[], object]]] = []

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds
        for at, call in self.later[:1]:
            if self._now >= at:
                self.later.clear()
                call()


def test_a_wait_without_a_thread(
    lock: LockFile, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`ulimit -u` allows no thread: the main thread does what the thread would do."""

    def start(_thread: object) -> None:
        raise RuntimeError("can't start new thread")

    held, clock = acquire.take(lock, WaitBudget(1, quiet=True)), _Clock()
    monkeypatch.setattr(wait, "time", clock)
    monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setattr(wait, "_SILENT_SECONDS", 0.2)
    monkeypatch.setattr(wait, "_SHOW_SECONDS", 0.1)
    with pytest.raises(MutexError, match=r"gave up after 0\.4 s") as caught:
        acquire.take(lock, WaitBudget(0.4, quiet=False))
    assert caught.value.status == TIMED_OUT
    assert "uv-mutex: waiting for other uv calls (0 s)" in capfd.readouterr().err
    shown: list[bool] = []
    monkeypatch.setattr(waiters.WaiterFile, "remove", lambda _sign: shown.append(_mine(lock).exists()))
    clock.later.append((2.0, held.release))
    acquire.take(lock, WaitBudget(30, quiet=True)).release()
    assert shown == [True]


def _left(lock: LockFile, name: str, *, age: float) -> Path:
    path = Path(lock.path).with_name(name)
    path.write_bytes(b"x")
    os.utime(path, (time.time() - age,) * 2)
    return path


_DAY = 24 * 3600


@pytest.mark.parametrize(
    ("name", "age", "goes"),
    [
        ("waiting.node-3.5", 50, False),  # of an earlier version: nobody can tell whose it is
        ("waiting.node-3.5", 70, True),
        ("waiting.some-boot.7.5.9", 50, False),  # of another host
        ("waiting.some-boot.7.5.9", 70, True),
        (".new.0123", 50, False),
        (".new.0123", 70, True),
        ("calls.node-3", 29 * _DAY, False),
        ("calls.node-3", 31 * _DAY, True),
        ("lock.last.node-3", 29 * _DAY, False),
        ("lock.last.node-3", 31 * _DAY, True),
        ("lock", 400 * _DAY, False),
        ("backend", 400 * _DAY, False),
        (".gitignore", 400 * _DAY, False),
        ("a user's own", 400 * _DAY, False),
    ],
)
def test_what_is_left_over_goes(lock: LockFile, name: str, age: float, goes: bool) -> None:
    path = _left(lock, name, age=age)
    sign = waiters.WaiterFile(lock, "uv sync", time.time())
    sign.show()
    assert path.exists() != goes
    sign.remove()


def test_a_pile_goes(lock: LockFile) -> None:
    for number in range(5000):
        _left(lock, f"waiting.node-3.{number}", age=100)
    sign = waiters.WaiterFile(lock, "uv sync", time.time())
    sign.show()
    assert lock.names("waiting.") == [_mine(lock).name]
    sign.remove()


def test_among_many_that_wait_nobody_looks_at_all(lock: LockFile, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(400):
        _left(lock, f"waiting.node-3.{number}", age=0)
    looks: list[str] = []
    real = os.lstat

    def lstat(path: str) -> os.stat_result:
        looks.append(path)
        return real(path)

    monkeypatch.setattr(os, "lstat", lstat)
    leftovers.remove(lock, time.time())
    assert 40 < len(looks) <= 50


def test_a_live_waiter_stays_however_old(lock: LockFile) -> None:
    """A process of another PID namespace or host with the same id is another one."""
    mine = process.this_process()
    here = _left(lock, leftovers.waiter_name(mine), age=100)
    recycled = _left(lock, leftovers.waiter_name(Process(mine.boot, mine.namespace, mine.pid, "1")), age=0)
    elsewhere = _left(lock, leftovers.waiter_name(Process(mine.boot, "1", 2**22 + 1, "1")), age=10)
    leftovers.remove(lock, time.time())
    assert [path.exists() for path in (here, recycled, elsewhere)] == [True, False, True]


def test_once_removed_it_does_not_come_back(lock: LockFile) -> None:
    """A signal handler removes it while the thread is about to renew it."""
    sign = waiters.WaiterFile(lock, "uv sync", time.time())
    sign.show()
    sign.remove()
    sign.show()
    assert not _mine(lock).exists()


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
    read = decode(LockOwner(1, "h", 2.0, "uv add", 7, process=here, inode=99).encode())
    assert read
    assert (read.process, read.inode) == (here, 99)
    read = decode(b"4121 5.5 node-3 uv sync\t1000\n")  # before processes were written down
    assert read
    assert (read.process, read.token) == (None, "node-3/4121/5.5")


@pytest.mark.parametrize(
    "record", [b"", b"x", b"1 nan h c", b"1 inf h c", b"1 -1 h c", b"1 2 h", b"a 2 h c", b"1 2 h c\tx", b"\xff" * 99]
)
def test_no_record(record: bytes) -> None:
    assert decode(record) is None
