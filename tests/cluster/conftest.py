"""Fixtures of the tests on several hosts."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.container import Container
from support.gluster import Volume
from support.host import Host
from support.index import LocalIndex
from support.nfs import NfsCluster
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

#: By what the hosts share a folder: GlusterFS with the file system's own lock or, on clients that have none, with a
#: lease; NFS, by its options; and containers on one machine, which share it by bind mounts.
GLUSTERFS, LEASE = "glusterfs", "glusterfs without flock"
CONTAINERS = "containers"
NFS_4, NFS_3, NFS_3_NOLOCK = "vers=4.2", "vers=3", "vers=3,nolock"


def over(*file_systems: str) -> pytest.MarkDecorator:
    """Run a test on these; without it, a test of two hosts runs on all but NFSv3."""
    return pytest.mark.parametrize("file_system", file_systems, indirect=True)


over_all = over(GLUSTERFS, NFS_4, NFS_3, LEASE, CONTAINERS)
over_nfs = over(NFS_4, NFS_3)


class _Scheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Tests go to any worker, but those over NFS to one: their kernels boot once for a session."""

    def _split_scope(self, nodeid: str) -> str:
        return "nfs" if "vers=" in nodeid else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> _Scheduling | None:
    """Serve `--dist loadgroup`: with pytest 9.2, xdist 3.8 itself does not see the groups."""
    return _Scheduling(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.fixture
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Volume]]:
    """Serves volumes (see Volume) that end with the test."""
    served: list[Volume] = []

    def serve(**options: bool) -> Volume:
        served.append(Volume(tmp_path_factory.mktemp("volume"), **options))
        return served[-1]

    yield serve
    for volume in served:
        volume.close()


@pytest.fixture(scope="session")
def nfs_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NfsCluster]:
    """An NFS server and two clients, booted once."""
    folder = Path(tempfile.mkdtemp(prefix="nfs-"))  # not below pytest's own, which root alone may enter
    folder.chmod(0o755)
    try:
        cluster = NfsCluster(folder, writable=[tmp_path_factory.getbasetemp()])
        yield cluster
        cluster.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def contain(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Container]]:
    """Starts containers (see Container) that share a folder; they end with the test."""
    folder = Path(tempfile.mkdtemp(prefix="containers-"))  # not below pytest's own, which root alone may enter
    folder.chmod(0o755)
    started: list[Container] = []
    index: LocalIndex | None = request.getfixturevalue("index") if "index" in request.fixturenames else None

    def contain(name: str, **options: Any) -> Container:
        seen = [tmp_path_factory.getbasetemp()]
        started.append(Container(name, folder, **{"index": index, "seen": seen, **options}))
        return started[-1]

    try:
        yield contain
    finally:
        for container in started:
            container.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=[GLUSTERFS, NFS_4, LEASE, CONTAINERS])
def file_system(request: pytest.FixtureRequest) -> str:
    """What the hosts share a folder by."""
    kind: str = request.param
    return kind


@pytest.fixture
def backend(file_system: str) -> str:
    """The kind of lock that it leads to."""
    return "lease" if file_system == LEASE or "nolock" in file_system else "flock"


@pytest.fixture
def own_paths() -> bool:
    """Whether each host sees a GlusterFS volume at its own path; a parameter of tests that have one of this name."""
    return False


@pytest.fixture
def pair(request: pytest.FixtureRequest, file_system: str, own_paths: bool) -> Iterator[Sequence[Host]]:
    """Two hosts that share a folder."""
    if file_system == CONTAINERS:
        contain: Callable[..., Container] = request.getfixturevalue("contain")
        prefix = request.getfixturevalue("shim").prefix
        yield [contain(name, own_paths=own_paths, prefix=prefix) for name in ("host-a", "host-b")]
        return
    if not file_system.startswith("vers="):
        volume: Volume = request.getfixturevalue("serve")()
        flock = file_system != LEASE
        yield [volume.host(name, flock=flock, own_paths=own_paths) for name in ("host-a", "host-b")]
        return
    cluster: NfsCluster = request.getfixturevalue("nfs_cluster")
    index = request.getfixturevalue("index") if "index" in request.fixturenames else None
    yield cluster.pair(file_system, index)
    cluster.release()
