"""Calls of `uv run` that gave the lock back a moment ago, and whose uv checks once more without it.

What that uv reads must not change meanwhile, or it would set to work beside whoever changed it. So a call that is about
to change something waits, with the lock in hand, until they are through. On this host that is when uv has started the
user's command, or is gone. Of another host's uv nobody here can tell; it is given two seconds.
"""

import os
import time

from uv_mutex.records import history

TYPE_CHECKING = False
if TYPE_CHECKING:
    from uv_mutex.locking.lock_file import Place

#: A uv that has no command after this long is thought to be stuck. Who left before that needs no look.
_LONGEST_SECONDS = 10.0
_REMOTE_SECONDS = 2.0
#: Where there is no /proc to look into.
_BLIND_SECONDS = 0.5
_FIRST_PAUSE, _LONGEST_PAUSE, _GROWTH = 0.001, 0.02, 1.5


def outlast(place: "Place", environment: str) -> bool:
    """Wait for those who left this lock. Never fails.

    :param place: the lock; it is held, and the line that says who holds it was just written.
    :param environment: the environment's folder.
    :returns: whether there was anyone to wait for.
    """
    waited = False
    if place.is_folder:
        return waited
    folder, name = os.path.split(place.path)
    here = history.PREFIX + os.uname().nodename
    try:
        for file in os.listdir(folder):
            if file == here:
                waited = _outlast_here(f"{folder}/{file}", name, environment) or waited
            elif file.startswith(history.PREFIX):
                waited = _outlast_there(f"{folder}/{file}", name, place) or waited
    except OSError:
        pass
    return waited


def _outlast_here(path: str, lock: str, environment: str) -> bool:
    now = time.time()
    left = {pid: when for when, pid in _Tail(path, lock).left if when > now - _LONGEST_SECONDS}
    if left and not os.path.exists("/proc/self/stat"):
        time.sleep(min(_BLIND_SECONDS, max(0.0, max(left.values()) + _BLIND_SECONDS - now)))
        return True
    checking = [pid for pid in left if _is_checking(pid, environment)]
    if not checking:
        return False
    # Who waits for us while we wait: a command of `uv run` that calls uv, or a build that its check has started.
    above = _above()
    until = time.monotonic() + _LONGEST_SECONDS
    pause, waited = _FIRST_PAUSE, False
    while any(pid not in above and _is_checking(pid, environment) for pid in checking) and time.monotonic() < until:
        time.sleep(pause)
        pause, waited = min(pause * _GROWTH, _LONGEST_PAUSE), True
    return waited


def _outlast_there(path: str, lock: str, place: "Place") -> bool:
    tail = _Tail(path, lock)
    if not tail.left:
        return False
    # Hosts' clocks differ. How old the last line is, the file server says.
    age = _written(place.path) - _written(path) + tail.last - tail.left[-1][0]
    rest = min(_REMOTE_SECONDS, max(0.0, _REMOTE_SECONDS - age))
    time.sleep(rest)
    return rest > 0


class _Tail:
    """The end of a host's history: ``left``, when and with which pid each `uv run` left the lock; ``last``, the time of
    the last line of all."""

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


def _written(path: str) -> float:
    """When the file server saw a file written last. It is asked at open; stat may tell what this host remembers."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return os.fstat(fd).st_mtime
    finally:
        os.close(fd)


def _is_checking(pid: int, environment: str) -> bool:
    """Whether a process of this host is a uv that has yet to start the user's command."""
    try:
        if _stat(pid)[0] == "Z":  # over, and nobody has asked for its status yet
            return False
        for thread in os.listdir(f"/proc/{pid}/task"):
            for child in _read(f"/proc/{pid}/task/{thread}/children").split():
                if _is_command(child.decode(), environment):
                    return False
    except (OSError, IndexError):  # it is gone
        return False
    return True


def _is_command(pid: str, environment: str) -> bool:
    """Whether it is the user's command that uv runs there. What builds a package has an environment of its own."""
    try:
        variables = _read(f"/proc/{pid}/environ").split(b"\0")
    except OSError:  # another user's
        return True
    for variable in variables:
        if variable.startswith(b"VIRTUAL_ENV="):
            active = variable[len(b"VIRTUAL_ENV=") :].decode("utf-8", "surrogateescape")
            return active == environment or os.path.realpath(active) == os.path.realpath(environment)
    return False


def _above() -> set[int]:
    """This process and those that started it."""
    pid, above = os.getpid(), set()
    try:
        while pid and pid not in above:
            above.add(pid)
            pid = int(_stat(pid)[1])
    except (OSError, IndexError, ValueError):
        pass
    return above


def _stat(pid: int) -> list[str]:
    """State, parent, and so on of a process."""
    return _read(f"/proc/{pid}/stat").rpartition(b")")[2].decode().split()


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
