"""Who waits for a lock: a small file for each waiter, `.uv-mutex/waiting.PROCESS`, for `uv-mutex status`.

The file holds two lines: the waiter, as in the lock file, and the name of the lock file that it waits for. PROCESS is
:meth:`uv_mutex.locking.process.Process.encode` with dots. A file counts for nothing once its process is gone, or, where
that can't be seen, once nobody renewed it for half a minute. After a minute another waiter removes it.
"""

import os
import threading
import time

from uv_mutex import files
from uv_mutex.locking import leftovers, owner, process
from uv_mutex.locking.lock_file import LockTarget
from uv_mutex.locking.owner import LockOwner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = leftovers.WAITING
_STALE_SECONDS = 30.0
#: How long to wait for a thread that is just writing the file.
_PATIENCE_SECONDS = 1.0


class WaiterFile:
    """The file of this process. Nothing here raises: a wait must not fail because others can't see it."""

    def __init__(self, target: LockTarget, command: str, since: float) -> None:
        """
        :param target: the lock. A folder that is locked itself has no such files.
        :param command: what the lock is wanted for.
        :param since: when the wait began, in seconds since 1970.
        """
        self._target = target
        self._waiter = owner.this_process(command, since)
        self._path = f"{target.folder}/{leftovers.waiter_name(process.this_process())}"
        self._shown = self._over = False
        self._writing = threading.RLock()

    def show(self) -> None:
        """Write the file, or renew it, and remove those of others that are gone."""
        name = os.path.basename(self._target.path).encode("utf-8", "surrogateescape")
        with self._writing:
            if self._over or self._target.folder is None:
                return
            try:
                mode = self._target.file_mode()
                # Written anew each time: its time says that we live, and `git clean -fdx` may have removed it. It is
                # not emptied before, as others read it meanwhile.
                fd = files.open_file(self._path, os.O_WRONLY | os.O_CREAT, mode)
                self._shown = True
                try:
                    os.fchmod(fd, mode)
                    os.write(fd, self._waiter.encode() + name + b"\n")
                    now = os.fstat(fd).st_mtime
                finally:
                    os.close(fd)
            except OSError:
                return
        leftovers.remove(self._target, now)

    def remove(self) -> None:
        """Remove the file for good; the wait is over. A signal handler may call this at any moment."""
        mine = self._writing.acquire(timeout=_PATIENCE_SECONDS)
        self._over = True
        if self._shown:
            try:
                files.remove(self._path)
            except OSError:
                pass
        if mine:
            self._writing.release()


def read(target: LockTarget) -> list[LockOwner]:
    """Who waits for a lock, on all hosts (natively: on this one); the one that waits longest comes first."""
    from uv_mutex.locking import native_waiters  # a call that waits needs no list of them

    name = os.path.basename(target.path)
    found = [waiter for path, waiter, lock in _files(target) if waiter and lock == name and not _is_over(path)]
    shown = {waiter.process for waiter in found}
    found += [waiter for waiter in native_waiters.read(target) if waiter.process not in shown]
    return sorted(found, key=lambda waiter: waiter.since)


def orphans(target: LockTarget) -> list[str]:
    """The files of waiters that are gone, in the folder of this lock."""
    return [path for path, waiter, _ in _files(target) if waiter is None or _is_over(path)]


def _files(target: LockTarget) -> "Iterator[tuple[str, LockOwner | None, str]]":
    """Each file, with the waiter that wrote it and the name of the lock."""
    for name in target.names(PREFIX):
        path = f"{target.folder}/{name}"
        record = owner.read_record(path)
        lock = record.partition(b"\n")[2].strip(b"\n").decode("utf-8", "surrogateescape")
        yield path, owner.decode(record), lock


def _is_over(path: str) -> bool:
    try:
        return leftovers.is_waiter_over(path, time.time(), _STALE_SECONDS)
    except OSError:
        return True
