"""One call of `uv` from start to end."""

import os
import sys

from uv_mutex import terminal
from uv_mutex.errors import MutexError, go_on, say
from uv_mutex.shim import child, native_launcher
from uv_mutex.uv import executable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from uv_mutex.locking.lock_file import LockTarget
    from uv_mutex.shim.child import Ended
    from uv_mutex.shim.preparation import Preparation
    from uv_mutex.uv.commandline import Call
    from uv_mutex.uv.project import Project

    #: The project of a call, and the locks that it needs.
    Found = tuple[Project | None, list[LockTarget]]

#: Without one of these words no call is guarded. option_table.GUARDED has the same words; importing that costs 0.5 ms.
_GUARDED_WORDS = ("run", "sync", "add", "remove", "upgrade", "version", "check")
#: From this exit status on, as a shell gives it, a signal ended the call.
_KILLED = 128
_OFF = ("off", "0", "false", "no")
#: How often a call that finds the environment fresh looks again, because another call changed something meanwhile.
_LOOKS = 3


def main(words: list[str]) -> "NoReturn":
    """Do what the launcher was called for; end by exec, or exit as uv would.

    :param words: the words after ``uv``.
    """
    try:
        if sys.platform != "linux":
            raise MutexError(f"{sys.platform} is not supported; remove {sys.argv[0]}, or run it on Linux")
        uv = executable.find(os.environ, _passed())
        also = os.environ.get("UV_MUTEX_ALSO", "").split()
        if not _is_off() and any(word in _GUARDED_WORDS or word in also for word in words):
            try:
                _guard(uv, words, also)
            except OSError as error:  # too few descriptors, or too little memory
                go_on(f"cannot guard this call: {error}; mend that")
        child.exec_uv(uv, words)
    except MutexError as error:
        say(str(error))
        sys.exit(error.status)


def _is_off() -> bool:
    return os.environ.get("UV_MUTEX", "").lower() in _OFF


def _passed() -> "Sequence[str]":
    """The programs that start the shim in place of the real uv."""
    if executable.PASSED not in os.environ:
        return ()
    from uv_mutex.shim import loop_guard

    return loop_guard.passed(os.environ)


def _guard(uv: str, words: list[str], also: list[str]) -> None:
    """Take the call through the lock if it can change the project; return if it can't.

    :param uv: the path of the real uv.
    :param words: the words after ``uv``.
    :param also: further subcommands that the user wants to be guarded.
    :raises MutexError: if the lock can't be taken.
    """
    from uv_mutex.shim.project_locks import project_locks
    from uv_mutex.uv import commandline, project
    from uv_mutex.uv.settings import Settings

    asked: dict[str, str] = {}

    def ask_help(subcommand: str) -> str:
        if subcommand not in asked:
            asked[subcommand] = executable.help_text(uv, [subcommand] if subcommand else [])
        return asked[subcommand]

    call = commandline.parse(words, ask_help, lambda *option: executable.option_takes_value(uv, *option), also)
    if call is None:
        return
    settings = Settings(os.environ, ask_help)

    def find(*, to_look: bool = False) -> "Found":
        found = project.find(
            call,
            settings,
            lambda wanted: executable.version_at_least(uv, wanted),
            lambda start: executable.workspace_root(uv, start),
        )
        keeps = project.keeps_lockfile(call, settings)
        return found, project_locks(found, keeps_lockfile=keeps, to_look=to_look) if found else []

    try:
        found, locks = find()
    except OSError:  # the working directory is gone, and uv says so
        return
    if found and locks:
        call.never_fresh = call.never_fresh or found.isolated
        _GuardedCall(uv, call, found, locks, ask_help, find=find).go()


