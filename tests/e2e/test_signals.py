"""Signals and keys: uv gets each once, the call ends as uv's own would, and the lock is free afterwards."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from support import need
from support.herd import read_log
from support.index import LocalIndex
from support.project import Project, run
from support.recorder import Recorder, state
from support.terminal import CTRL_C, CTRL_Z, Terminal, wait_until
from support.uvs import uv
from support.wheels import make_wheel, slow_backend

two_versions = pytest.mark.parametrize("uv_version", ["0.7.8", "newest"])
each_signal = pytest.mark.parametrize("sent", ["ctrl-c", "SIGINT", "SIGTERM", "SIGHUP"])

# The build goes on for as long as the file "slow" lies in the project's parent folder.
_BUILD = """\
with open("../building", "a") as file:
    print(os.getpid(), file=file, flush=True)
while os.path.exists("../slow"):
    time.sleep(0.02)
"""


class _Site:
    """A project that is slow to build until `hurry`, and what goes on there."""

    def __init__(self, project: Project, uv_version: str) -> None:
        self.project = project
        self.uv_version = uv_version
        self.log = project.root.parent / "log"
        self._slow = project.root.parent / "slow"
        self._building = project.root.parent / "building"
        self._slow.touch()

    @property
    def lock(self) -> Path:
        return self.project.root / ".uv-mutex" / "lock"

    def env(self, *, shimmed: bool = True, **extra: str) -> dict[str, str]:
        return self.project.env(self.uv_version, shimmed, **{"UV_MUTEX_LOG": str(self.log), **extra})

    def hurry(self) -> None:
        """Let the builds end, also those whose uv is gone."""
        self._slow.unlink(missing_ok=True)

    @property
    def builds(self) -> list[int]:
        """The processes that began to build."""
        return [int(line) for line in self._building.read_text().splitlines()] if self._building.exists() else []

    def wait_for_build(self, number: int = 1) -> None:
        wait_until(lambda: len(self.builds) >= number)

    @property
    def uvs(self) -> list[int]:
        """The processes of the real uv that work in the project."""
        return [pid for pid in _processes() if self._is_here(pid)]

    def _is_here(self, pid: int) -> bool:
        try:
            here = os.readlink(f"/proc/{pid}/cwd") == str(self.project.root)
            return here and os.path.samefile(f"/proc/{pid}/exe", uv(self.uv_version)) and bool(state(pid))
        except OSError:
            return False

    def check_all_is_well(self, waited: float = 1.0) -> None:
        """The next call gets the lock at once, and leaves the environment as it should be."""
        self.hurry()
        env = self.env(UV_MUTEX_TIMEOUT="20")
        done = run(self.project, ["uv", "run", "python", "-c", "import demo; print(demo.VERSION)"], env)
        assert (done.returncode, done.stdout) == (0, b"0.1.0\n"), done.stderr.decode()
        assert read_log(self.log)[-1]["waited"] < waited


def _processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


@pytest.fixture
def make_site(project_factory: Callable[..., Project], index: LocalIndex) -> Iterator[Callable[[str], _Site]]:
    make_wheel(index.folder, "alpha")
    sites: list[_Site] = []

    def make(uv_version: str) -> _Site:
        project = project_factory(f"site{len(sites)}/demo", backend_source=slow_backend(0, _BUILD))
        sites.append(_Site(project, uv_version))
        return sites[-1]

    yield make
    for site in sites:
        site.hurry()


@contextlib.contextmanager
def _call(
    words: Sequence[str], env: Mapping[str, str], site: _Site, *, prologue: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    """A call in a process group of its own, its output in files beside the project.

    :param prologue: Python that runs before it in the same process; what it sets up survives exec.
    """
    code = f"import os, signal, sys\nos.setpgid(0, 0)\n{prologue}\nos.execvp(sys.argv[1], sys.argv[1:])"
    parent = site.project.root.parent
    with (
        (parent / "out").open("wb") as out,
        (parent / "err").open("wb") as err,
        subprocess.Popen(
            [sys.executable, "-ISc", code, *words],
            env=env,
            cwd=site.project.root,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        ) as call,
    ):
        try:
            yield call
        finally:
            for send in (os.killpg, os.kill):
                with contextlib.suppress(ProcessLookupError):
                    send(call.pid, signal.SIGKILL)


def _error(site: _Site) -> str:
    return (site.project.root.parent / "err").read_text()


def _wait_status(pid: int) -> int:
    """How a call ends or stops, whole."""
    return os.waitpid(pid, os.WUNTRACED)[1]


def _ending(sent: str, words: Sequence[str], env: Mapping[str, str], site: _Site, ready: Callable[[], object]) -> int:
    """Start a call, send it something once it is ready, and return its wait status without the core dump flag.

    :param sent: the name of a signal for the call's process alone, or "ctrl-c" on its terminal.
    """
    if sent == "ctrl-c":
        with Terminal(words, env=env, cwd=site.project.root) as terminal:
            wait_until(ready)
            terminal.press(CTRL_C)
            return terminal.status() & ~0x80
    with _call(words, env, site) as call:
        wait_until(ready, explain=lambda: _error(site))
        os.kill(call.pid, signal.Signals[sent])
        call.returncode = os.waitstatus_to_exitcode(status := _wait_status(call.pid))
        return status & ~0x80


@contextlib.contextmanager
def _held(site: _Site, record: str = "") -> Iterator[None]:
    """Hold the project's lock in this process."""
    site.lock.parent.mkdir(exist_ok=True)
    with site.lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(record)
        file.flush()
        yield


