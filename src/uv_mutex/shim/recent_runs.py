"""Wait for recent `uv run` calls whose uv is still checking the environment.

Such a call has released the lock, and its uv checks the environment once more. What that uv reads must not change
meanwhile, or it would begin to install beside the call that changed it. So a call that is about to change something
waits first, with the lock in hand. On this host it waits until uv has started the user's command, or is gone. On
another host nobody can see that; such a uv gets two seconds.
"""

import os
import time

from uv_mutex import files
from uv_mutex.records import history

TYPE_CHECKING = False
if TYPE_CHECKING:
    from uv_mutex.locking.lock_file import LockTarget

#: A uv that has started no command for so long is thought to be stuck. Runs that left earlier are not looked at.
_LONGEST_SECONDS = 10.0
_REMOTE_SECONDS = 2.0
#: Where there is no /proc to look into.
_BLIND_SECONDS = 0.5
_FIRST_PAUSE, _LONGEST_PAUSE, _GROWTH = 0.001, 0.02, 1.5


def outlast(target: "LockTarget", environment: str) -> bool:
    """Wait for the runs that released this lock a moment ago. Never fails.

    :param target: the lock. This call holds it, and has just written its owner into it.
    :param environment: the folder of the environment.
    :returns: whether there was a run to wait for.
    """
    waited = False
    lock = os.path.basename(target.path)
    here = history.PREFIX + os.uname().nodename
    try:
        for name in target.names(history.PREFIX):
            path = f"{target.folder}/{name}"
            if name == here:
                waited = _outlast_this_host(path, lock, environment) or waited
            else:
                waited = _outlast_other_host(path, lock, target) or waited
    except OSError:
        pass
    return waited


def _outlast_this_host(path: str, lock: str, environment: str) -> bool:
    now = time.time()
    left = {pid: when for when, pid in _Tail(path, lock).left if when > now - _LONGEST_SECONDS}
    if left and not os.path.exists("/proc/self/stat"):
        time.sleep(min(_BLIND_SECONDS, max(0.0, max(left.values()) + _BLIND_SECONDS - now)))
        return True
    checking = [pid for pid in left if _is_checking(pid, environment)]
    if not checking:
        return False
    # These wait for us while we wait: a command of `uv run` that calls uv, or a build that its check has started.
    ancestors = _ancestors()
    until = time.monotonic() + _LONGEST_SECONDS
    pause, waited = _FIRST_PAUSE, False
    while any(pid not in ancestors and _is_checking(pid, environment) for pid in checking) and time.monotonic() < until:
        time.sleep(pause)
        pause, waited = min(pause * _GROWTH, _LONGEST_PAUSE), True
    return waited


def _outlast_other_host(path: str, lock: str, target: "LockTarget") -> bool:
    tail = _Tail(path, lock)
    if not tail.left:
        return False
    # The clocks of hosts differ. The file server says how old the last line is.
    written = files.stat_on_server(target.path).st_mtime - files.stat_on_server(path).st_mtime
    age = written + tail.last - tail.left[-1][0]
    rest = min(_REMOTE_SECONDS, max(0.0, _REMOTE_SECONDS - age))
    time.sleep(rest)
    return rest > 0


class _Tail:
    """The end of a host's history.

    ``left``: when each `uv run` released the lock, and its process id. ``last``: the time of the last line of all.
    """

    __slots__ = ("last", "left")

    def __init__(self, path: str, lock: str) -> None:
        self.last = 0.0
        self.left: list[tuple[float, int]] = []
        for line in history.tail(path).decode("utf-8", "surrogateescape").split("\n"):
            fields = line.split("\t")
            try:
                self.last = float(fields[0])
                if fields[5] == "-" and fields[7] == history.field(lock):
                    self.left.append((self.last, int(fields[6])))
            except (IndexError, ValueError):  # cut short
                pass


def _is_checking(pid: int, environment: str) -> bool:
    """Whether a process of this host is a uv that has not started the user's command yet."""
    try:
        if _stat(pid)[0] == "Z":  # it has ended, and nobody has asked for its status yet
            return False
        for thread in os.listdir(f"/proc/{pid}/task"):
            for child in _read(f"/proc/{pid}/task/{thread}/children").split():
                if _is_command(child.decode(), environment):
                    return False
    except (OSError, IndexError):  # it is gone
        return False
    return True


def _is_command(pid: str, environment: str) -> bool:
    """Whether a process is the user's command. A process that builds a package has an environment of its own."""
    try:
        variables = _read(f"/proc/{pid}/environ").split(b"\0")
    except OSError:  # another user's
        return True
    for variable in variables:
        if variable.startswith(b"VIRTUAL_ENV="):
            active = variable[len(b"VIRTUAL_ENV=") :].decode("utf-8", "surrogateescape")
            return active == environment or os.path.realpath(active) == os.path.realpath(environment)
    return False


def _ancestors() -> set[int]:
    """This process, and the processes that started it."""
    pid, found = os.getpid(), set()
    try:
        while pid and pid not in found:
            found.add(pid)
            pid = int(_stat(pid)[1])
    except (OSError, IndexError, ValueError):
        pass
    return found


def _stat(pid: int) -> list[str]:
    """State, parent, and so on of a process."""
    return _read(f"/proc/{pid}/stat").rpartition(b")")[2].decode().split()


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
