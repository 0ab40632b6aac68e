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


#: Longer than any wait that is right, and shorter than that for a uv whose command is never noticed.
_WELL_BELOW_TEN = 8


def seconds(environment: Path) -> float:
    """How long an edit waits. No lower bound of it says anything: the test may have been held up before."""
    began = time.monotonic()
    recent_runs.outlast(str(environment), [])
    return time.monotonic() - began


def waits(environment: Path) -> bool:
    """Whether an edit waits at all."""
    return recent_runs.outlast(str(environment), [])


@contextmanager
def uv(program: str, seconds: float | None = None, **environ: str) -> Iterator[Process]:
    """A Python process that stands in for uv: it runs this, and has said so.

    :param seconds: how long it lives after that; None to the end of the context.
    """
    command = [sys.executable, "-c", f"import os, subprocess, sys, time\n{program}"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env={**_USER, **environ}, text=True, **pipes) as running:  # type: ignore[call-overload]
        assert running.stdout is not None
        assert running.stdin is not None
        timer = threading.Timer(seconds or 0, running.stdin.close)
        try:
            assert running.stdout.readline() == "ready\n"
            if seconds is not None:
                timer.start()
            yield process_of(running.pid)
        finally:
            timer.cancel()
            running.kill()


#: Goes on until it is told to end.
_WAITS = "print('ready', flush=True)\nsys.stdin.read()"


def with_child(environ: Mapping[str, str], *, age: float = 0) -> str:
    """A program that has a child with these variables and says so once the child is this old. They end together."""
    return (
        "pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}\n"
        f"child = subprocess.Popen(['/bin/cat'], env={dict(environ)!r}, **pipes)\n"
        "child.stdin.write(b'1'), child.stdin.flush(), child.stdout.read(1)\n"  # now its variables are to be seen
        f"time.sleep({age})\n{_WAITS}\nchild.kill(), child.wait()"
    )


