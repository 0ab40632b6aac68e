"""What a waiting call has said, once its process is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.terminal import wait_until

from uv_mutex.locking import acquire, leftovers, process, waiters
from uv_mutex.locking.lock_file import LockFile
from uv_mutex.locking.owner import LockOwner
from uv_mutex.locking.process import Process
from uv_mutex.locking.wait_budget import WaitBudget

_SOURCES = str(Path(__file__).parents[2] / "src")


@pytest.fixture
def lock(tmp_path: Path) -> LockFile:
    """A lock that was taken before."""
    lock = LockFile(str(tmp_path))
    acquire.take(lock, WaitBudget(1, quiet=True)).release()
    return lock


def write(lock: LockFile, waiter: Process, *, age: float = 0, name: str = "lock") -> Path:
    """The file of another waiter."""
    path = Path(lock.path).with_name(leftovers.waiter_name(waiter))
    path.write_bytes(LockOwner(waiter.pid, "host", 5.0, "uv sync", 0).encode() + f"{name}\n".encode())
    os.utime(path, (time.time() - age,) * 2)
    return path


def gone() -> Process:
    """A process that is over."""
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        start = process.start_time(child.pid)
        child.wait()
    return Process(process.boot_id(), process.pid_namespace(), child.pid, start)


def of_node_3(pid: int) -> Process:
    """A process of another host."""
    return Process("boot-of-node-3", "4026531836", pid, "77")


def test_who_is_gone_says_nothing(lock: LockFile) -> None:
    here = write(lock, process.this_process())
    there = write(lock, of_node_3(1), age=20)
    other = write(lock, of_node_3(4), name="env.lock")
    dead = write(lock, gone())
    silent = write(lock, of_node_3(2), age=40)
    broken = Path(lock.path).with_name("waiting.node-3.3")
    broken.write_bytes(b"\xff")
    os.utime(broken, (5, 5))
    assert {waiter.pid for waiter in waiters.read(lock)} == {os.getpid(), 1}
    assert set(waiters.orphans(lock)) == {str(dead), str(silent), str(broken)}
    assert all(path.exists() for path in (here, there, other, dead, silent)), "looking took something away"


def test_the_next_waiter_clears_up(lock: LockFile) -> None:
    dead, alive = write(lock, gone()), write(lock, Process(process.boot_id(), "1", 1, "1"))
    silent, older = write(lock, of_node_3(2), age=40), write(lock, of_node_3(3), age=70)
    sign = waiters.WaiterFile(lock, "uv sync", time.time())
    sign.show()
    assert [path.exists() for path in (dead, alive, silent, older)] == [False, True, True, False]
    sign.remove()


_WAIT = (
    f"import signal, sys; sys.path.insert(0, {_SOURCES!r}); signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
    "from uv_mutex.locking import acquire\nfrom uv_mutex.locking.lock_file import LockFile\n"
    "from uv_mutex.locking.wait_budget import WaitBudget\n"
    "acquire.take(LockFile(sys.argv[1]), WaitBudget(None, quiet=True))\n"
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_a_wait_and_its_file(lock: LockFile, number: signal.Signals) -> None:
    """SIGKILL is the control: then the file stays until another waiter comes."""
    held = acquire.take(lock, WaitBudget(1, quiet=True))
    with subprocess.Popen([sys.executable, "-c", _WAIT, lock.above]) as waiting:
        wait_until(lambda: bool(waiters.read(lock)))
        waiting.send_signal(number)
        assert waiting.wait(10) == -number
    held.release()
    assert bool(lock.names("waiting.")) == (number == signal.SIGKILL)
