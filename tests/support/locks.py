"""Locks that a test of this process takes."""

from __future__ import annotations

from uv_mutex.errors import TIMED_OUT, MutexError
from uv_mutex.locking import acquire
from uv_mutex.locking.flock import HeldLock
from uv_mutex.locking.lock_file import LockFile
from uv_mutex.locking.wait_budget import WaitBudget


def take(lock: LockFile, *, shared: bool = False, limit: float | None = 20, backend: str | None = None) -> HeldLock:
    """Take a lock.

    :param limit: how many seconds to wait; None for ever.
    :param backend: flock or lease; None for the one that fits.
    """
    return acquire.take(lock, WaitBudget(limit, quiet=True, backend=backend), shared=shared)


def is_busy(lock: LockFile, *, shared: bool = False, backend: str | None = None) -> bool:
    """Whether a lock can't be taken now."""
    try:
        take(lock, shared=shared, limit=0, backend=backend).release()
    except MutexError as error:
        if error.status != TIMED_OUT:
            raise
        return True
    return False
