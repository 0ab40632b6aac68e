"""The last guarded calls of a project: a line for each in `.uv-mutex/calls.HOST`, for `uv-mutex status`.

A file for each host, since no network file system appends two hosts' lines one after the other. UV_MUTEX_LOG is the
log to keep; this one forgets.
"""

import os
import time

from uv_mutex.locking import lock_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from uv_mutex.locking.lock_file import Place

PREFIX = "calls."
#: A file longer than this loses its older half.
_MOST_BYTES = 65536
_TAIL_BYTES = 32768


def append(
    place: "Place", command: str, began: float, *, waited: float, held: float, prepared: bool, status: int | None
) -> None:
    """Add a call. Never fails: a full or read-only disk costs the line, not the call.

    :param place: its lock; where that is an environment's folder, nothing is written.
    :param command: what the lock was held for.
    :param began: when the call began.
    """
    if place.is_folder:
        return
    folder, name = os.path.split(place.path)
    path = f"{folder}/{PREFIX}{os.uname().nodename}"
    seconds = f"{time.time():.3f}\t{began:.3f}\t{waited:.3f}\t{held:.3f}"
    said = "-" if status is None else status
    line = f"{seconds}\t{prepared:d}\t{said}\t{os.getpid()}\t{field(name)}\t{field(command)}\n"
    try:
        try:
            fd = _open(path)
        except FileNotFoundError:
            lock_file.write_new(path, lock_file.file_mode(place), b"")
            fd = _open(path)
        try:
            os.write(fd, line.encode("utf-8", "surrogateescape"))
            long = os.fstat(fd).st_size > _MOST_BYTES
        finally:
            os.close(fd)
        if long:
            _halve(path, lock_file.file_mode(place))
    except OSError:
        pass


def tail(path: str) -> bytes:
    """The newest lines of a host's history, a few hundred.

    :raises OSError: if it can't be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        start = max(0, os.fstat(fd).st_size - _TAIL_BYTES)
        text = os.pread(fd, 2 * _TAIL_BYTES, start)
    finally:
        os.close(fd)
    return text.partition(b"\n")[2] if start else text


def _open(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK)


def field(text: str) -> str:
    """A text as it stands between two tabs."""
    return text.replace("\t", " ").replace("\n", " ")


def _halve(path: str, mode: int) -> None:
    """Keep the newer half. A line that another adds in this very moment may be lost."""
    kept = read(path)[-_MOST_BYTES // 2 :].partition(b"\n")[2]
    folder, name = os.path.split(path)
    temporary = f"{folder}/.{name}.{os.getpid()}"  # by another name than what is read
    lock_file.write_new(temporary, mode, kept)
    os.rename(temporary, path)


def read(path: str) -> bytes:
    """A host's history.

    :raises OSError: if it can't be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return os.read(fd, 2 * _MOST_BYTES)
    finally:
        os.close(fd)
