"""The next call undoes what a killed one left half done, in the environment that it worked on, and nothing else."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.index import LocalIndex
from support.project import Project, run
from support.wheels import make_wheel

from uv_mutex.locking.owner import LockOwner

#: A folder without __init__.py can be imported as well, but has no file.
_IMPORT = ["python", "-c", "import alpha; assert alpha.__file__"]


@pytest.fixture
def project(project_factory: Callable[..., Project], index: LocalIndex) -> Project:
    """A project whose environment is fresh."""
    make_wheel(index.folder, "alpha", "1.0")
    project = project_factory(dependencies=["alpha"])
    for _ in range(2):
        assert _call(project, "run", *_IMPORT).returncode == 0
    return project


def _call(project: Project, *words: str, environment: str = ".venv") -> subprocess.CompletedProcess[bytes]:
    return run(project, ["uv", *words], project.env("newest", UV_PROJECT_ENVIRONMENT=environment))


def _begin(project: Project) -> None:
    """Write down an owner, as a call does that dies before it has released the lock."""
    owner = LockOwner(4711, "elsewhere", time.time(), "uv sync")
    (project.root / ".uv-mutex/lock").write_bytes(owner.encode())


def _take_away(project: Project) -> Path:
    """Remove a module, as a uv does that is killed while it takes the package away."""
    (module,) = (path for path in project.venv.glob("lib/python*/site-packages/alpha*") if path.suffix != ".dist-info")
    for path in module.rglob("*.py") if module.is_dir() else [module]:
        path.unlink()
    return module


def test_a_package_that_was_being_taken_away(project: Project) -> None:
    """Although the note of the environment is fresh."""
    _begin(project)
    _take_away(project)
    assert _call(project, "run", *_IMPORT).returncode == 0
    assert not (project.root / ".uv-mutex/lock").read_bytes()


def test_control_without_a_dead_owner_it_stays_away(project: Project) -> None:
    _take_away(project)
    assert _call(project, "run", *_IMPORT).returncode == 1


def test_what_was_slimmed_before_the_call_died_stays(project: Project) -> None:
    _take_away(project)
    time.sleep(0.1)
    _begin(project)
    assert _call(project, "run", *_IMPORT).returncode == 1


def test_the_environment_of_the_dead_call(project: Project, tmp_path: Path) -> None:
    """The next call works on another one."""
    _begin(project)
    _take_away(project)
    assert _call(project, "sync", environment=str(tmp_path / "other")).returncode == 0
    assert not [*project.venv.glob("lib/python*/site-packages/alpha*.dist-info")]
    assert _call(project, "run", *_IMPORT).returncode == 0
