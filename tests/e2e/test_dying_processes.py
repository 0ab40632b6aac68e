"""A process that was killed is waited for, however long its death takes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import need

from uv_mutex.environment import recovery
from uv_mutex.locking import process

#: Has a child that stops just before its end, killed or not, until a line comes (PTRACE_O_TRACEEXIT). So does one that
#: gives up much memory, or waits for a file server, but for how long, nobody knows.
_PROGRAM = """
import ctypes, os, sys, time
SEIZE, CONTINUE, STOP_BEFORE_EXIT, ANY_CHILD = 0x4206, 7, 1 << 6, 1 << 30
ptrace = ctypes.CDLL(None).ptrace
child = os.fork()
if not child:
    time.sleep(600)
    os._exit(0)
is_seized = ptrace(SEIZE, child, None, ctypes.c_void_p(STOP_BEFORE_EXIT)) == 0
print(child if is_seized else 0, flush=True)
if sys.stdin.readline():
    os.waitpid(child, ANY_CHILD)
    ptrace(CONTINUE, child, None, None)
    sys.stdin.read()
os.kill(child, 9)
"""


class Dying:
    """A process that takes long to die."""

    def __init__(self, parent: subprocess.Popen[str], pid: int) -> None:
        self._parent = parent
        self.pid = pid

    def kill(self) -> None:
        """Kill it; it does not end yet."""
        os.kill(self.pid, signal.SIGKILL)

    def end_soon(self) -> None:
        """Let it end in half a second."""
        threading.Timer(0.5, self._end).start()

    def _end(self) -> None:
        assert self._parent.stdin is not None
        self._parent.stdin.write("\n")
        self._parent.stdin.flush()

    @property
    def has_ended(self) -> bool:
        """Whether it is over."""
        return process.stat(self.pid)[0] == "Z"


@pytest.fixture
def slow_to_die() -> Iterator[Dying]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", _PROGRAM], text=True, **pipes) as parent:  # type: ignore[call-overload]
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        need.that(pid > 0, "needs ptrace")
        yield Dying(parent, pid)


def test_what_was_killed_is_outlasted(slow_to_die: Dying) -> None:
    slow_to_die.kill()
    assert not slow_to_die.has_ended, "the control: it goes on dying"
    slow_to_die.end_soon()
    process.outlast_killed(60)
    assert slow_to_die.has_ended


def test_not_for_ever(slow_to_die: Dying) -> None:
    slow_to_die.kill()
    process.outlast_killed(0)
    assert not slow_to_die.has_ended


def test_what_lives_is_not_waited_for(slow_to_die: Dying) -> None:
    began = time.monotonic()
    process.outlast_killed(60)
    assert time.monotonic() - began < 30
    assert not slow_to_die.has_ended


def test_before_anything_is_undone(slow_to_die: Dying, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be the uv that still works on the environment, here one that it had begun to create."""
    monkeypatch.setattr(recovery, "_LAST_CALL_SECONDS", 0)  # the time for those that can't be seen is no help
    environment = tmp_path / ".venv"
    (environment / "lib").mkdir(parents=True)
    slow_to_die.kill()
    assert not slow_to_die.has_ended, "the control: it goes on dying"
    slow_to_die.end_soon()
    recovery.undo_half_done(str(environment), str(tmp_path / "uv.lock"), 0.0)
    assert slow_to_die.has_ended
    assert not environment.exists()
