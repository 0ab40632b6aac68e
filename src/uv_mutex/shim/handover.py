"""Hand the process over to the real uv, by exec.

Most calls end here a few milliseconds after they began, and need nothing of what runs uv as a child.
"""

import os
import sys

from uv_mutex.errors import CANNOT_EXEC, MutexError
from uv_mutex.uv import executable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import NoReturn
else:
    import _signal  # the part of signal in C, and all that is needed here; the rest imports enum, which takes 3 ms

#: The signals that Python ignores when it starts. They would stay ignored after an exec.
_IGNORED_BY_PYTHON = ("SIGPIPE", "SIGXFSZ")
#: The option of Python (-X) in which the native launcher names those of them that its caller ignored.
IGNORED_OPTION = "uv_mutex_ignored"
#: The values that Python gives to LC_CTYPE when it starts in a C locale (PEP 538).
_COERCED = ("C.UTF-8", "C.utf8", "UTF-8")


def exec_uv(uv: str, words: list[str]) -> "NoReturn":
    """Replace this process by the real uv, which then sees what it would have seen without the shim.

    :param uv: path of the real uv.
    :param words: the words after ``uv``.
    :raises MutexError: if the kernel won't start it.
    """
    undo_python()
    guard_against_loop(uv)
    try:
        # execv, not execve: it passes on the environment block as the kernel gave it, with its order, its
        # duplicates and the entries without "=" that os.environ can't hold.
        os.execv(uv, ["uv", *words])
    except OSError as error:
        raise cannot_exec(uv, error) from None


def is_below_native_launcher() -> bool:
    """Whether the native launcher has started this process."""
    return IGNORED_OPTION in sys._xoptions


def undo_python() -> None:
    """Undo what the interpreter changed in this process when it started."""
    # Without the native launcher nobody knows what the caller ignored: the default is the likelier.
    ignored = str(sys._xoptions.get(IGNORED_OPTION, "")).split(",")
    for name in _IGNORED_BY_PYTHON:
        _signal.signal(getattr(_signal, name), _signal.SIG_IGN if name in ignored else _signal.SIG_DFL)
    if os.environ.get("LC_CTYPE") in _COERCED:
        _restore_lc_ctype()


def _restore_lc_ctype() -> None:
    try:
        with open("/proc/self/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:  # no /proc: Python coerces only where LC_CTYPE said nothing or "C"
        entries = []
    values = [entry[9:] for entry in entries if entry.startswith(b"LC_CTYPE=")]
    if values:
        os.putenv(b"LC_CTYPE", values[0])
    else:
        os.unsetenv("LC_CTYPE")


def guard_against_loop(uv: str) -> None:
    """Leave the mark of :mod:`uv_mutex.shim.loop_guard` for a program that may start the shim again."""
    if executable.PASSED in os.environ or executable.may_start_shim(uv):
        from uv_mutex.shim import loop_guard

        loop_guard.mark(uv)


def cannot_exec(name: str, error: OSError, remedy: str | None = None) -> MutexError:
    """The error to raise if the kernel won't start a program.

    :param name: its path.
    :param remedy: what to do; None where it is uv.
    """
    remedy = remedy or "check that file, or name another in UV_MUTEX_UV"
    return MutexError(f"cannot start {name}: {error.strerror}; {remedy}", CANNOT_EXEC)
