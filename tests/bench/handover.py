"""How long a lock lies idle between one holder and the next, and what a waiter costs meanwhile."""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.workload import Workload

#: Takes the lock again and again; prints when it got it and when it let go.
_WORKER = """
import sys, time
sys.path.insert(0, sys.argv[4])
from uv_mutex.locking.wait import WaitBudget
from uv_mutex.locking import acquire
from uv_mutex.locking.lock_file import LockFile
lock = LockFile(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[3])):
    held = acquire.take(lock, WaitBudget(None, quiet=True))
    got = time.monotonic_ns()
    time.sleep(0.02)
    let_go = time.monotonic_ns()
    held.release()
    print(got, let_go, flush=True)
"""
_HOLD_SECONDS = 6.0
_SOURCES = str(Path(__file__).parents[2] / "src")


@dataclass(frozen=True)
class Waiter:
    """What one waiting call uses: resident MiB, and its share of a core in percent."""

    resident_mib: float
    percent: float


def median_handover(folder: Path, waiters: int, rounds: int) -> float:
    """Median seconds from a release to the next acquisition, with so many waiting."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", _WORKER, str(folder / ".uv-mutex/lock"), str(folder), str(rounds), _SOURCES]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(waiters + 1)
    ]
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.readline()
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.close()
    holds = []
    for worker in workers:
        assert worker.stdout is not None
        holds += [tuple(map(int, line.split())) for line in worker.stdout]
        worker.wait()
    holds.sort()
    # Those at the end had nobody waiting for them.
    contended = holds[: max(2, len(holds) - len(workers))]
    pauses = [(got - let_go) / 1e9 for (_, let_go), (got, _) in itertools.pairwise(contended)]
    if min(pauses) < 0:
        raise RuntimeError("two held the lock at once")
    return statistics.median(pauses)


def cost_of_waiting(workload: Workload) -> Waiter:
    """What a call of `uv sync` costs while another holds the lock."""
    from uv_mutex.locking import acquire
    from uv_mutex.locking.lock_file import LockFile
    from uv_mutex.locking.wait import WaitBudget

    root = workload.project.root
    held = acquire.take(LockFile(str(root)), WaitBudget(None, quiet=True))
    way = workload.ways("newest")["shim"]
    pid = workload.spawn_quietly(way.command("sync"), way.env)
    time.sleep(3)
    before = _ticks(pid)
    time.sleep(_HOLD_SECONDS)
    used = (_ticks(pid) - before) / os.sysconf("SC_CLK_TCK")
    status = Path(f"/proc/{pid}/status").read_text()
    resident = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")))
    held.release()
    os.waitpid(pid, 0)
    return Waiter(resident / 1024, 100 * used / _HOLD_SECONDS)


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
