"""The lock where the file system has no flock: a file whose holder renews it, filelock's SoftFileLease.

A lease that nobody renewed for LEASE_SECONDS, by the waiter's own clock, is taken over. Its former holder, if it wakes
up again, must not go on writing: see :meth:`Lease.lost`.
"""

import os
import time

from uv_mutex import lock
from uv_mutex.lock import Lock, Patience, Place

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as signals

    from filelock import SoftFileLease
else:
    import _signal as signals

#: Every host must agree on it, since it is how long a dead holder on another host keeps the rest waiting.
LEASE_SECONDS = 30.0
HEARTBEAT_SECONDS = 5.0


class Lease(Lock):
    """A lease that this process holds and renews, from a thread, until :meth:`release`."""

    backend = lock.LEASE
    __slots__ = ("_last_seen", "_lease", "_marker", "_missed")

    def __init__(self, place: Place, fd: int, lease: "SoftFileLease") -> None:
        super().__init__(place, fd, shared=False)
        self._lease = lease
        self._marker = _identity(marker(place))
        self._last_seen = time.monotonic()
        self._missed = False

    def release(self) -> None:
        super().release()
        self._lease.release()

    def lost(self) -> str | None:
        """Why others may be inside by now, None if they can't be."""
        now = time.monotonic()
        idle = now - self._last_seen
        if idle > LEASE_SECONDS - HEARTBEAT_SECONDS:
            return f"it was not renewed for {idle:.0f} s"
        if self._lease.compromise:
            return f"its lease is gone ({self._lease.compromise.reason})"
        try:
            same = _identity(marker(self.place)) == self._marker
        except FileNotFoundError:
            same = False
        except OSError:
            return None  # the file server may come back in time
        if same:
            self._last_seen, self._missed = now, False
            return None
        if self._missed:
            return "another call took it over"
        self._missed = True  # a waiter that checks for a stale lease moves it aside for a moment
        return None


class Glance(Lock):
    """What a shared lock is here: nobody held the lease a moment ago. Nothing is held."""

    backend = lock.LEASE
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
    if shared and not os.path.exists(marker(place)):
        return Glance(place, fd, shared=True)
    from filelock import SoftFileLease

    lease = SoftFileLease(
        marker(place),
        lease_duration=LEASE_SECONDS,
        heartbeat_interval=HEARTBEAT_SECONDS,
        thread_local=False,
        mode=lock.file_mode(place),
    )
    if not _try(lease):
        with patience.waiting(place) as wait:
            wait.polling(lambda: _try(lease))
    if shared:
        lease.release()
        return Glance(place, fd, shared=True)
    return Lease(place, fd, lease)


def _try(lease: "SoftFileLease") -> bool:
    from filelock import Timeout

    # The thread that renews the lease starts here and keeps this mask: signals are for the main thread.
    mask = signals.pthread_sigmask(signals.SIG_BLOCK, signals.valid_signals())
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
        signals.pthread_sigmask(signals.SIG_SETMASK, mask)
    return True


def _identity(path: str) -> tuple[int, int]:
    answer = os.stat(path, follow_symlinks=False)
    return answer.st_dev, answer.st_ino
