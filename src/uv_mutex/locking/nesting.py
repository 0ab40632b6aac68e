"""The calls above this one: which locks do they hold while they wait for it?"""

import fcntl
import os

from uv_mutex.locking import owner, process
from uv_mutex.locking.flock import try_flock
from uv_mutex.locking.lock_file import LEASE, LockTarget

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from uv_mutex.locking.process import Process

#: The variable that names the locks which outer calls hold while their children run.
HELD = "UV_MUTEX_HELD"


class CallsAbove:
    """The calls that started this one, directly or not.

    The owner in a lock file tells, if it is an ancestor of this process: a build hook may clean the environment. Where
    /proc can't show that, as in another PID namespace, the mark tells that the owner left in the environment.
    """

    def __init__(self, environ: "Mapping[str, str]") -> None:
        """
        :param environ: the environment, with the marks that outer calls left.
        """
        self._marks = [mark.rpartition(":") for mark in environ.get(HELD, "").split(" ")]
        self._chain: list[Process] | None = None
        self._is_whole = False

    def hold(self, target: LockTarget, fd: int) -> bool:
        """Whether one of them holds a lock.

        :param target: the lock.
        :param fd: its descriptor.
        :raises OSError: if the lock file is gone.
        """
        status = os.fstat(fd)
        here = f"{status.st_dev}:{status.st_ino}"
        found = None if target.folder is None else owner.decode(os.pread(fd, owner.RECORD_BYTES, 0))
        # Each host numbers the devices of network file systems for itself, but a token names one lock alone.
        tokens = [token for place, _, token in self._marks if place == here or (found and token == found.token)]
        if found is None and not tokens:
            return False
        is_above = bool(found and found.process and self._is_above(found.process))
        # What an ancestor that has died, or has released the lock, left behind counts for nothing.
        return (is_above or any(self._is_valid(token, found) for token in tokens)) and is_held(target, fd)

    def _is_valid(self, token: str, found: "owner.LockOwner | None") -> bool:
        """Whether a mark is that of a call above this one.

        :param token: the token in the mark.
        :param found: the owner in the lock file; None if it names none.
        """
        marked = owner.process_of(token)
        is_above = self._is_above(marked) if marked else None
        if is_above is None:
            return token == found.token if found else marked is not None
        return is_above

    def _is_above(self, wanted: "Process") -> bool | None:
        """Whether a process is an ancestor of this one; None if /proc can't tell."""
        if not wanted.is_visible:
            return None
        if self._chain is None:
            chain = process.ancestors()
            self._chain, self._is_whole = chain[1:], process.is_whole(chain)
        return wanted in self._chain or (False if self._is_whole else None)


def is_held(target: LockTarget, fd: int, *, shared: bool = False) -> bool:
    """Whether somebody holds a lock.

    :param target: the lock.
    :param fd: its descriptor. If the lock is free, it is taken for some microseconds.
    :param shared: do not count those who hold it as one of many.
    """
    if target.recorded_backend() == LEASE:
        from uv_mutex.locking import lease, lease_marker

        return lease_marker.look(lease.marker(target)) is not None
    try:
        if not try_flock(fd, shared=shared):
            return True
        fcntl.flock(fd, fcntl.LOCK_UN)
    except OSError:  # NFS wants a descriptor that may write
        return True
    return False
