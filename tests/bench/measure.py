"""Times, taken in turns so that a noisy machine is as noisy to all."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.workload import Way, Workload


@dataclass(frozen=True)
class Herd:
    """What became of many calls at once: seconds until the last was over, and how many failed."""

    seconds: float
    failures: int


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


def together(workload: Workload, way: Way, words: Sequence[str], count: int, **extra: str) -> Herd:
    """Start so many calls at once and wait for the last."""
    began = time.perf_counter()
    pids = {workload.spawn_quietly(way.command(*words), {**way.env, **extra}) for _ in range(count)}
    failures = 0
    while pids:
        pid, status = os.waitpid(-1, 0)
        if pid in pids:
            pids.remove(pid)
            failures += status != 0
    return Herd(time.perf_counter() - began, failures)
