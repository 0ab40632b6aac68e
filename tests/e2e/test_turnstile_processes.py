"""A stream of processes that share a lock can't keep out one that wants it alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.terminal import wait_until

from uv_mutex.errors import TIMED_OUT, MutexError
from uv_mutex.locking import acquire, turnstile
from uv_mutex.locking.flock import HeldLock
from uv_mutex.locking.lock_file import EnvironmentFolder, LockFile, LockTarget
from uv_mutex.locking.wait_budget import WaitBudget

_SOURCES = str(Path(__file__).parents[2] / "src")
_LOOPS, _HOLD_SECONDS = 8, 0.3
#: A loop ends with its round, and no round is longer; eight that begin at different times leave no gap.
_STARVED_SECONDS = 3.0

# Takes a lock, as one of many or alone, says so, holds it for some seconds, and begins again until its stdin ends.
_LOOP = f"""\
import os, select, sys, time
sys.path.insert(0, {_SOURCES!r})
from uv_mutex.locking import acquire, turnstile
from uv_mutex.locking.lock_file import EnvironmentFolder, LockFile
from uv_mutex.locking.wait_budget import WaitBudget
kind, folder, how, seconds, fair = sys.argv[1:]
if fair == "unfair":
    turnstile.Turnstile.is_free = lambda self: True
    turnstile.Turnstile.wait = lambda self, wait: None
target = {{"file": LockFile, "folder": EnvironmentFolder}}[kind](folder)
print("begun", flush=True)
while True:
    lock = acquire.take(target, WaitBudget(None, quiet=True), shared=how == "shared")
    print("taken", flush=True)
    ended = select.select([0], [], [], float(seconds))[0]
    lock.release()
    if ended:
        break
"""


@contextlib.contextmanager
def _looping(
    target: LockTarget,
    how: str = "shared",
    seconds: float = _HOLD_SECONDS,
    *,
    fair: bool = True,
    after: subprocess.Popen[bytes] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that takes a lock again and again, and begins once another one has it."""
    if after:
        assert after.stdout
        assert after.stdout.readline() == b"taken\n"
    kind = "folder" if isinstance(target, EnvironmentFolder) else "file"
    folder = target.path if kind == "folder" else os.path.dirname(os.path.dirname(target.path))
    words = [sys.executable, "-c", _LOOP, kind, folder, how, str(seconds), "fair" if fair else "unfair"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as loop:
        try:
            assert loop.stdout
            assert loop.stdout.readline() == b"begun\n"
            yield loop
        finally:
            loop.kill()


@pytest.fixture(params=["file", "folder"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> LockTarget:
    """The lock of a project, or of an environment that has no lock file."""
    return LockFile(str(tmp_path)) if request.param == "file" else EnvironmentFolder(str(tmp_path))


def _take(target: LockTarget, limit: float, *, shared: bool = False) -> HeldLock:
    return acquire.take(target, WaitBudget(limit, quiet=True), shared=shared)


def _crowd(target: LockTarget, stack: contextlib.ExitStack, *, fair: bool) -> None:
    """Eight loops, at different places of their rounds."""
    for _ in range(_LOOPS):
        loop = stack.enter_context(_looping(target, fair=fair))
        assert loop.stdout
        assert loop.stdout.readline() == b"taken\n"
        time.sleep(_HOLD_SECONDS / _LOOPS)


def test_one_that_wants_it_alone_gets_its_turn(target: LockTarget) -> None:
    with contextlib.ExitStack() as stack:
        _crowd(target, stack, fair=True)
        waited = []
        for _ in range(3):
            began = time.monotonic()
            _take(target, 20).release()
            waited.append(time.monotonic() - began)
        assert min(waited) < _STARVED_SECONDS, waited
        _take(target, 20, shared=True).release()


def test_control_without_the_turnstile(target: LockTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turnstile.Turnstile, "is_free", lambda _: True)
    monkeypatch.setattr(turnstile.Turnstile, "wait", lambda *_: None)
    with contextlib.ExitStack() as stack:
        _crowd(target, stack, fair=False)
        with pytest.raises(MutexError) as caught:
            _take(target, _STARVED_SECONDS)
        assert caught.value.status == TIMED_OUT


def _is_kept(target: LockTarget) -> bool:
    """Whether somebody waits in the turnstile."""
    try:
        fd = os.open(target.beside("turn").path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


@pytest.mark.parametrize("shared", [False, True])
def test_a_wait_in_the_turnstile_ends_in_time_and_names_the_holder(target: LockTarget, shared: bool) -> None:
    with _looping(target, "shared", 60) as holder, _looping(target, "alone", 60, after=holder) as waiter:
        wait_until(lambda: _is_kept(target))
        began = time.monotonic()
        with pytest.raises(MutexError) as caught:
            _take(target, 0.3, shared=shared)
        assert caught.value.status == TIMED_OUT
        assert 0.3 <= time.monotonic() - began < 20
        assert "gave up after 0.3 s (UV_MUTEX_TIMEOUT) waiting for " in str(caught.value)
        assert f"which holds {target.path};" in str(caught.value)
        assert holder.stdin
        holder.stdin.close()
        assert waiter.stdout
        assert waiter.stdout.readline() == b"taken\n"
        wait_until(lambda: not _is_kept(target))


def test_a_waiter_that_is_killed_leaves_it(target: LockTarget) -> None:
    with _looping(target, "shared", 60) as holder, _looping(target, "alone", 60, after=holder) as waiter:
        wait_until(lambda: _is_kept(target))
        waiter.kill()
        waiter.wait()
        _take(target, 20, shared=True).release()


def test_none_where_nobody_waits(tmp_path: Path) -> None:
    """And one that can't be made keeps nobody out."""
    lock = LockFile(str(tmp_path))
    for shared in (False, True):
        _take(lock, 20, shared=shared).release()
    turn = Path(lock.beside("turn").path)
    assert not turn.exists()
    turn.mkdir()
    for shared in (False, True):
        _take(lock, 20, shared=shared).release()
    held = _take(lock, 20, shared=True)
    with _looping(lock, "alone", 60) as waiter:
        time.sleep(0.5)
        _take(lock, 20, shared=True).release()
        held.release()
        assert waiter.stdout
        assert waiter.stdout.readline() == b"taken\n"
