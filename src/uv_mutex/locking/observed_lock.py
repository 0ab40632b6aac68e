"""A shared lock over NFS that a call only looks at: before it compares, and after it has left a record of its run.

To take and release a flock costs five round trips to the file server. To look at a file costs one at most. So a call
that compares an environment with its note does this:

1. It looks at the lock file: no owner is named in it. Then it compares.
2. It leaves its record. Then it asks the file server for the lock file once more: the file is still the same.

A call that takes the lock alone writes its name into the lock file, at the file server, before it reads the records. So
at least one of the two calls sees the other, as with a lease (:class:`uv_mutex.locking.lease.SharedLease`). A call that
sees an owner, or can't leave a record, takes the flock.
"""

import os
import stat

from uv_mutex import files
from uv_mutex.locking import filesystem
from uv_mutex.locking.flock import HeldLock
from uv_mutex.locking.levels import level
from uv_mutex.locking.lock_file import LockTarget

TYPE_CHECKING = False
if TYPE_CHECKING:
    #: Which file it is, its size in bytes, and when it last changed, in ns by the file server's clock.
    _State = tuple[int, int, int, int]


class ObservedLock(HeldLock):
    """A lock that nobody held alone when this process looked. Nothing is to be released."""

    needs_record = True
    __slots__ = ("_state",)

    def __init__(self, target: LockTarget, state: "_State") -> None:
        super().__init__(target, -1, shared=True)
        self._state = state

    def record(self, command: str) -> None:
        """Do nothing: the file has named no owner."""

    def still_excludes(self) -> bool:
        try:
            fd = files.open_file(self.target.path, os.O_RDONLY)
            try:
                return _state(os.fstat(fd)) == self._state
            finally:
                os.close(fd)
        except OSError:
            return False

    def lost(self) -> str | None:
        return None

    def release(self, *, unfinished: bool = False) -> None:
        """Do nothing."""


def observe(target: LockTarget) -> ObservedLock | None:
    """Look at a lock; None if it must be taken, since somebody holds it or one look does not tell.

    What this host has in memory will do: if that is old, the second look shows it.

    :param target: the lock.
    """
    if not filesystem.shows_owners_at_open(target.path):
        return None
    try:
        status = os.stat(target.path, follow_symlinks=False)
    except OSError:  # nobody has ever taken it
        return None
    if status.st_size or not stat.S_ISREG(status.st_mode):
        return None
    # A server that stores whole seconds hides an owner that came and went within one.
    if status.st_ctime_ns % 1_000_000_000 == 0:
        return None
    # The calls below an owner that is gone may still work at a deeper level, of which this host has never heard.
    files.reread_folder(os.path.dirname(target.path))
    return None if os.path.lexists(level(target, 1).path) else ObservedLock(target, _state(status))


def _state(status: os.stat_result) -> "_State":
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
