"""A call below another call that holds the lock: it must not wait for its own ancestor."""

import os

from uv_mutex.errors import MutexError
from uv_mutex.locking import owner
from uv_mutex.locking.flock import try_flock
from uv_mutex.locking.lock_file import LEASE, LockTarget

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: The variable that names the locks which an outer call holds while its child runs.
HELD = "UV_MUTEX_HELD"


def held_by_ancestor(target: LockTarget, environ: "Mapping[str, str]") -> bool:
    """Whether the call that started this one, directly or not, holds the lock while it waits for us.

    :param target: the lock.
    :param environ: the environment, with the mark that the outer call left.
    """
    marks = environ.get(HELD)
    if not marks:
        return False
    try:
        fd = target.open()
    except MutexError:  # whoever takes the lock says so
        return False
    try:
        answer = os.fstat(fd)
        for mark in marks.split(" "):
            device, inode, token = [*mark.split(":", 2), "", ""][:3]
            if (device, inode) == (str(answer.st_dev), str(answer.st_ino)):
                # A daemon that outlives the outer call keeps the mark, but then the lock is free or has another owner.
                found = owner.read_owner(target.path)
                return not _is_free(fd, target) and token == (found.token if found else "")
    finally:
        os.close(fd)
    return False


def _is_free(fd: int, target: LockTarget) -> bool:
    if target.recorded_backend() == LEASE:
        from uv_mutex.locking import lease

        return not os.path.exists(lease.marker(target))
    try:
        return try_flock(fd, shared=False)
    except OSError as error:
        raise target.cannot("lock", error) from None
