"""Take one lock: choose its kind, wait for it, and make sure that it is the one that the others take."""

import os
import time

from uv_mutex.errors import MutexError
from uv_mutex.locking import filesystem, network_cache
from uv_mutex.locking.flock import MISSING_ERRORS, HeldLock, try_flock
from uv_mutex.locking.lock_file import FLOCK, GONE_ERRORS, LEASE, PAUSE_SECONDS, LockFile, LockTarget
from uv_mutex.locking.turnstile import Turnstile
from uv_mutex.locking.wait import Wait, WaitBudget

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def take(target: LockTarget, budget: WaitBudget, *, shared: bool = False) -> HeldLock:
    """Take a lock, and wait for it if another call holds it.

    :param target: what to lock.
    :param budget: how long to wait, and whether to be quiet.
    :param shared: as one of many, only to keep others from changing anything.
    :raises MutexError: if it can't be taken, or the time to wait is over.
    """
    while True:
        lock = take_opened(target, target.open(), budget, shared=shared)
        if lock is not None:
            return lock


def take_opened(target: LockTarget, fd: int, budget: WaitBudget, *, shared: bool) -> HeldLock | None:
    """Take a lock whose file is open already, and wait for it if another call holds it.

    :param target: what to lock.
    :param fd: its descriptor, which is closed if that fails.
    :param budget: how long to wait, and whether to be quiet.
    :param shared: as one of many.
    :returns: None if others take another file by now: open it anew.
    :raises MutexError: if it can't be taken, or the time to wait is over.
    """
    waited = budget.waited
    recorded = target.recorded_backend()
    try:
        if budget.backend and recorded and budget.backend != recorded:
            os.close(fd)
            raise _mixed(target, f"UV_MUTEX_BACKEND={budget.backend}", recorded)
        lock = _wait_for(fd, target, budget, budget.backend or recorded, shared=shared)
        try:
            if _is_agreed(lock, recorded) and _is_current(fd, target):
                network_cache.outlast(target, fd, shared=shared, waited=budget.waited > waited)
                return lock
        except BaseException:
            lock.release()
            raise
        # `git clean -fdx` removed the folder while we waited, or another kind of lock came first.
        lock.release()
    except OSError as error:
        if error.errno not in GONE_ERRORS:
            raise target.cannot("lock", error) from None
        time.sleep(PAUSE_SECONDS)  # another call removed the file or its folder
    return None


def _wait_for(fd: int, target: LockTarget, budget: WaitBudget, wanted: str | None, *, shared: bool) -> HeldLock:
    """Wait for the lock on a descriptor, which is closed if that fails.

    :param wanted: the kind of lock; None for flock, and for the lease where there is no flock.
    """
    try:
        if wanted != LEASE:
            lock = _wait_for_flock(fd, target, budget, shared=shared)
            if lock is not None:
                return lock
        if wanted == FLOCK:
            raise _mixed(target, "this host, which has no flock there,", FLOCK)
        from uv_mutex.locking import lease

        return lease.take(target, fd, budget, shared=shared)
    except BaseException:
        os.close(fd)
        raise


def _wait_for_flock(fd: int, target: LockTarget, budget: WaitBudget, *, shared: bool) -> HeldLock | None:
    """Wait for the flock; None if the file system has none."""
    try:
        with Turnstile(target, shared=shared) as turnstile:
            if not (turnstile.is_free() and try_flock(fd, shared=shared)):
                with Wait(target, budget) as wait:
                    turnstile.wait(wait)
                    wait.wait_for_flock(fd, shared=shared)
    except OSError as error:
        if error.errno not in MISSING_ERRORS or target.folder is None:
            raise
        return None
    return HeldLock(target, fd, shared=shared)


def _is_agreed(lock: HeldLock, recorded: str | None) -> bool:
    """Whether this is the kind of lock that all hosts use. The first call that takes a lock decides for all."""
    return (recorded or lock.target.record_backend(lock.backend)) == lock.backend


def _is_current(fd: int, target: LockTarget) -> bool:
    """Whether the locked file is still the one that others find."""
    try:
        there, mine = os.stat(target.path), os.fstat(fd)
    except OSError as error:
        if error.errno in GONE_ERRORS:
            return False
        raise
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


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
