"""A call that waits does so in the native launcher, in a tenth of Python's memory, and looks the same from outside."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import need
from support.blocked import is_blocked
from support.herd import read_log
from support.native import LAUNCHER_SOURCES, SANITIZERS, StubPrefix, compile_launcher
from support.project import Project, run
from support.shim import LAUNCHERS, Shim
from support.terminal import wait_until
from support.wheels import slow_backend

from uv_mutex.environment.call_form import CallForm
from uv_mutex.environment.gate import Gate
from uv_mutex.locking.lock_file import LockFile
from uv_mutex.uv import commandline
from uv_mutex.uv.project import Project as FoundProject

both_launchers = pytest.mark.parametrize("shim", LAUNCHERS, indirect=True)
native = pytest.mark.parametrize("shim", ["native"], indirect=True)
HOST = os.uname().nodename
_MIB = 1024


class Site:
    """A project that is fresh, and calls of it."""

    def __init__(self, project: Project, shim: Shim) -> None:
        self.project = project
        self.shim = shim
        self.folder = project.root / ".uv-mutex"
        self.lock = self.folder / "lock"
        self.env = project.env("newest")
        for _ in range(3):
            assert run(project, ["uv", "run", "true"], self.env).returncode == 0

    @contextlib.contextmanager
    def held(self, owner: str = "") -> Iterator[None]:
        """The lock, held by this process, or so the file says."""
        with self.lock.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(owner)
            file.flush()
            try:
                yield
            finally:
                if not os.fstat(file.fileno()).st_nlink or owner:
                    file.truncate(0)

    @contextlib.contextmanager
    def call(self, *words: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
        """A call of uv."""
        call = subprocess.Popen(
            [str(self.shim.uv), *words],
            env={**self.env, **env},
            cwd=self.project.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            yield call
        finally:
            if call.poll() is None:
                call.kill()
            call.communicate()

    @contextlib.contextmanager
    def waiting(self, *words: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
        """A call that waits."""
        with self.call(*words, **env) as call:
            wait_until(lambda: is_blocked(call.pid))
            yield call

    def is_native(self, pid: int) -> bool:
        """Whether a process is the native launcher."""
        return os.path.samefile(f"/proc/{pid}/exe", self.shim.uv)

    def waiters(self) -> list[dict[str, Any]]:
        """Who waits, as `status` says."""
        done = run(self.project, ["uv-mutex", "status", "--json"], self.env)
        found: list[dict[str, Any]] = json.loads(done.stdout)["locks"][0]["waiting"]
        return found

    def calls(self) -> list[dict[str, Any]]:
        """The last calls, as `status` says."""
        found: list[dict[str, Any]] = json.loads(run(self.project, ["uv-mutex", "status", "--json"], self.env).stdout)[
            "calls"
        ]
        return found

    def copy_shim(self, folder: Path, before_python: str = "") -> None:
        """Call a copy of the shim from now on; before its Python starts, a line of sh is run."""
        copy = Shim(folder / "copy")
        shutil.copytree(self.shim.prefix, copy.prefix, symlinks=True)
        pointer, script = copy.prefix / "lib/uv-mutex/launcher", folder / "before-python"
        interpreter, *rest = pointer.read_text().split("\n")
        script.write_text(f'#!/bin/sh\n{before_python}\nexec {interpreter} "$@"\n')
        script.chmod(0o755)
        pointer.write_text("\n".join([str(script), *rest]))
        self.shim = copy

    def rss(self, pid: int) -> int:
        """The resident memory of a process in KiB."""
        return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0])


@pytest.fixture
def site(project_factory: Callable[..., Project], shim: Shim) -> Site:
    """A project without dependencies."""
    return Site(project_factory(), shim)


# ---------------------------------------------------------------------------------------------- what it costs


@both_launchers
@pytest.mark.parametrize("words", [["run", "true"], ["sync"]], ids=" ".join)
def test_memory(words: list[str], site: Site) -> None:
    """The Python launcher is the control. Of two equal calls, one waits for the lock and one for the first."""
    with site.held(), site.waiting(*words) as one, site.waiting(*words) as two:
        for each in (one, two):
            if site.shim.uv.read_bytes().startswith(b"\x7fELF"):
                assert site.is_native(each.pid)
                assert site.rss(each.pid) <= _MIB
            else:
                assert site.rss(each.pid) > _MIB


@native
@pytest.mark.parametrize(
    ("forgotten", "logged", "starts"),
    [([".venv"], False, range(1, 4)), ([".venv"], True, [12]), ([".venv", ".uv-mutex"], False, range(1, 15))],
    ids=["no environment", "control", "a fresh clone"],
)
def test_one_of_equal_calls_starts_python(
    forgotten: list[str], logged: bool, starts: Sequence[int], site: Site, tmp_path: Path
) -> None:
    """In the control no call has a gate. In a fresh clone there is none yet, but no call starts Python twice for it."""
    log = tmp_path / "starts"
    site.copy_shim(tmp_path, f"echo >> {log}")
    for name in forgotten:
        shutil.rmtree(site.project.root / name)
    env = {"UV_MUTEX_LOG": str(tmp_path / "log")} if logged else {}
    with contextlib.ExitStack() as stack:
        calls = [stack.enter_context(site.call("run", "true", **env)) for _ in range(12)]
        assert [each.wait(100) for each in calls] == [0] * 12
    assert len(log.read_text()) in starts


# ---------------------------------------------------------------------------------------------- what it looks like


@both_launchers
def test_status_shows_it(site: Site) -> None:
    began = time.time()
    with site.held(), site.waiting("run", "true") as one, site.waiting("run", "true") as two:
        wait_until(lambda: len(site.waiters()) == 2)
        found = site.waiters()
        assert {each["pid"] for each in found} == {one.pid, two.pid}
        for each in found:
            assert (each["host"], each["command"]) == (HOST, "uv run")
            assert began - 1 < each["since"] < time.time()
        said = run(site.project, ["uv-mutex", "status"], site.env).stdout.decode()
        assert "2 waiting:" in said
        assert f"uv run (pid {one.pid} on {HOST}" in said
        two.kill()
        two.wait()
        wait_until(lambda: [each["pid"] for each in site.waiters()] == [one.pid])
    assert site.waiters() == []


@both_launchers
@pytest.mark.parametrize("owner", ["uv sync", ""])
def test_it_says_for_whom(owner: str, site: Site) -> None:
    line = f"4121 {time.time() - 12} {HOST} {owner}\t0\tx/1/4121/1\n" if owner else ""
    who = rf"uv sync \(pid 4121 on {HOST}, [12]\d s\)" if owner else r"other uv calls \(\d s\)"
    began = time.monotonic()
    with site.held(line), site.waiting("run", "true") as call, site.waiting("run", "-q", "true") as quiet:
        assert call.stderr
        assert quiet.stderr
        assert re.fullmatch(f"uv-mutex: waiting for {who}\n", call.stderr.readline().decode())
        assert 1.9 < time.monotonic() - began < 20
        time.sleep(0.5)
    assert quiet.communicate()[1] == b""


@both_launchers
@pytest.mark.parametrize("words", [["run", "true"], ["run", "-q", "true"], ["sync"]], ids=" ".join)
def test_it_gives_up_in_time(words: list[str], site: Site) -> None:
    with site.held(f"4121 {time.time()} {HOST} uv add\t0\tx/1/4121/1\n"):
        began = time.monotonic()
        with site.call(*words, UV_MUTEX_TIMEOUT="1.5") as call:
            _, stderr = call.communicate(timeout=60)
        assert 1.5 <= time.monotonic() - began < 20
    assert call.returncode == 75
    fact = rf"uv-mutex: gave up after 1\.5 s \(UV_MUTEX_TIMEOUT\) waiting for uv add \(pid 4121 on {HOST}, \d+ s\)"
    assert re.search(fact, stderr.decode()), stderr
    last = site.calls()[-1]
    assert (last["exit"], last["command"]) == (75, f"uv {words[0]}")
    assert 1.5 <= last["waited"] < 20


@both_launchers
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals(number: signal.Signals, site: Site) -> None:
    """They end a wait at once, at the lock and at the gate, and nothing stays behind."""
    with site.held(), site.waiting("run", "true") as one, site.waiting("run", "true") as two:
        time.sleep(0.7)
        for each in (two, one):
            each.send_signal(number)
            assert each.wait(60) == -number
        assert not list(site.folder.glob("waiting.*"))
    assert run(site.project, ["uv", "run", "true"], site.env).returncode == 0


@both_launchers
def test_an_alarm_of_the_caller(site: Site) -> None:
    """`perl -e 'alarm 1; exec …'` works as without a shim."""
    code = "import os, signal, sys; signal.alarm(2); os.execv(sys.argv[1], sys.argv[1:])"
    with site.held():
        done = subprocess.run(
            [sys.executable, "-c", code, site.shim.uv, "run", "true"],
            env=site.env,
            cwd=site.project.root,
            timeout=30,
            check=False,
        )
    assert done.returncode == -signal.SIGALRM


@both_launchers
def test_the_wait_is_written_down(site: Site, tmp_path: Path) -> None:
    log = tmp_path / "log"
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        with site.held():
            plain = stack.enter_context(site.waiting("run", "true"))
            logged = stack.enter_context(site.waiting("run", "true", UV_MUTEX_LOG=str(log)))
            time.sleep(1)
        assert (plain.wait(60), logged.wait(60)) == (0, 0)
    took = time.monotonic() - began
    found = {call["pid"]: call for call in site.calls()}
    for each in (plain, logged):
        call = found[each.pid]
        assert (call["command"], call["prepared"], call["exit"]) == ("uv run", False, None)
        assert call["waited"] >= 1
        assert call["waited"] + call["held"] < took + 0.1, "no second counts for both"
    assert read_log(log)[-1]["waited"] >= 1


@both_launchers
def test_what_the_child_sees(site: Site) -> None:
    """After a wait, it is what it is without one: environment, signals, descriptors."""
    show = "cat /proc/self/environ; grep -E 'Sig(B|I|C)' /proc/self/status; ls /proc/self/fd; umask; ulimit -a"
    words = ["run", "-q", "sh", "-c", show]
    env = {"LC_CTYPE": "C", "UV_NO_PROGRESS": "1"}
    seen = []
    for waits in (False, True):
        with contextlib.ExitStack() as holding:
            if waits:
                holding.enter_context(site.held())
            with site.call(*words, **env) as call:
                if waits:
                    wait_until(partial(is_blocked, call.pid))
                    time.sleep(0.7)
                    holding.close()
                seen.append(call.communicate(timeout=60)[0])
                assert call.returncode == 0
    assert seen[0] == seen[1]
    assert b"SigCgt" in seen[0]


# ---------------------------------------------------------------------------------------------- what may go wrong


@both_launchers
def test_the_holder_is_killed(project_factory: Callable[..., Project], shim: Shim) -> None:
    """Then one of those that wait prepares, and all go on."""
    code = "import os, time\nwhile os.path.exists('../slow'):\n    time.sleep(0.02)\n"
    project = project_factory(backend_source=slow_backend(0, code))
    site = Site(project, shim)
    shutil.rmtree(project.venv)
    shutil.rmtree(project.root.parent / "cache", ignore_errors=True)
    slow = project.root.parent / "slow"
    slow.touch()
    try:
        with site.call("run", "true") as holder:
            wait_until(lambda: b"uv run" in site.lock.read_bytes())
            with contextlib.ExitStack() as stack:
                calls = [stack.enter_context(site.waiting("run", "true")) for _ in range(4)]
                holder.kill()
                slow.unlink()
                assert [each.wait(100) for each in calls] == [0] * 4
    finally:
        slow.unlink(missing_ok=True)


@native
@pytest.mark.parametrize("patience", [4, 1000], ids=["", "control"])
def test_whoever_has_the_gate_is_suspended(patience: int, site: Site, tmp_path: Path) -> None:
    """By Ctrl-Z or SIGSTOP. The others go on once nobody holds the lock; those of the control have more patience."""
    site.copy_shim(tmp_path)
    sources = tmp_path / "launcher"
    shutil.copytree(LAUNCHER_SOURCES, sources)
    text = (sources / "ticket.c").read_text()
    assert "MOST_IDLE = 4," in text
    (sources / "ticket.c").write_text(text.replace("MOST_IDLE = 4,", f"MOST_IDLE = {patience},"))
    compile_launcher(site.shim.uv, sources=sources)
    with contextlib.ExitStack() as stack:
        with site.held():
            suspended = stack.enter_context(site.waiting("run", "true"))
            suspended.send_signal(signal.SIGSTOP)
            calls = [stack.enter_context(site.waiting("run", "true")) for _ in range(4)]
            time.sleep(4)
            assert [each.poll() for each in calls] == [None] * 4
        if patience > 4:
            time.sleep(6)
            assert [each.poll() for each in calls] == [None] * 4
            suspended.send_signal(signal.SIGCONT)
        assert [each.wait(60) for each in calls] == [0] * 4
        if patience == 4:
            assert suspended.poll() is None
            assert not [each for each in site.waiters() if each["pid"] != suspended.pid]
            suspended.send_signal(signal.SIGCONT)
        assert suspended.wait(60) == 0
    assert len(list(site.folder.glob("gate.*"))) == 1


@native
@pytest.mark.parametrize(
    ("before_python", "suspended", "starts"),
    [("[ $(wc -l < {log}) -gt 2 ] || kill -STOP $$", 2, range(3, 5)), ("sleep 5", 0, range(2, 7))],
    ids=["suspended", "slow"],
)
def test_python_takes_no_lock_for_a_while(
    before_python: str, suspended: int, starts: Sequence[int], site: Site, tmp_path: Path
) -> None:
    """Then one more Python starts, and another one 2 s later, but never all at once."""
    log = tmp_path / "starts"
    log.touch()
    site.copy_shim(tmp_path, f"echo $$ >> {log}; {before_python.format(log=log)}")
    shutil.rmtree(site.project.venv)
    with contextlib.ExitStack() as stack:
        calls = [stack.enter_context(site.call("run", "true")) for _ in range(12)]
        wait_until(lambda: [each.poll() for each in calls].count(0) == 12 - suspended)
        assert site.project.venv.exists()
        for each in calls:
            each.send_signal(signal.SIGCONT)
        assert [each.wait(60) for each in calls] == [0] * 12
    assert log.read_text().count("\n") in starts


@both_launchers
@pytest.mark.parametrize("what", ["lock", "gate", "folder"])
def test_files_are_removed_while_it_waits(what: str, site: Site) -> None:
    with contextlib.ExitStack() as stack:
        with site.held():
            calls = [stack.enter_context(site.waiting("run", "true")) for _ in range(3)]
            if what == "folder":
                shutil.rmtree(site.folder)
            for path in site.folder.glob(f"{what}*"):
                path.unlink()
        assert [each.wait(60) for each in calls] == [0] * 3
    assert run(site.project, ["uv", "run", "true"], site.env).returncode == 0
    assert site.lock.exists()


@both_launchers
def test_the_environment_changes_meanwhile(site: Site) -> None:
    """Then Python judges, and one of them prepares."""
    with contextlib.ExitStack() as stack:
        with site.held():
            calls = [stack.enter_context(site.waiting("run", "true")) for _ in range(4)]
            shutil.rmtree(site.project.venv)
        assert [each.wait(60) for each in calls] == [0] * 4
    assert site.project.venv.exists()
    last = site.calls()[-4:]
    assert sorted(each["pid"] for each in last) == sorted(each.pid for each in calls)
    assert sum(each["prepared"] for each in last) == 1


@native
def test_who_waits_at_the_gate_holds_no_lock(site: Site) -> None:
    """Its ticket names the lock first, then a file that changed. Whoever has the gate may need the lock alone."""
    (gate,) = site.folder.glob("gate.*")
    with gate.open() as passed, site.lock.open() as lock:
        fcntl.flock(passed, fcntl.LOCK_EX)
        os.utime(site.project.pyproject)
        with site.waiting("run", "true") as call:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(lock, fcntl.LOCK_UN)
            fcntl.flock(passed, fcntl.LOCK_UN)
            assert call.wait(60) == 0


@native
@pytest.mark.parametrize("below", [True, False], ids=["below", "control"])
def test_no_call_waits_for_one_above_it(below: bool, site: Site) -> None:
    """Whatever variables its parent takes away. The control begins below the holder as well, but loses its parent."""
    call = "env -u UV_MUTEX_HELD uv run sh -c 'echo went on >> log'"
    script = 'eval "$CALL"; cat log' if below else 'sh -c "(sleep 0.5; $CALL) &"; sleep 3; cat log'
    (site.project.root / "log").touch()
    done = run(site.project, ["uv-mutex", "exec", "--", "sh", "-c", script], {**site.env, "CALL": call})
    assert done.returncode == 0, done.stderr
    assert done.stdout == (b"went on\n" if below else b"")
    wait_until(lambda: (site.project.root / "log").read_text() == "went on\n")


@native
def test_a_call_is_handed_back_once(site: Site) -> None:
    """With no gate that the launcher finds, Python waits: its gate is another user's, or is out of order."""
    for content in ("", "x", "uv-mutex ticket 1 run 0\n0 9\n"):
        for gate in site.folder.glob("gate.*"):
            gate.write_text(content)
        with site.held(), site.waiting("run", "true") as call:
            wait_until(lambda: any(site.folder.glob("waiting.*")))
            assert not site.is_native(call.pid)


