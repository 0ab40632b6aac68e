"""`uv check` brings the environment up to date as `uv run` does, and then starts the ty that it finds there."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.herd import Outcome, explain, failures, herd, read_log
from support.index import LocalIndex
from support.project import Project, run
from support.uvs import PINNED_NEWEST
from support.wheels import make_wheel

from uv_mutex.errors import TIMED_OUT

_CALLS = 24
_VERSION = '[ "$1" = check ] || exec echo ty 0.0.99'
_WORDS = ["uv", "check", "-q", "--preview-features", "check-command"]


@pytest.fixture
def project(project_factory: Callable[..., Project], index: LocalIndex) -> Project:
    """A project with packages that take uv a while to install, and its own ty, which finds its files or fails."""
    names = [f"part{number}" for number in range(12)]
    for name in names:
        make_wheel(index.folder, name, files=40, data_files=40)
    make_wheel(index.folder, "ty", "0.0.99", files=40, data_files=40, scripts=["ty"])
    return project_factory(dependencies=names, extra_toml='[dependency-groups]\ndev = ["ty"]\n')


def _call(project: Project, *words: str, shimmed: bool = True, **extra: str) -> subprocess.CompletedProcess[bytes]:
    return run(project, [*_WORDS, *words], project.env(PINNED_NEWEST, shimmed=shimmed, **extra))


def _at_once(project: Project, *, shimmed: bool, **extra: str) -> list[Outcome]:
    """Check the project many times at once, each with a TMPDIR of its own, where uv's own locks lie."""
    commands = []
    for number in range(_CALLS):
        temporary = project.root.parent / f"tmp{number}"
        temporary.mkdir(exist_ok=True)
        commands.append(["env", f"TMPDIR={temporary}", *_WORDS])
    return herd(commands, env=project.env(PINNED_NEWEST, shimmed=shimmed, **extra), cwd=project.root)


@pytest.mark.serial
def test_many_checks_prepare_once(project: Project, index: LocalIndex, tmp_path: Path) -> None:
    log = tmp_path / "log"
    outcomes = _at_once(project, shimmed=True, UV_MUTEX_LOG=str(log))
    assert not failures(outcomes), explain(outcomes)
    assert [line["prepared"] for line in read_log(log)].count(True) == 1
    assert set(index.downloads.values()) == {1}


@pytest.mark.serial
def test_control_many_checks(project: Project) -> None:
    for _ in range(8):
        if failures(_at_once(project, shimmed=False)):
            return
        shutil.rmtree(project.venv)
    pytest.fail("no call failed")


@pytest.mark.parametrize("words", [[], ["--package", "demo", "--fix"], ["--no-install-project"], ["--sorcery"]])
def test_takes_the_lock(project: Project, words: list[str]) -> None:
    assert _call(project).returncode == 0
    with (project.root / ".uv-mutex/lock").open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert _call(project, *words, UV_MUTEX_TIMEOUT="0.2").returncode == TIMED_OUT
    shimmed, bare = (_call(project, *words, shimmed=shimmed) for shimmed in (True, False))
    assert (shimmed.returncode, shimmed.stdout, shimmed.stderr) == (bare.returncode, bare.stdout, bare.stderr)


@pytest.mark.parametrize("words", [["--no-sync"], ["--isolated"], ["--help"], ["--no-project", "--ty-version", "x"]])
def test_takes_no_lock(project: Project, words: list[str]) -> None:
    assert _call(project).returncode == 0
    with (project.root / ".uv-mutex/lock").open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        shimmed = _call(project, *words, UV_MUTEX_TIMEOUT="0.2")
    bare = _call(project, *words, shimmed=False)
    assert (shimmed.returncode, shimmed.stdout, shimmed.stderr) == (bare.returncode, bare.stdout, bare.stderr)


def test_a_fresh_check_prepares_nothing_and_holds_no_lock(project: Project, tmp_path: Path) -> None:
    log = tmp_path / "log"
    for words in ([], [], ["--fix"], ["--upgrade"]):
        assert _call(project, *words, UV_MUTEX_LOG=str(log)).returncode == 0
    assert [line["prepared"] for line in read_log(log)] == [True, False, False, True]
    # What it starts can run for long; it finds the lock free.
    ty = project.venv / "bin/ty"
    ty.write_text(f"#!/bin/sh\n{_VERSION}\nexec flock -n .uv-mutex/lock true\n")
    assert _call(project).returncode == 0


def test_a_check_that_finds_faults_is_fresh_all_the_same(project: Project, tmp_path: Path) -> None:
    assert _call(project).returncode == 0
    (project.venv / "bin/ty").write_text(f"#!/bin/sh\n{_VERSION}\nexit 1\n")
    log = tmp_path / "log"
    for _ in range(3):
        assert _call(project, UV_MUTEX_LOG=str(log)).returncode == 1
    assert [line["prepared"] for line in read_log(log)].count(True) <= 1


def test_checks_of_a_script_prepare_its_environment_once(index: LocalIndex, project: Project, tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    lines = [f"dependencies = {json.dumps(['ty', 'part0'])}", "[[tool.uv.index]]", f'url = "{index.url}"']
    script.write_text("\n".join(["# /// script", *(f"# {line}" for line in [*lines, "default = true"]), "# ///", ""]))
    log = tmp_path / "log"
    env = project.env(PINNED_NEWEST, UV_MUTEX_LOG=str(log))
    outcomes = herd([[*_WORDS, "--script", "s.py"]] * 8, env=env, cwd=tmp_path)
    assert not failures(outcomes), explain(outcomes)
    assert [line["prepared"] for line in read_log(log)].count(True) == 1
