"""The level of a lock that a call takes: one deeper than the deepest that a call above it holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from uv_mutex.locking import acquire, lease, levels, process
from uv_mutex.locking.flock import HeldLock
from uv_mutex.locking.lock_file import EnvironmentFolder, LockFile, LockTarget
from uv_mutex.locking.nesting import HELD, CallsAbove
from uv_mutex.locking.owner import LockOwner
from uv_mutex.locking.process import Process
from uv_mutex.locking.wait_budget import WaitBudget

#: A process of another PID namespace, which /proc does not show; and one that has died.
_UNSEEN = Process(process.boot_id(), "1", 77, "5")
_DEAD = Process(process.boot_id(), process.pid_namespace(), os.getpid(), "1")


@pytest.fixture
def lock(tmp_path: Path) -> LockFile:
    """The lock of a project that was never locked."""
    return LockFile(str(tmp_path))


def _parent() -> Process:
    return process.ancestors()[1]


def _take(target: LockTarget, holder: Process | None, *, shared: bool = False) -> HeldLock:
    """Take a lock as if another process did, which has written itself down; None for one that could not."""
    held = acquire.take(target, WaitBudget(20, quiet=True), shared=shared)
    if holder:
        Path(target.path).write_bytes(_owner(holder).encode())
    return held


def _owner(holder: Process) -> LockOwner:
    return LockOwner(holder.pid, "host", 5.0, "uv sync", 0, process=holder)


def _mark(target: LockTarget, holder: Process) -> str:
    status = os.stat(target.path)
    return f"{status.st_dev}:{status.st_ino}:{_owner(holder).token}"


def _level(target: LockTarget, *marks: str) -> int:
    fd = target.open()
    try:
        return levels.find(target, fd, CallsAbove({HELD: " ".join(marks)} if marks else {}))
    finally:
        os.close(fd)


def test_nobody_holds_it(lock: LockFile) -> None:
    assert _level(lock) == 0


def test_below_an_ancestor_that_wrote_itself_down(lock: LockFile) -> None:
    held = _take(lock, _parent())
    assert _level(lock) == 1, "a build hook may clean the environment"
    held.release()
    assert _level(lock) == 0, "what it left behind after its release counts for nothing"


def test_not_below_this_very_process(lock: LockFile) -> None:
    held = _take(lock, process.this_process())
    assert _level(lock) == 0
    held.release()


@pytest.mark.parametrize("holder", [_DEAD, None])
def test_a_daemon_that_outlived_its_holder(lock: LockFile, holder: Process | None) -> None:
    """It still carries the mark, and another call holds the lock; as one of many, that call leaves no record."""
    held = _take(lock, holder, shared=holder is None)
    assert _level(lock, _mark(lock, _DEAD)) == 0
    held.release()


def test_an_unseen_holder_is_known_by_its_mark(lock: LockFile) -> None:
    held = _take(lock, _UNSEEN)
    assert _level(lock) == 0
    assert _level(lock, _mark(lock, _UNSEEN)) == 1
    other = Process(process.boot_id(), "1", 78, "5")
    assert _level(lock, _mark(lock, other)) == 0, "another holds it by now"
    held.release()
    assert _level(lock, _mark(lock, _UNSEEN)) == 0, "it is free"


def test_a_holder_on_another_host(lock: LockFile) -> None:
    """Which numbers the device of a network file system in its own way."""
    far = Process("another-boot", "1", 77, "5")
    held = _take(lock, far)
    assert _level(lock, f"1:2:{_owner(far).token}") == 1
    assert _level(lock, f"1:2:{_owner(_UNSEEN).token}") == 0
    held.release()


def test_a_holder_of_an_earlier_version(lock: LockFile) -> None:
    """It wrote down, and left in the environment, only its host and process id."""
    held = _take(lock, None)
    Path(lock.path).write_bytes(b"4121 5.5 node-3 uv sync\t0\n")
    status = os.stat(lock.path)
    assert _level(lock, f"{status.st_dev}:{status.st_ino}:node-3/4121/5.5") == 1
    assert _level(lock, f"{status.st_dev}:{status.st_ino}:node-3/4121/6.5") == 0
    held.release()


def test_where_proc_hides_who_is_above(lock: LockFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """With hidepid, the processes of other users can't be seen."""
    parent, chain = _parent(), process.ancestors()
    monkeypatch.setattr(process, "ancestors", lambda: chain[:1])
    held = _take(lock, parent)
    assert _level(lock) == 0
    assert _level(lock, _mark(lock, parent)) == 1
    held.release()


