"""A folder is one folder by whatever path: a symlink to it, or a bind mount of it. Its lock is one lock."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import need
from support.index import LocalIndex
from support.project import Project, run
from support.terminal import wait_until
from support.wheels import make_wheel

#: The project lies in "demo"; "other" is another path of that folder.
_WAYS = {
    "environment by the real path": ("demo", "uv sync --project {base}/other", "UV_PROJECT_ENVIRONMENT", "demo"),
    "environment by the other path": ("demo", "uv sync", "UV_PROJECT_ENVIRONMENT", "other"),
    "both by the other path": ("other", "uv sync", "UV_PROJECT_ENVIRONMENT", "other"),
    "active, by the real path": ("demo", "uv run --active --project {base}/other true", "VIRTUAL_ENV", "demo"),
    "active, by the other path": ("demo", "uv add --active alpha", "VIRTUAL_ENV", "other"),
}


@pytest.fixture
def project(project_factory: Callable[..., Project], index: LocalIndex) -> Project:
    """A project; one package is to be had."""
    make_wheel(index.folder, "alpha")
    return project_factory()


@pytest.fixture(params=["symlink", "bind mount"])
def enter(request: pytest.FixtureRequest, project: Project) -> str:
    """The beginning of a shell script, after which "other" is another path of the project. realpath shows no mount."""
    base = project.root.parent
    if request.param == "symlink":
        (base / "other").symlink_to("demo")
        return ""
    need.root()
    (base / "other").mkdir()
    return f"mount --bind {shlex.quote(str(project.root))} {shlex.quote(str(base / 'other'))} && "


def _script(enter: str, command: str) -> list[str]:
    return ["unshare", "--mount", "sh", "-c", enter + command] if enter else ["sh", "-c", command]


@pytest.mark.parametrize("way", _WAYS)
def test_a_call_does_not_wait_for_itself(project: Project, enter: str, way: str) -> None:
    base = project.root.parent
    cwd, command, variable, above = _WAYS[way]
    assert run(project, ["uv", "sync"], project.env("newest")).returncode == 0
    env = {**project.env("newest", UV_MUTEX_TIMEOUT="5"), variable: f"{base}/{above}/.venv"}
    done = run(project, _script(enter, f"cd {base}/{cwd} && {command.format(base=base)}"), env, timeout=60)
    assert done.returncode == 0, done.stderr.decode()


def test_one_call_at_a_time_by_two_paths(project: Project, enter: str, tmp_path: Path) -> None:
    env = project.env("newest", UV_MUTEX_TIMEOUT="0.3")
    with subprocess.Popen(["uv-mutex", "exec", "--", "cat"], env=env, cwd=project.root, stdin=-1) as holder:
        lock = project.root / ".uv-mutex/lock"
        wait_until(lambda: lock.exists() and lock.read_bytes())
        done = run(project, _script(enter, f"cd {tmp_path}/other && uv sync"), env, timeout=60)
        assert done.returncode == 75, done.stderr.decode()
        holder.communicate()
    assert run(project, _script(enter, f"cd {tmp_path}/other && uv sync"), env, timeout=60).returncode == 0


def test_the_environments_of_two_projects_crosswise(project: Project, project_factory: Callable[..., Project]) -> None:
    """Each adds to the environment of the other, while a third call has let both begin to wait."""
    other = project_factory("second", name="second")
    for each in (project, other):
        assert run(each, ["uv", "sync"], each.env("newest")).returncode == 0
    gate = subprocess.Popen(
        ["uv-mutex", "exec", "--", "cat"], env=other.env("newest"), cwd=other.root, stdin=subprocess.PIPE
    )
    wait_until((other.root / ".uv-mutex/lock").read_bytes)
    both = []
    for here, there in ((other, project), (project, other)):
        env = here.env("newest", VIRTUAL_ENV=str(there.venv), UV_MUTEX_TIMEOUT="20")
        words = ["uv", "add", "--active", "alpha"]
        both.append(subprocess.Popen(words, env=env, cwd=here.root, stdin=subprocess.DEVNULL))
        wait_until(lambda: _waits(both[-1].pid))
    gate.communicate()
    assert [one.wait(60) for one in both] == [0, 0]
    assert all('"alpha' in each.pyproject.read_text() for each in (project, other))


def _waits(pid: int) -> bool:
    """Whether a process waits for a flock, as the kernel sees it."""
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines() if " -> FLOCK" in line]
    return any(int(fields[5]) == pid for fields in lines)