@native
def test_a_gate_of_another_user(site: Site) -> None:
    need.root()
    for gate in site.folder.glob("gate.*"):
        os.chown(gate, 12345, 12345)
        gate.chmod(0o666)
    with site.held(), site.waiting("run", "true") as call:
        wait_until(lambda: any(site.folder.glob("waiting.*")))
        assert not site.is_native(call.pid)


# ---------------------------------------------------------------------------------------------- hostile gates


class _Checked:
    """The launcher, checked for what C leaves undefined, at a gate of a project. What it starts are stubs."""

    def __init__(self, folder: Path) -> None:
        program = folder / "checked"
        compile_launcher(program, *SANITIZERS)
        stub = StubPrefix(folder, program)
        self.uv = stub.uv
        self.root = folder / "project"
        self.root.mkdir()
        self.env = {"PATH": stub.path, "HOME": str(folder)}
        lock = LockFile(str(self.root))
        os.close(lock.open())
        lock.record_backend("flock")
        call = commandline.parse(["run", "true"], lambda _: "")
        assert call
        found = FoundProject(str(self.root), str(self.root), str(self.root), f"{self.root}/.venv")
        before = Path.cwd()
        os.chdir(self.root)
        try:
            form = CallForm(str(stub.real), call, found, [lock], self.env)
            assert Gate(form).make(quiet=False, limit=None)
        finally:
            os.chdir(before)
        (self.gate,) = (self.root / ".uv-mutex").glob("gate.*")

    def start(self, first: str = "uv") -> subprocess.Popen[bytes]:
        """Start a call whose first word is this."""
        words, pipe = [first, "run", "true"], subprocess.PIPE
        return subprocess.Popen(words, executable=self.uv, env=self.env, cwd=self.root, stdout=pipe, stderr=pipe)

    def option(self, first: str = "uv", said: bytes = b"") -> bytes:
        """What a call tells Python about the gate. It starts Python with the words of the call.

        :param said: a pattern for what it prints before.
        """
        call = self.start(first)
        stdout, stderr = call.communicate(timeout=60)
        assert call.returncode == 0
        assert re.fullmatch(said, stderr), (stdout, stderr)
        name, *words = stdout.split(b"\0")[:-1]
        assert (name, words[-2:]) == (b"guarded", [b"run", b"true"])
        return words[4]


