"""The lock: one inside at a time, whoever asks and however; who holds it is known, and the wait for it ends in time."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import stat
import tempfile
import threading
import time
from pathlib import Path

import pytest
from support import need
from support.locks import is_busy, take

from uv_mutex.errors import FAILED, TIMED_OUT, MutexError
from uv_mutex.locking import acquire, wait
from uv_mutex.locking.lock_file import LockFile
from uv_mutex.locking.owner import LockOwner, read_owner
from uv_mutex.locking.wait_budget import WaitBudget
from uv_mutex.shim.project_locks import project_locks
from uv_mutex.uv.project import Project


@pytest.fixture
def lock(tmp_path: Path) -> LockFile:
    """The lock of a project that was never locked."""
    return LockFile(str(tmp_path))


def test_take_makes_a_folder_that_git_ignores(lock: LockFile, tmp_path: Path) -> None:
    tmp_path.chmod(0o775)
    take(lock).release()
    folder = tmp_path / ".uv-mutex"
    assert "*" in (folder / ".gitignore").read_text().splitlines()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o775
    assert stat.S_IMODE((folder / "lock").stat().st_mode) == 0o664  # whoever may work there may lock
    assert not (folder / "lock").read_bytes()


def test_release_leaves_the_file(lock: LockFile) -> None:
    held = take(lock)
    inode = os.stat(lock.path).st_ino
    held.release()
    assert os.stat(lock.path).st_ino == inode
    assert not is_busy(lock)


@pytest.mark.parametrize(("first", "second", "together"), [(0, 0, False), (0, 1, False), (1, 0, False), (1, 1, True)])
def test_only_shared_goes_with_shared(lock: LockFile, first: int, second: int, together: bool) -> None:
    held = take(lock, shared=bool(first))
    assert is_busy(lock, shared=bool(second)) != together
    held.release()
    assert not is_busy(lock, shared=bool(second))


def test_gives_up_in_time_and_names_the_holder(lock: LockFile) -> None:
    held = take(lock)
    held.record("uv sync")
    began = time.monotonic()
    with pytest.raises(MutexError) as caught:
        take(lock, limit=0.3)
    assert caught.value.status == TIMED_OUT
    assert 0.3 <= time.monotonic() - began < 20
    who = f"uv sync (pid {os.getpid()} on {os.uname().nodename}, 0 s)"
    fact, _, remedy = str(caught.value).partition("; ")
    assert fact == f"gave up after 0.3 s (UV_MUTEX_TIMEOUT) waiting for {who}, which holds {lock.path}"
    assert remedy == "try again later, or allow more time"
    held.release()
    assert signal.getsignal(signal.SIGURG) == signal.SIG_DFL
    assert not is_busy(lock)


@pytest.mark.slow
def test_no_budget_at_all_never_ends_otherwise(lock: LockFile) -> None:
    """The alarm is due before the wait has begun, and must not go off outside it."""
    held = take(lock)
    assert all(is_busy(lock) for _ in range(200))
    held.release()


def test_wait_budget_is_for_all_locks_together(lock: LockFile, tmp_path: Path) -> None:
    held = take(lock)
    budget = WaitBudget(0.4, quiet=True)
    budget.waited = 0.3
    began = time.monotonic()
    with pytest.raises(MutexError, match=r"after 0\.4 s"):
        acquire.take(lock, budget)
    assert time.monotonic() - began >= 0.1
    assert budget.waited >= 0.4
    held.release()
    acquire.take(LockFile(str(tmp_path), "other"), budget).release()  # free: no budget needed


def test_record_says_who_holds_it_until_release(lock: LockFile) -> None:
    held = take(lock)
    assert read_owner(lock.path) is None
    held.record("uv sync")
    holder = read_owner(lock.path)
    assert holder
    assert (holder.pid, holder.host, holder.command) == (os.getpid(), os.uname().nodename, "uv sync")
    assert abs(time.time() - holder.since) < 60
    assert holder.token == held.token
    held.release()
    assert read_owner(lock.path) is None


def test_record_of_a_dead_holder_is_written_over(lock: LockFile) -> None:
    take(lock).release()
    Path(lock.path).write_bytes(LockOwner(1, "elsewhere", 1.5, "uv sync " + "x" * 500).encode())
    held = take(lock)
    held.record("uv add")
    assert Path(lock.path).read_text().count("\n") == 1
    holder = read_owner(lock.path)
    assert holder
    assert (holder.pid, holder.command) == (os.getpid(), "uv add")
    held.release()


def test_shared_records_nothing(lock: LockFile) -> None:
    held = take(lock, shared=True)
    held.record("uv sync")
    assert not Path(lock.path).read_bytes()
    held.release()


def test_record_stays_one_line_of_bounded_length() -> None:
    data = LockOwner(1, "host", 2.0, "uv add\nevil " + "é" * 5000).encode()
    assert data.count(b"\n") == 1
    assert data.endswith(b"\n")
    assert len(data) <= 4096
    assert data.startswith(b"1 2.0 host uv add evil ")


@pytest.mark.parametrize("content", [b"", b"\n", b"12\n", b"a b c d\n", b"1 x host uv\n", b"\xff\xfe\0", b"1 2 3"])
def test_garbage_names_nobody(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "lock"
    path.write_bytes(content)
    assert read_owner(str(path)) is None


def test_read_holder_of_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/etc/passwd")
    for name in ("absent", "fifo", "link", "."):
        assert read_owner(str(tmp_path / name)) is None


def test_holder_on_another_host_is_timed_by_our_own_clock(tmp_path: Path) -> None:
    lock = LockFile(str(tmp_path))
    path = Path(lock.path)
    path.parent.mkdir()
    path.write_bytes(LockOwner(4121, "node-3", 5.0, "uv sync").encode())
    assert wait.describe_owner(lock, 14.2) == "uv sync (pid 4121 on node-3, 14 s)"
    path.write_bytes(LockOwner(4121, os.uname().nodename, time.time() - 100, "uv sync").encode())
    assert wait.describe_owner(lock, 14.2) == f"uv sync (pid 4121 on {os.uname().nodename}, 100 s)"
    path.write_bytes(b"")
    assert wait.describe_owner(lock, 14.2) == "other uv calls (14 s)"


def test_release_of_unfinished_work_keeps_the_time_of_the_first_owner_that_died(lock: LockFile) -> None:
    take(lock).release()
    Path(lock.path).write_bytes(LockOwner(1, "elsewhere", 1.5, "uv sync").encode())
    os.utime(lock.path, (1000, 1000))
    for _ in range(2):
        held = take(lock)
        held.record("uv add")
        assert held.previous_owner_began == 1000
        held.release(unfinished=True)
    held = take(lock)
    held.record("uv add")
    held.previous_owner_began = None  # what it left is undone
    held.release(unfinished=True)
    assert os.stat(lock.path).st_mtime > 1000


def test_a_copy_of_a_lock_file_names_nobody_who_died_here(lock: LockFile, tmp_path: Path) -> None:
    """As in an image, where all that an environment holds is newer than the death."""
    held = take(lock)
    held.record("uv add")
    held.release(unfinished=True)
    shutil.copytree(lock.folder or "", tmp_path / "copy/.uv-mutex")
    for target, died in ((lock, True), (LockFile(str(tmp_path / "copy")), False)):
        held = take(target)
        assert Path(target.path).read_bytes()
        held.record("uv add")
        assert held.previous_owner_died == died
        held.release()


@pytest.mark.parametrize(("text", "limit"), [("", None), ("0", 0.0), ("1.5", 1.5), (" 600 ", 600.0)])
def test_wait_budget(text: str, limit: float | None) -> None:
    assert WaitBudget.from_environment({"UV_MUTEX_TIMEOUT": text}, quiet=False).limit == limit
    assert WaitBudget.from_environment({}, quiet=True).limit is None


@pytest.mark.parametrize("text", ["abc", "-1", "nan", "inf", "1e99", "5s"])
def test_wait_budget_refuses(text: str) -> None:
    with pytest.raises(MutexError, match=f"^UV_MUTEX_TIMEOUT={text} is no number of seconds") as caught:
        WaitBudget.from_environment({"UV_MUTEX_TIMEOUT": text}, quiet=False)
    assert caught.value.status == FAILED


def test_a_file_that_may_only_be_read_is_enough() -> None:
    need.root()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        lock = LockFile(str(folder))
        take(lock).release()
        assert stat.S_IMODE(os.stat(lock.path).st_mode) == 0o644
        os.seteuid(65534)
        try:
            held = take(lock)
            held.record("uv sync")
        finally:
            os.seteuid(0)
        assert not Path(lock.path).read_bytes()
        assert is_busy(lock)
        held.release()
        assert not is_busy(lock)


@pytest.mark.parametrize("kind", ["folder", "symlink", "fifo", "file above"])
def test_what_cannot_be_locked(lock: LockFile, tmp_path: Path, kind: str) -> None:
    path = Path(lock.path)
    if kind == "file above":
        path.parent.touch()
    else:
        path.parent.mkdir()
    if kind == "folder":
        path.mkdir()
    elif kind == "symlink":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(MutexError, match=r"cannot \w+ .*/\.uv-mutex/lock: .*UV_MUTEX=off") as caught:
        take(lock)
    assert caught.value.status == FAILED
    assert str(caught.value).endswith("or set UV_MUTEX=off to run uv unlocked")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "elsewhere").exists()


def test_lost_when_the_file_server_dropped_it(lock: LockFile, monkeypatch: pytest.MonkeyPatch) -> None:
    held = take(lock)

    def flock(*_words: int) -> None:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", flock)
        assert held.lost() == "the file server dropped it (Transport endpoint is not connected)"
    held.release()


def test_lost_when_another_took_it_over(lock: LockFile) -> None:
    held = take(lock)
    held.record("uv sync")
    assert held.lost() is None
    Path(lock.path).write_bytes(LockOwner(1, "node-3", 5.0, "uv add").encode())
    assert held.lost() == "another call took it over"
    held.release()
    assert Path(lock.path).read_bytes(), "another's record was wiped"


@pytest.mark.parametrize(
    ("environment", "keeps_lockfile", "expected"),
    [
        ("project/.venv", False, ["project/.uv-mutex/lock"]),
        ("project/.venv", True, ["project/.uv-mutex/lock"]),
        ("other/env", False, ["project/.uv-mutex/lock", "other/.uv-mutex/env.lock"]),
        ("other/env", True, ["other/.uv-mutex/env.lock"]),
        ("other/.venv", True, ["other/.uv-mutex/lock"]),
        ("other/deep/er/env", True, ["other/deep/er/.uv-mutex/env.lock"]),
    ],
)
def test_places(tmp_path: Path, environment: str, keeps_lockfile: bool, expected: list[str]) -> None:
    for name in ("project", "other"):
        (tmp_path / name).mkdir()
    root = str(tmp_path / "project")
    project = Project(root, root, root, str(tmp_path / environment))
    found = project_locks(project, keeps_lockfile=keeps_lockfile)
    assert [lock.path for lock in found] == [str(tmp_path / item) for item in expected]


class _AlarmWhileRestoring:
    """The module _signal, but the alarm goes off once more while its handler is being taken away."""

    def __getattr__(self, name: str) -> object:
        return getattr(signal, name)

    def signal(self, number: int, handler: object) -> object:
        if (number, handler) == (signal.SIGURG, signal.SIG_DFL):
            signal.pthread_kill(threading.get_ident(), number)
        return signal.signal(number, handler)  # type: ignore[arg-type]


def test_an_alarm_after_the_wait_does_no_harm(lock: LockFile, monkeypatch: pytest.MonkeyPatch) -> None:
    held = take(lock)
    monkeypatch.setattr(wait, "signal", _AlarmWhileRestoring())
    assert is_busy(lock)
    held.release()
