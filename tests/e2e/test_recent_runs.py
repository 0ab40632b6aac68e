"""An edit beside real uvs that have released the lock and still check the environment."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import need
from support.herd import explain, failures, herd, read_log
from support.index import LocalIndex
from support.project import Project, run
from support.terminal import wait_until
from support.uvs import all_versions, uv
from support.wheels import make_wheel

from uv_mutex.locking.lock_file import LockFile
from uv_mutex.records import runs
from uv_mutex.shim import recent_runs

Factory = Callable[..., Project]
_BUMP = ("uv", "version", "--bump", "patch", "--frozen")
_EXEC = ("uv-mutex", "exec", "--", "sh", "-c", 'echo 0 in version >>"$LOG"')


@pytest.fixture
def project(project_factory: Factory, index: LocalIndex) -> Project:
    """A project with a dependency, and a few more packages in its index."""
    for name in ("alpha", "beta", "gamma", "delta", "epsilon"):
        make_wheel(index.folder, name)
    return project_factory(dependencies=["alpha"])


class SlowUv:
    """A real uv that writes down when it begins. As long as it is held up, its `run` and `sync` check nothing yet."""

    def __init__(self, folder: Path, uv_version: str) -> None:
        self.path = folder / "slow-uv"
        self.log = folder / "slow-log"
        self._held_up = folder / "held-up"
        self.path.write_text(
            f"#!/bin/sh\necho $(date +%s.%N) in $1 >>{self.log}\n"
            f"case $1 in run|sync) while [ -e {self._held_up} ]; do sleep 0.02; done\n"
            f"echo 0 checks $1 >>{self.log};; esac\n"
            f'exec {uv(uv_version)} "$@"\n'
        )
        self.path.chmod(0o755)

    @property
    def lines(self) -> list[str]:
        """What was written down, without the times."""
        return [line.partition(" ")[2] for line in self._lines()]

    def time_of(self, line: str) -> float:
        """When a line was written down, in seconds since 1970."""
        return next(float(each.split()[0]) for each in self._lines() if each.endswith(f" {line}"))

    def _lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def forget(self) -> None:
        """Begin a new log."""
        self.log.unlink(missing_ok=True)

    def hold_up(self) -> None:
        """Let the next `run` or `sync` wait until it may go on."""
        self._held_up.touch()

    def go_on(self) -> None:
        """Let it go on."""
        self._held_up.unlink()


@contextmanager
def started(project: Project, words: Sequence[str], env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A command in the project's root, ended in the end."""
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(words, env=env, cwd=project.root, start_new_session=True, **quiet) as running:  # type: ignore[call-overload]
        try:
            yield running
        finally:
            try:
                os.killpg(running.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def fresh(project: Project, env: dict[str, str]) -> None:
    """Bring the environment up to date, for `run` and `sync`."""
    for words in (["uv", "sync"], ["uv", "run", "true"], ["uv", "sync"]):
        done = run(project, words, env)
        assert done.returncode == 0, done.stderr.decode()


def found(project: Project) -> list[runs.Run]:
    """The runs that an edit would find."""
    files = runs.find(str(project.venv), [LockFile(str(project.root))])
    return [each for file in files for each in file.runs()]


def lock_file(project: Project) -> Path:
    """The file of the project's lock, in which its owner stands."""
    return project.root / ".uv-mutex/lock"


def forget_records(project: Project) -> None:
    """Take away what the calls left for the next edit."""
    for file in (project.venv / ".uv-mutex").glob("runs.*"):
        file.unlink()


# --- the uv that still checks, and the edit


@dataclass(frozen=True)
class Beside:
    """A fresh call, an edit that comes while its uv checks, and the kind of their lock."""

    call: str
    edit: tuple[str, ...]
    backend: str = "flock"


@pytest.mark.parametrize(
    "case",
    [
        Beside("run true", _BUMP),
        Beside("sync", _EXEC),
        Beside("run true", _EXEC, "lease"),
        Beside("sync", _BUMP, "lease"),
    ],
    ids=lambda case: f"{case.call.split()[0]}-{case.backend}",
)
@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "control"])
def test_an_edit_waits_for_a_uv_that_checks(case: Beside, recorded: bool, project: Project, tmp_path: Path) -> None:
    """The control takes the record away: then the edit goes in beside the uv."""
    slow = SlowUv(tmp_path, "newest")
    env = project.env("newest", UV_MUTEX_UV=str(slow.path), UV_MUTEX_BACKEND=case.backend, LOG=str(slow.log))
    fresh(project, env)
    slow.forget()
    slow.hold_up()
    words = case.call.split()
    with started(project, ["uv", *words], env) as call:
        wait_until(lambda: slow.lines == [f"in {words[0]}"])
        last = found(project)[-1]
        assert (last.process.pid, last.kind) == (call.pid, words[0])
        if not recorded:
            forget_records(project)
        with started(project, case.edit, env) as edit:
            if recorded:
                wait_until(
                    lambda: f" {edit.pid} ".encode() in b" " + lock_file(project).read_bytes() or edit.poll() == 0
                )
                time.sleep(0.5)
                slow.go_on()
            assert edit.wait(60) == 0
        if not recorded:
            slow.go_on()
        assert call.wait(60) == 0
    checks, edits = (slow.lines.index(line) for line in (f"checks {words[0]}", "in version"))
    assert (checks < edits) == recorded, slow.lines
    assert not list((project.venv / ".uv-mutex").glob("runs.*")), "whoever has waited for all removes them"


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "control"])
def test_in_another_pid_namespace(recorded: bool, project: Project, tmp_path: Path) -> None:
    """The uv has two seconds. An edit that is slow by itself shows nothing, so the control may take more than one."""
    need.root()
    unshare = [need.executable("unshare"), "--pid", "--fork", "--mount-proc"]
    slow = SlowUv(tmp_path, "newest")
    env = project.env("newest", UV_MUTEX_UV=str(slow.path))
    fresh(project, env)
    after = []
    for _ in range(1 if recorded else 5):
        slow.forget()
        slow.hold_up()
        with started(project, [*unshare, "uv", "run", "true"], env) as call:
            wait_until(lambda: slow.lines == ["in run"])
            since = found(project)[-1].time
            if not recorded:
                forget_records(project)
            assert run(project, [*unshare, *_BUMP], env).returncode == 0
            after.append(slow.time_of("in version") - since)
            slow.go_on()
            assert call.wait(60) == 0
        if after[-1] < 1.5:
            break
    assert (after[-1] > 1.9) == recorded, after


