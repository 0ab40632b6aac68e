"""`uv-mutex exec`: run any command while this process holds the locks of a project."""

import os
import shutil
import signal
from collections.abc import Sequence
from typing import NoReturn

from uv_mutex.commands import find_project
from uv_mutex.environment import freshness
from uv_mutex.errors import CANNOT_EXEC, NO_UV, MutexError
from uv_mutex.shim import child
from uv_mutex.shim.project_locks import project_locks
from uv_mutex.shim.session import LockSession

#: The exit status of a shell for a command that it can't find.
_NOT_FOUND = NO_UV


def execute(command: Sequence[str], project: str | None) -> NoReturn:
    """Run a command under the locks of a project, and end as the command ends: same exit status, or same signal.

    :param command: the command and its arguments.
    :param project: a folder of the project; None for the project that uv finds from the working directory.
    :raises MutexError: if there is no such project or command, or if the locks can't be taken.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # as in the launcher: Ctrl-C ends a wait without a traceback
    if not command:
        raise MutexError("exec needs a command; write it after two dashes: uv-mutex exec -- COMMAND")
    path = shutil.which(command[0])
    if path is None and "/" not in command[0]:
        raise MutexError(f"cannot start {command[0]}: it is not on PATH; install it, or give its path", _NOT_FOUND)
    path = path or command[0]
    found = find_project.project_at(project)
    targets = project_locks(found, keeps_lockfile=False)
    name = f"uv-mutex exec {os.path.basename(command[0])}"
    session = LockSession(found, targets, command=name, words=["uv-mutex", "exec", "--", *command], quiet=False)

    def start() -> None:
        for variable, value in session.marks().items():
            os.putenv(variable, value)
        os.execv(path, [*command])

    try:
        session.take(shared=False)
        session.outlast_recent_runs()
        freshness.forget(found, os.environ)
        ended = child.run_child(start, path, session.lost_lock_check(), remedy="check that file")
    except MutexError as error:
        session.release(unfinished=error.status != CANNOT_EXEC)
        session.write(prepared=False, status=error.status)
        raise
    freshness.forget(found, os.environ)  # what a call below it noted
    session.release(unfinished=bool(ended.signal))
    session.write(prepared=False, status=ended.shell_status)
    child.end_like(ended)
