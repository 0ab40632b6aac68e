"""Who left the lock a moment ago, and for how long the next one waits for them; e2e/test_races.py has real ones."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from uv_mutex.locking.lock_file import EnvironmentFolder, LockFile, LockTarget
from uv_mutex.records import history
from uv_mutex.shim import recent_runs

_HERE = os.uname().nodename


@pytest.fixture
def lock(tmp_path: Path) -> LockFile:
    """A lock in a folder of its own, held since now."""
    (tmp_path / ".uv-mutex").mkdir()
    (tmp_path / ".uv-mutex/lock").write_text("held\n")
    return LockFile(str(tmp_path))


def leave(
    lock: LockFile, pid: int, *, host: str = _HERE, ago: float = 0.0, status: str = "-", name: str = "lock"
) -> None:
    """Write down that a call left the lock."""
    when = time.time() - ago
    line = f"{when:.3f}\t{when:.3f}\t0.000\t0.000\t0\t{status}\t{pid}\t{name}\tuv run\n"
    with Path(lock.path).with_name(f"{history.PREFIX}{host}").open("a") as file:
        file.write(line)


def seconds(lock: LockTarget) -> float:
    """How long the next one waits."""
    began = time.monotonic()
    recent_runs.outlast(lock, f"{os.path.dirname(lock.folder or lock.path)}/.venv")
    return time.monotonic() - began


@contextmanager
def process(program: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that runs this, and has said so."""
    command = [sys.executable, "-c", f"import os, subprocess, time\n{program}"]
    env = {"PATH": os.environ["PATH"], **environ}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        yield running
        running.kill()


def with_child(**environ: str) -> str:
    """A program that has a child with this in its environment, for a second."""
    return (
        f"child = subprocess.Popen(['sleep', '1'], env={{**os.environ, **{environ!r}}})\n"
        "print('ready', flush=True)\nchild.wait()"
    )


_CHECKING = "print('ready', flush=True)\ntime.sleep(0.7)"


def test_a_uv_that_checks_is_waited_for(lock: LockFile) -> None:
    with process(_CHECKING) as uv:
        leave(lock, uv.pid)
        assert 0.2 < seconds(lock) < 5


def test_a_uv_that_builds_is_waited_for(lock: LockFile) -> None:
    with process(with_child(VIRTUAL_ENV="/elsewhere")) as uv:
        leave(lock, uv.pid)
        assert 0.2 < seconds(lock) < 5


def test_a_uv_that_started_its_command_is_not(lock: LockFile) -> None:
    with process(with_child(VIRTUAL_ENV=f"{os.path.dirname(lock.folder or lock.path)}/.venv")) as uv:
        leave(lock, uv.pid)
        assert seconds(lock) < 0.2


def test_the_environment_may_have_another_path(lock: LockFile, tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    (tmp_path / "link").symlink_to(".venv")
    with process(with_child(VIRTUAL_ENV=f"{tmp_path}/link")) as uv:
        leave(lock, uv.pid)
        assert seconds(lock) < 0.2


def test_who_waits_for_us_is_not_waited_for(lock: LockFile) -> None:
    leave(lock, os.getppid())
    leave(lock, os.getpid())
    assert seconds(lock) < 0.2


def test_who_is_over_is_not_waited_for(lock: LockFile) -> None:
    gone = subprocess.Popen(["true"])
    leave(lock, gone.pid)
    while Path(f"/proc/{gone.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    assert seconds(lock) < 0.2
    gone.wait()
    assert seconds(lock) < 0.2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lock, pid: leave(lock, pid, ago=60),
        lambda lock, pid: leave(lock, pid, status="0"),
        lambda lock, pid: leave(lock, pid, name="other.lock"),
        lambda lock, _: Path(lock.path).with_name(f"{history.PREFIX}{_HERE}").write_bytes(b"\xff\t\n1\t2\nnan\t\n\t\t"),
        lambda lock, _: Path(lock.path).with_name(f"{history.PREFIX}{_HERE}").mkdir(),
    ],
    ids=["long ago", "is over", "another lock", "no lines", "no file"],
)
def test_what_is_no_reason_to_wait(lock: LockFile, spoil: Callable[[LockFile, int], object]) -> None:
    with process(_CHECKING) as uv:
        spoil(lock, uv.pid)
        assert seconds(lock) < 0.2


def test_another_hosts_uv_is_given_two_seconds_by_the_file_servers_clock(lock: LockFile) -> None:
    # That host's own clock is an hour ahead.
    leave(lock, 1, host="elsewhere", ago=-3600)
    Path(lock.path).write_text("held again\n")
    assert 1.5 < seconds(lock) < 5
    file = Path(lock.path).with_name(f"{history.PREFIX}elsewhere")
    long_ago = time.time() - 10
    os.utime(file, (long_ago, long_ago))
    assert seconds(lock) < 0.2


def test_another_hosts_uv_left_before_that_hosts_last_call(lock: LockFile) -> None:
    leave(lock, 1, host="elsewhere", ago=60)
    leave(lock, 2, host="elsewhere", status="0")
    assert seconds(lock) < 0.2


def test_a_folder_has_no_history(tmp_path: Path) -> None:
    assert seconds(EnvironmentFolder(str(tmp_path))) < 0.2
