"""A program that writes down the signals it gets: stands in for uv where it matters what reaches uv, and how often."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from pathlib import Path

from support.terminal import wait_until

COUNTED = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGWINCH")

# One line for each signal, after the lines "pid ..." and "words ...". SIGUSR2 ends it.
_SOURCE = """\
#!{python} -IS
import os, signal, sys
journal = os.open({journal!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
def note(text):
    os.write(journal, text.encode() + b"\\n")
for name in {counted!r}:
    signal.signal(getattr(signal, name), lambda number, _: note(signal.Signals(number).name))
signal.signal(signal.SIGUSR2, lambda *_: os._exit(int(sys.argv[1]) if sys.argv[1:2] and sys.argv[1].isdigit() else 0))
note(f"words {{' '.join(sys.argv[1:])}}")
note(f"pid {{os.getpid()}}")
while True:
    signal.pause()
"""


class Recorder:
    """The program, at `path`. If its first word is a number, that is its exit status."""

    def __init__(self, folder: Path, name: str = "recorder") -> None:
        self.path = folder / name
        self._journal = folder / f"{name}.journal"
        source = _SOURCE.format(python=os.path.realpath(sys.executable), journal=str(self._journal), counted=COUNTED)
        self.path.write_text(source)
        self.path.chmod(0o755)

    @property
    def lines(self) -> list[str]:
        """What it wrote down so far."""
        return self._journal.read_text().splitlines() if self._journal.exists() else []

    @property
    def counts(self) -> Counter[str]:
        """How often each signal came."""
        return Counter(line for line in self.lines if line in COUNTED)

    def wait_for(self, line: str, times: int = 1) -> None:
        """Wait until it has written a line (or one that begins so) this often."""
        wait_until(lambda: sum(item.startswith(line) for item in self.lines) >= times, explain=lambda: str(self.lines))

    @property
    def pid(self) -> int:
        """The process that was started last; waits until one is ready for signals."""
        self.wait_for("pid ")
        return int([line for line in self.lines if line.startswith("pid ")][-1].split()[1])

    def end(self) -> None:
        """End the process that was started last."""
        os.kill(self.pid, signal.SIGUSR2)


def state(pid: int) -> str:
    """The state letter of a process: R, S, T (stopped) and so on, empty once it is over."""
    try:
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if letter in "ZX" else letter  # in a container, nobody may reap orphans
