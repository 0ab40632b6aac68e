"""The last calls of a project that waited, prepared or changed something, for `uv-mutex status`.

Each has a line in `.uv-mutex/calls.HOST`. A fresh `uv run` that did not wait leaves none: it must not change the
project's tree.

Each host has a file of its own, since no network file system keeps the lines of two hosts whole. UV_MUTEX_LOG is the
log to keep; this one forgets.
"""

import os
import time

from uv_mutex import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from uv_mutex.locking.lock_file import LockTarget

PREFIX = "calls."
#: A longer file loses its older half.
_MOST_BYTES = 65536
#: No time is later, in seconds since 1970.
_LATEST = 1e11


class PastCall:
    """A call that is over, or that handed over to uv (``status`` None). ``began`` is a time of its host's clock."""

    __slots__ = ("began", "command", "held", "host", "lock", "pid", "prepared", "status", "waited")

    def __init__(self, line: str, host: str) -> None:
        """
        :raises ValueError: if that is no line of a history.
        """
        _, began, waited, held, prepared, status, pid, self.lock, self.command = line.split("\t")
        self.host = host
        self.began, self.waited, self.held = map(float, (began, waited, held))
        if not all(0 <= value < _LATEST for value in (self.began, self.waited, self.held)):  # this refuses NaN as well
            raise ValueError(line)
        self.prepared = prepared == "1"
        self.status = None if status == "-" else int(status)
        self.pid = int(pid)


def append(
    target: "LockTarget",
    command: str,
    began: float,
    *,
    waited: float,
    held: float,
    prepared: bool,
    status: int | None,
) -> None:
    """Add a call. Never fails: a full or read-only disk costs the line, not the call.

    :param target: its lock. Beside the folder of an environment nothing is written.
    :param command: what the lock was held for.
    :param began: when the call began, in seconds since 1970.
    :param waited: how many seconds it waited.
    :param held: how many seconds it held the lock.
    :param prepared: whether it brought the environment up to date under the lock.
    :param status: its exit status; None where uv goes on.
    """
    if target.folder is None:
        return
    path = f"{target.folder}/{PREFIX}{os.uname().nodename}"
    seconds = f"{time.time():.3f}\t{began:.3f}\t{waited:.3f}\t{held:.3f}"
    ending = "-" if status is None else status
    lock = field(os.path.basename(target.path))
    line = f"{seconds}\t{prepared:d}\t{ending}\t{os.getpid()}\t{lock}\t{field(command)}\n"
    try:
        try:
            fd = _open(path)
        except FileNotFoundError:
            files.create(path, target.file_mode(), b"")
            fd = _open(path)
        try:
            os.write(fd, line.encode("utf-8", "surrogateescape"))
            long = os.fstat(fd).st_size > _MOST_BYTES
        finally:
            os.close(fd)
        if long:
            _halve(path, target.file_mode())
    except OSError:
        pass


def _open(path: str) -> int:
    return files.open_file(path, os.O_WRONLY | os.O_APPEND)


def field(text: str) -> str:
    """A text as it stands between two tabs."""
    return text.replace("\t", " ").replace("\n", " ")


def _halve(path: str, mode: int) -> None:
    """Keep the newer half. A line that another call adds in this very moment may be lost."""
    files.replace(path, mode, _content(path)[-_MOST_BYTES // 2 :].partition(b"\n")[2])


def _content(path: str) -> bytes:
    return files.read(path, 2 * _MOST_BYTES, follow=False)


def read(target: "LockTarget") -> list[PastCall]:
    """The calls that took this lock first, on all hosts, in the order in which they began."""
    found = []
    lock = field(os.path.basename(target.path))
    for name in target.names(PREFIX):
        try:
            text = _content(f"{target.folder}/{name}").decode("utf-8", "replace")
        except OSError:
            continue
        for line in text.split("\n"):
            try:
                call = PastCall(line, name[len(PREFIX) :])
            except ValueError:  # cut short on a full disk
                continue
            if call.lock == lock:
                found.append(call)
    return sorted(found, key=lambda call: call.began)
