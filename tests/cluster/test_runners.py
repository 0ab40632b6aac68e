"""Programs that start many uvs on one project: nox, snakemake and supervisord."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support import need
from support.herd import Outcome, explain, failures, herd, read_log
from support.index import LocalIndex
from support.journal import Journal
from support.namespaces import Namespaces
from support.project import Project
from support.terminal import wait_until
from support.tools import tool
from support.wheels import make_wheel

# They keep every core busy, and a control needs calls that really run at the same time.
pytestmark = [pytest.mark.network, pytest.mark.serial, pytest.mark.timeout(900)]

_PARTS = [f"part{number}" for number in range(12)]
#: Fails unless each package is whole; then prints its words.
_WORK = f"""\
import sys
import demo, {", ".join(_PARTS)}
for package in ({", ".join(_PARTS)},):
    package.check()
print(*sys.argv[1:], sys.prefix, flush=True)
"""


class _Room:
    """A project that is not prepared yet, in a PID namespace: what is started there ends with the test."""

    def __init__(self, project: Project, journal: Journal, namespaces: Namespaces) -> None:
        self.project = project
        self.root = project.root
        self.journal = journal
        self.namespaces = namespaces
        self.folder = project.root.parent
        (self.root / "work.py").write_text(_WORK)

    def env(self, uv_version: str, *, shimmed: bool = True, **extra: str) -> dict[str, str]:
        """The environment block of a runner."""
        return self.project.env(uv_version, shimmed=shimmed, UV_MUTEX_LOG=str(self.folder / "log"), **extra)

    def command(self, words: Sequence[str], env: dict[str, str]) -> list[str]:
        """A command line that runs another in the project, in the namespace."""
        return self.namespaces.enter(words, env=env, cwd=str(self.root))

    def run(self, words: Sequence[str], env: dict[str, str], timeout: float = 400) -> subprocess.CompletedProcess[str]:
        """Run a command there."""
        return subprocess.run(
            self.command(words, env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def temporary(self, name: str) -> str:
        """A TMPDIR of one's own, as jobs and services have it."""
        folder = self.folder / f"tmp-{name}"
        folder.mkdir(exist_ok=True)
        return str(folder)

    @property
    def log(self) -> list[dict[str, Any]]:
        """What the shims wrote down."""
        return read_log(self.folder / "log")


@pytest.fixture
def room(project_factory: Callable[..., Project], index: LocalIndex, tmp_path: Path) -> Iterator[_Room]:
    need.root()
    for name in ("unshare", "nsenter", "setpriv"):
        need.executable(name)
    for name in _PARTS:
        make_wheel(index.folder, name, files=40, data_files=40)
    journal = Journal(tmp_path / "journal")
    project = project_factory("site/demo", dependencies=_PARTS, backend_source=journal.backend)
    namespaces = Namespaces("runners", [], log=tmp_path / "init.log")
    yield _Room(project, journal, namespaces)
    namespaces.close()


# --- nox

_NOXFILE = """\
import nox
nox.options.default_venv_backend = "uv"

@nox.session(venv_backend="none")
def shared(session):
    session.run("uv", "run", "python", "work.py", "shared")

@nox.session
@nox.parametrize("number", range(4))
def own(session, number):
    session.run_install("uv", "sync")
    session.run("python", "work.py", "own")
"""


def _nox(room: _Room, uv_version: str, *, shimmed: bool) -> list[Outcome]:
    """Sixteen of nox at once: twelve share the project's environment, four have one each, which nox makes by uv."""
    (room.root / "noxfile.py").write_text(_NOXFILE)
    nox = str(tool("nox") / "nox")
    commands = []
    for number in range(16):
        env = room.env(uv_version, shimmed=shimmed, TMPDIR=room.temporary(str(number)))
        commands.append(room.command([nox, "-s", "shared" if number < 12 else f"own(number={number - 12})"], env))
    return herd(commands, env={"PATH": "/usr/bin:/bin"}, cwd=room.root)


@pytest.mark.parametrize("uv_version", ["0.7.8", "newest"])
def test_sessions_of_nox(uv_version: str, room: _Room, index: LocalIndex) -> None:
    outcomes = _nox(room, uv_version, shimmed=True)
    assert not failures(outcomes), explain(outcomes)
    lines = [line.split() for each in outcomes for line in each.stdout.decode().splitlines()]
    places = Counter(words[1] for words in lines if words[:1] in (["shared"], ["own"]))
    assert places == {str(room.project.venv): 12, **{f"{room.root}/.nox/own-number-{at}": 1 for at in range(4)}}
    assert [line["prepared"] for line in room.log].count(True) == 5
    assert set(index.downloads.values()) == {1}