@pytest.fixture
def checked(tmp_path: Path) -> _Checked:
    return _Checked(tmp_path)


def test_odd_gates_and_first_words(checked: _Checked) -> None:
    """Whatever stands there, the call goes on to Python with its words."""
    gate = checked.gate
    good = gate.read_bytes()
    assert re.fullmatch(rb"uv_mutex_gate=\d+/0\.000000", checked.option())
    head = good.split(b"\n")[0]
    odd = [good[:end] for end in range(len(head) + 3)]
    odd += [b"", b"\0" * 100, b"\xff" * 100, good.replace(b"\n", b"\0"), b"x" * 300_000, head + b"\n%s%n"]
    odd += [head + b"\n" + line + b"\n" for line in (b"", b"0", b"x 1", b"1e9", b"9" * 5000)]
    for content in odd:
        gate.write_bytes(content)
        assert checked.option() == b"uv_mutex_gate=", content
    for line in (b"0 nan", b"1 -1", b"0 1e400", b"99999999999999999999 0", b"0 " + b"9" * 5000):
        gate.write_bytes(head + b"\n" + line + b"\n")
        with (checked.root / ".uv-mutex/lock").open("r+") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            held.write(f"{'9' * 400} {'9' * 400} {'h' * 400} {'c' * 9000}\n")
            held.flush()
            timed = checked.start()
            time.sleep(0.2)
            timed.kill()
            timed.communicate()
            assert timed.returncode in (0, -signal.SIGKILL)
            held.truncate(0)
    gate.unlink()
    for first in ("uv-mutex", "uv-mutex ", "uv-mutexx", "", "x" * 100_000, "uv-mutex 1e999"):
        assert checked.option(first) == (b"uv_mutex_gate=-1/0.000000" if first == "uv-mutex" else b"uv_mutex_gate=")


