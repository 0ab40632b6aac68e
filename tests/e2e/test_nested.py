"""Calls within calls: from a build backend under the lock, from the user's command, and from a daemon that stays."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import need
from support.herd import read_log
from support.index import LocalIndex
from support.project import Project, run
from support.recorder import state
from support.terminal import wait_until
from support.wheels import make_wheel, slow_backend

two_versions = pytest.mark.parametrize("uv_version", ["0.7.8", "newest"])

# Bare uv can't nest either: it waits for its own build of the project in the cache, and the newest, until
# UV_LOCK_TIMEOUT, for its own lock on the environment. So the nested uv gets a cache of its own and little patience.
_NESTED = """\
import json, subprocess
if "NESTED" not in os.environ:
    env = {**os.environ, "NESTED": "1", "UV_CACHE_DIR": os.environ["UV_CACHE_DIR"] + "-nested", "UV_LOCK_TIMEOUT": "1"}
    if os.environ.get("UNMARKED"):
        env.pop("UV_MUTEX_HELD", None)
    words = [*os.environ.get("NAMESPACE", "").split(), *os.environ["CALL"].split()]
    call = subprocess.run(words, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    with open("../nested", "a") as file:
        json.dump({"status": call.returncode, "stderr": call.stderr.decode(), "mark": env.get("UV_MUTEX_HELD")}, file)
        file.write("\\n")
"""

# Leaves a daemon behind that goes on once "go" lies beside the project. uv itself would wait for its three streams;
# whatever else is inheritable, it inherits.
_DAEMON = """\
import subprocess
program = '''
import json, os, subprocess, time
while not os.path.exists("../go"):
    time.sleep(0.02)
call = subprocess.run(["uv", "sync"], stdin=subprocess.DEVNULL, capture_output=True)
mark = os.environ.get("UV_MUTEX_HELD")
with open("../daemon.part", "w") as file:
    json.dump({"status": call.returncode, "stderr": call.stderr.decode(), "mark": mark}, file)
os.rename("../daemon.part", "../daemon")
'''
if not os.path.exists("../pid"):
    null = subprocess.DEVNULL
    daemon = subprocess.Popen([os.environ["UV_PYTHON"], "-c", program], stdin=null, stdout=null, stderr=null,
                              close_fds=False, start_new_session=True)
    with open("../pid", "w") as file:
        file.write(str(daemon.pid))
"""


@pytest.fixture
def make_project(project_factory: Callable[..., Project], index: LocalIndex) -> Callable[..., Project]:
    make_wheel(index.folder, "alpha")

    def make(folder: str, extra: str = "") -> Project:
        return project_factory(f"{folder}/demo", backend_source=slow_backend(0, extra))

    return make


def _beside(project: Project, name: str) -> Path:
    return project.root.parent / name


def _nested(project: Project) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _beside(project, "nested").read_text().splitlines()]


def _is_free(project: Project) -> bool:
    with (project.root / ".uv-mutex" / "lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _waits(project: Project) -> bool:
    """Whether somebody waits for the project's lock, as the kernel sees it."""
    inode = (project.root / ".uv-mutex" / "lock").stat().st_ino
    lines = [line for line in Path("/proc/locks").read_text().splitlines() if "-> FLOCK" in line]
    return any(line.split()[6].endswith(f":{inode}") for line in lines)


@two_versions
@pytest.mark.parametrize("outer", ["uv sync", "uv run true"])
@pytest.mark.parametrize("inner", ["uv sync", "uv run true", "uv add alpha"])
def test_a_backend_calls_uv(make_project: Callable[..., Project], uv_version: str, outer: str, inner: str) -> None:
    project = make_project("site", _NESTED)
    log = _beside(project, "log")
    done = run(project, outer.split(), project.env(uv_version, CALL=inner, UV_MUTEX_LOG=str(log)), timeout=100)
    assert done.returncode == 0, done.stderr.decode()
    call = _nested(project)[0]
    assert call["status"] == 0, call["stderr"]
    assert "uv-mutex" not in call["stderr"]
    assert call["mark"]
    assert _is_free(project)
    lines = read_log(log)
    assert {line["command"] for line in lines} == {outer, inner}
    assert max(line["waited"] for line in lines) < 1, "the nested call does not wait for the call above it"
    assert ('"alpha' in project.pyproject.read_text()) == (inner == "uv add alpha")


#: A PID namespace of its own, with a /proc that shows it, and with the /proc of the one around it.
_NAMESPACES = ("unshare --pid --fork --mount-proc", "unshare --pid --fork")


@pytest.mark.parametrize("namespace", _NAMESPACES)
@pytest.mark.parametrize("inner", ["uv sync", "uv add alpha"])
def test_a_backend_calls_uv_in_another_pid_namespace(
    make_project: Callable[..., Project], namespace: str, inner: str
) -> None:
    """/proc does not show who is above; the mark does."""
    need.root()
    project = make_project("site", _NESTED)
    env = project.env("newest", CALL=inner, NAMESPACE=namespace, UV_MUTEX_TIMEOUT="20")
    done = run(project, ["uv", "sync"], env, timeout=100)
    assert done.returncode == 0, done.stderr.decode()
    call = _nested(project)[0]
    assert call["status"] == 0, call["stderr"]


@pytest.mark.parametrize("namespace", _NAMESPACES)
def test_control_neither_mark_nor_proc(make_project: Callable[..., Project], namespace: str) -> None:
    """Where nothing tells who is above, the nested call waits for its own ancestor, until its time is over."""
    need.root()
    project = make_project("site", _NESTED)
    env = project.env("newest", CALL="uv sync", NAMESPACE=namespace, UNMARKED="1", UV_MUTEX_TIMEOUT="1")
    done = run(project, ["uv", "sync"], env, timeout=100)
    assert done.returncode == 0, done.stderr.decode()
    call = _nested(project)[0]
    assert call["status"] == 75
    assert call["stderr"].startswith("uv-mutex: gave up after 1 s (UV_MUTEX_TIMEOUT) waiting for uv sync (pid ")


@two_versions
@pytest.mark.parametrize("inner", ["uv sync", "uv run true", "uv add alpha"])
def test_a_backend_cleans_the_environment(make_project: Callable[..., Project], uv_version: str, inner: str) -> None:
    """Its ancestors are known without the mark, too. The control: bare uv survives these very calls."""
    for folder, shimmed in (("bare", False), ("site", True)):
        project = make_project(folder, _NESTED)
        env = project.env(uv_version, shimmed, CALL=inner, UNMARKED="1", UV_MUTEX_TIMEOUT="20")
        done = run(project, ["uv", "sync"], env, timeout=100)
        assert done.returncode == 0, done.stderr.decode()
        call = _nested(project)[0]
        assert (call["status"], call["mark"]) == (0, None), call["stderr"]
        assert "uv-mutex" not in call["stderr"]


@pytest.mark.parametrize("marked", [True, False])
def test_below_the_folder_of_an_environment(make_project: Callable[..., Project], marked: bool) -> None:
    """Nothing can be written beside that environment, so its folder is locked, and the mark alone tells who holds it.

    The control: without the mark the calls below can't tell that a call of ours holds it. They don't wait for it.
    """
    need.root()
    project = make_project("site")
    environment = _beside(project, "system") / "env"
    env = project.env("newest", UV_PROJECT_ENVIRONMENT=str(environment), UV_MUTEX_TIMEOUT="20")
    assert run(project, ["uv", "venv", str(environment)], env).returncode == 0
    environment.parent.chmod(0o555)
    script = "uv sync --frozen & uv sync --frozen & uv sync --frozen; status=$?; wait; exit $status"
    unset = [] if marked else ["env", "-u", "UV_MUTEX_HELD"]
    unprivileged = [need.executable("setpriv"), "--bounding-set=-all", "--inh-caps=-all"]
    assert run(project, ["uv", "lock"], env).returncode == 0
    words = [*unprivileged, "uv-mutex", "exec", "--", *unset, "sh", "-c", script]
    done = run(project, words, env, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    assert (environment / ".uv-mutex/lock.1").exists() == marked
    assert (b"it seems that a process above this call holds it; use uv-mutex exec" in done.stderr) != marked


@two_versions
@pytest.mark.parametrize("inner", ["sync", "add alpha", "run true"])
def test_the_users_command_calls_uv(make_project: Callable[..., Project], uv_version: str, inner: str) -> None:
    project = make_project("site")
    log = _beside(project, "log")
    env = project.env(uv_version, UV_MUTEX_LOG=str(log), UV_MUTEX_TIMEOUT="20")
    script = f"echo mark=$UV_MUTEX_HELD; uv {inner}"
    for _ in ("not fresh", "fresh"):
        done = run(project, ["uv", "run", "sh", "-c", script], env)
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout == b"mark=\n"
        outer, nested = read_log(log)[-2:]
        assert (outer["command"], nested["command"]) == (f"uv run sh -c {script}", f"uv {inner}")
        assert nested["waited"] < 1
    assert ('"alpha' in project.pyproject.read_text()) == (inner == "add alpha")


@two_versions
@pytest.mark.parametrize("inner", ["sync", "add alpha", "run true"])
def test_the_users_command_waits_for_others(make_project: Callable[..., Project], uv_version: str, inner: str) -> None:
    """That it takes the lock is seen where another holds it."""
    project = make_project("site")
    env = project.env(uv_version, UV_MUTEX_TIMEOUT="0.3")
    assert run(project, ["uv", "sync"], env).returncode == 0
    script = f"exec 9<.uv-mutex/lock; flock 9; uv {inner}"  # not the nested shim's own: it opens the file anew
    done = run(project, ["uv", "run", "sh", "-c", script], env)
    assert done.returncode == 75
    assert done.stderr.startswith(b"uv-mutex: gave up")


@two_versions
def test_a_daemon_of_a_backend(make_project: Callable[..., Project], uv_version: str) -> None:
    project = make_project("site", _DAEMON)
    log = _beside(project, "log")
    env = project.env(uv_version, UV_MUTEX_LOG=str(log), UV_MUTEX_TIMEOUT="30")
    done = run(project, ["uv", "sync"], env, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    daemon = int(_beside(project, "pid").read_text())
    try:
        assert state(daemon), "the daemon is gone"
        assert _is_free(project)
        assert run(project, ["uv", "run", "--reinstall-package", "demo", "true"], env, timeout=60).returncode == 0
        assert read_log(log)[-1]["waited"] < 1
        with (project.root / ".uv-mutex" / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(f"1 1.5 {os.uname().nodename} uv add\n")
            file.flush()
            _beside(project, "go").touch()
            wait_until(lambda: _waits(project))  # although its environment says that the lock is held above it
            file.truncate(0)
        wait_until(lambda: _beside(project, "daemon").exists())
        call = json.loads(_beside(project, "daemon").read_text())
        assert call["mark"]
        assert call["status"] == 0, call["stderr"]
        assert [line["command"] for line in read_log(log)][-1] == "uv sync"
        assert read_log(log)[-1]["waited"] > 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(daemon, signal.SIGKILL)
