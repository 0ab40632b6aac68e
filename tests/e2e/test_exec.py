"""`uv-mutex exec`: any command under the lock, which ends as it would without."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.blocked import is_blocked
from support.herd import explain, failures, herd, read_log
from support.index import LocalIndex
from support.project import Project, run
from support.recorder import Recorder, state
from support.terminal import CTRL_C, CTRL_Z, Terminal, wait_until
from support.uvs import PINNED_NEWEST, uv
from support.wheels import make_wheel

EXEC = ["uv-mutex", "exec", "--"]
Done = subprocess.CompletedProcess[bytes]


@pytest.fixture
def project(project_factory: Callable[..., Project], index: LocalIndex) -> Project:
    """A project that wants one package; another is to be had."""
    for name in ("alpha", "beta"):
        make_wheel(index.folder, name)
    return project_factory(dependencies=["alpha"])


def call(project: Project, *words: str, cwd: Path | None = None, **env: str) -> Done:
    """Run a command; the shim and `uv-mutex` are on PATH."""
    return run(project, words, {**project.env("newest"), **env}, cwd=cwd or project.root, timeout=60)


def refused(done: Done, status: int) -> str:
    """The one line that it ends with."""
    assert (done.returncode, done.stdout) == (status, b""), done
    assert done.stderr.startswith(b"uv-mutex: ")
    assert done.stderr.count(b"\n") == 1
    return done.stderr.decode().strip()


@contextlib.contextmanager
def recording(project: Project, recorder: Recorder, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """The recorder under the lock."""
    words = [*EXEC, str(recorder.path)]
    environ = {**project.env("newest"), **env}
    with subprocess.Popen(words, env=environ, cwd=project.root, stdin=subprocess.DEVNULL) as running:
        try:
            recorder.wait_for("pid ")
            yield running
        finally:
            running.kill()


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    """A program that writes down the signals it gets."""
    return Recorder(tmp_path)


def test_words_streams_and_status(project: Project) -> None:
    code = "import sys; print(sys.argv[1:], sys.stdin.read()); sys.exit(7)"
    words = ["--", "-h", "", "é", "--project"]
    done = run(project, [*EXEC, sys.executable, "-c", code, *words], project.env("newest"), stdin=None, input=b"in")
    assert (done.returncode, done.stdout) == (7, f"{words} in\n".encode())
    assert call(project, "uv-mutex", "exec", "sh", "-c", "exit 3").returncode == 3


def test_without_the_mark_the_environment_is_as_it_was(project: Project) -> None:
    block: dict[str, Any] = dict.fromkeys(["A", "LC_ALL", "a.b"], "C")
    bare, under = call(project, "env", **block), call(project, *EXEC, "env", **block)
    lines = under.stdout.splitlines()
    assert [line for line in lines if not line.startswith(b"UV_MUTEX_HELD=")] == bare.stdout.splitlines()
    assert len(lines) == len(bare.stdout.splitlines()) + 1


def test_one_at_a_time(project: Project, tmp_path: Path) -> None:
    count = tmp_path / "count"
    count.write_text("0")
    script = f"n=$(cat {count}); sleep 0.05; echo $((n + 1)) > {count}"
    # `uv add` contends with it, too.
    outcomes = herd(
        [[*EXEC, "sh", "-c", script]] * 12 + [["uv", "add", "beta"]], env=project.env("newest"), cwd=project.root
    )
    assert not failures(outcomes), explain(outcomes)
    assert count.read_text().strip() == "12"


def test_two_pip_installs_and_what_the_next_run_makes_of_them(project: Project) -> None:
    assert call(project, "uv", "sync").returncode == 0
    log = project.root.parent / "log"
    prepared = []
    for words in (["install", "beta"], ["uninstall", "alpha"]):
        done = call(project, *EXEC, "uv", "pip", *words, "--python", ".venv", UV_DEFAULT_INDEX=_index(project))
        assert done.returncode == 0, done.stderr.decode()
        done = call(project, "uv", "run", "--exact", "python", "-c", "import alpha", UV_MUTEX_LOG=str(log))
        assert done.returncode == 0, done.stderr.decode()
        prepared.append(read_log(log)[-1]["prepared"])
    assert prepared == [True, True]


def _index(project: Project) -> str:
    return project.pyproject.read_text().partition('url = "')[2].partition('"')[0]


@pytest.mark.parametrize("clean", ["", "env -u UV_MUTEX_HELD "])
def test_uv_below_it_does_not_wait_for_it(project: Project, clean: str) -> None:
    """Not even three levels below it, and not without its mark."""
    calls = "uv add beta && uv run python -c 'import beta' && uv-mutex exec -- uv-mutex exec -- uv sync"
    done = call(project, *EXEC, "sh", "-c", calls.replace("uv ", f"{clean}uv "), UV_MUTEX_TIMEOUT="5")
    assert done.returncode == 0, done.stderr.decode()
    assert sorted(path.name for path in (project.root / ".uv-mutex").glob("lock.?")) == ["lock.1", "lock.2", "lock.3"]


_FOUR_ADDS = "for name in alpha beta gamma delta; do uv add $name & done; wait"


def test_calls_below_it_exclude_each_other(project: Project, index: LocalIndex) -> None:
    _offer_four(index)
    done = call(project, *EXEC, "sh", "-c", _FOUR_ADDS)
    assert done.returncode == 0, done.stderr.decode()
    assert _added(project) == 4, done.stderr.decode()


def test_control_calls_below_it(project: Project, index: LocalIndex) -> None:
    """Bare uv below the same lock: an edit writes over another."""
    _offer_four(index)
    env = project.env(PINNED_NEWEST, UV_MUTEX="off")
    kept = []
    for _ in range(5):
        run(project, ["uv", "remove", "alpha", "beta", "gamma", "delta"], env)
        project.pyproject.write_text(re.sub(r"dependencies = .*", "dependencies = []", project.pyproject.read_text()))
        assert run(project, [*EXEC, "sh", "-c", _FOUR_ADDS], env, timeout=60).returncode == 0
        kept.append(_added(project))
    assert min(kept) < 4


def _offer_four(index: LocalIndex) -> None:
    for name in ("gamma", "delta"):
        make_wheel(index.folder, name)


def _added(project: Project) -> int:
    return sum(f'"{name}' in project.pyproject.read_text() for name in ("alpha", "beta", "gamma", "delta"))


# A uv that says when it works, and goes on with `uv add beta` once it is told to.
_SLOW_UV = """\
#!/bin/sh
echo in >> {log}
while [ "$2" = beta ] && [ ! -e {go} ]; do sleep 0.02; done
{uv} "$@"
status=$?
echo out >> {log}
exit $status
"""


def _kill_exec(project: Project, tmp_path: Path, inner: str) -> list[str]:
    """SIGKILL an exec whose shell has called `uv add beta`, then call `uv add gamma`; return when which uv worked."""
    log, slow, go = tmp_path / "log", tmp_path / "slow", tmp_path / "go"
    slow.write_text(_SLOW_UV.format(uv=uv("newest"), log=log, go=go))
    slow.chmod(0o755)
    env = project.env("newest", UV_MUTEX_UV=str(slow))
    words = [*EXEC, "sh", "-c", f"{inner} add beta; true"]
    with subprocess.Popen(words, env=env, cwd=project.root, stdin=subprocess.DEVNULL) as running:
        wait_until(log.exists)
        running.kill()
    with subprocess.Popen(["uv", "add", "gamma"], env=env, cwd=project.root, stdin=subprocess.DEVNULL) as gamma:
        wait_until(lambda: is_blocked(gamma.pid) or log.read_text().count("out") == 1)
        go.touch()
        assert gamma.wait(60) == 0
    wait_until(lambda: log.read_text().count("out") == 2)
    return log.read_text().split()


def test_a_uv_below_a_killed_one_works_alone(project: Project, index: LocalIndex, tmp_path: Path) -> None:
    """The kernel kills the shell with it, but not what the shell has started."""
    _offer_four(index)
    assert _kill_exec(project, tmp_path, "uv") == ["in", "out"] * 2
    assert all(f'"{name}' in project.pyproject.read_text() for name in ("beta", "gamma"))


def test_control_a_uv_below_a_killed_one(project: Project, index: LocalIndex, tmp_path: Path) -> None:
    """A uv below the shell that takes no lock of its own."""
    _offer_four(index)
    assert _kill_exec(project, tmp_path, str(tmp_path / "slow")) == ["in", "in", "out", "out"]


def test_a_call_below_it_that_was_killed(project: Project) -> None:
    """Its sibling goes on, and mends what it left half done."""
    assert call(project, "uv", "sync").returncode == 0
    (package,) = project.venv.glob("lib/python*/site-packages/alpha")
    killed = f"uv-mutex exec -- sh -c 'rm {package}/__init__.py; kill -9 $PPID'"
    sibling = "uv run python -c 'import alpha; print(alpha.__file__)'"
    done = call(project, *EXEC, "sh", "-c", f"{killed}; {sibling}", UV_MUTEX_TIMEOUT="20")
    assert done.stdout.strip().endswith(b"__init__.py"), done


def test_a_call_that_was_killed_below_it_is_mended_by_the_next(project: Project) -> None:
    assert call(project, "uv", "sync").returncode == 0
    (package,) = project.venv.glob("lib/python*/site-packages/alpha")
    nested = f"uv-mutex exec -- sh -c 'rm {package}/__init__.py; kill -9 $PPID'; true"
    assert call(project, *EXEC, "sh", "-c", nested, UV_MUTEX_TIMEOUT="20").returncode == 0
    done = call(project, "uv", "run", "python", "-c", "import alpha; print(alpha.__file__)", UV_MUTEX_TIMEOUT="20")
    assert done.stdout.strip().endswith(b"__init__.py"), done


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGWINCH"])
def test_signals_reach_it_once(project: Project, recorder: Recorder, name: str) -> None:
    with recording(project, recorder) as running:
        os.kill(running.pid, signal.Signals[name])
        recorder.wait_for(name)
        recorder.end()
        assert running.wait(20) == 0
    assert recorder.counts == {name: 1}


def test_keys_reach_it_once(project: Project, recorder: Recorder) -> None:
    with Terminal([*EXEC, str(recorder.path)], env=project.env("newest"), cwd=project.root) as terminal:
        recorder.wait_for("pid ")
        terminal.press(CTRL_C)
        recorder.wait_for("SIGINT")
        terminal.press(CTRL_Z)
        assert os.WIFSTOPPED(terminal.status())
        terminal.foreground()
        wait_until(lambda: state(recorder.pid) == "S")
        recorder.end()
        assert terminal.status() == 0
    assert recorder.counts == {"SIGINT": 1}


def test_dies_of_the_signal_that_killed_the_command(project: Project) -> None:
    assert call(project, *EXEC, "sh", "-c", "kill -9 $$").returncode == -signal.SIGKILL
    assert call(project, "uv", "sync", UV_MUTEX_TIMEOUT="5").returncode == 0


def test_the_command_dies_with_it(project: Project, recorder: Recorder) -> None:
    with recording(project, recorder) as running:
        running.kill()
        wait_until(lambda: not state(recorder.pid))


def test_waits_says_so_and_gives_up(project: Project, recorder: Recorder) -> None:
    who = f"uv-mutex exec {recorder.path.name} (pid "
    log = project.root.parent / "log"
    with recording(project, recorder, UV_MUTEX_LOG=str(log), UV_MUTEX_LOG_ARGS="1") as running:
        line = refused(call(project, *EXEC, "true", UV_MUTEX_TIMEOUT="0.3"), 75)
        assert line.startswith(f"uv-mutex: gave up after 0.3 s (UV_MUTEX_TIMEOUT) waiting for {who}{running.pid} on ")
        assert who in refused(call(project, "uv", "sync", UV_MUTEX_TIMEOUT="0.3"), 75)
        recorder.end()
        assert running.wait(20) == 0
    (entry,) = read_log(log)
    assert entry["command"] == f"uv-mutex exec -- {recorder.path}"
    assert (entry["exit"], entry["prepared"], entry["project"]) == (0, False, str(project.root))
    assert entry["held"] > 0.3


def test_ctrl_c_ends_a_wait(project: Project, recorder: Recorder) -> None:
    with recording(project, recorder):
        with Terminal([*EXEC, "true"], env=project.env("newest"), cwd=project.root) as terminal:
            terminal.wait_for(b"waiting for")
            terminal.press(CTRL_C)
            status = terminal.status()
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGINT
        assert b"Traceback" not in terminal.shown
        recorder.end()


def test_an_environment_elsewhere_is_locked_too(project: Project, tmp_path: Path) -> None:
    elsewhere: dict[str, Any] = {"UV_PROJECT_ENVIRONMENT": str(tmp_path / "envs" / "one")}
    other = tmp_path / "other"
    other.mkdir()
    (other / "pyproject.toml").write_text('[project]\nname = "other"\nversion = "0"\n')
    with subprocess.Popen(
        [*EXEC, "cat"], env={**project.env("newest"), **elsewhere}, cwd=project.root, stdin=-1
    ) as cat:
        wait_until((tmp_path / "envs/.uv-mutex/one.lock").exists)
        wait_until(lambda: _held(project, elsewhere) == ["held", "held"])
        # Another project with the same environment waits for it; the same project with its own waits for the project.
        assert call(project, "uv", "sync", cwd=other, UV_MUTEX_TIMEOUT="0.1", **elsewhere).returncode == 75
        assert call(project, "uv", "sync", UV_MUTEX_TIMEOUT="0.1").returncode == 75
        cat.communicate()
    assert cat.returncode == 0
    assert call(project, "uv", "sync", cwd=other, UV_MUTEX_TIMEOUT="5", **elsewhere).returncode == 0


def _held(project: Project, env: dict[str, Any]) -> list[str]:
    status: dict[str, Any] = json.loads(call(project, "uv-mutex", "status", "--json", **env).stdout)
    return [lock["state"] for lock in status["locks"]]


def test_another_project_by_name(project: Project, tmp_path: Path) -> None:
    done = call(project, "uv-mutex", "exec", "--project", str(project.root), "--", "pwd", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}\n".encode())
    assert (project.root / ".uv-mutex/lock").exists()


def test_mends_what_a_killed_one_left(project: Project) -> None:
    assert call(project, "uv", "sync").returncode == 0
    (package,) = project.venv.glob("lib/python*/site-packages/alpha")
    done = call(project, *EXEC, "sh", "-c", f"rm {package}/__init__.py; kill -9 $$")
    assert done.returncode == -signal.SIGKILL
    done = call(project, "uv", "run", "python", "-c", "import alpha; print(alpha.__file__)")
    assert done.stdout.strip().endswith(b"__init__.py"), done


def test_what_stands_in_the_way(project: Project, tmp_path: Path) -> None:
    line = refused(call(project, "uv-mutex", "exec"), 2)
    assert line == "uv-mutex: exec needs a command; write it after two dashes: uv-mutex exec -- COMMAND"
    assert refused(call(project, *EXEC), 2) == line
    line = refused(call(project, *EXEC, "no-such-program"), 127)
    assert line == "uv-mutex: cannot start no-such-program: it is not on PATH; install it, or give its path"
    line = refused(call(project, *EXEC, "./absent"), 126)
    assert line == "uv-mutex: cannot start ./absent: No such file or directory; check that file"
    (project.root / "script").write_text("#!/nowhere\n")
    assert "Permission denied; check that file" in refused(call(project, *EXEC, "./script"), 126)
    line = refused(call(project, "uv-mutex", "exec", "--project=-x", "--", "true", cwd=tmp_path), 2)
    assert line.startswith("uv-mutex: -x is in no project of uv: ")
    for words in (["exec", "--project", str(tmp_path), "--", "true"], ["status", str(tmp_path)]):
        line = refused(call(project, "uv-mutex", *words), 2)
        expected = "is in no project of uv: no pyproject.toml there or above; go to a project, or name its folder"
        assert line == f"uv-mutex: {tmp_path} {expected}"
    gone = f"mkdir gone && cd gone && rmdir ../gone && exec {' '.join(EXEC)} true"
    line = refused(call(project, "sh", "-c", gone), 2)
    assert line.startswith("uv-mutex: the working directory can't be found: No such file")
    assert line.endswith("; go to another folder")


def test_without_a_real_uv(project: Project) -> None:
    path = project.env("newest")["PATH"].split(":")[0]
    done = call(project, *EXEC, "/bin/echo", "done", PATH=f"{path}:/usr/bin:/bin")
    assert (done.returncode, done.stdout) == (0, b"done\n"), done.stderr.decode()


def test_finds_the_project_as_uv_does(project: Project, tmp_path: Path) -> None:
    deep = project.root / "a/b"
    deep.mkdir(parents=True)
    for cwd, extra in ((deep, {}), (tmp_path, {"UV_PROJECT": str(project.root)})):
        env: dict[str, Any] = dict(extra)
        began = time.time()
        assert call(project, *EXEC, "true", cwd=cwd, **env).returncode == 0
        status = json.loads(call(project, "uv-mutex", "status", "--json", cwd=cwd, **env).stdout)
        assert status["project"] == str(project.root)
        assert status["calls"][-1]["time"] > began - 1


def test_no_note_outlives_it(project: Project) -> None:
    """Whatever the command did: the next call asks uv."""
    log = project.root.parent / "log"
    under = [*EXEC, "uv", "run", "true"]  # the call below it notes that all is fresh, and then more may happen
    for words in (["uv", "run", "true"], ["uv", "run", "true"], under, ["uv", "run", "true"]):
        assert call(project, *words, UV_MUTEX_LOG=str(log)).returncode == 0
    assert [line["prepared"] for line in read_log(log)] == [True, False, True, False, True]
