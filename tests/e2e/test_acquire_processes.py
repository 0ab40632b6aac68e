"""Locks that several processes want."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import need
from support.locks import is_busy, take
from support.terminal import wait_until

from uv_mutex.locking import acquire
from uv_mutex.locking.lock_file import LockFile
from uv_mutex.locking.wait_budget import WaitBudget

_SOURCES = str(Path(__file__).parents[2] / "src")


# Another process that locks as filelock does, says so, and lets go when its stdin ends.
_FILELOCK = """\
import os, sys
from filelock import lock_descriptor
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
print(lock_descriptor(fd, blocking=False), flush=True)
sys.stdin.read()
"""


# Another process that takes the lock as the shim does.
_TAKE = f"""\
import os, sys
sys.path.insert(0, {_SOURCES!r})
from uv_mutex.locking import acquire
from uv_mutex.locking.lock_file import LockFile
from uv_mutex.locking.wait_budget import WaitBudget
print("begun", flush=True)
taken = acquire.take(LockFile(sys.argv[2]), WaitBudget(None, quiet=True))
print("taken", os.stat(sys.argv[1]).st_ino, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def lock(tmp_path: Path) -> LockFile:
    """The lock of a project that was never locked."""
    return LockFile(str(tmp_path))


@contextlib.contextmanager
def _another(program: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", program, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            yield other
        finally:
            other.kill()


def _said(other: subprocess.Popen[str]) -> str:
    assert other.stdout
    return other.stdout.readline().strip()


def _let_go(other: subprocess.Popen[str]) -> None:
    assert other.stdin
    other.stdin.close()


def _filelock_gets_it(lock: LockFile) -> bool:
    with _another(_FILELOCK, lock.path) as other:
        return _said(other) == "True"


def test_filelock_contends(lock: LockFile) -> None:
    held = take(lock)
    assert not _filelock_gets_it(lock)
    held.release()
    assert _filelock_gets_it(lock)


def test_waits_until_filelock_lets_go(lock: LockFile) -> None:
    take(lock).release()
    with _another(_FILELOCK, lock.path) as other:
        assert _said(other) == "True"
        budget = WaitBudget(None, quiet=True)

        def let_go() -> None:
            wait_until(lambda: _blocked_in_flock(os.getpid()))
            _let_go(other)

        letting_go = threading.Thread(target=let_go)
        letting_go.start()
        acquire.take(lock, budget).release()
        assert 0 < budget.waited < 30
        letting_go.join()


def test_a_dead_holder_blocks_nobody(lock: LockFile) -> None:
    with _another(_TAKE, lock.path, lock.above) as other:
        assert (_said(other), _said(other).split()[0]) == ("begun", "taken")
        assert is_busy(lock)
        other.kill()
        other.wait()
        assert not is_busy(lock)


@pytest.mark.parametrize("deleted", [".uv-mutex", ".uv-mutex/lock"])
def test_whoever_waits_follows_to_the_new_file(lock: LockFile, tmp_path: Path, deleted: str) -> None:
    """`git clean -fdx` while one holds the lock and another waits: the next one makes a new file."""
    first = take(lock)
    with _another(_TAKE, lock.path, str(tmp_path)) as waiter:
        assert _said(waiter) == "begun"
        wait_until(lambda: _blocked_in_flock(waiter.pid))
        old = tmp_path / deleted
        shutil.rmtree(old) if old.is_dir() else old.unlink()
        second = lock.open()
        fcntl.flock(second, fcntl.LOCK_EX)
        inode = os.fstat(second).st_ino
        first.release()  # the waiter has the old file's lock now
        wait_until(lambda: _blocked_in_flock(waiter.pid, inode))
        os.close(second)
        assert _said(waiter) == f"taken {inode}"


def _blocked_in_flock(pid: int, inode: int | None = None) -> bool:
    """Whether a process waits for a flock, as the kernel sees it."""
    waiting = [line.split() for line in Path("/proc/locks").read_text().splitlines() if " -> FLOCK" in line]
    return any(int(fields[5]) == pid and inode in (None, int(fields[6].split(":")[2])) for fields in waiting)


@pytest.mark.parametrize("call", ["open", "mkdir", "stat", "link"])
def test_a_folder_that_another_host_makes_at_this_moment(
    lock: LockFile, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """GlusterFS answers ESTALE then, once in some hundred calls, on whatever is asked next."""
    real = getattr(os, call)
    stale = iter([True] * 3)

    def sometimes(*words: object, **options: object) -> object:
        if next(stale, False):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), *words[:1])
        return real(*words, **options)

    monkeypatch.setattr(os, call, sometimes)
    taken = take(lock)
    assert not _filelock_gets_it(lock)
    taken.release()
    assert lock.recorded_backend() == "flock"
    assert sorted(os.listdir(Path(lock.path).parent)) == [".gitignore", "backend", "lock"]


def test_the_alarm_works_where_its_signal_was_blocked(lock: LockFile) -> None:
    held = take(lock)
    code = f"import os, signal, sys\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGURG])\n{_TAKE}"
    with _another(code.replace("None", "0.1"), lock.path, lock.above) as other:
        assert other.wait(60) == 1
    held.release()


# Half of them may create lock files. Each folder is new, so all meet there for the first time. The others might not be
# allowed to read the sources, so they import `wait` before they need it.
_MEET = (
    f"import os, sys, time; sys.path.insert(0, {_SOURCES!r})\n"
    "from uv_mutex.locking import acquire, wait\nfrom uv_mutex.locking.lock_file import LockFile\n"
    "from uv_mutex.locking.wait_budget import WaitBudget\n"
    "if sys.argv[3] == 'apart': LockFile._lock_stand_ins = lambda self: []\n"
    "os.seteuid(int(sys.argv[1]))\n"
    "met = 0\n"
    "print('ready', flush=True)\n"
    "begin = float(sys.stdin.readline())\n"
    "for number in range(25):\n"
    "    folder = f'{sys.argv[2]}/{number}'\n"
    "    late = 0.005 if sys.argv[1] == '0' else 0\n"  # it comes while another one may hold the folder
    "    time.sleep(max(0, begin + number * 0.1 + late - time.time()))\n"
    "    lock = acquire.take(LockFile(folder, instead=folder), WaitBudget(60, quiet=True))\n"
    "    try:\n"
    "        os.mkdir(f'{sys.argv[2]}/inside/{number}')\n"
    "        time.sleep(0.01)\n"
    "        os.rmdir(f'{sys.argv[2]}/inside/{number}')\n"
    "    except OSError:\n"
    "        met += 1\n"
    "    lock.release()\n"
    "print(met)\n"
)


@pytest.mark.parametrize("kind", ["together", "apart"])
def test_who_may_create_the_file_and_who_may_not_exclude_each_other(kind: str) -> None:
    """The control creates the file without a look at who holds the lock of the folder."""
    need.root()
    with tempfile.TemporaryDirectory() as folder:
        for path in (Path(folder), *(Path(folder, str(number)) for number in range(25))):
            path.mkdir(exist_ok=True)
            path.chmod(0o755)
        Path(folder, "inside").mkdir()
        Path(folder, "inside").chmod(0o777)
        words = [[sys.executable, "-c", _MEET, str(user), folder, kind] for user in (0, 61001) * 4]
        pipe = subprocess.PIPE
        processes = [subprocess.Popen(each, stdin=pipe, stdout=pipe, text=True) for each in words]
        assert {_said(process) for process in processes} == {"ready"}
        begin = time.time() + 0.2
        for process in processes:
            assert process.stdin
            process.stdin.write(f"{begin}\n")
            process.stdin.flush()
        met = [int(process.communicate(timeout=100)[0]) for process in processes]
        # Where nobody held a folder, those who may have created the file.
        assert any(Path(folder, str(number), ".uv-mutex/lock").exists() for number in range(25))
    assert (sum(met) == 0) == (kind == "together")
