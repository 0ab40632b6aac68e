"""Who holds a lock: one line in the lock file, for those who wait."""

import os

RECORD_BYTES = 4096
_LATEST = 1e11


class Holder:
    """Who holds a lock, or waits for it.

    ``pid`` on ``host``, since ``since`` (seconds of that host's clock), running ``command`` for the user ``uid``. None
    for who wrote no user down.
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
        """The lock file's content: one line."""
        command = self.command.replace("\n", " ").replace("\t", " ")
        user = "" if self.uid is None else f"\t{self.uid}"  # a number: to ask for the name can take a server's answer
        line = f"{self.pid} {self.since} {self.host} ".encode("utf-8", "surrogateescape")
        said = command.encode("utf-8", "surrogateescape")[: RECORD_BYTES - len(line) - len(user) - 1]
        return line + said + user.encode() + b"\n"


def this_process(command: str, since: float) -> Holder:
    """This process as a holder."""
    return Holder(os.getpid(), os.uname().nodename, since, command, os.getuid())


def read_holder(path: str) -> Holder | None:
    """Who holds the lock at ``path``, None if nobody wrote it down."""
    return decode(read_record(path))


def decode(record: bytes) -> Holder | None:
    """What :meth:`Holder.encode` made, now or when it knew no users; None if it is something else."""
    line = record.decode("utf-8", "replace").partition("\n")[0]
    fields = line.strip(" ").split(" ", 3)
    try:
        command, _, uid = fields[3].partition("\t")
        since = float(fields[1])
        if not 0 <= since < _LATEST:  # also not a number
            return None
        return Holder(int(fields[0]), fields[2], since, command, int(uid) if uid else None)
    except (IndexError, ValueError):
        return None


def read_record(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return b""
    try:
        return os.read(fd, RECORD_BYTES)
    except OSError:
        return b""
    finally:
        os.close(fd)
