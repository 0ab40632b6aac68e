"""Who holds a lock: one line in the lock file, for those who wait."""

from uv_mutex import system

RECORD_BYTES = 4096


class Holder:
    """Who holds a lock: ``pid`` on ``host``, since ``since`` (seconds of that host's clock), running ``command``."""

    __slots__ = ("command", "host", "pid", "since", "token")

    def __init__(self, pid: int, host: str, since: float, command: str) -> None:
        self.pid = pid
        self.host = host
        self.since = since
        self.command = command
        self.token = f"{host}/{pid}/{since}"

    def encode(self) -> bytes:
        """The lock file's content: one line."""
        line = f"{self.pid} {self.since} {self.host} {self.command}"
        return line.replace("\n", " ").encode("utf-8", "surrogateescape")[: RECORD_BYTES - 1] + b"\n"


def read_holder(path: str) -> Holder | None:
    """Who holds the lock at ``path``, None if nobody wrote it down."""
    text = read_record(path).decode("utf-8", "replace")
    fields = text.strip().split(" ", 3)
    try:
        return Holder(int(fields[0]), fields[2], float(fields[1]), fields[3])
    except (IndexError, ValueError):
        return None


def read_record(path: str) -> bytes:
    try:
        fd = system.open(path, system.O_RDONLY | system.O_NONBLOCK | system.O_NOFOLLOW)
    except OSError:
        return b""
    try:
        return system.read(fd, RECORD_BYTES)
    except OSError:
        return b""
    finally:
        system.close(fd)
