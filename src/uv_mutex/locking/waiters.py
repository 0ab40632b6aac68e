"""Who waits for a lock: a small file for each waiter, `.uv-mutex/waiting.HOST.PID`, for `uv-mutex status`.

The file holds two lines: the waiter, as in the lock file, and the name of the lock file that it waits for. A file
counts for nothing once its process is gone, or once nobody renewed it for half a minute.
"""

import os
import time

from uv_mutex.locking import owner
from uv_mutex.locking.lock_file import LockTarget
from uv_mutex.locking.owner import LockOwner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "waiting."
_STALE_SECONDS = 30.0


class WaiterFile:
    """The file of this process. Nothing here raises: a wait must not fail because others can't see it."""

    def __init__(self, target: LockTarget, command: str, since: float) -> None:
        """
        :param target: the lock. The folder of an environment has no such files.
        :param command: what the lock is wanted for.
        :param since: when the wait began, in seconds since 1970.
        """
        self._target = target
        self._waiter = owner.this_process(command, since)
        self._path = f"{target.folder}/{PREFIX}{self._waiter.host}.{self._waiter.pid}"
        self._shown = False

    def show(self) -> None:
        """Write the file, or renew it."""
        if self._target.folder is None:
            return
        name = os.path.basename(self._target.path).encode("utf-8", "surrogateescape")
        try:
            if not self._shown:
                self._remove_orphans(self._target.folder)
            mode = self._target.file_mode()
            # Written anew each time: its time says that we live, and `git clean -fdx` may have removed it.
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK, mode)
            self._shown = True
            try:
                os.fchmod(fd, mode)
                os.write(fd, self._waiter.encode() + name + b"\n")
            finally:
                os.close(fd)
        except OSError:
            pass

    def _remove_orphans(self, folder: str) -> None:
        """Remove the files of waiters of this host that were killed, as by Ctrl-C."""
        mine = f"{PREFIX}{self._waiter.host}."
        for name in self._target.names(mine):
            pid = name[len(mine) :]
            if pid.isdecimal() and not is_alive(int(pid)):
                os.unlink(f"{folder}/{name}")

    def remove(self) -> None:
        """Remove the file; the wait is over."""
        if self._shown:
            try:
                os.unlink(self._path)
            except OSError:
                pass


def read(target: LockTarget) -> list[LockOwner]:
    """Who waits for a lock, on all hosts; the one that waits longest comes first."""
    name = os.path.basename(target.path)
    found = [waiter for path, waiter, lock in _files(target) if waiter and lock == name and not _is_over(path, waiter)]
    return sorted(found, key=lambda waiter: waiter.since)


def orphans(target: LockTarget) -> list[str]:
    """The files of waiters that are gone, in the folder of this lock."""
    return [path for path, waiter, _ in _files(target) if waiter is None or _is_over(path, waiter)]


def _files(target: LockTarget) -> "Iterator[tuple[str, LockOwner | None, str]]":
    """Each file, with the waiter that wrote it and the name of the lock."""
    for name in target.names(PREFIX):
        path = f"{target.folder}/{name}"
        record = owner.read_record(path)
        lock = record.partition(b"\n")[2].strip(b"\n").decode("utf-8", "surrogateescape")
        yield path, owner.decode(record), lock


def _is_over(path: str, waiter: LockOwner | None) -> bool:
    if waiter and waiter.host == os.uname().nodename:
        return not is_alive(waiter.pid)
    try:
        return time.time() - os.stat(path).st_mtime > _STALE_SECONDS
    except OSError:
        return True


def is_alive(pid: int) -> bool:
    """Whether this host has such a process."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