@pytest.mark.parametrize("kind", [runs.RUN, runs.SYNC])
@pytest.mark.parametrize("has_pidfd", [True, False])
def test_a_uv_that_checks_is_waited_for(
    kind: str, has_pidfd: bool, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_pidfd:

        def refuse(_pid: int) -> int:
            raise PermissionError

        monkeypatch.setattr(os, "pidfd_open", refuse)
    with uv(_WAITS, seconds=1) as run:
        leave(environment, run, kind)
        used = time.process_time()
        assert seconds(environment) < _WELL_BELOW_TEN
        assert not run.is_alive
        assert time.process_time() - used < 0.3
    assert not own_file(environment).exists()


@pytest.mark.parametrize("depth", [None, "0", "3"])
def test_a_uv_that_started_its_command_is_not(depth: str | None, environment: Path) -> None:
    own = {} if depth is None else {_DEPTH: depth}
    with uv(with_child({**_USER, _DEPTH: str(int(depth or 0) + 1)}), None, **own) as run:
        leave(environment, run)
        assert not waits(environment)


def test_only_the_command_has_another_depth(environment: Path) -> None:
    """A build, or a query of an interpreter, below a uv that is itself the command of another."""
    child = with_child({**_USER, _DEPTH: "1", "VIRTUAL_ENV": str(environment)})
    with uv(child, seconds=1, **{_DEPTH: "1"}) as run:
        leave(environment, run)
        assert seconds(environment) < _WELL_BELOW_TEN
        assert not run.is_alive


@pytest.mark.parametrize("variables", [{}, {"A": "b"}], ids=["none", "others"])
def test_a_command_that_hides_its_variables_counts_after_a_second(variables: dict[str, str], environment: Path) -> None:
    with uv(with_child(variables)) as run:
        (command,) = map(int, Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split())
        leave(environment, run)
        assert seconds(environment) < _WELL_BELOW_TEN
        ticks = time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")
        assert ticks - int(process.start_time(command)) >= 0.98 * os.sysconf("SC_CLK_TCK")
        leave(environment, run)
        assert not waits(environment)


def test_a_long_build_is_not_taken_for_such_a_command(environment: Path) -> None:
    variables = {**_USER, "VIRTUAL_ENV": "/elsewhere", "PATH": "/elsewhere/bin"}
    own = {"VIRTUAL_ENV": str(environment), "UV_AUTH_TOKEN": "x"}
    with uv(with_child(variables, age=1.5), seconds=1, **own) as run:
        leave(environment, run)
        assert seconds(environment) < _WELL_BELOW_TEN
        assert not run.is_alive


def test_nor_is_a_build_that_has_ended(environment: Path) -> None:
    """Until uv takes notice of that, the build has no variables to show."""
    build = "build = subprocess.Popen(['/bin/sleep', '1.5'])\nos.waitid(os.P_PID, build.pid, os.WEXITED | os.WNOWAIT)\n"
    with uv(build + _WAITS, seconds=1) as run:
        leave(environment, run)
        assert seconds(environment) < _WELL_BELOW_TEN
        assert not run.is_alive


def test_a_sync_that_builds_is_waited_for_until_its_end(environment: Path) -> None:
    with uv(with_child({}, age=1.5), seconds=1) as run:
        leave(environment, run, runs.SYNC)
        assert seconds(environment) < _WELL_BELOW_TEN
        assert not run.is_alive


def test_at_most_ten_seconds_since_the_record(environment: Path) -> None:
    with uv(_WAITS) as run:
        for kind in (runs.RUN, runs.SYNC):
            recorded = time.time() - 9
            leave(environment, run, kind, ago=9)
            assert seconds(environment) < _WELL_BELOW_TEN
            assert time.time() - recorded > 9.9
            leave(environment, run, kind, ago=10)
            assert not waits(environment)


@pytest.mark.parametrize("kind", [runs.RUN, runs.SYNC])
def test_a_run_that_is_taken_back_meanwhile(kind: str, environment: Path) -> None:
    """Its call has seen the edit, and waits for it. So the edit must not wait for that call."""
    with uv(_WAITS) as run:
        leave(environment, run, kind)
        taken_back = threading.Event()

        def take_back() -> None:
            taken_back.set()
            leave(environment, run, runs.VOID)

        timer = threading.Timer(0.5, take_back)
        timer.start()
        assert seconds(environment) < _WELL_BELOW_TEN
        assert taken_back.is_set()
        timer.join()
        recorded = time.time() - 8
        leave(environment, run, kind, ago=8)
        assert seconds(environment) < _WELL_BELOW_TEN
        assert time.time() - recorded > 9.9, "it counts again"


def test_many_are_waited_for_at_once(environment: Path) -> None:
    with (
        uv(with_child({**_USER, _DEPTH: "1"})) as third,
        uv(_WAITS, seconds=1) as second,
        uv(_WAITS, seconds=1) as first,
    ):
        for run in (third, second, first, third):
            leave(environment, run)
        path = own_file(environment)
        with path.open("a") as file:
            for number in range(700):
                file.write(line(Process(first.boot, first.namespace, first.pid, str(number))))
        assert seconds(environment) < _WELL_BELOW_TEN
        assert not first.is_alive
        assert not second.is_alive
        assert third.is_alive


def test_who_is_over_is_not_waited_for(environment: Path) -> None:
    gone = subprocess.Popen(["sleep", "30"])
    run = process_of(gone.pid)
    leave(environment, run)
    gone.send_signal(signal.SIGKILL)
    while run.is_alive:
        time.sleep(0.01)
    assert process.stat(gone.pid)[0] == "Z"
    assert not waits(environment)
    gone.wait()
    leave(environment, run)
    assert not waits(environment)


def test_a_reused_process_id(environment: Path) -> None:
    with uv(_WAITS) as run:
        leave(environment, Process(run.boot, run.namespace, run.pid, "1"))
        assert not waits(environment)


def test_a_line_from_the_future_about_a_process_that_lives(environment: Path) -> None:
    with uv(_WAITS) as run:
        leave(environment, run, ago=-3600)
        left = own_file(environment).stat().st_mtime
        assert seconds(environment) < _WELL_BELOW_TEN
        assert time.time() - left > 1.9, "it is as young as its file"
        leave(environment, run, ago=-3600)
        old = time.time() - 3
        os.utime(own_file(environment), (old, old))
        assert not waits(environment)


def test_where_proc_does_not_tell_children(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_runs, "_children", lambda _pid: None)
    with uv(_WAITS) as run:
        left = time.time()
        leave(environment, run)
        assert seconds(environment) < _WELL_BELOW_TEN
        assert time.time() - left > 1.9


_EDIT = (
    "import sys, time\nsys.path.insert(0, sys.argv[1])\nfrom uv_mutex.shim import recent_runs\n"
    "print('ready', flush=True)\nsys.stdin.readline()\n"
    "began = time.monotonic()\nwaited = recent_runs.outlast(sys.argv[2], [])\n"
    "print(int(waited), time.monotonic() - began)"
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

    def go_on(self) -> tuple[bool, float]:
        """Whether the edit waits, and for how many seconds."""
        output, _ = self._running.communicate("go on\n")
        assert self._running.returncode == 0
        waited, seconds = output.split()
        return waited == "1", float(seconds)


def test_in_another_pid_namespace(environment: Path) -> None:
    need.root()
    way = [need.executable("unshare"), "--pid", "--fork", "--mount-proc"]
    with uv(_WAITS) as run:
        edits = [Elsewhere(environment, *way) for _ in range(3)]
        left = time.time()
        leave(environment, run)
        assert edits[0].go_on()[1] < _WELL_BELOW_TEN
        assert time.time() - left > 1.9
        leave(environment, run, ago=3)
        assert not edits[1].go_on()[0]
        # Its process ids are small, and long-lived services have them.
        leave(environment, Process(run.boot, run.namespace, 1, "1"), ago=1.5)
        assert edits[2].go_on()[1] < _WELL_BELOW_TEN


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
    with uv(_WAITS) as run:
        edit = Elsewhere(environment, *way, python=python, sources=str(source))
        left = time.time()
        leave(environment, run)
        assert edit.go_on()[1] < _WELL_BELOW_TEN
        assert time.time() - left > 1.9


def test_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        environment = disk / ".venv"
        environment.mkdir()
        with uv(_WAITS, seconds=1) as run:
            leave(environment, run)
            own_file(environment).with_name("runs.elsewhere").write_text(line(run))
            with pytest.raises(OSError, match="No space left"):
                (disk / "filler").write_bytes(bytes(65536))
            for _ in range(100):
                runs.append(str(environment), [], runs.RUN)
            assert seconds(environment) < _WELL_BELOW_TEN
            assert not run.is_alive
            assert not waits(environment)


def test_many_at_once_lose_none(environment: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {_SOURCES!r})\nfrom uv_mutex.records import runs\n"
        "for _ in range(60):\n    runs.append(sys.argv[1], [], runs.RUN)\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(environment)]) for _ in range(6)]
    assert [writer.wait() for writer in writers] == [0] * 6
    found = [run.process.pid for file in runs.find(str(environment), []) for run in file.runs()]
    assert sorted(found) == sorted(writer.pid for writer in writers for _ in range(60))
