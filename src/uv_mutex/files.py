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


def create(path: str, mode: int, content: bytes) -> None:
    """Write a new file; do nothing if there is one. Where the file system can, it is complete before it has a name.

    :param path: the file.
    :param mode: its permissions, whatever the umask is.
    :param content: what to write.
    :raises OSError: if it can't be written.
    """
    try:
        fd = os.open(os.path.dirname(path), os.O_WRONLY | os.O_TMPFILE, mode)
    except OSError:  # NFS
        fd = -1
    if fd >= 0:
        try:
            os.fchmod(fd, mode)
            os.write(fd, content)
            # Python follows the link only with a src_dir_fd, which an absolute path ignores.
            os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd)
            return
        except FileExistsError:
            return
        except FileNotFoundError:  # no /proc
            pass
        finally:
            os.close(fd)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    except FileExistsError:
        return
    try:
        os.fchmod(fd, mode)
        os.write(fd, content)
    finally:
        os.close(fd)


def stat_on_server(path: str) -> os.stat_result:
    """What stat says of a file, from the file server: it is asked at open, while stat may answer from memory.

    :raises OSError: if the file can't be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)
