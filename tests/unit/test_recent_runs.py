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

from uv_mutex.locking.lock_file import Place
from uv_mutex.records import history
from uv_mutex.shim import recent_runs

_HERE = os.uname().nodename
_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A lock in a folder of its own, held since now."""
    (tmp_path / ".uv-mutex").mkdir()
    (tmp_path / ".uv-mutex/lock").write_text("held\n")
    return Place(str(tmp_path / ".uv-mutex/lock"), str(tmp_path))


def leave(
    place: Place, pid: int, *, host: str = _HERE, ago: float = 0.0, status: str = "-", lock: str = "lock"
) -> None:
    """Write down that a call left the lock."""
    when = time.time() - ago
    line = f"{when:.3f}\t{when:.3f}\t0.000\t0.000\t0\t{status}\t{pid}\t{lock}\tuv run\n"
    with Path(place.path).with_name(f"{history.PREFIX}{host}").open("a") as file:
        file.write(line)


def seconds(place: Place) -> float:
    """How long the next one waits."""
    began = time.monotonic()
    recent_runs.outlast(place, f"{place.mode_of}/.venv")
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


@_LINUX
def test_a_uv_that_checks_is_waited_for(place: Place) -> None:
    with process(_CHECKING) as uv:
        leave(place, uv.pid)
        assert 0.2 < seconds(place) < 5


@_LINUX
def test_a_uv_that_builds_is_waited_for(place: Place) -> None:
    with process(with_child(VIRTUAL_ENV="/elsewhere")) as uv:
        leave(place, uv.pid)
        assert 0.2 < seconds(place) < 5


@_LINUX
def test_a_uv_that_started_its_command_is_not(place: Place) -> None:
    with process(with_child(VIRTUAL_ENV=f"{place.mode_of}/.venv")) as uv:
        leave(place, uv.pid)
        assert seconds(place) < 0.2


@_LINUX
def test_the_environment_may_have_another_path(place: Place, tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    (tmp_path / "link").symlink_to(".venv")
    with process(with_child(VIRTUAL_ENV=f"{tmp_path}/link")) as uv:
        leave(place, uv.pid)
        assert seconds(place) < 0.2


@_LINUX
def test_who_waits_for_us_is_not_waited_for(place: Place) -> None:
    leave(place, os.getppid())
    leave(place, os.getpid())
    assert seconds(place) < 0.2


@_LINUX
def test_who_is_over_is_not_waited_for(place: Place) -> None:
    gone = subprocess.Popen(["true"])
    leave(place, gone.pid)
    while Path(f"/proc/{gone.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    assert seconds(place) < 0.2
    gone.wait()
    assert seconds(place) < 0.2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda place, pid: leave(place, pid, ago=60),
        lambda place, pid: leave(place, pid, status="0"),
        lambda place, pid: leave(place, pid, lock="other.lock"),
        lambda place, _: (
            Path(place.path).with_name(f"{history.PREFIX}{_HERE}").write_bytes(b"\xff\t\n1\t2\nnan\t\n\t\t")
        ),
        lambda place, _: Path(place.path).with_name(f"{history.PREFIX}{_HERE}").mkdir(),
    ],
    ids=["long ago", "is over", "another lock", "no lines", "no file"],
)
def test_what_is_no_reason_to_wait(place: Place, spoil: Callable[[Place, int], object]) -> None:
    with process(_CHECKING) as uv:
        spoil(place, uv.pid)
        assert seconds(place) < 0.2


def test_another_hosts_uv_is_given_two_seconds_by_the_file_servers_clock(place: Place) -> None:
    # That host's own clock is an hour ahead.
    leave(place, 1, host="elsewhere", ago=-3600)
    Path(place.path).write_text("held again\n")
    assert 1.5 < seconds(place) < 5
    file = Path(place.path).with_name(f"{history.PREFIX}elsewhere")
    long_ago = time.time() - 10
    os.utime(file, (long_ago, long_ago))
    assert seconds(place) < 0.2


def test_another_hosts_uv_left_before_that_hosts_last_call(place: Place) -> None:
    leave(place, 1, host="elsewhere", ago=60)
    leave(place, 2, host="elsewhere", status="0")
    assert seconds(place) < 0.2


def test_a_folder_has_no_history(tmp_path: Path) -> None:
    assert seconds(Place(str(tmp_path), str(tmp_path), is_folder=True)) < 0.2
