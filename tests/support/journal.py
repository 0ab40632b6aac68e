"""A build backend that writes down who is inside, for an independent look at whether two ever were."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from support.wheels import slow_backend

# The journal lies on this machine, not on the volume under test. Its clock is this machine's for all kernels. The build
# is inside only as long as its uv lives: that dies with its shim, and the build, no child of the shim, a moment later.
_SOURCE = """
import socket
parent = os.getppid()
if parent == 1:
    sys.exit(1)  # its uv is dead already
with open(f"/proc/{{parent}}/stat") as file:
    shim = file.read().rpartition(")")[2].split()[1]
namespace = os.stat("/proc/self/ns/pid").st_ino
def note(what):
    line = f"{{what}} {{socket.gethostname()}} {{namespace}} {{shim}} {{parent}} {{time.time()}}\\n"
    journal = os.open({path}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(journal, line.encode())
    os.close(journal)
note("enter")
until = time.monotonic() + float(os.environ.get("BUILD_SECONDS", "0.1"))
while time.monotonic() < until:
    if os.getppid() != parent:
        note("orphan")
        sys.exit(1)
    time.sleep(0.01)
note("leave")
"""


@dataclass(frozen=True)
class Entry:
    """One line: what happened ("enter", "leave", "orphan"), to which build, when on the monotonic clock.

    A build is known by its host, its PID namespace (an inode number), and its shim and uv there.
    """

    what: str
    host: str
    namespace: int
    shim: int
    uv: int
    when: float


class Journal:
    """What the builds of a project wrote. Those of one that is given BUILD_SECONDS in its environment take as long."""

    def __init__(self, path: Path, *, apart: bool = False) -> None:
        """:param apart: a file for each line, since two kernels can't append to one file of this machine."""
        self.path = path
        self._apart = apart
        written = f"{str(path)!r}" + (" + f'.{socket.gethostname()}.{os.getpid()}.{what}'" if apart else "")
        self.backend = slow_backend(0, _SOURCE.format(path=written))

    def entries(self) -> list[Entry]:
        """All lines so far, in the order of their times."""
        files = [self.path] if self.path.exists() else []
        if self._apart:
            files = list(self.path.parent.glob(f"{self.path.name}.*"))
        fields = (line.split() for file in files for line in file.read_text().splitlines())
        back = time.time() - time.monotonic()
        entries = [
            Entry(what, host, int(namespace), int(shim), int(uv), float(when) - back)
            for what, host, namespace, shim, uv, when in fields
        ]
        return sorted(entries, key=lambda entry: entry.when)

    def wait(self, wanted: Callable[[Entry], bool], *, timeout: float) -> Entry:
        """The first entry that is wanted, waited for."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for entry in self.entries():
                if wanted(entry):
                    return entry
            time.sleep(0.05)
        raise AssertionError(f"not within {timeout} s; the journal says {self.entries()}")
