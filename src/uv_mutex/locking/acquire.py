"""Take one lock: choose its kind, wait for it, and make sure that it is the one that the others take."""

import errno
import os
import time

from uv_mutex.errors import MutexError, NoLockError, go_on
from uv_mutex.locking import filesystem, network_cache, process
from uv_mutex.locking.flock import MISSING_ERRORS, HeldLock, try_flock
from uv_mutex.locking.lock_file import (
    FLOCK,
    GONE_ERRORS,
    LEASE,
    PAUSE_SECONDS,
    UNWRITABLE_ERRORS,
    LockFile,
    LockTarget,
)
from uv_mutex.locking.turnstile import Turnstile

#: Errors of a lock that nobody can hold, since nobody can take it or create its files.
_NOTHING_ERRORS = (*MISSING_ERRORS, *UNWRITABLE_ERRORS, errno.EBADF)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from uv_mutex.locking.wait_budget import WaitBudget


def take(target: LockTarget, budget: "WaitBudget", *, shared: bool = False) -> HeldLock:
    """Take a lock, and wait for it if another call holds it.

    :param target: what to lock.
    :param budget: how long to wait, and whether to be quiet.
    :param shared: as one of many, only to keep others from changing anything.
    :raises NoLockError: if there is nothing that could be locked.
    :raises MutexError: if it can't be taken, or the time to wait is over.
    """
    while True:
        lock = take_opened(target, target.open(), budget, shared=shared)
        if lock is not None:
            return lock


def take_opened(target: LockTarget, fd: int, budget: "WaitBudget", *, shared: bool) -> HeldLock | None:
    """Take a lock whose file is open already, and wait for it if another call holds it.

    :param target: what to lock.
    :param fd: its descriptor, which is closed if that fails.
    :param budget: how long to wait, and whether to be quiet.
    :param shared: as one of many.
    :returns: None if others take another file by now: open it anew.
    :raises NoLockError: if there is nothing that could be locked.
    :raises MutexError: if it can't be taken, or the time to wait is over.
    """
    waited = budget.waited
    try:
        recorded = _agreed_backend(fd, target, budget)
        lock = _wait_for(fd, target, budget, recorded, shared=shared)
        try:
            if _is_agreed(lock, recorded) and target.is_current(fd):
                _say_how_far(target)
                network_cache.outlast(target, fd, shared=shared, waited=budget.waited > waited)
                return lock
        except BaseException:
            lock.release()
            raise
        # `git clean -fdx` removed the folder while we waited, or another kind of lock came first.
        lock.release()
    except OSError as error:
        if error.errno in _NOTHING_ERRORS:
            raise target.nothing_to_lock(error) from None
        if error.errno not in GONE_ERRORS:
            raise target.cannot("lock", error) from None
        time.sleep(PAUSE_SECONDS)  # another call removed the file or its folder
    return None


def _agreed_backend(fd: int, target: LockTarget, budget: "WaitBudget") -> str | None:
    """The kind of lock that was written down, if the user asks for no other; the descriptor is closed if they do."""
    recorded = target.recorded_backend()
    if not budget.backend or not recorded or budget.backend == recorded:
        return recorded
    os.close(fd)
    if target.folder is None:
        raise NoLockError(f"cannot lock {target.path} by {budget.backend}: no file can be created; make that possible")
    raise _mixed(target, f"UV_MUTEX_BACKEND={budget.backend}", recorded)


def _wait_for(fd: int, target: LockTarget, budget: "WaitBudget", recorded: str | None, *, shared: bool) -> HeldLock:
    """Wait for the lock on a descriptor, which is closed if that fails.

    :param recorded: the kind of lock that was written down; None for flock, and for the lease where there is no flock
        or where, by the mount table, it excludes on this host alone. A folder can have no lease.
    """
    wanted = budget.backend or recorded
    kept = None
    try:
        if budget.backend is None and recorded != LEASE and target.folder is not None:
            kept = filesystem.keeping_flock(target.path)
        if wanted != LEASE and kept is None:
            lock = _wait_for_flock(fd, target, budget, shared=shared)
            if lock is not None:
                return lock
        if wanted == FLOCK:
            what = f"whose flock on {kept.name} reaches no other" if kept else "which has no flock there"
            raise _mixed(target, f"this host, {what},", FLOCK)
        from uv_mutex.locking import lease

        return lease.take(target, fd, budget, shared=shared)
    except BaseException:
        os.close(fd)
        raise