def test_any_valid_mark_counts(lock: LockFile) -> None:
    held = _take(lock, _UNSEEN)
    stale, valid = _mark(lock, _DEAD), _mark(lock, _UNSEEN)
    assert _level(lock, stale, valid) == _level(lock, valid, stale) == _level(lock, "x", "", valid) == 1
    held.release()


@pytest.mark.parametrize("shared", [False, True])
def test_a_holder_without_a_record_is_known_by_its_mark(lock: LockFile, shared: bool) -> None:
    held = _take(lock, None, shared=shared)
    assert _level(lock) == 0
    assert _level(lock, _mark(lock, _parent())) == _level(lock, _mark(lock, _UNSEEN)) == 1
    held.release()


def test_a_dead_owner_that_can_not_be_written_over(lock: LockFile) -> None:
    """The lock file is another user's: the mark of an ancestor counts, whatever the record says."""
    held = _take(lock, _DEAD)
    assert _level(lock, _mark(lock, _parent())) == 1
    held.release()


@pytest.mark.parametrize("token", ["", "x", "a/b/c/d", "host/4121/5.0", "/////"])
def test_a_token_that_names_no_process_counts_for_nothing(lock: LockFile, token: str) -> None:
    for shared in (False, True):
        held = _take(lock, None, shared=shared)
        assert _level(lock, f"{os.stat(lock.path).st_dev}:{os.stat(lock.path).st_ino}:{token}") == 0
        held.release()


@pytest.mark.parametrize("mark", [":", "1", "a:b:c", "::", "  "])
def test_garbage_counts_for_nothing(lock: LockFile, mark: str) -> None:
    held = _take(lock, None)
    assert _level(lock, mark) == 0
    held.release()


def test_not_for_another_lock(lock: LockFile, tmp_path: Path) -> None:
    other = LockFile(str(tmp_path), "other")
    first, second = _take(lock, None), _take(other, None)
    assert _level(other, _mark(lock, _parent())) == 0
    first.release()
    second.release()


def test_below_the_deepest_level(lock: LockFile) -> None:
    first, second = _take(lock, _parent()), _take(lock.beside("1"), _parent())
    assert _level(lock) == 2
    first.release()
    Path(lock.path).write_bytes(_owner(_DEAD).encode())
    assert _level(lock) == 2, "the outermost died, and a call above this one goes on"
    second.release()
    assert _level(lock) == 0


def test_an_environments_folder_is_known_by_its_mark(tmp_path: Path) -> None:
    folder = EnvironmentFolder(str(tmp_path))
    held = _take(folder, None)
    held.record("uv sync")
    assert _level(folder) == 0
    assert _level(folder, held.mark) == 0, "it is this process's own"
    assert _level(folder, _mark(folder, _parent())) == 1
    assert levels.level(folder, 1).path == f"{tmp_path}/.uv-mutex/lock.1"
    held.release()
    assert _level(folder, _mark(folder, _parent())) == 0


def test_below_a_lease(lock: LockFile) -> None:
    held = acquire.take(lock, WaitBudget(20, quiet=True, backend="lease"))
    Path(lock.path).write_bytes(_owner(_parent()).encode())
    assert Path(lease.marker(lock)).exists()
    assert _level(lock) == 1
    held.release()
    assert _level(lock) == 0


def test_settled(lock: LockFile) -> None:
    """A level that was never taken is settled; one that is held, or whose owner died, is not."""
    assert levels.is_settled(lock, 0)
    held = acquire.take(lock.beside("1"), WaitBudget(20, quiet=True))
    assert not levels.is_settled(lock, 0)
    assert levels.is_settled(lock, 1)
    held.record("uv add")
    held.release(unfinished=True)
    assert not levels.is_settled(lock, 0)
    held = acquire.take(lock.beside("1"), WaitBudget(20, quiet=True))
    held.record("uv add")
    held.release()
    assert levels.is_settled(lock, 0)
    held = acquire.take(lock.beside("2"), WaitBudget(20, quiet=True))
    assert not levels.is_settled(lock, 0)
    held.release()
