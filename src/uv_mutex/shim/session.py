"""All locks of one call: taken, released, and written down."""

import os
import time

from uv_mutex.locking import acquire, filesystem, lock_set, nesting, network_cache
from uv_mutex.locking.lock_file import LockFile
from uv_mutex.locking.wait_budget import WaitBudget
from uv_mutex.records import runs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from uv_mutex.locking.flock import HeldLock
    from uv_mutex.locking.lock_file import LockTarget
    from uv_mutex.locking.observed_lock import ObservedLock
    from uv_mutex.uv.project import Project


#: A shorter wait is not written down for `uv-mutex status`.
_LONG_WAIT_SECONDS = 0.05
#: How often a shared lock may be looked at, before it is taken. The first look can be one at what this host remembers.
_LOOKS = 2


class LockSession:
    """The locks that a call needs, and what it writes down about itself when it is done.

    It writes that twice: in the project, for `uv-mutex status`, and in UV_MUTEX_LOG, if that is set.
    """

    __slots__ = (
        "_began",
        "_budget",
        "_command",
        "_held",
        "_let_go",
        "_locks",
        "_log",
        "_looks",
        "_observed",
        "_project",
        "_started",
        "_taken",
        "_targets",
        "_words",
    )

    def __init__(
        self,
        project: "Project",
        targets: "list[LockTarget]",
        *,
        command: str,
        words: list[str],
        quiet: bool,
        waits_since: float = 0.0,
        before_wait: "Callable[[LockTarget], None] | None" = None,
    ) -> None:
        """
        :param project: the project that the call works on.
        :param targets: the locks; that of the project, if it is one of them, comes first.
        :param command: what they are held for, in a word or two; others can read it.
        :param words: the whole command line. It may hold passwords: only UV_MUTEX_LOG_ARGS has it written down.
        :param quiet: say nothing while waiting.
        :param waits_since: when the call began to wait, by the monotonic clock in seconds; 0 if it does not wait yet.
        :param before_wait: see :class:`uv_mutex.locking.wait_budget.WaitBudget`.
        :raises MutexError: if a variable has a value that it can't have.
        """
        self._project = project
        self._targets = targets
        self._command = command
        self._words: list[str] | None = words
        self._budget = WaitBudget.from_environment(os.environ, quiet=quiet, command=command)
        self._locks: list[HeldLock] = []
        self._looks = _LOOKS
        self._observed: list[ObservedLock] = []
        self._began, self._started = time.time(), time.monotonic()
        self._budget.before_wait = before_wait
        if 0 < waits_since < self._started:
            self._budget.waited = self._started - waits_since
            self._began -= self._budget.waited
            self._started = waits_since
        self._taken = self._held = self._let_go = 0.0
        if os.environ.get("UV_MUTEX_LOG"):
            from uv_mutex.records import call_log  # now: once the call is done, the shim may be uninstalled

            self._log: Callable[..., None] | None = call_log.append
        else:
            self._log = None

    @property
    def wait_limit(self) -> float | None:
        """How many seconds the call may wait; None for ever."""
        return self._budget.limit

    @property
    def began(self) -> float:
        """When the call began, in seconds since 1970."""
        return self._began

    def take(self, *, shared: bool) -> None:
        """Take the locks, and undo what a previous owner that died left half done.

        :param shared: as one of many. To undo something, the locks are taken alone for a moment.
        :raises MutexError: if they can't be taken.
        """
        try:
            self._take_all(shared=shared)
            if shared and any(lock.previous_owner_died for lock in self._locks):
                self.release()
                self._take_all(shared=False)
                self.release()
                self._take_all(shared=True)
        except BaseException:
            lock_set.release(self._locks)
            raise
        self._taken = time.monotonic()

    def _take_all(self, *, shared: bool) -> None:
        self._observed = self._observe() if shared else []
        if not self._observed:
            self._looks = 0  # once it was opened, a lock can have a stand-in, and others another one
        self._locks = [*self._observed] or lock_set.take(self._targets, self._budget, os.environ, shared=shared)
        self._reread(is_known=shared and not self._budget.waited)
        if not shared:
            self._undo_half_done()

    def _observe(self) -> "list[ObservedLock]":
        """The locks, by a look at each; none if they must be taken."""
        if self._looks < 1 or self._budget.backend or filesystem.is_local(self._project.root):
            return []
        from uv_mutex.locking import observed_lock

        found = [observed_lock.observe(target) for target in self._targets]
        seen = [lock for lock in found if lock]
        return seen if len(seen) == len(found) else []

    @property
    def observed_lines(self) -> list[str]:
        """The state of each lock as a line of a note, if this call only looks at the locks; none if it took them."""
        return [line for lock in self._observed for line in lock.lines]

    def _reread(self, *, is_known: bool) -> None:
        """Let this host see what another one wrote before it released the lock.

        :param is_known: probably nothing. Then the folders do: a note names what else counts, and each of that is
            reopened. If an old note, or none, is found, the lock is taken alone next.
        """
        root, member, environment = self._project.root, self._project.member, self._project.environment
        paths = [root, os.path.dirname(environment)]
        if not is_known:
            paths += [
                environment,
                f"{environment}/.uv-mutex",
                f"{root}/pyproject.toml",
                f"{root}/uv.lock",
                f"{member}/pyproject.toml",
            ]
        network_cache.reread(root, paths)

    def _undo_half_done(self) -> None:
        """Undo what a dead owner of one of the locks left half done, in the environment that it worked on."""
        if any(lock.previous_owner_died for lock in self._locks):
            self.outlast_recent_runs()
        for lock in self._locks:
            began, target = lock.previous_owner_began, lock.base
            if began is not None:
                from uv_mutex.environment import recovery

                # Below the project lock it may have worked on another environment than this call does.
                environment, lockfile = self._project.environment, self._project.lockfile
                if isinstance(target, LockFile) and target.name == "lock":
                    environment, lockfile = f"{target.above}/.venv", f"{target.above}/uv.lock"
                recovery.undo_half_done(environment, lockfile, began)
                lock.previous_owner_began = None

    def outlast_recent_runs(self) -> None:
        """Wait for recent calls whose uv still checks the environment; call it before anything is changed."""
        from uv_mutex.shim import recent_runs

        began = time.monotonic()
        if recent_runs.outlast(self._project.environment, [lock.base for lock in self._locks]):
            self._budget.waited += time.monotonic() - began

    def leave_record(self, subcommand: str, *, is_known: bool = False) -> bool:
        """Tell the next one that a uv is about to check the environment; call it before the locks are released.

        :param subcommand: that of this call.
        :param is_known: whether an earlier call of this host did so, and the locks have not changed since.
        :returns: False if another call took one of the locks alone before it could see the record, or if no record can
            be left and a lock needs one. Nothing is left then, and the locks must be taken anew.
        """
        environment, targets = self._project.environment, [lock.base for lock in self._locks]
        is_recorded = runs.append(environment, targets, runs.RUN if subcommand == "run" else runs.SYNC)
        if not is_recorded and any(lock.needs_record for lock in self._locks):
            self._looks = 0
            return False
        for observed in self._observed:
            observed.levels_known = is_known
        if self.still_excludes():
            return True
        runs.append(environment, targets, runs.VOID)
        return False

    def still_excludes(self) -> bool:
        """Whether nobody can have taken one of the shared locks alone since. If somebody has, take all of them anew."""
        holds = all(lock.still_excludes() for lock in self._locks)
        if not holds:
            self._looks -= 1
        return holds

    def retake(self, *, shared: bool) -> None:
        """Let others in between."""
        self.release()
        self.take(shared=shared)

    def release(self, *, unfinished: bool = False) -> None:
        """Let others in.

        :param unfinished: what this call worked on may be half done.
        """
        if self._taken:  # measured now: others may run before this process does again
            self._let_go = time.monotonic()
            self._held += self._let_go - self._taken
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
        # The exec that was written down failed.
        if words is None or not self._targets:
            return
        waited, held = self._budget.waited, self._held
        end = self._let_go if self._held and not self._taken else time.monotonic()
        if self._taken:
            held += end - self._taken
        if waited:  # the rest of the time until it had the lock counts as well: began + waited + held is the release
            waited = max(waited, end - self._started - held)
        # A fresh call that did not wait leaves nothing: it must not change the project's tree. And where nothing could
        # be locked, nothing was changed.
        worked = prepared or (status is not None and held > 0)
        if waited >= _LONG_WAIT_SECONDS or worked:
            self._add_to_history(waited=waited, held=held, prepared=prepared, status=status)
        if self._log:
            self._log(
                os.environ["UV_MUTEX_LOG"],
                time=round(self._began, 6),
                command=" ".join(words) if os.environ.get("UV_MUTEX_LOG_ARGS") == "1" else self._command,
                project=self._project.root,
                waited=round(waited, 6),
                held=round(held, 6),
                prepared=prepared,
                exit=status,
            )

    def _add_to_history(self, *, waited: float, held: float, prepared: bool, status: int | None) -> None:
        try:
            from uv_mutex.records import history
        except ImportError:  # the shim was uninstalled meanwhile, and with it the command that shows the history
            return
        history.append(
            self._targets[0], self._command, self._began, waited=waited, held=held, prepared=prepared, status=status
        )
