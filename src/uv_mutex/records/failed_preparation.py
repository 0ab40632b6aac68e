"""The last failed preparation of an environment, so that those who waited for it need not fail one after the other.

It is one line in a file beside the lock, `NAME.failed`:

    SEQUENCE TIMES DIGEST STATUS PID HOST COMMAND

The sequence number grows with each failure. TIMES is how often in a row it failed with the same inputs. No clock is
compared: a call that reads a higher number than when it began knows that a preparation failed while it waited.
"""

import os

from uv_mutex import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from uv_mutex.locking.lock_file import LockTarget

_SUFFIX = ".failed"
#: How the name of a file begins that becomes the file in a moment.
TEMPORARY_PREFIX = ".failed."
_MOST_BYTES = 4096
#: After so many failures in a row those who wait don't try again.
_TIMES = 2


class FailedPreparation:
    """One failure. ``status``: the exit status of uv. ``pid``, ``host`` and ``command``: the call that failed."""

    __slots__ = ("command", "digest", "host", "pid", "sequence", "status", "times")

    def __init__(self, line: str) -> None:
        """
        :raises ValueError: if that is no line of such a file.
        """
        sequence, times, self.digest, status, pid, self.host, self.command = line.split(" ", 6)
        self.sequence, self.times, self.status, self.pid = map(int, (sequence, times, status, pid))


class FailureFile:
    """The file beside one lock, as a call uses it that is about to wait for the lock. Nothing here raises."""

    __slots__ = ("_first", "_target")

    def __init__(self, target: "LockTarget", since: float = float("inf")) -> None:
        """
        :param target: the lock. Beside the folder of an environment there is no such file.
        :param since: when the call began to wait, in seconds since 1970; a failure that is newer came meanwhile.
        """
        self._target = target
        found = self._read()
        self._first = found.sequence if found and not self._is_newer(since) else 0

    def while_waiting(self, digest: "Callable[[], str | None]") -> FailedPreparation | None:
        """The failure that this call would only repeat; None if it must try. Call it with the lock in hand.

        :param digest: tells the inputs of this call's preparation; None if they can't be told.
        """
        found = self._read()
        if found and found.times >= _TIMES and found.sequence > self._first and found.digest == digest():
            return found
        return None

    def add(self, digest: str | None, status: int, command: str) -> None:
        """Write down that a preparation failed. Call it under the exclusive lock.

        :param digest: its inputs; None if they can't be told.
        :param status: the exit status of uv.
        :param command: the call, such as ``uv run``.
        """
        if digest is None or self._target.folder is None:
            return
        before = self._read()
        sequence = (before.sequence if before else 0) + 1
        times = before.times + 1 if before and before.digest == digest else 1
        line = f"{sequence} {times} {digest} {status} {os.getpid()} {os.uname().nodename} {command}\n"
        temporary = f"{self._target.folder}/{TEMPORARY_PREFIX}{os.urandom(8).hex()}"
        try:
            files.create(temporary, self._target.file_mode(), line.encode("utf-8", "surrogateescape"))
            os.rename(temporary, self._path)
        except OSError:
            try:
                os.unlink(temporary)
            except OSError:
                pass

    def remove(self) -> None:
        """A preparation succeeded. Call it under the exclusive lock."""
        if self._target.folder is not None:
            try:
                os.unlink(self._path)
            except OSError:
                pass

    def _is_newer(self, since: float) -> bool:
        try:
            return os.stat(self._path).st_mtime > since
        except OSError:
            return False

    @property
    def _path(self) -> str:
        return self._target.path + _SUFFIX

    def _read(self) -> FailedPreparation | None:
        if self._target.folder is None:
            return None
        text = files.read_or_empty(self._path, _MOST_BYTES, follow=False).decode("utf-8", "replace")
        try:
            return FailedPreparation(text.rstrip("\n")) if text else None
        except ValueError:
            return None