def _waits(site: _Site) -> bool:
    """Whether somebody waits for the project's lock, as the kernel sees it."""
    inode = site.lock.stat().st_ino
    lines = [line for line in Path("/proc/locks").read_text().splitlines() if "-> FLOCK" in line]
    return any(line.split()[6].endswith(f":{inode}") for line in lines)


@two_versions
@pytest.mark.parametrize("words", ["sync", "add alpha", "run true"])
@each_signal
def test_while_uv_works(make_site: Callable[[str], _Site], uv_version: str, words: str, sent: str) -> None:
    """Raw against shim. `run true` is signalled while its environment is being prepared."""
    command = ["uv", *words.split()]
    raw, site = make_site(uv_version), make_site(uv_version)
    before = raw.project.pyproject.read_bytes()
    expected = _ending(sent, command, raw.env(shimmed=False), raw, lambda: raw.builds)
    assert expected, "what was sent must end uv"
    assert _ending(sent, command, site.env(), site, lambda: site.builds) == expected
    wait_until(lambda: not site.uvs)
    # `uv add` answers Ctrl-C with exit status 130 once it has put pyproject.toml back.
    restored = [item.project.pyproject.read_bytes() == before for item in (raw, site)]
    assert restored[0] == restored[1]
    site.check_all_is_well()


@each_signal
@pytest.mark.parametrize("words", ["sync", "run true"])
def test_while_it_waits(make_site: Callable[[str], _Site], words: str, sent: str) -> None:
    site = make_site("newest")
    with _held(site):
        status = _ending(sent, ["uv", *words.split()], site.env(), site, lambda: _waits(site))
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == (signal.SIGINT if sent == "ctrl-c" else signal.Signals[sent])
        assert not site.uvs
    assert not site.builds
    site.check_all_is_well()


@pytest.mark.parametrize("words", ["sync", "run true"])
def test_uv_gets_each_once(make_site: Callable[[str], _Site], words: str) -> None:
    site = make_site("newest")
    recorder = Recorder(site.project.root.parent, "recorder")
    env = site.env(UV_MUTEX_UV=str(recorder.path))
    with Terminal(["uv", *words.split()], env=env, cwd=site.project.root) as terminal:
        assert recorder.pid != terminal.pid
        for times in range(1, 4):
            terminal.press(CTRL_C)
            recorder.wait_for("SIGINT", times)
            for name in ("SIGTERM", "SIGHUP"):
                os.kill(terminal.pid, signal.Signals[name])
                recorder.wait_for(name, times)
        terminal.resize(30, 90)
        recorder.wait_for("SIGWINCH")
        recorder.end()
        if words == "sync":
            assert terminal.status() == 0
    assert recorder.counts == {"SIGINT": 3, "SIGTERM": 3, "SIGHUP": 3, "SIGWINCH": 1}


@two_versions
def test_killed_itself(make_site: Callable[[str], _Site], uv_version: str) -> None:
    """SIGKILL can't be passed on: the kernel ends uv, and the next call finds a free lock and mends what is broken."""
    site = make_site(uv_version)
    with _call(["uv", "sync"], site.env(), site) as call:
        site.wait_for_build()
        assert len(site.uvs) == 1
        os.kill(call.pid, signal.SIGKILL)
        assert call.wait() == -signal.SIGKILL
        wait_until(lambda: not site.uvs)
    site.check_all_is_well()


