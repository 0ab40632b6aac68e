"""Times, taken in turns so that a noisy machine is as noisy to all; and the memory of a herd."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from support.memory import LeastMemory

from bench.workload import Way, Workload


@dataclass(frozen=True)
class Herd:
    """What became of many calls at once.

    ``seconds``: until the last was over. ``cpu_seconds``: for how long they kept processors busy. ``failures``: how
    many failed. ``unfinished``: how many were still at work when the time was up, and were killed. ``mib``: by how much
    they lowered the memory that the machine had to give.
    """

    seconds: float
    cpu_seconds: float
    failures: int
    unfinished: int
    mib: float


def in_turns(programs: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Run each program in turn, so many rounds; return the median seconds of each."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            times[name].append(program())
    return {name: statistics.median(values) for name, values in times.items()}


def once(workload: Workload, command: list[str], env: dict[str, str]) -> float:
    """Seconds that one call takes.

    :raises RuntimeError: if it fails.
    """
    began = time.perf_counter()
    pid = workload.spawn_quietly(command, env)
    _, status = os.waitpid(pid, 0)
    seconds = time.perf_counter() - began
    if status:
        raise RuntimeError(f"{command} failed with wait status {status}")
    return seconds


def together(workload: Workload, way: Way, words: Sequence[str], count: int, *, most_seconds: float = 600) -> Herd:
    """Start so many calls at once and wait for the last, or until the time is up."""
    failures = unfinished = 0
    is_late = threading.Event()
    with LeastMemory() as memory:
        began, busy = time.perf_counter(), _cpu_seconds()
        pids = {workload.spawn_quietly(way.command(*words), way.env) for _ in range(count)}

        def end() -> None:
            is_late.set()
            for pid in list(pids):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

        timer = threading.Timer(most_seconds, end)
        timer.start()
        try:
            while pids:
                pid, status = os.waitpid(-1, 0)
                if pid in pids:
                    pids.remove(pid)
                    was_killed = is_late.is_set() and os.WIFSIGNALED(status)
                    unfinished += was_killed
                    failures += status != 0 and not was_killed
        finally:
            timer.cancel()
        seconds = time.perf_counter() - began
    return Herd(seconds, _cpu_seconds() - busy, failures, unfinished, memory.fall_mib)


def _cpu_seconds() -> float:
    """For how long all that this process has started, and waited for, kept processors busy."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