def test_a_run_that_prepared_leaves_a_record_too(project: Project) -> None:
    env = project.env("0.7.8")
    with started(project, ["uv", "run", "sleep", "30"], env) as call:
        wait_until(lambda: bool(found(project)))
        assert [(each.process.pid, each.kind) for each in found(project)] == [(call.pid, runs.RUN)]


def test_an_environment_elsewhere_has_its_own_records(project: Project, tmp_path: Path) -> None:
    elsewhere = tmp_path / "far/env"
    env = project.env("newest", UV_PROJECT_ENVIRONMENT=str(elsewhere))
    fresh(project, env)
    assert run(project, ["uv", "run", "true"], env).returncode == 0
    assert len(list((elsewhere / ".uv-mutex").glob("runs.*"))) == 1
    assert not list((project.root / ".uv-mutex").glob("runs.*"))


# --- the command that has started


#: Commands that say when they have started, and whether an edit waits for them until they are a second old: the last
#: one hides its variables. None of them changes once it has said so.
_STARTED = "touch ../started; sleep 30; true"
_COMMANDS: tuple[tuple[tuple[str, ...], bool], ...] = (
    (("sh", "-c", _STARTED), False),
    (("--with", "beta", "sh", "-c", _STARTED), False),
    (("python", "-c", "import time; open('../started', 'w'); time.sleep(30)"), False),
    (("env", "-i", "sh", "-c", _STARTED), True),
    (("uv", "run", "sh", "-c", _STARTED), False),
)


@all_versions
def test_a_command_is_known_when_it_has_started(uv_version: str, project: Project, tmp_path: Path) -> None:
    env = project.env(uv_version, VIRTUAL_ENV=str(project.venv))  # as in an activated shell
    fresh(project, env)
    for words, is_hidden in _COMMANDS:
        with started(project, ["uv", "run", *words], env):
            wait_until((tmp_path / "started").exists)
            assert found(project)
            began = time.monotonic()
            waited = recent_runs.outlast(str(project.venv), [])
            assert is_hidden or not waited, words
            assert time.monotonic() - began < 8, "it would be ten seconds for one that is never noticed"
        (tmp_path / "started").unlink()


def test_tasks_that_prepare_one_after_the_other(project: Project, tmp_path: Path) -> None:
    """Four `uv run --with X CMD` must not start ten seconds apart, nor one after the end of the other."""
    log = tmp_path / "log"
    env = project.env("newest", UV_MUTEX_LOG=str(log))
    fresh(project, env)
    names = ("beta", "gamma", "delta", "epsilon")
    outcomes = herd([["uv", "run", "--with", name, "sleep", "3"] for name in names], env=env, cwd=project.root)
    assert not failures(outcomes), explain(outcomes)
    assert max(line["waited"] for line in read_log(log)) < 9


# --- nothing in the project's own tree


def snapshot(project: Project) -> dict[str, tuple[object, ...]]:
    """Everything in the project's tree but the environment, with its times."""
    answer: dict[str, tuple[object, ...]] = {}
    for folder, names, files in os.walk(project.root):
        if folder == str(project.root):
            names.remove(".venv")
        for path in (folder, *(f"{folder}/{name}" for name in files)):
            state = os.lstat(path)
            digest = hashlib.sha256(Path(path).read_bytes()).hexdigest() if os.path.isfile(path) else ""
            answer[path] = (state.st_mode, state.st_ino, state.st_mtime_ns, state.st_ctime_ns, digest)
    return answer


@all_versions
def test_a_fresh_call_changes_nothing_outside_the_environment(
    uv_version: str, project: Project, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    env = project.env(uv_version, UV_MUTEX_LOG=str(log))
    fresh(project, env)
    before = snapshot(project)
    calls = [["uv", "run", "true"], ["uv", "sync"], ["uv", "run", "python", "-c", "import alpha"]]
    for words in calls:
        assert run(project, words, env).returncode == 0
        assert snapshot(project) == before, words
    lines = read_log(log)[-3:]
    assert [line["command"] for line in lines] == [" ".join(words) for words in calls]
    assert [(line["exit"], line["prepared"]) for line in lines] == [(None, False)] * 3
    # The control: a call that has work to do.
    assert run(project, ["uv", "sync", "--reinstall-package", "alpha"], env).returncode == 0
    assert snapshot(project) != before
