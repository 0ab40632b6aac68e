"""Open, read, close: a small file that others may replace, lock down or turn into something else at any moment."""

import os


def read(path: str, limit: int, *, follow: bool = True, start: int = 0) -> bytes:
    """The bytes of a file from ``start`` on, at most ``limit``. A named pipe reads as empty instead of blocking.

    :param path: the file.
    :param limit: the most bytes to read.
    :param follow: whether to follow a symlink at the end of the path.
    :param start: the offset in bytes to begin at.
    :raises OSError: if it can't be opened or read; ELOOP for a symlink that is not to be followed.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW))
    try:
        return os.pread(fd, limit, start) if start else os.read(fd, limit)
    finally:
        os.close(fd)


def read_or_empty(path: str, limit: int, *, follow: bool = True) -> bytes:
    """As :func:`read`; empty where the file can't be read."""
    try:
        return read(path, limit, follow=follow)
    except OSError:
        return b""
