"""What a session of locks writes down about a call."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support.herd import read_log

from uv_mutex.locking.lock_file import LockFile
from uv_mutex.shim.session import LockSession
from uv_mutex.uv.project import Project


def test_what_comes_after_the_release_is_no_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By when it began, how long it waited and how long it held the lock, a reader knows when it released it."""
    root, log = str(tmp_path), tmp_path / "log"
    monkeypatch.setenv("UV_MUTEX_LOG", str(log))
    session = LockSession(
        Project(root, root, root, f"{root}/.venv"),
        [LockFile(root)],
        command="uv sync",
        words=["uv", "sync"],
        quiet=True,
        waits_since=time.monotonic() - 5,
    )
    session.take(shared=False)
    time.sleep(0.1)
    session.release()
    released = time.time()
    time.sleep(0.3)  # it loses its core
    session.write(prepared=False, status=0)
    (line,) = read_log(log)
    assert line["held"] >= 0.1
    assert line["waited"] >= 5
    assert line["time"] + line["waited"] + line["held"] <= released + 0.001