def test_stopped_and_continued(make_site: Callable[[str], _Site]) -> None:
    """SIGSTOP to the shim alone leaves uv at work; to the group it stops both. The lock stays with them."""
    site = make_site("newest")
    with _call(["uv", "sync"], site.env(), site) as call:
        site.wait_for_build()
        (real,) = site.uvs
        for send in (os.kill, os.killpg):
            send(call.pid, signal.SIGSTOP)
            assert os.WSTOPSIG(_wait_status(call.pid)) == signal.SIGSTOP
            wait_until(lambda send=send: (state(real) == "T") == (send is os.killpg))  # type: ignore[misc]
            waiter = run(site.project, ["uv", "sync"], site.env(UV_MUTEX_TIMEOUT="0.2"))
            assert waiter.returncode == 75
            send(call.pid, signal.SIGCONT)
            wait_until(lambda: state(real) not in ("T", ""))
        site.hurry()
        assert call.wait() == 0, _error(site)
    site.check_all_is_well()


@pytest.mark.parametrize("words", ["sync", "run python -c 'import demo'"])
def test_shell_stops_and_continues_it(make_site: Callable[[str], _Site], words: str) -> None:
    site = make_site("newest")
    with Terminal(
        [need.executable("bash"), "--norc", "--noprofile", "-i"], env=site.env(PS1="$ "), cwd=site.project.root
    ) as terminal:
        terminal.press(f"uv {words}\n".encode())
        site.wait_for_build()
        (real,) = site.uvs
        terminal.press(CTRL_Z)
        terminal.wait_for(b"Stopped")
        wait_until(lambda: state(real) == "T")
        terminal.press(b"echo stopped=$?\n")
        terminal.wait_for(f"stopped={128 + signal.SIGTSTP}".encode())
        site.hurry()
        terminal.press(b"fg\n")
        wait_until(lambda: not site.uvs)
        terminal.press(b"echo status=$?\n")
        terminal.wait_for(b"status=0")
    site.check_all_is_well()


def test_shell_sees_ctrl_c_while_it_waits(make_site: Callable[[str], _Site]) -> None:
    site = make_site("newest")
    with (
        _held(site),
        Terminal(
            [need.executable("bash"), "--norc", "--noprofile", "-i"], env=site.env(PS1="$ "), cwd=site.project.root
        ) as terminal,
    ):
        terminal.press(b"uv sync; echo went on\n")
        wait_until(lambda: _waits(site))
        terminal.press(CTRL_C)
        wait_until(lambda: not _waits(site))
        terminal.press(b"echo status=$?\n")
        terminal.wait_for(b"status=130")
        # A program that merely exits with 130 doesn't end the list; one that SIGINT has killed does.
        assert b"\nwent on" not in terminal.shown
    assert b"Traceback" not in terminal.shown


@pytest.mark.parametrize("ignored", ["SIGINT", "SIGHUP"])
@pytest.mark.parametrize("words", ["sync", "run true"])
def test_what_is_ignored_at_the_start(make_site: Callable[[str], _Site], ignored: str, words: str) -> None:
    """As nohup and a background job of a script are started."""
    site = make_site("newest")
    prologue = f"signal.signal(signal.{ignored}, signal.SIG_IGN)"
    with _held(site), _call(["uv", *words.split()], site.env(), site, prologue=prologue) as call:
        wait_until(lambda: _waits(site))
        os.kill(call.pid, signal.Signals[ignored])  # while it waits
        time.sleep(0.1)
        assert call.poll() is None
    with _call(["uv", *words.split()], site.env(), site, prologue=prologue) as call:
        site.wait_for_build()
        os.kill(call.pid, signal.Signals[ignored])  # while uv works
        time.sleep(0.1)
        assert call.poll() is None
        site.hurry()
        assert call.wait() == 0, _error(site)
    site.check_all_is_well()


@two_versions
@pytest.mark.parametrize("words", ["sync", "run true"])
def test_children_that_nobody_counts(make_site: Callable[[str], _Site], uv_version: str, words: str) -> None:
    """With SIGCHLD ignored at the start uv loses its children's statuses and fails; so does the call, in uv's words.

    A preparation is not the user's own call, so it works, and `run` gets as far as its command.
    """
    site = make_site(uv_version)
    site.hurry()
    endings = []
    for shimmed in (False, True):
        env = site.env(shimmed=shimmed)
        with _call(["uv", *words.split()], env, site, prologue="signal.signal(signal.SIGCHLD, signal.SIG_IGN)") as call:
            endings.append((call.wait(60), _error(site)[-35:]))
    assert endings == [(2, ": No child processes (os error 10)\n")] * 2
    site.check_all_is_well()