def test_control_sessions_of_nox(room: _Room) -> None:
    outcomes = _nox(room, "0.7.8", shimmed=False)
    assert len(failures(outcomes)) > 5, explain(outcomes)


# --- snakemake

# Half of its jobs run in the project, half are a script with inline metadata.
_SNAKEFILE = """\
NUMBERS = range(10)

rule all:
    input: expand("out/run.{number}", number=NUMBERS), expand("out/script.{number}", number=NUMBERS)

rule run:
    output: "out/run.{number}"
    resources: tmpdir=lambda wildcards: f"../tmp/run.{wildcards.number}"
    shell: "mkdir -p $TMPDIR && uv run python work.py >{output}"

rule script:
    output: "out/script.{number}"
    resources: tmpdir=lambda wildcards: f"../tmp/script.{wildcards.number}"
    shell: "mkdir -p $TMPDIR && uv run --script s.py >{output}"
"""
_SCRIPT = f"""\
# /// script
# dependencies = {_PARTS}
# [[tool.uv.index]]
# url = "URL"
# default = true
# ///
import {", ".join(_PARTS)}
for package in ({", ".join(_PARTS)},):
    package.check()
print("script")
"""


def _snakemake(room: _Room, index: LocalIndex, uv_version: str, *, shimmed: bool) -> tuple[int, list[str]]:
    """Run the workflow, all jobs at once; return its exit status, and what was made."""
    (room.root / "Snakefile").write_text(_SNAKEFILE)
    (room.root / "s.py").write_text(_SCRIPT.replace("URL", index.url))
    words = [str(tool("snakemake") / "snakemake"), "--cores", "20", "--keep-going"]
    done = room.run(words, room.env(uv_version, shimmed=shimmed))
    print(done.stdout[-2000:], done.stderr[-5000:])
    return done.returncode, sorted(path.name for path in room.root.glob("out/*"))


@pytest.mark.parametrize("uv_version", ["0.7.8", "newest"])
def test_a_workflow_of_snakemake(uv_version: str, room: _Room, index: LocalIndex) -> None:
    status, made = _snakemake(room, index, uv_version, shimmed=True)
    assert status == 0
    assert made == [f"{kind}.{number}" for kind in ("run", "script") for number in range(10)]
    assert Counter(line["prepared"] for line in room.log) == {True: 2, False: 18}  # the project's, and the script's


def test_control_a_workflow_of_snakemake(room: _Room, index: LocalIndex) -> None:
    status, made = _snakemake(room, index, "0.7.8", shimmed=False)
    assert status == 1
    assert len(made) < 18, made


# --- supervisord

_CONFIGURATION = """\
[supervisord]
nodaemon = true
logfile = {folder}/supervisord.log
pidfile = {folder}/supervisord.pid
[unix_http_server]
file = {folder}/socket
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl = unix://{folder}/socket

[program:server]
command = uv run python server.py
process_name = server%(process_num)d
numprocs = {servers}
environment = TMPDIR="{folder}/tmp-%(process_num)d",NUMBER="%(process_num)d"
autorestart = false
startretries = 0
stopwaitsecs = 120
stdout_logfile = {folder}/server%(process_num)d.out
redirect_stderr = true

[program:rebuilt]
command = uv run --reinstall-package demo python server.py
environment = BUILD_SECONDS="1000",NUMBER="rebuilt"
autostart = false
stopwaitsecs = 120
"""
_SERVER = """\
import os, signal, sys
import work
def note(what):
    journal = os.open("../servers", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(journal, f"{what} {os.environ['NUMBER']}\\n".encode())
    os.close(journal)
def stop(*_):
    note("SIGTERM")
    sys.exit(7)
signal.signal(signal.SIGTERM, stop)
note("ready")
while True:
    signal.pause()
"""


