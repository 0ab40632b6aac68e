"""The watchdog kills the child that works under a lost lock, and never another process."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from uv_mutex.errors import MutexError
from uv_mutex.shim import child, signal_relay


def _start(*words: str) -> child.Ended:
    return child.run_child(lambda: os.execv(words[0], words), words[0], _reason)


_asked, _answer = threading.Event(), threading.Event()


def _reason() -> str:
    """As on a file server that takes long to answer."""
    _asked.set()
    _answer.wait(20)
    return "lost the lock"


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The processes that are killed by SIGKILL."""
    pids: list[int] = []
    kill = signal_relay.kill

    def record(pid: int, number: int) -> None:
        if number == signal.SIGKILL:
            pids.append(pid)
        kill(pid, number)

    monkeypatch.setattr(signal_relay, "kill", record)
    _asked.clear()
    _answer.clear()
    return pids


def test_a_child_under_a_lost_lock_is_killed(killed: list[int]) -> None:
    _answer.set()
    with pytest.raises(MutexError, match="lost the lock; sleep was stopped, run it again"):
        _start("/bin/sleep", "20")
    assert len(killed) == 1


def test_an_answer_that_comes_after_the_end_kills_nobody(
    killed: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control is the test above: the same answer while the child runs."""
    asked = tmp_path / "asked"

    def tell_the_child() -> None:
        threading.Event.set(_asked)
        asked.touch()

    monkeypatch.setattr(_asked, "set", tell_the_child)
    code = 'until [ -e "$0" ]; do sleep 0.02; done'
    assert _start("/bin/sh", "-c", code, str(asked)).ok
    assert _asked.is_set(), "the watchdog was asking when the child ended"
    _answer.set()
    time.sleep(0.5)
    assert not killed
