"""A build backend that writes down who is inside, for an independent look at whether two ever were."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from support.wheels import slow_backend

# The journal lies on this machine, not on the volume under test. Its clock is this machine's for all kernels. The build
# is inside only as long as its uv lives: that dies with its shim, and the build, no child of the shim, a moment later.
# So a time is noted only if uv was seen alive after it: a build that was not run for a while must not say that it was
# inside when its uv was dead and the next one had begun.
_SOURCE = """
import socket
parent = os.getppid()
if parent == 1:
    sys.exit(1)  # its uv is dead already
with open(f"/proc/{{parent}}/stat") as file:
    shim = file.read().rpartition(")")[2].split()[1]
if shim == "1":
    time.sleep(0.5)  # either that is the shim, or the shim was killed this moment, and uv will be
namespace = os.stat("/proc/self/ns/pid").st_ino
def note(what, when):
    line = f"{{what}} {{socket.gethostname()}} {{namespace}} {{shim}} {{parent}} {{when}}\\n"
    journal = os.open({path}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(journal, line.encode())
    os.close(journal)
when = time.time()
if os.getppid() != parent:
    sys.exit(1)
note("enter", when)
until = time.monotonic() + float(os.environ.get("BUILD_SECONDS", "0.1"))
is_over = False
while not is_over:
    is_over = time.monotonic() >= until or os.path.exists(os.environ.get("BUILD_UNTIL", ""))
    when = time.time()
    if os.getppid() != parent:
        note("orphan", when)
        sys.exit(1)
    if not is_over:
        time.sleep(0.01)
note("leave", when)
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
    """What the builds of a project wrote.

    A build takes as long as BUILD_SECONDS in its environment says, or until there is a file BUILD_UNTIL.
    """

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
