"""Users of one machine share a project, with the rights that they have."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from support import need
from support.herd import Outcome, explain, failures, herd, read_log
from support.index import LocalIndex
from support.journal import Journal
from support.project import Project
from support.terminal import wait_until
from support.users import ALICE, BOB, GROUP, ROOT, acting_as, everybodys_python, install_for_everybody
from support.uvs import uv
from support.wheels import make_wheel


class Machine:
    """A folder that everybody sees, with a uv, a shim and a project."""

    def __init__(self, folder: Path, index: LocalIndex) -> None:
        need.root()
        need.executable("setpriv")
        self.folder = folder
        #: The kind of lock that all users ask for; empty for the one that the file system has.
        self.backend = ""
        folder.chmod(0o755)
        shutil.copy(uv("newest"), folder / "uv")
        install_for_everybody(folder / "shim")
        for user in (ROOT, ALICE, BOB):
            home = folder / f"home-{user}"
            home.mkdir()
            os.chown(home, user, GROUP)
        self.journal = Journal(folder / "journal")
        self.journal.path.touch()
        self.journal.path.chmod(0o666)
        (folder / "log").touch()
        (folder / "log").chmod(0o666)
        Project.make(folder / "demo", index_url=index.url, backend_source=self.journal.backend)

    @property
    def project(self) -> Path:
        """The project's folder."""
        return self.folder / "demo"

    @property
    def lock(self) -> Path:
        """The project's lock."""
        return self.project / ".uv-mutex/lock"

    def own(self, user: int, mode: int) -> None:
        """Give the project to a user (and the group), its folder with this mode."""
        for path in [self.project, *self.project.rglob("*")]:
            os.lchown(path, user, GROUP)
        self.project.chmod(mode)
        if mode & 0o020:
            for path in self.project.glob("*.*"):
                path.chmod(0o664)

    def command(self, user: int, words: Sequence[str], umask: str = "022", **extra: str) -> list[str]:
        """A command line that runs another as a user."""
        env = {
            "PATH": f"{self.folder}/shim/bin:{self.folder}:/usr/bin:/bin",
            "HOME": f"{self.folder}/home-{user}",
            "UV_CACHE_DIR": f"{self.folder}/home-{user}/cache",
            "UV_PYTHON": everybodys_python(),
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_MUTEX_LOG": f"{self.folder}/log",
            "UV_MUTEX_LOG_ARGS": "1",
            "UV_MUTEX_BACKEND": self.backend,
            **extra,
        }
        return ["env", "-i", *(f"{name}={value}" for name, value in env.items()), *acting_as(user, words, umask)]

    def herd(self, *commands: list[str]) -> list[Outcome]:
        """Run them at once, in the project."""
        return herd(commands, env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, cwd=self.project)

    def run(self, user: int, words: Sequence[str], **extra: str) -> Outcome:
        """Run one command, in the project."""
        (outcome,) = self.herd(self.command(user, words, **extra))
        return outcome


@pytest.fixture
def machine(index: LocalIndex) -> Iterator[Machine]:
    """A machine without any environment yet."""
    folder = Path(tempfile.mkdtemp(prefix="users-"))
    try:
        yield Machine(folder, index)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def waits(machine: Machine, holder: int, waiter: int, umask: str = "022") -> None:
    """While one user builds, another waits for it; both end well, and nobody was inside together."""
    go, said, before = machine.folder / "go", machine.folder / "said", len(machine.journal.entries())
    words = ["uv", "sync", "--reinstall-package", "demo"]
    command = machine.command(holder, words, umask, BUILD_SECONDS="100", BUILD_UNTIL=str(go))
    holding = subprocess.Popen(command, cwd=machine.project, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: len(machine.journal.entries()) > before)
        with said.open("wb") as file:
            command = machine.command(waiter, ["uv", "sync"], umask)
            waiting = subprocess.Popen(command, cwd=machine.project, stderr=file)
        wait_until(lambda: b"uv-mutex: waiting for uv sync (pid " in said.read_bytes(), explain=said.read_text)
        assert [entry.what for entry in machine.journal.entries()[before:]] == ["enter"]
    finally:
        go.touch()
    _, complaints = holding.communicate(timeout=60)
    assert holding.returncode == 0, complaints.decode()
    assert waiting.wait(60) == 0, said.read_text()
    go.unlink()
    # It says so after two seconds.
    assert max(line["waited"] for line in read_log(machine.folder / "log")) >= 2


@pytest.mark.parametrize(("umask", "backend"), [("002", ""), ("022", ""), ("002", "lease")])
def test_two_users_of_a_group(machine: Machine, index: LocalIndex, umask: str, backend: str) -> None:
    machine.backend = backend
    machine.own(ROOT, 0o2775)
    names = [f"pkg-{number}" for number in range(10)]
    for name in names:
        make_wheel(index.folder, name)
    outcomes = machine.herd(*(machine.command(user, ["uv", "sync"], umask) for user in (ALICE, BOB) * 4))
    assert not failures(outcomes), explain(outcomes)
    assert machine.lock.stat().st_mode & 0o777 == 0o664
    assert machine.lock.stat().st_gid == GROUP
    waits(machine, machine.project.joinpath(".venv").stat().st_uid, ALICE, umask)
    waits(machine, machine.project.joinpath(".venv").stat().st_uid, BOB, umask)
    if umask == "002":  # otherwise the environment can be written by one of them alone
        outcomes = machine.herd(
            *(
                machine.command(user, ["uv", "add", name], umask)
                for user, name in zip((ALICE, BOB) * 5, names, strict=True)
            )
        )
        assert not failures(outcomes), explain(outcomes)
        text = (machine.project / "pyproject.toml").read_text()
        assert all(f'"{name}>=' in text for name in names)


