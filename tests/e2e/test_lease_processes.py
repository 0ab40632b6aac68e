"""Processes that lock by lease, on a local disk where UV_MUTEX_BACKEND asks for it. tests/cluster has several hosts."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import need
from support.herd import Outcome, explain, failures, herd
from support.index import LocalIndex
from support.journal import Journal
from support.locks import is_busy, take
from support.project import Project, run
from support.shim import install_shim
from support.terminal import wait_until
from support.uvs import uv
from support.wheels import make_wheel

from uv_mutex.errors import MutexError
from uv_mutex.locking import lease
from uv_mutex.locking.lock_file import LockFile

_SOURCES = str(Path(__file__).parents[2] / "src")

_BEGIN = f"""\
import os, sys, time
sys.path.insert(0, {_SOURCES!r})
from uv_mutex.locking import acquire, lease
from uv_mutex.locking.lock_file import LockFile
from uv_mutex.locking.wait_budget import WaitBudget
def take():
    return acquire.take(LockFile(sys.argv[1]), WaitBudget(None, quiet=True, backend="lease"))
"""
_SHORT = "lease.LEASE_SECONDS, lease.HEARTBEAT_SECONDS, lease.LOOK_SECONDS = 3.0, 0.2, 0.1\n"

# Takes the lease, says so, and holds it until it is killed.
_HOLD = f"{_BEGIN}held = take()\nprint('taken', flush=True)\ntime.sleep(600)\n"

# Counts in a file, five times, each time alone if it is told to lock.
_COUNT = f"""{_BEGIN}
for _ in range(5):
    held = take() if sys.argv[3] == "locked" else None
    with open(sys.argv[2]) as file:
        number = int(file.read())
    time.sleep(0.001)
    with open(sys.argv[2], "w") as file:
        file.write(str(number + 1))
    if held:
        held.release()
"""

# Runs a child that itself appends the time to a file again and again, as uv writes an environment: under the lease.
_WORK = f"""{_BEGIN}{_SHORT}
from uv_mutex.errors import MutexError
from uv_mutex.shim import child
held = take()
loop = 'echo $$ > "$0.pid"; while :; do echo "$EPOCHREALTIME" >> "$0"; sleep 0.02; done'
try:
    child.run_child(
        lambda: os.execv("/bin/bash", ["bash", "-c", loop, sys.argv[2]]), "uv", acquire.lost_lock_check([held])
    )
except MutexError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def lock(tmp_path: Path) -> LockFile:
    """The lock of a project that was never locked."""
    return LockFile(str(tmp_path))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease of 3 s in this process."""
    for name, value in (("LEASE_SECONDS", 3.0), ("HEARTBEAT_SECONDS", 0.2), ("LOOK_SECONDS", 0.1)):
        monkeypatch.setattr(lease, name, value)


_take = functools.partial(take, limit=60, backend="lease")
_is_busy = functools.partial(is_busy, backend="lease")


@contextlib.contextmanager
def _another(program: str, *words: str, inside: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """Another process; at the end it is killed, if it still runs.

    :param inside: a command that starts it, such as unshare.
    """
    command = [*inside, sys.executable, "-c", program, *words]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as other:  # type: ignore[call-overload]
        try:
            yield other
        finally:
            other.kill()


@pytest.mark.serial
@pytest.mark.parametrize("how", ["locked", "control"])
def test_thirty_at_once(tmp_path: Path, how: str) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    words = [sys.executable, "-c", _COUNT, str(tmp_path), str(counter), how]
    outcomes = herd([words] * 30, env={"PATH": "/usr/bin:/bin"}, cwd=tmp_path)
    if how == "control":
        assert counter.read_text() != "150"  # it may also be empty, or made of two numbers
        return
    assert not failures(outcomes), explain(outcomes)
    assert int(counter.read_text()) == 150
    assert sorted(os.listdir(tmp_path / ".uv-mutex")) == [".gitignore", "backend", "lock"]


def test_a_killed_owner_that_can_be_seen_keeps_nobody_waiting(lock: LockFile) -> None:
    with _another(_HOLD, lock.above) as other:
        assert other.stdout
        assert other.stdout.readline() == "taken\n"
        assert _is_busy(lock)
        other.kill()
        other.wait()
        assert not _is_busy(lock)


@pytest.mark.usefixtures("short")
def test_an_owner_in_another_container(lock: LockFile) -> None:
    """It has the same host name, and its process id is one that is free here or another program's."""
    need.root()
    need.executable("unshare")
    inside = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    with _another(f"{_BEGIN}{_SHORT}{_HOLD}", lock.above, inside=inside) as other:
        assert other.stdout
        assert other.stdout.readline() == "taken\n"
        with pytest.raises(MutexError, match=r"gave up after 5 s"):
            _take(lock, limit=5)  # longer than the lease
        other.kill()
        other.wait()
        assert _is_busy(lock), "nobody here can see that it is dead"
        began = time.monotonic()
        _take(lock).release()
        assert 2.5 < time.monotonic() - began < 20


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("frozen", [True, False])
def test_a_host_that_is_frozen_and_wakes_up(lock: LockFile, tmp_path: Path, frozen: bool) -> None:
    """Shim and uv stand still for longer than the lease. The control goes on, and keeps the lease."""
    written = tmp_path / "written"
    with _another(_WORK, lock.above, str(written)) as other:
        wait_until(lambda: written.exists() and written.read_text())
        child = int(Path(f"{written}.pid").read_text())
        if not frozen:
            with pytest.raises(MutexError, match=r"gave up after 5 s"):
                _take(lock, limit=5)
            assert other.poll() is None
            return
        for pid in (other.pid, child):
            os.kill(pid, signal.SIGSTOP)
        held = _take(lock)
        assert time.time() - float(written.read_text().split()[-1]) > 2
        for pid in (child, other.pid):
            os.kill(pid, signal.SIGCONT)
        assert other.wait(20) == 1
        assert other.stderr
        lost = r"lost the lock .*/\.uv-mutex/lock: it was not renewed for \d+ s; uv was stopped, run it again\n"
        assert re.fullmatch(lost, other.stderr.read())
        last = written.read_text()
        time.sleep(0.3)
        assert written.read_text() == last, "the child still writes"
        assert held.lost() is None
        held.release()
        assert not _is_busy(lock)


