"""How long a call may wait for its locks, and what else it wants of them."""

from uv_mutex.errors import MutexError
from uv_mutex.locking.lock_file import FLOCK, LEASE, LockTarget

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_LONGEST_TIMEOUT = 1e9


class WaitBudget:
    """How long a call waits, over all its locks.

    ``limit``: seconds; None for ever. ``waited``: seconds so far. ``quiet``: say nothing while waiting. ``backend``:
    the only kind of lock to take; None for the one that the file system has. ``command``: why it wants the locks.
    ``before_wait``: what to call before it waits for a lock as one of many; it need not return.
    """

    __slots__ = ("backend", "before_wait", "command", "limit", "quiet", "waited")

    def __init__(self, limit: float | None, *, quiet: bool, backend: str | None = None, command: str = "") -> None:
        self.limit = limit
        self.quiet = quiet
        self.backend = backend
        self.command = command
        self.before_wait: Callable[[LockTarget], None] | None = None
        self.waited = 0.0

    @classmethod
    def from_environment(cls, environ: "Mapping[str, str]", *, quiet: bool, command: str = "") -> "WaitBudget":
        """The budget that UV_MUTEX_TIMEOUT and UV_MUTEX_BACKEND ask for.

        :raises MutexError: if the one is no number of seconds, or the other no kind of lock.
        """
        backend = environ.get("UV_MUTEX_BACKEND") or None
        if backend not in (None, FLOCK, LEASE):
            raise MutexError(f"UV_MUTEX_BACKEND={backend} is neither flock nor lease; set one of them, or unset it")
        text = environ.get("UV_MUTEX_TIMEOUT")
        if not text:
            return cls(None, quiet=quiet, backend=backend, command=command)
        try:
            limit = float(text)
        except ValueError:
            limit = -1.0
        if not 0 <= limit < _LONGEST_TIMEOUT:
            raise MutexError(f"UV_MUTEX_TIMEOUT={text} is no number of seconds; set one such as 600, or unset it")
        return cls(limit, quiet=quiet, backend=backend, command=command)
