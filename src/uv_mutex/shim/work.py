"""The work of a call that finds no fresh environment: the real uv does it as a child, under the lock alone.

This is imported before such a call waits, since the shim may be uninstalled meanwhile.
"""

from uv_mutex import terminal
from uv_mutex.errors import MutexError
from uv_mutex.records.failed_preparation import FailureFile
from uv_mutex.shim import child, preparation, process_room

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from uv_mutex.environment.freshness import FreshnessNote
    from uv_mutex.locking.lock_file import LockTarget
    from uv_mutex.shim.child import Ended
    from uv_mutex.shim.native_launcher import NativeLauncher
    from uv_mutex.shim.preparation import Preparation
    from uv_mutex.shim.session import LockSession
    from uv_mutex.uv.commandline import Call
    from uv_mutex.uv.project import Project

#: From this exit status on, as a shell gives it, a signal ended the call.
_KILLED = 128


class Work:
    """The work of one call."""

    def __init__(
        self,
        uv: str,
        call: "Call",
        project: "Project",
        lock: "LockTarget",
        *,
        session: "LockSession",
        note: "FreshnessNote",
        native: "NativeLauncher | None",
        ask_help: "Callable[[str], str]",
    ) -> None:
        """
        :param uv: the path of the real uv.
        :param call: the call.
        :param project: its project.
        :param lock: the first of its locks.
        :param session: all of them.
        :param note: the note of the environment.
        :param native: the native launcher above this process; None if there is none.
        :param ask_help: returns the real uv's ``--help`` of a subcommand.
        """
        self._uv = uv
        self._call = call
        self._project = project
        self._session = session
        self._note = note
        self._native = native
        self._ask_help = ask_help
        self._failures = FailureFile(lock, session.began)

    def raise_if_others_failed(self) -> None:
        """Give up if other calls did this work while this one waited, and failed twice. Call it with the lock in hand.

        :raises MutexError: if so; the lock is released then.
        """
        failed = self._failures.while_waiting(self._failure_digest)
        if failed is None:
            return
        self._session.release()
        raise MutexError(
            f"while this call waited, {terminal.printable(f'{failed.command} (pid {failed.pid} on {failed.host})')} "
            f"failed to prepare the same environment with exit status {failed.status}, as a call before it did; "
            "run this call again to see the error",
            failed.status,
        )

    def prepare(self) -> bool:
        """Bring the environment up to date by the real uv itself; return whether it did.

        If that fails where the user's call would fail too, so does the call.
        """
        way = self._preparation()
        ended = self.run(way)
        if not ended.ok and (ended.signal or way.is_the_call):
            process_room.check(self._uv)
            self.end_like(ended, prepared=True)
        return ended.ok

    def _preparation(self) -> "Preparation":
        return preparation.preparation(self._call, self._project, self._ask_help)

    def run(self, way: "Preparation | None" = None) -> "Ended":
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
                self.end_like(ended, prepared=True)
            if ended.ok:
                self._note.write()
        if self._native:
            self._native.leave_ticket(self._note, self._session.began)

    def _run_child(self, words: list[str], *, stdin: bytes | None = None, silent: bool = False) -> "Ended":
        marks, lost = self._session.marks(), self._session.lost_lock_check()
        return child.run_uv(self._uv, words, extra_env=marks, stdin=stdin, silent=silent, lost=lost)

    def end_like(self, ended: "Ended", *, prepared: bool = False) -> "NoReturn":
        """Release the locks, and end as uv did.

        :param ended: how it ended.
        :param prepared: whether it brought the environment up to date, or tried to.
        """
        if self._native and not ended.ok:
            self._native.remove_gate()
        self._session.release(unfinished=bool(ended.signal))
        self._session.write(prepared=prepared, status=ended.shell_status)
        child.end_like(ended)