# --- real uv

Factory = Callable[..., Project]


def _adds(index: LocalIndex, project: Project, *, shimmed: bool) -> tuple[list[Outcome], int]:
    """Eight `uv add` at once, and how many of them are in pyproject.toml."""
    names = [f"pkg-{number}" for number in range(8)]
    for name in names:
        make_wheel(index.folder, name)
    env = project.env("newest", shimmed=shimmed, UV_MUTEX_BACKEND="lease")
    outcomes = herd([["uv", "add", name] for name in names], env=env, cwd=project.root)
    return outcomes, sum(f'"{name}>=' in project.pyproject.read_text() for name in names)


@pytest.mark.serial
def test_eight_adds_keep_all(index: LocalIndex, project_factory: Factory) -> None:
    outcomes, kept = _adds(index, project_factory(), shimmed=True)
    assert not failures(outcomes), explain(outcomes)
    assert kept == 8


@pytest.mark.serial
def test_control_eight_adds(index: LocalIndex, project_factory: Factory) -> None:
    assert _adds(index, project_factory(), shimmed=False)[1] < 8


def test_the_next_uv_goes_on_at_once_after_a_kill(project_factory: Factory, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    project = project_factory(backend_source=journal.backend)
    env = project.env("newest", UV_MUTEX_BACKEND="lease")
    holding = subprocess.Popen(["uv", "sync"], env={**env, "BUILD_SECONDS": "60"}, cwd=project.root)
    inside = journal.wait(lambda entry: entry.what == "enter", timeout=60)
    assert inside.shim == holding.pid
    os.kill(holding.pid, signal.SIGKILL)
    holding.wait()
    began = time.monotonic()
    done = run(project, ["uv", "sync"], env)
    assert done.returncode == 0, done.stderr.decode()
    assert time.monotonic() - began < 20, "a lease would take 30 s to end"
    journal.wait(lambda entry: entry.what == "orphan", timeout=60)
    assert sorted(entry.what for entry in journal.entries()) == ["enter", "enter", "leave", "orphan"]


# A uv that writes down when it begins and ends, and ends an `add` once it is told to.
_SLOW_UV = """#!/bin/bash
exec 9>>'{log}'
echo "in $1" >&9
while [ $1 = add ] && [ ! -e '{go}' ]; do sleep 0.02; done
'{uv}' "$@"
status=$?
echo "out $1" >&9
exit $status
"""


# What is done first to leave a record.
_HELD_UP = """\
    held_up = os.environ.pop("HELD_UP", "")
    if held_up:
        os.close(os.open(held_up, os.O_CREAT | os.O_WRONLY))
    while os.path.exists(held_up):
        time.sleep(0.02)
"""


@pytest.mark.parametrize("looks_again", [True, False])
def test_an_edit_that_begins_between_look_and_record(
    index: LocalIndex, project_factory: Factory, tmp_path: Path, looks_again: bool
) -> None:
    """A fresh `uv sync` is held up before it leaves its record. The control does not look again after that."""
    prefix = tmp_path / "own-shim"
    install_shim(prefix)
    if not looks_again:
        (source,) = prefix.glob("lib/uv-mutex/*/uv_mutex/locking/lease.py")
        text = source.read_text()
        look = "return lease_marker.look(marker(self.target)) is None and"
        assert look in text
        source.write_text(text.replace(look, "return True or"))
    (records,) = prefix.glob("lib/uv-mutex/*/uv_mutex/records/runs.py")
    text, append = records.read_text(), "def _append(folder: str, line: bytes) -> None:\n"
    assert append in text
    records.write_text(text.replace(append, append + _HELD_UP))
    for name in ("lease", "runs"):
        for compiled in records.parents[1].glob(f"**/{name}.*.pyc"):
            compiled.unlink()
    make_wheel(index.folder, "pkg")
    project = project_factory()
    log, slow_uv, held_up, end = [tmp_path / name for name in ("log", "slow-uv", "held-up", "end")]
    slow_uv.write_text(_SLOW_UV.format(log=log, uv=uv("newest"), go=end))
    slow_uv.chmod(0o755)
    env = project.env("newest", shimmed=False, UV_MUTEX_BACKEND="lease", UV_MUTEX_UV=str(slow_uv))
    env["PATH"] = f"{prefix}/bin:{env['PATH']}"
    for _ in range(2):
        assert run(project, ["uv", "sync"], env).returncode == 0
    log.write_text("")
    sync = subprocess.Popen([prefix / "bin/uv", "sync"], env={**env, "HELD_UP": str(held_up)}, cwd=project.root)
    wait_until(held_up.exists)
    add = subprocess.Popen([prefix / "bin/uv", "add", "pkg"], env=env, cwd=project.root)
    wait_until(lambda: "in add" in log.read_text())
    held_up.unlink()
    if looks_again:
        time.sleep(1)
    else:
        wait_until(lambda: "in sync" in log.read_text())
    end.touch()
    assert [call.wait(60) for call in (add, sync)] == [0, 0]
    apart = ["in add", "out add", "in sync", "out sync"]
    assert (log.read_text().splitlines() == apart) == looks_again
