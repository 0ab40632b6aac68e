"""A shared lock over NFS that a call only looks at: before it compares, and after it has left a record of its run.

To take and release a flock costs five round trips to the file server. To look at a file costs one at most. So a call
that compares an environment with its note does this:

1. It looks at the lock file: no owner is named in it. Then it compares.
2. It leaves its record. Then it asks the file server for the lock file once more: the file is still the same.

A call that takes the lock alone writes its name into the lock file, at the file server, before it reads the records. So
at least one of the two calls sees the other, as with a lease (:class:`uv_mutex.locking.lease.SharedLease`). A call that
sees an owner, or can't leave a record, takes the flock.

The calls below an owner that is gone may still work at a deeper level. That is a file of its own, and the call looks at
it in the same way. This host may not know the file yet. So before the second look the call asks the server what is in
the folder, unless a call of this host has done that since the lock file last changed. That is enough, since a call
takes a level only while the level above names an owner.
"""

import os
import stat

from uv_mutex import files
from uv_mutex.locking import filesystem, levels
from uv_mutex.locking.flock import HeldLock
from uv_mutex.locking.lock_file import LockTarget

TYPE_CHECKING = False
if TYPE_CHECKING:
    #: Which file it is, its size in bytes, and when it last changed, in ns by the file server's clock.
    _State = tuple[int, int, int, int]


class ObservedLock(HeldLock):
    """A lock that nobody held alone when this process looked. Nothing is to be released.

    ``levels_known``: whether a call of this host has asked the server for deeper levels since the lock last changed.
    """

    needs_record = True
    __slots__ = ("_states", "levels_known")

    def __init__(self, target: LockTarget, states: "dict[str, _State]") -> None:
        """
        :param target: the lock.
        :param states: the state of each of its levels, by the path.
        """
        super().__init__(target, -1, shared=True)
        self._states = states
        self.levels_known = False

    def record(self, command: str) -> None:
        """Do nothing: the file has named no owner."""

    @property
    def lines(self) -> list[str]:
        """The state of each level as a line of a note, see :mod:`uv_mutex.environment.note_file`."""
        return [f"lock {'/'.join(map(str, state))} {path}" for path, state in self._states.items()]

    def still_excludes(self) -> bool:
        if not self.levels_known:
            files.reread_folder(os.path.dirname(self.target.path))
        try:
            return {each.path: _state(_stat_on_server(each.path)) for each in _levels(self.target)} == self._states
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
    states = {}
    for each in _levels(target):
        try:
            status = os.stat(each.path, follow_symlinks=False)
        except OSError:  # nobody has ever taken it
            return None
        if status.st_size or not stat.S_ISREG(status.st_mode):
            return None
        # A server that stores whole seconds hides an owner that came and went within one.
        if status.st_ctime_ns % 1_000_000_000 == 0:
            return None
        states[each.path] = _state(status)
    return ObservedLock(target, states)


def _levels(target: LockTarget) -> "list[LockTarget]":
    """The lock and its deeper levels, as far as this host knows them."""
    return [target, *levels.deeper(target, 0)]


def _stat_on_server(path: str) -> os.stat_result:
    """As files.stat_on_server, but refuse a folder that a stranger has put there, as those do who take the lock."""
    fd = files.open_file(path, os.O_RDONLY)
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def _state(status: os.stat_result) -> "_State":
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
