"""Fixtures of the tests on several hosts."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from support.gluster import Volume
from support.host import Host
from support.nfs import NfsCluster

#: By what the hosts share a folder: GlusterFS with the file system's own lock or, on clients that have none, with a
#: lease; and NFS, by its options. The NFS cluster boots once for a session: all that use it run in one worker.
_NFS = pytest.mark.xdist_group("nfs")
FLOCK = ["glusterfs", pytest.param("vers=4.2", marks=_NFS), pytest.param("vers=3", marks=_NFS)]
LEASE = ["glusterfs without flock"]
over_nfs = pytest.mark.parametrize("file_system", FLOCK[1:], indirect=True)


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


@pytest.fixture(params=[*FLOCK, *LEASE])
def file_system(request: pytest.FixtureRequest) -> str:
    """What the hosts share a folder by."""
    kind: str = request.param
    return kind


@pytest.fixture
def backend(file_system: str) -> str:
    """The kind of lock that it leads to."""
    return "lease" if file_system in LEASE else "flock"


@pytest.fixture
def own_paths() -> bool:
    """Whether each host sees the volume at a path of its own; a test's parameter, if it has one of this name."""
    return False


@pytest.fixture
def pair(request: pytest.FixtureRequest, file_system: str, own_paths: bool) -> Iterator[Sequence[Host]]:
    """Two hosts that share a folder."""
    if not file_system.startswith("vers="):
        volume: Volume = request.getfixturevalue("serve")()
        flock = file_system not in LEASE
        yield [volume.host(name, flock=flock, own_paths=own_paths) for name in ("host-a", "host-b")]
        return
    cluster: NfsCluster = request.getfixturevalue("nfs_cluster")
    index = request.getfixturevalue("index") if "index" in request.fixturenames else None
    yield cluster.pair(file_system, index, own_paths=own_paths)
    cluster.release()
