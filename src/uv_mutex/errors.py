"""How the shim gives up: an exit status and one line for the user."""

import errno
import os
import sys

#: Exit status when UV_MUTEX_TIMEOUT ran out (EX_TEMPFAIL of sysexits.h: try again later).
TIMED_OUT = 75
#: Exit status when there is no real uv, as a shell answers for a command it can't find.
NO_UV = 127
#: Exit status when the real uv is there but can't be started, as a shell answers.
CANNOT_EXEC = 126
#: Exit status of every other failure of the shim itself, uv's own for errors.
FAILED = 2

#: What to do about an error of a file that a lock needs.
_HINTS = {
    errno.ELOOP: "it is a symlink; remove it",
    errno.ENOTDIR: "its folder is a file or a symlink; remove that",
    errno.EISDIR: "remove that folder",
    errno.EACCES: "give yourself write access there",
    errno.EPERM: "give yourself write access there",
    errno.EROFS: "mount it for writing",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "allow more open files (ulimit -n)",
    errno.ENOMEM: "free some memory",
    errno.EBADF: "give yourself write access there",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
}
_warned: set[str] = set()


class MutexError(Exception):
    """The call can't go on. Its text is the line shown to the user, without the leading ``uv-mutex:``."""

    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


class NoUvError(MutexError):
    """There is no real uv to pass the call to."""

    def __init__(self, message: str) -> None:
        super().__init__(message, NO_UV)


class CannotForkError(MutexError):
    """There can't be another process, because of `ulimit -u` or for want of memory."""

    def __init__(self, message: str) -> None:
        super().__init__(message, CANNOT_EXEC)


class NoLockError(MutexError):
    """There is nothing here that could be locked. uv works here all the same, so a call goes on: see :func:`go_on`."""


def go_on(message: str, how: str = "without a lock") -> None:
    """Say that a call goes on without a lock, and why; with UV_MUTEX=require, give up instead.

    :param message: what is missing, the reason, and what to do.
    :param how: how it goes on.
    :raises MutexError: with UV_MUTEX=require.
    """
    if os.environ.get("UV_MUTEX", "").lower() == "require":
        raise MutexError(f"{message}; UV_MUTEX=require asks for the lock, unset it to do without")
    warn(f"{message}; this call goes on {how}")


def warn(message: str) -> None:
    """Print one line of warning on stderr, once a call. Never raises."""
    if message not in _warned:
        _warned.add(message)
        say(f"warning: {message}")


def say(message: str) -> None:
    """Print one line on stderr. Never raises: a closed or full stderr must not change what the call does."""
    if sys.stderr is None:
        return
    text = message.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    try:
        os.write(sys.stderr.fileno(), ("uv-mutex: " + text.replace("\n", "\\n") + "\n").encode())
    except (OSError, ValueError):
        pass


def hint(error: OSError) -> str:
    """What the user can do about an error of a file, as the end of a message."""
    return _HINTS.get(error.errno or 0, "mend that")
