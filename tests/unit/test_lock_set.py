"""All locks of a call: one file counts once, and all calls take them in one order."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from support import need

from uv_mutex.errors import TIMED_OUT, MutexError
from uv_mutex.locking import acquire, lock_set, process
from uv_mutex.locking.flock import HeldLock
from uv_mutex.locking.lock_file import EnvironmentFolder, LockFile, LockTarget
from uv_mutex.locking.owner import LockOwner, read_owner
from uv_mutex.locking.wait_budget import WaitBudget


@pytest.fixture
def lock(tmp_path: Path) -> LockFile:
    """The lock of a project that was never locked."""
    return LockFile(str(tmp_path))


def _take(*targets: LockTarget, shared: bool = False, limit: float = 20) -> list[HeldLock]:
    return lock_set.take(targets, WaitBudget(limit, quiet=True, command="uv sync"), {}, shared=shared)


def _one(target: LockTarget, *, limit: float = 20) -> HeldLock:
    return acquire.take(target, WaitBudget(limit, quiet=True))


def _die(target: LockTarget, began: float) -> None:
    """As if an owner had died that had taken the lock at a time."""
    held = _one(target)
    held.record("uv add")
    held.release(unfinished=True)
    os.utime(target.path, (began, began))


@pytest.fixture
def other_name(tmp_path: Path) -> LockFile:
    """The same lock by way of a symlink to the project."""
    (tmp_path / "link").symlink_to(tmp_path)
    return LockFile(f"{tmp_path}/link")


def test_two_names_of_a_file_count_once(lock: LockFile, other_name: LockFile) -> None:
    (held,) = _take(lock, other_name)
    held.release()


def test_control_two_names_of_a_file(lock: LockFile, other_name: LockFile) -> None:
    """One by one, the call waits for itself."""
    held = _one(lock)
    with pytest.raises(MutexError) as caught:
        _one(other_name, limit=0)
    assert caught.value.status == TIMED_OUT
    held.release()


def test_two_names_of_an_environments_folder(tmp_path: Path) -> None:
    (tmp_path / "env").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "env")
    names = [EnvironmentFolder(f"{tmp_path}/{name}") for name in ("env", "link")]
    (held,) = _take(*names)
    held.release()


def test_the_order_does_not_depend_on_the_caller(tmp_path: Path) -> None:
    targets: list[LockTarget] = [LockFile(str(tmp_path), f"{number}.lock") for number in range(4)]
    targets.append(EnvironmentFolder(str(tmp_path)))
    orders = []
    for names in (targets, targets[::-1], [*targets[2:], *targets[:2]]):
        held = _take(*names)
        orders.append([lock.target.path for lock in held])
        lock_set.release(held)
    assert orders[0] == orders[1] == orders[2]
    assert orders[0] == sorted(orders[0], key=lambda path: os.stat(path).st_ino)


def test_owners_are_written_down_in_each(lock: LockFile, tmp_path: Path) -> None:
    other = LockFile(str(tmp_path), "other")
    held = _take(lock, other)
    owners = [read_owner(target.path) for target in (lock, other)]
    assert [owner and (owner.process, owner.command) for owner in owners] == [(process.this_process(), "uv sync")] * 2
    lock_set.release(held)
    assert not any(read_owner(target.path) for target in (lock, other))


def test_what_cannot_be_taken_leaves_no_lock_and_no_trace(lock: LockFile, tmp_path: Path) -> None:
    """And what a dead owner left half done is still known, with its time."""
    other = LockFile(str(tmp_path), "other")
    _one(lock).release()
    first, second = sorted((lock, other), key=lambda target: os.fstat(target.open()).st_ino)
    for began in (None, 1000.0):
        if began:
            _die(first, began)
        blocking = _one(second)
        with pytest.raises(MutexError) as caught:
            _take(lock, other, limit=0)
        assert caught.value.status == TIMED_OUT
        blocking.release()
        held = _one(first)
        held.record("uv sync")
        assert held.previous_owner_began == began
        held.release()


each_kind = pytest.mark.parametrize("kind", ["flock", "lease"])


@each_kind
def test_waits_for_a_call_below_a_dead_owner(lock: LockFile, kind: str) -> None:
    os.close(lock.open())
    assert lock.record_backend(kind) == kind
    nested = _one(lock.beside("1"))
    nested.record("uv lock")
    with pytest.raises(MutexError) as caught:
        _take(lock, limit=0.2)
    assert caught.value.status == TIMED_OUT
    assert "waiting for uv lock (pid " in str(caught.value)
    assert f"which holds {lock.path}.1;" in str(caught.value)
    (held,) = _take(lock, shared=True)
    assert held.previous_owner_died, "nothing is fresh as long as it works"
    held.release()
    nested.release()
    for shared in (False, True):
        (held,) = _take(lock, shared=shared)
        assert not held.previous_owner_died
        held.release()


def test_what_died_at_a_deeper_level_is_half_done(lock: LockFile) -> None:
    _die(lock, 3000.0)
    _die(lock.beside("1"), 2000.0)
    _one(lock.beside("2")).release()
    (held,) = _take(lock, shared=True)
    assert held.previous_owner_died
    held.release()
    (held,) = _take(lock)
    assert held.previous_owner_began == 2000.0
    held.release()
    (held,) = _take(lock)
    assert not held.previous_owner_died
    held.release()


def _held_above(lock: LockFile) -> HeldLock:
    """As if the parent of this process held the lock."""
    held = _one(lock)
    parent = process.ancestors()[1]
    Path(lock.path).write_bytes(LockOwner(parent.pid, "host", 5.0, "uv sync", 0, process=parent).encode())
    return held


@each_kind
def test_siblings_exclude_each_other(lock: LockFile, kind: str) -> None:
    os.close(lock.open())
    assert lock.record_backend(kind) == kind
    above = _held_above(lock)
    (held,) = _take(lock)
    assert (held.target.path, held.base) == (f"{lock.path}.1", lock)
    with pytest.raises(MutexError) as caught:
        _take(lock, limit=0)
    assert f"which holds {lock.path}.1;" in str(caught.value)
    held.release()
    above.release()


def test_a_level_is_right_even_after_a_wait(lock: LockFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call above dies while this one waits for its sibling: this one takes the lock itself then."""
    above = _held_above(lock)
    real = acquire.take_opened

    def take_opened(target: LockTarget, fd: int, budget: WaitBudget, *, shared: bool) -> HeldLock | None:
        if target.path.endswith(".1"):
            above.release(unfinished=True)
        return real(target, fd, budget, shared=shared)

    monkeypatch.setattr(acquire, "take_opened", take_opened)
    (held,) = _take(lock)
    assert held.target is lock
    assert held.previous_owner_died
    held.release()


