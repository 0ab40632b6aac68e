"""Try out, on a file made for it, whether a lock excludes."""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from uv_mutex import files
from uv_mutex.locking.flock import MISSING_ERRORS, try_flock
from uv_mutex.locking.lock_file import LockTarget

#: The result of a trial: the lock was taken by another, was free and is ours now, or is not supported here.
BUSY, GOT, MISSING = "busy", "got", "missing"
#: How the names of trial files begin.
PREFIX = "probe."


@contextmanager
def trial_file(target: LockTarget, name: str | None = None) -> Iterator[str]:
    """Make a file beside the lock, yield its path, and remove it at the end.

    The lock's folder is created as a call would create it.

    :param target: the lock.
    :param name: the end of the file's name, for two doctors that need the same file; None for a random one.
    :raises MutexError: if the folder can't be created.
    :raises OSError: if the file can't be created.
    """
    os.close(target.open())
    path = f"{os.path.dirname(target.path)}/{PREFIX}{name or secrets.token_hex(8)}"
    files.create(path, target.file_mode(), b"")
    try:
        yield path
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)


def open_file(path: str) -> int:
    """Open a trial file as a call opens its lock file; return the descriptor."""
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)


def flock(fd: int) -> str:
    """Try to take the flock on a descriptor; return BUSY, GOT or MISSING.

    :raises OSError: if it fails for another reason.
    """
    try:
        return GOT if try_flock(fd, shared=False) else BUSY
    except OSError as error:
        if error.errno in MISSING_ERRORS:
            return MISSING
        raise


def flock_twice(path: str) -> str:
    """Take the flock of a file by two descriptors; return what the second one got, which should be BUSY."""
    first, second = open_file(path), open_file(path)
    try:
        return MISSING if flock(first) == MISSING else flock(second)
    finally:
        os.close(first)
        os.close(second)


def create(path: str) -> str:
    """Create a file, as a call that takes a lease does; return GOT, or BUSY if the file exists already."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return BUSY
    return GOT


def clock_skew(path: str) -> float:
    """Write a file; return by how many seconds the file server's clock is ahead of this host's (negative: behind)."""
    before = time.time()
    with open(path, "wb") as file:
        file.write(b"x")
    os.utime(path)
    after = time.time()
    server = os.stat(path).st_mtime
    return server - after if server > after else min(0.0, server - before)
