"""The turnstile in front of a lock: a second lock, `NAME.turn`, so that shared holders can't keep an exclusive one out.

The kernel lets shared holders in while an exclusive one waits, so a stream of them starves it. Whoever wants a lock
exclusively and has to wait keeps its turnstile as long as it waits. All others pass through the turnstile first.
"""

import os

from uv_mutex import files
from uv_mutex.errors import MutexError
from uv_mutex.locking.flock import try_flock
from uv_mutex.locking.lock_file import LockTarget

TYPE_CHECKING = False
if TYPE_CHECKING:
    from uv_mutex.locking.wait import Wait

_NONE = -1


class Turnstile:
    """The turnstile of one lock, for one attempt to take that lock; as a context, which leaves it in the end.

    Where it can't be made or locked there is none: it makes the lock fair, not safe.
    """

    __slots__ = ("_fd", "_file", "_is_passed", "_shared")

    def __init__(self, target: LockTarget, *, shared: bool) -> None:
        """
        :param target: the lock.
        :param shared: whether the lock is wanted as one of many.
        """
        self._file = target.beside("turn")
        self._shared = shared
        self._is_passed = False
        try:
            self._fd = files.open_file(self._file.path, os.O_RDWR)
        except OSError:  # nobody has waited yet
            self._fd = _NONE

    def __enter__(self) -> "Turnstile":
        return self

    def __exit__(self, *_error: object) -> None:
        self._close()

    def is_free(self) -> bool:
        """Whether nobody waits in the turnstile. If so, this call has passed through."""
        try:
            if self._fd != _NONE and not try_flock(self._fd, shared=self._shared):
                return False
        except OSError:
            self._close()
        self._is_passed = True
        if self._shared:
            self._close()
        return True

    def wait(self, wait: "Wait") -> None:
        """Wait until nobody else waits in the turnstile. A call that wants the lock exclusively then stays in it.

        :param wait: the wait for the lock.
        """
        if self._fd == _NONE and not self._shared:
            self._is_passed = False
            try:
                self._fd = self._file.open()
            except MutexError:
                return
        if not self._is_passed:
            try:
                wait.wait_for_flock(self._file, self._fd, shared=self._shared)
            except OSError:
                pass
        if self._shared:
            self._close()

    def _close(self) -> None:
        if self._fd != _NONE:
            os.close(self._fd)
            self._fd = _NONE
