"""What the shim leaves in a project never reaches git, nor a build."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from support import need
from support.project import Project, run
from support.wheels import project_table

_BACKENDS = {
    "uv_build": ("uv_build", "uv_build"),
    "setuptools": ("setuptools", "setuptools.build_meta"),
    "flit": ("flit_core>=3.12", "flit_core.buildapi"),
    "pdm": ("pdm-backend", "pdm.backend"),
    "hatchling": ("hatchling", "hatchling.build"),
}
# How this machine reaches the real index.
_WAY_OUT = {
    **{name: value for name, value in os.environ.items() if name.lower() in ("http_proxy", "https_proxy", "no_proxy")},
    "UV_SYSTEM_CERTS": "1",
}
# README.md gives both: hatchling reads no .gitignore but the root's.
_EXCLUDE = '[tool.hatch.build.targets.sdist]\nexclude = ["/.uv-mutex"]\n'
_IGNORE = ".uv-mutex/\n"


def git(folder: Path, *words: str) -> str:
    """Run git with a configuration of nobody's."""
    config = {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CEILING_DIRECTORIES": str(folder.parent),
    }
    identity = ["-c", "user.name=test", "-c", "user.email=test@test"]
    done = subprocess.run(
        [need.executable("git"), *identity, *words],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **config},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" or words[0] != "status", done.stderr
    return done.stdout


def untracked(folder: Path) -> set[str]:
    """What `git status` shows, file by file."""
    return set(git(folder, "status", "--porcelain", "--untracked-files=all").splitlines())


def begin(project: Project, folder: Path | None = None) -> Path:
    """Put a project under git as its maker would."""
    folder = folder or project.root
    git(folder, "init", "-q")
    (folder / ".gitignore").write_text(".venv/\n")
    git(folder, "add", "--all")
    git(folder, "commit", "-q", "-m", "begin")
    return folder


@pytest.mark.parametrize("backend", ["flock", "lease"])
def test_git_status_shows_nothing(backend: str, project_factory: Callable[..., Project]) -> None:
    project = project_factory()
    begin(project)
    for words in (["sync"], ["run", "true"], ["run", "true"], ["version", "--bump", "patch"]):
        done = run(project, ["uv", *words], project.env("newest", UV_MUTEX_BACKEND=backend))
        assert done.returncode == 0, done.stderr.decode()
        assert untracked(project.root) <= {"?? uv.lock", " M pyproject.toml"}
    assert (project.root / ".uv-mutex/lock").exists()
    git(project.root, "add", "--all")
    assert ".uv-mutex" not in git(project.root, "ls-files")


def test_git_status_shows_nothing_beside_an_environment(
    project_factory: Callable[..., Project], tmp_path: Path
) -> None:
    """The lock of an environment elsewhere lies there."""
    project = project_factory()
    there = tmp_path / "there"
    (there / "envs").mkdir(parents=True)
    (there / "file").touch()
    begin(project, there)
    env = project.env("newest", UV_PROJECT_ENVIRONMENT=str(there / "envs/one"))
    assert run(project, ["uv", "sync"], env).returncode == 0
    assert (there / "envs/.uv-mutex/one.lock").exists()
    assert {line for line in untracked(there) if "envs/one/" not in line} == set()


