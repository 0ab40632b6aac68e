"""For how long an edit waits for a uv that it can see; test_recent_runs.py has real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import need
from support.disk import small_disk
from support.runs import leave, line, own_file, process_of

from uv_mutex.locking import process
from uv_mutex.locking.process import Process
from uv_mutex.records import runs
from uv_mutex.shim import recent_runs

_SOURCES = str(Path(__file__).parents[2] / "src")
_DEPTH = "UV_RUN_RECURSION_DEPTH"
#: What stands in for the variables of a user.
_USER = {"PATH": os.environ["PATH"], "HOME": "/", "LANG": "C", "TERM": "dumb"}


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """The folder of an environment."""
    (tmp_path / ".venv").mkdir()
    return tmp_path / ".venv"


def seconds(environment: Path) -> float:
    """How long an edit waits."""
    began = time.monotonic()
    recent_runs.outlast(str(environment), [])
    return time.monotonic() - began


@contextmanager
def uv(program: str, **environ: str) -> Iterator[Process]:
    """A Python process that stands in for uv: it runs this, and has said so."""
    command = [sys.executable, "-c", f"import os, subprocess, sys, time\n{program}"]
    with subprocess.Popen(command, env={**_USER, **environ}, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            assert running.stdout.readline() == "ready\n"
            yield process_of(running.pid)
        finally:
            running.kill()


def with_child(environ: Mapping[str, str], *, seconds: float = 30, age: float = 0) -> str:
    """A program that has a child with these variables and says so once the child is this old."""
    return (
        f"child = subprocess.Popen(['/bin/sleep', '{seconds}'], env={dict(environ)!r})\n"
        f"time.sleep({age})\nprint('ready', flush=True)\nchild.wait()"
    )


_CHECKING = "print('ready', flush=True)\ntime.sleep(1)"


@pytest.mark.parametrize("kind", [runs.RUN, runs.SYNC])
@pytest.mark.parametrize("has_pidfd", [True, False])
def test_a_uv_that_checks_is_waited_for(
    kind: str, has_pidfd: bool, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_pidfd:

        def refuse(_pid: int) -> int:
            raise PermissionError

        monkeypatch.setattr(os, "pidfd_open", refuse)
    with uv(_CHECKING) as run:
        leave(environment, run, kind)
        used = time.process_time()
        assert 0.5 < seconds(environment) < 5
        assert time.process_time() - used < 0.3
    assert not own_file(environment).exists()


@pytest.mark.parametrize("depth", [None, "0", "3"])
def test_a_uv_that_started_its_command_is_not(depth: str | None, environment: Path) -> None:
    own = {} if depth is None else {_DEPTH: depth}
    with uv(with_child({**_USER, _DEPTH: str(int(depth or 0) + 1)}), **own) as run:
        leave(environment, run)
        assert seconds(environment) < 0.3


def test_only_the_command_has_another_depth(environment: Path) -> None:
    """A build, or a query of an interpreter, below a uv that is itself the command of another."""
    with uv(with_child({**_USER, _DEPTH: "1", "VIRTUAL_ENV": str(environment)}, seconds=1), **{_DEPTH: "1"}) as run:
        leave(environment, run)
        assert 0.5 < seconds(environment) < 5


@pytest.mark.parametrize("variables", [{}, {"A": "b"}], ids=["none", "others"])
def test_a_command_that_hides_its_variables_counts_after_a_second(variables: dict[str, str], environment: Path) -> None:
    with uv(with_child(variables)) as run:
        leave(environment, run)
        assert 0.5 < seconds(environment) < 3
        leave(environment, run)
        assert seconds(environment) < 0.3


def test_a_long_build_is_not_taken_for_such_a_command(environment: Path) -> None:
    variables = {**_USER, "VIRTUAL_ENV": "/elsewhere", "PATH": "/elsewhere/bin"}
    with uv(with_child(variables, seconds=3, age=1.5), VIRTUAL_ENV=str(environment), UV_AUTH_TOKEN="x") as run:
        leave(environment, run)
        assert 0.7 < seconds(environment) < 5


def test_a_sync_that_builds_is_waited_for_until_its_end(environment: Path) -> None:
    with uv(with_child({}, seconds=3, age=1.5)) as run:
        leave(environment, run, runs.SYNC)
        assert 0.7 < seconds(environment) < 5


def test_at_most_ten_seconds_since_the_record(environment: Path) -> None:
    with uv("print('ready', flush=True)\ntime.sleep(60)") as run:
        for kind in (runs.RUN, runs.SYNC):
            leave(environment, run, kind, ago=9)
            assert 0.5 < seconds(environment) < 1.8
            leave(environment, run, kind, ago=10)
            assert seconds(environment) < 0.3


@pytest.mark.parametrize("kind", [runs.RUN, runs.SYNC])
def test_a_run_that_is_taken_back_meanwhile(kind: str, environment: Path) -> None:
    """Its call has seen the edit, and waits for it. So the edit must not wait for that call."""
    with uv("print('ready', flush=True)\ntime.sleep(60)") as run:
        leave(environment, run, kind)
        timer = threading.Timer(0.5, leave, (environment, run, runs.VOID))
        timer.start()
        assert 0.3 < seconds(environment) < 3
        timer.join()
        leave(environment, run, kind, ago=8)
        assert 1 < seconds(environment) < 3, "it counts again"


def test_many_are_waited_for_at_once(environment: Path) -> None:
    with uv(_CHECKING) as first, uv(_CHECKING) as second, uv(with_child({**_USER, _DEPTH: "1"})) as third:
        for run in (third, second, first, third):
            leave(environment, run)
        for number in range(700):
            leave(environment, Process(first.boot, first.namespace, first.pid, str(number)))
        assert 0.3 < seconds(environment) < 3


def test_who_is_over_is_not_waited_for(environment: Path) -> None:
    gone = subprocess.Popen(["sleep", "30"])
    run = process_of(gone.pid)
    leave(environment, run)
    gone.send_signal(signal.SIGKILL)
    while run.is_alive:
        time.sleep(0.01)
    assert process.stat(gone.pid)[0] == "Z"
    assert seconds(environment) < 0.3
    gone.wait()
    leave(environment, run)
    assert seconds(environment) < 0.3


def test_a_reused_process_id(environment: Path) -> None:
    with uv(_CHECKING) as run:
        leave(environment, Process(run.boot, run.namespace, run.pid, "1"))
        assert seconds(environment) < 0.3


def test_a_line_from_the_future_about_a_process_that_lives(environment: Path) -> None:
    with uv("print('ready', flush=True)\ntime.sleep(60)") as run:
        leave(environment, run, ago=-3600)
        assert 1.5 < seconds(environment) < 3, "it is as young as its file"
        leave(environment, run, ago=-3600)
        old = time.time() - 3
        os.utime(own_file(environment), (old, old))
        assert seconds(environment) < 0.3


def test_where_proc_does_not_tell_children(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_runs, "_children", lambda _pid: None)
    with uv("print('ready', flush=True)\ntime.sleep(60)") as run:
        leave(environment, run)
        assert 1.5 < seconds(environment) < 3


_EDIT = (
    "import sys, time\nsys.path.insert(0, sys.argv[1])\nfrom uv_mutex.shim import recent_runs\n"
    "print('ready', flush=True)\nsys.stdin.readline()\n"
    "began = time.monotonic()\nrecent_runs.outlast(sys.argv[2], [])\nprint(time.monotonic() - began)"
)


class Elsewhere:
    """An edit in another container, or of another user, which waits to be told to begin.

    A record counts for two seconds, and to start this edit may take as long. So the record is left after its start.
    """

    def __init__(self, environment: Path, *way: str, python: str = sys.executable, sources: str = _SOURCES) -> None:
        command = [*way, python, "-c", _EDIT, sources, str(environment)]
        self._running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._running.stdout is not None
        assert self._running.stdout.readline() == "ready\n"

    def seconds(self) -> float:
        """How long the edit waits."""
        output, _ = self._running.communicate("go on\n")
        assert self._running.returncode == 0
        return float(output)


def test_in_another_pid_namespace(environment: Path) -> None:
    need.root()
    way = [need.executable("unshare"), "--pid", "--fork", "--mount-proc"]
    with uv("print('ready', flush=True)\ntime.sleep(60)") as run:
        edits = [Elsewhere(environment, *way) for _ in range(3)]
        leave(environment, run)
        assert 1 < edits[0].seconds() < 4
        leave(environment, run, ago=3)
        assert edits[1].seconds() < 0.5
        # Its process ids are small, and long-lived services have them.
        leave(environment, Process(run.boot, run.namespace, 1, "1"), ago=1.5)
        assert edits[2].seconds() < 1.5


def test_hidden_by_hidepid(environment: Path) -> None:
    need.root()
    for folder in environment.parents:
        if not folder.stat().st_mode & 0o001:
            folder.chmod(0o755)
    environment.chmod(0o777)
    script = 'mount -t proc -o hidepid=2 none /proc && exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"'
    way = [need.executable("unshare"), "--mount", "sh", "-c", script, "sh"]
    python = "/usr/bin/python3"
    need.that(os.access(python, os.X_OK), f"needs {python}, which another user can run")
    source = environment.parent / "src"
    subprocess.run(["cp", "-r", _SOURCES, source], check=True)
    with uv("print('ready', flush=True)\ntime.sleep(60)") as run:
        edit = Elsewhere(environment, *way, python=python, sources=str(source))
        leave(environment, run)
        assert 1 < edit.seconds() < 4


def test_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        environment = disk / ".venv"
        environment.mkdir()
        with uv(_CHECKING) as run:
            leave(environment, run)
            own_file(environment).with_name("runs.elsewhere").write_text(line(run))
            with pytest.raises(OSError, match="No space left"):
                (disk / "filler").write_bytes(bytes(65536))
            for _ in range(100):
                runs.append(str(environment), [], runs.RUN)
            assert 0.5 < seconds(environment) < 4
            assert seconds(environment) < 0.3


def test_many_at_once_lose_none(environment: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {_SOURCES!r})\nfrom uv_mutex.records import runs\n"
        "for _ in range(60):\n    runs.append(sys.argv[1], [], runs.RUN)\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(environment)]) for _ in range(6)]
    assert [writer.wait() for writer in writers] == [0] * 6
    found = [run.process.pid for file in runs.find(str(environment), []) for run in file.runs()]
    assert sorted(found) == sorted(writer.pid for writer in writers for _ in range(60))
