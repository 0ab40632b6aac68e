"""Users on two hosts share a project over NFS, with the rights that the server gives them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from cluster.conftest import over_nfs
from support.herd import Outcome, explain, failures, herd
from support.host import Host, project_on
from support.index import LocalIndex
from support.nfs import NfsCluster
from support.users import ALICE, BOB, GROUP, ROOT, acting_as, everybodys_python, install_for_everybody
from support.uvs import uv
from support.wheels import make_wheel

pytestmark = over_nfs

NAMES = [f"pkg-{number}" for number in range(6)]
UMASK = "002"


@pytest.fixture
def project(pair: Sequence[Host], index: LocalIndex) -> str:
    """A project that a group shares."""
    for name in NAMES:
        make_wheel(index.folder, name)
    name = project_on(pair[0], "demo", index_url=index.url)
    root = pair[0].path(name)
    pair[0].ask("sh", "-c", f"chown -R {ALICE}:{GROUP} {root} && chmod 2775 {root} && chmod 664 {root}/*")
    return name


def uvs(cluster: NfsCluster, hosts: Sequence[Host], users: Sequence[int], project: str, *calls: str) -> list[Outcome]:
    """Run uv with each of some words, by turns on the hosts, and on each as another user."""
    prefix = cluster.folder / "everybody"
    if not prefix.exists():
        install_for_everybody(prefix)
        shutil.copy(uv("newest"), prefix / "uv")
    commands = []
    for number, words in enumerate(calls):
        host, user = hosts[number % 2], users[number % 2]
        env = host.env(
            "newest",
            PATH=f"{prefix}/bin:{prefix}:/usr/bin:/bin",
            UV_PYTHON=everybodys_python(),
            UV_CACHE_DIR=f"{host.local}/cache/{user}",
        )
        commands.append(host.enter(acting_as(user, ["uv", *words.split()], UMASK), env=env, cwd=host.path(project)))
    return herd(commands, env={}, cwd=Path("/"))


def test_two_users_of_a_group(pair: Sequence[Host], nfs_cluster: NfsCluster, project: str) -> None:
    outcomes = uvs(nfs_cluster, pair, (ALICE, BOB), project, *["sync"] * 6)
    assert not failures(outcomes), explain(outcomes)
    lock = pair[0].path(f"{project}/.uv-mutex/lock")
    assert pair[1].ask("stat", "-c", "%a %g", lock).split() == ["664", str(GROUP)]
    outcomes = uvs(nfs_cluster, pair, (ALICE, BOB), project, *(f"add {name}" for name in NAMES))
    assert not failures(outcomes), explain(outcomes)
    pair[0].ask("ls", pair[0].path(project))
    text = pair[0].read(f"{project}/pyproject.toml")
    assert all(f'"{name}>=' in text for name in NAMES)


def test_root_is_nobody(pair: Sequence[Host], nfs_cluster: NfsCluster, project: str) -> None:
    """A server that gives root no rights, as most do, and a folder that everybody may write."""
    pair[0].ask("chmod", "-R", "a+rwX", pair[0].path(project))
    nfs_cluster.export("root_squash")
    try:
        outcomes = uvs(nfs_cluster, pair, (ROOT, ROOT), project, *(f"add {name}" for name in NAMES))
        assert not failures(outcomes), explain(outcomes)
        text = pair[0].read(f"{project}/pyproject.toml")
    finally:
        nfs_cluster.export("no_root_squash")
    assert all(f'"{name}>=' in text for name in NAMES)
