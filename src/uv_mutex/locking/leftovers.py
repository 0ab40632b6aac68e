"""Remove what calls and hosts that are gone left beside a lock. Whoever waits long enough to leave a file does it."""

import os

from uv_mutex import files
from uv_mutex.locking import process
from uv_mutex.locking.lock_file import LockTarget
from uv_mutex.locking.process import Process

#: How the names of files begin that a waiter renews, that a writer has for a moment, and that a host appends to.
WAITING = "waiting."
_HISTORY = "calls."
#: And that of a form of call (environment/gate.py). Without one, a call makes it anew.
GATE = "gate."
#: In the name of the file that says which host had the lock last.
_LAST = ".last."
_MOMENT_SECONDS = 60.0
_HOST_SECONDS = 30 * 24 * 3600.0
#: After so many files that others still need, it stops looking: a hundred waiters must not keep a file server busy.
_MOST_NEEDED = 50


def remove(target: LockTarget, now: float) -> None:
    """Remove files that nobody needs any more. Never fails.

    :param target: a lock in whose folder to look.
    :param now: the present time by the clock of the file server, in seconds since 1970.
    """
    names = target.names("")
    start = int.from_bytes(os.urandom(4), "little") % (len(names) or 1)  # each call begins elsewhere
    needed = 0
    for name in names[start:] + names[:start]:
        path = f"{target.folder}/{name}"
        try:
            if _is_over(path, name, now):
                files.remove(path)
                continue
        except OSError:  # somebody else removed it, or it belongs to another user
            pass
        needed += 1
        if needed >= _MOST_NEEDED:
            break


def waiter_name(waiter: Process) -> str:
    """What the file of a waiter is called: containers share host names and process ids, so by neither of them."""
    return WAITING + waiter.encode().replace("/", ".")


def is_waiter_over(path: str, now: float, limit: float) -> bool:
    """Whether a waiter is gone.

    :param path: its file.
    :param now: the present time, in seconds since 1970.
    :param limit: after how many seconds without a sign it counts as gone if this process can't see it.
    :raises OSError: if the file is gone.
    """
    waiter = process.decode(os.path.basename(path)[len(WAITING) :].replace(".", "/"))
    alive = waiter.is_alive if waiter else None
    return _is_older(path, now, limit) if alive is None else not alive


def _is_over(path: str, name: str, now: float) -> bool:
    if name.startswith(WAITING):
        return is_waiter_over(path, now, _MOMENT_SECONDS)
    if name.startswith(files.TEMPORARY):
        return _is_older(path, now, _MOMENT_SECONDS)
    return (name.startswith((_HISTORY, GATE)) or _LAST in name) and _is_older(path, now, _HOST_SECONDS)


def _is_older(path: str, now: float, seconds: float) -> bool:
    return now - os.lstat(path).st_mtime > seconds