def test_a_new_gate_is_as_the_old_one(checked: _Checked) -> None:
    """Behind the old one nothing happens."""
    old = checked.gate.read_bytes(), checked.gate.stat().st_mode
    with checked.gate.open() as passed:
        fcntl.flock(passed, fcntl.LOCK_EX)
        option = checked.option(said=rb"uv-mutex: waiting for other uv calls \(\d s\)\n")
        assert re.fullmatch(rb"uv_mutex_gate=\d+/[1-9]\d*\.\d+", option)
        assert not os.path.samestat(os.fstat(passed.fileno()), checked.gate.stat())
    assert old == (checked.gate.read_bytes(), checked.gate.stat().st_mode)


@pytest.mark.parametrize("what", ["removed", "replaced by a folder"])
def test_no_new_gate_can_be_made(what: str, checked: _Checked) -> None:
    """Then the call starts Python, which waits by itself."""
    with checked.gate.open() as passed:
        fcntl.flock(passed, fcntl.LOCK_EX)
        call = checked.start()
        wait_until(lambda: is_blocked(call.pid))
        checked.gate.unlink()
        if what != "removed":
            checked.gate.mkdir()
        assert re.search(rb"uv_mutex_gate=-1/[1-9]\d*\.\d+", call.communicate(timeout=60)[0])
