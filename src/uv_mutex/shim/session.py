"""All locks of one call: taken, released, and written down."""

import os
import time

from uv_mutex.locking import acquire, nesting, network_cache
from uv_mutex.locking.lock_file import LockFile
from uv_mutex.locking.wait import WaitBudget
from uv_mutex.records import history

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from uv_mutex.locking.flock import HeldLock
    from uv_mutex.locking.lock_file import LockTarget
    from uv_mutex.uv.project import Project


class LockSession:
    """The locks that a call needs, and what it writes down about itself when it is done.

    It writes that twice: in the project, for `uv-mutex status`, and in UV_MUTEX_LOG, if that is set.
    """

    __slots__ = (
        "_began",
        "_budget",
        "_command",
        "_held",
        "_locks",
        "_log",
        "_project",
        "_started",
        "_taken",
        "_targets",
        "_words",
    )

    def __init__(
        self, project: "Project", targets: "list[LockTarget]", *, command: str, words: list[str], quiet: bool
    ) -> None:
        """
        :param project: the project that the call works on.
        :param targets: the locks, in the order to take them.
        :param command: what they are held for, in a word or two; others can read it.
        :param words: the whole command line, for UV_MUTEX_LOG.
        :param quiet: say nothing while waiting.
        :raises MutexError: if a variable has a value that it can't have.
        """
        self._project = project
        self._targets = targets
        self._command = command
        self._words: list[str] | None = words
        self._budget = WaitBudget.from_environment(os.environ, quiet=quiet, command=command)
        self._locks: list[HeldLock] = []
        self._began, self._started = time.time(), time.monotonic()
        self._taken = self._held = 0.0
        if os.environ.get("UV_MUTEX_LOG"):
            from uv_mutex.records import call_log  # now: once the call is done, the shim may be uninstalled

            self._log: Callable[..., None] | None = call_log.append
        else:
            self._log = None

    def take(self, *, shared: bool) -> None:
        """Take the locks, and undo what a previous owner that died left half done.

        :param shared: as one of many. To undo something, the locks are taken alone for a moment.
        :raises MutexError: if they can't be taken.
        """
        self._take_all(shared=shared)
        if shared and any(lock.previous_owner_died for lock in self._locks):
            self.release()
            self._take_all(shared=False)
            self.release()
            self._take_all(shared=True)
        self._taken = time.monotonic()

    def _take_all(self, *, shared: bool) -> None:
        for target in self._targets:
            lock = acquire.take(target, self._budget, shared=shared)
            self._locks.append(lock)
            lock.record(self._command)
        root, member = self._project.root, self._project.member
        network_cache.reread(root, [f"{root}/pyproject.toml", f"{root}/uv.lock", f"{member}/pyproject.toml"])
        if not shared:
            self._undo_half_done()

    def _undo_half_done(self) -> None:
        """Undo what a dead owner of one of the locks left half done, in the environment that it worked on."""
        for lock in self._locks:
            began, target = lock.previous_owner_began, lock.target
            if began is not None and isinstance(target, LockFile):
                from uv_mutex.environment import recovery

                # Below the project lock it may have worked on another environment than this call does.
                owns_venv = target.name == "lock"
                environment = f"{target.above}/.venv" if owns_venv else self._project.environment
                lockfile = f"{target.above}/uv.lock" if owns_venv else self._project.lockfile
                recovery.undo_half_done(environment, lockfile, began)

    def outlast_recent_runs(self) -> None:
        """Wait for recent `uv run` calls whose uv still checks the environment; call it before anything is changed."""
        from uv_mutex.shim import recent_runs

        for lock in self._locks:
            began = time.monotonic()
            if recent_runs.outlast(lock.target, self._project.environment):
                self._budget.waited += time.monotonic() - began

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
        outer = os.environ.get(nesting.HELD)
        marks = [lock.mark for lock in self._locks]
        return {nesting.HELD: " ".join([outer, *marks] if outer else marks)} if marks else {}

    def lost_lock_check(self) -> "Callable[[], str | None] | None":
        """See :func:`uv_mutex.locking.acquire.lost_lock_check`."""
        return acquire.lost_lock_check(self._locks)

    def write(self, *, prepared: bool, status: int | None) -> None:
        """Write down what became of the call, once.

        :param prepared: whether this call brought the environment up to date under the lock.
        :param status: the exit status, as a shell gives it; None where uv replaces this process and ends later.
        """
        words, self._words = self._words, None
        # The exec that was written down failed; or an outer call holds all locks and writes for this one.
        if words is None or not self._targets:
            return
        waited, held = self._budget.waited, self._held
        if self._taken:
            held += time.monotonic() - self._taken
        if waited:  # the rest of the time until it had the lock counts as well: began + waited + held is the release
            waited = max(waited, time.monotonic() - self._started - held)
        if waited or held:  # where nothing can be locked, nothing can be changed either
            history.append(
                self._targets[0],
                self._command,
                self._began,
                waited=waited,
                held=held,
                prepared=prepared,
                status=status,
            )
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