def test_background_job_of_a_script(make_site: Callable[[str], _Site]) -> None:
    site = make_site("newest")
    script = "uv sync --quiet & wait $!; echo status=$?; uv run sh -c 'exit 4'; echo status=$?"
    with _call(["sh", "-c", script], site.env(), site) as call:
        site.wait_for_build()
        for real in site.uvs:
            os.kill(real, signal.SIGINT)  # ignored, as sh starts it
        site.hurry()
        assert call.wait() == 0
    assert (site.project.root.parent / "out").read_text() == "status=0\nstatus=4\n"


@pytest.mark.parametrize("words", ["sync", "-q sync", "add alpha", "run true"])
def test_timeout(make_site: Callable[[str], _Site], words: str) -> None:
    site = make_site("newest")
    env = site.env()
    with _call(["uv", "sync"], env, site) as holder:
        site.wait_for_build()
        began = time.monotonic()
        done = run(site.project, ["uv", *words.split()], {**env, "UV_MUTEX_TIMEOUT": "0.5"})
        assert 0.5 <= time.monotonic() - began < 20
        assert done.returncode == 75
        who = rf"uv sync \(pid {holder.pid} on {re.escape(os.uname().nodename)}, \d+ s\)"
        fact = rf"uv-mutex: gave up after 0\.5 s \(UV_MUTEX_TIMEOUT\) waiting for {who}, which holds {site.lock}"
        assert re.fullmatch(rf"{fact}; try again .*\n", done.stderr.decode())
        assert done.stdout == b""
        entry = read_log(site.log)[-1]
        assert (entry["exit"], entry["prepared"]) == (75, False)
        assert 0.5 <= entry["waited"] < 20
        site.hurry()
        assert holder.wait() == 0
    site.check_all_is_well()


def test_message_while_it_waits(make_site: Callable[[str], _Site]) -> None:
    site = make_site("newest")
    with _held(site, f"4121 {time.time() - 12} {os.uname().nodename} uv sync\n"):
        began = time.monotonic()
        with _call(["uv", "add", "alpha"], site.env(), site) as call:
            wait_until(lambda: _waits(site))
            wait_until(lambda: _error(site))
            assert time.monotonic() - began > 1.9
            text = _error(site)
            assert re.fullmatch(
                rf"uv-mutex: waiting for uv sync \(pid 4121 on {os.uname().nodename}, \d+ s\)\n", text
            ), text
            time.sleep(1.5)
            assert _error(site) == text  # the next one comes after 30 s
            os.kill(call.pid, signal.SIGTERM)
            assert call.wait() == -signal.SIGTERM
        with _call(["uv", "-q", "add", "alpha"], site.env(), site) as call:
            wait_until(lambda: _waits(site))
            time.sleep(3)
            assert not _error(site)
    site.check_all_is_well(waited=5)


def test_live_line_is_wiped(make_site: Callable[[str], _Site]) -> None:
    site = make_site("newest")
    site.hurry()
    who = f"uv-mutex: waiting for uv sync (pid 4121 on {os.uname().nodename}, ".encode()
    with contextlib.ExitStack() as holding:
        holding.enter_context(_held(site, f"4121 {time.time()} {os.uname().nodename} uv sync\n"))
        terminal = Terminal(["uv", "run", "echo", "done"], env=site.env(), cwd=site.project.root)
        with terminal:
            wait_until(lambda: terminal.shown.count(b"\r\x1b[K" + who) >= 2, explain=lambda: repr(terminal.shown))
            assert terminal.shown.startswith(b"\r\x1b[K" + who)
            assert b"\n" not in terminal.shown
            holding.close()
            terminal.wait_for(b"done")
            assert terminal.status() == 0
        lines = terminal.shown.split(b"\r\x1b[K")
    assert lines[0] == b""
    assert not any(line.startswith(who) for line in lines[-1:])
    assert all(line.startswith(who) and line.endswith(b" s)") for line in lines[1:-1])


def test_live_line_fits_in_the_window(make_site: Callable[[str], _Site]) -> None:
    site = make_site("newest")
    site.hurry()
    with contextlib.ExitStack() as holding:
        holding.enter_context(_held(site, f"4121 {time.time()} a-host-with\x1b[2J-a-name uv-mutex exec \u4e2d\u6587\n"))
        with Terminal(["uv", "run", "echo", "done"], env=site.env(), cwd=site.project.root) as terminal:
            terminal.resize(24, 60)
            terminal.wait_for("uv-mutex: waiting for uv-mutex exec \u4e2d\u6587 (pid 4121 on a-ho…\r".encode())
            terminal.resize(24, 30)
            terminal.wait_for("\r\x1b[Kuv-mutex: waiting for uv-mut…\r".encode())
            holding.close()
            terminal.wait_for(b"done")
    assert b"\x1b[2J" not in terminal.shown
