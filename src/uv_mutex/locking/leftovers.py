"""Remove what calls and hosts that are gone left beside a lock. Whoever waits long enough to leave a file does it."""

import os

from uv_mutex import files
from uv_mutex.locking import process
from uv_mutex.locking.lock_file import LockTarget
from uv_mutex.locking.process import Process

#: How the names of files begin that a waiter renews, that a writer has for a moment, and that a host appends to.
WAITING = "waiting."
_HISTORY = "calls."
#: In the name of the file that says which host had the lock last.
_LAST = ".last."
_MOMENT_SECONDS = 60.0
_HOST_SECONDS = 30 * 24 * 3600.0
#: So many at a time: a file server takes a millisecond for each.
_MOST = 500


def remove(target: LockTarget, now: float) -> None:
    """Remove files that nobody needs any more. Never fails.

    :param target: a lock in whose folder to look.
    :param now: the present time by the clock of the file server, in seconds since 1970.
    """
    for name in target.names("")[:_MOST]:
        path = f"{target.folder}/{name}"
        try:
            if _is_over(name, path, now):
                files.remove(path)
        except OSError:  # somebody else removed it, or it belongs to another user
            pass


def waiter_name(waiter: Process) -> str:
    """What the file of a waiter is called: containers share host names and process ids, so by neither of them."""
    return WAITING + waiter.encode().replace("/", ".")


def is_waiter_over(name: str, age: float, limit: float) -> bool:
    """Whether a waiter is gone.

    :param name: the name of its file.
    :param age: how many seconds ago it was written.
    :param limit: after how many seconds it counts as gone if this process can't see it.
    """
    waiter = process.decode(name[len(WAITING) :].replace(".", "/"))
    alive = waiter.is_alive if waiter else None
    return age > limit if alive is None else not alive


def _is_over(name: str, path: str, now: float) -> bool:
    if name.startswith(WAITING):
        return is_waiter_over(name, now - os.lstat(path).st_mtime, _MOMENT_SECONDS)
    if name.startswith(files.TEMPORARY):
        return now - os.lstat(path).st_mtime > _MOMENT_SECONDS
    if name.startswith(_HISTORY) or _LAST in name:
        return now - os.lstat(path).st_mtime > _HOST_SECONDS
    return False
