"""All the locks of one call: taken, released, and written down."""

import os
import time

from uv_mutex.locking import acquire, network_cache
from uv_mutex.records import history

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from uv_mutex.locking.acquire import Lock
    from uv_mutex.locking.lock_file import Place
    from uv_mutex.uv.project import Project


class Hold:
    """The locks that a call needs, and what it says of itself when it is done.

    It is said twice: in the project, for `uv-mutex status`, and in UV_MUTEX_LOG, if that is set.
    """

    __slots__ = (
        "_began",
        "_command",
        "_held",
        "_locks",
        "_log",
        "_patience",
        "_places",
        "_project",
        "_started",
        "_taken",
        "_words",
    )

    def __init__(
        self, project: "Project", places: "list[Place]", *, command: str, words: list[str], quiet: bool
    ) -> None:
        """
        :param project: the project that the call works on.
        :param places: the locks, in the order to take them.
        :param command: what they are held for, in a word or two; others can read it.
        :param words: the whole command line, for UV_MUTEX_LOG.
        :param quiet: say nothing while waiting.
        :raises MutexError: if a variable is set to what it can't be.
        """
        self._project = project
        self._places = places
        self._command = command
        self._words: list[str] | None = words
        self._patience = acquire.patience(os.environ, quiet=quiet, command=command)
        self._locks: list[Lock] = []
        self._began, self._started = time.time(), time.monotonic()
        self._taken = self._held = 0.0
        if os.environ.get("UV_MUTEX_LOG"):
            from uv_mutex.records import call_log  # now: once the call is done, the shim may be uninstalled

            self._log: Callable[..., None] | None = call_log.append
        else:
            self._log = None

    def take(self, *, shared: bool) -> None:
        """Take the locks, and mend what a holder that died left half done.

        :raises MutexError: if they can't be had.
        """
        for place in self._places:
            taken = acquire.take(place, self._patience, shared=shared)
            self._locks.append(taken)
            taken.record(self._command)
        network_cache.see_other_hosts_writes(self._project)
        if any(taken.after_death for taken in self._locks):
            from uv_mutex.environment import recovery

            recovery.remove_half_installed(self._project.environment)
        self._taken = time.monotonic()

    def outlast_leavers(self) -> None:
        """Wait for the uv of each `uv run` that had the lock before; call it before anything is changed."""
        from uv_mutex.shim import recent_runs

        for taken in self._locks:
            began = time.monotonic()
            if recent_runs.outlast(taken.place, self._project.environment):
                self._patience.waited += time.monotonic() - began

    def retake(self, *, shared: bool) -> None:
        """Let others in between."""
        self.release()
        self.take(shared=shared)

    def release(self, *, unfinished: bool = False) -> None:
        """Let others in.

        :param unfinished: what this call worked on may be half done.
        """
        if self._taken:  # measured now: others may run before this process does again
            self._held += time.monotonic() - self._taken
            self._taken = 0.0
        while self._locks:
            self._locks.pop().release(unfinished=unfinished)

    def marks(self) -> dict[str, str]:
        """The variable by which a call below this one knows that it need not wait."""
        outer = os.environ.get(acquire.HELD)
        marks = [taken.mark for taken in self._locks]
        return {acquire.HELD: " ".join([outer, *marks] if outer else marks)} if marks else {}

    def watch(self) -> "Callable[[], str | None] | None":
        """See :func:`uv_mutex.locking.acquire.watch`."""
        return acquire.watch(self._locks)

    def write(self, *, prepared: bool, status: int | None) -> None:
        """Write down what became of the call, once.

        :param prepared: whether this call brought the environment up to date under the lock.
        :param status: the exit status, as a shell gives it; None where uv replaces this process and ends later.
        """
        words, self._words = self._words, None
        if words is None or not self._places:  # the exec that was written down failed; or an outer call says it all
            return
        waited, held = self._patience.waited, self._held
        if self._taken:
            held += time.monotonic() - self._taken
        if waited:  # what else passed until it had the lock counts as well: began + waited + held is when it let go
            waited = max(waited, time.monotonic() - self._started - held)
        if waited or held:  # where nothing can be locked, nothing is to be changed either
            spent = {"waited": waited, "held": held}
            history.append(self._places[0], self._command, self._began, **spent, prepared=prepared, status=status)
        if self._log:
            self._log(
                os.environ["UV_MUTEX_LOG"],
                time=round(self._began, 6),
                command=" ".join(words),
                project=self._project.root,
                waited=round(waited, 6),
                held=round(held, 6),
                prepared=prepared,
                exit=status,
            )
