"""UV_MUTEX_LOG: one JSON line for each guarded call."""

import json
import os
import time

from uv_mutex.errors import say


class Entry:
    """The line of this call, written when it ends or hands over to uv."""

    def __init__(self, path: str, words: list[str], root: str) -> None:
        """
        :param path: the file to append to; it may be shared by many hosts.
        :param words: the words after ``uv``.
        :param root: the project's root.
        """
        self._path = path
        self._words = words
        self._root = root
        self._began = time.time()
        self._taken = 0.0
        self._held = 0.0
        self._written = False

    def taken(self) -> None:
        """The locks are ours now."""
        self._taken = time.monotonic()

    def released(self) -> None:
        """The locks are free again."""
        if self._taken:
            self._held += time.monotonic() - self._taken
            self._taken = 0.0

    def write(self, *, waited: float, prepared: bool, status: int | None) -> None:
        """Append the line. A file that can't be written costs one warning, not the call.

        :param waited: seconds spent waiting for locks.
        :param prepared: whether this call brought the environment up to date under the lock.
        :param status: the exit status, as a shell gives it; None where uv replaces this process and ends later.
        """
        if self._written:  # the exec that it announced failed
            return
        self._written = True
        line = {
            "time": round(self._began, 6),
            "host": os.uname().nodename,
            "pid": os.getpid(),
            "command": " ".join(["uv", *self._words]),
            "project": self._root,
            "waited": round(waited, 6),
            "held": round(self._held, 6),
            "prepared": prepared,
            "exit": status,
        }
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o666)
            try:
                os.write(fd, json.dumps(line).encode() + b"\n")
            finally:
                os.close(fd)
        except OSError as error:
            say(f"cannot write UV_MUTEX_LOG={self._path}: {error.strerror}; the call goes on without a log line")