def _wait_for_flock(
    fd: int, target: LockTarget, budget: "WaitBudget", *, shared: bool, alone_failed: bool = False
) -> HeldLock | None:
    """Wait for the flock; None if the file system has none."""
    try:
        with Turnstile(target, shared=shared) as turnstile:
            if not (turnstile.is_free() and try_flock(fd, shared=shared)):
                if target.folder is None and process.may_hold_flock(fd):
                    raise NoLockError(
                        f"cannot lock {target.path}: it seems that a process above this call holds it; "
                        "use uv-mutex exec instead of flock"
                    )
                if shared and budget.before_wait:
                    budget.before_wait(target)
                from uv_mutex.locking.wait import Wait  # its imports, signal and threading, take 4 ms

                with Wait(target, budget) as wait:
                    turnstile.wait(wait)
                    wait.wait_for_flock(target, fd, shared=shared)
    except OSError as error:
        if error.errno == errno.EBADF and not alone_failed:
            return _flock_of_reader(fd, target, budget, shared=shared)
        if error.errno not in MISSING_ERRORS or target.folder is None:
            raise
        return None
    return HeldLock(target, fd, shared=shared)


def _flock_of_reader(fd: int, target: LockTarget, budget: "WaitBudget", *, shared: bool) -> HeldLock | None:
    """Wait for the shared flock of a file that may only be read. NFS locks it for one alone where it may be written.

    :raises OSError: if there is no such flock either.
    """
    lock = _wait_for_flock(fd, target, budget, shared=True, alone_failed=True)
    if lock and not shared:
        go_on(
            f"cannot lock {target.path} alone: it may only be read, and NFS wants more; give yourself write access",
            how="beside others who may only read it",
        )
    return lock


def _say_how_far(target: LockTarget) -> None:
    """Say that a folder was locked whose lock keeps no other host out; with UV_MUTEX=require, give up instead."""
    mount = None if target.folder else filesystem.find(target.path)
    if mount and not mount.locks_folders:
        go_on(
            f"cannot lock {target.path} on other hosts: no lock file can be created, and {mount.kind} keeps the lock "
            "of a folder on this host; give yourself write access there",
            how="under a lock of this host alone",
        )


def _is_agreed(lock: HeldLock, recorded: str | None) -> bool:
    """Whether this is the kind of lock that all hosts use. The first call that takes a lock decides for all."""
    return (recorded or lock.target.record_backend(lock.backend)) == lock.backend


def _mixed(target: LockTarget, who: str, recorded: str) -> MutexError:
    """The error to raise if ``who`` would take another kind of lock than the one that is written down."""
    file = target.backend_file if isinstance(target, LockFile) else target.path
    return MutexError(
        f"{who} can't lock {target.path}: the project is locked by {recorded} on other hosts or before; "
        f"set UV_MUTEX_BACKEND=lease on all of them while none runs, and remove {file}"
    )


def lost_lock_check(locks: "Sequence[HeldLock]") -> "Callable[[], str | None] | None":
    """A function that says why one of these locks is lost; to be called again and again while a child runs.

    :returns: None if none of them can be lost.
    """
    fragile = [lock for lock in locks if lock.backend == LEASE or not filesystem.is_local(lock.target.path)]
    if not fragile:
        return None

    def lost() -> str | None:
        for lock in fragile:
            reason = lock.lost()
            if reason:
                return f"lost the lock {lock.target.path}: {reason}"
        return None

    return lost
