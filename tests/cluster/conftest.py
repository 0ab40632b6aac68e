"""Fixtures of the tests on several hosts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from support.gluster import Host, Volume


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


@pytest.fixture(params=["flock", "lease"])
def backend(request: pytest.FixtureRequest) -> str:
    """The kind of lock that a volume leads to."""
    kind: str = request.param
    return kind


@pytest.fixture
def own_paths() -> bool:
    """Whether each host sees the volume at a path of its own; a test's parameter, if it has one of this name."""
    return False


@pytest.fixture
def pair(serve: Callable[..., Volume], backend: str, own_paths: bool) -> list[Host]:
    """Two hosts that share a volume."""
    volume = serve()
    return [volume.host(name, flock=backend == "flock", own_paths=own_paths) for name in ("host-a", "host-b")]
