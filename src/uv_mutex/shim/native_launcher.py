"""The native launcher (src/launcher) as the process that started this one, and as the one that waits in its place."""

import os
import sys

from uv_mutex.shim import child

#: The option of Python (-X) in which it names the gate that it holds (a descriptor), and since when it waits: ticket.c.
_GATE_OPTION = "uv_mutex_gate"
#: The first word of a call that it gets back: launcher.c.
_CALL_TO_WAIT = "uv-mutex"
#: From the script that the native launcher starts to that launcher.
_TO_LAUNCHER = "../../../bin/uv"


def is_above() -> bool:
    """Whether the native launcher has started this process."""
    return child.IGNORED_OPTION in sys._xoptions


def native_wait() -> tuple[int, float] | None:
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


def exec_launcher(words: list[str]) -> None:
    """Replace this process by the native launcher, which then waits. It never gives a call back twice.

    :param words: the words after ``uv``.
    """
    launcher = os.path.normpath(os.path.join(os.path.dirname(sys.argv[0]), _TO_LAUNCHER))
    if os.access(launcher, os.X_OK):  # the shim may be uninstalled by now
        child.undo_python()
        try:
            os.execv(launcher, [_CALL_TO_WAIT, *words])
        except OSError:
            pass