@pytest.mark.parametrize(("first", "second", "backend"), [(ROOT, ALICE, ""), (ALICE, ROOT, ""), (ALICE, ROOT, "lease")])
def test_root_and_a_user(machine: Machine, first: int, second: int, backend: str) -> None:
    machine.backend = backend
    machine.own(ALICE, 0o755)
    for user in (first, second):
        done = machine.run(user, ["uv", "sync"])
        assert done.returncode == 0, done.stderr.decode()
    waits(machine, first, second)
    done = machine.run(second, ["uv", "run", "python", "-c", "import demo"])
    assert done.returncode == 0, done.stderr.decode()


def test_the_lease_of_another_user_who_was_killed(machine: Machine) -> None:
    machine.backend = "lease"
    machine.own(ROOT, 0o2775)
    command = machine.command(ALICE, ["uv", "sync"], "002", BUILD_SECONDS="60")
    holding = subprocess.Popen(command, cwd=machine.project)
    inside = machine.journal.wait(lambda entry: entry.what == "enter", timeout=60)
    marker = machine.lock.with_name("lock.lease")
    assert (marker.stat().st_uid, marker.stat().st_mode & 0o777) == (ALICE, 0o664)
    os.kill(inside.shim, signal.SIGKILL)
    holding.wait()
    assert marker.exists()
    began = time.monotonic()
    (done,) = machine.herd(machine.command(BOB, ["uv", "sync"], "002"))
    assert done.returncode == 0, done.stderr.decode()
    assert time.monotonic() - began < 20, "a lease would take 30 s to end"
    assert not marker.exists()


def test_project_that_one_may_write(machine: Machine) -> None:
    machine.own(ALICE, 0o755)
    done = machine.run(ALICE, ["uv", "sync"])
    assert done.returncode == 0, done.stderr.decode()
    holding = subprocess.Popen(
        machine.command(ALICE, ["uv", "sync", "--reinstall-package", "demo"], BUILD_SECONDS="5"), cwd=machine.project
    )
    try:
        machine.journal.wait(lambda entry: len(machine.journal.entries()) == 3 and entry.what == "enter", timeout=60)
        done = machine.run(BOB, ["uv", "run", "--frozen", "true"])  # uv itself waits for the other uv
        assert b"uv-mutex" not in done.stderr
    finally:
        assert holding.wait() == 0
    assert {line["command"] for line in read_log(machine.folder / "log")} == {
        "uv sync",
        "uv sync --reinstall-package demo",
    }


def test_what_nobody_may_write_needs_no_lock(machine: Machine) -> None:
    machine.own(ROOT, 0o755)
    done = machine.run(ROOT, ["uv", "sync"])
    assert done.returncode == 0, done.stderr.decode()
    shutil.rmtree(machine.lock.parent)
    machine.project.chmod(0o555)
    (machine.folder / "log").write_text("")
    outcomes = machine.herd(*[machine.command(BOB, ["uv", "run", "python", "-c", "import demo"])] * 5)
    assert not failures(outcomes), explain(outcomes)
    assert not machine.lock.parent.exists()
    assert not read_log(machine.folder / "log")


@pytest.mark.serial  # the limit counts what other tests run as this user
def test_with_few_processes_uv_run_works_as_often_as_without_the_shim(machine: Machine) -> None:
    """Under the shim, uv needs one more, and does without. How many it needs is not always the same."""
    machine.own(ALICE, 0o755)
    assert machine.run(ALICE, ["uv", "sync"], UV_MUTEX="off").returncode == 0
    script = 'ulimit -u "$0" && exec uv run sh -c "exec echo ran"'

    def calls(limit: int, **extra: str) -> list[Outcome]:
        (machine.project / "uv.lock").touch()  # not fresh
        return [machine.run(ALICE, ["bash", "-c", script, str(limit)], **extra) for _ in range(4)]

    ran, said = Counter[str](), b""
    for limit in range(3, 12):
        for mode in ("off", "on"):
            outcomes = calls(limit, UV_MUTEX=mode)
            ran[mode] += sum(done.stdout == b"ran\n" for done in outcomes)
            said += b"".join(done.stderr for done in outcomes)
    print(said.decode(errors="replace"))
    assert ran["off"] > 10
    assert ran["on"] >= ran["off"] - 4
    assert b"uv-mutex: warning: too few processes for " in said
    assert b"; allow more (ulimit -u), or try again; this call goes on without a lock\n" in said
    assert b"Traceback" not in said
    done = calls(2, UV_MUTEX="require")[0]
    assert done.returncode == 2
    assert done.stderr.endswith(b"; UV_MUTEX=require asks for the lock, unset it to do without\n")
