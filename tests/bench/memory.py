"""The rows of the memory that one call holds: the launcher before it becomes uv, and a call that waits."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from support import need

from bench.measure import once
from bench.processes import children, cpu_seconds, family, resident_mib
from bench.row import Row
from bench.workload import Workload

_RUN = ("run", "true")
#: By how much strace delays the launcher's exec, and how long a waiter is watched.
_DELAY_SECONDS, _WATCHED_SECONDS = 1, 5
#: How long the lock is held: until the waiter has been watched.
_HELD_SECONDS = 10


def _launcher(workload: Workload, row: Row) -> str:
    way = workload.ways("newest")["shim"]
    words = ["-f", "-o", os.devnull, "-e", "trace=execve"]
    delay = ["-e", f"inject=execve:delay_enter={_DELAY_SECONDS * 1_000_000}:when=1"]
    for _ in range(2):
        once(workload, way.command(*_RUN), way.env)
    most = 0.0
    for _ in range(row.rounds):
        tracer = workload.spawn_quietly([need.executable("strace"), *words, *delay, *way.command(*_RUN)], way.env)
        while not os.waitpid(tracer, os.WNOHANG)[0]:
            for pid in children(tracer):
                with contextlib.suppress(OSError):
                    if os.path.samefile(f"/proc/{pid}/exe", way.program):
                        most = max(most, resident_mib(pid))
            time.sleep(0.01)
    return f"{most:.2f} MiB"


def _waiter(workload: Workload, row: Row) -> str:
    """What a fresh call holds while another keeps the lock: all its processes, as the kernel shows them."""
    way = workload.ways("newest")["shim"]
    for _ in range(2):
        once(workload, way.command(*_RUN), way.env)
    exec_ = [str(workload.shim.bin / "uv-mutex"), "exec", "--", "sleep", str(_HELD_SECONDS)]
    most = busy = 0.0
    for _ in range(row.rounds):
        holder = workload.spawn_quietly(exec_, way.env)
        lock = Path(".uv-mutex/lock")
        while not lock.stat().st_size:
            time.sleep(0.01)
        waiter = workload.spawn_quietly(way.command(*_RUN), way.env)
        time.sleep(3)
        members = family(waiter)
        before = sum(map(cpu_seconds, members))
        time.sleep(_WATCHED_SECONDS)
        busy = max(busy, (sum(map(cpu_seconds, members)) - before) / _WATCHED_SECONDS)
        most = max(most, sum(map(resident_mib, members)))
        for pid in (holder, waiter):
            os.waitpid(pid, 0)
    return f"{most:.2f} MiB, {100 * busy:.2f} % of a core"


ROWS = (
    Row("launcher-memory", "resident memory of the launcher, before it becomes uv", "<= 1 MiB", 1, _launcher),
    Row("waiter", "resident memory of a fresh `uv run true` that waits", "<= 1 MiB", 1, _waiter),
)