class _GuardedCall:
    """A call that needs locks."""

    def __init__(
        self,
        uv: str,
        call: "Call",
        project: "Project",
        locks: "list[LockTarget]",
        ask_help: "Callable[[str], str]",
        *,
        find: "Callable[..., Found]",
    ) -> None:
        from uv_mutex.environment import freshness
        from uv_mutex.environment.call_form import CallForm
        from uv_mutex.environment.gate import Gate
        from uv_mutex.records.failed_preparation import FailureFile
        from uv_mutex.shim.session import LockSession

        self._uv = uv
        self._call = call
        self._project = project
        self._locks = locks
        self._find = find
        command = f"uv {call.subcommand}"
        waited = native_launcher.native_wait()
        gate, since = waited or (-1, 0.0)
        self._form = CallForm(uv, call, project, locks, os.environ)
        self._gate = Gate(self._form, gate)
        self._may_wait_natively = waited is None and native_launcher.is_above() and not call.never_fresh
        self._session = LockSession(
            project,
            locks,
            command=command,
            words=["uv", *call.words],
            quiet=call.quiet,
            waits_since=since,
            hand_over=self._wait_natively if call.may_be_fresh else None,
        )
        self._ask_help = ask_help
        self._note = freshness.FreshnessNote(project, call, os.environ, uv)
        self._failures = FailureFile(locks[0], self._session.began)

    def go(self) -> "NoReturn":
        """Take the locks, do the work, release them."""
        try:
            if self._call.may_be_fresh:
                self._work_unless_fresh()
            self._session.take(shared=False)
            self._end_like(self._work_under_lock())
        except child.CannotForkError as error:
            self._session.release()
            go_on(str(error))
            child.exec_uv(self._uv, self._call.words)
        except MutexError as error:
            self._gate.remove()
            self._session.release(unfinished=True)
            self._session.write(prepared=False, status=error.status)
            raise

    def _work_unless_fresh(self) -> "NoReturn":
        """Let uv check a fresh environment without the lock, as others do; bring any other one up to date alone."""
        for _ in range(_LOOKS):
            self._session.retake(shared=True)
            if not self._is_fresh():
                break
            self._leave_ticket()
            if self._session.leave_record(self._call.subcommand):
                self._hand_over(self._call.words, prepared=False)
        self._wait_natively()
        self._session.retake(shared=False)
        words, prepared = self._call.words, not self._is_fresh()
        if prepared:
            if self._call.subcommand == "sync":
                self._end_like(self._work_under_lock(), prepared=True)
            if self._prepare():
                words = self._call.words_after_preparation(self._note.cancelling_options)
        else:
            self._leave_ticket()
        self._session.leave_record(self._call.subcommand)
        self._hand_over(words, prepared=prepared)

    def _wait_natively(self, busy: "LockTarget | None" = None) -> None:
        """Become the native launcher, which then waits, if it can and there is something to wait for. Else return.

        :param busy: the lock that another call holds; None if an equal call may be about to prepare.
        """
        if (
            self._may_wait_natively
            and busy in (None, self._locks[0])
            and self._gate.make(quiet=self._call.quiet, limit=self._session.wait_limit)
            and (busy or not self._gate.enter())
        ):
            native_launcher.exec_launcher(self._call.words)

    def _is_fresh(self) -> bool:
        if self._note.fresh():
            return True
        failed = self._failures.while_waiting(self._failure_digest)
        if failed is None:
            return False
        self._session.release()
        raise MutexError(
            f"while this call waited, {terminal.printable(f'{failed.command} (pid {failed.pid} on {failed.host})')} "
            f"failed to prepare the same environment with exit status {failed.status}, as a call before it did; "
            "run this call again to see the error",
            failed.status,
        )

    def _leave_ticket(self) -> None:
        """Let the native launcher answer the next call of this form, if it can and the environment is fresh."""
        if not native_launcher.is_above():
            return
        try:
            from uv_mutex.environment.ticket import Ticket
        except ImportError:  # the shim was uninstalled while this call waited
            return
        ticket = Ticket(self._form)
        if not ticket.is_wanted(self._session.began):
            return
        ticket.describe()
        try:
            project, locks = self._find(to_look=True)
        except OSError:  # the working directory is gone
            return
        same = project and project.folders == self._project.folders
        same = same and [lock.path for lock in locks] == [lock.path for lock in self._locks]
        if not (same and self._note.fresh() and ticket.write(self._note.compared_lines or ())):
            self._gate.remove()

    def _hand_over(self, words: list[str], *, prepared: bool) -> "NoReturn":
        """Release the lock and let the real uv replace this process. Whoever takes it next knows by its record."""
        self._session.write(prepared=prepared, status=None)
        self._session.release()
        child.exec_uv(self._uv, words)

    def _prepare(self) -> bool:
        """Bring the environment up to date by the real uv itself; return whether it did.

        If that fails where the user's call would fail too, so does the call.
        """
        way = self._preparation()
        ended = self._work_under_lock(way)
        if not ended.ok and (ended.signal or way.is_the_call):
            from uv_mutex.shim import process_room

            process_room.check(self._uv)
            self._end_like(ended, prepared=True)
        return ended.ok

    def _preparation(self) -> "Preparation":
        from uv_mutex.shim import preparation

        return preparation.preparation(self._call, self._project, self._ask_help)

    def _work_under_lock(self, way: "Preparation | None" = None) -> "Ended":
        """Run uv, and note what became of a preparation.

        :param way: how to prepare for the call; None to run the call itself.
        """
        self._session.outlast_recent_runs()
        self._note.before_preparation()
        # Found out now: once uv has worked, the shim may be uninstalled.
        again = (way or self._preparation()) if self._call.may_be_fresh else None
        if way is None:
            ended = self._run_child(self._call.words)
        else:
            ended = self._run_child(way.words, stdin=way.stdin, silent=not way.is_the_call)
        if again:
            if ended.ok:
                self._failures.remove()
                self._note_as_fresh(again)
            elif ended.shell_status < _KILLED and (way is None or way.is_the_call):
                self._failures.add(self._failure_digest(), ended.status, f"uv {self._call.subcommand}")
        return ended

    def _failure_digest(self) -> str | None:
        words = self._call.words if self._call.subcommand == "sync" else self._preparation().words
        return self._note.inputs_digest(words)

    def _note_as_fresh(self, way: "Preparation") -> None:
        """Note the environment that a uv found unchanged: this uv, or a second one that says nothing."""
        if not self._note.write():
            self._note.before_preparation()
            ended = self._run_child(way.again, stdin=way.stdin, silent=not way.is_the_call)
            if ended.signal:
                self._end_like(ended, prepared=True)
            if ended.ok:
                self._note.write()
        self._leave_ticket()

    def _run_child(self, words: list[str], *, stdin: bytes | None = None, silent: bool = False) -> "Ended":
        marks, lost = self._session.marks(), self._session.lost_lock_check()
        return child.run_uv(self._uv, words, extra_env=marks, stdin=stdin, silent=silent, lost=lost)

    def _end_like(self, ended: "Ended", *, prepared: bool = False) -> "NoReturn":
        if not ended.ok:
            self._gate.remove()
        self._session.release(unfinished=bool(ended.signal))
        self._session.write(prepared=prepared, status=ended.shell_status)
        child.end_like(ended)
