"""What the bench starts ends with it, however the bench ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

_PR_SET_CHILD_SUBREAPER = 36
_ENDING = (signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def ended_at_exit() -> Iterator[None]:
    """Kill, in the end, all processes that were started in it, and all that these have started."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # so that orphans become children of this process
    for number in _ENDING:
        signal.signal(number, _exit)
    try:
        yield
    finally:
        for number in (signal.SIGINT, *_ENDING):
            signal.signal(number, signal.SIG_IGN)
        while pids := children(os.getpid()):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for pid in pids:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)


def children(pid: int) -> list[int]:
    """The processes that a process has started, and that have not been waited for."""
    found: list[int] = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # over meanwhile
            found += map(int, tasks.read_text().split())
    return found


def family(pid: int) -> list[int]:
    """A process, and all processes below it."""
    return [pid, *(member for child in children(pid) for member in family(child))]


def resident_mib(pid: int) -> float:
    """The resident memory of a process in MiB.

    :raises OSError: if there is no such process.
    """
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next((line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")), "0")) / 1024


def cpu_seconds(pid: int) -> float:
    """The time that a process has kept a processor busy."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _exit(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
