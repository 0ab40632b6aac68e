"""The lock where the file system has no flock: a file that its owner renews, filelock's SoftFileLease.

A waiter takes a lease over when nobody renewed it for LEASE_SECONDS, by the waiter's own clock. The former owner must
not go on writing if it wakes up again: see :meth:`HeldLease.lost`.
"""

import os
import signal
import time

from uv_mutex import files
from uv_mutex.locking.flock import TAKEN_OVER, HeldLock
from uv_mutex.locking.lock_file import LEASE, LockTarget
from uv_mutex.locking.wait import Wait, WaitBudget

TYPE_CHECKING = False
if TYPE_CHECKING:
    from filelock import SoftFileLease

    _FileId = tuple[int, int, int]

#: How long a dead owner keeps the others waiting. All hosts must agree on it.
LEASE_SECONDS = 30.0
HEARTBEAT_SECONDS = 5.0
_MARGIN_SECONDS = 1.0


class HeldLease(HeldLock):
    """A lease that this process holds and renews, from a thread, until :meth:`release`."""

    backend = LEASE
    __slots__ = ("_last_seen", "_lease", "_marker_id", "_missed")

    def __init__(self, target: LockTarget, fd: int, lease: "SoftFileLease", found: "_FileId", since: float) -> None:
        super().__init__(target, fd, shared=False)
        self._lease = lease
        self._marker_id = found[:2]
        self._last_seen = since  # the time before it was taken: the process may have slept since then
        self._missed = False

    def release(self, *, unfinished: bool = False) -> None:
        super().release(unfinished=unfinished)
        try:
            self._lease.release()
        except OSError:  # this host was cut off; the lease ends by itself
            pass

    def lost(self) -> str | None:
        """Why another call may hold the lease by now; None if none can."""
        now = time.monotonic()
        idle = now - self._last_seen
        if idle > LEASE_SECONDS - HEARTBEAT_SECONDS:
            return f"it was not renewed for {idle:.0f} s"
        if self._lease.compromise:
            return f"its lease is gone ({self._lease.compromise.reason})"
        try:
            same = _file_id(marker(self.target))[:2] == self._marker_id
        except FileNotFoundError:
            same = False
        except OSError:
            return None  # the file server may come back in time
        if same:
            self._last_seen, self._missed = now, False
            return None
        if self._missed:
            return TAKEN_OVER
        self._missed = True  # a waiter that looks for a dead lease renames it for a moment
        return None


class SharedLease(HeldLock):
    """A shared lock: nobody held the lease a moment ago. It holds nothing."""

    backend = LEASE
    __slots__ = ()

    def lost(self) -> str | None:
        return None


def marker(target: LockTarget) -> str:
    """The file whose existence is the lease."""
    return f"{target.path}.lease"


def take(target: LockTarget, fd: int, budget: WaitBudget, *, shared: bool) -> HeldLock:
    """Take a lease, and wait for it if another call holds it.

    :param target: the lock.
    :param fd: the lock file, in which the owner is written down; the lease closes it in the end.
    :param budget: how long to wait, and whether to be quiet.
    :param shared: only wait until nobody holds it. A lease can't be shared, and a call that asks for a shared lock is
        about to hand over to uv anyway.
    :raises MutexError: if the time to wait is over.
    :raises OSError: if the marker can't be written.
    """
    path = marker(target)
    if shared and not os.path.exists(path):
        return SharedLease(target, fd, shared=True)
    from filelock import SoftFileLease

    lease = SoftFileLease(
        path,
        lease_duration=LEASE_SECONDS,
        heartbeat_interval=HEARTBEAT_SECONDS,
        thread_local=False,
        mode=target.file_mode(),
    )
    watcher = _DeadLeaseWatcher(path)

    since = time.monotonic()

    def attempt() -> bool:
        nonlocal since
        since = time.monotonic()
        # All that want it shared go on at once when its owner is done.
        return (shared and not os.path.exists(path)) or _try(lease) or (watcher.clear() and _try(lease))

    if not attempt():
        with Wait(target, budget) as wait:
            wait.poll(attempt)
    if shared:
        lease.release()
        return SharedLease(target, fd, shared=True)
    return HeldLease(target, fd, lease, _file_id(path), since)


def _try(lease: "SoftFileLease") -> bool:
    from filelock import Timeout

    # The thread that renews the lease starts here and keeps this mask: signals are for the main thread.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        lease.acquire(blocking=False)
    except Timeout:
        return False
    except PermissionError:
        # filelock lets nobody but its owner write a marker, so another user's reads as forbidden while it is held.
        if os.path.exists(lease.lock_file):
            return False
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return True


class _DeadLeaseWatcher:
    """Watches a marker, and removes it when its owner is dead.

    filelock does that too, but by exchanging two names in one step, which GlusterFS, NFS and SMB refuse; and it keeps
    an empty marker, whose owner was killed before it wrote the first byte. Here the marker is renamed, and only the
    waiter that created the claim may do that. If that waiter dies, the next claim follows LEASE_SECONDS later.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen: _FileId | None = None
        self._since = 0.0
        self._claims = 0

    def clear(self) -> bool:
        """Remove the marker if its owner is dead; return whether it is gone."""
        try:
            seen = _file_id(self._path)
        except OSError:
            self._seen = None
            return False
        now = time.monotonic()
        if seen != self._seen:
            self._seen, self._since, self._claims = seen, now, 0
        # filelock has the first try, where it can.
        if now - self._since < LEASE_SECONDS + _MARGIN_SECONDS:
            return False
        self._since = now
        self._claims += 1
        try:
            return self._remove(seen)
        except OSError:
            return False

    def _remove(self, dead: "_FileId") -> bool:
        claim = f"{self._path}.dead.{dead[1]:x}.{dead[2]:x}.{self._claims}"
        aside = f"{claim}.{os.uname().nodename}.{os.getpid()}"
        os.close(os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
        try:
            if _file_id(self._path) != dead:
                return False
            os.rename(self._path, aside)
            try:
                if _file_id(aside) == dead:
                    return True
                # Its owner woke up at this very moment, or this is the marker of another owner. If a third was quicker
                # than this link, that owner sees that it lost the lease.
                os.link(aside, self._path)
                return False
            finally:
                os.unlink(aside)
        finally:
            os.unlink(claim)


def _file_id(path: str) -> "_FileId":
    answer = files.stat_on_server(path)
    return answer.st_dev, answer.st_ino, answer.st_mtime_ns
