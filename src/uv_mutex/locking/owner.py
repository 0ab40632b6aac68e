"""Who holds a lock, or waits for it: one line in a file, for those who wait."""

import os

from uv_mutex import files
from uv_mutex.locking import process
from uv_mutex.locking.process import Process

RECORD_BYTES = 4096
_LATEST = 1e11


class LockOwner:
    """The process that holds a lock, or waits for it.

    ``pid``: its process id on ``host``; both are for display, since containers share them. ``since``: when it began,
    in seconds of that host's clock. ``command``: what it runs. ``uid``: its user, None if it did not write its user
    down. ``process``: which process it is, None if an earlier version wrote the record. ``inode``: the number of the
    file that it was written into, None if it did not say; that of a copy is another. ``token``: one word that no other
    owner shares.
    """

    __slots__ = ("command", "host", "inode", "pid", "process", "since", "token", "uid")

    def __init__(
        self,
        pid: int,
        host: str,
        since: float,
        command: str,
        uid: int | None = None,
        *,
        process: Process | None = None,
        inode: int | None = None,
    ) -> None:
        self.pid = pid
        self.host = host
        self.since = since
        self.command = command
        self.uid = uid
        self.process = process
        self.inode = inode
        self.token = f"{process.encode() if process else f'{host}/{pid}'}/{since}"

    def encode(self) -> bytes:
        """The content of the lock file: one line."""
        command = self.command.replace("\n", " ").replace("\t", " ")
        # The number of the user: to look up the name can take as long as a server needs to answer.
        rest = "" if self.uid is None else f"\t{self.uid}"
        if self.process:
            rest = (rest or "\t") + f"\t{self.process.encode()}" + (f"\t{self.inode}" if self.inode else "")
        line = f"{self.pid} {self.since} {self.host} ".encode("utf-8", "surrogateescape")
        text = command.encode("utf-8", "surrogateescape")[: RECORD_BYTES - len(line) - len(rest) - 1]
        return line + text + rest.encode() + b"\n"


def this_process(command: str, since: float, inode: int | None = None) -> LockOwner:
    """This process as an owner.

    :param command: what it wants the lock for.
    :param since: when it began, in seconds of this host's clock.
    :param inode: the number of the file that this is written into.
    """
    here = process.this_process()
    return LockOwner(here.pid, os.uname().nodename, since, command, os.getuid(), process=here, inode=inode)


def process_of(token: str) -> Process | None:
    """The process of a token; None if it names none."""
    return process.decode(token.rpartition("/")[0])


def read_owner(path: str) -> LockOwner | None:
    """Who holds the lock at ``path``; None if nobody wrote that down."""
    return decode(read_record(path))


def decode(record: bytes) -> LockOwner | None:
    """Read what :meth:`LockOwner.encode` wrote; None if it is something else.

    Earlier versions wrote no inode number down, before that no process, and before that no user.
    """
    line = record.decode("utf-8", "replace").partition("\n")[0]
    fields = line.strip(" ").split(" ", 3)
    try:
        command, uid, word, number = [*fields[3].split("\t", 3), "", "", ""][:4]
        since = float(fields[1])
        if not 0 <= since < _LATEST:  # this refuses NaN as well
            return None
        owner_uid, inode = (int(text) if text else None for text in (uid, number))
        found = process.decode(word)
        return LockOwner(int(fields[0]), fields[2], since, command, owner_uid, process=found, inode=inode)
    except (IndexError, ValueError):
        return None


def read_record(path: str) -> bytes:
    """The first bytes of a lock file; empty if it can't be read."""
    return files.read_or_empty(path, RECORD_BYTES, follow=False)
