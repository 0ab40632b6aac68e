"""The rows of the round trips to a file server that a fresh `uv run` adds over NFS.

The kernels are those of the tests (support/nfs.py): a server, and clients in which the calls run.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from support.host import project_on
from support.nfs import NfsCluster
from support.round_trips import added

from bench.row import Row
from bench.workload import Workload

#: Far fewer than elsewhere, since the kernels are slow. The shim's own round trips do not depend on it.
_PACKAGES = 20


def _over(version: str) -> Callable[[Workload, Row], str]:
    """A measurement over this version of NFS, where the client has in memory what the last call read, and has not."""

    def measure(workload: Workload, row: Row) -> str:
        folder = Path(tempfile.mkdtemp(prefix="nfs-"))  # not below the workload's, which root alone may enter
        folder.chmod(0o755)
        cluster = None
        try:
            cluster = NfsCluster(folder)
            host = cluster.pair(f"vers={version}", workload.index)[0]
            names = workload.packages[:_PACKAGES]
            project = project_on(host, "project", dependencies=names, index_url=workload.index.url)
            usual, empty = (added(host, project, rounds=row.rounds, remembers=kept) for kept in (True, False))
            cluster.release()
        finally:
            if cluster:
                cluster.close()
            shutil.rmtree(folder, ignore_errors=True)
        kinds = ", ".join(f"{name} {number:.2g}" for name, number in usual.items())
        return f"{sum(usual.values()):.1f} ({kinds}); with nothing in memory: {sum(empty.values()):.1f}"

    return measure


_WHAT = "round trips that a fresh `uv run true` adds over NFSv{}"
ROWS = (
    Row("nfs", _WHAT.format("4.2"), "<= 8", 5, _over("4.2"), is_usual=False),
    Row("nfs3", _WHAT.format("3"), "<= 8", 5, _over("3"), is_usual=False),
)
