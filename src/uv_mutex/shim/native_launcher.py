"""The native launcher (src/launcher) as the process that started this one, and as the one that waits in its place."""

import os
import sys

from uv_mutex.environment.call_form import CallForm
from uv_mutex.environment.gate import Gate
from uv_mutex.shim import handover

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from uv_mutex.environment.freshness import FreshnessNote
    from uv_mutex.locking.lock_file import LockTarget
    from uv_mutex.uv.commandline import Call
    from uv_mutex.uv.project import Project

#: The option of Python (-X) in which it names the gate that it holds (a descriptor), and since when it waits: ticket.c.
_GATE_OPTION = "uv_mutex_gate"
#: The first word of a call that it gets back: launcher.c.
_CALL_TO_WAIT = "uv-mutex"
#: From the script that the native launcher starts to that launcher.
_TO_LAUNCHER = "../../../bin/uv"


class NativeLauncher:
    """The native launcher that has started this process, for one call.

    ``waits_since``: since when the call waits, by the monotonic clock in seconds; 0 if it had not to.
    """

    def __init__(
        self,
        uv: str,
        call: "Call",
        project: "Project",
        locks: "list[LockTarget]",
        find: "Callable[..., tuple[Project | None, list[LockTarget]]]",
    ) -> None:
        """
        :param uv: the path of the real uv.
        :param call: the call.
        :param project: its project.
        :param locks: the locks that it needs.
        :param find: finds project and locks once more; with ``to_look``, it creates nothing.
        """
        waited = _waited()
        gate, self.waits_since = waited or (-1, 0.0)
        self._call = call
        self._project = project
        self._locks = locks
        self._find = find
        self._form = CallForm(uv, call, project, locks, os.environ)
        self._gate = Gate(self._form, gate)
        self._may_wait = waited is None and not call.never_fresh

    def wait(self, busy: "LockTarget | None", limit: float | None) -> None:
        """Become the native launcher, which then waits, if it can and there is something to wait for. Else return.

        :param busy: the lock that another call holds; None if an equal call may be about to prepare.
        :param limit: how many seconds the call may wait; None for ever.
        """
        if (
            self._may_wait
            and busy in (None, self._locks[0])
            and self._gate.make(quiet=self._call.quiet, limit=limit)
            and (busy or not self._gate.enter())
        ):
            _exec_launcher(self._call.words)

    def leave_ticket(self, note: "FreshnessNote", began: float) -> None:
        """Let it answer the next call of this form, if it can and the environment is fresh.

        :param note: the note of the environment.
        :param began: when this call began, in seconds since 1970.
        """
        try:
            from uv_mutex.environment.ticket import Ticket
        except ImportError:  # the shim was uninstalled while this call waited
            return
        ticket = Ticket(self._form)
        if not ticket.is_wanted(began):
            return
        ticket.describe()
        try:
            project, locks = self._find(to_look=True)
        except OSError:  # the working directory is gone
            return
        same = project and project.folders == self._project.folders
        same = same and [lock.path for lock in locks] == [lock.path for lock in self._locks]
        if not (same and note.fresh() and ticket.write(note.compared_lines or ())):
            self._gate.remove()

    def remove_gate(self) -> None:
        """Let equal calls that wait go on side by side: this one leaves no ticket for them."""
        self._gate.remove()


def _waited() -> tuple[int, float] | None:
    """What the native launcher did before it started this process; None if it has not been at a gate.

    :returns: the descriptor of the gate that this process holds, -1 for none; since when the call waits, by the
        monotonic clock in seconds, 0 if it had not to.
    """
    fd, _, since = str(sys._xoptions.get(_GATE_OPTION, "")).partition("/")
    if not since:
        return None
    if int(fd) >= 0:
        os.set_inheritable(int(fd), False)
    return int(fd), float(since)


def _exec_launcher(words: list[str]) -> None:
    """Replace this process by the native launcher, which then waits. It never gives a call back twice.

    :param words: the words after ``uv``.
    """
    launcher = os.path.normpath(os.path.join(os.path.dirname(sys.argv[0]), _TO_LAUNCHER))
    if os.access(launcher, os.X_OK):  # the shim may be uninstalled by now
        handover.undo_python()
        try:
            os.execv(launcher, [_CALL_TO_WAIT, *words])
        except OSError:
            pass
