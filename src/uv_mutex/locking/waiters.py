"""Who waits for a lock: a small file for each, `.uv-mutex/waiting.HOST.PID`, for `uv-mutex status`.

It holds two lines: who waits, as in the lock file, and the name of that. One whose process is gone, or that nobody
renewed for half a minute, says nothing any more.
"""

import os
import time

from uv_mutex.locking import lock_file, owner
from uv_mutex.locking.lock_file import Place
from uv_mutex.locking.owner import Holder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "waiting."
_STALE_SECONDS = 30.0


class Sign:
    """The file of this process. Nothing here ever raises: a wait must not fail for the want of it."""

    def __init__(self, place: Place, command: str, since: float) -> None:
        """
        :param place: the lock. Where that is an environment's folder, there is no sign.
        :param command: what it is wanted for.
        :param since: when the wait began.
        """
        self._place = place
        self._holder = owner.this_process(command, since)
        self._folder = os.path.dirname(place.path)
        self._path = f"{self._folder}/{PREFIX}{self._holder.host}.{self._holder.pid}"
        self._shown = False

    def show(self) -> None:
        """Write the file, or renew it."""
        if self._place.is_folder:
            return
        name = os.path.basename(self._place.path).encode("utf-8", "surrogateescape")
        try:
            if not self._shown:
                self._remove_orphans()
            mode = lock_file.file_mode(self._place)
            # Always anew: its time tells that we live, and `git clean -fdx` may have taken it away.
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK, mode)
            self._shown = True
            try:
                os.fchmod(fd, mode)
                os.write(fd, self._holder.encode() + name + b"\n")
            finally:
                os.close(fd)
        except OSError:
            pass

    def _remove_orphans(self) -> None:
        """Clear away what waiters of this host left that were killed, as by Ctrl-C."""
        mine = f"{PREFIX}{self._holder.host}."
        for name in os.listdir(self._folder):
            if name.startswith(mine) and name[len(mine) :].isdecimal() and not is_alive(int(name[len(mine) :])):
                os.unlink(f"{self._folder}/{name}")

    def remove(self) -> None:
        """Remove the file; the wait is over."""
        if self._shown:
            try:
                os.unlink(self._path)
            except OSError:
                pass


def read(place: Place) -> list[Holder]:
    """Who waits for a lock, on all hosts, the longest first."""
    name = os.path.basename(place.path)
    found = [holder for path, holder, lock in _signs(place) if holder and lock == name and not _is_over(path, holder)]
    return sorted(found, key=lambda holder: holder.since)


def orphans(place: Place) -> list[str]:
    """The files of waiters that are gone, in the folder of this lock."""
    return [path for path, holder, _ in _signs(place) if holder is None or _is_over(path, holder)]


def _signs(place: Place) -> "Iterator[tuple[str, Holder | None, str]]":
    """Every file, with who wrote it, and the name of the lock."""
    folder = os.path.dirname(place.path)
    try:
        names = [] if place.is_folder else os.listdir(folder)
    except OSError:
        return
    for name in names:
        if name.startswith(PREFIX):
            record = owner.read_record(f"{folder}/{name}")
            lock = record.partition(b"\n")[2].strip(b"\n").decode("utf-8", "surrogateescape")
            yield f"{folder}/{name}", owner.decode(record), lock


def _is_over(path: str, holder: Holder | None) -> bool:
    if holder and holder.host == os.uname().nodename:
        return not is_alive(holder.pid)
    try:
        return time.time() - os.stat(path).st_mtime > _STALE_SECONDS
    except OSError:
        return True


def is_alive(pid: int) -> bool:
    """Whether there is such a process on this host."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
