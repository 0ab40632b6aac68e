"""The child under the lock: it gets each signal once, and the shim stops, continues and ends as it does."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import need
from support.recorder import COUNTED, Recorder, state
from support.terminal import CTRL_BACKSLASH, CTRL_C, CTRL_Z, Terminal, wait_until

from uv_mutex.errors import CANNOT_EXEC, MutexError
from uv_mutex.shim import child, handover
from uv_mutex.shim.child import Ended

_SOURCES = str(Path(__file__).parents[2] / "src")
_IMPORT = f"import os, signal, sys, time\nsys.path.insert(0, {_SOURCES!r})\nfrom uv_mutex.shim import child, handover\n"

# Runs its words as a child under the lock would run, after `setup`.
_DRIVER = """\
{imports}
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # as the launcher begins
    signal.signal(signal.SIGINT, signal.SIG_DFL)
{setup}
child.end_like(child.run_child(lambda: os.execv(sys.argv[1], sys.argv[1:]), "child"))
"""

# Says which descriptors a process was started with, as JSON; it opened the last one itself.
_PROBE = """\
import json, os
print(json.dumps(sorted(int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}"))))
"""


def _driver(*command: str, setup: str = "") -> list[str]:
    return [sys.executable, "-IS", "-c", _DRIVER.format(imports=_IMPORT, setup=setup), *command]


@contextlib.contextmanager
def _running(command: list[str], *, prologue: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """A command in a process group of its own, which is killed in the end.

    In a session of its own it could not be stopped: nobody there would continue it.

    :param prologue: Python that runs before it in the same process; what it sets up survives exec.
    """
    code = f"import os, signal, sys\nos.setpgid(0, 0)\n{prologue}\nos.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-IS", "-c", code, *command]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as running:
        try:
            yield running
        finally:
            for send in (os.killpg, os.kill):
                with contextlib.suppress(ProcessLookupError):
                    send(running.pid, signal.SIGKILL)


def _pending(pid: int) -> int:
    """The set of signals that wait for a process."""
    return int(dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())["ShdPnd"], 16)


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path)


@pytest.mark.parametrize(("wait_status", "numbers"), [(0, (0, 0, 0)), (3 << 8, (0, 3, 3)), (15, (15, 0, 143))])
def test_ended_reads_a_wait_status(wait_status: int, numbers: tuple[int, int, int]) -> None:
    ended = Ended(wait_status)
    assert (ended.signal, ended.status, ended.shell_status) == numbers
    assert ended.ok == (wait_status == 0)


@pytest.mark.parametrize("ending", ["exit 0", "exit 3", "exit 130", "exit 255"])
def test_ends_with_the_childs_status(ending: str) -> None:
    assert subprocess.run(_driver("/bin/sh", "-c", ending), check=False).returncode == int(ending.split()[1])


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "KILL", "SEGV", "PIPE", "TERM", "USR1", "XFSZ", "ABRT"])
def test_ends_by_the_childs_signal(name: str, tmp_path: Path) -> None:
    command = _driver("/bin/sh", "-c", f"ulimit -c 0; kill -{name} $$")
    done = subprocess.run(command, cwd=tmp_path, check=False)
    assert done.returncode == -signal.Signals[f"SIG{name}"]
    assert not list(tmp_path.iterdir()), "a core file, though the child left none"


@pytest.mark.parametrize("name", COUNTED)
def test_passes_on_what_reached_it_alone(name: str, recorder: Recorder) -> None:
    with _running(_driver(str(recorder.path), "7")) as running:
        assert recorder.pid != running.pid
        for times in range(1, 6):
            os.kill(running.pid, signal.Signals[name])
            recorder.wait_for(name, times)
        recorder.end()
        assert running.wait(60) == 7
    assert recorder.counts == {name: 5}


def test_leaves_to_the_terminal_what_it_sends_to_all(recorder: Recorder, tmp_path: Path) -> None:
    with Terminal(_driver(str(recorder.path), "7"), env={}, cwd=tmp_path) as terminal:
        assert recorder.pid != terminal.pid
        for times in range(1, 6):
            terminal.press(CTRL_C)
            recorder.wait_for("SIGINT", times)
            terminal.press(CTRL_BACKSLASH)
            recorder.wait_for("SIGQUIT", times)
            terminal.resize(20 + times, 80)
            recorder.wait_for("SIGWINCH", times)
        wait_until(lambda: not _pending(terminal.pid))  # or the next would be one with it
        os.kill(terminal.pid, signal.SIGINT)  # and this one reaches the shim alone, although there is a terminal
        recorder.wait_for("SIGINT", 6)
        recorder.end()
        assert terminal.status() == 7 << 8
    assert recorder.counts == {"SIGINT": 6, "SIGQUIT": 5, "SIGWINCH": 5}


def test_a_closed_terminal_reaches_the_child_of_a_session_leader(recorder: Recorder) -> None:
    """The kernel tells the session leader alone: the shim in `ssh -t host uv sync`."""
    keyboard, terminal = need.terminal()
    prologue = f"import fcntl, termios; fcntl.ioctl({terminal}, termios.TIOCSCTTY, 0); os.close({terminal})"
    code = f"import os, signal, sys\n{prologue}\nos.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-IS", "-c", code, *_driver(str(recorder.path))]
    with subprocess.Popen(command, pass_fds=[terminal], start_new_session=True) as leader:
        try:
            os.close(terminal)
            assert recorder.pid
            os.close(keyboard)
            recorder.wait_for("SIGHUP")
            recorder.end()
            assert leader.wait(60) == 0
        finally:
            leader.kill()
    assert recorder.counts["SIGHUP"] == 1


def test_ctrl_c_just_before_the_fork_is_not_lost(recorder: Recorder, tmp_path: Path) -> None:
    setup = """\
real = os.fork
def slow(): print('forking', flush=True); time.sleep(60); return real()
os.fork = slow"""
    with Terminal(_driver(str(recorder.path), setup=setup), env={}, cwd=tmp_path) as terminal:
        terminal.wait_for(b"forking")
        terminal.press(CTRL_C)
        status = terminal.status(30)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGINT


def test_what_is_pending_does_not_end_it_otherwise(tmp_path: Path) -> None:
    """`uv add` answers Ctrl-C with exit status 130, and so does the shim, however late it wakes up."""
    child = "import os, signal\nsignal.signal(signal.SIGINT, lambda *_: os._exit(130))\nprint('on', flush=True)\n"
    command = _driver(sys.executable, "-IS", "-c", child + "while True: signal.pause()")
    with Terminal(command, env={}, cwd=tmp_path) as terminal:
        terminal.wait_for(b"on")
        (child_pid,) = map(int, Path(f"/proc/{terminal.pid}/task/{terminal.pid}/children").read_text().split())
        os.kill(terminal.pid, signal.SIGSTOP)
        assert os.WIFSTOPPED(terminal.status())
        os.kill(child_pid, signal.SIGINT)
        wait_until(lambda: not state(child_pid))
        for number in (signal.SIGHUP, signal.SIGINT):  # the first wakes it up, the second is still there in the end
            os.kill(terminal.pid, number)
        terminal.foreground()
        assert terminal.status() == 130 << 8


def test_stops_and_continues_with_the_child(recorder: Recorder) -> None:
    with _running(_driver(str(recorder.path), "7")) as running:
        child = recorder.pid
        for times in (1, 2):
            os.kill(running.pid, signal.SIGTSTP)
            _, status = os.waitpid(running.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            assert os.WSTOPSIG(status) == signal.SIGTSTP
            wait_until(lambda: state(child) == "T")
            os.kill(running.pid, signal.SIGCONT)
            wait_until(lambda: state(child) == "S")
            os.kill(running.pid, signal.SIGUSR1)
            recorder.wait_for("SIGUSR1", times)
        recorder.end()
        assert running.wait(60) == 7


def test_ctrl_z_stops_both_and_foreground_continues_both(recorder: Recorder, tmp_path: Path) -> None:
    with Terminal(_driver(str(recorder.path), "7"), env={}, cwd=tmp_path) as terminal:
        child = recorder.pid
        for times in (1, 2):
            terminal.press(CTRL_Z)
            status = terminal.status()
            assert os.WIFSTOPPED(status)
            assert os.WSTOPSIG(status) == signal.SIGTSTP
            wait_until(lambda: state(child) == "T")
            terminal.foreground()
            wait_until(lambda: state(child) == "S")
            terminal.press(CTRL_C)
            recorder.wait_for("SIGINT", times)
        recorder.end()
        assert terminal.status() == 7 << 8
    assert recorder.counts == {"SIGINT": 2}


@pytest.mark.parametrize(
    "prologue",
    [
        "signal.signal(signal.SIGTSTP, signal.SIG_IGN)",
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTSTP])",
    ],
    ids=["ignored", "blocked"],
)
def test_does_not_stop_where_uv_would_not(prologue: str, recorder: Recorder) -> None:
    with _running(_driver(str(recorder.path), "7"), prologue=prologue) as running:
        assert recorder.pid
        os.kill(running.pid, signal.SIGTSTP)
        os.kill(running.pid, signal.SIGUSR1)
        recorder.wait_for("SIGUSR1")
        wait_until(lambda: state(running.pid) == "S")
        recorder.end()
        assert running.wait(60) == 7


def test_the_child_dies_with_it(recorder: Recorder) -> None:
    with _running(_driver(str(recorder.path))) as running:
        child = recorder.pid
        os.kill(running.pid, signal.SIGKILL)
        wait_until(lambda: not state(child))
    assert recorder.counts == {}


@pytest.mark.parametrize(
    ("prologue", "ignored", "blocked"),
    [
        ("", (), ()),
        ("signal.signal(signal.SIGCHLD, signal.SIG_IGN)", (signal.SIGCHLD,), ()),
        ("signal.signal(signal.SIGINT, signal.SIG_IGN)", (signal.SIGINT,), ()),
        ("signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGURG])", (), ("SIGUSR1", "SIGURG")),
    ],
    ids=["default", "SIGCHLD ignored", "SIGINT ignored", "blocked"],
)
def test_the_child_starts_as_uv_would(prologue: str, ignored: tuple[int, ...], blocked: tuple[str, ...]) -> None:
    # The prologue's own interpreter ignores these two, which is not what is tested here.
    prologue += "\nfor number in (signal.SIGPIPE, signal.SIGXFSZ): signal.signal(number, signal.SIG_DFL)"
    held = "held = os.open('/', os.O_RDONLY)"
    with _running(_driver("/bin/cat", "/proc/self/status", setup=held), prologue=prologue) as running:
        assert running.stdout
        status = dict(line.split(":", 1) for line in running.stdout.read().decode().splitlines())
        assert running.wait(60) == 0
    # Of posix_spawn, by which Python 3.13 starts the driver: it ignores the two signals that are glibc's own.
    glibcs = 1 << 31 | 1 << 32
    assert int(status["SigIgn"], 16) & ~glibcs == sum(1 << (number - 1) for number in ignored)
    assert int(status["SigBlk"], 16) == sum(1 << (signal.Signals[name] - 1) for name in blocked)


def test_the_child_gets_no_descriptor_more() -> None:
    setup = "held = os.open('/', os.O_RDONLY)"
    command = _driver(sys.executable, "-IS", "-c", _PROBE, setup=setup)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    assert json.loads(done.stdout) == [0, 1, 2]


def test_cannot_exec(tmp_path: Path) -> None:
    with pytest.raises(MutexError, match="cannot start nowhere/uv: No such file or directory") as caught:
        child.run_uv("nowhere/uv", [], extra_env={})
    assert caught.value.status == CANNOT_EXEC
    broken = tmp_path / "uv"
    broken.write_bytes(b"\0not a program")
    broken.chmod(0o755)
    with pytest.raises(MutexError, match="Exec format error"):
        child.run_uv(str(broken), [], extra_env={})
    with pytest.raises(MutexError, match="No such file or directory"):
        handover.exec_uv("nowhere/uv", [])


def test_cannot_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    with pytest.raises(MutexError, match="cannot start a process for uv: Resource temporarily unavailable; allow more"):
        child.run_uv("uv", [], extra_env={})


def test_run_uv_gives_words_marks_and_stdin(tmp_path: Path) -> None:
    script = tmp_path / "uv"
    script.write_text('#!/bin/sh\n{ echo "$@"; echo "$MARK"; cat; } > "$OUT"\nexit 4\n')
    script.chmod(0o755)
    for stdin, expected in ((None, "typed\n"), (b"", ""), (b"given\n", "given\n")):
        out = tmp_path / "out"
        code = (
            f"{_IMPORT}ended = child.run_uv({str(script)!r}, ['sync', '-q'], "
            f"extra_env={{'MARK': 'held', 'OUT': {str(out)!r}}}, stdin={stdin!r})\n"
            "child.end_like(ended)"
        )
        assert subprocess.run([sys.executable, "-IS", "-c", code], input=b"typed\n", check=False).returncode == 4
        assert out.read_text() == f"sync -q\nheld\n{expected}"


def test_exec_uv_keeps_the_environment_block(tmp_path: Path) -> None:
    # Named as the real uv is: other programs get one more variable, see test_loops.py.
    real = shutil.copy("/usr/bin/env", tmp_path / "uv")
    code = f"{_IMPORT}handover.exec_uv({str(real)!r}, ['-0'])"
    env = {b"B": b"2", b"BASH_FUNC_f%%": b"() { :; }", b"A": b"\xff", b"LC_ALL": b""}
    done = subprocess.run([sys.executable, "-IS", "-c", code], env=env, capture_output=True, check=True)
    assert done.stdout == b"".join(name + b"=" + value + b"\0" for name, value in env.items())


def test_stops_the_child_once_the_lock_is_lost(recorder: Recorder) -> None:
    began = time.monotonic()
    with pytest.raises(MutexError, match="lost the lock of X; uv was stopped, run it again"):
        child.run_child(
            lambda: os.execv(recorder.path, ["uv"]),
            "uv",
            lambda: "lost the lock of X" if len(recorder.lines) > 1 and time.monotonic() - began > 0.5 else None,
        )
    assert not state(recorder.pid)


def test_true_command_does_nothing() -> None:
    assert subprocess.run([child.true_command()], env={}, check=True, capture_output=True).stdout == b""
