"""Try out on a file of its own whether a lock excludes."""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager

from uv_mutex import files
from uv_mutex.locking.flock import MISSING_ERRORS, try_flock
from uv_mutex.locking.lock_file import LockTarget

#: What came of a try: another has it, it was to be had, or there is no such lock here.
BUSY, GOT, MISSING = "busy", "got", "missing"
PREFIX = "probe."


@contextmanager
def file(target: LockTarget, name: str | None = None) -> Iterator[str]:
    """A file to try on, beside the lock; the folder is made as a call would make it.

    :param name: of the file, for two who want the same.
    :raises MutexError: if the folder can't be made.
    :raises OSError: if the file can't be.
    """
    os.close(target.open())
    path = f"{os.path.dirname(target.path)}/{PREFIX}{name or secrets.token_hex(8)}"
    mode = target.file_mode()
    files.create(path, mode, b"")
    try:
        yield path
    finally:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass


def open_(path: str) -> int:
    """A descriptor for :func:`flock`, as a call would have it."""
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)


def flock(fd: int) -> str:
    """Try for the flock on a descriptor."""
    try:
        return GOT if try_flock(fd, shared=False) else BUSY
    except OSError as error:
        if error.errno in MISSING_ERRORS:
            return MISSING
        raise


def two_descriptors(path: str) -> str:
    """What the second of two descriptors gets while the first has the flock. BUSY is as it should be."""
    first, second = open_(path), open_(path)
    try:
        return MISSING if flock(first) == MISSING else flock(second)
    finally:
        os.close(first)
        os.close(second)


def created_twice(path: str) -> str:
    """Whether a file can be created that is there: what a lease stands on. BUSY is as it should be."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return BUSY
    return GOT


def clock_skew(path: str) -> float:
    """By how many seconds the file server's clock is ahead of this host's."""
    before = time.time()
    with open(path, "wb") as file:
        file.write(b"x")
    os.utime(path)
    after = time.time()
    there = os.stat(path).st_mtime
    return there - after if there > after else min(0.0, there - before)
