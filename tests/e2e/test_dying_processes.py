"""A process that was killed is waited for, however long its death takes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from uv_mutex.environment import recovery
from uv_mutex.locking import process

#: The kernel takes some 0.1 s to take back that much memory.
_PROGRAM = """
import mmap, time
memory = mmap.mmap(-1, 1 << 30)
for at in range(0, len(memory), mmap.PAGESIZE):
    memory[at] = 1
print(flush=True)
time.sleep(600)
"""


@pytest.fixture
def slow_to_die() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", _PROGRAM], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child
        child.kill()


def _has_ended(child: subprocess.Popen[bytes]) -> bool:
    return process.stat(child.pid)[0] == "Z"


def test_what_was_killed_is_outlasted(slow_to_die: subprocess.Popen[bytes]) -> None:
    slow_to_die.kill()
    assert not _has_ended(slow_to_die), "the control: it goes on dying"
    process.outlast_killed(60)
    assert _has_ended(slow_to_die)


def test_not_for_ever(slow_to_die: subprocess.Popen[bytes]) -> None:
    slow_to_die.kill()
    process.outlast_killed(0)
    assert not _has_ended(slow_to_die)


def test_what_lives_is_not_waited_for(slow_to_die: subprocess.Popen[bytes]) -> None:
    began = time.monotonic()
    process.outlast_killed(60)
    assert time.monotonic() - began < 30
    assert not _has_ended(slow_to_die)


def test_before_anything_is_undone(
    slow_to_die: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be the uv that still works on the environment, here one that it had begun to create."""
    monkeypatch.setattr(recovery, "_LAST_CALL_SECONDS", 0)  # the time for those that can't be seen is no help
    environment = tmp_path / ".venv"
    (environment / "lib").mkdir(parents=True)
    slow_to_die.kill()
    assert not _has_ended(slow_to_die), "the control: it goes on dying"
    recovery.undo_half_done(str(environment), str(tmp_path / "uv.lock"), 0.0)
    assert _has_ended(slow_to_die)
    assert not environment.exists()
