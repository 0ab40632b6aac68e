"""The row of a lock that goes from hand to hand: how long it lies idle between one holder and the next."""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
from pathlib import Path

from bench.row import Row
from bench.workload import Workload

#: Takes the lock again and again; prints when it got it and when it let go.
_WORKER = """
import sys, time
sys.path.insert(0, sys.argv[4])
from uv_mutex.locking.wait_budget import WaitBudget
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
_ROUNDS = 2
_SOURCES = str(Path(__file__).parents[2] / "src")


def median_handover(folder: Path, waiters: int) -> float:
    """Median seconds from a release to the next acquisition, with so many waiting."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", _WORKER, str(folder / ".uv-mutex/lock"), str(folder), str(_ROUNDS), _SOURCES]
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


def _handover(workload: Workload, row: Row) -> str:
    pauses = [median_handover(workload.folder / f"handover-{number}", row.calls) for number in range(row.rounds)]
    return f"{statistics.median(pauses) * 1e3:.1f} ms"


ROWS = (Row("handover", "from one holder to the next, {calls} waiting (Python)", "<= 10 ms", 3, _handover, 50),)
