"""Two hosts share a project over GlusterFS or NFS, or two containers: with the file system's own lock, or a lease."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from cluster.conftest import CONTAINERS, GLUSTERFS, LEASE, NFS_3, NFS_3_NOLOCK, NFS_4, over, over_nfs
from support.herd import Outcome, explain, failures, herd
from support.host import Host, calls, preparations, project_on, remove_tree
from support.index import LocalIndex
from support.uvs import PINNED_NEWEST
from support.wheels import make_wheel, slow_backend

# Up to 30 rounds.
pytestmark = pytest.mark.timeout(900)

two_versions = pytest.mark.parametrize("uv_version", ["0.7.8", "newest"])
controls = pytest.mark.parametrize(
    "uv_version", ["0.7.8", PINNED_NEWEST, pytest.param("newest", marks=pytest.mark.newest)]
)
over_gluster = over(GLUSTERFS, LEASE)
over_most = over(GLUSTERFS, LEASE, CONTAINERS)
RUNS_EACH = 8
ADDS_EACH, ADDS_EACH_OVER_NFS = 10, 6
EDITS = 8


@pytest.fixture
def project(pair: Sequence[Host], index: LocalIndex) -> str:
    """A locked project of twelve packages."""
    names = ["alpha", "beta", "gamma", "delta", "epsilon", *(f"more-{number}" for number in range(7))]
    for name in names:
        make_wheel(index.folder, name, files=20)
    path = project_on(pair[0], "demo", dependencies=names, index_url=index.url)
    done = pair[0].run(["uv", "lock"], pair[0].env("newest", shimmed=False), path)
    assert done.returncode == 0, done.stderr.decode()
    return path


def runs(hosts: Sequence[Host], project: str, uv_version: str, *, shimmed: bool, **env: str) -> list[Outcome]:
    """Some `uv run` on each host at once, in a project without environment."""
    root = hosts[1].path(project)
    hosts[1].run(["ls", "-la", root, f"{root}/.venv", f"{root}/.venv/bin"])  # so that it has something to remember
    remove_tree(hosts[0], f"{project}/.venv")
    words = ["uv", "run", "python", "-c", "import alpha, beta, gamma, delta, epsilon as last; last.check()"]
    commands = [
        host.enter(words, env=host.env(uv_version, shimmed=shimmed, **env), cwd=host.path(project)) for host in hosts
    ]
    return herd(commands * RUNS_EACH, env={}, cwd=Path("/"))


def adds(
    hosts: Sequence[Host], index: LocalIndex, uv_version: str, *, each: int = ADDS_EACH, shimmed: bool
) -> tuple[int, list[Outcome]]:
    """Some `uv add` on each host at once; how many of them pyproject.toml has then."""
    names = [f"pkg-{number}" for number in range(each * len(hosts))]
    for name in names:
        make_wheel(index.folder, name)
    project = project_on(hosts[0], "growing", index_url=index.url)
    commands = [
        host.enter(["uv", "add", name], env=host.env(uv_version, shimmed=shimmed), cwd=host.path(project))
        for name, host in zip(names, [*hosts] * each, strict=True)
    ]
    outcomes = herd(commands, env={}, cwd=Path("/"))
    text = hosts[0].read(f"{project}/pyproject.toml")
    return sum(f'"{name}>=' in text for name in names), outcomes


def recorded_backend(host: Host, project: str) -> str:
    """The kind of lock that a project uses."""
    return host.read(f"{project}/.uv-mutex/backend").strip()


def one_prepares_for_all(pair: Sequence[Host], project: str, uv_version: str, rounds: int) -> None:
    """In each round one call prepares, and none fails."""
    for number in range(1, rounds + 1):
        outcomes = runs(pair, project, uv_version, shimmed=True)
        assert not failures(outcomes), f"round {number}: {explain(outcomes)}"
        assert preparations(pair) == number
    assert {line["host"] for line in calls(pair)} == {"host-a", "host-b"}


@over_most
@two_versions
def test_run_prepares_once_for_all_hosts(
    pair: Sequence[Host], file_system: str, backend: str, project: str, uv_version: str
) -> None:
    one_prepares_for_all(pair, project, uv_version, rounds=10 if file_system == GLUSTERFS else 3)
    assert recorded_backend(pair[0], project) == backend


@over(NFS_4, NFS_3, NFS_3_NOLOCK)
def test_run_prepares_once_over_nfs(pair: Sequence[Host], file_system: str, backend: str, project: str) -> None:
    one_prepares_for_all(pair, project, "newest", rounds=1 if file_system == NFS_3_NOLOCK else 2)
    assert recorded_backend(pair[0], project) == backend


@over(NFS_3_NOLOCK)
def test_control_flock_that_stays_on_its_host(pair: Sequence[Host], project: str) -> None:
    """Two hosts have the lock at once, and those who see it give up; unless one is done before the other begins."""
    for _ in range(4):
        outcomes = runs(pair, project, "newest", shimmed=True, UV_MUTEX_BACKEND="flock")
        print(explain(outcomes))
        if any(b"uv-mutex: lost the lock " in outcome.stderr for outcome in failures(outcomes)):
            return
    raise AssertionError("none saw it")


@pytest.mark.parametrize("own_paths", [True])
@over(GLUSTERFS, CONTAINERS)
def test_hosts_see_the_project_at_two_paths(pair: Sequence[Host], project: str) -> None:
    assert pair[0].mount != pair[1].mount
    outcomes = runs(pair, project, "newest", shimmed=True)
    assert not failures(outcomes), explain(outcomes)


@over_gluster
@controls
def test_run_fails_without_the_shim(pair: Sequence[Host], project: str, uv_version: str) -> None:
    assert any(failures(runs(pair, project, uv_version, shimmed=False)) for _ in range(30))


def all_adds_are_kept(pair: Sequence[Host], index: LocalIndex, uv_version: str, each: int = ADDS_EACH) -> None:
    """Each of many `uv add` at once is in pyproject.toml, uv.lock and the environment."""
    kept, outcomes = adds(pair, index, uv_version, each=each, shimmed=True)
    assert not failures(outcomes), explain(outcomes)
    assert kept == len(outcomes)
    project, bare = "growing", pair[1].env(uv_version, shimmed=False)
    done = pair[1].run(["uv", "lock", "--check"], bare, project)
    assert done.returncode == 0, done.stderr.decode()
    done = pair[1].run(["uv", "pip", "list", "--python", ".venv", "--format", "json"], bare, project)
    assert len(json.loads(done.stdout)) == len(outcomes), done.stderr.decode()


@over_most
@two_versions
def test_every_add_is_kept(pair: Sequence[Host], backend: str, index: LocalIndex, uv_version: str) -> None:
    all_adds_are_kept(pair, index, uv_version)
    assert recorded_backend(pair[0], "growing") == backend


@over_nfs
def test_every_add_is_kept_over_nfs(pair: Sequence[Host], index: LocalIndex) -> None:
    all_adds_are_kept(pair, index, "newest", ADDS_EACH_OVER_NFS)


@over_most
@controls
def test_adds_are_lost_without_the_shim(pair: Sequence[Host], index: LocalIndex, uv_version: str) -> None:
    kept, outcomes = adds(pair, index, uv_version, shimmed=False)
    assert kept < len(outcomes)


@over(NFS_4)
def test_adds_are_lost_without_the_shim_over_nfs(pair: Sequence[Host], index: LocalIndex) -> None:
    kept, outcomes = adds(pair, index, PINNED_NEWEST, each=ADDS_EACH_OVER_NFS, shimmed=False)
    print(f"{kept} of {len(outcomes)} are kept")
    assert kept < len(outcomes)


@over_most
def test_runs_beside_edits(pair: Sequence[Host], index: LocalIndex) -> None:
    """An edit waits for the other host's uv, which checks once more when `uv run` has given the lock back."""
    project = project_on(pair[0], "edited", index_url=index.url, backend_source=slow_backend(0.05))
    commands = []
    for number in range(EDITS):
        make_wheel(index.folder, f"pkg-{number}")
        host, other = pair[:: 1 if number % 2 else -1]
        for words, where in ((["add", f"pkg-{number}"], host), (["version", "--bump", "patch"], other)):
            commands += [
                each.enter(["uv", *call], env=each.env("0.7.8"), cwd=each.path(project))
                for each, call in ((where, words), (host, ["run", "true"]))
            ]
    outcomes = herd(commands, env={}, cwd=Path("/"))
    assert not failures(outcomes), explain(outcomes)
    text = pair[0].read(f"{project}/pyproject.toml")
    assert f'version = "0.1.{EDITS}"' in text
    assert all(f'"pkg-{number}>=' in text for number in range(EDITS))