def test_git_status_shows_nothing_after_a_kill(project_factory: Callable[..., Project]) -> None:
    """Killed at every one of the system calls that make the folder, and mended by the next call."""
    project = project_factory()
    begin(project)
    env = project.env("newest")
    folder = project.root / ".uv-mutex"
    log = project.root.parent / "strace"
    strace = [need.executable("strace"), "-qq", "-y", "-o", str(log)]
    shim = ["uv", "run", "true"]
    assert run(project, [*strace, *shim], env).returncode == 0
    counts: Counter[str] = Counter()
    points = []
    for line in log.read_text().splitlines():
        name = line.partition("(")[0]
        counts[name] += 1
        # Reads are counted over all files, and the mount table takes more or fewer of them.
        if str(folder) in line and name not in ("execve", "read"):
            points.append((name, counts[name]))
    assert {"mkdir", "openat"} <= {name for name, _ in points}, points
    killed = 0
    for name, number in points:
        for path in (folder, project.venv):
            shutil.rmtree(path)
        done = run(project, [*strace, "-e", f"inject={name}:signal=KILL:when={number}", *shim], env)
        # A call that polls one time less may end before it comes to the last of them.
        assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
        killed += done.returncode != 0
        where = "".join(log.read_text().splitlines(keepends=True)[-6:])
        assert not {line for line in untracked(project.root) if "uv-mutex" in line}, where
        assert run(project, shim, env).returncode == 0
        assert (folder / ".gitignore").read_bytes().endswith(b"*\n"), where
        left = {path.name for path in project.root.iterdir() if "uv-mutex" in path.name}
        assert left == {".uv-mutex"}, where  # nothing beside it, which no .gitignore would cover
    assert killed > 0.8 * len(points), (killed, points)


def build(project: Project, backend: str, *, toml: str = "", ignore: str = "") -> set[str]:
    """Build an sdist, and a wheel from it and from the tree; return what they hold, without the first folder."""
    requirement, module = _BACKENDS[backend]
    with project.pyproject.open("a") as file:
        file.write(f'\n[build-system]\nrequires = ["{requirement}"]\nbuild-backend = "{module}"\n{toml}')
    if ignore:
        (project.root / ".gitignore").write_text(ignore)
    package = project.root / "src/demo"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""A demo."""\n')
    env = project.env("newest") | _WAY_OUT
    held: set[str] = set()
    for words in (["sync"], ["run", "true"], ["build"], ["build", "--wheel", "--out-dir", "dist/direct"]):
        done = run(project, ["uv", *words], env)
        assert done.returncode == 0, done.stderr.decode()
        assert (project.root / ".uv-mutex/lock").exists()
    for sdist in project.root.glob("dist/*.tar.gz"):
        with tarfile.open(sdist) as archive:
            held |= {name.partition("/")[2] for name in archive.getnames()}
    for wheel in project.root.glob("dist/**/*.whl"):
        with zipfile.ZipFile(wheel) as zipped:
            held |= set(zipped.namelist())
    assert {"src/demo/__init__.py", "demo/__init__.py"} <= held
    return {name for name in held if "uv-mutex" in name}


@pytest.fixture
def packaged(project_factory: Callable[..., Project]) -> Project:
    """A project whose backend can come from the real index."""
    project = project_factory()
    project.pyproject.write_text(project_table(project.name, "0.1.0") + 'description = "A demo"\n')
    return project


@pytest.mark.network
@pytest.mark.parametrize("backend", ["uv_build", "setuptools", "flit", "pdm"])
def test_builds_leave_it_out(backend: str, packaged: Project) -> None:
    assert build(packaged, backend) == set()


@pytest.mark.newest
@pytest.mark.network
def test_hatchling_leaves_it_out_of_wheels_but_not_of_sdists(packaged: Project) -> None:
    """If this fails, hatchling has learned to read nested .gitignore files: README.md can drop a paragraph."""
    names = (re.sub(r"gate\.\w+", "gate", name) for name in build(packaged, "hatchling"))
    assert {name for name in names if not name.endswith("backend")} == {
        ".uv-mutex/.gitignore",
        f".uv-mutex/calls.{os.uname().nodename}",
        ".uv-mutex/gate",
        ".uv-mutex/lock",
    }


@pytest.mark.network
@pytest.mark.parametrize("way", [{"toml": _EXCLUDE}, {"ignore": _IGNORE}])
def test_hatchling_as_readme_says(way: dict[str, str], packaged: Project) -> None:
    assert build(packaged, "hatchling", **way) == set()
