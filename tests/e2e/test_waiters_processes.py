"""What a waiting call has said, once its process is gone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from uv_mutex.locking import acquire, waiters
from uv_mutex.locking.lock_file import LockFile
from uv_mutex.locking.owner import LockOwner
from uv_mutex.locking.wait import WaitBudget

HOST = os.uname().nodename


@pytest.fixture
def lock(tmp_path: Path) -> LockFile:
    """A lock that was taken before."""
    lock = LockFile(str(tmp_path))
    acquire.take(lock, WaitBudget(1, quiet=True)).release()
    return lock


def write(lock: LockFile, host: str, pid: int, *, age: float = 0, name: str = "lock") -> Path:
    """The file of another waiter."""
    path = Path(lock.path).with_name(f"waiting.{host}.{pid}")
    path.write_bytes(LockOwner(pid, host, 5.0, "uv sync", 0).encode() + f"{name}\n".encode())
    os.utime(path, (time.time() - age,) * 2)
    return path


def gone() -> int:
    """The id of a process that is over."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_who_is_gone_says_nothing(lock: LockFile) -> None:
    here = write(lock, HOST, os.getpid())
    there = write(lock, "node-3", 1, age=20)
    other = write(lock, HOST, 1, name="env.lock")
    dead = write(lock, HOST, gone())
    silent = write(lock, "node-3", 2, age=40)
    broken = Path(lock.path).with_name("waiting.node-3.3")
    broken.write_bytes(b"\xff")
    os.utime(broken, (5, 5))
    assert {(waiter.host, waiter.pid) for waiter in waiters.read(lock)} == {(HOST, os.getpid()), ("node-3", 1)}
    assert set(waiters.orphans(lock)) == {str(dead), str(silent), str(broken)}
    assert all(path.exists() for path in (here, there, other, dead, silent)), "looking took something away"


def test_the_next_waiter_clears_up(lock: LockFile) -> None:
    dead, alive, silent = write(lock, HOST, gone()), write(lock, HOST, 1), write(lock, "node-3", 2, age=40)
    sign = waiters.WaiterFile(lock, "uv sync", time.time())
    sign.show()
    assert [path.exists() for path in (dead, alive, silent)] == [False, True, True]
    sign.remove()