def test_a_replaced_file_begins_the_order_anew(lock: LockFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`git clean -fdx` while the call waits for its second lock."""
    other = LockFile(str(tmp_path), "other")
    real = acquire.take_opened
    taken: list[int] = []

    def take_opened(target: LockTarget, fd: int, budget: WaitBudget, *, shared: bool) -> HeldLock | None:
        taken.append(os.fstat(fd).st_ino)
        if len(taken) == 2:
            os.unlink(target.path)
        return real(target, fd, budget, shared=shared)

    monkeypatch.setattr(acquire, "take_opened", take_opened)
    held = _take(lock, other)
    assert taken[:2] == sorted(taken[:2])
    assert taken[2:] == sorted(taken[2:])
    assert len(taken) == 4
    assert {os.stat(target.path).st_ino for target in (lock, other)} == set(taken[2:])
    lock_set.release(held)


def test_where_no_level_can_be_made(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """The project is another user's: the call above keeps all others out, and a warning says what it can't do."""
    need.root()
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        lock = LockFile(folder)
        above = _held_above(lock)
        os.seteuid(65534)
        try:
            assert _take(lock) == []
            monkeypatch.setenv("UV_MUTEX", "require")
            with pytest.raises(MutexError, match=r"^cannot create .*lock\.1: Permission denied; "):
                _take(lock)
        finally:
            os.seteuid(0)
        above.release()
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"uv-mutex: warning: cannot create {lock.path}.1: Permission denied; ")
    assert line.endswith("; this call goes on beside others below the same holder")
