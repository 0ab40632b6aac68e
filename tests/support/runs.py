"""Run records, written by hand and found."""

from __future__ import annotations

import time
from pathlib import Path

from uv_mutex.locking import process
from uv_mutex.locking.process import Process
from uv_mutex.records import runs


def own_file(environment: Path) -> Path:
    """The file of this kernel in an environment."""
    return environment / f".uv-mutex/{runs.PREFIX}{process.boot_id()}"


def process_of(pid: int) -> Process:
    """A process that this one can see."""
    me = process.this_process()
    return Process(me.boot, me.namespace, pid, process.start_time(pid))


def line(run: Process, kind: str = runs.RUN, *, ago: float = 0.0) -> str:
    """The record of a process."""
    return f"{run.encode()} {kind} {time.time() - ago:.3f}\n"


def leave(environment: Path, run: Process, kind: str = runs.RUN, *, ago: float = 0.0) -> Path:
    """Write down, in the file of its kernel, that a process left its check to uv."""
    path = own_file(environment).with_name(runs.PREFIX + run.boot)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(line(run, kind, ago=ago))
    return path
