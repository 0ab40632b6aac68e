"""The lock where the file system has no flock: a lease, which is a file that its owner renews (see lease_marker).

A waiter takes a lease over when nobody renewed it for LEASE_SECONDS, by the waiter's own clock; no two clocks are
compared. The former owner must not go on writing if it wakes up again: see :meth:`HeldLease.lost`.
"""

import signal
import threading
import time

from uv_mutex import files
from uv_mutex.locking import lease_marker
from uv_mutex.locking.flock import TAKEN_OVER, HeldLock
from uv_mutex.locking.lock_file import LEASE, LockTarget
from uv_mutex.locking.wait import Wait
from uv_mutex.locking.wait_budget import WaitBudget

#: How long a dead owner of another host keeps the others waiting. All hosts must agree on it.
LEASE_SECONDS = 30.0
HEARTBEAT_SECONDS = 5.0
#: How often an owner looks whether it is still the owner.
LOOK_SECONDS = 1.0


class HeldLease(HeldLock):
    """A lease that this process holds and renews, from a thread, until :meth:`release`."""

    backend = LEASE
    __slots__ = ("_content", "_gone", "_missed", "_path", "_renewed", "_stop", "_thread")

    def __init__(self, target: LockTarget, fd: int, content: bytes, since: float) -> None:
        """
        :param target: the lock.
        :param fd: its descriptor.
        :param content: what this process wrote into the marker.
        :param since: the time before that, by :func:`_clock`: the process may have slept in between.
        """
        super().__init__(target, fd, shared=False)
        self._path = marker(target)
        self._content = content
        self._renewed = since
        self._missed = False
        self._gone: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        # The thread keeps this mask: signals are for the main thread.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS) and self.lost() is None:
            self._look()

    def _look(self) -> None:
        """See whether the lease is still ours, and renew it in time."""
        asked = _clock()
        try:
            sight = lease_marker.look(self._path)
            if sight is not None and sight.content == self._content:
                self._missed = False
                if asked - self._renewed >= HEARTBEAT_SECONDS:
                    lease_marker.renew(self._path)
                    self._renewed = asked
                return
        except OSError:
            return  # the file server may come back in time
        if self._missed:
            self._gone = TAKEN_OVER if sight else f"{self._path} is gone"
        self._missed = True  # once only: a waiter that looks for a dead owner moves it away for a moment

    def lost(self) -> str | None:
        """Why another call may hold the lease by now; None if none can. This asks no file server: it may not answer."""
        idle = _clock() - self._renewed
        if idle > LEASE_SECONDS - HEARTBEAT_SECONDS:
            return f"it was not renewed for {idle:.0f} s"
        return self._gone

    def release(self, *, unfinished: bool = False) -> None:
        super().release(unfinished=unfinished)
        self._stop.set()
        self._thread.join(HEARTBEAT_SECONDS)
        # Another call may be taking over what was lost. It removes the marker, and this process must not.
        if self.lost() is None:
            lease_marker.remove(self._path, self._content)


class SharedLease(HeldLock):
    """A shared lock: nobody held the lease a moment ago.

    It writes nothing, and so keeps nobody out. Whoever takes the lease alone looks for run records next, and waits for
    the runs that left them. So a shared holder first leaves its record, and then asks :meth:`still_excludes`: of the
    two, at least one sees the other.
    """

    backend = LEASE
    __slots__ = ("_changed",)

    def __init__(self, target: LockTarget, fd: int, changed: int) -> None:
        """
        :param target: the lock.
        :param fd: its descriptor.
        :param changed: what :func:`_last_change` said before nobody held the lease.
        """
        super().__init__(target, fd, shared=True)
        self._changed = changed

    def still_excludes(self) -> bool:
        # One that has come and gone meanwhile wrote itself into the lock file.
        return lease_marker.look(marker(self.target)) is None and _last_change(self.target) == self._changed

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
    :param shared: only wait until nobody holds it, see :class:`SharedLease`.
    :raises MutexError: if the time to wait is over.
    :raises OSError: if the marker can't be written or looked for.
    """
    path = marker(target)
    watcher = lease_marker.DeadOwnerWatcher(path, LEASE_SECONDS)
    content = b"" if shared else lease_marker.content(LEASE_SECONDS)
    since, changed = 0.0, 0

    def create() -> bool:
        nonlocal since
        since = _clock()
        return lease_marker.create(path, target.file_mode(), content)

    def attempt() -> bool:
        nonlocal changed
        if shared:  # all that want it shared go on at once when its owner is done
            changed = _last_change(target)
            return watcher.clear()
        return create() or (watcher.clear() and create())

    if not attempt():
        if shared and budget.before_wait:
            budget.before_wait(target)
        with Wait(target, budget) as wait:
            wait.poll(attempt)
    return SharedLease(target, fd, changed) if shared else HeldLease(target, fd, content, since)


def _last_change(target: LockTarget) -> int:
    """When an owner last wrote itself into the lock file, or took itself out, in ns by the file server's clock."""
    return files.stat_on_server(target.path).st_mtime_ns


def _clock() -> float:
    """Seconds that go on while this host is suspended, as they do for the others."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
