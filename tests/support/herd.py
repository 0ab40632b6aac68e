"""Many calls at the same time, and what became of each."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """One call, over. Times are monotonic; a negative returncode is the signal that ended it."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes
    start: float
    end: float


def herd(
    commands: Sequence[Sequence[str]], *, env: Mapping[str, str], cwd: Path, timeout: float = 600
) -> list[Outcome]:
    """Start all commands at once, each in a session of its own, and wait for the last.

    Raises AssertionError, with what they had said, if one is still running after `timeout` seconds.
    """
    with tempfile.TemporaryDirectory(prefix="herd-") as folder:
        calls = [_Call(command, Path(folder, str(number))) for number, command in enumerate(commands)]
        try:
            for call in calls:
                call.begin(env, cwd)
            # A thread for each: a timed Popen.wait polls, which would blur the end and load the machine.
            waiters = [threading.Thread(target=call.wait, daemon=True) for call in calls]
            for waiter in waiters:
                waiter.start()
            deadline = time.monotonic() + timeout
            for waiter in waiters:
                waiter.join(max(0.0, deadline - time.monotonic()))
            late = sum(waiter.is_alive() for waiter in waiters)
        finally:
            for call in calls:
                call.kill()
        for waiter in waiters:
            waiter.join()
        outcomes = [call.outcome() for call in calls]
    assert not late, f"{late} of {len(calls)} still running after {timeout} s\n{explain(outcomes)}"
    return outcomes


def failures(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Those that did not exit 0."""
    return [outcome for outcome in outcomes if outcome.returncode != 0]


def explain(outcomes: Sequence[Outcome], *, most: int = 5, lines: int = 12) -> str:
    """For an assertion's message: how many failed, and the first few different ways in which they did."""
    failed = failures(outcomes)
    kinds = Counter((item.argv, item.returncode, b"\n".join(item.stderr.splitlines()[-lines:])) for item in failed)
    texts = [f"{len(failed)} of {len(outcomes)} failed"]
    for (argv, returncode, tail), times in list(kinds.items())[:most]:
        texts.append(f"--- {times} x exit {returncode}: {' '.join(argv)}\n{tail.decode(errors='replace')}")
    if len(kinds) > most:
        texts.append(f"--- and {len(kinds) - most} more kinds")
    return "\n".join(texts)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a UV_MUTEX_LOG; none where nothing was logged."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class _Call:
    """A command on its way. Output goes to files: a pipe would fill up, or be kept open by a daemon."""

    def __init__(self, command: Sequence[str], stem: Path) -> None:
        self.command = tuple(command)
        self.stdout, self.stderr = stem.with_suffix(".out"), stem.with_suffix(".err")
        self.process: subprocess.Popen[bytes] | None = None
        self.start = self.end = 0.0

    def begin(self, env: Mapping[str, str], cwd: Path) -> None:
        with self.stdout.open("wb") as stdout, self.stderr.open("wb") as stderr:
            self.start = time.monotonic()
            self.process = subprocess.Popen(
                self.command,
                env=env,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )

    def wait(self) -> None:
        assert self.process is not None
        self.process.wait()
        self.end = time.monotonic()

    def kill(self) -> None:
        """End the whole group, unless the call is over."""
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # over since the look
                os.killpg(self.process.pid, signal.SIGKILL)

    def outcome(self) -> Outcome:
        assert self.process is not None
        output = self.stdout.read_bytes(), self.stderr.read_bytes()
        return Outcome(self.command, self.process.returncode, *output, self.start, self.end)
