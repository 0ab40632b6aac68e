"""One call of `uv` from start to end."""

import os
import sys

from uv_mutex.errors import CannotForkError, MutexError, go_on, say
from uv_mutex.shim import handover
from uv_mutex.uv import executable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from uv_mutex.locking.lock_file import LockTarget
    from uv_mutex.shim.native_launcher import NativeLauncher
    from uv_mutex.shim.work import Work
    from uv_mutex.uv.commandline import Call
    from uv_mutex.uv.project import Project

    #: The project of a call, and the locks that it needs.
    Found = tuple[Project | None, list[LockTarget]]

#: Without one of these words no call is guarded. option_table.GUARDED has the same words; importing that costs 0.5 ms.
_GUARDED_WORDS = ("run", "sync", "add", "remove", "upgrade", "version", "check")
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
        handover.exec_uv(uv, words)
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
        from uv_mutex.shim.session import LockSession

        self._uv = uv
        self._call = call
        self._project = project
        self._locks = locks
        self._ask_help = ask_help
        self._native: NativeLauncher | None = None
        if handover.is_below_native_launcher():
            from uv_mutex.shim import native_launcher

            self._native = native_launcher.NativeLauncher(uv, call, project, locks, find)
        self._session = LockSession(
            project,
            locks,
            command=f"uv {call.subcommand}",
            words=["uv", *call.words],
            quiet=call.quiet,
            waits_since=self._native.waits_since if self._native else 0.0,
            before_wait=self._before_wait if call.may_be_fresh else None,
        )
        self._note = freshness.FreshnessNote(project, call, os.environ, uv)
        self._work: Work | None = None

    def go(self) -> "NoReturn":
        """Take the locks, do the work, release them."""
        try:
            if self._call.may_be_fresh:
                self._work_unless_fresh()
            work = self._load_work()
            self._session.take(shared=False)
            work.end_like(work.run())
        except CannotForkError as error:
            self._session.release()
            go_on(str(error))
            handover.exec_uv(self._uv, self._call.words)
        except MutexError as error:
            if self._native:
                self._native.remove_gate()
            self._session.release(unfinished=True)
            self._session.write(prepared=False, status=error.status)
            raise

    def _work_unless_fresh(self) -> "NoReturn":
        """Let uv check a fresh environment without the lock, as others do; bring any other one up to date alone."""
        for _ in range(_LOOKS):
            self._session.retake(shared=True)
            if self._is_fresh():
                self._leave_ticket()
                if self._session.leave_record(self._call.subcommand, is_known=self._note.is_known_here):
                    self._note.keep_for_host(self._session.observed_lines)
                    self._hand_over(self._call.words, prepared=False)
            elif self._session.still_excludes():
                break
        self._before_wait()
        work = self._load_work()
        self._session.retake(shared=False)
        words, prepared = self._call.words, not self._is_fresh()
        if prepared:
            if self._call.subcommand == "sync":
                work.end_like(work.run(), prepared=True)
            if work.prepare():
                words = self._call.words_after_preparation(self._note.cancelling_options)
        else:
            self._leave_ticket()
        self._session.leave_record(self._call.subcommand)
        self._hand_over(words, prepared=prepared)

    def _load_work(self) -> "Work":
        """The work of this call. A fresh call that need not wait does without it, and without all that it imports."""
        if self._work is None:
            from uv_mutex.shim.work import Work

            self._work = Work(
                self._uv,
                self._call,
                self._project,
                self._locks[0],
                session=self._session,
                note=self._note,
                native=self._native,
                ask_help=self._ask_help,
            )
        return self._work

    def _before_wait(self, busy: "LockTarget | None" = None) -> None:
        """Let the native launcher wait in place of this process, if it can; else make ready to wait.

        :param busy: the lock that another call holds; None if an equal call may be about to prepare.
        """
        if self._native:
            self._native.wait(busy, self._session.wait_limit)
        self._load_work()

    def _is_fresh(self) -> bool:
        if self._note.fresh(self._session.observed_lines):
            return True
        self._load_work().raise_if_others_failed()
        return False

    def _leave_ticket(self) -> None:
        if self._native:
            self._native.leave_ticket(self._note, self._session.began)

    def _hand_over(self, words: list[str], *, prepared: bool) -> "NoReturn":
        """Release the lock and let the real uv replace this process. Whoever takes it next knows by its record."""
        self._session.write(prepared=prepared, status=None)
        self._session.release()
        handover.exec_uv(self._uv, words)
