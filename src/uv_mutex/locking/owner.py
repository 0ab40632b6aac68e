"""Who holds a lock, or waits for it: one line in a file, for those who wait."""

import os

from uv_mutex import files

RECORD_BYTES = 4096
_LATEST = 1e11


class LockOwner:
    """The process that holds a lock, or waits for it.

    ``pid``: its process id on ``host``. ``since``: when it began, in seconds of that host's clock. ``command``: what
    it runs. ``uid``: its user, None if it did not write its user down.
    """

    __slots__ = ("command", "host", "pid", "since", "token", "uid")

    def __init__(self, pid: int, host: str, since: float, command: str, uid: int | None = None) -> None:
        self.pid = pid
        self.host = host
        self.since = since
        self.command = command
        self.uid = uid
        self.token = f"{host}/{pid}/{since}"

    def encode(self) -> bytes:
        """The content of the lock file: one line."""
        command = self.command.replace("\n", " ").replace("\t", " ")
        # The number of the user: to look up the name can take as long as a server needs to answer.
        user = "" if self.uid is None else f"\t{self.uid}"
        line = f"{self.pid} {self.since} {self.host} ".encode("utf-8", "surrogateescape")
        text = command.encode("utf-8", "surrogateescape")[: RECORD_BYTES - len(line) - len(user) - 1]
        return line + text + user.encode() + b"\n"


def this_process(command: str, since: float) -> LockOwner:
    """This process as an owner.

    :param command: what it wants the lock for.
    :param since: when it began, in seconds of this host's clock.
    """
    return LockOwner(os.getpid(), os.uname().nodename, since, command, os.getuid())


def read_owner(path: str) -> LockOwner | None:
    """Who holds the lock at ``path``; None if nobody wrote that down."""
    return decode(read_record(path))


def decode(record: bytes) -> LockOwner | None:
    """Read what :meth:`LockOwner.encode` wrote; None if it is something else.

    Earlier versions wrote no user down.
    """
    line = record.decode("utf-8", "replace").partition("\n")[0]
    fields = line.strip(" ").split(" ", 3)
    try:
        command, _, uid = fields[3].partition("\t")
        since = float(fields[1])
        if not 0 <= since < _LATEST:  # this refuses NaN as well
            return None
        return LockOwner(int(fields[0]), fields[2], since, command, int(uid) if uid else None)
    except (IndexError, ValueError):
        return None


def read_record(path: str) -> bytes:
    """The first bytes of a lock file; empty if it can't be read."""
    return files.read_or_empty(path, RECORD_BYTES, follow=False)
