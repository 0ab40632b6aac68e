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
        self._taken: float | None = None
        self._waited = 0.0

    def taken(self, waited: float) -> None:
        """The lock is ours, after ``waited`` seconds of waiting in all."""
        self._waited = waited
        if self._taken is None:
            self._taken = time.monotonic()

    def write(self, *, prepared: bool, status: int | None) -> None:
        """Append the line. A file that can't be written costs one warning, not the call.

        :param prepared: whether this call brought the environment up to date under the lock.
        :param status: the exit status, as a shell gives it; None where uv replaces this process and ends later.
        """
        held = 0.0 if self._taken is None else time.monotonic() - self._taken
        line = {
            "time": round(self._began, 6),
            "host": os.uname().nodename,
            "pid": os.getpid(),
            "command": " ".join(["uv", *self._words]),
            "project": self._root,
            "waited": round(self._waited, 6),
            "held": round(held, 6),
            "prepared": prepared,
            "exit": status,
        }
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                os.write(fd, json.dumps(line).encode() + b"\n")
            finally:
                os.close(fd)
        except OSError as error:
            say(f"cannot write UV_MUTEX_LOG={self._path}: {error.strerror}; the call goes on without a log line")
