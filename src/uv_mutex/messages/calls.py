"""What a guarded call says."""

import errno

_HINTS = {
    errno.ELOOP: "it is a symlink; remove it",
    errno.EISDIR: "remove that folder",
    errno.EACCES: "give yourself write access there",
    errno.EPERM: "give yourself write access there",
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
}


def unknown_backend(name: str) -> str:
    return f"UV_MUTEX_BACKEND={name} is neither flock nor lease; set one of them, or unset it"


def no_number(text: str) -> str:
    return f"UV_MUTEX_TIMEOUT={text} is no number of seconds; set one such as 600, or unset it"


def waiting_for(holder: str) -> str:
    return f"waiting for {holder}"


def timed_out(limit: float, holder: str, path: str) -> str:
    return (
        f"gave up after {limit:g} s (UV_MUTEX_TIMEOUT) waiting for {holder}, which holds {path}; "
        "try again later, or allow more time"
    )


def cannot(verb: str, path: str, error: OSError) -> str:
    """A lock can't be opened, created or locked."""
    hint = _HINTS.get(error.errno or 0, "mend that")
    return f"cannot {verb} {path}: {error.strerror}; {hint}, or set UV_MUTEX=off to run uv unlocked"


def no_file(path: str) -> str:
    return f"cannot lock {path}: it is not a regular file; remove it, or set UV_MUTEX=off to run uv unlocked"


def mixed(who: str, path: str, recorded: str, record: str) -> str:
    """``who`` would take another kind of lock than the project is locked by."""
    return (
        f"{who} can't lock {path}: the project is locked by {recorded} on other hosts or before; "
        f"set UV_MUTEX_BACKEND=lease on all of them while none runs, and remove {record}"
    )


THIS_HOST = "this host, which has no flock there,"
TAKEN_OVER = "another call took it over"


def dropped(error: OSError) -> str:
    return f"the file server dropped it ({error.strerror})"


def not_renewed(seconds: float) -> str:
    return f"it was not renewed for {seconds:.0f} s"


def lease_gone(reason: object) -> str:
    return f"its lease is gone ({reason})"


def lost(path: str, reason: str) -> str:
    """``reason``: one of those above."""
    return f"lost the lock {path}: {reason}"


def stopped(lost: str, command: str) -> str:
    return f"{lost}; {command} was stopped, run it again"


def cannot_fork(name: str, error: OSError) -> str:
    return f"cannot start {name}: {error.strerror}; try again"


CHECK_FILE = "check that file"
CHECK_UV = "check that file, or name another in UV_MUTEX_UV"


def cannot_exec(name: str, error: OSError, remedy: str) -> str:
    return f"cannot start {name}: {error.strerror}; {remedy}"


def cannot_log(path: str, error: OSError) -> str:
    return f"cannot write UV_MUTEX_LOG={path}: {error.strerror}; the call goes on without a log line"
