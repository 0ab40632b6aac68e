"""Who waits for a lock in the native launcher (src/launcher/ticket.c), which leaves no file: the kernel tells.

In /proc/locks, a process that has taken a flock, or is blocked by one, has a line:

    1: FLOCK  ADVISORY  WRITE 4121 fe:00:131077 0 EOF
    1: -> FLOCK  ADVISORY  WRITE 4122 fe:00:131077 0 EOF
"""

import os
import time

from uv_mutex import files
from uv_mutex.locking import leftovers, process
from uv_mutex.locking.lock_file import LockTarget
from uv_mutex.locking.owner import LockOwner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCKED = "->"
_HEAD_BYTES = 4096


def read(target: LockTarget) -> list[LockOwner]:
    """The calls of this host that wait; those of other PID namespaces do not show. Never fails.

    :param target: the lock.
    """
    commands: dict[int, str] = {}
    for name in target.names(leftovers.GATE):
        path = f"{target.folder}/{name}"
        try:
            commands[os.stat(path).st_ino] = f"uv {_kind(path)}".rstrip()
        except OSError:  # removed
            pass
    if not commands:
        return []
    lines = list(_flocks())
    # Whoever has the gate waits for the lock itself.
    found = {pid: commands[inode] for _, pid, inode in lines if inode in commands}
    inodes = {*commands, _inode(target.path)}
    waiting = {pid for is_blocked, pid, inode in lines if is_blocked and inode in inodes and pid in found}
    return [waiter for waiter in (_waiter(pid, found[pid]) for pid in waiting) if waiter]


def _kind(path: str) -> str:
    """The subcommand of the calls at a gate; empty if another user must not know."""
    words = files.read_or_empty(path, _HEAD_BYTES, follow=False).decode("utf-8", "replace").split(" ")
    return words[3] if len(words) > 3 else ""


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return -1


def _flocks() -> "Iterator[tuple[bool, int, int]]":
    """Whether it is blocked, its process, and the inode number of the file."""
    try:
        with open("/proc/locks", encoding="ascii") as file:  # all of it: one read gives no more than a page
            lines = file.readlines()
    except (OSError, ValueError):
        return
    for line in lines:
        fields = line.replace(_BLOCKED, "").split()
        if len(fields) > 5 and fields[1] == "FLOCK":
            yield _BLOCKED in line, int(fields[4]), int(fields[5].rpartition(":")[2])


def _waiter(pid: int, command: str) -> LockOwner | None:
    """A process as a waiter, since it started; None if it is gone."""
    try:
        start, uid = process.start_time(pid), os.stat(f"/proc/{pid}").st_uid
        uptime = float(files.read("/proc/uptime", _HEAD_BYTES).split()[0])
        since = time.time() - uptime + int(start) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None
    who = process.Process(process.boot_id(), process.pid_namespace(), pid, start)
    return LockOwner(pid, os.uname().nodename, since, command, uid, process=who)
