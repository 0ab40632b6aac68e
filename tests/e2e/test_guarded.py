"""Which calls take the lock: `uv upgrade`, those with an unknown option, what UV_MUTEX_ALSO names, old `--isolated`."""

from __future__ import annotations

import fcntl
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.herd import explain, failures, herd
from support.index import LocalIndex
from support.project import Project, run
from support.uvs import PINNED_NEWEST
from support.wheels import make_wheel

from uv_mutex.errors import TIMED_OUT

_ALSO = "lock init pip export no-such"


@contextmanager
def _held(lock: Path) -> Iterator[None]:
    """Hold a lock that a call has created before."""
    with lock.open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture
def project(project_factory: Callable[..., Project], index: LocalIndex) -> Project:
    """A project with one dependency."""
    make_wheel(index.folder, "part0", "1.0")
    return project_factory(dependencies=["part0"])


def _call(project: Project, uv_version: str, words: str, **extra: str) -> subprocess.CompletedProcess[bytes]:
    return run(project, ["uv", *words.split()], {**project.env(uv_version), **extra})


@pytest.mark.parametrize(
    ("uv_version", "words", "also"),
    [
        (PINNED_NEWEST, "upgrade part0", ""),
        (PINNED_NEWEST, "--project . upgrade", ""),
        ("0.5.31", "run --isolated true", ""),
        ("0.7.8", "--isolated run true", ""),
        ("newest", "--sorcery sync", ""),
        ("0.5.31", "--sorcery=x sync", ""),
        ("newest", "-Z run true", ""),
        ("newest", "sync --sorcery", ""),
        ("newest", "run --sorcery x true", ""),
        ("0.7.8", "run -qZ true", ""),
        ("newest", "run --sorcery=true", ""),
        ("newest", "add --sorcery part0", ""),
        ("newest", "version --sorcery", ""),
        ("newest", "lock", _ALSO),
        ("0.5.31", "-q lock --upgrade", _ALSO),
        ("newest", "--sorcery lock", _ALSO),
        ("newest", "pip list", _ALSO),
        ("newest", "init --directory . sub", _ALSO),
        ("newest", "no-such", _ALSO),
    ],
)
def test_takes_the_lock(project: Project, uv_version: str, words: str, also: str) -> None:
    assert _call(project, uv_version, "sync").returncode == 0
    with _held(project.root / ".uv-mutex/lock"):
        done = _call(project, uv_version, words, UV_MUTEX_ALSO=also, UV_MUTEX_TIMEOUT="0.2")
    assert done.returncode == TIMED_OUT, done
    assert done.stdout == b""
    # And where the lock is free, the call does what it does without the shim.
    done = _call(project, uv_version, words, UV_MUTEX_ALSO=also)
    bare = run(project, ["uv", *words.split()], project.env(uv_version, shimmed=False))
    assert (done.returncode, done.stdout) == (bare.returncode, bare.stdout) or words.startswith("init")
    if done.returncode and not words.startswith("init"):
        assert done.stderr == bare.stderr


@pytest.mark.parametrize(
    ("uv_version", "words", "also"),
    [
        ("newest", "run --isolated true", ""),
        ("0.8.24", "run --isolated true", ""),
        ("0.7.8", "run --isolated --frozen true", ""),
        ("newest", "lock", ""),
        ("newest", "pip list", "lock init"),
        ("newest", "lock --help", "lock"),
        ("newest", "--sorcery pip list", ""),
        ("newest", "upgrade --help", ""),
        ("newest", "version", ""),
        ("newest", "lock --project ../other", _ALSO),
    ],
)
def test_takes_no_lock(project: Project, uv_version: str, words: str, also: str) -> None:
    assert _call(project, uv_version, "sync").returncode == 0
    other = project.root.parent / "other"
    other.mkdir()
    (other / "pyproject.toml").write_text(project.pyproject.read_text())
    with _held(project.root / ".uv-mutex/lock"):
        done = _call(project, uv_version, words, UV_MUTEX_ALSO=also, UV_MUTEX_TIMEOUT="0.2")
    bare = run(project, ["uv", *words.split()], project.env(uv_version, shimmed=False))
    assert (done.returncode, done.stdout) == (bare.returncode, bare.stdout)
    assert b"uv-mutex" not in done.stderr


def test_an_option_that_uv_hides_is_no_riddle(project: Project) -> None:
    """The table lacks none of them today; so leave it one to ask uv about."""
    program = (
        "import os, sys\n"
        "from uv_mutex.uv import executable\n"
        "asked = [('sync', '--sorcery'), ('sync', '--no-exact'), ('run', '--max-recursion-depth'), ('', '--project')]\n"
        "print(*(executable.option_takes_value(sys.argv[1], *each) for each in asked))\n"
    )
    env = project.env("newest") | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    done = run(project, [project.python, "-c", program, env["PATH"].split(":")[1] + "/uv"], env)
    assert done.stdout.split() == [b"None", b"False", b"True", b"True"], done.stderr.decode()


def test_isolated_of_an_old_uv_updates_the_lockfile_under_the_lock(project: Project, index: LocalIndex) -> None:
    make_wheel(index.folder, "part1")
    assert _call(project, "0.7.8", "add part1 --frozen").returncode == 0
    done = run(project, ["uv", "run", "--isolated", "python", "-c", "import part0, part1"], project.env("0.7.8"))
    assert done.returncode == 0, done.stderr.decode()
    assert {package["name"] for package in _locked(project)} == {"demo", "part0", "part1"}
    assert not project.venv.exists()


def _locked(project: Project) -> list[dict[str, str]]:
    packages: list[dict[str, str]] = tomllib.loads((project.root / "uv.lock").read_text())["package"]
    return packages


_UPGRADES = 8


def _upgrade_all(index: LocalIndex, project_factory: Callable[..., Project], *, shimmed: bool) -> int:
    """Upgrade each of some pinned dependencies, all at once; return how many are upgraded then."""
    names = [f"part{number}" for number in range(_UPGRADES)]
    for name in names:
        make_wheel(index.folder, name, "1.0")
        make_wheel(index.folder, name, "2.0")
    project = project_factory(dependencies=[f"{name}==1.0" for name in names])
    env = project.env(PINNED_NEWEST, shimmed=shimmed)
    assert run(project, ["uv", "sync"], env).returncode == 0
    outcomes = herd([["uv", "upgrade", name] for name in names], env=env, cwd=project.root)
    assert not shimmed or not failures(outcomes), explain(outcomes)
    return project.pyproject.read_text().count("==2.0")


@pytest.mark.serial
def test_eight_upgrades_keep_all(index: LocalIndex, project_factory: Callable[..., Project]) -> None:
    assert _upgrade_all(index, project_factory, shimmed=True) == _UPGRADES


@pytest.mark.serial
def test_control_eight_upgrades(index: LocalIndex, project_factory: Callable[..., Project]) -> None:
    assert _upgrade_all(index, project_factory, shimmed=False) < _UPGRADES
