"""Jobs of one machine, each with a TMPDIR or a /tmp of its own: the locks of uv, which lie there, keep nobody out.

Batch systems give each job a TMPDIR, systemd's PrivateTmp each service a /tmp. What they find is an environment that
was made elsewhere: by another image, on the host of a container, or before Python was upgraded. So each replaces it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from support import need
from support.container import kept_in_tmp
from support.herd import Outcome, explain, failures, herd, read_log
from support.index import LocalIndex
from support.namespaces import own_tmp
from support.project import Project, run
from support.uvs import PINNED_NEWEST
from support.wheels import make_wheel

JOBS = 12
PACKAGES = [f"pkg-{number}" for number in range(20)]
FILES = 100
WORDS = ["uv", "run", "python", "-c", "; ".join(f"import pkg_{number}; pkg_{number}.check()" for number in range(20))]
#: Where the Python of the other image is, and not here.
ELSEWHERE = Path("/opt/elsewhere/bin/python3")

OWN_TMPDIR, PRIVATE_TMP, ONE_TMPDIR = "a TMPDIR each", "PrivateTmp", "one TMPDIR"
#: Ways to start a job, by its number and environment.
Start = Callable[[int, dict[str, str]], list[str]]


@pytest.fixture
def project(project_factory: Callable[..., Project], index: LocalIndex) -> Project:
    """A locked project of twenty packages of a hundred files: no more than a small data project has."""
    for name in PACKAGES:
        make_wheel(index.folder, name, files=FILES)
    return project_factory(dependencies=PACKAGES)


@pytest.fixture
def start(request: pytest.FixtureRequest, project: Project, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """How a job gets its own folder for temporary files."""

    def with_tmpdir(number: int, env: dict[str, str]) -> list[str]:
        folder = project.root.parent / f"tmp-{number if request.param == OWN_TMPDIR else 0}"
        folder.mkdir(exist_ok=True)
        return clean({**env, "TMPDIR": str(folder)})

    def with_private_tmp(_: int, env: dict[str, str]) -> list[str]:
        script = own_tmp(kept_in_tmp(tmp_path_factory.getbasetemp().parent)) + 'cd "$0" && exec "$@"'
        return ["unshare", "--mount", "sh", "-ec", script, str(project.root), *clean(env)]

    if request.param != PRIVATE_TMP:
        return with_tmpdir
    need.root()
    need.executable("unshare")
    return with_private_tmp


def clean(env: Mapping[str, str]) -> list[str]:
    """The command line of a job, with just this environment block."""
    return ["env", "-i", *(f"{name}={value}" for name, value in env.items()), *WORDS]


@pytest.fixture
def stale(project: Project) -> Callable[[str], None]:
    """Makes the environment one that was made where Python lies elsewhere."""

    def make(uv_version: str) -> None:
        done = run(project, ["uv", "sync"], project.env(uv_version, shimmed=False))
        assert done.returncode == 0, done.stderr.decode()
        python = project.venv / "bin/python"
        python.unlink()
        python.symlink_to(ELSEWHERE)

    return make


def jobs(project: Project, start: Start, uv_version: str, *, shimmed: bool, **extra: str) -> list[Outcome]:
    """All jobs at once."""
    env = project.env(uv_version, shimmed=shimmed, **extra)
    return herd([start(number, env) for number in range(JOBS)], env=dict(os.environ), cwd=project.root)


controls = pytest.mark.parametrize(
    ("start", "uv_version"),
    [
        (OWN_TMPDIR, "0.7.8"),
        (OWN_TMPDIR, PINNED_NEWEST),
        (PRIVATE_TMP, PINNED_NEWEST),
        pytest.param(OWN_TMPDIR, "newest", marks=pytest.mark.newest),
    ],
    indirect=["start"],
)


@controls
def test_control_each_replaces_the_environment_of_another(
    project: Project, stale: Callable[[str], None], start: Start, uv_version: str
) -> None:
    """In nearly each round most fail."""
    failed = []
    for _ in range(3):
        stale(uv_version)
        outcomes = jobs(project, start, uv_version, shimmed=False)
        failed.append(len(failures(outcomes)))
        print(explain(outcomes))
        if failed[-1] > JOBS // 4:
            return
    raise AssertionError(f"of {JOBS} jobs only {failed} failed")


@pytest.mark.parametrize("start", [ONE_TMPDIR], indirect=True)
def test_control_one_folder_for_all(project: Project, stale: Callable[[str], None], start: Start) -> None:
    """It is the folder that matters: with one for all, the newest uv replaces the environment once."""
    stale(PINNED_NEWEST)
    outcomes = jobs(project, start, PINNED_NEWEST, shimmed=False)
    assert not failures(outcomes), explain(outcomes)


@pytest.mark.parametrize(
    ("start", "uv_version"),
    [(OWN_TMPDIR, "0.7.8"), (OWN_TMPDIR, "newest"), (PRIVATE_TMP, "newest")],
    indirect=["start"],
)
def test_one_replaces_it_for_all(
    project: Project, stale: Callable[[str], None], start: Start, uv_version: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    for number in range(1, 3):
        stale(uv_version)
        outcomes = jobs(project, start, uv_version, shimmed=True, UV_MUTEX_LOG=str(log))
        assert not failures(outcomes), explain(outcomes)
        assert sum(line["prepared"] for line in read_log(log)) == number