class _Supervisor:
    """A supervisord that runs some servers of a project."""

    def __init__(self, room: _Room, servers: int, env: dict[str, str]) -> None:
        self._room, self._env = room, env
        self._bin = tool("supervisor")
        self.servers = [str(number) for number in range(servers)]
        for number in self.servers:
            room.temporary(number)
        self._configuration = room.folder / "supervisord.conf"
        self._configuration.write_text(_CONFIGURATION.format(folder=room.folder, servers=servers))
        (room.root / "server.py").write_text(_SERVER)
        words = [str(self._bin / "supervisord"), "-c", str(self._configuration)]
        subprocess.Popen(room.command(words, env), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        wait_until((room.folder / "socket").exists, 120)

    def tell(self, *words: str) -> str:
        """Call supervisorctl; return what it says."""
        done = self._room.run([str(self._bin / "supervisorctl"), "-c", str(self._configuration), *words], self._env)
        return done.stdout

    def notes(self, what: str) -> list[str]:
        """The servers that wrote down that they are ready, or that they got SIGTERM, in order."""
        journal = self._room.folder / "servers"
        lines = journal.read_text().splitlines() if journal.exists() else []
        return sorted(line.split()[1] for line in lines if line.split()[0] == what)

    def wait_for(self, what: str, servers: Sequence[str]) -> None:
        """Wait until just these servers wrote something down."""
        wait_until(lambda: self.notes(what) == sorted(servers), 200, self.log)

    def log(self) -> str:
        """What supervisord wrote down."""
        return (self._room.folder / "supervisord.log").read_text()

    def endings(self) -> list[str]:
        """How each process ended, in supervisord's words."""
        return re.findall(r"(?:exited|stopped): .*", self.log())


def _statuses(room: _Room, *, shimmed: bool) -> list[str]:
    """Stop a server, restart it, end one as it prepares, reload; return what supervisord says of each process's end."""
    env = room.env("newest", shimmed=shimmed)
    assert room.run(["uv", "sync"], env).returncode == 0
    supervisor = _Supervisor(room, 1, env)
    supervisor.wait_for("ready", "0")
    assert "stopped" in supervisor.tell("stop", "server:server0")
    supervisor.wait_for("SIGTERM", "0")
    supervisor.tell("start", "server:server0")
    supervisor.wait_for("ready", "00")
    supervisor.tell("restart", "server:server0")
    supervisor.wait_for("ready", "000")
    builds = len(room.journal.entries())
    supervisor.tell("start", "rebuilt")
    wait_until(lambda: len(room.journal.entries()) > builds, 120, supervisor.log)
    supervisor.tell("stop", "rebuilt")
    supervisor.tell("reload")
    supervisor.wait_for("ready", "0000")
    # The one that was ended held nobody up, and the environment is whole.
    assert room.run(["uv", "run", "python", "work.py"], env, timeout=60).returncode == 0
    supervisor.tell("stop", "all")
    supervisor.wait_for("SIGTERM", "0000")
    return supervisor.endings()


@pytest.mark.parametrize("shimmed", [True, False], ids=["shim", "bare"])
def test_a_server_below_supervisord(shimmed: bool, room: _Room) -> None:
    """It gets each SIGTERM, and ends as without the shim."""
    stopped = "stopped: server0 (exit status 7)"
    assert _statuses(room, shimmed=shimmed) == [
        stopped,
        stopped,
        "stopped: rebuilt (terminated by SIGTERM)",
        stopped,
        stopped,
    ]


@pytest.mark.parametrize("uv_version", ["0.7.8", "newest"])
def test_servers_of_supervisord_beside_edits(uv_version: str, room: _Room, index: LocalIndex) -> None:
    """Eight start where nothing is prepared; then they are restarted and reloaded while packages are added."""
    env = room.env(uv_version)
    supervisor = _Supervisor(room, 8, env)
    supervisor.wait_for("ready", supervisor.servers)
    assert [line["prepared"] for line in room.log].count(True) == 1
    added = [f"extra{number}" for number in range(6)]
    for name in added:
        make_wheel(index.folder, name)
    with ThreadPoolExecutor() as threads:
        commands = [["uv", "add", name] for name in added] + [["uv", "run", "python", "work.py"]] * 6
        edits = threads.submit(herd, commands, env=env, cwd=room.root)
        for times, words in ((2, ["restart", "server:*"]), (3, ["reload"])):
            supervisor.tell(*words)
            supervisor.wait_for("ready", supervisor.servers * times)
        outcomes = edits.result()
    assert not failures(outcomes), explain(outcomes)
    assert supervisor.notes("SIGTERM") == sorted(supervisor.servers * 2)
    assert not re.search("exited:|FATAL", supervisor.log()), supervisor.log()
    assert set(added) <= set(re.findall(r"extra\d", room.project.pyproject.read_text()))


def test_control_servers_of_supervisord(room: _Room) -> None:
    supervisor = _Supervisor(room, 8, room.env("0.7.8", shimmed=False))
    wait_until(lambda: len(supervisor.notes("ready")) + len(supervisor.endings()) == 8, 200, supervisor.log)
    assert len(supervisor.notes("ready")) < 7, supervisor.log()
