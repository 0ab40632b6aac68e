"""The last guarded calls of a project, read back; see :mod:`uv_mutex.records.history`."""

import math
import os

from uv_mutex.records import history

TYPE_CHECKING = False
if TYPE_CHECKING:
    from uv_mutex.locking.lock_file import Place


class Past:
    """A call that is over, or that uv took over (``status`` None). ``began`` is of its host's clock."""

    __slots__ = ("began", "command", "held", "host", "lock", "pid", "prepared", "status", "waited")

    def __init__(self, line: str, host: str) -> None:
        """
        :raises ValueError: if that is no line of a history.
        """
        _, began, waited, held, prepared, status, pid, self.lock, self.command = line.split("\t")
        self.host = host
        self.began, self.waited, self.held = map(float, (began, waited, held))
        if not all(map(math.isfinite, (self.began, self.waited, self.held))):
            raise ValueError(line)
        self.prepared = prepared == "1"
        self.status = None if status == "-" else int(status)
        self.pid = int(pid)


def read(place: "Place") -> list[Past]:
    """The calls that took this lock first, on all hosts, in the order in which they began."""
    found = []
    folder, name = os.path.split(place.path)
    try:
        files = [] if place.is_folder else os.listdir(folder)
    except OSError:
        files = []
    for file in files:
        if not file.startswith(history.PREFIX):
            continue
        try:
            text = history.read(f"{folder}/{file}").decode("utf-8", "replace")
        except OSError:
            continue
        for line in text.split("\n"):
            try:
                past = Past(line, file[len(history.PREFIX) :])
            except ValueError:  # cut short on a full disk
                continue
            if past.lock == history.field(name):
                found.append(past)
    return sorted(found, key=lambda past: past.began)
