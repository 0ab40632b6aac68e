"""The lock where the file system has no flock: a file whose holder renews it, filelock's SoftFileLease.

A lease that nobody renewed for LEASE_SECONDS, by the waiter's own clock, is taken over. Its former holder, if it wakes
up again, must not go on writing: see :meth:`Lease.lost`.
"""

import os
import signal
import time

from uv_mutex.locking.acquire import Lock, Patience
from uv_mutex.locking.lock_file import LEASE, Place, file_mode
from uv_mutex.messages import calls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from filelock import SoftFileLease

    _Seen = tuple[int, int, int]

#: Every host must agree on it, since it is how long a dead holder on another host keeps the rest waiting.
LEASE_SECONDS = 30.0
HEARTBEAT_SECONDS = 5.0
_MARGIN_SECONDS = 1.0


class Lease(Lock):
    """A lease that this process holds and renews, from a thread, until :meth:`release`."""

    backend = LEASE
    __slots__ = ("_last_seen", "_lease", "_marker", "_missed")

    def __init__(self, place: Place, fd: int, lease: "SoftFileLease", found: "_Seen", since: float) -> None:
        super().__init__(place, fd, shared=False)
        self._lease = lease
        self._marker = found[:2]
        self._last_seen = since  # before it was taken: what slept since then may have slept too long
        self._missed = False

    def release(self, *, unfinished: bool = False) -> None:
        super().release(unfinished=unfinished)
        try:
            self._lease.release()
        except OSError:  # this host was cut off; the lease ends by itself
            pass

    def lost(self) -> str | None:
        """Why others may be inside by now, None if they can't be."""
        now = time.monotonic()
        idle = now - self._last_seen
        if idle > LEASE_SECONDS - HEARTBEAT_SECONDS:
            return calls.not_renewed(idle)
        if self._lease.compromise:
            return calls.lease_gone(self._lease.compromise.reason)
        try:
            same = _see(marker(self.place))[:2] == self._marker
        except FileNotFoundError:
            same = False
        except OSError:
            return None  # the file server may come back in time
        if same:
            self._last_seen, self._missed = now, False
            return None
        if self._missed:
            return calls.TAKEN_OVER
        self._missed = True  # a waiter that checks for a stale lease moves it aside for a moment
        return None


class Glance(Lock):
    """What a shared lock is here: nobody held the lease a moment ago. Nothing is held."""

    backend = LEASE
    __slots__ = ()

    def lost(self) -> str | None:
        return None


def marker(place: Place) -> str:
    """The file whose existence is the lease."""
    return f"{place.path}.lease"


def take(place: Place, fd: int, patience: Patience, *, shared: bool) -> Lock:
    """Take a lease, waiting for it if need be.

    :param place: the lock.
    :param fd: the lock's file, for the record of who holds it; the lease owns it from here on.
    :param patience: how long to wait, and what to say meanwhile.
    :param shared: only wait until nobody holds it. A lease can't be shared, and whoever asks for that is about to hand
        over to uv anyway.
    :raises MutexError: if patience ran out.
    :raises OSError: if the marker can't be written.
    """
    path = marker(place)
    if shared and not os.path.exists(path):
        return Glance(place, fd, shared=True)
    from filelock import SoftFileLease

    lease = SoftFileLease(
        path,
        lease_duration=LEASE_SECONDS,
        heartbeat_interval=HEARTBEAT_SECONDS,
        thread_local=False,
        mode=file_mode(place),
    )
    vigil = _Vigil(path)

    since = time.monotonic()

    def attempt() -> bool:
        nonlocal since
        since = time.monotonic()
        # Those who want it shared all go on at once, when whoever held it is done.
        return (shared and not os.path.exists(path)) or _try(lease) or (vigil.clear() and _try(lease))

    if not attempt():
        with patience.waiting(place) as wait:
            wait.polling(attempt)
    if shared:
        lease.release()
        return Glance(place, fd, shared=True)
    return Lease(place, fd, lease, _see(path), since)


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


class _Vigil:
    """Watches a marker, and takes it away once its holder is dead.

    filelock does that too, but by exchanging two names in one step, which GlusterFS, NFS and SMB refuse; and it leaves
    an empty marker alone, whose holder was killed before the first word. Here the marker is renamed, which one waiter
    alone may do: the one that made the claim. A claim whose owner died is followed by the next, a lease later.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen: _Seen | None = None
        self._since = 0.0
        self._claims = 0

    def clear(self) -> bool:
        """Whether the marker was dead and is gone."""
        try:
            seen = _see(self._path)
        except OSError:
            self._seen = None
            return False
        now = time.monotonic()
        if seen != self._seen:
            self._seen, self._since, self._claims = seen, now, 0
        # filelock first, where it can.
        if now - self._since < LEASE_SECONDS + _MARGIN_SECONDS:
            return False
        self._since = now
        self._claims += 1
        try:
            return self._remove(seen)
        except OSError:
            return False

    def _remove(self, dead: "_Seen") -> bool:
        claim = f"{self._path}.dead.{dead[1]:x}.{dead[2]:x}.{self._claims}"
        aside = f"{claim}.{os.uname().nodename}.{os.getpid()}"
        os.close(os.open(claim, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
        try:
            if _see(self._path) != dead:
                return False
            os.rename(self._path, aside)
            try:
                if _see(aside) == dead:
                    return True
                # Its holder woke up at this very moment, or another's marker is there. If somebody else was quicker
                # than this link, that holder sees it is lost.
                os.link(aside, self._path)
                return False
            finally:
                os.unlink(aside)
        finally:
            os.unlink(claim)


def _see(path: str) -> "_Seen":
    """What the file server says of a file. It is asked at open; stat may tell what this host remembers."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        answer = os.fstat(fd)
    finally:
        os.close(fd)
    return answer.st_dev, answer.st_ino, answer.st_mtime_ns
