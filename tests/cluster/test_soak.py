"""The soak, short."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from cluster.soak import soak
from support.gluster import Volume
from support.index import LocalIndex

SECONDS = float(os.environ.get("UV_MUTEX_SOAK_SECONDS") or (300 if os.environ.get("CI") == "true" else 60))


@pytest.mark.timeout(SECONDS + 300)
# Most of the time goes to the kind of lock that most clusters have.
@pytest.mark.parametrize(("backend", "share"), [("flock", 2 / 3), ("lease", 1 / 3)])
def test_soak(serve: Callable[..., Volume], index: LocalIndex, backend: str, share: float) -> None:
    report = soak(serve(), index, flock=backend == "flock", seconds=SECONDS * share, seed=0)
    print(report)
    assert report.kills > 0
    assert report.builds > 0
    assert not report.violations, str(report)
